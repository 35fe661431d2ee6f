/** Carries out a plan and looks at nothing else: leftovers first, then what has its turn, each verified by reading the node again. */
import { setTimeout as sleep } from 'node:timers/promises';
import { errorInfo, infoOf } from '../../core/errors.ts';
import { countOf } from '../../core/limit.ts';
import type { ErrorInfo } from '../../core/model/error.ts';
import { imageOf, type Action, type Plan } from '../../core/model/plan.ts';
import type { ActionResult, Applied } from '../../core/model/result.ts';
import { paceOf, type PullTime } from '../../core/rollout/pace.ts';
import { canariesOf, nextTurns, whyStopped, type Progress, type TurnLimits } from '../../core/rollout/turns.ts';
import { applyAction, type Role } from './action.ts';
import { lookAgain } from './held.ts';
import type { ApplyClients, ApplyLimits } from './limits.ts';
import { tidyAll } from './tidy.ts';

/** Does all that the plan says, and nothing that it does not say. Trouble is in the results. */
export async function applyPlan(plan: Plan, clients: ApplyClients, limits: ApplyLimits): Promise<Applied> {
  const tidied = await tidyAll(plan.tidyings, clients, limits);
  const pulls: PullTime[] = [];
  const results = await applyActions(plan.actions, clients, limits, pulls);
  await clients.state.save();
  return { tidied, results, pace: paceOf(pulls) };
}

/** How long a node that another holds is left alone before it is asked again, in ms. */
const ASK_AGAIN_MS = 2_000;

/** `Progress`, as it is written here. */
interface Rollout extends Progress {
  running: Set<Action>;
  results: Map<Action, ActionResult>;
  held: Map<Action, ActionResult>;
  due: Set<Action>;
  wrong: { action: Action; digest: string | null }[];
}

/**
 * After everything that happens the next turns are asked for. What has none any more is `skipped` with the reason.
 * @returns one result per action, in the order of the plan
 */
async function applyActions(
  actions: Action[],
  clients: ApplyClients,
  limits: ApplyLimits,
  pulls: PullTime[],
): Promise<ActionResult[]> {
  const { maxPulls, maxFailures, ending, leftMs, events } = limits;
  const maxFailed = countOf(maxFailures, actions.length);
  const progress: Rollout = { running: new Set(), results: new Map(), held: new Map(), due: new Set(), wrong: [] };
  const refusedAt = new Map<Action, number>();
  let wake = (): void => undefined;
  const turnLimits = (): TurnLimits => ({
    maxPulls,
    maxFailed,
    ending: ending.aborted ? infoOf(ending.reason) : null,
    leftMs: leftMs(),
    pace: paceOf(pulls) ?? limits.pace,
  });

  const finish = (action: Action, result: ActionResult): void => {
    progress.held.delete(action);
    progress.due.delete(action);
    progress.results.set(action, result);
    events.onResult(result);
  };
  /** Somebody else is at work there: it is asked again as long as `lockTimeoutMs` lasts. */
  const waitFor = (action: Action, result: ActionResult): void => {
    progress.held.set(action, result);
    progress.due.delete(action);
    setTimeout(() => {
      progress.due.add(action);
      wake();
    }, ASK_AGAIN_MS).unref();
  };
  const apply = async (action: Action): Promise<ActionResult> => {
    const why = await limits.whyNot?.(action);
    if (why) return skipped(action, why);
    const late = await waitForBandwidth(action, limits);
    if (late !== null) return skipped(action, late);
    events.onStart(action);
    const role = roleOf(action, actions, progress);
    return await applyAction(action, clients, { ...limits, ...role, onPulled: (pull) => void pulls.push(pull) });
  };
  const begin = async (action: Action): Promise<void> => {
    progress.running.add(action);
    const result = await apply(action);
    progress.running.delete(action);
    const since = refusedAt.get(action) ?? performance.now();
    refusedAt.set(action, since);
    const isHeld = result.error?.code === 'LOCKED' && result.outcome === 'skipped';
    if (isHeld && !ending.aborted && performance.now() + ASK_AGAIN_MS < since + limits.lockTimeoutMs)
      waitFor(action, result);
    else finish(action, result);
    wake();
  };

  const onEnding = (): void => wake();
  ending.addEventListener('abort', onEnding);
  try {
    for (;;) {
      const { start, skip } = nextTurns(actions, progress, turnLimits());
      for (const [action, why] of skip) finish(action, progress.held.get(action) ?? skipped(action, why));
      const woken = new Promise<void>((resolve) => (wake = resolve));
      for (const action of start) void begin(action);
      if (skip.size > 0) continue;
      if (progress.running.size === 0 && progress.held.size === 0) break;
      await woken;
    }
  } finally {
    ending.removeEventListener('abort', onEnding);
  }
  const results = actions.flatMap((action) => progress.results.get(action) ?? []);
  return await lookAgain(actions, results, clients, limits);
}

/** What an action is told of the others, and tells them. */
function roleOf(action: Action, actions: Action[], progress: Rollout): Role {
  const mine = actions.filter((other) => imageOf(other) === imageOf(action));
  return {
    isCanary: action.wave === 0 || canariesOf(mine, progress).has(action.node.name),
    isStopped: () => whyStopped(mine, progress) !== null,
    onWrongDigest: (digest) => void progress.wrong.push({ action, digest }),
  };
}

function skipped(action: Action, error: ErrorInfo): ActionResult {
  const { node, reference } = action;
  return { node: node.name, reference, outcome: 'skipped', reason: error.message, error, after: null, steps: [] };
}

/** Waits until the pulls before it leave room. @returns why it must not begin, or null */
async function waitForBandwidth(
  { sizeBytes }: Action,
  { pacer, ending, leftMs }: ApplyLimits,
): Promise<ErrorInfo | null> {
  const waitMs = pacer?.book(sizeBytes) ?? 0;
  if (waitMs === 0) return null;
  if (waitMs >= leftMs())
    return errorInfo('NOT_STARTED', { why: 'rollout.bandwidth leaves no time for it in this run' });
  await sleep(waitMs, undefined, { signal: ending }).catch(() => undefined);
  return ending.aborted ? infoOf(ending.reason) : null;
}
