/** Carries out a plan and looks at nothing else: leftovers first, then wave by wave, a few changes at once, each verified by reading the node again. */
import PQueue from 'p-queue';
import { errorInfo, infoOf } from '../../core/errors.ts';
import type { ErrorInfo } from '../../core/model/error.ts';
import { imageOf, type Action, type Plan } from '../../core/model/plan.ts';
import type { ActionResult, Applied } from '../../core/model/result.ts';
import { countOf } from '../../core/limit.ts';
import { shortDigest } from '../../core/text.ts';
import { applyAction, UNTOUCHED, type Role } from './action.ts';
import type { ApplyClients, ApplyLimits } from './limits.ts';
import { tidyAll } from './tidy.ts';

/** Does all that the plan says, and nothing that it does not say. Trouble is in the results. */
export async function applyPlan(plan: Plan, clients: ApplyClients, limits: ApplyLimits): Promise<Applied> {
  const tidied = await tidyAll(plan.tidyings, clients, limits);
  const results = await applyActions(plan.actions, clients, limits);
  await clients.state.save();
  return { tidied, results };
}

/** How a run is going: what decides whether the next action may start. */
interface Progress {
  failures: number;
  /** image:tag → why no further node gets it. */
  stopped: Map<string, string>;
  /** image:tag and wrong digest → the node that received it. */
  wrongDigests: Map<string, string>;
  /** The actions that stand in for those of canaries. */
  standIns: Set<Action>;
}

/**
 * Applies the actions of each wave before those of the next. An image goes past its canaries only when every one of
 * them is healed; for one that another run or a VM holds, so that nothing was begun there, the next node takes its place. Past
 * the failure budget nothing new starts; what was not started is `skipped` with the reason.
 * @returns one result per action, in the order of the plan
 */
async function applyActions(actions: Action[], clients: ApplyClients, limits: ApplyLimits): Promise<ActionResult[]> {
  const { maxPulls, maxFailures, signal, events } = limits;
  const budget = countOf(maxFailures, actions.length);
  const progress: Progress = { failures: 0, stopped: new Map(), wrongDigests: new Map(), standIns: new Set() };
  const results = new Map<Action, ActionResult>();

  const applyTogether = async (some: Action[]): Promise<void> => {
    const queue = new PQueue({ concurrency: maxPulls });
    const perNode = new Map<string, Promise<void>>();
    await Promise.all(
      some.map(async (action) => {
        // One at a time on a node: each action waits for the one before it there, outside the queue's slots.
        const before = perNode.get(action.node.name) ?? Promise.resolve();
        const run = before.then(async () => {
          await queue.add(async () => {
            const why = whyNotNow(action, progress, budget, signal) ?? (await limits.whyNot?.(action)) ?? null;
            const result =
              why === null
                ? await applyAction(action, clients, { ...limits, ...roleOf(action, progress) })
                : skip(action, why);
            if (result.outcome === 'failed') progress.failures += 1;
            results.set(action, result);
            events.onResult(result);
          });
        });
        perNode.set(action.node.name, run);
        await run;
      }),
    );
    stopUnhealed(some, results, progress);
  };

  for (const wave of [...new Set(actions.map((action) => action.wave))].sort((a, b) => a - b)) {
    let some = actions.filter((action) => action.wave === wave && !results.has(action));
    while (some.length > 0) {
      await applyTogether(some);
      some = standInsFor(some, results, actions);
      for (const action of some) progress.standIns.add(action);
    }
  }
  return actions.flatMap((action) => results.get(action) ?? []);
}

function whyNotNow(action: Action, progress: Progress, budget: number, signal: AbortSignal): ErrorInfo | null {
  if (action.blocked !== null) return action.blocked;
  if (signal.aborted) return infoOf(signal.reason);
  const stopped = progress.stopped.get(imageOf(action));
  if (stopped !== undefined) return errorInfo('NOT_STARTED', { why: stopped });
  if (progress.failures > budget) {
    return errorInfo('NOT_STARTED', { why: `more than ${budget} of the planned actions failed (rollout.maxFailures)` });
  }
  return null;
}

/** After a wave: an image with an action that is not healed goes no further, unless nothing was begun there. */
function stopUnhealed(wave: Action[], results: Map<Action, ActionResult>, progress: Progress): void {
  for (const action of wave) {
    const result = results.get(action);
    if (
      result === undefined ||
      result.outcome === 'healed' ||
      result.outcome === 'superseded' ||
      isUntouched(result) ||
      action.blocked !== null
    )
      continue;
    const key = imageOf(action);
    if (!progress.stopped.has(key))
      progress.stopped.set(key, `its canary ${action.node.name} was not healed: ${result.outcome}`);
  }
}

/** True where another run or a VM holds the node or the blob: that says nothing about the image. */
function isUntouched({ outcome, error }: ActionResult): boolean {
  return outcome === 'skipped' && error !== null && UNTOUCHED.has(error.code);
}

/** Of each image as many of the next nodes as just turned out to be held, with all its actions there. */
function standInsFor(done: Action[], results: Map<Action, ActionResult>, actions: Action[]): Action[] {
  const held = done.filter((action) => {
    const result = results.get(action);
    return result !== undefined && isUntouched(result);
  });
  const waiting = actions.filter((action) => action.blocked === null && !results.has(action));
  return [...new Set(held.map(imageOf))].flatMap((key) => {
    const nodes = new Set(held.filter((action) => imageOf(action) === key).map(nameOf));
    const mine = waiting.filter((action) => imageOf(action) === key);
    const next = [...new Set(mine.map(nameOf))].slice(0, nodes.size);
    return mine.filter((action) => next.includes(nameOf(action)));
  });
}

function nameOf({ node }: Action): string {
  return node.name;
}

/** What an action is told of the others, and tells them. */
function roleOf(action: Action, progress: Progress): Role {
  return {
    isCanary: action.wave === 0 || progress.standIns.has(action),
    isStopped: () => progress.stopped.has(imageOf(action)),
    onWrongDigest: (have) => noteWrongDigest(action, have, progress),
  };
}

function skip(action: Action, error: ErrorInfo): ActionResult {
  const { node, reference } = action;
  return { node: node.name, reference, outcome: 'skipped', reason: error.message, error, after: null, steps: [] };
}

/** The same wrong digest on two nodes is the registry's fault and not a node's: the image stops for the fleet. */
function noteWrongDigest(action: Action, have: string | null, progress: Progress): void {
  const key = `${imageOf(action)}@${have}`;
  const first = progress.wrongDigests.get(key) ?? action.node.name;
  progress.wrongDigests.set(key, first);
  if (first === action.node.name) return;
  const why = `${first} and ${action.node.name} received the same wrong digest ${shortDigest(have)}`;
  progress.stopped.set(imageOf(action), why);
}
