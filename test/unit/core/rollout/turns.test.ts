/** Whose turn it is: canaries, their stand-ins, limits and time. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { errorInfo } from '../../../../src/core/errors.ts';
import { imageOf, type Action } from '../../../../src/core/model/plan.ts';
import type { ActionResult } from '../../../../src/core/model/result.ts';
import { canaryOrder } from '../../../../src/core/rollout/canaries.ts';
import { nextTurns, type Progress, type TurnLimits } from '../../../../src/core/rollout/turns.ts';
import { plan } from '../../../support/judging.ts';
import { blob, blobs, entry, hot, node, observation, served, sha, trouble } from '../../../support/facts.ts';

const NO_LIMITS: TurnLimits = { maxPulls: 99, maxFailed: 99, ending: null, leftMs: Infinity, pace: null };
const [template] = plan(served(), hot(), [observation({ entries: [entry(sha('a1'))], blobs: blobs({ a1: blob() }) })]);

function action(name: string, over: Partial<Action> = {}): Action {
  if (template === undefined) throw new Error('no action to begin with');
  return { ...template, isBroken: false, canaryRank: null, node: node(name), ...over };
}

/** Nodes n1 … of one image, the first so many of them canaries. */
function fleet(size: number, canary = 1, over: Partial<Action> = {}): Action[] {
  return Array.from({ length: size }, (_, i) =>
    action(`n${i + 1}`, { wave: i < canary ? 0 : 1, canaryRank: canary === 0 ? null : i, ...over }),
  );
}

const result = (of: Action, outcome: ActionResult['outcome'], code: string | null = null): ActionResult => ({
  node: of.node.name,
  reference: of.reference,
  outcome,
  reason: null,
  error: code === null ? null : trouble(code),
  after: null,
  steps: [],
});

type Fate = [ActionResult['outcome'], string?];

/** Does all of a plan, one action after another of those that are begun, and tells what was begun. */
function play(
  actions: Action[],
  fateOf: (action: Action) => Fate,
  limits: Partial<TurnLimits> = {},
): { begun: string[]; results: Map<Action, ActionResult>; atOnce: number } {
  const running = new Set<Action>();
  const results = new Map<Action, ActionResult>();
  const progress: Progress = { running, results, held: new Map(), due: new Set(), wrong: [] };
  const begun: string[] = [];
  let atOnce = 0;
  for (;;) {
    const { start, skip } = nextTurns(actions, progress, { ...NO_LIMITS, ...limits });
    for (const [one, why] of skip) results.set(one, { ...result(one, 'skipped'), reason: why.message, error: why });
    for (const one of start) {
      const there = [...running].filter(({ node: { name } }) => name === one.node.name);
      expect(there).toEqual([]);
      running.add(one);
      begun.push(one.node.name);
    }
    atOnce = Math.max(atOnce, running.size);
    const [next] = running;
    if (next === undefined && skip.size === 0) break;
    if (next === undefined) continue;
    running.delete(next);
    const [outcome, code = null] = fateOf(next);
    results.set(next, result(next, outcome, code));
  }
  return { begun, results, atOnce };
}

const healed = (): Fate => ['healed'];
const outcomes = (results: Map<Action, ActionResult>, actions: Action[]): string[] =>
  actions.map((one) => results.get(one)?.outcome ?? 'none');

describe('an image that is bad', () => {
  test.each(['VERIFY_MISMATCH', 'CLONE_FAILED', 'REGISTRY_BLOB_MISSING', 'CANARY_LEFT'])(
    'by %s touches its canary and no other node',
    (code) => {
      const { begun, results } = play(fleet(12), () => ['failed', code]);
      expect(begun).toEqual(['n1']);
      expect([...results.values()].map(({ reason }) => reason)).toContain('its canary n1 was not healed');
    },
  );

  test.each([
    [1, 3],
    [3, 5],
  ])('because no node can pull it, with canary %i, touches %i nodes', (canary, touched) => {
    const actions = fleet(12, canary);
    const { begun, results } = play(actions, () => ['failed', 'PULL_FAILED']);
    expect(begun).toHaveLength(touched);
    expect(results.get(actions[11] as Action)?.reason).toContain(`${touched} nodes could not take it`);
  });

  test('holds up no other image', () => {
    const other = fleet(3, 1, { image: 'other', reference: 'other' });
    const actions = [...fleet(3), ...other];
    const { results } = play(actions, (one) => (one.image === 'other' ? ['healed'] : ['failed', 'CLONE_FAILED']));
    expect(outcomes(results, other)).toEqual(['healed', 'healed', 'healed']);
  });
});

