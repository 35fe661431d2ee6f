/**
 * Carries out the part of a plan that one shard has, beside other shards that do theirs: no more pulls at once than all may
 * do together, and no node of an image beyond its canaries before these are healed, wherever they are. Where the shards
 * cannot meet any more, nothing more is begun.
 */
import { errorInfo, infoOf } from '../../core/errors.ts';
import { countOf } from '../../core/limit.ts';
import type { ErrorInfo } from '../../core/model/error.ts';
import { imageOf, type Action, type Plan } from '../../core/model/plan.ts';
import type { ActionResult, Applied } from '../../core/model/result.ts';
import { limitOf, shardName, shareOf, type Shard } from '../../core/shard/shard.ts';
import { canaryShards, hasReached, turnAfter, verdictOn } from '../../core/shard/standing.ts';
import type { SharedRun } from '../../bastion/shared-run.ts';
import { openBoard, stoppedBy, type Board } from './board.ts';
import type { ApplyClients, ApplyLimits } from './limits.ts';
import { applyPlan } from './rollout.ts';

/** Of the time that is left so much is waited for the plans of all others; then what is known must do. */
const FOR_PLANS = 1 / 2;
/** So much of it is kept for the end, so that the report says what was waited for; in ms at most. */
const RESERVE = 1 / 10;
const MAX_RESERVE_MS = 30_000;
/** Nodes that may take the place of a canary that is held or cannot pull. */
const STAND_INS = 2;

export interface Meeting {
  shard: Shard;
  shared: SharedRun;
  /** Nodes per image that come first, in the whole fleet. */
  canary: number;
}

/** What came of the part, and the actions with the waves that they were in. */
export interface AppliedPart extends Applied {
  actions: Action[];
}

/** Does all of the plan that the others allow in time. Trouble is in the results. */
export async function applyShard(
  plan: Plan,
  clients: ApplyClients,
  limits: ApplyLimits,
  meeting: Meeting,
): Promise<AppliedPart> {
  const { shard, shared, canary } = meeting;
  const { maxFailures, maxPulls, ending, leftMs } = limits;
  const board = await openBoard(shared, { shard, maxFailures, signal: ending });
  const byImage = groupByImage(plan.actions);
  const planned = [...byImage].map(([image, actions]) => [image, nodesOf(actions).length] as const);
  await board.tell({
    phase: 'planned',
    planned: Object.fromEntries(planned.filter(([, nodes]) => nodes > 0)),
    actions: plan.actions.length,
  });
  const results = new Map<string, ActionResult>();
  const waves = new Map<string, number>();
  const mine = createApplier({ clients, limits, board, shard, results });
  const { tidied } = await applyPlan({ tidyings: plan.tidyings, actions: [] }, clients, limits);

  await board.until(() => board.standings().every((one) => hasReached(one, 'planned')), leftMs() * FOR_PLANS);
  const waitMs = (): number => {
    const left = leftMs();
    return left - Math.min(MAX_RESERVE_MS, left * RESERVE);
  };
  const takeTurn = async (phase: 'canaries' | 'done'): Promise<number | null> => {
    const turn = turnAfter(shard, maxPulls, phase);
    if (turn === null) return null;
    const isFree = (): boolean => hasReached(board.standings()[turn.shard], turn.phase);
    return (await board.until(isFree, waitMs())) ? null : turn.shard;
  };

  // the canaries that this shard has
  const own = canary === 0 ? new Map<string, number>() : ownCanaries(board, byImage, meeting);
  const late = await takeTurn('canaries'); // also without any: who comes after waits for this shard alone
  if (late === null) {
    const first = [...own].flatMap(([image, count]) => canaryActions(byImage.get(image) ?? [], count));
    for (const action of first) waves.set(keyOf(action), action.wave);
    await mine(first, own);
    // an end that comes from outside says nothing against an image: who is started again goes on
    const unhealed = ending.aborted
      ? []
      : [...own.keys()].filter((image) => board.mine().verdicts[image] === undefined);
    const stopped = Object.fromEntries(unhealed.map((image) => [image, 'stopped' as const]));
    await board.tell({
      phase: ending.aborted ? 'planned' : 'canaries',
      verdicts: { ...board.mine().verdicts, ...stopped },
    });
  } else await board.tell({ phase: 'canaries' });

  // all else, as the verdicts come in
  const rest = (): Action[] => plan.actions.filter((action) => !results.has(keyOf(action)));
  const heldUp = await takeTurn('done');
  if (heldUp !== null)
    skipAll(rest(), board.trouble() ?? waited('its turn to pull', heldUp, shard), { results, limits });
  while (rest().length > 0) {
    const isOpen = (action: Action): boolean => canary > 0 && standOf(action, board, canary).verdict === 'open';
    const hasNews = (): boolean => rest().some((action) => !isOpen(action));
    if (!(await board.until(hasNews, waitMs())) && !ending.aborted) break;
    const stopped = rest().filter((action) => canary > 0 && standOf(action, board, canary).verdict === 'stopped');
    for (const action of stopped)
      skipAll([action], stoppedBy(standOf(action, board, canary).shard ?? 0, shard), { results, limits });
    const ready = rest().filter((action) => ending.aborted || !isOpen(action));
    await mine(
      ready.map((action) => ({ ...action, wave: canary === 0 ? 0 : 1 })),
      new Map(),
    );
  }
  for (const action of rest()) {
    const { shard: by } = standOf(action, board, canary);
    const error = board.trouble() ?? waited(`the verdict on the canary of ${imageOf(action)}`, by ?? 0, shard);
    skipAll([action], error, { results, limits });
  }
  if (!ending.aborted) await board.tell({ phase: 'done' });
  return {
    tidied,
    pace: null,
    results: plan.actions.flatMap((action) => results.get(keyOf(action)) ?? []),
    actions: plan.actions.map((action) => ({ ...action, wave: canary === 0 ? 0 : (waves.get(keyOf(action)) ?? 1) })),
  };
}

