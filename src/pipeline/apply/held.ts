/** Nodes that another run held: what became of them meanwhile. */
import PQueue from 'p-queue';
import type { Action } from '../../core/model/plan.ts';
import type { ActionResult } from '../../core/model/result.ts';
import type { ApplyClients, ApplyLimits } from './limits.ts';
import { verify } from './verify.ts';

/**
 * Reads once more, at the end, what could not be changed because another was at it.
 * @returns the same results; `healed`, by another run, where all is right by now
 */
export async function lookAgain(
  actions: Action[],
  results: ActionResult[],
  clients: ApplyClients,
  limits: ApplyLimits,
): Promise<ActionResult[]> {
  const queue = new PQueue({ concurrency: limits.maxPulls });
  return await queue.addAll(
    results.map((result, i) => async () => {
      const action = actions[i];
      const isHeld = result.outcome === 'skipped' && result.error?.code === 'LOCKED';
      if (!isHeld || action === undefined || limits.ending.aborted) return result;
      const have = await heldNow(action, clients, limits);
      if (have === null) return result;
      const reason = `by another run: ${result.reason ?? ''}`;
      const healed: ActionResult = { ...result, outcome: 'healed', reason, error: null, after: have.digest };
      limits.events.onResult(healed);
      return healed;
    }),
  );
}

/** What the node has by now, where that is right; null where it is not, or cannot be read. */
async function heldNow(
  action: Action,
  clients: ApplyClients,
  { signal, remainingMs }: ApplyLimits,
): Promise<{ digest: string | null } | null> {
  try {
    const connection = await clients.ssh.connect(action.node, signal);
    try {
      const session = { node: action.node, connection, signal };
      const { have, problem } = await verify(action, session, clients, { remainingMs });
      return problem === null ? { digest: have } : null;
    } finally {
      connection.close();
    }
  } catch {
    return null; // then the result says that it was held, which is still so
  }
}
