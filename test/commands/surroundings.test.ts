// What a bastion, a container or a CI job may lack: a user name, a home, a working directory, room for what is printed.
import { execFile } from 'node:child_process';
import { chmod, chown, copyFile, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { breakAsInTheIncident, startFleet, type Fleet } from '../fleet/world.ts';
import { program } from '../support/reconcile.ts';

const run = promisify(execFile);

let fleet: Fleet;
let dir: string;

beforeAll(async () => {
  fleet = await startFleet({ nodes: 2 });
  await breakAsInTheIncident(fleet, ['cocoonset-node-2']);
  dir = await mkdtemp(join(tmpdir(), 'surroundings-'));
  await chmod(dir, 0o755);
});
afterAll(async () => {
  await rm(dir, { recursive: true, force: true });
  await fleet?.down();
});

/** What a shell says that runs these words, in which `$RECONCILE` is the program with the config of the fleet. */
async function typed(words: string, env: NodeJS.ProcessEnv = process.env): Promise<{ code: number; out: string }> {
  const reconcile = `${process.execPath} ${program} -c ${fleet.configFile}`;
  const script = `${words.replaceAll('$RECONCILE', reconcile)}; echo "code $?"`;
  const { stdout } = await run('/bin/sh', ['-c', script], { env: { ...env, SSH_AUTH_SOCK: '' } });
  return { code: Number(/code (\d+)\n$/.exec(stdout)?.[1]), out: stdout };
}

test('a full disk behind stderr ends the log, and not the run', async () => {
  const { code, out } = await typed('$RECONCILE -n -v 2>/dev/full');
  expect(code).toBe(2);
  expect(out).toContain('DRIFT: simular/win11:latest is stale on cocoonset-node-2');
});

test.each([
  ['a report', '-n -w cocoonset-node-1 -o json', 1],
  ['an inventory', 'nodes', 1],
  ['a report of drift, which has its own exit code', '-n -o json', 2],
])('a full disk behind stdout is said, and is never 0: %s', async (_, words, expected) => {
  const { code, out } = await typed(
    `$RECONCILE ${words} 2>&1 >/dev/full | grep written; $RECONCILE ${words} >/dev/full 2>&1`,
  );
  expect(out).toContain('reconcile: the output could not be written (ENOSPC)');
  expect(code).toBe(expected);
});

test('a reader that has read enough ends the output, and not the run', async () => {
  const { out } = await typed(
    '{ $RECONCILE -n -w cocoonset-node-1 -o json; echo "it was $?" >&2; } 2>&1 >/dev/null | head -n 1',
  );
  expect(out).toMatch(/^it was 0\n/);
});

test('a working directory that is gone is no hindrance', async () => {
  const { code } = await typed(`mkdir ${dir}/gone && cd ${dir}/gone && rmdir ${dir}/gone && $RECONCILE -n 2>&1`);
  expect(code).toBe(2);
});

test.skipIf(process.getuid?.() !== 0)('a user without a name, a home or a place for state is none either', async () => {
  const own = join(dir, 'own');
  await mkdir(own, { mode: 0o755 });
  const text = await readFile(fleet.configFile, 'utf8');
  const files = [...new Set(text.match(/\/[^\s"]+(?:id_ed25519|known_hosts)\b/g))];
  let config = text.replace(/\n?"?run"?:.*$/ms, '');
  for (const [i, file] of files.entries()) {
    await copyFile(file, join(own, `file-${i}`));
    await chown(join(own, `file-${i}`), 12_345, 12_345);
    config = config.replaceAll(file, join(own, `file-${i}`));
  }
  await writeFile(join(own, 'c.yaml'), config);
  const as = 'setpriv --reuid 12345 --regid 12345 --clear-groups env -i PATH=/usr/bin:/bin';
  const { code, out } = await typed(`${as} ${process.execPath} ${program} -n -c ${own}/c.yaml 2>&1`);
  expect(out).toContain('nothing is remembered from one run to the next');
  expect(code).toBe(2);
});
