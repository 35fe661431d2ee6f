// Commands of a node that are seen, or replaced, before the system's own: by a directory of its own in the PATH.
import { chmod, mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { NodeSpec } from '../fleet/world.ts';

const SYSTEM = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

/** What makes sessions on a node of a fleet under `dir` look there first. */
export function shadowed(dir: string, name: string): Pick<NodeSpec, 'name' | 'sshd'> {
  return { name, sshd: { env: { PATH: `${shadowDir(dir, name)}:${SYSTEM}` } } };
}

/** Where they are. */
export function shadowDir(dir: string, name: string): string {
  return join(dir, 'nodes', name, 'shadow');
}

/** Puts a script before a command; `"$real" "$@"` in it is what was asked for. Null takes it away. */
export async function shadow(dir: string, name: string, command: string, script: string | null): Promise<void> {
  const file = join(shadowDir(dir, name), command);
  await mkdir(shadowDir(dir, name), { recursive: true });
  if (script === null) return await rm(file, { force: true });
  await writeFile(file, `#!/bin/sh\nreal=$(PATH=${SYSTEM}; command -v ${command})\n${script}\n`);
  await chmod(file, 0o755);
}

/** Counts every call of `sha256sum` there from now on. */
export async function watchHashing(dir: string, name: string): Promise<() => Promise<string[]>> {
  const log = join(shadowDir(dir, name), 'hashed.log');
  const priority = `nice=$(cut -d ' ' -f 19 /proc/$$/stat) $(ionice -p $$ | cut -d : -f 1)`;
  await shadow(dir, name, 'sha256sum', `echo "${priority}" >>'${log}'\nexec "$real" "$@"`);
  await writeFile(log, '');
  return async () => {
    const lines = (await readFile(log, 'utf8')).split('\n').filter((line) => line !== '');
    await writeFile(log, '');
    return lines;
  };
}
