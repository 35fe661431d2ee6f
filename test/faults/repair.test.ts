// Healing beyond a pull: a corrupt blob is replaced, and put back where that fails; a base that a snapshot pins is
// restored from its blob. By the real command on real sshd, as root and as somebody who must go through sudo.
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmod, cp, readdir, readFile, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { Report } from '../../src/core/model/report.ts';
import { makeQcow2 } from '../doubles/cocoon/fixtures.ts';
import type { Artifact } from '../doubles/registry-content.ts';
import { startFleet, type Fleet, type FleetNode } from '../fleet/world.ts';
import {
  cocoonOn,
  cutConnections,
  guard,
  isLocked,
  lockFile,
  overBeforeUnlocked,
  strays,
  until,
  LOGINS,
} from '../support/guard.ts';
import { imageOn, parseReport, report, snapshotOn, start, type Run, type Started } from '../support/reconcile.ts';

const run = promisify(execFile);
const NODE = 'cocoonset-node-1';
const IMAGE = 'simular/win11';
const SNAPSHOT = 'simular/win11-hot:v1';
const DOWNLOAD = /^GET \/dl\//;
const SIZE = 256 * 1024;

let fleet: Fleet;
let node: FleetNode;
let reference: string;
let content: Buffer;
let pushed: Artifact;
/** The blob of the image, and its content as it should be. */
let blob: string;
/** Laid over every config: another user to log in as. */
let who: Record<string, unknown> = {};
const cleanups: (() => unknown)[] = [];

beforeAll(async () => {
  fleet = await startFleet({ nodes: 1 });
  node = fleet.node(NODE);
  reference = `${fleet.epoch.url}/dl/${IMAGE}`;
  content = makeQcow2({ seed: 'win11', size: SIZE });
  pushed = await fleet.epoch.pushImage(IMAGE, 'latest', { content });
  const imageDigest = pushed.contentDigest ?? '';
  blob = node.blobFile(imageDigest);
  await node.pull(reference);
  await node.addSnapshot({ name: SNAPSHOT, image: reference, imageDigest });
  await cp(indexFile(), join(fleet.dir, 'images.json'));
});
afterAll(async () => {
  await fleet?.down();
  if (node !== undefined) await rm(lockFile(node), { force: true });
});
beforeEach(async () => {
  await rm(join(node.rootDir, 'cloudimg', 'blobs'), { recursive: true });
  await node.cocoon('image', 'list');
  await cp(join(fleet.dir, 'images.json'), indexFile());
  await writeFile(blob, content, { mode: 0o444 });
  await node.clearLog();
  await fleet.writeConfig(who);
});
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
  fleet.epoch.heal();
  await until('no process left on the node', async () => (await strays(node)).length === 0);
  expect(await blobNames()).not.toContain(`${blob}.bad-reconcile`);
});

const indexFile = (): string => join(node.rootDir, 'cloudimg', 'db', 'images.json');
const blobNames = async (): Promise<string[]> =>
  (await readdir(join(node.rootDir, 'cloudimg', 'blobs'))).map((name) => join(node.rootDir, 'cloudimg', 'blobs', name));
const pulls = async (): Promise<string[][]> => (await node.commands()).filter((argv) => argv.includes('pull'));

const cut = (): Buffer => content.subarray(0, SIZE / 2);
function rotten(): Buffer {
  const copy = Buffer.from(content);
  copy[SIZE - 1000] = (copy[SIZE - 1000] ?? 0) ^ 1;
  return copy;
}

async function spoil(bytes: Buffer): Promise<void> {
  await chmod(blob, 0o644);
  await writeFile(blob, bytes);
  await chmod(blob, 0o444);
}

/** The blob is what it was, under its own name, with no other beside it. */
async function isBack(bytes: Buffer): Promise<void> {
  expect(bytes.equals(await readFile(blob))).toBe(true);
  expect(await blobNames()).toContain(blob);
  expect((await blobNames()).filter((name) => !name.endsWith('.qcow2'))).toEqual([]);
}

