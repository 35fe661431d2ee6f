// An image under a name has no URL to pull: its content is streamed to the node, compared there, and imported. By the
// real command on real sshd, as root and as somebody who must go through sudo.
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  chmod,
  cp,
  mkdir,
  mkdtemp,
  readFile,
  readdir,
  realpath,
  rename,
  rm,
  truncate,
  writeFile,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { ImageRow } from '../../src/core/model/report.ts';
import { makeQcow2 } from '../doubles/cocoon/fixtures.ts';
import type { Artifact } from '../doubles/registry-content.ts';
import { startFleet, type Fleet, type FleetNode } from '../fleet/world.ts';
import {
  cocoonOn,
  cutConnections,
  guard,
  isLocked,
  isRoot,
  lockFile,
  startGuard,
  strays,
  until,
  LOGINS,
} from '../support/guard.ts';
import { withPeak } from '../support/memory.ts';
import { imageOn, parseReport, report, snapshotOn, start, type Run, type Started } from '../support/reconcile.ts';
import { shadow, shadowed } from '../support/shadow.ts';

const NODE = 'cocoonset-node-1';
const IMAGE = 'simular/win11';
const NAME = 'win11-25h2';
const BLOBS = /^GET \/v2\/simular\/win11\/blobs\//;
const SIZE = 4 * 2 ** 20;
const TRACKED = { images: { track: [{ image: IMAGE, reference: NAME }] } };

let dir: string;
let fleet: Fleet;
let node: FleetNode;
let content: Buffer;
let pushed: Artifact;
let before: string;
/** Laid over every config: another user to log in as. */
let who: Record<string, unknown> = {};
const cleanups: (() => unknown)[] = [];

beforeAll(async () => {
  dir = await realpath(await mkdtemp(join(tmpdir(), 'import-')));
  fleet = await startFleet({ dir, nodes: [shadowed(dir, NODE)] });
  node = fleet.node(NODE);
  const old = makeQcow2({ seed: 'old', size: SIZE });
  const imported = await node.cocoonWith(old, 'image', 'import', NAME);
  expect(imported.code, imported.stderr).toBe(0);
  content = makeQcow2({ seed: 'new', size: SIZE });
  pushed = await fleet.epoch.pushImage(IMAGE, 'latest', { content, parts: 2 });
  before = (await keys())[NAME] ?? '';
  await cp(indexFile(), join(dir, 'images.json'));
});
afterAll(async () => {
  await fleet?.down();
  if (node !== undefined) await rm(lockFile(node), { force: true });
});
beforeEach(async () => {
  await cp(join(dir, 'images.json'), indexFile());
  await rm(node.blobFile(pushed.contentDigest ?? ''), { force: true });
  await node.clearLog();
  await configure();
  fleet.epoch.requests.length = 0;
});
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
  fleet.epoch.heal();
  await until('no process left on the node', async () => (await strays(node)).length === 0);
  expect(await temporary()).toEqual([]);
  expect(isLocked(node)).toBe(false);
});

const indexFile = (): string => join(node.rootDir, 'cloudimg', 'db', 'images.json');
const temporary = async (): Promise<string[]> => await readdir(join(node.rootDir, 'cloudimg', 'temp'));
const blobs = async (): Promise<string[]> => await readdir(join(node.rootDir, 'cloudimg', 'blobs'));

async function configure(over: Record<string, unknown> = {}): Promise<void> {
  await fleet.writeConfig({ ...TRACKED, ...who, ...over });
}

/** Key → digest, as the node's index has it. */
async function keys(): Promise<Record<string, string>> {
  const { images } = JSON.parse(await readFile(indexFile(), 'utf8')) as {
    images: Record<string, { content_sum: string }>;
  };
  return Object.fromEntries(Object.entries(images).map(([key, { content_sum }]) => [key, content_sum]));
}

const imports = async (): Promise<string[][]> => (await node.commands()).filter((argv) => argv.includes('import'));
/** How many times disk parts were read whole or in part. */
const reads = (): number => fleet.epoch.requests.filter(({ method, path }) => BLOBS.test(`${method} ${path}`)).length;

/** Nothing was imported, and nothing is left. */
async function isUntouched(): Promise<void> {
  await until('no process left on the node', async () => (await strays(node)).length === 0);
  expect(await imports()).toEqual([]);
  expect(await keys()).toEqual({ [NAME]: before });
  expect(await blobs()).toEqual([`${before.slice(7)}.qcow2`]);
  expect(await temporary()).toEqual([]);
}

