/** The one retry policy: a few tries, full jitter between them, and nothing past the caller's deadline. */
import { setTimeout as sleep } from 'node:timers/promises';

/** How often something is tried, and how long it is waited between two tries. */
export interface RetryPolicy {
  /** Tries after the first. */
  retries: number;
  /** Upper bound of the first pause in ms; it doubles with each try, up to `maxPauseMs`. */
  pauseMs: number;
  maxPauseMs: number;
}

/** A policy for one kind of work, which knows its errors. */
export interface Retry extends RetryPolicy {
  isWorthwhile: (error: unknown) => boolean;
  /** How long the other side asked us to wait, in ms, or null. */
  pauseAskedFor?: (error: unknown) => number | null;
}

/**
 * Runs `attempt` until it succeeds, another try is not worthwhile, the tries are used up, or `signal` aborts.
 * @throws what the last attempt threw, or the signal's reason
 */
export async function withRetries<T>(
  { retries, pauseMs, maxPauseMs, isWorthwhile, pauseAskedFor = () => null }: Retry,
  signal: AbortSignal,
  attempt: () => Promise<T>,
): Promise<T> {
  for (let tried = 0; ; tried += 1) {
    signal.throwIfAborted();
    try {
      return await attempt();
    } catch (error) {
      if (signal.aborted || tried >= retries || !isWorthwhile(error)) throw error;
      const jittered = Math.random() * Math.min(maxPauseMs, pauseMs * 2 ** tried);
      const asked = Math.min(pauseAskedFor(error) ?? 0, maxPauseMs);
      await sleep(Math.max(jittered, asked), undefined, { signal });
    }
  }
}
