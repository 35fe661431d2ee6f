/** The plan: kinds of change, room, waves and limits, and what it writes into the rows. */
import { describe, expect, test } from 'vitest';
import { findings, plan as planFor, POLICY, remedies, rows } from '../../../support/judging.ts';
import { planActions } from '../../../../src/core/plan/actions.ts';
import { countOf } from '../../../../src/core/limit.ts';
import type { Observation } from '../../../../src/core/model/observed.ts';
import type { Action, Policy } from '../../../../src/core/model/plan.ts';
import type { ActionResult } from '../../../../src/core/model/result.ts';
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
  served,
  sha,
  SIZE,
  snapshot,
  split,
  trouble,
  wantedSnapshot,
  WIN11,
  scopeOf,
  type Given,
  type Hot,
} from '../../../support/facts.ts';

const SNAPSHOTS = hot({ tracked: [{ snapshot: HOT, pools: null }], snapshots: [wantedSnapshot()] });

function plan(at: Given, fleet: Observation[], policy: Partial<Policy> = {}): Action[] {
  return planFor(at, SNAPSHOTS, fleet, policy);
}

const OTHER = `${EPOCH}/dl/base/ubuntu`;
const ubuntu = desired({ image: 'base/ubuntu', reference: OTHER, contentDigest: sha('b7'), sizeBytes: 3e9 });
const incident = { entries: [entry(sha('a1'))], blobs: blobs({ a1: blob() }), snapshots: [snapshot('e2')] };
const nodes = (n: number): Observation[] =>
  Array.from({ length: n }, (_, i) => observation(incident, node(`node-${i + 1}`)));
const waves = (actions: Action[]): string[] => actions.map(({ node: { name }, wave }) => `${name}: ${wave}`);

describe('actions', () => {
  test('an image and a snapshot that ask for the same pull share one action', () => {
    const actions = plan(served(), nodes(1));
    expect(actions).toEqual([
      {
        node: node(),
        kind: 'pull',
        reference: WIN11,
        image: 'simular/win11',
        tag: 'latest',
        want: sha('e2'),
        sizeBytes: SIZE,
        content: { by: 'pull', replaces: null },
        expected: {
          tag: { registry: null, repository: 'simular/win11', tag: 'latest', platform: null },
          form: null,
          depth: 'size',
          hashed: {},
        },
        clone: { snapshots: [{ id: snapshot('e2').id, snapshot: HOT }], vm: null },
        pullTimeoutMs: 1000,
        pullRetries: 1,
        isBroken: true,
        wasLeftOut: false,
        wave: 0,
        canaryRank: 0,
        blocked: null,
      },
    ]);
  });

  test('a snapshot alone brings its pull', () => {
    const on = { entries: [], blobs: {}, snapshots: [snapshot('e2')] };
    expect(plan(served(), [observation(on)])).toMatchObject([{ node: { name: 'node-1' }, reference: WIN11 }]);
  });

  test('each key of one tag is an action of its own', () => {
    const keys = [WIN11, `${WIN11}/latest`];
    const at = served(undefined, { covers: Object.fromEntries(keys.map((key) => [key, [0]])) });
    const on = { entries: keys.map((key) => entry(sha('a1'), key)) };
    expect(plan(at, [observation(on)]).map(({ reference }) => reference)).toEqual(keys);
  });
});

