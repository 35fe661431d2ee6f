/** Whose turn it is: what of a plan may begin now, and what never will. Asked again after everything that happens. */
import { errorInfo } from '../errors.ts';
import { count, shortDigest } from '../text.ts';
import type { ErrorInfo } from '../model/error.ts';
import { imageOf, type Action } from '../model/plan.ts';
import type { ActionResult } from '../model/result.ts';
import type { Pace } from '../model/rollout.ts';
import { pullMs, pullsAtOnce } from './pace.ts';

/** How far a rollout is. */
export interface Progress {
  running: ReadonlySet<Action>;
  results: ReadonlyMap<Action, ActionResult>;
  /** Actions on nodes that others hold, which are tried again: what came of the last try. */
  held: ReadonlyMap<Action, ActionResult>;
  /** Those of them that it is time to try again. */
  due: ReadonlySet<Action>;
  /** Content that nodes received and no registry serves. */
  wrong: readonly { action: Action; digest: string | null }[];
}

/** What bounds it at this moment. */
export interface TurnLimits {
  maxPulls: number;
  /** So many actions may fail. */
  maxFailed: number;
  /** Why nothing at all begins any more, or null. */
  ending: ErrorInfo | null;
  /** All that begins must end within so many ms. */
  leftMs: number;
  pace: Pace | null;
}

export interface Turns {
  start: Action[];
  skip: Map<Action, ErrorInfo>;
}

/** How often the place of a canary goes to another node because the node, and not the image, was at fault. */
const MAX_HANDED_ON = 2;

/** What says that a node could not take an image, and nothing of the image. */
const NODE_AT_FAULT: ReadonlySet<string> = new Set([
  'BLOB_IN_USE',
  'IMPORT_FAILED',
  'LOCKED',
  'NO_SPACE',
  'PULL_FAILED',
  'PULL_TIMEOUT',
]);

function isNodeAtFault({ error }: ActionResult): boolean {
  if (error === null) return false;
  return NODE_AT_FAULT.has(error.code) || error.code.startsWith('SSH_') || error.code.startsWith('NODE_');
}

/**
 * Each image has waves of its own: its canaries, then all others; no image waits for another one. All share `maxPulls`, and
 * on a node one change goes on at a time. What is broken goes before what is stale, and what a run left out before what none did.
 */
export function nextTurns(actions: Action[], progress: Progress, limits: TurnLimits): Turns {
  const { running, results, held, due } = progress;
  const rollouts = rolloutsOf(actions, progress);
  const failed = [...results.values()].filter(({ outcome }) => outcome === 'failed').length;
  const skip = new Map<Action, ErrorInfo>();
  const ready: Action[] = [];
  for (const action of actions) {
    if (running.has(action) || results.has(action)) continue;
    const rollout = rollouts.get(imageOf(action));
    const why = whyNever(action, rollout?.stopped ?? null, failed, limits);
    if (why !== null) skip.set(action, why);
    else if ((!held.has(action) || due.has(action)) && rollout?.mayBegin(action)) ready.push(action);
  }
  return { start: firstOf(ready, [...running], limits), skip };
}

/** Why an action will not begin any more. */
function whyNever(
  action: Action,
  stopped: string | null,
  failed: number,
  { maxFailed, ending, leftMs, pace }: TurnLimits,
): ErrorInfo | null {
  if (action.blocked !== null) return action.blocked;
  if (ending !== null) return ending;
  if (stopped !== null) return errorInfo('NOT_STARTED', { why: stopped });
  if (failed > maxFailed) {
    return errorInfo('NOT_STARTED', {
      why: `more than ${maxFailed} of the planned actions failed (rollout.maxFailures)`,
    });
  }
  const needMs = pace === null ? 0 : pullMs(action.sizeBytes, pace);
  return needMs > leftMs || leftMs <= 0
    ? errorInfo('NO_TIME', { needMs: pace === null ? null : needMs, leftMs })
    : null;
}

/** As many of those that may begin as there is room for, the most urgent first. */
function firstOf(ready: Action[], running: Action[], { maxPulls, pace }: TurnLimits): Action[] {
  const start: Action[] = [];
  const busy = new Set(running.map(nameOf));
  let largest = Math.max(0, ...running.map(({ sizeBytes }) => sizeBytes));
  for (const action of [...ready].sort(byUrgency)) {
    const atOnce = running.length + start.length;
    if (atOnce >= maxPulls) break;
    if (busy.has(nameOf(action))) continue;
    if (atOnce >= pullsAtOnce(Math.max(largest, action.sizeBytes), pace)) continue;
    busy.add(nameOf(action));
    largest = Math.max(largest, action.sizeBytes);
    start.push(action);
  }
  return start;
}