test.each(['SSH_UNREACHABLE', 'NO_SPACE', 'LOCKED', 'BLOB_IN_USE', 'PULL_FAILED', 'PULL_TIMEOUT', 'NODE_BUSY'])(
  'a canary whose node is at fault (%s) hands its place on, and all others are healed',
  (code) => {
    const actions = fleet(12);
    const { begun, results } = play(actions, ({ node: { name } }) => (name === 'n1' ? ['failed', code] : ['healed']));
    expect(begun.slice(0, 2)).toEqual(['n1', 'n2']);
    expect(outcomes(results, actions).filter((one) => one === 'healed')).toHaveLength(11);
  },
);

test('beyond its canaries nothing begins before they are healed', () => {
  const actions = fleet(4);
  const progress: Progress = { running: new Set(), results: new Map(), held: new Map(), due: new Set(), wrong: [] };
  expect(nextTurns(actions, progress, NO_LIMITS).start.map(({ node: { name } }) => name)).toEqual(['n1']);
  const after: Progress = {
    ...progress,
    results: new Map([[actions[0] as Action, result(actions[0] as Action, 'healed')]]),
  };
  expect(nextTurns(actions, after, NO_LIMITS).start).toHaveLength(3);
});

test('images do not wait for one another', () => {
  const actions = [...fleet(3), ...fleet(3, 1, { image: 'other', reference: 'other', node: node('x') })];
  const progress: Progress = { running: new Set(), results: new Map(), held: new Map(), due: new Set(), wrong: [] };
  expect(nextTurns(actions, progress, NO_LIMITS).start.map(imageOf)).toEqual(['simular/win11:latest', 'other:latest']);
});

test('what is broken goes first, then what was left out, then what is large', () => {
  const actions = [
    action('small', { sizeBytes: 1 }),
    action('large', { sizeBytes: 9 }),
    action('left-out', { wasLeftOut: true }),
    action('broken', { isBroken: true }),
  ];
  expect(play(actions, healed, { maxPulls: 1 }).begun).toEqual(['broken', 'left-out', 'large', 'small']);
});

test('past maxFailures nothing begins, what runs ends, and the rest says why', () => {
  const actions = fleet(12, 0);
  const { begun, results } = play(actions, () => ['failed', 'PULL_FAILED'], { maxPulls: 2, maxFailed: 1 });
  expect(begun.length).toBeLessThanOrEqual(4);
  expect(results.get(actions[11] as Action)).toMatchObject({
    outcome: 'skipped',
    reason: 'more than 1 of the planned actions failed (rollout.maxFailures)',
  });
});

test('a run that is ending begins nothing', () => {
  const ending = errorInfo('INTERRUPTED', { signal: 'SIGTERM' });
  const { begun, results } = play(fleet(3), healed, { ending });
  expect(begun).toEqual([]);
  expect([...results.values()].map(({ error }) => error?.code)).toEqual(['INTERRUPTED', 'INTERRUPTED', 'INTERRUPTED']);
});

describe('time', () => {
  const GB = 1e9;
  const pace = { each: 1e6, all: 4e6 };

  test('what cannot end in what is left is not begun, and says how long it needs', () => {
    const actions = [action('small', { sizeBytes: 0.5 * GB }), action('large', { sizeBytes: 1.32 * GB })];
    const { begun, results } = play(actions, healed, { pace, leftMs: 14 * 60_000 });
    expect(begun).toEqual(['small']);
    expect(results.get(actions[1] as Action)).toMatchObject({
      outcome: 'skipped',
      reason: 'needs 22m, 14m left',
      error: { code: 'NO_TIME' },
    });
  });

  test('where nobody knows the pace only a time that is over counts', () => {
    expect(play(fleet(2), healed, { leftMs: 1 }).begun).toHaveLength(2);
    expect(play(fleet(2), healed, { leftMs: 0 }).begun).toEqual([]);
  });

  test('fewer go on at once where a download would take longer than cocoon gives it', () => {
    const actions = fleet(6, 0, { sizeBytes: 3 * GB }); // 30 minutes at 4 MB/s are 7.2 GB
    expect(play(actions, healed, { pace }).atOnce).toBe(2);
    expect(play(fleet(6, 0, { sizeBytes: 9 * GB }), healed, { pace }).atOnce).toBe(1);
  });
});