async function clones(): Promise<boolean> {
  const { code } = await node.cocoon('vm', 'clone', '--name', 'probe', SNAPSHOT);
  await node.cocoon('vm', 'rm', '--force', 'probe');
  return code === 0;
}

const repairing = (...args: string[]): Started =>
  start(['--config', fleet.configFile, '--output', 'json', '--repair', 'replace', ...args]);

function told({ code, stdout, stderr }: Run): { code: number; outcome: string | null; error: string | undefined } {
  const row = imageOn(parseReport(stdout, stderr), NODE);
  return { code, outcome: row.outcome, error: row.error?.code };
}

/** A replacement whose pull stands still in the middle of the download. */
async function replacing(): Promise<Started> {
  await spoil(cut());
  fleet.epoch.fail({ match: DOWNLOAD, how: 'stall', times: 100 });
  const started = repairing();
  const temp = join(node.rootDir, 'cloudimg', 'temp');
  await until('a pull in progress', async () => (await readdir(temp)).length > 0);
  expect(await blobNames()).toEqual([`${blob}.bad-reconcile`]);
  return started;
}

async function isOverAndBack(): Promise<void> {
  await overBeforeUnlocked(node, 'image', 'pull');
  await until('no process left on the node', async () => (await strays(node)).length === 0);
  await isBack(cut());
}

