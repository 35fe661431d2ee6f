/** The plan: its waves and limits, and properties of judging and planning over generated fleets. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { judgeImages, type Served } from '../../src/core/images.ts';
import { failureBudget, planActions, withPlan, withResults } from '../../src/core/plan.ts';
import { assemble } from '../../src/core/report.ts';
import { judgeSnapshots } from '../../src/core/snapshots.ts';
import type { Action, ActionResult, DesiredImage, NodeVerdicts, Observation, Policy } from '../../src/core/types.ts';
import {
  blob,
  blobs,
  desired,
  entry,
  EPOCH,
  HOT,
  hot,
  node,
  observation,
  QCOW2,
  RAW,
  served,
  sha,
  SIZE,
  snapshot,
  tracked,
  trouble,
  unreachable,
  wantedSnapshot,
  WIN11,
} from '../helpers/facts.ts';

const POLICY: Policy = {
  canary: 1,
  maxPulls: 4,
  maxFailures: { value: 10, percent: true },
  pullTimeoutMs: 1000,
  pullRetries: 1,
  minFreeBytes: 5e9,
  clone: 'files',
};

const SNAPSHOTS = hot({ tracked: [{ snapshot: HOT, pools: null }], snapshots: [wantedSnapshot()] });

function judge(at: Served, fleet: Observation[]): NodeVerdicts[] {
  return fleet.map((seen) => ({
    node: seen.node.name,
    images: judgeImages(at, seen),
    snapshots: judgeSnapshots(at, SNAPSHOTS, seen),
  }));
}

function plan(at: Served, fleet: Observation[], policy: Partial<Policy> = {}): Action[] {
  return planActions(judge(at, fleet), fleet, at.desired, at.covers, { ...POLICY, ...policy });
}

const OTHER = `${EPOCH}/dl/base/ubuntu`;
const ubuntu = desired({ image: 'base/ubuntu', reference: OTHER, contentDigest: sha('b7'), sizeBytes: 3e9 });
const incident = { entries: [entry(sha('a1'))], blobs: blobs({ a1: blob() }), snapshots: [snapshot('e2')] };
const nodes = (n: number): Observation[] =>
  Array.from({ length: n }, (_, i) => observation(incident, node(`node-${i + 1}`)));
const waves = (actions: Action[]): string[] => actions.map(({ node: name, wave }) => `${name}: ${wave}`);

describe('actions', () => {
  test('an image and a snapshot that ask for the same pull share one action', () => {
    const actions = plan(served(), nodes(1));
    expect(actions).toEqual([
      {
        node: 'node-1',
        reference: WIN11,
        image: 'simular/win11',
        tag: 'latest',
        want: sha('e2'),
        sizeBytes: SIZE,
        wave: 0,
        blocked: null,
      },
    ]);
  });

  test('a snapshot alone brings its pull', () => {
    const on = { entries: [], blobs: {}, snapshots: [snapshot('e2')] };
    expect(plan(served(), [observation(on)])).toMatchObject([{ node: 'node-1', reference: WIN11 }]);
  });

  test('each key of one tag is an action of its own', () => {
    const keys = [WIN11, `${WIN11}/latest`];
    const at = served(undefined, { covers: Object.fromEntries(keys.map((key) => [key, 0])) });
    const on = { entries: keys.map((key) => entry(sha('a1'), key)) };
    expect(plan(at, [observation(on)]).map(({ reference }) => reference)).toEqual(keys);
  });
});

describe('waves', () => {
  test.each([
    [0, ['node-1: 0', 'node-2: 0', 'node-3: 0']],
    [1, ['node-1: 0', 'node-2: 1', 'node-3: 1']],
    [2, ['node-1: 0', 'node-2: 0', 'node-3: 1']],
    [9, ['node-1: 0', 'node-2: 0', 'node-3: 0']],
  ])('with %i canaries', (canary, expected) => {
    expect(waves(plan(served(), nodes(3), { canary }))).toEqual(expected);
  });

  test('each image has canaries of its own', () => {
    const both = { entries: [entry(sha('a1')), entry(sha('a1'), OTHER)] };
    const fleet = [observation(both, node('n1')), observation(both, node('n2'))];
    const actions = plan(served([desired(), ubuntu]), fleet);
    expect(actions.map(({ image, node: name, wave }) => `${image} ${name} ${wave}`)).toEqual([
      'simular/win11 n1 0',
      'base/ubuntu n1 0',
      'simular/win11 n2 1',
      'base/ubuntu n2 1',
    ]);
  });

  test('canaries are nodes: two keys of one tag on a node are both in its wave', () => {
    const keys = [WIN11, `${WIN11}/latest`];
    const at = served(undefined, { covers: Object.fromEntries(keys.map((key) => [key, 0])) });
    const on = { entries: keys.map((key) => entry(sha('a1'), key)), blobs: blobs({ a1: blob() }) };
    const fleet = [1, 2, 3].map((n) => observation(on, node(`n${n}`)));
    expect(waves(plan(at, fleet, { canary: 2 }))).toEqual(['n1: 0', 'n1: 0', 'n2: 0', 'n2: 0', 'n3: 1', 'n3: 1']);
  });

  test('a node without room is in the plan, blocked, and never the canary', () => {
    const [first, second, third] = [1, 2, 3].map((n) =>
      observation({ ...incident, freeBytes: n === 1 ? SIZE + 5e9 - 1 : SIZE + 5e9 }, node(`n${n}`)),
    ) as [Observation, Observation, Observation];
    const actions = plan(served(), [first, second, third]);
    expect(waves(actions)).toEqual(['n1: 1', 'n2: 0', 'n3: 1']);
    expect(actions.map(({ blocked }) => blocked?.code)).toEqual(['NO_SPACE', undefined, undefined]);
    expect(actions[0]?.blocked?.message).toBe(
      'n1: a pull needs 5.80 GB and 5.00 GB must stay free, but only 10.8 GB are',
    );
    expect(waves(plan(served(), [first, second, third], { canary: 0 }))).toEqual(['n1: 0', 'n2: 0', 'n3: 0']);
  });

  test('what one pull takes is not free for the next on that node', () => {
    const on = { entries: [entry(sha('a1')), entry(sha('a1'), OTHER)], freeBytes: SIZE + 5e9 + 2e9 };
    const actions = plan(served([desired(), ubuntu]), [observation(on)]);
    expect(actions.map(({ blocked }) => blocked?.code)).toEqual([undefined, 'NO_SPACE']);
  });
});

test.each([
  ['10%', 0, 0],
  ['10%', 1, 1],
  ['10%', 10, 1],
  ['10%', 11, 2],
  ['0%', 500, 0],
  ['7%', 100, 7],
  ['29%', 100, 29],
  ['100%', 3, 3],
  ['0', 9, 0],
  ['3', 1, 3],
])('a failure budget of %s for %i actions is %i', (limit, planned, budget) => {
  expect(failureBudget({ value: Number.parseInt(limit, 10), percent: limit.endsWith('%') }, planned)).toBe(budget);
});

describe('what the plan writes into the rows', () => {
  const fleet = nodes(2);
  const actions = plan(served(), fleet);
  const done = (over: Partial<ActionResult>): ActionResult => ({
    node: 'node-1',
    reference: WIN11,
    outcome: 'healed',
    reason: null,
    error: null,
    after: sha('e2'),
    steps: [{ step: 'pull', ok: true, durationMs: 5, error: null }],
    ...over,
  });

  test('both rows have the wave; a blocked one has the error', () => {
    const blocked = { ...(actions[1] as Action), blocked: trouble('NO_SPACE') };
    const [first, second] = withPlan(judge(served(), fleet), [actions[0] as Action, blocked]);
    expect([first?.images[0]?.wave, first?.snapshots[0]?.wave]).toEqual([0, 0]);
    expect(second?.images[0]).toMatchObject({ plan: 'pull', wave: 1, error: { code: 'NO_SPACE' } });
    expect(second?.snapshots[0]).toMatchObject({ plan: 'pull', wave: 1, error: { code: 'NO_SPACE' } });
  });

  test('both rows have the outcome, the image the steps and what was read at the end', () => {
    const [first, second] = withResults(judge(served(), fleet), [done({})]);
    expect(first?.images[0]).toMatchObject({ outcome: 'healed', after: sha('e2'), verdict: 'stale', have: sha('a1') });
    expect(first?.images[0]?.steps).toHaveLength(1);
    expect(first?.snapshots[0]).toMatchObject({ outcome: 'healed', steps: [], verdict: 'base-drifted' });
    expect(second?.images[0]).toMatchObject({ outcome: null, steps: [] });
  });

  test('a snapshot that no image row shares the pull with has the steps', () => {
    const alone = [observation({ entries: [], blobs: {}, snapshots: [snapshot('e2')] })];
    const [first] = withResults(judge(served(), alone), [done({})]);
    expect(first?.snapshots[0]?.steps).toHaveLength(1);
  });

  test('rows without a plan are left alone', () => {
    const healthy = judge(served(), [observation({ snapshots: [snapshot('e2')] })]);
    expect(withResults(withPlan(healthy, []), [done({})])).toEqual(healthy);
  });
});

// ------------------------------------------------------------------------------------------ generated fleets

/** The images of the generated fleets, and the contents that their entries may have: `e2` and `b7` are the newest. */
const IMAGES = [
  { reference: WIN11, pair: 'e2' },
  { reference: `${WIN11}/v1`, pair: 'b7' },
];
const PAIRS = ['a1', 'e2', 'b7'];

