/** Reads every node: a fan-out in which each node's trouble costs only that node. */
import PQueue from 'p-queue';
import { withDeadline } from '../system/deadline.ts';
import { ConnectionLost } from '../ssh/exec.ts';
import { readNode } from '../node/read.ts';
import type { Ssh } from '../ssh/client.ts';
import { errorInfo, fault, infoOf } from '../core/errors.ts';
import type { ErrorInfo } from '../core/model/error.ts';
import type { Node } from '../core/model/node.ts';
import type { NodeStatus, Observation, Observed } from '../core/model/observed.ts';

/** Deadline of the one command that reads a node, in ms. */
export const READ_TIMEOUT_MS = 60_000;

export interface ObserveLimits {
  /** Nodes at once; fewer where this process may not have so many files open. */
  concurrency: number;
  /** For all of them together, in ms. */
  timeoutMs: number;
  signal: AbortSignal;
}

/**
 * One connection and one command per node. A connection that breaks meanwhile is made once more: reading changes nothing.
 * @param onNode called as each node's answer is in
 * @returns the observations in the order of the nodes; nodes that a limit cut off are `unreachable`
 */
export async function observeAll(
  ssh: Ssh,
  nodes: Node[],
  { concurrency, timeoutMs, signal }: ObserveLimits,
  onNode: (observation: Observation) => void,
): Promise<Observation[]> {
  const endsAt = performance.now() + timeoutMs;
  const late = (node: Node): ErrorInfo =>
    errorInfo('SSH_TIMEOUT', { host: node.host, what: 'waiting for its turn', afterMs: timeoutMs, of: 'turn' });
  const places = await ssh.affordable(concurrency);
  const queue = new PQueue({ concurrency: places });
  let left = nodes.length;
  return await queue.addAll(
    nodes.map((node) => async () => {
      left -= 1;
      const remainingMs = Math.max(0, endsAt - performance.now());
      // Who hangs leaves time for those that wait for its place.
      const afterMs = left > places - queue.pending ? remainingMs / 2 : remainingMs;
      const observation =
        remainingMs === 0 && !signal.aborted
          ? { node, status: 'unreachable' as const, observed: null, error: late(node), durationMs: 0 }
          : await observeNode(ssh, node, signal, afterMs);
      onNode(observation);
      return observation;
    }),
  );
}

/**
 * Reads one node; never throws.
 * @param afterMs so much of the run's time it may take
 */
export async function observeNode(ssh: Ssh, node: Node, signal: AbortSignal, afterMs: number): Promise<Observation> {
  const startedAt = performance.now();
  const reason = (): Error => fault('SSH_TIMEOUT', { host: node.host, what: 'reading it', afterMs, of: 'run' });
  const done = (status: NodeStatus, rest: Pick<Observation, 'observed' | 'error'>): Observation => ({
    node,
    status,
    ...rest,
    durationMs: Math.round(performance.now() - startedAt),
  });
  try {
    const observed = await withDeadline({ signal, timeout: { afterMs, reason } }, (stop) =>
      readOnce(ssh, node, stop).catch(async (error: unknown) => {
        if (!(error instanceof ConnectionLost)) throw error;
        return await readOnce(ssh, node, stop);
      }),
    );
    return done('observed', { observed, error: null });
  } catch (error) {
    const info = infoOf(signal.aborted ? signal.reason : error);
    return done(statusOf(info), { observed: null, error: info });
  }
}

async function readOnce(ssh: Ssh, node: Node, signal: AbortSignal): Promise<Observed> {
  signal.throwIfAborted();
  const connection = await ssh.connect(node, signal);
  try {
    return await readNode(connection, node, READ_TIMEOUT_MS, signal);
  } finally {
    connection.close();
  }
}

/** A node that answered but could not be read is `unreadable`; all else is `unreachable`. */
function statusOf(error: ErrorInfo): NodeStatus {
  return error.code.startsWith('NODE_') || error.code === 'NO_SPACE' ? 'unreadable' : 'unreachable';
}