describe.each(LOGINS)('as %s', (name) => {
  beforeAll(async () => {
    who = name === 'an operator with sudo' ? { ssh: { user: (await fleet.createOperator()).name } } : {};
  });
  afterAll(() => (who = {}));

  test('a truncated blob is set aside, pulled and verified, and the bad file is gone', async () => {
    await spoil(cut());
    const healed = await report(fleet, '--repair', 'replace');
    expect(healed.run).toMatchObject({ exitCode: 0, error: null });
    const row = imageOn(healed, NODE);
    expect(row).toMatchObject({ verdict: 'blob-corrupt', plan: 'replace', outcome: 'healed', error: null });
    expect(row.reason).toContain(`${SIZE / 2} bytes and not ${SIZE}`);
    expect(row.steps.map(({ step, ok }) => [step, ok])).toEqual([
      ['replace', true],
      ['verify', true],
      ['clone', true],
    ]);
    expect(snapshotOn(healed, NODE, SNAPSHOT)).toMatchObject({
      verdict: 'base-corrupt',
      plan: 'replace',
      outcome: 'healed',
      steps: [],
    });
    await isBack(content);
    expect(await clones()).toBe(true);
    expect(await pulls()).toHaveLength(1);
    expect((await report(fleet, '--dry-run', '--deep')).run.exitCode).toBe(0);
  });

  test('a rotten blob of the right size is seen by --deep alone, and replaced', async () => {
    await spoil(rotten());
    expect((await report(fleet, '--repair', 'replace')).run.exitCode).toBe(0);
    await isBack(rotten());
    const healed = await report(fleet, '--deep', '--repair', 'replace');
    expect(imageOn(healed, NODE)).toMatchObject({ verdict: 'blob-corrupt', plan: 'replace', outcome: 'healed' });
    expect(healed.run.exitCode).toBe(0);
    await isBack(content);
  });

  test.each([
    ['is refused', 404, 'PULL_FAILED'],
    ['brings other bytes', 'flip', 'VERIFY_MISMATCH'],
    ['ends early', 'short', 'VERIFY_MISMATCH'],
    ['is cut', 'cut', 'PULL_FAILED'],
  ] as const)('the pull %s: the old file is back', async (_how, how, error) => {
    await spoil(cut());
    const { ino } = await stat(blob);
    fleet.epoch.fail({ match: DOWNLOAD, how, times: 100 });
    expect(told(await repairing().ended)).toEqual({ code: 4, outcome: 'failed', error });
    await isBack(cut());
    expect((await stat(blob)).ino).toBe(ino);
  });

  test('the connection is killed in mid-pull: the old file is back', async () => {
    const { ended } = await replacing();
    await cutConnections(fleet);
    expect(told(await ended)).toEqual({ code: 4, outcome: 'failed', error: 'SSH_UNREACHABLE' });
    await isOverAndBack();
  });

  test('reconcile is killed in mid-pull: the old file is back', async () => {
    const { child, ended } = await replacing();
    ended.catch(() => undefined);
    child.kill('SIGKILL');
    await isOverAndBack();
  });

  test('reconcile is told to end in mid-pull: the old file is back', async () => {
    const { child, ended } = await replacing();
    child.kill('SIGTERM');
    expect(told(await ended)).toEqual({ code: 143, outcome: 'skipped', error: 'INTERRUPTED' });
    await isOverAndBack();
  });

  test('it takes too long: the old file is back', async () => {
    await fleet.writeConfig({ ...who, rollout: { pullTimeout: '2s', pullRetries: 0 } });
    const { ended } = await replacing();
    expect(told(await ended)).toEqual({ code: 4, outcome: 'failed', error: 'PULL_TIMEOUT' });
    await isOverAndBack();
  });

  test.each([
    ['fails', 404],
    ['works', null],
  ] as const)('the guard itself is killed: the next run, whose pull %s, leaves no file aside', async (_how, how) => {
    await fleet.writeConfig({ ...who, rollout: { pullRetries: 0 } });
    const { ended } = await replacing();
    process.kill(Math.min(...(await cocoonOn(node, 'change', 'replace'))), 'SIGKILL');
    expect(told(await ended)).toMatchObject({ code: 4, outcome: 'failed' });
    await until('no process left on the node', async () => (await strays(node)).length === 0);
    expect(await blobNames()).toEqual([`${blob}.bad-reconcile`]);
    fleet.epoch.heal();
    if (how !== null) fleet.epoch.fail({ match: DOWNLOAD, how, times: 100 });
    const next = await report(fleet);
    expect(imageOn(next, NODE)).toMatchObject({
      verdict: 'blob-missing',
      plan: 'pull',
      outcome: how === null ? 'healed' : 'failed',
    });
    await isBack(how === null ? content : cut());
  });

  test('the guard itself is killed: another try within the same run begins from the old file', async () => {
    const { ended } = await replacing();
    fleet.epoch.heal();
    process.kill(Math.min(...(await cocoonOn(node, 'change', 'replace'))), 'SIGKILL');
    const { outcome, error } = told(await ended);
    // the first pull may still be ending there
    if (error === 'LOCKED') expect(outcome).toBe('failed');
    else expect({ outcome, error }).toEqual({ outcome: 'healed', error: undefined });
    await until('no process left on the node', async () => (await strays(node)).length === 0);
    if (error === 'LOCKED') expect(told(await repairing().ended)).toMatchObject({ code: 0, outcome: 'healed' });
    await isBack(content);
  });

  test('garbage collection in between takes neither the file aside nor what will be put back', async () => {
    const { child, ended } = await replacing();
    const { code, stderr } = await node.cocoon('gc');
    expect(code, stderr).toBe(0);
    expect(await blobNames()).toEqual([`${blob}.bad-reconcile`]);
    child.kill('SIGTERM');
    await ended;
    await isOverAndBack();
  });

  test('never while the record of a VM says that it runs', async () => {
    expect((await node.cocoon('vm', 'clone', '--name', 'guest', SNAPSHOT)).code).toBe(0);
    cleanups.push(async () => await node.cocoon('vm', 'rm', '--force', 'guest'));
    await spoil(cut());
    const left = await report(fleet, '--repair', 'replace');
    expect(left.run.exitCode).toBe(2);
    const row = imageOn(left, NODE);
    expect(row).toMatchObject({ verdict: 'blob-corrupt', plan: null, outcome: null });
    expect(row.reason).toContain('a VM is running on it');
    expect(row.commands).toHaveLength(2);
    await isBack(cut());
    expect(await pulls()).toEqual([]);
  });

  test('never while a process has the file open', async () => {
    await spoil(cut());
    const holder = spawn('sh', ['-c', 'exec 7<"$1"; echo open; exec sleep 600', 'sh', blob]);
    cleanups.push(() => holder.kill('SIGKILL'));
    await once(holder.stdout, 'data');
    expect(told(await repairing().ended)).toEqual({ code: 2, outcome: 'skipped', error: 'BLOB_IN_USE' });
    await isBack(cut());
    expect(await pulls()).toEqual([]);
  });

  test('never while another reconcile changes the node', async () => {
    await spoil(cut());
    await guard(fleet, node, ['pull', `${fleet.epoch.url}/dl/no/such`]); // the lock file is there now
    const holder = spawn('sh', ['-c', 'exec 9<"$1"; flock 9; echo held; exec sleep 600', 'sh', lockFile(node)]);
    cleanups.push(() => holder.kill('SIGKILL'));
    await once(holder.stdout, 'data');
    expect(isLocked(node)).toBe(true);
    await node.clearLog();
    expect(told(await repairing().ended)).toEqual({ code: 2, outcome: 'skipped', error: 'LOCKED' });
    await isBack(cut());
    expect(await pulls()).toEqual([]);
  });
});

