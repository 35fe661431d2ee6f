// Verification in depth: blobs are hashed where they lie, at idle priority, in every run anew.
import { existsSync } from 'node:fs';
import { chmod, cp, mkdtemp, readdir, readFile, realpath, rename, rm, stat, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { hashBlobs } from '../../src/node/hash.ts';
import type { Report } from '../../src/core/model/report.ts';
import { makeQcow2 } from '../doubles/cocoon/fixtures.ts';
import type { Artifact } from '../doubles/registry-content.ts';
import { startFleet, type Fleet, type FleetNode } from '../fleet/world.ts';
import { node as facts } from '../support/facts.ts';
import { localConnection } from '../support/fakes.ts';
import { cutConnections, isRoot, strays, until } from '../support/guard.ts';
import { imageOn, reconcile, report, snapshotOn, start } from '../support/reconcile.ts';
import { shadow, shadowDir, shadowed, watchHashing } from '../support/shadow.ts';

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

test('a flipped byte is found on the node that has it, and not without --deep', async () => {
  await write(flipped());
  expect(verdicts(await report(fleet, '--dry-run'))).toEqual(['in-sync', 'in-sync']);
  expect(await hashed()).toEqual([]);
  const found = await deep();
  expect(found.run.exitCode).toBe(2);
  expect(verdicts(found)).toEqual(['blob-corrupt', 'in-sync']);
  expect(imageOn(found, FIRST).reason).toContain('do not have its digest');
});

test('verify.blob: sha256 in the config is the same', async () => {
  await write(flipped());
  await fleet.writeConfig({ verify: { blob: 'sha256' } });
  expect(verdicts(await report(fleet, '--dry-run'))).toEqual(['blob-corrupt', 'in-sync']);
});

test.skipIf(!isRoot)('a user who must go through sudo finds it too', async () => {
  await write(flipped());
  await fleet.writeConfig({ ssh: { user: (await fleet.createOperator()).name } });
  expect(verdicts(await deep())).toEqual(['blob-corrupt', 'in-sync']);
});

test('at idle priority', async () => {
  await deep();
  expect(await hashed()).toEqual(['nice=19 idle']);
});

test('every run hashes anew: no earlier word is taken for the bytes', async () => {
  await deep();
  expect(await hashed()).toHaveLength(1);
  await write(flipped());
  const { atime, mtime } = await stat(blob);
  expect(verdicts(await deep())).toEqual(['blob-corrupt', 'in-sync']);
  await write(content);
  await utimes(blob, atime, mtime);
  expect(verdicts(await deep())).toEqual(['in-sync', 'in-sync']);
  expect(await hashed()).toHaveLength(2);
});

test('a lie that a node told yesterday of a file that is still the same does not pass today', async () => {
  await write(flipped());
  await shadow(dir, FIRST, 'sha256sum', `cat >/dev/null; echo '${(pushed.contentDigest ?? '').slice(7)}  -'`);
  expect(verdicts(await deep())).toEqual(['in-sync', 'in-sync']); // it speaks for itself, and for nobody else
  await shadow(dir, FIRST, 'sha256sum', null);
  expect(verdicts(await deep())).toEqual(['blob-corrupt', 'in-sync']);
  const { stdout } = await reconcile(
    fleet,
    'gate',
    '--image',
    `${fleet.epoch.url}/dl/${IMAGE}`,
    '--deep',
    '-o',
    'json',
  );
  expect((JSON.parse(stdout) as Report).gate?.questions[0]?.nodes.map(({ reasonCode }) => reasonCode)).toEqual([
    'BLOB_CORRUPT',
    'IN_SYNC',
  ]);
});

describe('where hashing fails the blob is neither sound nor bad', () => {
  test.each([
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

  test('the file is written to meanwhile', async () => {
    await shadow(dir, FIRST, 'sha256sum', `"$real" "$@"; touch '${blob}'`);
    const seen = await deep();
    expect(verdicts(seen)).toEqual(['unknown', 'in-sync']);
    expect(seen.run.exitCode).toBe(3);
  });

  test('it takes too long: the node ends it by itself, and tells of the others', async () => {
    const hex = (pushed.contentDigest ?? '').slice(7);
    const other = '7e'.repeat(32);
    await cp(blob, node.blobFile(`sha256:${other}`));
    await shadow(
      dir,
      FIRST,
      'sha256sum',
      'if [ -e "$0.hangs" ]; then sleep 600; fi; touch "$0.hangs"; exec "$real" "$@"',
    );
    const PATH = `${shadowDir(dir, FIRST)}:${process.env['PATH']}`;
    const items = [other, hex].map((of) => ({ hex: of, ranges: [] }));
    const { signal } = new AbortController();
    const settings = { ...facts().cocoon, rootDir: node.rootDir };
    const found = await hashBlobs(
      { connection: localConnection('/bin/sh', { PATH }), node: facts(FIRST, { cocoon: settings }), signal },
      items,
      2500,
    );
    expect(found).toMatchObject([{ hex: other, whole: pushed.contentDigest }, 'late']);
    await rm(node.blobFile(`sha256:${other}`));
    await rm(join(shadowDir(dir, FIRST), 'sha256sum.hangs'));
  });
});

describe('a node that is silent while it hashes', () => {
  test.each([
    ['whose sha256sum cannot be ended gently', 'sha256sum', `trap '' HUP INT PIPE TERM; while :; do sleep 600; done`],
    ['that does not begin', 'renice', 'sleep 600'],
  ])('%s costs its own rows and its share of the time, and keeps no process', async (_how, command, script) => {
    await shadow(dir, FIRST, command, script);
    try {
      const seen = await deep('--timeout', '6s');
      expect(verdicts(seen)).toEqual(['unknown', 'in-sync']);
      expect(imageOn(seen, FIRST).reason).toContain('the bytes of the blob could not be hashed: ');
      expect(seen.run).toMatchObject({ exitCode: 3, error: null });
      await until('no process is left', async () => (await strays(node)).length === 0, 5_000);
    } finally {
      await shadow(dir, FIRST, command, null);
    }
  });

  test('does not go on when its connection is lost, or the run interrupted', async () => {
    const begun = join(shadowDir(dir, FIRST), 'begun');
    await shadow(dir, FIRST, 'sha256sum', `touch '${begun}'; exec sleep 600`);
    for (const end of ['cut', 'SIGINT'] as const) {
      await rm(begun, { force: true });
      const { child, ended } = start(['--config', fleet.configFile, '--dry-run', '--deep', '-w', FIRST]);
      await until('hashing', () => existsSync(begun));
      if (end === 'cut') await cutConnections(fleet);
      else child.kill(end);
      await until(`no process is left after ${end}`, async () => (await strays(node)).length === 0, 5_000);
      expect((await ended).code).toBe(end === 'cut' ? 3 : 130);
    }
  });
});

test('the base that a snapshot opens is hashed too, whatever the index says', async () => {
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
  expect(await hashed()).toHaveLength(2);
  await rename(`${index}.kept`, index);
  expect(await readdir(join(node.rootDir, 'cloudimg', 'blobs'))).toHaveLength(2);
});
