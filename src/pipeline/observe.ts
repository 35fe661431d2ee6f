/** Reads every node: a fan-out in which each node's trouble costs only that node. */
import PQueue from 'p-queue';
import { ConnectionLost } from '../adapters/exec.ts';
import { readNode } from '../adapters/node-read.ts';
import type { Ssh } from '../adapters/ssh.ts';
import { infoOf } from '../core/errors.ts';
import type { ErrorInfo, Node, NodeStatus, Observation, Observed } from '../core/types.ts';

/** Deadline of the one command that reads a node, in ms. */
export const READ_TIMEOUT_MS = 60_000;

/**
 * One connection and one command per node, at most `concurrency` nodes at once, fewer where this process may not
 * have so many files open. A connection that breaks meanwhile is made once more: reading changes nothing.
 * @param onNode called as each node's answer is in
 * @returns the observations in the order of the nodes; nodes that the signal cut off are `unreachable`
 */
export async function observeAll(
  ssh: Ssh,
  nodes: Node[],
  concurrency: number,
  signal: AbortSignal,
  onNode: (observation: Observation) => void,
): Promise<Observation[]> {
  const queue = new PQueue({ concurrency: await ssh.affordable(concurrency) });
  return await queue.addAll(
    nodes.map((node) => async () => {
      const observation = await observeNode(ssh, node, signal);
      onNode(observation);
      return observation;
    }),
  );
}

/** Reads one node; never throws. */
export async function observeNode(ssh: Ssh, node: Node, signal: AbortSignal): Promise<Observation> {
  const startedAt = performance.now();
  const done = (status: NodeStatus, rest: Pick<Observation, 'observed' | 'error'>): Observation => ({
    node,
    status,
    ...rest,
    durationMs: Math.round(performance.now() - startedAt),
  });
  try {
    const observed = await readOnce(ssh, node, signal).catch(async (error: unknown) => {
      if (!(error instanceof ConnectionLost)) throw error;
      return await readOnce(ssh, node, signal);
    });
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
  return error.code.startsWith('NODE_') ? 'unreadable' : 'unreachable';
}
