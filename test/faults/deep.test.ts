// Verification in depth: blobs are hashed where they lie, at idle priority, and what was hashed once is remembered.
import { execFile } from 'node:child_process';
import { chmod, cp, mkdtemp, readdir, readFile, realpath, rename, rm, stat, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import type { Report } from '../../src/core/types.ts';
import { makeQcow2 } from '../fleet/cocoon/fixtures.ts';
import type { Artifact } from '../fleet/registry-content.ts';
import { startFleet, type Fleet, type FleetNode } from '../fleet/world.ts';
import { isRoot } from '../helpers/guard.ts';
import { imageOn, reconcile, report, snapshotOn } from '../helpers/reconcile.ts';
import { shadow, shadowDir, shadowed, watchHashing } from '../helpers/shadow.ts';

const FIRST = 'cocoonset-node-1';
const SECOND = 'cocoonset-node-2';
const IMAGE = 'simular/win11';
const HOT = 'simular/win11-hot:v1';

let dir: string;
let fleet: Fleet;
let node: FleetNode;
let content: Buffer;
let pushed: Artifact;
let blob: string;
let hashed: () => Promise<string[]>;

beforeAll(async () => {
  dir = await realpath(await mkdtemp(join(tmpdir(), 'deep-')));
  fleet = await startFleet({ dir, nodes: [shadowed(dir, FIRST), shadowed(dir, SECOND)] });
  node = fleet.node(FIRST);
  content = makeQcow2({ seed: 'deep', size: 128 * 1024 });
  pushed = await fleet.epoch.pushImage(IMAGE, 'latest', { content });
  for (const one of fleet.nodes) await one.pull(`${fleet.epoch.url}/dl/${IMAGE}`);
  blob = node.blobFile(pushed.contentDigest ?? '');
});
afterAll(async () => await fleet?.down());
beforeEach(async () => {
  await write(content);
  await rm(join(dir, 'state'), { recursive: true, force: true });
  hashed = await watchHashing(dir, FIRST);
});
afterEach(async () => {
  await fleet.writeConfig();
  await shadow(dir, FIRST, 'sha256sum', null);
});

async function write(bytes: Buffer, file = blob): Promise<void> {
  await chmod(file, 0o644);
  await writeFile(file, bytes);
}

function flipped(): Buffer {
  const copy = Buffer.from(content);
  copy[100_000] = (copy[100_000] ?? 0) ^ 0x10;
  return copy;
}

const deep = async (...args: string[]): Promise<Report> => await report(fleet, '--dry-run', '--deep', ...args);
const verdicts = (of: Report): string[] => of.nodes.map(({ name }) => imageOn(of, name).verdict);

it('a flipped byte is found on the node that has it, and not without --deep', async () => {
  await write(flipped());
  expect(verdicts(await report(fleet, '--dry-run'))).toEqual(['in-sync', 'in-sync']);
  expect(await hashed()).toEqual([]);
  const found = await deep();
  expect(found.run.exitCode).toBe(2);
  expect(verdicts(found)).toEqual(['blob-corrupt', 'in-sync']);
  expect(imageOn(found, FIRST).reason).toContain('do not have its digest');
});

it('verify.blob: sha256 in the config is the same', async () => {
  await write(flipped());
  await fleet.writeConfig({ verify: { blob: 'sha256' } });
  expect(verdicts(await report(fleet, '--dry-run'))).toEqual(['blob-corrupt', 'in-sync']);
});

it.skipIf(!isRoot)('a user who must go through sudo finds it too', async () => {
  await write(flipped());
  await fleet.writeConfig({ ssh: { user: (await fleet.createOperator()).name } });
  expect(verdicts(await deep())).toEqual(['blob-corrupt', 'in-sync']);
});

it('at idle priority', async () => {
  await deep();
  expect(await hashed()).toEqual(['nice=19 idle']);
});

it('the second run hashes nothing', async () => {
  await deep();
  expect(await hashed()).toHaveLength(1);
  const before = await readFile(join(dir, 'state', 'learned.json'), 'utf8');
  expect(before).toContain((pushed.contentDigest ?? '').slice(7));
  expect(verdicts(await deep())).toEqual(['in-sync', 'in-sync']);
  expect(await hashed()).toEqual([]);
});

it('a hash is remembered also where it is a wrong one', async () => {
  await write(flipped());
  await deep();
  expect(await hashed()).toHaveLength(1);
  expect(verdicts(await deep())).toEqual(['blob-corrupt', 'in-sync']);
  expect(await hashed()).toEqual([]);
});

describe('what has changed since is hashed again', () => {
  beforeEach(async () => {
    await deep();
    await hashed();
  });

  it('bytes written in place', async () => {
    await write(flipped());
    expect(verdicts(await deep())).toEqual(['blob-corrupt', 'in-sync']);
    expect(await hashed()).toHaveLength(1);
  });

  it('another file of the same size and time under its name', async () => {
    const { atime, mtime } = await stat(blob);
    const other = join(node.rootDir, 'other');
    await writeFile(other, flipped());
    await utimes(other, atime, mtime);
    await rename(other, blob);
    expect(verdicts(await deep())).toEqual(['blob-corrupt', 'in-sync']);
    expect(await hashed()).toHaveLength(1);
  });

  it('the same bytes at another time', async () => {
    await write(content);
    expect(verdicts(await deep())).toEqual(['in-sync', 'in-sync']);
    expect(await hashed()).toHaveLength(1);
  });

  it('everything, where the memory on the bastion is damaged', async () => {
    await writeFile(join(dir, 'state', 'learned.json'), '{"hashes":{"');
    expect(verdicts(await deep())).toEqual(['in-sync', 'in-sync']);
    expect(await hashed()).toHaveLength(1);
  });
});

describe('where hashing fails the blob is neither sound nor bad', () => {
  it.each([
    ['ends with an error', 'echo "sha256sum: input error" >&2; exit 1'],
    ['dies', 'kill -9 $$'],
    ['says something else', 'echo no digest at all, but quite a long line of something that is no digest'],
    ['is not there', 'exit 127'],
  ])('sha256sum %s', async (_how, script) => {
    await shadow(dir, FIRST, 'sha256sum', script);
    const { code, stdout, stderr } = await reconcile(fleet, '--deep', '--repair', 'replace', '--output', 'json');
    const seen = JSON.parse(stdout) as Report;
    expect(code).toBe(3);
    expect(verdicts(seen)).toEqual(['unknown', 'in-sync']);
    expect(imageOn(seen, FIRST)).toMatchObject({ plan: null, commands: [] });
    expect(imageOn(seen, FIRST).reason).toContain('could not be hashed');
    expect(stderr).toContain(`${FIRST}: blobs could not be hashed`);
    expect(content.equals(await readFile(blob))).toBe(true);
    await shadow(dir, FIRST, 'sha256sum', null);
    expect(verdicts(await deep())).toEqual(['in-sync', 'in-sync']);
  });

  it('the file is written to meanwhile', async () => {
    await shadow(dir, FIRST, 'sha256sum', `"$real" "$@"; touch '${blob}'`);
    const seen = await deep();
    expect(verdicts(seen)).toEqual(['unknown', 'in-sync']);
    expect(seen.run.exitCode).toBe(3);
  });

  it('it takes too long: the node ends it by itself', async () => {
    await shadow(dir, FIRST, 'sha256sum', 'sleep 600');
    const script = new URL('../../src/adapters/hash.sh', import.meta.url).pathname;
    const hex = (pushed.contentDigest ?? '').slice(7);
    const PATH = `${shadowDir(dir, FIRST)}:${process.env['PATH']}`;
    const { stdout } = await promisify(execFile)('sh', [script, 'nonce', node.rootDir, '1', hex], { env: { PATH } });
    expect(stdout).toMatch(new RegExp(`^cocoon-hash 1 nonce\nwhole ${hex}  \\d+ .*\ncocoon-hash end nonce\n$`));
  });
});

it('the base that a snapshot opens is hashed too, whatever the index says', async () => {
  const old = await fleet.epoch.pushImage('simular/old', 'latest', { content: makeQcow2({ seed: 'old' }) });
  const key = `${fleet.epoch.url}/dl/simular/old`;
  const imageDigest = old.contentDigest ?? '';
  await node.pull(key);
  await node.addSnapshot({ name: HOT, image: key, imageDigest });
  const index = join(node.rootDir, 'cloudimg', 'db', 'images.json');
  await cp(index, `${index}.kept`);
  await node.cocoon('image', 'rm', key);
  expect(snapshotOn(await deep(), FIRST, HOT).verdict).toBe('clonable');
  expect(await hashed()).toHaveLength(2);
  const bytes = await readFile(node.blobFile(imageDigest));
  bytes[bytes.length - 1] = (bytes.at(-1) ?? 0) ^ 1;
  await write(bytes, node.blobFile(imageDigest));
  expect(snapshotOn(await deep(), FIRST, HOT)).toMatchObject({ verdict: 'base-corrupt' });
  expect(await hashed()).toHaveLength(1);
  await rename(`${index}.kept`, index);
  expect(await readdir(join(node.rootDir, 'cloudimg', 'blobs'))).toHaveLength(2);
});
