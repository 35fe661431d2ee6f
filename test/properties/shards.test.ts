/** Parts of a fleet: each node in exactly one, and what belongs together in one place. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { limitOf, membersOf, parseShard, shardName, shardOf, shardsFor, shareOf } from '../../src/core/shard/shard.ts';
import {
  canaryShards,
  NOTHING_SAID,
  parseStanding,
  turnAfter,
  verdictOn,
  type Phase,
  type Standing,
} from '../../src/core/shard/standing.ts';

const names = fc.uniqueArray(fc.string({ minLength: 1, maxLength: 30 }), { minLength: 1, maxLength: 60 });
const counts = fc.integer({ min: 1, max: 40 });

describe('a node', () => {
  test('is in exactly one shard', () => {
    fc.assert(
      fc.property(names, counts, (all, count) => {
        const members = all.map((name) => ({ name }));
        const parts = Array.from({ length: count }, (_, index) => membersOf(members, { index, count }));
        expect(parts.flat().toSorted((a, b) => (a.name < b.name ? -1 : 1))).toEqual(
          members.toSorted((a, b) => (a.name < b.name ? -1 : 1)),
        );
      }),
    );
  });

  test('stays where it is when another one is added, and moves only to a shard that is added', () => {
    fc.assert(
      fc.property(fc.string({ minLength: 1 }), counts, (name, count) => {
        const [before, after] = [shardOf(name, count), shardOf(name, count + 1)];
        expect([before, count]).toContain(after);
      }),
    );
  });

  test('is in the shard that comes first for it, and the order has every shard once', () => {
    fc.assert(
      fc.property(fc.string(), counts, (name, count) => {
        const order = shardsFor(name, count);
        expect(order[0]).toBe(shardOf(name, count));
        expect(order.toSorted((a, b) => a - b)).toEqual(Array.from({ length: count }, (_, index) => index));
      }),
    );
  });

  test.each([2, 8, 100])('is as likely in each of %i shards, for names as fleets have them', (count) => {
    for (const prefix of ['cocoonset-node-', 'ip-10-0-0-', 'n']) {
      const sizes = Array.from({ length: count }, () => 0);
      const nodes = 1000 * count;
      for (let i = 0; i < nodes; i += 1) {
        const shard = shardOf(`${prefix}${i}`, count);
        sizes[shard] = (sizes[shard] ?? 0) + 1;
      }
      expect(Math.min(...sizes)).toBeGreaterThan(850);
      expect(Math.max(...sizes)).toBeLessThan(1150);
    }
  });

  test('is where it was in every version of the program', () => {
    expect(['cocoonset-node-1', 'cocoonset-node-2', 'ä', ''].map((name) => shardOf(name, 8))).toEqual(PINNED);
  });
});

const PINNED = [2, 0, 2, 0];

describe('I/N', () => {
  test.each(['0/1', '7/8', '9999/10000'])('%s is a shard', (text) => {
    const shard = parseShard(text);
    expect(shard === null ? null : shardName(shard)).toBe(text);
  });
  test.each(['', '1', '8/8', '-1/8', '01/8', '1/08', '0/0', '1/8 ', '1.5/8', '0/10001', '1/8/2'])(
    '"%s" is none',
    (text) => {
      expect(parseShard(text)).toBeNull();
    },
  );
});

describe('what all share', () => {
  test('is divided without a rest, the first have the most, and nobody has more than one more', () => {
    fc.assert(
      fc.property(fc.nat(1000), counts, (total, count) => {
        const shares = Array.from({ length: count }, (_, index) => shareOf(total, { index, count }));
        expect(shares.reduce((a, b) => a + b, 0)).toBe(total);
        expect(shares.toSorted((a, b) => b - a)).toEqual(shares);
        expect((shares[0] ?? 0) - (shares.at(-1) ?? 0)).toBeLessThanOrEqual(1);
      }),
    );
  });

  test('is a share of its own where it is a percentage', () => {
    expect(limitOf({ value: 10, percent: true }, { index: 3, count: 8 })).toEqual({ value: 10, percent: true });
    expect(limitOf({ value: 10, percent: false }, { index: 3, count: 8 })).toEqual({ value: 1, percent: false });
  });
});

const standing = (over: Partial<Standing> = {}): Standing => ({ ...NOTHING_SAID, phase: 'planned', ...over });

describe('the canaries of an image', () => {
  const plans = fc.array(fc.nat(5), { minLength: 1, maxLength: 12 });
  const IMAGE = 'simular/win11:latest';

  test('are as many as asked for, or all nodes, and in one shard where one has enough', () => {
    fc.assert(
      fc.property(plans, fc.integer({ min: 1, max: 4 }), (nodes, canary) => {
        const found = canaryShards(
          IMAGE,
          canary,
          nodes.map((n) => standing({ planned: n === 0 ? {} : { [IMAGE]: n } })),
        );
        const total = [...(found ?? [])].reduce((sum, [, n]) => sum + n, 0);
        expect(total).toBe(
          Math.min(
            canary,
            nodes.reduce((a, b) => a + b, 0),
          ),
        );
        for (const [index, n] of found ?? []) expect(n).toBeLessThanOrEqual(nodes[index] ?? 0);
        if (nodes.some((n) => n >= canary)) expect(found?.size).toBe(1);
      }),
    );
  });

  test('are nowhere while a shard has not planned, and nothing goes past them until all are healed', () => {
    fc.assert(
      fc.property(plans, fc.integer({ min: 1, max: 4 }), fc.nat(), fc.nat(), (nodes, canary, silent, unhealed) => {
        const all = nodes.map((n) => standing({ planned: { [IMAGE]: n + 1 } }));
        const without = all.with(silent % all.length, standing({ phase: 'reading' }));
        expect(canaryShards(IMAGE, canary, without)).toBeNull();
        expect(verdictOn(IMAGE, canary, without).verdict).toBe('open');
        const shards = [...(canaryShards(IMAGE, canary, all) ?? new Map<number, number>()).keys()];
        const said = all.map((one, index) =>
          shards.includes(index) ? { ...one, verdicts: { [IMAGE]: 'healed' as const } } : one,
        );
        expect(verdictOn(IMAGE, canary, said).verdict).toBe('healed');
        const late = shards[unhealed % shards.length] ?? 0;
        expect(verdictOn(IMAGE, canary, said.with(late, standing({ planned: { [IMAGE]: 9 } })))).toEqual({
          verdict: 'open',
          shard: late,
        });
        const stopped = said.with(
          silent % all.length,
          standing({ planned: { [IMAGE]: 9 }, verdicts: { [IMAGE]: 'stopped' } }),
        );
        expect(verdictOn(IMAGE, canary, stopped).verdict).toBe('stopped');
      }),
    );
  });
});

describe('with fewer pulls than shards', () => {
  /** Lets shards take their turns in a random order until none can, and counts how many are at work at once. */
  function play(count: number, maxPulls: number, pick: (ready: number) => number): { most: number; left: number } {
    const reached = Array.from({ length: count }, (): Phase => 'planned');
    const atWork = new Map<number, 'canaries' | 'done'>();
    let most = 0;
    const mayBegin = (index: number): 'canaries' | 'done' | null => {
      const next = reached[index] === 'planned' ? 'canaries' : reached[index] === 'canaries' ? 'done' : null;
      if (next === null || atWork.has(index)) return null;
      // all else waits for the canaries of all shards, as an image that has them anywhere may do
      if (next === 'done' && reached.includes('planned')) return null;
      const turn = turnAfter({ index, count }, maxPulls, next);
      if (turn === null) return next;
      const has = reached[turn.shard];
      return has === 'done' || has === turn.phase ? next : null;
    };
    for (;;) {
      const begin = reached.flatMap((_, index) =>
        mayBegin(index) === null ? [] : [() => void atWork.set(index, mayBegin(index) ?? 'done')],
      );
      const end = [...atWork].map(([index, phase]) => () => {
        reached[index] = phase;
        atWork.delete(index);
      });
      const steps = [...begin, ...end];
      if (steps.length === 0) return { most, left: reached.filter((phase) => phase !== 'done').length };
      steps[pick(steps.length)]?.();
      most = Math.max(most, atWork.size);
    }
  }

  test('never more shards pull at once than pulls are allowed, and every shard has its turn', () => {
    fc.assert(
      fc.property(
        counts,
        fc.integer({ min: 1, max: 12 }),
        fc.infiniteStream(fc.nat(1000)),
        (count, maxPulls, picks) => {
          const { most, left } = play(count, maxPulls, (ready) => (picks.next().value ?? 0) % ready);
          expect(left).toBe(0);
          if (maxPulls < count) expect(most).toBeLessThanOrEqual(maxPulls);
        },
      ),
    );
  });
});

test('what is no standing of a shard is refused, and one that is survives', () => {
  const sound = standing({
    phase: 'canaries',
    planned: { 'a:1': 3 },
    verdicts: { 'a:1': 'healed' },
    actions: 3,
    failures: 1,
  });
  expect(parseStanding(JSON.parse(JSON.stringify(sound)))).toEqual(sound);
  for (const bad of [
    null,
    [],
    {},
    { ...sound, phase: 'x' },
    { ...sound, planned: { a: -1 } },
    { ...sound, verdicts: { a: 'ok' } },
  ])
    expect(() => parseStanding(bad)).toThrow();
});
