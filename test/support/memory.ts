// How much memory a run of the real command takes at its peak.
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { start, type Run } from './reconcile.ts';

/**
 * Runs the program to its end. The peak is the kernel's own (VmHWM): `maxRSS` would be at least that of the process
 * which started it.
 * @param dir for small files
 */
export async function withPeak(dir: string, args: string[]): Promise<Run & { peakBytes: number }> {
  const hook = join(dir, 'peak.mjs');
  const file = join(dir, 'peak');
  const copy = `fs.writeFileSync(${JSON.stringify(file)}, fs.readFileSync('/proc/self/status'))`;
  await writeFile(hook, `import fs from 'node:fs';\nprocess.on('exit', () => ${copy});\n`);
  const ran = await start(args, { env: { NODE_OPTIONS: `--import=${hook}` } }).ended;
  const [, kibibytes] = /^VmHWM:\s+(\d+) kB$/m.exec(await readFile(file, 'utf8')) ?? [];
  return { ...ran, peakBytes: Number(kibibytes) * 1024 };
}
