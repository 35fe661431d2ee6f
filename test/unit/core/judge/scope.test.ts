/** Which entries are managed on which node: pools limit everything that an item of the config does. */
import { describe, expect, test } from 'vitest';
import { judgeImages } from '../../../support/judging.ts';
import type { TrackedImage } from '../../../../src/core/model/desired.ts';
import {
  container,
  desired,
  entry,
  EPOCH,
  node,
  observation,
  OCI,
  served,
  sha,
  tracked,
  WIN11,
  type Given,
} from '../../../support/facts.ts';

const LATEST = `${WIN11}/latest`;
const GOLDEN = 'golden';
const META: Given = served([desired(), container()], {
  covers: { [WIN11]: [0], [LATEST]: [0], [GOLDEN]: [0], [OCI]: [1] },
  meant: { [WIN11]: true, [LATEST]: true },
  tracked: [],
});

/** The references that are managed on a node of the pool. */
function managed(over: Partial<Given>, pool: string): string[] {
  const entries = [WIN11, LATEST, GOLDEN].map((key) => entry(sha('a1'), key));
  const rows = judgeImages(
    { ...META, ...over },
    observation({ entries: [...entries, entry(sha('c3'), OCI, 'oci')] }, node('node-1', { pool })),
  );
  return rows.filter(({ have, verdict }) => have !== null && verdict !== 'unmanaged').map(({ reference }) => reference);
}

describe.each<[string, Partial<TrackedImage>, string[], string[]]>([
  ['an image', {}, [WIN11, LATEST], [WIN11, LATEST]],
  ['an image under a name', { reference: GOLDEN }, [WIN11, LATEST, GOLDEN], [WIN11, LATEST]],
  [
    'an image of another registry',
    { image: 'a/b', tag: '1', registry: 'ghcr.io', reference: OCI },
    [OCI],
    [WIN11, LATEST],
  ],
])('%s that is tracked for one pool', (_, item, inside, discovered) => {
  const one = [tracked({ pools: ['gpu'], ...item })];

  test('is managed there, and nowhere else', () => {
    expect(managed({ tracked: one, discover: false }, 'gpu')).toEqual(inside);
    expect(managed({ tracked: one, discover: false }, 'default')).toEqual([]);
  });

  test('is elsewhere what discovering makes of it', () => {
    expect(managed({ tracked: one }, 'default')).toEqual(discovered);
  });

  test('and for another by a second item is managed in both', () => {
    const two = [...one, tracked({ ...item, pools: ['default'] })];
    expect(managed({ tracked: two, discover: false }, 'default')).toEqual(inside);
    expect(managed({ tracked: two, discover: false }, 'third')).toEqual([]);
  });
});

test('the base of a snapshot is managed where that snapshot is judged', () => {
  const bases = { 'node-1': [LATEST], other: [GOLDEN] };
  expect(managed({ bases, discover: false }, 'default')).toEqual([WIN11, LATEST]);
  expect(managed({ bases: { 'node-1': [GOLDEN] }, discover: false }, 'default')).toEqual([WIN11, LATEST, GOLDEN]);
  expect(managed({ bases: { other: [LATEST] }, discover: false }, 'default')).toEqual([]);
});

test('an entry outside the pools says which they are', () => {
  const at = { ...META, discover: false, tracked: [tracked({ pools: ['gpu', 'big'] })] };
  const [row, unknown] = judgeImages(
    at,
    observation({ entries: [entry(sha('a1')), entry(sha('a1'), `${EPOCH}/dl/x`)] }),
  );
  expect(row).toMatchObject({
    verdict: 'unmanaged',
    reason: 'it is tracked for other pools only: big, gpu; its blob is missing',
  });
  expect(unknown?.reason).toMatch(/^no tracked tag covers it/);
});
