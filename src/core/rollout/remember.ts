/** What the next run is told: where an image failed, what was left out, how quickly images came. */
import { imageOf, type Action } from '../model/plan.ts';
import type { ActionResult } from '../model/result.ts';
import type { Pace, Place, Remembered } from '../model/rollout.ts';

/** More of each is not kept: the newest count. */
const MAX_PLACES = 5000;

/** @param results one per action, in their order */
export function rememberRun(
  before: Remembered,
  actions: Action[],
  results: ActionResult[],
  pace: Pace | null,
): Remembered {
  const failed = new Map(before.failed.map((place) => [keyOf(place), place]));
  const leftOut = new Map(before.leftOut.map((place) => [keyOf(place), place]));
  for (const [i, action] of actions.entries()) {
    const result = results[i];
    if (result === undefined) continue;
    const tried = { node: action.node.name, of: imageOf(action) };
    const asked = { node: action.node.name, of: action.reference };
    if (result.outcome === 'failed') failed.set(keyOf(tried), tried);
    else if (result.outcome !== 'skipped') failed.delete(keyOf(tried));
    if (result.outcome === 'skipped' && action.blocked === null) leftOut.set(keyOf(asked), asked);
    else leftOut.delete(keyOf(asked));
  }
  return {
    failed: [...failed.values()].slice(-MAX_PLACES),
    leftOut: [...leftOut.values()].slice(-MAX_PLACES),
    pace: pace ?? before.pace,
  };
}

function keyOf({ node, of }: Place): string {
  return `${node}\n${of}`;
}

/** Whether a place is among those that are remembered. */
export function isRemembered(places: Place[]): (node: string, of: string) => boolean {
  const keys = new Set(places.map(keyOf));
  return (node, of) => keys.has(keyOf({ node, of }));
}
