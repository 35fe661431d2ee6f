/** What `watchdog.ts` and its thread have in common. */
export interface Watched {
  /** Its 32-bit places are `SIGNS` and `DEADLINE`. */
  shared: SharedArrayBuffer;
  /** How long the thread waits beyond the deadline, and for a sign. */
  graceMs: number;
  /** What it writes on stderr. */
  line: string;
}

/** How often the main thread has given a sign. */
export const SIGNS = 0;
/** In seconds from the start of the watch. */
export const DEADLINE = 1;
