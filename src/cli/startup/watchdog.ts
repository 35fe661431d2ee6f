/**
 * A clock outside of the main thread. Where that hangs (it waits for a lock that nobody frees, or computes without end), no
 * timer of ours rings and no signal is heard; `watchdog-thread.ts` then ends the process.
 */
import { SHARE_ENV, Worker } from 'node:worker_threads';
import { DEADLINE, SIGNS, type Watched } from './watched.ts';

/** How long after the deadline a program without a sign is ended. */
export const GRACE_MS = 60_000;
const NEVER = 2 ** 31 - 1;
const SIGN_MS = 5_000;

/** Sets the deadline, in milliseconds from the start; until then there is none. */
export type Watchdog = (deadlineMs: number) => void;

/** A thread takes a core while it starts, which the way to the first node needs too. */
const START_AFTER_MS = 150;

/**
 * Starts the watch, soon; where there can be no further thread, the program goes without.
 * @param thread the file of the thread, as built
 * @param line what is written on stderr where the process has to be ended
 */
export function startWatchdog(thread: URL, line: string): Watchdog {
  const shared = new SharedArrayBuffer(8);
  const places = new Int32Array(shared);
  places[DEADLINE] = NEVER;
  setTimeout(() => {
    startThread(thread, { shared, graceMs: GRACE_MS, line });
    setInterval(() => Atomics.add(places, SIGNS, 1), SIGN_MS).unref();
  }, START_AFTER_MS).unref();
  return (deadlineMs) => void Atomics.store(places, DEADLINE, Math.ceil(deadlineMs / 1000));
}

function startThread(file: URL, workerData: Watched): void {
  try {
    // Its streams would come through the main thread: it does without.
    const silent = { stdout: true, stderr: true };
    const small = { maxYoungGenerationSizeMb: 1 };
    const worker = new Worker(file, { workerData, env: SHARE_ENV, resourceLimits: small, ...silent });
    worker.on('error', () => undefined);
    worker.unref();
  } catch {
    // no thread may be started here
  }
}
