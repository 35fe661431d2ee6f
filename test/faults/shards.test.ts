// Several processes heal one fleet together, each its part: what concerns the fleet is kept by all of them.
import { rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import type { Report } from '../../src/core/model/report.ts';
import { shardOf } from '../../src/core/shard/shard.ts';
import { makeQcow2 } from '../doubles/cocoon/fixtures.ts';
import { mostAtOnce, watchPulls, type Pull } from '../fleet/pull-log.ts';
import { startFleet, type Fleet } from '../fleet/world.ts';
import { until } from '../support/guard.ts';
import { parseReport, start, type Run, type Started } from '../support/reconcile.ts';

const SHARDS = 3;
const MAX_PULLS = 2;
const CANARY = 2;
const IMAGES = ['simular/win11', 'simular/ubuntu'];

let fleet: Fleet;
let watched: Awaited<ReturnType<typeof watchPulls>>;
let pushes = 0;

const key = (image: string): string => `${fleet.epoch.url}/dl/${image}`;

const CONFIG = (): Record<string, unknown> => ({
  run: { sharedDir: join(fleet.dir, 'shared'), stateDir: join(fleet.dir, 'state') },
  rollout: { maxPulls: MAX_PULLS, canary: CANARY },
});

beforeAll(async () => {
  fleet = await startFleet({ nodes: 5 });
  for (const image of IMAGES) {
    await push(image);
    await Promise.all(fleet.nodes.map((node) => node.pull(key(image))));
  }
  await fleet.writeConfig(CONFIG());
  watched = await watchPulls(fleet);
});
afterAll(async () => await fleet?.down());
beforeEach(async () => await watched.clear());

async function push(image: string): Promise<void> {
  await fleet.epoch.pushImage(image, 'latest', { content: makeQcow2({ seed: `${image} ${(pushes += 1)}` }) });
}

function startShards(...args: string[]): Started[] {
  return Array.from({ length: SHARDS }, (_, i) =>
    start(['--config', fleet.configFile, '--output', 'json', '--shard', `${i}/${SHARDS}`, ...args]),
  );
}

async function merged(runs: Run[]): Promise<Report> {
  const files = await Promise.all(
    runs.map(async ({ stdout }, i) => {
      const file = join(fleet.dir, `${i}.json`);
      await writeFile(file, stdout);
      return file;
    }),
  );
  const { code, stdout, stderr } = await start(['merge', '--output', 'json', ...files]).ended;
  const report = parseReport(stdout, stderr);
  expect(report.run.exitCode).toBe(code);
  return report;
}

/** No pull of an image began before so many others of it had ended well. */
function expectCanariesFirst(pulls: Pull[]): void {
  for (const image of IMAGES) {
    const of = pulls.filter(({ reference }) => reference === key(image));
    const ends = of.map(({ endedAt }) => endedAt ?? Infinity).sort((a, b) => a - b);
    for (const { beganAt } of of.slice(CANARY)) expect(beganAt).toBeGreaterThan(ends[CANARY - 1] ?? Infinity);
  }
}

test('all of it is healed, canaries first, with no more pulls at once than one process would do', async () => {
  for (const image of IMAGES) await push(image);
  const report = await merged(await Promise.all(startShards().map(async ({ ended }) => await ended)));
  expect(report.run).toMatchObject({ exitCode: 0, shard: null });
  expect(report.summary.actions).toMatchObject({ planned: 10, healed: 10 });
  const waves = report.nodes.flatMap(({ images }) => images).filter(({ wave }) => wave === 0);
  expect(waves).toHaveLength(CANARY * IMAGES.length);
  const pulls = await watched.pulls();
  expect(pulls.map(({ node, reference }) => `${node} ${reference}`).sort()).toEqual(
    fleet.nodes.flatMap(({ name }) => IMAGES.map((image) => `${name} ${key(image)}`)).sort(),
  );
  expect(mostAtOnce(pulls)).toBeLessThanOrEqual(MAX_PULLS);
  expectCanariesFirst(pulls);
});

test('one that dies while it has the canaries holds its image back everywhere, and the next run heals it', async () => {
  const [image = ''] = IMAGES;
  await push(image);
  for (const node of fleet.nodes) await node.setEnv({ COCOON_DOUBLE_PULL_DELAY_MS: '60000' });
  const shards = startShards('--timeout', '20s');
  await until('a canary is being pulled', async () => (await watched.pulls()).length > 0);
  const [first] = await watched.pulls();
  const owner = shardOf(first?.node ?? '', SHARDS);
  shards[owner]?.child.kill('SIGKILL');
  await shards[owner]?.ended.catch(() => undefined);
  for (const node of fleet.nodes) await node.setEnv({ COCOON_DOUBLE_PULL_DELAY_MS: undefined });
  const others = await Promise.all(shards.filter((_, i) => i !== owner).map(async ({ ended }) => await ended));
  for (const { code, stdout: said } of others) {
    const rows = parseReport(said).nodes.flatMap(({ images }) =>
      images.filter(({ reference }) => reference === key(image)),
    );
    expect(rows.every(({ outcome, error }) => outcome === 'skipped' && error?.code === 'SHARD_WAITED')).toBe(true);
    expect(code).toBe(rows.length === 0 ? 0 : 2);
  }
  expect(new Set((await watched.pulls()).map(({ node }) => node)).size).toBeLessThanOrEqual(CANARY);

  await watched.clear();
  const report = await merged(await Promise.all(startShards().map(async ({ ended }) => await ended)));
  expect(report.run.exitCode).toBe(0);
  expectCanariesFirst(await watched.pulls());
});

test('all pulls together keep within the bandwidth', async () => {
  const [image = ''] = IMAGES;
  await push(image);
  const { length: bytes } = makeQcow2({ seed: `${image} ${pushes}` });
  const rollout = { maxPulls: 5, canary: 0, bandwidth: 2 * bytes };
  await fleet.writeConfig({ run: { stateDir: join(fleet.dir, 'state') }, rollout });
  const { code, stderr } = await start(['--config', fleet.configFile, '--image', image]).ended;
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
  const begins = (await watched.pulls()).map(({ beganAt }) => beganAt);
  expect(begins).toHaveLength(5);
  // half a second apart; one whose way there took longer may have come closer to the next
  expect((begins.at(-1) ?? 0) - (begins[0] ?? 0)).toBeGreaterThan(1000);
  await fleet.writeConfig(CONFIG());
});

test('where they cannot meet, nothing is pulled', async () => {
  const [image = ''] = IMAGES;
  await push(image);
  await rm(join(fleet.dir, 'shared'), { recursive: true });
  await writeFile(join(fleet.dir, 'shared'), '');
  for (const { code, stdout } of await Promise.all(startShards().map(async ({ ended }) => await ended)))
    expect({ code, error: parseReport(stdout).run.error?.code }).toEqual({ code: 1, error: 'SHARED_DIR_LOST' });
  expect(await watched.pulls()).toEqual([]);
});