describe('what is never replaced', () => {
  test.each([
    ['qcow2 version 2', makeQcow2({ seed: 'old', version: 2 })],
    ['a raw disk', Buffer.concat([Buffer.from([0xeb, 0x63, 0x90]), Buffer.alloc(200_000, 7)])],
  ])('a blob that cocoon converted from %s', async (what, bytes) => {
    const image = `simular/${what.replaceAll(' ', '-')}`;
    const artifact = await fleet.epoch.pushImage(image, 'latest', {
      content: bytes,
      mediaType: `application/vnd.cocoonstack.disk.${what === 'a raw disk' ? 'raw' : 'qcow2'}`,
    });
    await node.pull(`${fleet.epoch.url}/dl/${image}`);
    const file = node.blobFile(artifact.contentDigest ?? '');
    const before = await readFile(file);
    expect(before.equals(bytes)).toBe(false);
    const seen = await report(fleet, '--deep', '--repair', 'replace');
    expect(imageOn(seen, NODE, image)).toMatchObject({ verdict: 'in-sync', plan: null, commands: [] });
    expect(imageOn(seen, NODE, image).reason).toContain('converted');
    expect(before.equals(await readFile(file))).toBe(true);
  });

  test('anything, where the config does not allow it: the commands are printed, and work as typed', async () => {
    await spoil(cut());
    const dry = await report(fleet);
    expect(dry.run.exitCode).toBe(2);
    const { plan, commands, reason } = imageOn(dry, NODE);
    expect(plan).toBeNull();
    expect(reason).toContain('a forced pull alone would keep it');
    expect(await pulls()).toEqual([]);
    for (const command of commands) await run('sh', ['-c', command]);
    expect(content.equals(await readFile(blob))).toBe(true);
    expect((await report(fleet, '--dry-run', '--deep')).run.exitCode).toBe(0);
    expect((await node.cocoon('gc')).code).toBe(0);
    expect(await clones()).toBe(true);
  });
});

