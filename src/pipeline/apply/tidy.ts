/** Tidies what runs that died left on nodes, before anything is changed. */
import PQueue from 'p-queue';
import { tidyNode } from '../../node/change.ts';
import { infoOf } from '../../core/errors.ts';
import type { Tidying } from '../../core/model/plan.ts';
import type { TidyResult } from '../../core/model/result.ts';
import type { ApplyClients, ApplyLimits } from './limits.ts';

/**
 * A few nodes at once; never throws. What cannot be tidied costs nothing else: the guard of each action looks once more.
 */
export async function tidyAll(tidyings: Tidying[], clients: ApplyClients, limits: ApplyLimits): Promise<TidyResult[]> {
  const queue = new PQueue({ concurrency: limits.maxPulls });
  const results = await queue.addAll(tidyings.map((tidying) => async () => await tidyOne(tidying, clients, limits)));
  return results.flat();
}

async function tidyOne(
  { node, leftovers }: Tidying,
  { ssh }: ApplyClients,
  { ending, signal, events }: ApplyLimits,
): Promise<TidyResult[]> {
  let results: TidyResult[];
  let outcome: TidyResult['outcome'] = 'skipped';
  try {
    ending.throwIfAborted();
    const connection = await ssh.connect(node, signal);
    outcome = 'failed';
    try {
      results = await tidyNode({ node, connection, signal }, leftovers);
    } finally {
      connection.close();
    }
  } catch (error) {
    const info = infoOf(signal.aborted ? signal.reason : error);
    results = leftovers.map(({ name }) => ({ node: node.name, name, outcome, error: info }));
  }
  for (const result of results) events.onTidied(result);
  return results;
}
