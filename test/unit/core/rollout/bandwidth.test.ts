/** What all pulls take together, whatever their sizes and when they are asked for. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { createPacer } from '../../../../src/core/rollout/bandwidth.ts';

test('up to the beginning of each pull no more was begun before it than the rate allows', () => {
  const pulls = fc.array(fc.record({ bytes: fc.integer({ min: 1, max: 1e6 }), afterMs: fc.nat(5000) }), {
    minLength: 1,
  });
  fc.assert(
    fc.property(pulls, fc.integer({ min: 1, max: 1e6 }), (all, rate) => {
      let now = 0;
      const pacer = createPacer(rate, () => now);
      let first: number | null = null;
      let begun = 0;
      let last = 0;
      for (const { bytes, afterMs } of all) {
        now += afterMs;
        const startsAt = now + pacer.book(bytes);
        first ??= startsAt;
        expect(startsAt).toBeGreaterThanOrEqual(last);
        expect(((startsAt - first) * rate) / 1000).toBeGreaterThanOrEqual(begun - 1e-3 * begun - 1);
        begun += bytes;
        last = startsAt;
      }
    }),
  );
});

test('the first begins at once, and after a pause the next does too', () => {
  let now = 1000;
  const pacer = createPacer(100, () => now);
  expect([pacer.book(50), pacer.book(50)]).toEqual([0, 500]);
  now = 9000;
  expect(pacer.book(1)).toBe(0);
});
