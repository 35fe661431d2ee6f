/** What a shard hears of the others, and what it may not begin because of it. */
import { describe, expect, test } from 'vitest';
import type { SharedRun } from '../../../../src/bastion/shared-run.ts';
import { fault } from '../../../../src/core/errors.ts';
import type { Action } from '../../../../src/core/model/plan.ts';
import { NOTHING_SAID, type Standing } from '../../../../src/core/shard/standing.ts';
import { openBoard, type Board } from '../../../../src/pipeline/apply/board.ts';

const IMAGE = { image: 'simular/win11', tag: 'latest' } as Action;
const NAME = 'simular/win11:latest';

interface Shared extends SharedRun {
  said: (Standing | null)[];
  isLost: boolean;
}

function shared(said: (Standing | null)[] = [null, null]): Shared {
  const of: Shared = {
    id: 'r',
    said,
    isLost: false,
    tell: async (standing) => {
      if (of.isLost) throw fault('SHARED_DIR_LOST', { dir: '/shared', why: 'ENOSPC' });
      of.said[0] = standing;
    },
    read: async () => {
      if (of.isLost) throw fault('SHARED_DIR_LOST', { dir: '/shared', why: 'ENOENT' });
      return [...of.said];
    },
  };
  return of;
}

async function board(of: SharedRun, value = 2): Promise<Board> {
  const maxFailures = { value, percent: false };
  return await openBoard(of, { shard: { index: 0, count: 2 }, maxFailures, signal: new AbortController().signal });
}

describe('nothing is begun', () => {
  test('once the directory is lost, also where it comes back', async () => {
    const of = shared();
    const mine = await board(of);
    expect(await mine.whyNot(IMAGE)).toBeNull();
    of.isLost = true;
    expect(await mine.whyNot(IMAGE)).toMatchObject({ code: 'SHARED_DIR_LOST' });
    of.isLost = false;
    expect(await mine.whyNot(IMAGE)).toMatchObject({ code: 'SHARED_DIR_LOST' });
  });

  test('once nothing can be told, as on a full disk', async () => {
    const of = shared();
    const mine = await board(of);
    of.isLost = true;
    await mine.tell({ phase: 'planned' });
    of.isLost = false;
    expect(await mine.whyNot(IMAGE)).toMatchObject({ code: 'SHARED_DIR_LOST' });
    expect(of.said[0]).toBeNull();
  });

  test('of an image that another shard has stopped, and of any where all together failed too often', async () => {
    const of = shared();
    const mine = await board(of);
    of.said[1] = { ...NOTHING_SAID, verdicts: { [NAME]: 'stopped' } };
    expect(await mine.whyNot(IMAGE)).toMatchObject({
      code: 'NOT_STARTED',
      message: expect.stringContaining('shard 1/2') as string,
    });
    of.said[1] = { ...NOTHING_SAID, failures: 2 };
    expect(await mine.whyNot(IMAGE)).toBeNull();
    await mine.tell({ failures: 1 });
    expect(await mine.whyNot(IMAGE)).toMatchObject({
      code: 'NOT_STARTED',
      message: expect.stringContaining('all shards') as string,
    });
  });
});

test('a shard that is started again takes nothing back that it said', async () => {
  const before: Standing = { ...NOTHING_SAID, phase: 'canaries', verdicts: { [NAME]: 'healed' } };
  const of = shared([before, null]);
  const mine = await board(of);
  await mine.tell({ phase: 'planned', planned: { [NAME]: 3 } });
  expect(of.said[0]).toEqual({ ...before, planned: { [NAME]: 3 } });
});

test('what is told is told in its order, and the wait ends when the time is over', async () => {
  const of = shared();
  const mine = await board(of);
  await Promise.all([mine.tell({ phase: 'planned' }), mine.tell({ failures: 1 }), mine.tell({ phase: 'done' })]);
  expect(of.said[0]).toMatchObject({ phase: 'done', failures: 1 });
  expect(await mine.until(() => false, 1)).toBe(false);
  expect(await mine.until(() => true, 0)).toBe(true);
});