const anyBlob = fc.record({
  regular: fc.boolean(),
  sizeBytes: fc.constantFrom(0, 5, SIZE),
  header: fc.constantFrom(QCOW2, RAW, null),
});

const anyDesired: fc.Arbitrary<DesiredImage[]> = fc.tuple(
  ...IMAGES.map(({ reference, pair }, i) =>
    fc
      .record({
        known: fc.constantFrom(true, true, true, false),
        lost: fc.constantFrom(false, false, true),
        stored: fc.constantFrom<DesiredImage['stored'][]>('as-is', 'converted', null),
      })
      .map(({ known, lost, stored }) => {
        const over = { reference, tag: i === 0 ? 'latest' : 'v1', stored };
        if (!known) return desired({ ...over, contentDigest: null, error: trouble('TAG_NOT_FOUND') });
        const contentDigest = sha(pair);
        if (!lost) return desired({ ...over, contentDigest });
        return desired({ ...over, contentDigest, missingBlob: contentDigest, error: trouble('REGISTRY_BLOB_MISSING') });
      }),
  ),
);

const anyEntry = fc
  .tuple(
    fc.constantFrom(...IMAGES.map(({ reference }) => reference), 'imported', 'https://elsewhere.example/x'),
    fc.constantFrom(...PAIRS),
    fc.constantFrom<('cloudimg' | 'oci')[]>('cloudimg', 'cloudimg', 'cloudimg', 'oci'),
  )
  .map(([reference, pair, type]) => entry(sha(pair), reference, type));

