// The canary VM: a clone that is seen running and is gone afterwards, whatever happens in between.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmod, cp, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { ErrorInfo } from '../../src/core/model/error.ts';
import type { LeftoverRow } from '../../src/core/model/report.ts';
import { breakAsInTheIncident, startFleet, type Fleet, type FleetNode, type Incident } from '../fleet/world.ts';
import { cutConnections, firstOn, guard, isLocked, lockFile, strays, until, LOGINS } from '../support/guard.ts';
import { imageOn, parseReport, report, start, type Run, type Started } from '../support/reconcile.ts';

const DRIFTED = ['cocoonset-node-1', 'cocoonset-node-2'];
const [NODE = '', OTHER = ''] = DRIFTED;
/** Delays and refusals are those of the double. */
const isDouble = !process.env['COCOON_BIN'];

let fleet: Fleet;
let incident: Incident;
let node: FleetNode;
const cleanups: (() => unknown)[] = [];

const indexOf = ({ rootDir }: FleetNode): string => join(rootDir, 'cloudimg', 'db', 'images.json');

beforeAll(async () => {
  fleet = await startFleet({ nodes: 3 });
  incident = await breakAsInTheIncident(fleet, DRIFTED);
  node = fleet.node(NODE);
  for (const name of DRIFTED) {
    const drifted = fleet.node(name);
    const saved = join(fleet.dir, `${name}.json`);
    await cp(indexOf(drifted), saved);
    // The content is there, so that a clone works, and the index is as it was.
    await drifted.pull(incident.reference, true);
    await cp(saved, indexOf(drifted));
  }
});
afterAll(async () => {
  await fleet?.down();
  for (const of of fleet?.nodes ?? []) await rm(lockFile(of), { force: true });
});
beforeEach(async () => {
  for (const name of DRIFTED) {
    await cp(join(fleet.dir, `${name}.json`), indexOf(fleet.node(name)));
    await fleet.node(name).clearLog();
  }
  await configure();
});
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
  await node.setEnv({ COCOON_DOUBLE_CLONE_DELAY_MS: undefined, COCOON_DOUBLE_CLONE_ERROR: undefined });
  await until('no process left on the node', async () => (await strays(node)).length === 0);
  expect(await vmsOn(node)).toEqual([]);
  expect(isLocked(node)).toBe(false);
});

let overrides: Record<string, unknown> = {};
async function configure(vm: Record<string, unknown> = {}): Promise<void> {
  await fleet.writeConfig({ ...overrides, verify: { clone: 'vm', vm } });
}

/** Names of the VMs there. */
async function vmsOn(of: FleetNode): Promise<string[]> {
  const { stdout } = await of.cocoon('vm', 'list', '-o', 'json');
  if (!stdout.startsWith('[')) return [];
  return (JSON.parse(stdout) as { config: { name: string } }[]).map(({ config }) => config.name);
}

async function clonesOn(of: FleetNode): Promise<string[][]> {
  return (await of.commands()).filter((argv) => argv.includes('clone'));
}

const run = (...args: string[]): Started =>
  start(['--config', fleet.configFile, '--output', 'json', '-w', NODE, ...args]);

/** What the report says of the clone on the node. */
function outcome({ stdout, stderr, code }: Run): { code: number; outcome: string | null; error: ErrorInfo | null } {
  const row = imageOn(parseReport(stdout, stderr), NODE);
  return { code, outcome: row.outcome, error: row.error };
}

/** A run whose clone hangs on the node. */
async function cloning(): Promise<Started> {
  await node.setEnv({ COCOON_DOUBLE_CLONE_DELAY_MS: '600000' });
  const started = run();
  await until('a VM that is being cloned', async () => (await vmsOn(node)).length > 0);
  // the next calls of cocoon are not to hang
  await node.setEnv({ COCOON_DOUBLE_CLONE_DELAY_MS: undefined });
  return started;
}

async function plant(...names: string[]): Promise<void> {
  for (const name of names) {
    const { code, stderr } = await node.cocoon('vm', 'clone', '--name', name, incident.snapshot);
    expect(code, stderr).toBe(0);
  }
}

/** Holds our lock there, as another run would; the lock file must be there already. What it returns frees it. */
async function holdLock(of: FleetNode): Promise<() => Promise<void>> {
  const holder = spawn('sh', ['-c', 'exec 9<"$1"; flock 9; echo held; exec sleep 600', 'sh', lockFile(of)]);
  const freed = once(holder, 'close');
  await once(holder.stdout, 'data');
  return async () => {
    holder.kill('SIGKILL');
    await freed;
  };
}

/** Puts a script before the node's cocoon: `before` sees the arguments, "$real" is the real one. */
async function intercept(before: string, { binary } = node): Promise<void> {
  const real = `${binary}.real`;
  await rename(binary, real);
  await writeFile(binary, `#!/bin/sh\nreal='${real}'\n${before}\nexec "$real" "$@"\n`);
  await chmod(binary, 0o755);
  cleanups.push(async () => await rename(real, binary));
}

