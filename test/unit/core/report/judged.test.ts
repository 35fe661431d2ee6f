/** When nothing was judged: a table of fleets, and what is said of them. */
import { expect, test } from 'vitest';
import { nothingJudged } from '../../../../src/core/report/judged.ts';
import { findings } from '../../../support/judging.ts';
import type { Observation } from '../../../../src/core/model/observed.ts';
import type { NodeFindings } from '../../../../src/core/model/finding.ts';
import {
  entry,
  HOT,
  hot,
  node,
  observation,
  served,
  sha,
  tracked,
  unreachable,
  wantedSnapshot,
  WIN11,
} from '../../../support/facts.ts';

const COLD = hot({ tracked: [{ snapshot: HOT, pools: null }], snapshots: [wantedSnapshot()] });
const foreign = observation({ entries: [entry(sha('a1'), 'https://cloud.example/noble.img')] }, node('n1'));
const empty = observation({ entries: [], blobs: {} }, node('n2'));
const fine = observation({}, node('n3'));

function verdicts(fleet: Observation[], track: 'nothing' | 'image' | 'required' | 'snapshot'): NodeFindings[] {
  const presence = track === 'required' ? 'required' : 'if-present';
  const isImage = track === 'image' || track === 'required';
  const at = served(undefined, { tracked: isImage ? [tracked({ presence })] : [] });
  return findings(at, track === 'snapshot' ? COLD : hot(), fleet);
}

test.each<[string, Observation[], Parameters<typeof verdicts>[1], boolean, boolean]>([
  ['an image that is in sync', [fine, empty, foreign], 'nothing', false, false],
  ['nothing there, nothing asked', [empty], 'nothing', false, false],
  ['nothing there, and a filter asked', [empty], 'nothing', true, true],
  ['nothing there, and an image is tracked', [empty], 'image', false, true],
  ['nothing there, and an image is required', [empty], 'required', false, false],
  ['nothing there, and a snapshot is tracked', [empty], 'snapshot', false, true],
  ['all unmanaged', [foreign, empty], 'nothing', false, true],
  ['all unmanaged, and what is tracked absent', [foreign, empty], 'image', false, true],
  ['only a node that was not read', [unreachable()], 'image', false, false],
  ['one that was not read, one that holds nothing', [unreachable(), empty], 'image', false, true],
])('%s', (_name, fleet, track, isAsked, expected) => {
  const all = verdicts(fleet, track);
  expect(nothingJudged(all, all, fleet, isAsked)?.code).toBe(expected ? 'NOTHING_JUDGED' : undefined);
});

test('what a filter leaves is absent: that is known where something else was judged, and only there', () => {
  const fleet = [observation({ entries: [entry(sha('e2'), `${WIN11}/v1`)] }, node('n1')), empty];
  const all = verdicts(fleet, 'image');
  const selected = all.map((rows) => ({ ...rows, images: rows.images.filter(({ verdict }) => verdict === 'absent') }));
  expect(nothingJudged(selected, all, fleet, true)?.code).toBe('NOTHING_JUDGED');
  expect(nothingJudged(selected, [...all, ...verdicts([fine], 'image')], [...fleet, fine], true)).toBeNull();
});

test('what the nodes hold instead is named, folded, the most common first', () => {
  const fleet = Array.from({ length: 40 }, (_, i) =>
    observation(
      { entries: [entry(sha('a1'), 'https://x.example/a'), ...(i < 8 ? [entry(sha('a1'), `name-${i}`)] : [])] },
      node(`n${i + 1}`),
    ),
  );
  const all = verdicts(fleet, 'nothing');
  expect(nothingJudged(all, all, fleet, false)?.message).toBe(
    'no image and no snapshot was judged on 40 nodes: they hold only https://x.example/a on n[1-40]; name-0 on n1; name-1 on n2; name-2 on n3; name-3 on n4; and 4 more',
  );
});