describe('nodes that others hold', () => {
  const [first, second, third] = fleet(3) as [Action, Action, Action];
  const held = new Map([[first, result(first, 'skipped', 'LOCKED')]]);
  const at = (over: Partial<Progress>): Progress => ({
    running: new Set(),
    results: new Map(),
    held,
    due: new Set(),
    wrong: [],
    ...over,
  });

  test('hand their place on, and have a turn when it is time to ask again', () => {
    const all = [first, second, third];
    expect(nextTurns(all, at({}), NO_LIMITS).start).toEqual([second]);
    expect(nextTurns(all, at({ running: new Set([second]), due: new Set([first]) }), NO_LIMITS).start).toEqual([first]);
    const done = new Map([[second, result(second, 'healed')]]);
    expect(nextTurns(all, at({ results: done }), NO_LIMITS).start).toEqual([third]);
  });
});

describe('the order in which nodes are asked to be canaries', () => {
  const candidate = (name: string, over = {}) => ({ node: name, pool: 'a', runningVms: 0, hasFailed: false, ...over });

  test('is that of the inventory, but for those with fewer VMs, other pools, and failures', () => {
    expect(canaryOrder(['x', 'y', 'z'].map((name) => candidate(name)))).toEqual(['x', 'y', 'z']);
    expect(canaryOrder([candidate('x', { runningVms: 2 }), candidate('y', { runningVms: 1 })])).toEqual(['y', 'x']);
    expect(canaryOrder([candidate('x', { hasFailed: true }), candidate('y', { runningVms: 9 })])).toEqual(['y', 'x']);
    const pools = [candidate('x'), candidate('y'), candidate('z', { pool: 'b', runningVms: 5 })];
    expect(canaryOrder(pools)).toEqual(['x', 'z', 'y']);
  });
});

const FATES: Fate[] = [
  ['healed'],
  ['superseded'],
  ['failed', 'PULL_FAILED'],
  ['failed', 'CLONE_FAILED'],
  ['failed', 'VERIFY_MISMATCH'],
  ['skipped', 'LOCKED'],
  ['skipped', 'SSH_UNREACHABLE'],
];

test('whatever happens: every action ends once, nothing is begun twice, and an unproven image stays with canary + 2 nodes', () => {
  const scene = fc.record({
    size: fc.integer({ min: 1, max: 12 }),
    canary: fc.integer({ min: 0, max: 4 }),
    maxPulls: fc.integer({ min: 1, max: 5 }),
    maxFailed: fc.integer({ min: 0, max: 12 }),
    images: fc.integer({ min: 1, max: 3 }),
    fates: fc.array(fc.constantFrom(...FATES), { minLength: 36, maxLength: 36 }),
  });
  fc.assert(
    fc.property(scene, ({ size, canary, maxPulls, maxFailed, images, fates }) => {
      const actions = Array.from({ length: images }, (_, i) =>
        fleet(size, canary, { image: `image-${i}`, reference: `image-${i}` }),
      ).flat();
      const fateOf = (one: Action): Fate => fates[actions.indexOf(one)] ?? ['healed'];
      const { begun, results, atOnce } = play(actions, fateOf, { maxPulls, maxFailed });
      expect(results.size).toBe(actions.length);
      expect(atOnce).toBeLessThanOrEqual(maxPulls);
      expect(begun.length).toBeLessThanOrEqual(actions.length);
      if (canary === 0) return;
      for (let i = 0; i < images; i += 1) {
        const mine = actions.filter(({ image }) => image === `image-${i}`);
        const touched = mine.filter((one) => results.get(one)?.error?.code !== 'NOT_STARTED');
        const good = mine.filter((one) => ['healed', 'superseded'].includes(results.get(one)?.outcome ?? ''));
        if (good.length < Math.min(canary, size)) expect(touched.length).toBeLessThanOrEqual(canary + 2);
      }
    }),
  );
});