const anySnapshot = fc
  .record({
    pair: fc.constantFrom(...PAIRS),
    base: fc.constantFrom(WIN11, `${WIN11}/v1`, 'imported', null),
    name: fc.constantFrom(HOT, 'other/hot:v1'),
    pending: fc.constantFrom(false, false, false, true),
  })
  .map(({ pair, ...over }) => snapshot(pair, over));

const anyObservation = (name: string): fc.Arbitrary<Observation> =>
  fc.oneof(
    { weight: 1, arbitrary: fc.constant(unreachable(node(name))) },
    {
      weight: 6,
      arbitrary: fc
        .record({
          entries: fc.uniqueArray(anyEntry, { selector: (e) => `${e.type} ${e.reference}`, maxLength: 4 }),
          conflict: fc.constantFrom(false, false, false, true),
          blobs: fc
            .dictionary(fc.constantFrom(...PAIRS), anyBlob, { noNullPrototype: true })
            .map((byPair) => blobs(byPair)),
          freeBytes: fc.constantFrom(0, SIZE + 5e9, 1e13),
          snapshots: fc.array(anySnapshot, { maxLength: 3 }),
        })
        .map(({ conflict, ...facts }) => {
          const known = facts.entries.some(({ reference }) => reference === WIN11);
          return observation({ ...facts, conflicts: conflict && known ? [WIN11] : [] }, node(name));
        }),
    },
  );

interface Fleet {
  at: Served;
  fleet: Observation[];
  policy: Policy;
}

const anyFleet: fc.Arbitrary<Fleet> = fc
  .record({
    images: anyDesired,
    presence: fc.constantFrom<('required' | 'if-present')[]>('required', 'if-present'),
    depth: fc.constantFrom<Served['depth'][]>('size', 'presence'),
    fleet: fc.tuple(...['n1', 'n2', 'n3', 'n4'].map(anyObservation)),
    canary: fc.nat(3),
  })
  .map(({ images, presence, depth, fleet, canary }) => ({
    at: served(images, { tracked: [tracked({ presence })], depth }),
    fleet,
    policy: { ...POLICY, canary },
  }));

/** What a fleet is after every action that could begin: the index names what epoch serves, and its blob is whole. */
function applied({ at, fleet }: Fleet, actions: Action[]): Observation[] {
  return fleet.map((seen) => {
    if (seen.observed === null) return seen;
    const facts = structuredClone(seen.observed);
    for (const action of actions.filter(({ node: name, blocked }) => name === seen.node.name && blocked === null)) {
      const { reference, want } = action;
      const others = facts.entries.filter((e) => e.reference !== reference || e.type !== 'cloudimg');
      facts.entries = [...others, entry(want, reference)];
      const hex = want.slice('sha256:'.length);
      const kept = facts.blobs[hex];
      // As cocoon does: a file that is there and not empty stays as it is.
      if (kept?.regular !== true || kept.sizeBytes === 0) {
        const image = at.desired[at.covers[reference] as number] as DesiredImage;
        facts.blobs[hex] = blob(image.stored === 'converted' ? { sizeBytes: 777 } : {});
      }
    }
    return { ...seen, observed: facts };
  });
}

