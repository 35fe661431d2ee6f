// What a node's cocoon does while it is looked at, and what is left of the look afterwards: no process and no file, whether
// the probe comes to its end, its connection dies, or all that it started refuses to. On real sshd.
import { execFile } from 'node:child_process';
import { mkdir, readdir, readFile, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Report } from '../../src/core/model/report.ts';
import { makeQcow2 } from '../doubles/cocoon/fixtures.ts';
import { startFleet, type Fleet, type FleetNode, type NodeSpec } from '../fleet/world.ts';
import { cutConnections, firstOn, isRoot, strays, until } from '../support/guard.ts';
import { imageOn, nodeOf, report, start } from '../support/reconcile.ts';

const run = promisify(execFile);

/** Ignores every signal that can be ignored, and so does what it starts. */
const DEAF = 'trap "" HUP INT QUIT USR1 USR2 PIPE TERM';

/** What some cocoon does in the place of `cocoon version`. */
const ODD = {
  floods: 'exec yes',
  'floods-one-line': "exec tr '\\0' x </dev/zero",
  hangs: 'exec sleep 600',
  forks: 'sleep 600 & echo "Version:        v0.3.8"; exit',
  deaf: `${DEAF}; while :; do sleep 600; done`,
  'deaf-and-floods': `${DEAF}; while :; do echo x; done`,
};
/** What some cocoon does in the place of `cocoon image list`, on a SQLite store. */
const ODD_LISTS = { 'list-floods': 'exec yes', 'list-forks': `${DEAF}; sleep 600 & exit 1` };
/** Whose list is still being read when something dies. */
const HANGING = ['cut', 'cut-sudo', 'guard-killed'];
/** Directories for temporary files that are of no use. */
const TEMPS = ['full', 'closed', 'missing', 'a-file'];
/** Those that only root can make, with the options of their file system. */
const MOUNTS = { full: 'size=8k', closed: 'ro' };
const unmounted = new Set<string>();

let fleet: Fleet;
let dry: Report;
const tempOf = (name: string): string => join('/tmp', `reconcile-ends-${process.pid}`, name);

/** A cocoon in the place of the node's that does this for `words`, and all else as before. */
async function make(node: FleetNode, words: string, does: string): Promise<string> {
  const binary = join(node.dir, 'bin', 'odd');
  const text = `#!/bin/sh\ncase " $* " in *" ${words} "*) ${does} ;; esac\nexec '${node.binary}' "$@"\n`;
  await writeFile(binary, text, { mode: 0o755 });
  return binary;
}

async function gone(name: string): Promise<void> {
  const none = async (): Promise<boolean> => (await strays(fleet.node(name))).length === 0;
  await until(`no process left on ${name}`, none, 5_000);
}

beforeAll(async () => {
  const specs: NodeSpec[] = ['fine', ...Object.keys(ODD)].map((name) => ({ name }));
  const sqlite = ['fine-sqlite', ...Object.keys(ODD_LISTS), ...HANGING, ...TEMPS].map((name): NodeSpec => ({
    name,
    store: 'sqlite',
    sshd: { env: { TMPDIR: tempOf(name) } },
  }));
  fleet = await startFleet({ nodes: [...specs, ...sqlite] });
  await fleet.epoch.pushImage('simular/win11', 'latest', { content: makeQcow2({ seed: 'May' }) });
  for (const { name } of sqlite) {
    if (name !== 'missing' && name !== 'a-file') await mkdir(tempOf(name ?? ''), { recursive: true });
  }
  for (const node of fleet.nodes) await node.pull(`${fleet.epoch.url}/dl/simular/win11`);
  await writeFile(tempOf('a-file'), '');
  for (const [name, options] of Object.entries(MOUNTS)) {
    const mounted = run('mount', ['-t', 'tmpfs', '-o', options, 'tmpfs', tempOf(name)]);
    await mounted.catch(() => unmounted.add(name));
  }
  const binaries: Record<string, string> = {};
  for (const [name, does] of Object.entries(ODD)) binaries[name] = await make(fleet.node(name), 'version', does);
  for (const [name, does] of Object.entries(ODD_LISTS)) {
    binaries[name] = await make(fleet.node(name), 'image list', does);
  }
  for (const name of HANGING) binaries[name] = await make(fleet.node(name), 'image list', `${DEAF}; sleep 600`);
  const operator = isRoot ? (await fleet.createOperator()).name : undefined;
  await fleet.writeConfig({
    nodes: fleet.nodes.map(({ name, host, port, binary, rootDir, runDir, logDir }) => ({
      name,
      host,
      port,
      rootDir,
      runDir,
      logDir,
      binary: binaries[name] ?? binary,
      ...(name === 'cut-sudo' && operator !== undefined ? { user: operator } : {}),
    })),
  });
  dry = await report(fleet, '--dry-run', '--timeout', '60s', ...HANGING.flatMap((name) => ['-w', `!${name}`]));
});
afterAll(async () => {
  for (const name of Object.keys(MOUNTS)) if (!unmounted.has(name)) await run('umount', [tempOf(name)]);
  await fleet?.down();
  await run('rm', ['-rf', tempOf('')]);
});