/** A canary goes first, because others wait for it; then what takes longest, so that nothing long is left for the end. */
export function byUrgency(a: Action, b: Action): number {
  return (
    Number(b.isBroken) - Number(a.isBroken) ||
    Number(b.wasLeftOut) - Number(a.wasLeftOut) ||
    a.wave - b.wave ||
    b.sizeBytes - a.sizeBytes
  );
}

/** How the rollout of one image stands. */
interface Rollout {
  /** Why the image goes to no further node, or null. */
  stopped: string | null;
  mayBegin: (action: Action) => boolean;
}

function rolloutsOf(actions: Action[], progress: Progress): Map<string, Rollout> {
  const byImage = new Map<string, Action[]>();
  for (const action of actions) {
    const mine = byImage.get(imageOf(action));
    if (mine === undefined) byImage.set(imageOf(action), [action]);
    else mine.push(action);
  }
  return new Map([...byImage].map(([image, mine]) => [image, rolloutOf(mine, progress)]));
}

/** The nodes that are canaries by now: the planned ones, and those to which their places went. */
export function canariesOf(mine: Action[], progress: Pick<Progress, 'results' | 'held'>): Set<string> {
  const planned = new Set(mine.filter(({ wave, canaryRank }) => wave === 0 && canaryRank !== null).map(nameOf));
  const ranked = mine.filter(({ canaryRank }) => canaryRank !== null);
  const order = [...new Set(ranked.sort((a, b) => (a.canaryRank ?? 0) - (b.canaryRank ?? 0)).map(nameOf))];
  let chosen = order.slice(0, planned.size);
  for (let handedOn = 1; handedOn <= MAX_HANDED_ON; handedOn += 1) {
    const passed = chosen.filter((node) => standingOf(node, mine, progress) === 'node-at-fault').length;
    if (passed < handedOn) break;
    chosen = order.slice(0, planned.size + handedOn);
  }
  return new Set(chosen);
}

type Standing = 'open' | 'healed' | 'node-at-fault' | 'unhealed';

/** What came of all actions of an image on one node. */
function standingOf(node: string, mine: Action[], { results, held }: Pick<Progress, 'results' | 'held'>): Standing {
  const there = mine.filter((action) => nameOf(action) === node && action.blocked === null);
  const known = there.flatMap((action) => results.get(action) ?? held.get(action) ?? []);
  const unhealed = known.filter(({ outcome }) => outcome === 'failed' || outcome === 'skipped');
  if (unhealed.some((result) => !isNodeAtFault(result))) return 'unhealed';
  if (unhealed.length > 0) return 'node-at-fault';
  return known.length === there.length ? 'healed' : 'open';
}

/** Why the image of these actions goes to no further node, or null. */
export function whyStopped(mine: Action[], progress: Progress): string | null {
  return rolloutOf(mine, progress).stopped;
}

function rolloutOf(mine: Action[], progress: Progress): Rollout {
  const wrong = sameWrongDigest(mine, progress);
  if (wrong !== null) return { stopped: wrong, mayBegin: () => false };
  const needed = new Set(mine.filter(({ wave, canaryRank }) => wave === 0 && canaryRank !== null).map(nameOf)).size;
  if (needed === 0) return { stopped: null, mayBegin: () => true };
  const canaries = [...canariesOf(mine, progress)];
  const standings = canaries.map((node) => ({ node, standing: standingOf(node, mine, progress) }));
  const bad = standings.find(({ standing }) => standing === 'unhealed');
  if (bad !== undefined) return { stopped: `its canary ${bad.node} was not healed`, mayBegin: () => false };
  const isProven = standings.filter(({ standing }) => standing === 'healed').length >= needed;
  const isOver = standings.every(({ standing }) => standing === 'healed' || standing === 'node-at-fault');
  const isHeld = mine.some((action) => progress.held.has(action));
  if (!isProven && isOver && !isHeld) {
    const passed = standings.filter(({ standing }) => standing === 'node-at-fault').map(({ node }) => node);
    const why = `${count(passed.length, 'node')} could not take it, and no further one is tried: ${passed.join(', ')}`;
    return { stopped: why, mayBegin: () => false };
  }
  return { stopped: null, mayBegin: (action) => isProven || canaries.includes(nameOf(action)) };
}

/** The same wrong digest on two nodes is the registry's fault and not a node's. */
function sameWrongDigest(mine: Action[], { wrong }: Progress): string | null {
  const first = new Map<string | null, string>();
  for (const { action, digest } of wrong) {
    if (!mine.includes(action)) continue;
    const node = first.get(digest) ?? nameOf(action);
    first.set(digest, node);
    if (node !== nameOf(action)) {
      return `${node} and ${nameOf(action)} received the same wrong digest ${shortDigest(digest)}`;
    }
  }
  return null;
}

function nameOf({ node }: Action): string {
  return node.name;
}