describe.each(LOGINS)('as %s', (who) => {
  const isOperator = who === 'an operator with sudo';
  let user: string | undefined;

  beforeAll(async () => {
    if (isOperator) user = (await fleet.createOperator()).name;
    overrides = user === undefined ? {} : { ssh: { user } };
  });

  test('is cloned with the arguments of the config, seen running, and removed', async () => {
    await configure({ extraArgs: ['--no-direct-io', '--queue-size', '128'] });
    expect(outcome(await run().ended)).toEqual({ code: 0, outcome: 'healed', error: null });
    const [clone, ...more] = await clonesOn(node);
    expect(more).toEqual([]);
    const name = clone?.[clone.indexOf('--name') + 1] ?? '';
    expect(name).toMatch(/^reconcile-canary-[A-Za-z0-9._-]+$/);
    const words = ['vm', 'clone', '--output', 'json', '--name', name, '--no-direct-io', '--queue-size', '128'];
    expect(clone?.slice(clone.indexOf('vm'))).toEqual([...words, incident.snapshot]);
  });

  test.skipIf(!isDouble)('a clone that fails is exit code 4 with the words of the hypervisor', async () => {
    await node.setEnv({ COCOON_DOUBLE_CLONE_ERROR: 'out of huge pages' });
    const { code, outcome: what, error } = outcome(await run().ended);
    expect({ code, what, error: error?.code }).toEqual({ code: 4, what: 'failed', error: 'CLONE_FAILED' });
    expect(error?.message).toContain('out of huge pages');
  });

  test.skipIf(!isDouble)('a clone that hangs is ended after verify.vm.timeout', async () => {
    await configure({ timeout: '1s' });
    await node.setEnv({ COCOON_DOUBLE_CLONE_DELAY_MS: '600000' });
    const { code, error } = outcome(await run().ended);
    expect({ code, error: error?.code }).toEqual({ code: 4, error: 'CLONE_FAILED' });
    expect(error?.message).toContain('took longer than 1 s');
    expect(await vmsOn(node)).toEqual([]);
  });

  test.skipIf(!isDouble)('reconcile is killed in mid-clone', async () => {
    const { child, ended } = await cloning();
    ended.catch(() => undefined);
    child.kill('SIGKILL');
    await until('the canary is gone', async () => (await vmsOn(node)).length === 0);
    await until('the lock is free', () => !isLocked(node));
  });

  test.skipIf(!isDouble)('reconcile is told to end in mid-clone: the canary is gone before it ends', async () => {
    const { child, ended } = await cloning();
    child.kill('SIGTERM');
    const { code, error } = outcome(await ended);
    expect({ code, error: error?.code }).toEqual({ code: 143, error: 'INTERRUPTED' });
    expect(await vmsOn(node)).toEqual([]);
  });

  test.skipIf(!isDouble)('the connection dies in mid-clone: a second one makes sure', async () => {
    const { ended } = await cloning();
    await cutConnections(fleet);
    const { code, error } = outcome(await ended);
    expect({ code, error: error?.code }).toEqual({ code: 4, error: 'CLONE_FAILED' });
    expect(error?.message).toContain('connection lost');
    expect(await vmsOn(node)).toEqual([]);
  });

  test.skipIf(!isDouble)('the guard is killed in mid-clone: a second connection makes sure', async () => {
    const { ended } = await cloning();
    process.kill(await firstOn(node, 'change', 'canary'), 'SIGKILL');
    const { code, error } = outcome(await ended);
    expect({ code, error: error?.code }).toEqual({ code: 4, error: 'CLONE_FAILED' });
    expect(error?.message).toContain('broken off');
    expect(await vmsOn(node)).toEqual([]);
  });

  test('one that a dead run left is removed by the next, no other VM is, and none by --dry-run', async () => {
    const others = ['vk-default-demo-0', 'my-reconcile-canary-1', 'Reconcile-canary-1', 'reconcile-canar'];
    await plant('reconcile-canary-20260101T000000Z-dead01', ...others, 'reconcile-canary-x');
    cleanups.push(async () => await node.cocoon('vm', 'rm', '--force', ...others));
    expect((await run('--dry-run').ended).code).toBe(2);
    expect(await vmsOn(node)).toHaveLength(6);
    expect(outcome(await run().ended)).toMatchObject({ code: 0, outcome: 'healed' });
    expect((await vmsOn(node)).sort()).toEqual([...others].sort());
  });

  test('one that a dead run left is removed also by a run that clones none', async () => {
    await plant('reconcile-canary-x');
    expect(outcome(await run('--clone', 'files').ended)).toMatchObject({ code: 0, outcome: 'healed' });
  });

  test('one that cannot be removed is named, with the command', async () => {
    await intercept('case " $* " in *" vm rm "*) echo "Error: rm: the disk is on fire" >&2; exit 1 ;; esac');
    const { code, outcome: what, error } = outcome(await run().ended);
    expect({ code, what, error: error?.code }).toEqual({ code: 4, what: 'failed', error: 'CANARY_LEFT' });
    expect(error?.message).toContain('the disk is on fire');
    const [name = ''] = await vmsOn(node);
    expect(error?.hint).toContain(`vm rm --force ${name}`);
    expect((await node.cocoonWith(Buffer.alloc(0), 'version')).code).toBe(0);
    await cleanups.pop()?.();
    expect((await node.cocoon('vm', 'rm', '--force', name)).code).toBe(0);
  });

  test('a VM that stays does not hold our lock', async () => {
    const note = join(fleet.dir, 'guest.pid');
    await intercept(`case " $* " in *" vm clone "*) sleep 600 & echo $! >'${note}' ;; esac`);
    const words = ['canary', 'reconcile-canary-y', incident.snapshot];
    const as = user === undefined ? {} : { user, sudo: true };
    expect((await guard(fleet, node, words, as)).lines).toEqual(
      expect.arrayContaining(['ended 0', 'state running', 'removed reconcile-canary-y']),
    );
    const guest = Number(await readFile(note, 'utf8'));
    cleanups.push(() => process.kill(guest, 'SIGKILL'));
    expect(process.kill(guest, 0)).toBe(true);
    expect(isLocked(node)).toBe(false);
  });
});