describe('kinds of change', () => {
  const NAME = 'win11-25h2';
  const all = { repair: { corruptBlobs: 'replace', restoreBases: 'restore' } } as const;
  const short = blobs({ e2: blob({ sizeBytes: 5 }) });
  const one = (at: Given, on: Observation['observed'] & object, of: Hot = SNAPSHOTS): Action[] =>
    planFor(at, of, [{ ...observation(), observed: on }]);
  const facts = (over: Parameters<typeof observation>[0]): Observation['observed'] & object =>
    observation(over).observed as Observation['observed'] & object;

  test('a name that is tied to an artifact is imported, and both copies need room', () => {
    const at = served(undefined, { covers: { [WIN11]: [0], [NAME]: [0] } });
    const on = { entries: [entry(sha('a1'), NAME)], freeBytes: 2 * SIZE + 5e9 };
    expect(one(at, facts(on))).toMatchObject([
      { kind: 'import', reference: NAME, image: 'simular/win11', tag: 'latest', want: sha('e2'), blocked: null },
    ]);
    expect(one(at, facts({ ...on, freeBytes: on.freeBytes - 1 }))).toMatchObject([{ blocked: { code: 'NO_SPACE' } }]);
  });

  test('a download that cocoon converts is on the disk twice for a while', () => {
    const at = served([desired({ stored: 'converted' })]);
    const on = { entries: [entry(sha('a1'))], blobs: {}, freeBytes: 2 * SIZE + 5e9 };
    expect(one(at, facts(on))).toMatchObject([{ kind: 'pull', blocked: null, sizeBytes: SIZE }]);
    expect(one(at, facts({ ...on, freeBytes: on.freeBytes - 1 }))).toMatchObject([{ blocked: { code: 'NO_SPACE' } }]);
  });

  test('a bad blob is replaced, once for the image and the snapshots on it', () => {
    const at = served([desired({ stored: 'as-is' })], all);
    expect(one(at, facts({ blobs: short, snapshots: [snapshot('e2')] }))).toMatchObject([
      { kind: 'replace', reference: WIN11, want: sha('e2'), sizeBytes: SIZE },
    ]);
  });

  test('a bad blob under a name is replaced by an import, which needs room for two copies', () => {
    const at = served([desired({ stored: 'as-is' })], { ...all, covers: { [NAME]: [0] } });
    const on = { entries: [entry(sha('e2'), NAME)], blobs: short, freeBytes: 2 * SIZE + 5e9 };
    expect(one(at, facts(on))).toMatchObject([{ kind: 'replace', reference: NAME, want: sha('e2'), blocked: null }]);
    expect(one(at, facts({ ...on, freeBytes: on.freeBytes - 1 }))).toMatchObject([{ blocked: { code: 'NO_SPACE' } }]);
  });

  test('a bad base that no index entry names is replaced by the reference of the tag that yields it', () => {
    const at = served([desired({ stored: 'as-is' })], all);
    expect(one(at, facts({ entries: [], blobs: short, snapshots: [snapshot('e2')] }))).toMatchObject([
      { kind: 'replace', reference: WIN11, want: sha('e2') },
    ]);
  });

  test('a base is restored by the reference that names exactly it, once for all snapshots on it', () => {
    const URL = `${EPOCH}/v2/simular/win11/blobs/${sha('a1')}`;
    const lookups = {
      [`${sha('a1')} ${WIN11}`]: { state: 'there', reference: URL, sizeBytes: 777, stored: null } as const,
    };
    const on = facts({ snapshots: [snapshot('a1'), snapshot('a1', { id: 'TWO', name: 'vk-1' })] });
    const actions = one(served(undefined, all), on, hot({ lookups }));
    expect(actions).toMatchObject([
      {
        node: { name: 'node-1' },
        kind: 'restore',
        reference: URL,
        image: URL,
        tag: '',
        want: sha('a1'),
        sizeBytes: 777,
        expected: { tag: null, form: { sizeBytes: 777, stored: null } },
        wave: 0,
        blocked: null,
      },
    ]);
    const seen = [{ ...observation(), observed: on }];
    const [first] = rows(served(undefined, all), hot({ lookups }), seen, {
      results: [
        {
          node: 'node-1',
          reference: URL,
          outcome: 'healed',
          reason: null,
          error: null,
          after: sha('a1'),
          steps: [{ step: 'restore', ok: true, durationMs: 5, error: null }],
        },
      ],
    });
    expect(first?.snapshots.map(({ outcome, steps }) => [outcome, steps.length])).toEqual([
      ['healed', 1],
      ['healed', 1],
    ]);
  });

  test('a stale image whose content only the pull will tell is pulled without a digest to want', () => {
    const at = served([split()]);
    const proven = blob({ proofs: { [sha('99')]: 'other' } });
    expect(one(at, facts({ entries: [entry(sha('a1'))], blobs: blobs({ a1: proven }) }))).toMatchObject([
      { kind: 'pull', reference: WIN11, want: null, sizeBytes: SIZE },
    ]);
  });

  test('what a node of another platform gets is not what this one gets', () => {
    const images = [desired({ platform: 'linux/arm64', sizeBytes: 1 }), desired({ platform: 'linux/amd64' })];
    const at = served(images, { covers: { [WIN11]: [0, 1] } });
    const on = { entries: [entry(sha('a1'))], blobs: {} };
    expect(one(at, facts(on))).toMatchObject([{ sizeBytes: SIZE }]);
    expect(one(at, facts({ ...on, architecture: 'arm64' }))).toMatchObject([{ sizeBytes: 1 }]);
  });

  test('what is sent is the parts at epoch, and a canary VM has a name of the run', () => {
    const at = served(undefined, { covers: { [NAME]: [0] } });
    const vm = { snapshot: null, timeoutMs: 9, nodes: 'healed', extraArgs: ['--cpu', '2'] } as const;
    const fleet = [observation({ entries: [entry(sha('a1'), NAME)], snapshots: [snapshot('e2')] })];
    expect(planFor(at, SNAPSHOTS, fleet, { clone: 'vm', vm: { ...vm, extraArgs: [...vm.extraArgs] } })).toMatchObject([
      {
        content: {
          by: 'send',
          repository: 'simular/win11',
          parts: [{ digest: sha('e2'), sizeBytes: SIZE }],
          digest: sha('e2'),
          replaces: false,
        },
        clone: {
          vm: {
            name: 'reconcile-canary-run-1',
            snapshots: [HOT],
            isAnyGood: true,
            isForCanaries: false,
            timeoutMs: 9,
            extraArgs: ['--cpu', '2'],
          },
        },
      },
    ]);
  });

  test('findings about a node that nobody looked at are a bug', () => {
    const request = { observations: [], scope: scopeOf(served()), policy: { ...POLICY, ...all }, runId: 'r' };
    const of = findings(served(), SNAPSHOTS, nodes(1));
    const remedyFor = remedies(served(), nodes(1));
    expect(() => planActions({ ...request, findings: of, remedyFor })).toThrow(/not in the inventory/);
  });
});