const reconciling = (...args: string[]): Started => start(['--config', fleet.configFile, '--output', 'json', ...args]);

function told({ code, stdout, stderr }: Run): { code: number; outcome: string | null; error: string | undefined } {
  const row = imageOn(parseReport(stdout, stderr), NODE);
  return { code, outcome: row.outcome, error: row.error?.code };
}

const stepsOf = ({ steps }: ImageRow): [string, boolean | null][] => steps.map(({ step, ok }) => [step, ok]);

/** The digest is known by now: what is spoiled from here on is the import. */
async function learned(): Promise<void> {
  const dry = await report(fleet, '--dry-run');
  expect(imageOn(dry, NODE)).toMatchObject({ verdict: 'stale', plan: 'import', want: pushed.contentDigest });
  fleet.epoch.requests.length = 0;
}

/** An import that stands still in the middle of its content. */
async function streaming(): Promise<Started> {
  await learned();
  // the first request looks at the beginning only
  fleet.epoch.fail({ match: BLOBS, how: 'stall', skip: 1, times: 100 });
  const started = reconciling();
  await until('content that arrives', async () => {
    const [inbox] = await temporary();
    return inbox !== undefined && (await readdir(join(node.rootDir, 'cloudimg', 'temp', inbox))).includes('content');
  });
  return started;
}

/** What epoch serves is imported already, and half of its blob is gone. */
async function spoiled(): Promise<string> {
  await learned();
  await node.cocoonWith(content, 'image', 'import', NAME);
  const blob = node.blobFile(pushed.contentDigest ?? '');
  await truncate(blob, SIZE / 2);
  await node.clearLog();
  return blob;
}

/** Puts a script before the node's cocoon. */
async function intercept(script: string): Promise<void> {
  const real = `${node.binary}.real`;
  await rename(node.binary, real);
  await writeFile(node.binary, `#!/bin/sh\n${script}\nexec '${real}' "$@"\n`);
  await chmod(node.binary, 0o755);
  cleanups.push(async () => await rename(real, node.binary));
}

