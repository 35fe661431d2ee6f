// Nodes that lie about their hashes, over real SSH and with the real program. `lying-fleets.test.ts` has every kind of lie.
import { mkdtemp, realpath, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import type { Report } from '../../src/core/model/report.ts';
import { makeQcow2 } from '../doubles/cocoon/fixtures.ts';
import type { Artifact } from '../doubles/registry-content.ts';
import { startFleet, type Fleet } from '../fleet/world.ts';
import { imageOn, nodeOf, report } from '../support/reconcile.ts';
import { shadow, shadowed } from '../support/shadow.ts';

const NAMES = ['liar-1', 'liar-2', 'stale-1', 'stale-2', 'fresh-1'];
const IMAGE = 'simular/win11';
const HOT = 'simular/win11-hot:v1';
/** An odd length, so that the two parts differ in theirs: this liar goes by that. */
const contentOf = (seed: string): Buffer =>
  Buffer.concat([makeQcow2({ seed, size: 128 * 1024 }), Buffer.from(seed.slice(0, 1))]);

let dir: string;
let fleet: Fleet;
let old: Artifact;
let now: Artifact;
let key: string;

beforeAll(async () => {
  dir = await realpath(await mkdtemp(join(tmpdir(), 'liars-')));
  fleet = await startFleet({ dir, nodes: NAMES.map((name) => shadowed(dir, name)) });
  key = `${fleet.epoch.url}/dl/${IMAGE}`;
  old = await fleet.epoch.pushImage(IMAGE, 'latest', { content: contentOf('old'), parts: 2 });
  for (const name of NAMES.slice(0, 4)) await fleet.node(name).pull(key);
  now = await fleet.epoch.pushImage(IMAGE, 'latest', { content: contentOf('new'), parts: 2 });
  await fleet.node('fresh-1').pull(key);
  await fleet.node('stale-1').addSnapshot({ name: HOT, image: key, imageDigest: old.contentDigest ?? '' });
  await fleet.node('fresh-1').addSnapshot({ name: HOT, image: key, imageDigest: now.contentDigest ?? '' });
});
afterAll(async () => await fleet?.down());

/** What a node says of its hashes, by the length of what it reads: that its old blob is what epoch serves. */
async function lieOfHashes(name: string): Promise<void> {
  const [first, second] = now.layers;
  const claims = [
    [first?.size, first?.digest],
    [second?.size, second?.digest],
    [contentOf('old').length, old.contentDigest],
  ].map(([size, digest]) => `${size}) echo "${String(digest).slice(7)}  -" ;;`);
  await shadow(dir, name, 'sha256sum', `case $(wc -c) in ${claims.join(' ')} esac`);
}

async function beHonest(): Promise<void> {
  for (const name of NAMES) await shadow(dir, name, 'sha256sum', null);
}

const MODES: [string, string[]][] = [
  ['a dry run', ['--dry-run']],
  ['a dry run in depth', ['--dry-run', '--deep']],
  ['a gate in depth', ['gate', '--deep', '--snapshot', HOT, '--image', '']],
];

/** Every row and every answer of all nodes but the liars, from runs that share their memory. */
async function othersOf(liars: string[]): Promise<Record<string, unknown>> {
  await rm(join(dir, 'state'), { recursive: true, force: true });
  const all: [string, unknown][] = [];
  for (const [mode, args] of MODES) {
    const of: Report = await report(fleet, ...args.map((arg) => (arg === '' ? key : arg)));
    const rows = of.nodes
      .filter(({ name }) => !liars.includes(name))
      .map(({ images, snapshots }) => ({ images, snapshots }));
    const answers = of.gate?.questions.flatMap(({ nodes }) => nodes.filter(({ node }) => !liars.includes(node)));
    all.push([mode, { rows: rows.map((row) => JSON.parse(JSON.stringify(row)) as unknown), answers }]);
  }
  return Object.fromEntries(all);
}

describe('where nobody reads the parts', () => {
  // Without canaries: who of several drifted nodes comes first depends on who else has drifted.
  beforeAll(async () => await fleet.writeConfig({ images: { stream: false }, rollout: { canary: 0 } }));
  afterEach(beHonest);

  test('false hashes of two nodes change no row of another node', async () => {
    const liars = ['liar-1', 'liar-2'];
    const honest = await othersOf(liars);
    for (const name of liars) await lieOfHashes(name);
    expect(await othersOf(liars)).toEqual(honest);
    const seen = await report(fleet, '--dry-run');
    expect(liars.map((name) => imageOn(seen, name).verdict)).toEqual(['in-sync', 'in-sync']);
    expect(imageOn(seen, 'stale-1')).toMatchObject({ verdict: 'stale', want: null, plan: 'pull' });
    expect(imageOn(seen, 'fresh-1')).toMatchObject({ verdict: 'in-sync', want: null });
  });

  test('the word of a liar holds for itself until it is asked for depth, and is honest', async () => {
    await rm(join(dir, 'state'), { recursive: true, force: true });
    await lieOfHashes('liar-1');
    const own = async (...args: string[]): Promise<string> =>
      imageOn(await report(fleet, '--dry-run', '--node', 'liar-1', ...args), 'liar-1').verdict;
    expect(await own()).toBe('in-sync');
    await beHonest();
    expect(await own()).toBe('in-sync');
    expect(await own('--deep')).toBe('stale');
    expect(await own()).toBe('stale');
  });
});

test('what an earlier version believed of a node is not believed', async () => {
  const answer = await fetch(`${fleet.epoch.url}/v2/${IMAGE}/manifests/latest`);
  const manifest = answer.headers.get('docker-content-digest');
  const learned = { content: { digest: old.contentDigest, source: 'node' }, disproved: [now.contentDigest] };
  await fleet.writeConfig({ images: { stream: false } });
  await report(fleet, '--dry-run'); // makes the directory
  await writeFile(
    join(dir, 'state/learned.json'),
    JSON.stringify({ version: 1, learned: { [String(manifest)]: learned }, hashes: {} }),
  );
  const seen = await report(fleet, '--dry-run');
  expect(seen.nodes.map(({ name }) => imageOn(seen, name).verdict)).toEqual([
    'stale',
    'stale',
    'stale',
    'stale',
    'in-sync',
  ]);
  expect(nodeOf(seen, 'fresh-1').snapshots).toMatchObject([{ verdict: 'clonable' }]);
});
