/** The report: the table of exit codes, the summary, and what counts as what. */
import { describe, expect, test } from 'vitest';
import { assemble, publicDesired, type Parts } from '../../../../src/core/report/report.ts';
import { isOpenDrift, weightOf } from '../../../../src/core/report/weight.ts';
import type { Action } from '../../../../src/core/model/plan.ts';
import type { ImageRow, NodeRows, Report, SnapshotRow } from '../../../../src/core/model/report.ts';
import type { Outcome } from '../../../../src/core/model/result.ts';
import {
  IMAGE_VERDICTS,
  SNAPSHOT_VERDICTS,
  type ImageVerdict,
  type SnapshotVerdict,
} from '../../../../src/core/model/verdict.ts';
import {
  desired,
  HOT,
  node,
  observation,
  sha,
  trouble,
  unreachable,
  wantedSnapshot,
  WIN11,
  entry,
  served,
  hot as hotOf,
  imageRow,
} from '../../../support/facts.ts';
import { plan } from '../../../support/judging.ts';

function image(verdict: ImageVerdict, outcome: Outcome | null = null, over: Partial<ImageRow> = {}): ImageRow {
  return imageRow(verdict, { image: 'simular/win11', tag: 'latest', outcome, ...over });
}

function hot(verdict: SnapshotVerdict, over: Partial<SnapshotRow> = {}): SnapshotRow {
  return {
    snapshot: HOT,
    id: null,
    verdict,
    base: WIN11,
    baseDigest: null,
    baseVerdict: null,
    source: null,
    plan: null,
    wave: null,
    reason: null,
    error: null,
    commands: [],
    outcome: null,
    steps: [],
    ...over,
  };
}

const NODE_OF: NodeRows = { node: 'node-1', images: [], snapshots: [] };

function report(rows: Partial<NodeRows>[], over: Partial<Parts> = {}): Report {
  return assemble({
    tool: { name: 'cocoon-reconcile', version: '0' },
    run: {
      id: 'r',
      mode: 'run',
      startedAt: '2026-05-09T12:00:00.000Z',
      finishedAt: '2026-05-09T12:00:01.000Z',
      blobDepth: 'size',
    },
    error: null,
    signal: null,
    desired: [],
    snapshots: [],
    observations: rows.map((_, i) => observation({}, node(`node-${i + 1}`))),
    rows: rows.map((of, i) => ({ ...NODE_OF, node: `node-${i + 1}`, ...of })),
    actions: [],
    tidied: [],
    ...over,
  });
}

const exitCode = (rows: Partial<NodeRows>, over: Partial<Parts> = {}): number => report([rows], over).run.exitCode;

describe('what a row counts as', () => {
  test.each<[ImageVerdict, string]>([
    ['unmanaged', 'nothing'],
    ['unknown', 'incomplete'],
    ['missing', 'drift'],
    ['absent', 'nothing'],
    ['stale', 'drift'],
    ['blob-missing', 'drift'],
    ['blob-corrupt', 'drift'],
    ['in-sync', 'nothing'],
  ])('image %s: %s', (verdict, weight) => {
    expect(weightOf(image(verdict))).toBe(weight);
    expect(exitCode({ images: [image(verdict)] })).toBe({ nothing: 0, drift: 2, incomplete: 3 }[weight]);
  });

  test.each<[SnapshotVerdict, string]>([
    ['unknown', 'incomplete'],
    ['pending', 'nothing'],
    ['broken', 'drift'],
    ['base-corrupt', 'drift'],
    ['base-drifted', 'drift'],
    ['base-restorable', 'drift'],
    ['base-missing', 'drift'],
    ['base-lost', 'drift'],
    ['base-at-risk', 'nothing'],
    ['clonable', 'nothing'],
  ])('snapshot %s: %s, and not on the node with that of its base the same', (verdict, weight) => {
    expect(weightOf(hot(verdict))).toBe(weight);
    expect(weightOf(hot('not-on-node', { baseVerdict: verdict }))).toBe(weight);
  });

  test('what is unmanaged because nobody can say whether it is of epoch counts as incomplete', () => {
    const suspected = image('unmanaged', null, { error: trouble('EPOCH_ALIAS_SUSPECTED') });
    expect(weightOf(suspected)).toBe('incomplete');
    expect(exitCode({ images: [suspected] })).toBe(3);
  });

  test.each<[ImageVerdict, Outcome | null, number]>([
    ['absent', null, 3],
    ['stale', null, 2],
    ['stale', 'failed', 4],
  ])('a run that judged nothing exits with 3 where nothing worse is: %s, %s', (verdict, outcome, code) => {
    expect(exitCode({ images: [image(verdict, outcome)] }, { error: trouble('NOTHING_JUDGED') })).toBe(code);
  });

  test('a cold start counts as nothing', () => {
    expect(weightOf(hot('not-on-node'))).toBe('nothing');
  });

  test.each<[Outcome | null, boolean]>([
    ['healed', false],
    ['superseded', false],
    ['failed', true],
    ['skipped', true],
    [null, true],
  ])('drift with the outcome %s is open: %s', (outcome, isOpen) => {
    expect(isOpenDrift(image('stale', outcome))).toBe(isOpen);
    expect(isOpenDrift(hot('base-drifted', { outcome }))).toBe(isOpen);
  });
});