describe('a cocoon whose version never ends costs its own node some seconds, and leaves nothing', () => {
  test.each(['fine', ...Object.keys(ODD)])('%s', async (name) => {
    await gone(name);
    expect(nodeOf(dry, name)).toMatchObject({ status: 'observed', error: null });
    expect(imageOn(dry, name).verdict).toBe('in-sync');
  });
});

describe('nor does one whose lists never end, on a private copy of its store', () => {
  test.each(['fine-sqlite', ...Object.keys(ODD_LISTS)])('%s', async (name) => {
    await gone(name);
    expect(await readdir(tempOf(name))).toEqual([]);
    expect(nodeOf(dry, name).status).toBe(name === 'fine-sqlite' ? 'observed' : 'unreadable');
  });
});

describe('a store whose private copy cannot be made is not said to be broken', () => {
  test.each([
    ['full', 'NO_SPACE', /No space left on device/],
    ['closed', 'NODE_PERMISSION_DENIED', /Read-only file system|Permission denied/],
    ['missing', 'NODE_TEMP_UNUSABLE', /No such file or directory/],
    ['a-file', 'NODE_TEMP_UNUSABLE', /Not a directory/],
  ])('%s: %s, in the words of what failed, and where', (name, code, said) => {
    if (unmounted.has(name)) return;
    const { status, error } = nodeOf(dry, name);
    expect([status, error?.code]).toEqual(['unreadable', code]);
    expect(error?.message).toContain(tempOf(name));
    expect(error?.message).toMatch(said);
    expect(error?.hint).toMatch(/TMPDIR .*the store is not at fault/);
  });
});

describe('nothing outlives the connection', () => {
  const lists = (name: string) => async (): Promise<boolean> =>
    (await strays(fleet.node(name))).some((process) => process.includes('image list'));

  test.each(['cut', 'cut-sudo'])('where it is cut in the middle of a list: %s', async (name) => {
    const { child, ended } = start(['-c', fleet.configFile, '-n', '-w', name]);
    await until('a list', lists(name));
    await cutConnections(fleet);
    child.kill('SIGTERM');
    await ended;
    await gone(name);
    expect(await readdir(tempOf(name))).toEqual([]);
  });

  test('and what a probe left that was killed itself, the next one removes', async () => {
    const node = fleet.node('guard-killed');
    const { child, ended } = start(['-c', fleet.configFile, '-n', '-w', node.name]);
    await until('a list', lists(node.name));
    const parent = await firstOn(node, 'timeout');
    process.kill(Number(await readFile(`/proc/${parent}/task/${parent}/children`, 'utf8')), 'SIGKILL');
    child.kill('SIGTERM');
    await ended;
    await gone(node.name);
    const [left = ''] = await readdir(tempOf(node.name));
    expect(left).toMatch(/^cocoon-reconcile-probe\.\d+\.[0-9a-f]{16}$/);
    const old = new Date(Date.now() - 3_600_000);
    await utimes(join(tempOf(node.name), left), old, old);
    await make(node, 'image list', ':');
    expect(nodeOf(await report(fleet, '-n', '-w', node.name), node.name).status).toBe('observed');
    expect(await readdir(tempOf(node.name))).toEqual([]);
  });
});
