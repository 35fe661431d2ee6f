/** The one retry policy: a few tries, full jitter between them, and nothing past the caller's deadline. */
import { setTimeout as sleep } from 'node:timers/promises';

export interface RetryPolicy {
  /** Tries after the first. */
  retries: number;
  /** Upper bound of the first pause in ms; it doubles with each try, up to `maxPauseMs`. */
  pauseMs: number;
  maxPauseMs: number;
}

/**
 * Runs `attempt` until it succeeds, `worthRetrying` says no, the tries are used up, or `signal` aborts.
 * @param pauseOf how long the other side asked us to wait, in ms, or null
 * @throws what the last attempt threw, or the signal's reason
 */
export async function withRetries<T>(
  policy: RetryPolicy,
  signal: AbortSignal,
  worthRetrying: (error: unknown) => boolean,
  attempt: () => Promise<T>,
  pauseOf: (error: unknown) => number | null = () => null,
): Promise<T> {
  for (let tried = 0; ; tried += 1) {
    signal.throwIfAborted();
    try {
      return await attempt();
    } catch (error) {
      if (signal.aborted || tried >= policy.retries || !worthRetrying(error)) throw error;
      const jittered = Math.random() * Math.min(policy.maxPauseMs, policy.pauseMs * 2 ** tried);
      const asked = Math.min(pauseOf(error) ?? 0, policy.maxPauseMs);
      await sleep(Math.max(jittered, asked), undefined, { signal });
    }
  }
}