/** Each state that has an exit code, strongest first; any set of them exits as its strongest. */
const STATES: [number, Partial<NodeRows>, Partial<Parts>][] = [
  [130, {}, { signal: 'SIGINT' }],
  [1, {}, { error: trouble('REGISTRY_UNREACHABLE') }],
  [4, { images: [image('stale', 'failed')] }, {}],
  [2, { images: [image('stale', 'skipped')] }, {}],
  [3, { images: [image('unknown')] }, {}],
  [0, { images: [image('in-sync'), image('stale', 'healed')] }, {}],
];

describe('the exit code', () => {
  const subsets = Array.from({ length: 2 ** STATES.length - 1 }, (_, i) =>
    STATES.filter((_state, bit) => ((i + 1) & (1 << bit)) !== 0),
  );

  test.each(subsets.map((states) => [states.map(([code]) => code).join(', '), states] as const))(
    'of %s is the first',
    (_name, states) => {
      const images = states.flatMap(([, rows]) => rows.images ?? []);
      const over = Object.assign({}, ...states.map(([, , parts]) => parts)) as Partial<Parts>;
      expect(exitCode({ images }, over)).toBe(states[0]?.[0]);
    },
  );

  test.each([
    ['SIGHUP', 129],
    ['SIGINT', 130],
    ['SIGTERM', 143],
  ] as const)('of %s is %i', (signal, code) => {
    expect(exitCode({}, { signal })).toBe(code);
  });

  test('an unread node makes the picture incomplete, though nothing is tracked there', () => {
    expect(exitCode({}, { observations: [unreachable()] })).toBe(3);
    expect(exitCode({}, { observations: [{ ...unreachable(), status: 'unreadable' }] })).toBe(3);
  });

  test('superseded is within healed', () => {
    expect(exitCode({ images: [image('stale', 'superseded')] })).toBe(0);
  });

  test('a healed image does not hide a snapshot that it does not help', () => {
    expect(exitCode({ images: [image('stale', 'healed')], snapshots: [hot('base-missing')] })).toBe(2);
  });

  test('a failed snapshot counts as a failed image does', () => {
    expect(exitCode({ snapshots: [hot('base-drifted', { plan: 'pull', outcome: 'failed' })] })).toBe(4);
  });
});

describe('the summary', () => {
  test('has a key for every verdict', () => {
    const { summary } = report([]);
    expect(summary.images).toEqual(Object.fromEntries(IMAGE_VERDICTS.map((verdict) => [verdict, 0])));
    expect(summary.snapshots).toEqual(Object.fromEntries(SNAPSHOT_VERDICTS.map((verdict) => [verdict, 0])));
    expect(summary.nodes).toEqual({ total: 0, observed: 0, unreachable: 0, unreadable: 0 });
    expect(summary.actions).toEqual({ planned: 0, healed: 0, superseded: 0, failed: 0, skipped: 0 });
  });

  test('counts rows and nodes', () => {
    const { summary } = report([{ images: [image('stale'), image('in-sync')], snapshots: [hot('clonable')] }, {}, {}], {
      observations: [
        observation(),
        unreachable(node('node-2')),
        { ...unreachable(node('node-3')), status: 'unreadable' },
      ],
    });
    expect(summary.nodes).toEqual({ total: 3, observed: 1, unreachable: 1, unreadable: 1 });
    expect(summary.images).toMatchObject({ stale: 1, 'in-sync': 1, unknown: 0 });
    expect(summary.snapshots).toMatchObject({ clonable: 1, broken: 0 });
  });

  test('counts an action once that an image and its snapshots share', () => {
    const [action] = plan(served(), hotOf(), [observation({ entries: [entry(sha('a1'))] })]) as [Action];
    const shared = hot('base-drifted', { plan: 'pull', source: WIN11, outcome: 'healed' });
    const alone = hot('base-drifted', { plan: 'pull', source: `${WIN11}/v1`, outcome: 'failed', base: `${WIN11}/v1` });
    const { summary } = report([{ images: [image('stale', 'healed')], snapshots: [shared, shared, alone] }, {}], {
      actions: [action, { ...action, reference: `${WIN11}/v1` }, { ...action, node: node('node-2') }],
    });
    expect(summary.actions).toEqual({ planned: 3, healed: 1, superseded: 0, failed: 1, skipped: 0 });
  });
});

test('a restore that two snapshots share counts once, whatever their bases are called', () => {
  const over = { plan: 'restore', source: `${WIN11}@x`, outcome: 'healed' } as const;
  const both = [hot('base-restorable', over), hot('base-restorable', { ...over, base: 'win11-25h2' })];
  const { summary, run } = report([{ snapshots: both }]);
  expect(summary.actions).toMatchObject({ healed: 1, failed: 0 });
  expect(summary.snapshots['base-restorable']).toBe(2);
  expect(run.exitCode).toBe(0);
});

test('the report holds what was desired, without what only judging needs', () => {
  const image1 = desired({ notes: ['secretive'], stored: 'as-is' });
  const { desired: shown, snapshots } = report([], { desired: [image1], snapshots: [wantedSnapshot()] });
  expect(shown).toEqual([publicDesired(image1)]);
  expect(Object.keys(shown[0] ?? {})).not.toContain('notes');
  expect(snapshots).toEqual([{ snapshot: HOT, base: WIN11, baseDigest: sha('e2'), error: null }]);
});
