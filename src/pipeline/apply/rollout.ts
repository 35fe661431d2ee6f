/**
 * Carries out a plan: wave by wave, a few changes at once, each verified by reading the node again. This is the only
 * file that reaches what changes nodes, and it looks at nothing but the plan.
 */
import PQueue from 'p-queue';
import { withDeadline } from '../../system/deadline.ts';
import { cloneCanary, importImage, pullImage, replaceBlob, tidyNode } from '../../node/change.ts';
import type { Connection } from '../../ssh/client.ts';
import { errorInfo, fault, infoOf, ReconcileError } from '../../core/errors.ts';
import { canaryName, type Tidying } from '../../core/plan/leftovers.ts';
import { failureBudget, isSent } from '../../core/plan/actions.ts';
import { isQcow2 } from '../../core/qcow2.ts';
import { localSnapshotName } from '../../core/reference.ts';
import { shortDigest } from '../../core/text.ts';
import type { ErrorInfo } from '../../core/model/error.ts';
import type { Node } from '../../core/model/node.ts';
import type { Action } from '../../core/model/plan.ts';
import type { SnapshotRow } from '../../core/model/report.ts';
import type { ActionResult, Step, TidyResult } from '../../core/model/result.ts';
import { verify, verifyClones, type Verified, type VerifyContext } from './verify.ts';

/** What applying needs beside the plan. */
export interface ApplyContext extends VerifyContext {
  id: string;
  events: VerifyContext['events'] & {
    onStep: (action: Action, step: Step) => void;
    onResult: (result: ActionResult) => void;
    onTidied: (result: TidyResult) => void;
  };
}

/**
 * Tidies what runs that died left, a few nodes at once; never throws. What cannot be tidied costs nothing else: the
 * guard of each action looks once more.
 */
export async function tidyAll(tidyings: Tidying[], context: ApplyContext): Promise<TidyResult[]> {
  const queue = new PQueue({ concurrency: context.policy.maxPulls });
  const results = await queue.addAll(tidyings.map((tidying) => async () => await tidyOne(tidying, context)));
  return results.flat();
}