describe('a fresh push', () => {
  const at = (pushedAt: string): Given => served([desired({ pushedAt })]);
  const now = scopeOf(served()).now;
  const ago = (ms: number): string => new Date(now - ms).toISOString();
  const old = { entries: [entry(sha('a1'))], blobs: blobs({ a1: blob() }) };
  const blocked = (pushedAt: string, on: Parameters<typeof observation>[0]): (string | undefined)[] =>
    planFor(at(pushedAt), hot({ discover: true }), [observation(on)], { minAgeMs: 900_000 }).map(
      (action) => action.blocked?.message,
    );

  test('is left to settle where nothing is broken without it', () => {
    const said = 'simular/win11:latest was pushed 3m ago, and settles for 15m (rollout.minAge)';
    expect(blocked(ago(180_000), old)).toEqual([said]);
    expect(blocked(ago(-180_000), old)).toEqual([said.replace('3m', '0s')]);
    expect(blocked(ago(900_000), old)).toEqual([undefined]);
    expect(blocked('nobody knows', old)).toEqual([undefined]);
  });

  test('is pulled at once where a snapshot does not clone without it', () => {
    expect(blocked(ago(0), incident)).toEqual([undefined]);
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
    expect(actions.map(({ image, node: { name }, wave }) => `${image} ${name} ${wave}`)).toEqual([
      'simular/win11 n1 0',
      'base/ubuntu n1 0',
      'simular/win11 n2 1',
      'base/ubuntu n2 1',
    ]);
  });

  test('canaries are nodes: two keys of one tag on a node are both in its wave', () => {
    const keys = [WIN11, `${WIN11}/latest`];
    const at = served(undefined, { covers: Object.fromEntries(keys.map((key) => [key, [0]])) });
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
  expect(countOf({ value: Number.parseInt(limit, 10), percent: limit.endsWith('%') }, planned)).toBe(budget);
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
    const [first, second] = rows(served(), SNAPSHOTS, fleet, { actions: [actions[0] as Action, blocked] });
    expect([first?.images[0]?.wave, first?.snapshots[0]?.wave]).toEqual([0, 0]);
    expect(second?.images[0]).toMatchObject({ plan: 'pull', wave: 1, error: { code: 'NO_SPACE' } });
    expect(second?.snapshots[0]).toMatchObject({ plan: 'pull', wave: 1, error: { code: 'NO_SPACE' } });
  });

  test('both rows have the outcome, the image the steps and what was read at the end', () => {
    const [first, second] = rows(served(), SNAPSHOTS, fleet, { results: [done({})] });
    expect(first?.images[0]).toMatchObject({ outcome: 'healed', after: sha('e2'), verdict: 'stale', have: sha('a1') });
    expect(first?.images[0]?.steps).toHaveLength(1);
    expect(first?.snapshots[0]).toMatchObject({ outcome: 'healed', steps: [], verdict: 'base-drifted' });
    expect(second?.images[0]).toMatchObject({ outcome: null, steps: [] });
  });

  test('a snapshot that no image row shares the pull with has the steps', () => {
    const alone = [observation({ entries: [], blobs: {}, snapshots: [snapshot('e2')] })];
    const [first] = rows(served(), SNAPSHOTS, alone, { results: [done({})] });
    expect(first?.snapshots[0]?.steps).toHaveLength(1);
  });

  test('rows without a plan are left alone', () => {
    const healthy = [observation({ snapshots: [snapshot('e2')] })];
    const alone = rows(served(), SNAPSHOTS, healthy);
    expect(rows(served(), SNAPSHOTS, healthy, { actions: [], results: [done({})] })).toEqual(alone);
  });
});