const key = ({ node: name, reference }: Action): string => `${name} ${reference}`;

describe('over generated fleets', () => {
  const holds = (property: (given: Fleet, actions: Action[]) => void): void =>
    fc.assert(
      fc.property(anyFleet, (given) => property(given, plan(given.at, given.fleet, given.policy))),
      { numRuns: 150 },
    );

  test('planning again gives the same plan, one action per node and reference', () => {
    holds((given, actions) => {
      expect(plan(given.at, given.fleet, given.policy)).toEqual(actions);
      expect(new Set(actions.map(key)).size).toBe(actions.length);
    });
  });

  test('nothing is planned for what is in sync, unmanaged, absent or unknown, and nothing without a known digest', () => {
    holds(({ at, fleet }, actions) => {
      const idle = new Set(['in-sync', 'unmanaged', 'unknown', 'absent', 'blob-corrupt']);
      for (const { images, snapshots } of judge(at, fleet)) {
        for (const row of images) if (idle.has(row.verdict)) expect(row.plan).toBeNull();
        for (const row of snapshots) {
          const verdict = row.verdict === 'not-on-node' ? row.baseVerdict : row.verdict;
          if (row.plan !== null) expect(verdict).toBe('base-drifted');
        }
      }
      for (const { reference, want } of actions) {
        const image = at.desired[at.covers[reference] as number];
        expect(image).toMatchObject({ contentDigest: want, missingBlob: null });
      }
    });
  });

  test('no action touches a reference that is unknown on that node', () => {
    holds(({ at, fleet }, actions) => {
      for (const { node: name, images } of judge(at, fleet)) {
        const unknown = images.filter((row) => row.verdict === 'unknown').map((row) => `${name} ${row.reference}`);
        expect(actions.map(key).filter((action) => unknown.includes(action))).toEqual([]);
      }
    });
  });

  test('the canary nodes of an image are at most as many as asked, have room, and come first', () => {
    holds(({ policy }, actions) => {
      for (const tag of ['latest', 'v1']) {
        const mine = actions.filter((action) => action.tag === tag && action.blocked === null);
        const first = new Set(mine.filter(({ wave }) => wave === 0).map(({ node: name }) => name));
        const all = [...new Set(mine.map(({ node: name }) => name))];
        expect([...first]).toEqual(policy.canary === 0 ? all : all.slice(0, policy.canary));
      }
    });
  });

  test('once the plan is carried out, what could begin is healed and nothing is left to do', () => {
    holds((given, actions) => {
      const fleet = applied(given, actions);
      const blocked = new Set(actions.filter((action) => action.blocked !== null).map(key));
      expect(plan(given.at, fleet, given.policy).filter((action) => !blocked.has(key(action)))).toEqual([]);
      const after = judge(given.at, fleet);
      for (const { node: name, reference } of actions.filter((action) => action.blocked === null)) {
        const row = after.find((v) => v.node === name)?.images.find((r) => r.reference === reference);
        expect(row?.verdict).toBe('in-sync');
      }
    });
  });

  test('a node that was not read stays unknown, and an unknown never becomes in sync without a change', () => {
    holds(({ at, fleet }) => {
      for (const [i, seen] of fleet.entries()) {
        if (seen.observed !== null) continue;
        const rows = judge(at, fleet)[i] as NodeVerdicts;
        expect([...rows.images, ...rows.snapshots].every((row) => row.verdict === 'unknown')).toBe(true);
      }
      const blind = { ...at, desired: at.desired.map((d) => ({ ...d, contentDigest: null })) };
      const verdicts = judge(blind, fleet).flatMap(({ images }) => images.map((row) => row.verdict));
      expect(verdicts.filter((verdict) => !['unknown', 'unmanaged'].includes(verdict))).toEqual([]);
    });
  });

  test('every stage survives JSON', () => {
    const through = <T>(value: T): T => JSON.parse(JSON.stringify(value)) as T;
    holds((given, actions) => {
      const { at, fleet, policy } = through(given);
      expect({ at, fleet, policy }).toEqual(given);
      const verdicts = judge(at, fleet);
      expect(through(verdicts)).toEqual(verdicts);
      expect(plan(at, fleet, policy)).toEqual(actions);
      expect(through(actions)).toEqual(actions);
      const report = assemble({
        tool: { name: 't', version: '1' },
        run: { id: 'r', mode: 'dry-run', startedAt: '2026-05-09T12:00:00Z', finishedAt: '2026-05-09T12:00:01Z' },
        error: null,
        signal: null,
        desired: at.desired,
        snapshots: SNAPSHOTS.snapshots,
        observations: fleet,
        verdicts: withPlan(verdicts, actions),
        actions,
      });
      expect(through(report)).toEqual(report);
      expect(through(report)).toStrictEqual(report);
    });
  });
});
