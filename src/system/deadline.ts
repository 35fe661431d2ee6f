/**
 * Every deadline, and everything that a signal may end. `AbortSignal.timeout` and `AbortSignal.any` are refused by the
 * linter: on Node.js 20 a combined signal to which only its listeners refer is garbage-collected, and then its deadline never
 * comes. Here a timer or a listener of the outer signal refers to each signal until the work is settled.
 */
import { setMaxListeners } from 'node:events';

/** What ends something early. */
export interface Limits {
  /** Each ends it with its own reason. */
  signal?: AbortSignal | readonly AbortSignal[];
  /** In ms, beside the reason why it ends then. */
  timeout?: { afterMs: number; reason: () => Error };
}

/** A signal that is aborted by its limits, and how much time is left. */
export interface Deadline {
  signal: AbortSignal;
  /** In ms; Infinity without a timeout. */
  remainingMs: () => number;
  /** Stops the clock and lets go of the outer signals: the signal is never aborted after this. */
  end: () => void;
}

/** How a promise of `settleOnce` is settled: only the first call of `done` or `fail` counts. */
export interface Settling<T> {
  done: (value: T) => void;
  fail: (error: unknown) => void;
  isOver: () => boolean;
  /** What to do when it is over, before the promise settles; done at once where it is over already. */
  onEnd: (cleanUp: (isDone: boolean) => void) => void;
}

/** A signal that is aborted by its limits, to be ended by the caller. */
export function startDeadline({ signal = [], timeout }: Limits): Deadline {
  const controller = new AbortController();
  setMaxListeners(0, controller.signal); // Node.js warns on stderr of more than ten listeners
  const timer =
    timeout === undefined ? undefined : setTimeout(() => controller.abort(timeout.reason()), timeout.afterMs);
  const unlink = [signal].flat().map((outer) => onAbort(outer, () => controller.abort(outer.reason)));
  const endsAt = timeout === undefined ? Infinity : performance.now() + timeout.afterMs;
  return {
    signal: controller.signal,
    remainingMs: () => Math.max(0, endsAt - performance.now()),
    end() {
      clearTimeout(timer);
      for (const off of unlink) off();
    },
  };
}

/**
 * Hands the work a signal that is aborted by its limits, and rejects with that reason then, whether the work heeds the
 * signal or not: what it returns or throws after that is ignored.
 */
export async function withDeadline<T>(limits: Limits, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const { signal, end } = startDeadline(limits);
  try {
    signal.throwIfAborted();
    return await unlessAborted(work(signal), signal);
  } finally {
    end();
  }
}

/** The promise, or the signal's reason once it is aborted; a later rejection of the promise is then ignored. */
export function unlessAborted<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  return settleOnce({ signal }, ({ done, fail }) => void promise.then(done, fail));
}

/**
 * A promise for what has callbacks: settled once, by these or by its limits, and cleaned up after however it ends.
 * `begin` is not called where a signal is aborted already; what it throws rejects the promise.
 */
export function settleOnce<T>({ signal = [], timeout }: Limits, begin: (settling: Settling<T>) => void): Promise<T> {
  return new Promise((resolve, reject) => {
    const outer = [signal].flat();
    for (const one of outer) one.throwIfAborted();
    const cleanUps: ((isDone: boolean) => void)[] = [];
    let how: 'done' | 'failed' | null = null;
    const end = (now: 'done' | 'failed', settle: () => void): void => {
      if (how !== null) return;
      how = now;
      clearTimeout(timer);
      for (const off of unlink) off();
      for (const cleanUp of cleanUps) cleanUp(now === 'done');
      settle();
    };
    const fail = (error: unknown): void => end('failed', () => reject(error));
    const timer = timeout === undefined ? undefined : setTimeout(() => fail(timeout.reason()), timeout.afterMs);
    const unlink = outer.map((one) => onAbort(one, () => fail(one.reason)));
    try {
      begin({
        done: (value) => end('done', () => resolve(value)),
        fail,
        isOver: () => how !== null,
        onEnd: (cleanUp) => void (how === null ? cleanUps.push(cleanUp) : cleanUp(how === 'done')),
      });
    } catch (error) {
      fail(error);
    }
  });
}

/** Calls back once when the signal is aborted, or at once if it is; returns what stops that. */
function onAbort(signal: AbortSignal, heed: () => void): () => void {
  if (signal.aborted) heed();
  setMaxListeners(0, signal);
  signal.addEventListener('abort', heed, { once: true });
  return () => signal.removeEventListener('abort', heed);
}