function waited(what: string, index: number, { count }: Shard): ErrorInfo {
  return errorInfo('SHARD_WAITED', { what, shard: shardName({ index, count }) });
}

function standOf(action: Action, board: Board, canary: number): ReturnType<typeof verdictOn> {
  return verdictOn(imageOf(action), canary, board.standings());
}

function groupByImage(actions: Action[]): Map<string, Action[]> {
  const groups = new Map<string, Action[]>();
  for (const action of actions) groups.set(imageOf(action), [...(groups.get(imageOf(action)) ?? []), action]);
  return groups;
}

/** The nodes on which an action can begin. */
function nodesOf(actions: Action[]): string[] {
  return [...new Set(actions.filter(({ blocked }) => blocked === null).map(({ node }) => node.name))];
}

/** The images of which this shard has canaries that have no verdict yet, with how many. */
function ownCanaries(board: Board, byImage: Map<string, Action[]>, { shard, canary }: Meeting): Map<string, number> {
  const found = [...byImage.keys()].flatMap((image) => {
    const count = canaryShards(image, canary, board.standings())?.get(shard.index) ?? 0;
    return count === 0 || board.mine().verdicts[image] !== undefined ? [] : [[image, count] as const];
  });
  return new Map(found);
}

/** The actions on the first nodes of an image, and after them those that may take their place. */
function canaryActions(actions: Action[], count: number): Action[] {
  const byRank = actions.toSorted((a, b) => (a.canaryRank ?? Number.MAX_VALUE) - (b.canaryRank ?? Number.MAX_VALUE));
  const nodes = nodesOf(byRank).slice(0, count + STAND_INS);
  const first = new Set(nodes.slice(0, count));
  return actions
    .filter(({ node, blocked }) => blocked === null && nodes.includes(node.name))
    .map((action) => ({ ...action, wave: first.has(action.node.name) ? 0 : 1 }));
}

interface Applying {
  clients: ApplyClients;
  limits: ApplyLimits;
  board: Board;
  shard: Shard;
  /** By node and reference. */
  results: Map<string, ActionResult>;
}

/** Applies some actions under this shard's part of the limits, and says at once which image has its canaries healed. */
function createApplier({ clients, limits, board, shard, results }: Applying) {
  const { maxFailures, maxPulls, events } = limits;
  const allowed = maxFailures.percent
    ? (planned: number): number => countOf(maxFailures, planned)
    : (): number => limitOf(maxFailures, shard).value;
  return async (actions: Action[], own: Map<string, number>): Promise<void> => {
    if (actions.length === 0) return;
    const byKey = new Map(actions.map((action) => [keyOf(action), action]));
    const healed = new Map<string, Set<string>>();
    const onResult = (result: ActionResult): void => {
      events.onResult(result);
      const action = byKey.get(keyOfResult(result));
      if (result.outcome === 'failed' && !limits.ending.aborted)
        void board.tell({ failures: board.mine().failures + 1 });
      if (action === undefined || (result.outcome !== 'healed' && result.outcome !== 'superseded')) return;
      const image = imageOf(action);
      const nodes = healed.get(image) ?? new Set();
      healed.set(image, nodes.add(result.node));
      if (nodes.size !== own.get(image)) return;
      void board.tell({ verdicts: { ...board.mine().verdicts, [image]: 'healed' } });
    };
    const applied = await applyPlan({ tidyings: [], actions }, clients, {
      ...limits,
      maxPulls: Math.max(1, shareOf(maxPulls, shard)),
      maxFailures: { value: Math.max(0, allowed(board.mine().actions) - board.mine().failures), percent: false },
      whyNot: board.whyNot,
      events: { ...events, onResult },
    });
    for (const result of applied.results) results.set(keyOfResult(result), result);
  };
}

function keyOf({ node, reference }: Action): string {
  return `${node.name}\n${reference}`;
}

function keyOfResult({ node, reference }: ActionResult): string {
  return `${node}\n${reference}`;
}

function skipAll(actions: Action[], error: ErrorInfo, { results, limits }: Pick<Applying, 'results' | 'limits'>): void {
  const why = limits.ending.aborted ? infoOf(limits.ending.reason) : error;
  for (const action of actions) {
    const { node, reference } = action;
    const result: ActionResult = {
      node: node.name,
      reference,
      outcome: 'skipped',
      reason: why.message,
      error: why,
      after: null,
      steps: [],
    };
    results.set(keyOf(action), result);
    limits.events.onResult(result);
  }
}
