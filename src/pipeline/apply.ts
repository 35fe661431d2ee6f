/**
 * Carries out a plan: wave by wave, a few pulls at once, each verified by reading the node again. This is the only
 * file that reaches what changes nodes, and it looks at nothing but the plan.
 */
import PQueue from 'p-queue';
import { cloneCanary, pullImage } from '../adapters/node-change.ts';
import { readNode } from '../adapters/node-read.ts';
import type { Connection, Ssh } from '../adapters/ssh.ts';
import { errorInfo, fault, infoOf, ReconcileError } from '../core/errors.ts';
import { blobState, type Served } from '../core/images.ts';
import { failureBudget } from '../core/plan.ts';
import { hexOf, localSnapshotName } from '../core/reference.ts';
import { judgeSnapshots, type ServedSnapshots } from '../core/snapshots.ts';
import { shortDigest } from '../core/text.ts';
import type {
  Action,
  ActionResult,
  DesiredImage,
  ErrorInfo,
  Node,
  Observed,
  Policy,
  SnapshotRow,
  Step,
} from '../core/types.ts';
import { READ_TIMEOUT_MS } from './observe.ts';
import type { Resolver } from './resolve.ts';

/** What applying needs beside the plan. */
export interface ApplyContext {
  ssh: Ssh;
  nodes: Node[];
  policy: Policy;
  served: Served;
  hot: ServedSnapshots;
  vm: { snapshot: string | null; timeoutMs: number; nodes: 'canary' | 'healed'; extraArgs: string[] };
  runId: string;
  /** A resolver that has not asked epoch anything yet: what it says is what epoch serves at this moment. */
  resolver: () => Resolver;
  signal: AbortSignal;
  onStep: (action: Action, step: Step) => void;
  onResult: (result: ActionResult) => void;
}

/** How a run is going: what decides whether the next action may start. */
interface Progress {
  failures: number;
  /** image:tag → why no further node gets it. */
  stopped: Map<string, string>;
  /** image:tag and wrong digest → the node that received it. */
  wrongDigests: Map<string, string>;
}

/**
 * Applies the actions of each wave before those of the next. An image goes past its canaries only when every one of
 * them is healed; past the failure budget nothing new starts; what was not started is `skipped` with the reason.
 * @returns one result per action, in the order of the plan
 */
export async function applyPlan(actions: Action[], context: ApplyContext): Promise<ActionResult[]> {
  const { policy, nodes, signal } = context;
  const budget = failureBudget(policy.maxFailures, actions.length);
  const progress: Progress = { failures: 0, stopped: new Map(), wrongDigests: new Map() };
  const results = new Map<Action, ActionResult>();
  const byName = new Map(nodes.map((node) => [node.name, node]));

  for (const wave of [...new Set(actions.map((action) => action.wave))].sort((a, b) => a - b)) {
    const queue = new PQueue({ concurrency: policy.maxPulls });
    const perNode = new Map<string, Promise<void>>();
    const mine = actions.filter((action) => action.wave === wave);
    await Promise.all(
      mine.map(async (action) => {
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
            context.onResult(result);
          });
        });
        perNode.set(action.node, run);
        await run;
      }),
    );
    stopUnhealed(mine, results, progress);
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

/** After a wave: an image with an action that is not healed goes no further. */
function stopUnhealed(wave: Action[], results: Map<Action, ActionResult>, progress: Progress): void {
  for (const action of wave) {
    const result = results.get(action);
    if (
      result === undefined ||
      result.outcome === 'healed' ||
      result.outcome === 'superseded' ||
      action.blocked !== null
    )
      continue;
    const key = imageKey(action);
    if (!progress.stopped.has(key))
      progress.stopped.set(key, `its canary ${action.node} was not healed: ${result.outcome}`);
  }
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
      context.onStep(action, done);
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

/** Look once more, pull, verify, clone; never throws. */
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
    const opened = await context.ssh.connect(node, context.signal);
    connection = opened;
    const before = await verify(action, node, opened, context);
    const needed = before.problem !== null;
    const healed = needed ? await refresh(action, node, opened, context, progress, step) : before;
    after = healed.have;
    if (healed.problem !== null) throw new ReconcileError(healed.problem);
    if (context.policy.clone !== 'none') {
      await step(
        'clone',
        async () => await verifyClones(action, node, opened, context, healed),
        (problem) => problem,
      );
    }
    const superseded = healed.now !== action.want;
    const reason = superseded
      ? `epoch's tag moved during the run: the node has ${shortDigest(healed.now)}, as epoch serves now`
      : needed
        ? null
        : 'it was in sync already when its turn came: nothing was pulled';
    return { ...base, outcome: superseded ? 'superseded' : 'healed', reason, error: null, after };
  } catch (error) {
    const info = infoOf(context.signal.aborted ? context.signal.reason : error);
    // Where nothing had begun on the node it has not failed: another run holds it, or the run ended before its turn.
    const begun = steps.some((s) => s.error?.code !== 'LOCKED');
    return { ...base, outcome: begun ? 'failed' : 'skipped', reason: info.message, error: info, after };
  } finally {
    connection?.close();
  }
}

/** What a node holds and what epoch serves, read at the same time. `problem` is null where they agree. */
interface Verified {
  have: string | null;
  now: string;
  desired: DesiredImage;
  observed: Observed;
  problem: ErrorInfo | null;
}

/**
 * Pulls and reads the node again until it holds what epoch serves now: once more after a failed or a wrong download
 * (`pullRetries`), and once more when the tag moved meanwhile.
 */
