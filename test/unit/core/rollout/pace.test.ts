/** How quickly images come, what fits, and what the next run is told. */
import { expect, test } from 'vitest';
import { forecast, forecastWords, paceOf, pullsAtOnce } from '../../../../src/core/rollout/pace.ts';
import { NOTHING_REMEMBERED } from '../../../../src/core/model/rollout.ts';

test('pulls that share the way are each slower than all together', () => {
  const pulls = [
    { bytes: 10_000, startedAt: 0, endedAt: 10_000 },
    { bytes: 10_000, startedAt: 0, endedAt: 10_000 },
    { bytes: 10_000, startedAt: 20_000, endedAt: 25_000 },
  ];
  expect(paceOf(pulls)).toEqual({ each: 1200, all: 2000 });
});

test('what was over at once tells no pace', () => {
  expect(paceOf([])).toBeNull();
  expect(paceOf([{ bytes: 10, startedAt: 0, endedAt: 5 }])).toBeNull();
});

test('a forecast says bytes, time, and what will not fit', () => {
  const pace = { each: 10e6, all: 40e6 };
  const sizes = Array.from({ length: 58 }, () => 12e9);
  expect(forecast(sizes, pace, 3 * 3600_000)).toEqual({ pulls: 58, bytes: 696e9, needMs: 17_400_000, unfit: 22 });
  expect(forecast(sizes, null, 1000)).toEqual({ pulls: 58, bytes: 696e9, needMs: null, unfit: null });
  expect(forecast([], pace, 1000)).toEqual({ pulls: 0, bytes: 0, needMs: 0, unfit: 0 });
});

test('a forecast is one line for people', () => {
  const pace = { each: 10e6, all: 37e6 };
  const of = { pulls: 58, bytes: 696e9, needMs: 18_600_000, unfit: 31 };
  expect(forecastWords(of, pace, '06:00')).toBe(
    '58 pulls, 696 GB, about 5h10m at 37.0 MB/s; 31 will not fit before 06:00',
  );
  expect(forecastWords({ ...of, unfit: 0 }, pace, '06:00')).toBe('58 pulls, 696 GB, about 5h10m at 37.0 MB/s');
  expect(forecastWords({ ...of, needMs: null, unfit: null }, null, '06:00')).toBe('58 pulls, 696 GB');
});

test('at least one pull goes on, however slow', () => {
  expect([pullsAtOnce(1e15, { each: 1, all: 1 }), pullsAtOnce(1e9, null), pullsAtOnce(0, null)]).toEqual([
    1,
    Infinity,
    Infinity,
  ]);
});

test('nothing is remembered of no run', () => {
  expect(NOTHING_REMEMBERED).toEqual({ failed: [], leftOut: [], pace: null });
});