async function tidyOne({ node: name, leftovers }: Tidying, context: ApplyContext): Promise<TidyResult[]> {
  const { clients, signal, events } = context;
  const node = context.nodes.find((one) => one.name === name) as Node;
  let results: TidyResult[];
  let outcome: TidyResult['outcome'] = 'skipped';
  try {
    const connection = await clients.ssh.connect(node, signal);
    outcome = 'failed';
    try {
      results = await tidyNode(connection, node, leftovers, signal);
    } finally {
      connection.close();
    }
  } catch (error) {
    const info = infoOf(signal.aborted ? signal.reason : error);
    results = leftovers.map((left) => ({ node: name, name: left.name, outcome, error: info }));
  }
  for (const result of results) events.onTidied(result);
  return results;
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
 * them is healed; for one that another run or a VM holds, so that nothing was begun there, the next node stands in. Past
 * the failure budget nothing new starts; what was not started is `skipped` with the reason.
 * @returns one result per action, in the order of the plan
 */
export async function applyPlan(actions: Action[], context: ApplyContext): Promise<ActionResult[]> {
  const { policy, nodes, signal } = context;
  const budget = failureBudget(policy.maxFailures, actions.length);
  const progress: Progress = { failures: 0, stopped: new Map(), wrongDigests: new Map(), standIns: new Set() };
  const results = new Map<Action, ActionResult>();
  const byName = new Map(nodes.map((node) => [node.name, node]));

  const applyTogether = async (some: Action[]): Promise<void> => {
    const queue = new PQueue({ concurrency: policy.maxPulls });
    const perNode = new Map<string, Promise<void>>();
    await Promise.all(
      some.map(async (action) => {
        // One at a time on a node: each action waits for the one before it there, outside the queue's slots.
        const before = perNode.get(action.node) ?? Promise.resolve();
        const run = before.then(async () => {
          await queue.add(async () => {
            const why = whyNotNow(action, progress, budget, signal);
            const result =
              why === null
                ? await applyAction(action, byName.get(action.node) as Node, context, progress)
                : skipped(action, why);
            if (result.outcome === 'failed') progress.failures += 1;
            results.set(action, result);
            context.events.onResult(result);
          });
        });
        perNode.set(action.node, run);
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
  return actions.map((action) => results.get(action) as ActionResult);
}

function whyNotNow(action: Action, progress: Progress, budget: number, signal: AbortSignal): ErrorInfo | null {
  if (action.blocked !== null) return action.blocked;
  if (signal.aborted) return infoOf(signal.reason);
  const stopped = progress.stopped.get(imageKey(action));
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
      isHeld(result) ||
      action.blocked !== null
    )
      continue;
    const key = imageKey(action);
    if (!progress.stopped.has(key))
      progress.stopped.set(key, `its canary ${action.node} was not healed: ${result.outcome}`);
  }
}

/** True where another run or a VM holds the node or the blob: that says nothing about the image. */
function isHeld({ outcome, error }: ActionResult): boolean {
  return outcome === 'skipped' && error !== null && UNTOUCHED.has(error.code);
}

/** Of each image as many of the next nodes as just turned out to be held, with all its actions there. */
function standInsFor(done: Action[], results: Map<Action, ActionResult>, actions: Action[]): Action[] {
  const held = done.filter((action) => isHeld(results.get(action) as ActionResult));
  const waiting = actions.filter((action) => action.blocked === null && !results.has(action));
  return [...new Set(held.map(imageKey))].flatMap((key) => {
    const places = new Set(held.filter((action) => imageKey(action) === key).map(({ node }) => node));
    const mine = waiting.filter((action) => imageKey(action) === key);
    const next = [...new Set(mine.map(({ node }) => node))].slice(0, places.size);
    return mine.filter(({ node }) => next.includes(node));
  });
}

function imageKey(action: Action): string {
  return `${action.image}:${action.tag}`;
}

function skipped(action: Action, error: ErrorInfo): ActionResult {
  const { node, reference } = action;
  return { node, reference, outcome: 'skipped', reason: error.message, error, after: null, steps: [] };
}

/** Runs one step and keeps a record of it. `problemOf` finds an error in what the work returned without throwing. */
type RunStep = <T>(
  name: Step['step'],
  work: () => Promise<T>,
  problemOf?: (value: T) => ErrorInfo | null,
) => Promise<T>;

function stepRecorder(action: Action, context: ApplyContext, steps: Step[]): RunStep {
  return async (step, work, problemOf = () => null) => {
    const startedAt = performance.now();
    const record = (error: ErrorInfo | null): void => {
      const ok = error === null ? true : error.code === 'NOTHING_TO_TEST' ? null : false;
      const done = { step, ok, durationMs: Math.round(performance.now() - startedAt), error };
      steps.push(done);
      context.events.onStep(action, done);
    };
    try {
      const value = await work();
      record(problemOf(value));
      return value;
    } catch (error) {
      const info = infoOf(context.signal.aborted ? context.signal.reason : error);
      record(info);
      throw new ReconcileError(info, { cause: error });
    }
  };
}

/** What a step says that left the node as it was. */
const UNTOUCHED: ReadonlySet<string> = new Set(['LOCKED', 'BLOB_IN_USE']);

/** Look once more, change, verify, clone; never throws. */
async function applyAction(
  action: Action,
  node: Node,
  context: ApplyContext,
  progress: Progress,
): Promise<ActionResult> {
  const steps: Step[] = [];
  const step = stepRecorder(action, context, steps);
  const base = { node: action.node, reference: action.reference, steps };
  let after: string | null = null;
  let connection: Connection | null = null;
  try {
    const opened = await context.clients.ssh.connect(node, context.signal);
    connection = opened;
    const before = await verify(action, node, opened, context);
    const needed = before.problem !== null;
    const healed = needed ? await refresh(action, node, opened, context, progress, step) : before;
    after = healed.have;
    if (healed.problem !== null) throw new ReconcileError(healed.problem);
    if (context.policy.clone !== 'none') {
      await step(
        'clone',
        async () => {
          const { problem, users } = verifyClones(action, node, context, healed);
          const isCanary = action.wave === 0 || progress.standIns.has(action);
          if (problem === null) await startCanaries(isCanary, users, node, opened, context);
          return problem;
        },
        (problem) => problem,
      );
    }
    const superseded = action.want !== null && healed.now !== action.want;
    const reason = superseded
      ? `the tag moved during the run: the node has ${shortDigest(healed.now)}, as its registry serves now`
      : needed
        ? null
        : 'it was in sync already when its turn came: nothing was changed';
    return { ...base, outcome: superseded ? 'superseded' : 'healed', reason, error: null, after };
  } catch (error) {
    const info = infoOf(context.signal.aborted ? context.signal.reason : error);
    // Where nothing had begun on the node it has not failed: another run or a VM holds it, or the run ended before its turn.
    const begun = steps.some((s) => s.error === null || !UNTOUCHED.has(s.error.code));
    return { ...base, outcome: begun ? 'failed' : 'skipped', reason: info.message, error: info, after };
  } finally {
    connection?.close();
  }
}

/** What may go better a second time; the guard there is over by then. */
const AGAIN: ReadonlySet<string> = new Set(['PULL_FAILED', 'IMPORT_FAILED']);

/**
 * Changes the node and reads it again until it holds what its registry serves now: once more after a failed or a wrong
 * download (`pullRetries`), and once more when the tag moved meanwhile.
 */
async function refresh(
  action: Action,
  node: Node,
  connection: Connection,
  context: ApplyContext,
  progress: Progress,
  step: RunStep,
): Promise<Verified> {
  let retries = context.policy.pullRetries;
  let moved = false;
  for (;;) {
    try {
      await step(action.kind, async () => await change(action, node, connection, context));
    } catch (error) {
      if (!AGAIN.has(infoOf(error).code) || retries === 0) throw error;
      retries -= 1;
      continue;
    }
    const found = await step(
      'verify',
      async () => await verify(action, node, connection, context),
      (v) => v.problem,
    );
    if (found.problem === null) return found;
    const isOvertaken = action.want !== null && found.now !== action.want && found.have === action.want;
    if (isOvertaken && !moved) {
      moved = true;
      continue;
    }
    noteWrongDigest(action, found.have, progress);
    if (retries === 0 || progress.stopped.has(imageKey(action))) return found;
    retries -= 1;
  }
}

/** The change itself, on the node. */
async function change(action: Action, node: Node, connection: Connection, context: ApplyContext): Promise<void> {
  const { reference, want, sizeBytes } = action;
  const { policy, signal, clients, served } = context;
  const timeoutMs = policy.pullTimeoutMs;
  if (isSent(action)) {
    const image = served.desired.find((d) => d.image === action.image && d.tag === action.tag);
    const content = joined(clients.epoch, action, image?.blobs ?? [], signal);
    const sent = { content, digest: want as string, sizeBytes, replaces: action.kind === 'replace' };
    await importImage(connection, node, reference, sent, timeoutMs, signal);
  } else if (action.kind === 'replace') {
    await replaceBlob(connection, node, reference, want as string, timeoutMs, signal);
  } else {
    await pullImage(connection, node, reference, timeoutMs, signal);
  }
}

/**
 * The content of an image as epoch joins it, part after part. What cannot come out right ends at once: a node that was
 * promised more bytes would wait for them.
 */
async function* joined(
  epoch: ApplyContext['clients']['epoch'],
  { image: repository, reference }: Action,
  blobs: { digest: string; sizeBytes: number }[],
  signal: AbortSignal,
): AsyncGenerator<Buffer> {
  const [first] = blobs;
  if (first !== undefined && !isQcow2(await epoch.blobHead(repository, first.digest, signal))) {
    throw fault('ARTIFACT_UNSUPPORTED', { image: reference, why: 'it is no qcow2 image, and cocoon imports no other' });
  }
  for (const { digest, sizeBytes } of blobs) {
    let bytes = 0;
    for await (const chunk of epoch.blobStream(repository, digest, signal)) {
      bytes += chunk.length;
      if (bytes > sizeBytes) break;
      yield chunk;
    }
    if (bytes === sizeBytes) continue;
    const detail = `it came with ${bytes > sizeBytes ? 'more than ' : ''}${Math.min(bytes, sizeBytes)} of ${sizeBytes} bytes`;
    throw fault('REGISTRY_BLOB_MISSING', { repository, digest, detail });
  }
}

/** The same wrong digest on two nodes is the registry's fault and not a node's: the image stops for the fleet. */
function noteWrongDigest(action: Action, have: string | null, progress: Progress): void {
  const key = `${imageKey(action)}@${have}`;
  const first = progress.wrongDigests.get(key) ?? action.node;
  progress.wrongDigests.set(key, first);
  if (first === action.node) return;
  const why = `${first} and ${action.node} received the same wrong digest ${shortDigest(have)}`;
  progress.stopped.set(imageKey(action), why);
}

/** How long a second look at a canary may take to get a connection, in ms: it is not the run's to abort. */
const CONNECT_MS = 60_000;

/**
 * Clones the snapshots in turn, where the config asks for canary VMs on this node.
 * @throws ReconcileError CLONE_FAILED, CANARY_LEFT
 */
async function startCanaries(
  isCanary: boolean,
  users: SnapshotRow[],
  node: Node,
  connection: Connection,
  context: ApplyContext,
): Promise<void> {
  const { vm } = context.settings.verify;
  if (context.policy.clone !== 'vm' || (vm.nodes === 'canary' && !isCanary)) return;
  for (const { snapshot } of chosen(users, context)) await startCanary(node, snapshot, connection, context);
}

/** The configured snapshot, else the tracked ones, else the first that the node happens to hold. */
function chosen(users: SnapshotRow[], { settings, hot }: ApplyContext): SnapshotRow[] {
  const { snapshot: configured } = settings.verify.vm;
  if (configured !== null) return users.filter((user) => user.snapshot === configured);
  const tracked = users.filter((user) => hot.tracked.some(({ snapshot }) => snapshot === user.snapshot));
  return tracked.length > 0 ? tracked : users.slice(0, 1);
}

async function startCanary(node: Node, snapshot: string, connection: Connection, context: ApplyContext): Promise<void> {
  const { settings, clients, id, signal } = context;
  const { timeoutMs, extraArgs } = settings.verify.vm;
  const late = (): ReconcileError =>
    fault('SSH_TIMEOUT', { host: node.host, what: 'connecting again', afterMs: CONNECT_MS });
  const again = (): Promise<Connection> =>
    withDeadline({ timeout: { afterMs: CONNECT_MS, reason: late } }, (stop) => clients.ssh.connect(node, stop));
  const canary = { name: canaryName(id), snapshot: localSnapshotName(snapshot), extraArgs };
  for (const isLast of [false, true]) {
    const { clone, vanished, left } = await cloneCanary(connection, again, node, canary, timeoutMs, signal);
    if (left !== null) {
      const message = clone === null ? left.message : `${clone.message}; ${left.message}`;
      throw new ReconcileError({ ...left, message });
    }
    if (clone === null) return;
    if (!vanished || isLast) throw new ReconcileError(clone);
  }
}