describe.each([
  ['dash', ['dash']],
  ['bash', ['bash', '--posix']],
])('the script in %s', (_name, shell) => {
  test('replaces under a root directory whose name needs quoting', async () => {
    const rootDir = join(fleet.dir, `root of ${shell[0]}'s "$HOME" *`);
    const file = join(rootDir, 'cloudimg', 'blobs', `${(pushed.contentDigest ?? '').slice(7)}.qcow2`);
    const cocoon = async (...argv: string[]): Promise<unknown> =>
      await run(node.binary, ['--root-dir', rootDir, '--run-dir', node.runDir, '--log-dir', node.logDir, ...argv]);
    await cocoon('image', 'pull', reference);
    await rm(file);
    await writeFile(file, cut());
    const words = ['replace', reference, (pushed.contentDigest ?? '').slice(7)];
    expect((await guard(fleet, node, words, { shell, rootDir })).lines.at(-1)).toBe('ended 0');
    expect(content.equals(await readFile(file))).toBe(true);
    expect(await readdir(join(rootDir, 'cloudimg', 'blobs'))).toHaveLength(1);
    await rm(lockFile({ ...node, rootDir }), { force: true });
  });

  test('leaves all as it is where there is nothing to replace', async () => {
    await rm(blob);
    const { lines, stderr, code } = await guard(
      fleet,
      node,
      ['replace', reference, (pushed.contentDigest ?? '').slice(7)],
      {
        shell,
      },
    );
    expect({ lines, code }).toEqual({ lines: [], code: 1 });
    expect(stderr).toContain('No such file');
    expect(await pulls()).toEqual([]);
  });
});