describe('what a dead run left where nothing else is to do', () => {
  const IN_SYNC = 'cocoonset-node-3';
  const DEAD = 'reconcile-canary-20260101T000000Z-dead01';
  const left = async (...args: string[]): Promise<[number, LeftoverRow[]]> => {
    const { run: ran, nodes } = await report(fleet, '-w', IN_SYNC, ...args);
    return [ran.exitCode, nodes.flatMap(({ leftovers }) => leftovers)];
  };

  test('is left alone while another run is at work there, which is no error; else a failure is one, and costs nothing else', async () => {
    const there = fleet.node(IN_SYNC);
    await guard(fleet, there, ['pull', `${fleet.epoch.url}/dl/no/such`]); // the lock file is there now
    expect((await there.cocoon('vm', 'clone', '--name', DEAD, incident.snapshot)).code).toBe(0);
    const seen = { kind: 'canary-vm', name: DEAD, outcome: null, error: null };
    expect(await left('--dry-run')).toEqual([0, [seen]]);

    const free = await holdLock(there);
    cleanups.push(free);
    expect(await left()).toEqual([0, [{ ...seen, outcome: 'skipped' }]]);
    expect(await vmsOn(there)).toEqual([DEAD]);
    await free();

    await intercept('case " $* " in *" vm rm "*) echo "Error: rm: the disk is on fire" >&2; exit 1 ;; esac', there);
    const both = await report(fleet, '-w', NODE, '-w', IN_SYNC, '--clone', 'files');
    expect(both.run.exitCode).toBe(4);
    expect(imageOn(both, NODE)).toMatchObject({ outcome: 'healed', error: null });
    const [row] = both.nodes.flatMap(({ leftovers }) => leftovers);
    expect(row).toMatchObject({ name: DEAD, outcome: 'failed', error: { code: 'CANARY_LEFT' } });
    expect(row?.error?.message).toContain('the disk is on fire');

    await cleanups.pop()?.();
    expect(await left()).toEqual([0, [{ ...seen, outcome: 'tidied' }]]);
    expect(await vmsOn(there)).toEqual([]);
  });
});

describe('verify.vm.nodes', () => {
  const clones = async (): Promise<number[]> =>
    await Promise.all(DRIFTED.map(async (name) => (await clonesOn(fleet.node(name))).length));

  test('canary: only where an image is healed first', async () => {
    await configure({ nodes: 'canary' });
    expect((await report(fleet)).summary.actions.healed).toBe(2);
    expect(await clones()).toEqual([1, 0]);
  });

  test('canary: where another run holds that node, on the one that stands in for it', async () => {
    await configure({ nodes: 'canary' });
    await guard(fleet, node, ['pull', `${fleet.epoch.url}/dl/no/such`]); // the lock file is there now
    const free = await holdLock(node);
    cleanups.push(free);
    expect((await report(fleet)).summary.actions).toMatchObject({ healed: 1, skipped: 1 });
    expect(await clones()).toEqual([0, 1]);
    await free();
  });

  test('healed: wherever something was healed', async () => {
    await configure({ nodes: 'healed' });
    expect((await report(fleet)).summary.actions.healed).toBe(2);
    expect(await clones()).toEqual([1, 1]);
  });

  test.skipIf(!isDouble)('a clone that fails on the canary node keeps the image from all others', async () => {
    await node.setEnv({ COCOON_DOUBLE_CLONE_ERROR: 'no' });
    const failed = await report(fleet);
    expect(failed.run.exitCode).toBe(4);
    expect(imageOn(failed, OTHER)).toMatchObject({ outcome: 'skipped', error: { code: 'NOT_STARTED' } });
    expect((await fleet.node(OTHER).commands()).filter((argv) => argv.includes('pull'))).toEqual([]);
  });
});