async function refresh(
  action: Action,
  node: Node,
  connection: Connection,
  context: ApplyContext,
  progress: Progress,
  step: RunStep,
): Promise<Verified> {
  const { policy, signal } = context;
  let retries = policy.pullRetries;
  let moved = false;
  for (;;) {
    try {
      await step('pull', async () => await pullImage(connection, node, action.reference, policy.pullTimeoutMs, signal));
    } catch (error) {
      if (infoOf(error).code !== 'PULL_FAILED' || retries === 0) throw error;
      retries -= 1;
      continue;
    }
    const found = await step(
      'verify',
      async () => await verify(action, node, connection, context),
      (v) => v.problem,
    );
    if (found.problem === null) return found;
    const isOvertaken = found.now !== action.want && found.have === action.want;
    if (isOvertaken && !moved) {
      moved = true;
      continue;
    }
    noteWrongDigest(action, found.have, progress);
    if (retries === 0 || progress.stopped.has(imageKey(action))) return found;
    retries -= 1;
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

/**
 * Reads the node again and compares its entry and blob with what epoch serves at this moment.
 * @throws ReconcileError where either cannot be asked
 */
async function verify(action: Action, node: Node, connection: Connection, context: ApplyContext): Promise<Verified> {
  const resolver = context.resolver();
  const [desired, observed] = await Promise.all([
    resolver.image(action.image, action.tag),
    readNode(connection, node, READ_TIMEOUT_MS, context.signal),
  ]);
  const now = desired.contentDigest;
  if (now === null)
    throw new ReconcileError(desired.error ?? errorInfo('INTERNAL', { problem: 'no digest and no error' }));
  const have = observed.entries.find((e) => e.reference === action.reference && e.type === 'cloudimg')?.digest ?? null;
  const mismatch = (detail: string): Verified => ({
    have,
    now,
    desired,
    observed,
    problem: errorInfo('VERIFY_MISMATCH', { host: node.name, reference: action.reference, have, want: now, detail }),
  });
  if (have !== now) return mismatch('the node recorded another digest than epoch serves now');
  const { depth } = context.served;
  const fact = observed.blobs[hexOf(now)];
  const atOnce = blobState(fact, desired, depth);
  const known = atOnce.state === 'unproven' ? await resolver.withStoredForm(desired) : desired;
  const blob = blobState(fact, known, depth);
  if (blob.state !== 'sound') return mismatch(blob.why ?? 'the blob is unsound');
  return { have, now, desired: known, observed, problem: null };
}

/**
 * The last step: the snapshots whose base is the content just pulled must clone, by their files or by a canary VM.
 * @returns the problem, NOTHING_TO_TEST where no snapshot uses the new content, or null
 * @throws ReconcileError CLONE_FAILED, CANARY_LEFT
 */
async function verifyClones(
  action: Action,
  node: Node,
  connection: Connection,
  context: ApplyContext,
  healed: Verified,
): Promise<ErrorInfo | null> {
  const { policy, vm } = context;
  const users = usersOf(node, healed, context);
  if (users.length === 0) return errorInfo('NOTHING_TO_TEST', { host: node.name, image: imageKey(action) });
  for (const { snapshot, verdict, reason } of users) {
    if (verdict !== 'clonable') throw fault('CLONE_FAILED', { host: node.name, snapshot, why: reason ?? verdict });
  }
  if (policy.clone === 'files' || (vm.nodes === 'canary' && action.wave !== 0)) return null;
  for (const { snapshot } of canarySnapshots(users, context)) await startCanary(node, snapshot, connection, context);
  return null;
}

/** The snapshots of the node whose base is what was just pulled; one that is broken for another reason does not count. */
function usersOf(node: Node, { now, desired, observed }: Verified, context: ApplyContext): SnapshotRow[] {
  const observation = { node, status: 'observed' as const, observed, error: null, durationMs: 0 };
  const { served, hot } = context;
  // What was learned of the image since the plan was made counts here too: its size, and how cocoon stores it.
  const isSame = ({ image, tag }: DesiredImage): boolean => image === desired.image && tag === desired.tag;
  const current = { ...served, desired: served.desired.map((other) => (isSame(other) ? desired : other)) };
  return judgeSnapshots(current, hot, observation).filter(
    (row) => row.id !== null && row.baseDigest === now && row.verdict !== 'broken' && row.verdict !== 'pending',
  );
}

/** The configured snapshot, else the tracked ones, else the first that the node happens to hold. */
function canarySnapshots(users: SnapshotRow[], { vm, hot }: ApplyContext): SnapshotRow[] {
  if (vm.snapshot !== null) return users.filter((user) => user.snapshot === vm.snapshot);
  const tracked = users.filter((user) => hot.tracked.some(({ snapshot }) => snapshot === user.snapshot));
  return tracked.length > 0 ? tracked : users.slice(0, 1);
}

async function startCanary(node: Node, snapshot: string, connection: Connection, context: ApplyContext): Promise<void> {
  const { vm, ssh, runId, signal } = context;
  const again = async (): Promise<Connection> => await ssh.connect(node, AbortSignal.timeout(60_000));
  const canary = { name: `reconcile-canary-${runId}`, snapshot: localSnapshotName(snapshot), extraArgs: vm.extraArgs };
  const { clone, left } = await cloneCanary(connection, again, node, canary, vm.timeoutMs, signal);
  if (left !== null) throw new ReconcileError(left);
  if (clone !== null) throw new ReconcileError(clone);
}