describe('a base that a snapshot pins', () => {
  const RESTORED = 'simular/old';
  const HOT = 'simular/old-hot:v1';
  let old: Artifact;
  let fresh: Artifact;

  beforeAll(async () => {
    const key = `${fleet.epoch.url}/dl/${RESTORED}`;
    old = await fleet.epoch.pushImage(RESTORED, 'latest', { content: makeQcow2({ seed: 'old', size: SIZE }) });
    await node.pull(key);
    await node.addSnapshot({ name: HOT, image: key, imageDigest: old.contentDigest ?? '' });
    fresh = await fleet.epoch.pushImage(RESTORED, 'latest', { content: makeQcow2({ seed: 'new', size: SIZE }) });
    await node.pull(key, true);
    await cp(indexFile(), join(fleet.dir, 'images.json'));
  });
  beforeEach(async () => {
    await node.pull(`${fleet.epoch.url}/dl/${RESTORED}`, true);
    await rm(node.blobFile(old.contentDigest ?? ''), { force: true });
    await node.clearLog();
  });

  const cloneOld = async (): Promise<number> => {
    const { code } = await node.cocoon('vm', 'clone', '--name', 'probe-old', HOT);
    await node.cocoon('vm', 'rm', '--force', 'probe-old');
    return code;
  };
  const only = async (...args: string[]): Promise<Report> => await report(fleet, '--snapshot', HOT, ...args);
  const keys = async (): Promise<Record<string, string>> => {
    const { images } = JSON.parse(await readFile(indexFile(), 'utf8')) as {
      images: Record<string, { content_sum: string }>;
    };
    return Object.fromEntries(Object.entries(images).map(([key, { content_sum }]) => [key, content_sum]));
  };

  test('is pulled by its blob URL where that is allowed; the key of the tag stays', async () => {
    expect(await cloneOld()).toBe(1);
    const before = await keys();
    const healed = await only('--repair', 'restore');
    expect(healed.run).toMatchObject({ exitCode: 0, error: null });
    const row = snapshotOn(healed, NODE, HOT);
    expect(row).toMatchObject({ verdict: 'base-restorable', plan: 'restore', outcome: 'healed', error: null });
    expect(row.steps.map(({ step, ok }) => [step, ok])).toEqual([
      ['restore', true],
      ['verify', true],
      ['clone', true],
    ]);
    const url = `${fleet.epoch.url}/v2/${RESTORED}/blobs/${old.contentDigest}`;
    expect(await keys()).toEqual({ ...before, [url]: old.contentDigest });
    expect(before[`${fleet.epoch.url}/dl/${RESTORED}`]).toBe(fresh.contentDigest);
    expect(await cloneOld()).toBe(0);
    const again = await only('--dry-run', '--deep');
    expect(snapshotOn(again, NODE, HOT).verdict).toBe('clonable');
    expect(again.run.exitCode).toBe(0);
  });

  test('is not restored unasked: the command is printed, and works as typed', async () => {
    const left = await only();
    expect(left.run.exitCode).toBe(2);
    const { plan, commands } = snapshotOn(left, NODE, HOT);
    expect(plan).toBeNull();
    expect(commands).toHaveLength(1);
    expect(await pulls()).toEqual([]);
    for (const command of commands) await run('sh', ['-c', command]);
    expect(await cloneOld()).toBe(0);
  });

  test('comes with other bytes than its name says: failed, and said', async () => {
    fleet.epoch.fail({ match: /^GET \/v2\/simular\/old\/blobs\//, how: 'flip', times: 100 });
    const failed = await only('--repair', 'restore');
    expect(failed.run.exitCode).toBe(4);
    expect(snapshotOn(failed, NODE, HOT)).toMatchObject({ outcome: 'failed', error: { code: 'VERIFY_MISMATCH' } });
    expect(await cloneOld()).toBe(1);
  });

  test('is there and cut short: replaced by its blob URL where that is allowed; where other bytes come, put back', async () => {
    const file = node.blobFile(old.contentDigest ?? '');
    const good = makeQcow2({ seed: 'old', size: SIZE });
    const bad = good.subarray(0, SIZE / 2);
    await writeFile(file, bad, { mode: 0o444 });
    const asked = await only('--dry-run');
    expect(snapshotOn(asked, NODE, HOT)).toMatchObject({ verdict: 'base-corrupt', plan: null });
    expect(snapshotOn(asked, NODE, HOT).commands).toHaveLength(2);

    fleet.epoch.fail({ match: /^GET \/v2\/simular\/old\/blobs\//, how: 'flip', skip: 1, times: 100 });
    const failed = await only('--repair', 'replace');
    expect(snapshotOn(failed, NODE, HOT)).toMatchObject({ outcome: 'failed', error: { code: 'VERIFY_MISMATCH' } });
    expect((await readFile(file)).equals(bad)).toBe(true);
    fleet.epoch.heal();

    const healed = await only('--repair', 'replace');
    expect(healed.run).toMatchObject({ exitCode: 0, error: null });
    const row = snapshotOn(healed, NODE, HOT);
    expect(row).toMatchObject({ verdict: 'base-corrupt', plan: 'replace', outcome: 'healed', error: null });
    expect(row.steps.map(({ step, ok }) => [step, ok])).toEqual([
      ['replace', true],
      ['verify', true],
      ['clone', true],
    ]);
    expect((await keys())[`${fleet.epoch.url}/dl/${RESTORED}`]).toBe(fresh.contentDigest);
    expect(await cloneOld()).toBe(0);
    expect((await only('--dry-run', '--deep')).run.exitCode).toBe(0);

    // the entry of its own URL is right by now, and says nothing of the file
    await truncate(file, SIZE / 2);
    expect(snapshotOn(await only('--repair', 'replace'), NODE, HOT)).toMatchObject({
      plan: 'replace',
      outcome: 'healed',
    });
    expect((await readFile(file)).equals(good)).toBe(true);
  });

  test('is lost where epoch does not have it any more: no pull, and the two ways out', async () => {
    fleet.epoch.deleteBlob(old.contentDigest ?? '');
    const lost = await only('--repair', 'restore');
    expect(lost.run.exitCode).toBe(2);
    const row = snapshotOn(lost, NODE, HOT);
    expect(row).toMatchObject({ verdict: 'base-lost', plan: null, commands: [] });
    expect(row.reason).toMatch(/bake the snapshot again, or push the old base back/);
    expect(await pulls()).toEqual([]);
  });
});
