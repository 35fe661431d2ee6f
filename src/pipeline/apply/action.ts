/** One action on one node: look once more, change, verify, clone. */
import { importImage, pullImage, replaceBlob } from '../../node/change.ts';
import type { NodeSession } from '../../node/session.ts';
import { errorInfo, infoOf, ReconcileError } from '../../core/errors.ts';
import type { ErrorInfo } from '../../core/model/error.ts';
import { imageOf, type Action } from '../../core/model/plan.ts';
import type { ActionResult, Step } from '../../core/model/result.ts';
import { DIED_OF_DEADLINE_MS, type PullTime } from '../../core/rollout/pace.ts';
import { shortDigest } from '../../core/text.ts';
import type { Connection } from '../../ssh/client.ts';
import { cloneCanaries } from './canary-vm.ts';
import { joinParts } from './content.ts';
import type { ApplyClients, ApplyLimits } from './limits.ts';
import { verify, verifyClones, type Verified } from './verify.ts';

/** The part of an action in the rollout of its image. */
export interface Role {
  /** Of the first nodes that get the image, or in the place of one of these. */
  isCanary: boolean;
  /** Whether the image goes to no further node. */
  isStopped: () => boolean;
  /** The node received another digest than is served. */
  onWrongDigest: (have: string | null) => void;
}

/** Told of each pull that succeeded. */
interface Watch {
  onPulled: (pull: PullTime) => void;
}

/** Runs one step and keeps a record of it. `problemOf` finds an error in what the work returned without throwing. */
type RunStep = <T>(
  name: Step['step'],
  work: () => Promise<T>,
  problemOf?: (value: T) => ErrorInfo | null,
) => Promise<T>;

function stepRecorder(action: Action, { signal, events }: ApplyLimits, steps: Step[]): RunStep {
  return async (step, work, problemOf = () => null) => {
    const startedAt = performance.now();
    const record = (error: ErrorInfo | null): void => {
      const ok = error === null ? true : error.code === 'NOTHING_TO_TEST' ? null : false;
      const done = { step, ok, durationMs: Math.round(performance.now() - startedAt), error };
      steps.push(done);
      events.onStep(action, done);
    };
    try {
      const value = await work();
      record(problemOf(value));
      return value;
    } catch (error) {
      const info = infoOf(signal.aborted ? signal.reason : error);
      record(info);
      throw new ReconcileError(info, { cause: error });
    }
  };
}

/** What a step says that left the node as it was. */
const UNTOUCHED: ReadonlySet<string> = new Set(['LOCKED', 'BLOB_IN_USE']);

/** Look once more, change, verify, clone; never throws. */
export async function applyAction(
  action: Action,
  clients: ApplyClients,
  limits: ApplyLimits & Role & Watch,
): Promise<ActionResult> {
  const { node } = action;
  const { signal } = limits;
  const steps: Step[] = [];
  const step = stepRecorder(action, limits, steps);
  const base = { node: node.name, reference: action.reference, steps };
  let after: string | null = null;
  let connection: Connection | null = null;
  try {
    connection = await clients.ssh.connect(node, signal);
    const session = { node, connection, signal };
    const look = async (): Promise<Verified> => await verify(action, session, clients, limits);
    const before = await look();
    const needed = before.problem !== null;
    if (needed) limits.ending.throwIfAborted();
    const healed = needed
      ? await refresh(action, { change: () => change(action, session, clients), look, step }, limits)
      : before;
    after = healed.have;
    if (healed.problem !== null) throw new ReconcileError(healed.problem);
    const { clone } = action;
    if (clone !== null) {
      await step(
        'clone',
        async () => {
          const users = verifyClones(action, clone, healed);
          if (users.length === 0) return errorInfo('NOTHING_TO_TEST', { host: node.name, image: imageOf(action) });
          const { vm } = clone;
          if (vm !== null && (limits.isCanary || !vm.isForCanaries)) {
            await cloneCanaries(vm, users, session, clients.ssh);
          }
          return null;
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
    const own = infoOf(error);
    const isEnded = signal.aborted && own.code !== 'CANARY_LEFT';
    const info = isEnded ? infoOf(signal.reason) : own;
    // What we ended ourselves says nothing against the node. Nor does it where nothing had begun: another run or a VM holds
    // it, or the run ended before its turn.
    const begun = !isEnded && steps.some((s) => s.error === null || !UNTOUCHED.has(s.error.code));
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
  { change, look, step }: { change: () => Promise<void>; look: () => Promise<Verified>; step: RunStep },
  { isStopped, onWrongDigest, onPulled, ending }: Role & Watch & Pick<ApplyLimits, 'ending'>,
): Promise<Verified> {
  let retries = action.pullRetries;
  let moved = false;
  for (;;) {
    const startedAt = performance.now();
    try {
      await step(action.kind, change);
      onPulled({ bytes: action.sizeBytes, startedAt, endedAt: performance.now() });
    } catch (error) {
      const isHopeless = performance.now() - startedAt > DIED_OF_DEADLINE_MS || ending.aborted;
      if (!AGAIN.has(infoOf(error).code) || retries === 0 || isHopeless) throw error;
      retries -= 1;
      continue;
    }
    const found = await step('verify', look, ({ problem }) => problem);
    if (found.problem === null) return found;
    const isOvertaken = action.want !== null && found.now !== action.want && found.have === action.want;
    if (isOvertaken && !moved) {
      moved = true;
      continue;
    }
    onWrongDigest(found.have);
    if (retries === 0 || ending.aborted || isStopped()) return found;
    retries -= 1;
  }
}

/** The change itself, on the node. */
async function change(
  { reference, content, sizeBytes, pullTimeoutMs }: Action,
  session: NodeSession,
  { epoch }: ApplyClients,
): Promise<void> {
  if (content.by === 'send') {
    const { digest, replaces } = content;
    const sent = { content: joinParts(epoch, reference, content, session.signal), digest, sizeBytes, replaces };
    await importImage(session, reference, sent, pullTimeoutMs);
  } else if (content.replaces !== null) {
    await replaceBlob(session, reference, content.replaces, pullTimeoutMs);
  } else {
    await pullImage(session, reference, pullTimeoutMs);
  }
}
