// What is written from the program's own tables: loads them, and writes or compares the file that they make.
import { build } from 'esbuild';
import { readFile, writeFile } from 'node:fs/promises';

export const root = new URL('../..', import.meta.url).pathname;

/**
 * What a module of the program exports.
 * @param entry its text, with paths from the root of the project
 * @param external what of its imports is not to be loaded
 */
export async function load(entry, external = []) {
  const { outputFiles } = await build({
    stdin: { contents: entry, resolveDir: root },
    absWorkingDir: root,
    bundle: true,
    format: 'esm',
    platform: 'node',
    external,
    banner: { js: "import { createRequire } from 'node:module'; const require = createRequire('file:///');" },
    write: false,
    logLevel: 'warning',
  });
  return await import(`data:text/javascript;base64,${Buffer.from(outputFiles[0].contents).toString('base64')}`);
}

/** Writes the file; with --check it only compares, and the process fails where it is not as wanted. */
export async function settle(file, wanted, script) {
  if (!process.argv.includes('--check')) return await writeFile(`${root}${file}`, wanted);
  if ((await readFile(`${root}${file}`, 'utf8').catch(() => '')) === wanted) return;
  process.stderr.write(`${file} is not current: run node scripts/${script}\n`);
  process.exitCode = 1;
}
