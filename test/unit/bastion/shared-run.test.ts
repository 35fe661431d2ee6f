/** How the shards of one run find each other, and no other run's. */
import { mkdir, mkdtemp, readdir, rm, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { joinRun, type Joining, type SharedRun } from '../../../src/bastion/shared-run.ts';
import { NOTHING_SAID } from '../../../src/core/shard/standing.ts';

const signal = new AbortController().signal;
let dir: string;
beforeEach(async () => (dir = await mkdtemp(join(tmpdir(), 'shards-'))));
afterEach(async () => await rm(dir, { recursive: true, force: true }));

let ids = 0;
async function join_(index: number, over: Partial<Joining> = {}, count = 3): Promise<SharedRun> {
  return await joinRun(
    dir,
    { shard: { index, count }, config: 'c', named: null, id: `r${(ids += 1)}`, ...over },
    signal,
  );
}

test('all that start at about one time are of one run, in whatever order, and each start after that is of the next', async () => {
  const first = await Promise.all([2, 0, 1].map(async (index) => await join_(index)));
  expect(new Set(first.map(({ id }) => id)).size).toBe(1);
  const second = [await join_(1), await join_(0), await join_(2)];
  expect(new Set(second.map(({ id }) => id)).size).toBe(1);
  expect(second[0]?.id).not.toBe(first[0]?.id);
});

test('another config, or another number of shards, is another run', async () => {
  const [a, b, c] = [await join_(0), await join_(1, { config: 'd' }), await join_(1, {}, 4)];
  expect(new Set([a.id, b.id, c.id]).size).toBe(3);
});

test('a run that is named is the same for a shard that is started again', async () => {
  const [a, b] = [await join_(0, { named: 'job-7' }), await join_(0, { named: 'job-7' })];
  expect([a.id, b.id]).toEqual(['job-7', 'job-7']);
  expect((await join_(0, { named: 'job-8' })).id).toBe('job-8');
});

test('each hears what the others say, and nothing that none of them has written', async () => {
  const [a, b] = [await join_(0), await join_(1)];
  await b.tell({ ...NOTHING_SAID, phase: 'planned', planned: { 'a:1': 2 } });
  expect(await a.read()).toEqual([null, { ...NOTHING_SAID, phase: 'planned', planned: { 'a:1': 2 } }, null]);
  const [run = ''] = await readdir(dir);
  await writeFile(join(dir, run, 'shard-2.json'), '{"phase":');
  await expect(a.read()).rejects.toThrow('cannot meet');
  await rm(join(dir, run), { recursive: true });
  await expect(a.read()).rejects.toThrow('cannot meet');
  await expect(a.tell(NOTHING_SAID)).rejects.toThrow('cannot meet');
});

test('a run that was made and never named, or is old, takes nobody; a directory that is none is said', async () => {
  const old = await join_(0);
  await mkdir(join(dir, 'run-7'));
  await writeFile(join(dir, 'run-7', 'run.json'), 'no JSON');
  expect((await join_(1)).id).not.toBe(old.id);
  await utimes(join(dir, 'run-7'), 0, 0);
  await writeFile(join(dir, 'file'), '');
  await expect(
    joinRun(join(dir, 'file'), { shard: { index: 0, count: 1 }, config: 'c', named: null, id: 'r' }, signal),
  ).rejects.toThrow('EEXIST');
});

test('old runs are forgotten', async () => {
  for (let i = 0; i < 14; i += 1) await join_(0);
  expect((await readdir(dir)).filter((name) => name.startsWith('run-'))).toHaveLength(10);
});