describe.each(LOGINS)('as %s', (name) => {
  let as: { user?: string; sudo?: boolean } = {};
  beforeAll(async () => {
    as = name === 'an operator with sudo' ? { user: (await fleet.createOperator()).name, sudo: true } : {};
    who = as.user === undefined ? {} : { ssh: { user: as.user } };
  });
  afterAll(() => (who = {}));

  test('a stale name is imported, from all parts of a split image', async () => {
    await learned();
    const healed = await report(fleet);
    expect(healed.run).toMatchObject({ exitCode: 0, error: null });
    const row = imageOn(healed, NODE);
    expect(row).toMatchObject({ reference: NAME, outcome: 'healed', after: pushed.contentDigest, have: before });
    expect(stepsOf(row)).toEqual([
      ['import', true],
      ['verify', true],
      ['clone', null],
    ]);
    expect(await keys()).toEqual({ [NAME]: pushed.contentDigest });
    expect(content.equals(await readFile(node.blobFile(pushed.contentDigest ?? '')))).toBe(true);
    const [argv, ...more] = await imports();
    expect(more).toEqual([]);
    expect(argv?.slice(-4, -1)).toEqual(['image', 'import', NAME]);
    expect((await report(fleet, '--dry-run', '--deep')).run.exitCode).toBe(0);
  });

  test('the registry breaks off in mid-stream: nothing is imported', async () => {
    await learned();
    fleet.epoch.fail({ match: BLOBS, how: 'cut', skip: 1, times: 100 });
    expect(told(await reconciling().ended)).toEqual({ code: 4, outcome: 'failed', error: 'REGISTRY_UNREACHABLE' });
    await isUntouched();
  });

  test('the registry ends early, as if that were all: nothing is imported, at once', async () => {
    await learned();
    fleet.epoch.fail({ match: BLOBS, how: 'short', skip: 2, times: 100 });
    expect(told(await reconciling().ended)).toEqual({ code: 4, outcome: 'failed', error: 'REGISTRY_BLOB_MISSING' });
    await isUntouched();
  });

  test('other bytes arrive: nothing is imported, after a second try', async () => {
    await learned();
    fleet.epoch.fail({ match: BLOBS, how: 'flip', skip: 1, times: 100 });
    const { code, stdout } = await reconciling().ended;
    const row = imageOn(parseReport(stdout), NODE);
    expect(code).toBe(4);
    expect(row).toMatchObject({ outcome: 'failed', error: { code: 'IMPORT_FAILED' } });
    expect(row.error?.message).toMatch(/sha256:[0-9a-f]{64} arrived and not sha256:/);
    expect(stepsOf(row)).toEqual([
      ['import', false],
      ['import', false],
    ]);
    await isUntouched();
  });

  test('other bytes arrive once: the second try heals', async () => {
    await learned();
    fleet.epoch.fail({ match: BLOBS, how: 'flip', skip: 1 });
    expect(told(await reconciling().ended)).toMatchObject({ code: 0, outcome: 'healed' });
    expect(await imports()).toHaveLength(1);
    expect(reads()).toBe(6);
  });

  test('the connection is killed in mid-stream: nothing is imported', async () => {
    const { ended } = await streaming();
    await cutConnections(fleet);
    expect(told(await ended)).toEqual({ code: 4, outcome: 'failed', error: 'SSH_UNREACHABLE' });
    await isUntouched();
  });

  test('reconcile is killed in mid-stream: nothing is imported', async () => {
    const { child, ended } = await streaming();
    ended.catch(() => undefined);
    child.kill('SIGKILL');
    await isUntouched();
  });

  test('reconcile is told to end in mid-stream: nothing is imported', async () => {
    const { child, ended } = await streaming();
    child.kill('SIGTERM');
    expect(told(await ended)).toEqual({ code: 143, outcome: 'skipped', error: 'INTERRUPTED' });
    await isUntouched();
  });

  test('the guard is killed in mid-stream: nothing is imported, and the next run removes what it left', async () => {
    await configure({ rollout: { pullRetries: 0 } });
    const { ended } = await streaming();
    process.kill(Math.min(...(await cocoonOn(node, 'change', 'import'))), 'SIGKILL');
    expect(told(await ended)).toMatchObject({ code: 4, outcome: 'failed' });
    await until('no process left on the node', async () => (await strays(node)).length === 0);
    expect(await imports()).toEqual([]);
    fleet.epoch.heal();
    expect(told(await reconciling().ended)).toMatchObject({ code: 0, outcome: 'healed' });
  });

  test('cocoon refuses: its words, and nothing is left', async () => {
    await learned();
    await intercept('case " $* " in *" image import "*) echo "Error: the store is on fire" >&2; exit 1 ;; esac');
    const { stdout } = await reconciling().ended;
    const { outcome, error } = imageOn(parseReport(stdout), NODE);
    expect({ outcome, code: error?.code }).toEqual({ outcome: 'failed', code: 'IMPORT_FAILED' });
    expect(error?.message).toContain('the store is on fire');
    expect(await temporary()).toEqual([]);
  });

  test('the file is private, and only there while it is needed', async () => {
    await learned();
    const seen = join(dir, `seen-${as.user ?? 'root'}`);
    await intercept(
      `case " $* " in *" image import "*) for file; do :; done; stat -c '%U %a' "$file" "\${file%/*}" >'${seen}' ;; esac`,
    );
    expect(told(await reconciling().ended)).toMatchObject({ code: 0, outcome: 'healed' });
    const owner = isRoot ? 'root' : (process.env['USER'] ?? '');
    expect((await readFile(seen, 'utf8')).trim().split('\n')).toEqual([
      expect.stringMatching(`^${owner} `),
      `${owner} 700`,
    ]);
    expect(await temporary()).toEqual([]);
  });

  test('another reconcile changes the node: it is left alone, whatever was sent already', async () => {
    await learned();
    await guard(fleet, node, ['pull', `${fleet.epoch.url}/dl/no/such`]); // the lock file is there now
    await node.clearLog();
    const holder = spawn('sh', ['-c', 'exec 9<"$1"; flock 9; echo held; exec sleep 600', 'sh', lockFile(node)]);
    const freed = once(holder, 'close');
    cleanups.push(async () => {
      holder.kill('SIGKILL');
      await freed;
    });
    await once(holder.stdout, 'data');
    expect(told(await reconciling().ended)).toEqual({ code: 2, outcome: 'skipped', error: 'LOCKED' });
    await isUntouched();
  });

  test('a bad blob under the name is replaced; where cocoon refuses or a process has it open, it is there as before', async () => {
    const blob = await spoiled();
    const holder = spawn('sh', ['-c', 'exec 7<"$1"; echo open; exec sleep 600', 'sh', blob]);
    cleanups.push(() => holder.kill('SIGKILL'));
    await once(holder.stdout, 'data');
    const replacing = async (): Promise<ImageRow> => imageOn(await report(fleet, '--repair', 'replace'), NODE);
    expect(await replacing()).toMatchObject({ outcome: 'skipped', error: { code: 'BLOB_IN_USE' } });
    expect(await imports()).toEqual([]);
    const released = once(holder, 'close');
    holder.kill('SIGKILL');
    await released;

    await intercept('case " $* " in *" image import "*) echo "Error: the store is on fire" >&2; exit 1 ;; esac');
    expect(await replacing()).toMatchObject({ outcome: 'failed', error: { code: 'IMPORT_FAILED' } });
    expect((await readFile(blob)).equals(content.subarray(0, SIZE / 2))).toBe(true);
    await cleanups.pop()?.();

    const row = await replacing();
    expect(row).toMatchObject({ verdict: 'blob-corrupt', plan: 'replace', outcome: 'healed' });
    expect(stepsOf(row)).toEqual([
      ['replace', true],
      ['verify', true],
      ['clone', null],
    ]);
    expect((await readFile(blob)).equals(content)).toBe(true);
    expect((await blobs()).filter((file) => !file.endsWith('.qcow2'))).toEqual([]);
  });

  describe('the guard by itself', () => {
    const words = (): string[] => ['import', NAME, (pushed.contentDigest ?? '').slice(7), String(SIZE)];

    test('takes what follows the content for the heartbeat, and ends the import without it', async () => {
      await intercept(`case " $* " in *" image import "*) trap 'kill $!; exit 1' TERM; sleep 600 & wait ;; esac`);
      const { client, fallSilent, ended } = startGuard(fleet, node, words(), { ...as, silence: 2 });
      client.stdin?.write(content);
      await until('an import', async () => (await cocoonOn(node, 'image', 'import')).length > 0);
      fallSilent();
      const { lines } = await ended;
      expect(lines).toContain(`received ${(pushed.contentDigest ?? '').slice(7)}`);
      expect(lines.at(-1)).toMatch(/^ended [1-9]\d* silence$/);
    });

    test('gives up where the content stands still, the connection open', async () => {
      const { client, fallSilent, ended } = startGuard(fleet, node, words(), { ...as, silence: 1 });
      fallSilent();
      client.stdin?.write(content.subarray(0, SIZE / 2));
      const { lines, code } = await ended;
      expect(lines.at(-1)).toMatch(/^received [0-9a-f]{64}$/);
      expect(code).toBe(1);
      await isUntouched();
    });

    test('is not held up by content that comes slowly', async () => {
      const { client, fallSilent, ended } = startGuard(fleet, node, words(), { ...as, silence: 3, deadline: 2 });
      fallSilent();
      const drip = setInterval(() => client.stdin?.write(content.subarray(0, 1000)), 100);
      const { code } = await ended;
      clearInterval(drip);
      expect(code).toBe(1);
      await isUntouched();
    });
  });
});

test('the content of a dead import that cannot be removed is an error, and costs the import nothing', async () => {
  const old = join(node.rootDir, 'cloudimg', 'temp', 'reconcile-import.deadbeef');
  await mkdir(old);
  cleanups.push(async () => await rm(old, { recursive: true }));
  const refuse = `case "$*" in *${old}*) echo "rm: the disk is on fire" >&2; exit 1 ;; esac; exec "$real" "$@"`;
  await shadow(dir, NODE, 'rm', refuse);
  cleanups.push(async () => await shadow(dir, NODE, 'rm', null));
  const done = await report(fleet);
  expect(done.run.exitCode).toBe(4);
  expect(imageOn(done, NODE)).toMatchObject({ outcome: 'healed', error: null });
  const [left] = done.nodes[0]?.leftovers ?? [];
  expect(left).toMatchObject({ kind: 'import', outcome: 'failed', error: { code: 'TIDY_FAILED' } });
  expect(left?.error?.message).toContain('the disk is on fire');
});

describe('what is planned', () => {
  test('an image that must be there and is not', async () => {
    await configure({ images: { track: [{ image: IMAGE, reference: 'other-name', presence: 'required' }] } });
    const healed = await report(fleet);
    expect(imageOn(healed, NODE)).toMatchObject({ verdict: 'missing', plan: 'import', outcome: 'healed' });
    expect(await keys()).toEqual({ [NAME]: before, 'other-name': pushed.contentDigest });
  });

  test('no replacement of a bad blob unasked: the commands are printed, and work as typed', async () => {
    const blob = await spoiled();
    const left = await report(fleet);
    expect(left.run.exitCode).toBe(2);
    const { plan, commands } = imageOn(left, NODE);
    expect({ plan, commands: commands.length }).toEqual({ plan: null, commands: 5 });
    cleanups.push(async () => await rm(`${blob}.bad`));
    for (const command of commands) await promisify(execFile)('sh', ['-c', command]);
    expect((await readFile(blob)).equals(content)).toBe(true);
    expect((await report(fleet, '--dry-run', '--deep')).run.exitCode).toBe(0);
  });

  test('a name that nothing ties to an artifact is left alone', async () => {
    await configure({ images: { track: [] } });
    const seen = await report(fleet);
    expect(seen.run).toMatchObject({ exitCode: 3, error: { code: 'NOTHING_JUDGED' } });
    const [row] = seen.nodes[0]?.images ?? [];
    expect(row).toMatchObject({ reference: NAME, verdict: 'unmanaged', plan: null });
    await isUntouched();
  });

  test('a name that a snapshot uses for its base, as newer vk-cocoon imports them', async () => {
    const key = `${IMAGE}:latest`;
    const base = makeQcow2({ seed: 'tied', size: SIZE });
    await node.cocoonWith(base, 'image', 'import', key);
    const imageDigest = (await keys())[key] ?? '';
    await node.addSnapshot({ name: 'simular/tied:v1', image: key, imageDigest });
    cleanups.push(async () => {
      await node.cocoon('snapshot', 'rm', 'simular/tied:v1');
      await rm(node.blobFile(imageDigest), { force: true });
    });
    await node.clearLog();
    await configure({ images: { track: [] } });
    const healed = await report(fleet);
    const row = imageOn(healed, NODE);
    expect(row).toMatchObject({ reference: key, verdict: 'stale', plan: 'import', outcome: 'healed' });
    expect((await keys())[key]).toBe(pushed.contentDigest);
    expect(snapshotOn(healed, NODE, 'simular/tied:v1').verdict).toBe('clonable');
  });

  test('nothing, where what it should become is not known', async () => {
    await rm(join(dir, 'state'), { recursive: true, force: true });
    await configure({ images: { ...TRACKED.images, stream: false } });
    const seen = await report(fleet);
    expect(seen.run.exitCode).toBe(2);
    const row = imageOn(seen, NODE);
    expect(row).toMatchObject({ verdict: 'stale', plan: null, want: null });
    expect(row.reason).toContain('content digest, which is not known');
    await isUntouched();
  });

  test('no more than there is room for, twice', async () => {
    const [keep, room] = [10 * SIZE, 2 * SIZE];
    await configure({ rollout: { minFreeBytes: keep } });
    await shadow(dir, NODE, 'df', `printf 'Avail\\n${keep + room - 1}\\n'`);
    cleanups.push(async () => await shadow(dir, NODE, 'df', null));
    expect(told(await reconciling().ended)).toEqual({ code: 2, outcome: 'skipped', error: 'NO_SPACE' });
    await isUntouched();
    await shadow(dir, NODE, 'df', `printf 'Avail\\n${keep + room}\\n'`);
    expect(told(await reconciling().ended)).toMatchObject({ code: 0, outcome: 'healed' });
  });

  test('no raw disk, which cocoon does not import: nothing is sent', async () => {
    await fleet.epoch.pushImage('simular/raw', 'latest', {
      content: Buffer.alloc(SIZE, 7),
      mediaType: 'application/vnd.cocoonstack.disk.raw',
    });
    await configure({ images: { track: [{ image: 'simular/raw', reference: NAME }] } });
    const failed = await report(fleet);
    const row = imageOn(failed, NODE, 'simular/raw');
    expect(row).toMatchObject({ outcome: 'failed', error: { code: 'ARTIFACT_UNSUPPORTED' } });
    await isUntouched();
  });
});

test('memory is bounded, however slowly the node takes the content', async () => {
  const huge = makeQcow2({ seed: 'huge', size: 160 * 2 ** 20, clusterBits: 16 });
  const { contentDigest } = await fleet.epoch.pushImage('simular/huge', 'latest', { content: huge });
  await configure({ images: { track: [{ image: 'simular/huge', reference: NAME }] } });
  await shadow(dir, NODE, 'stat', 'sleep 0.1; exec "$real" "$@"');
  cleanups.push(async () => await shadow(dir, NODE, 'stat', null));
  const args = ['--config', fleet.configFile, '--output', 'json'];
  const { code, stdout, peakBytes } = await withPeak(dir, args);
  expect(imageOn(parseReport(stdout), NODE, 'simular/huge')).toMatchObject({ outcome: 'healed', after: contentDigest });
  expect(code).toBe(0);
  expect(peakBytes).toBeLessThan(200e6);
  await rm(node.blobFile(contentDigest ?? ''));
});
