/** What one run leaves to the next about changing nodes. */

/** Bytes per second: of one pull, and of all that go on together. */
export interface Pace {
  each: number;
  all: number;
}

/** A node and a reference, or a node and an image. */
export interface Place {
  node: string;
  of: string;
}

export interface Remembered {
  /** Images (`repo:tag`) that could not be brought to a node. */
  failed: Place[];
  /** References that a run left out for want of time, or because of others. */
  leftOut: Place[];
  pace: Pace | null;
}

export const NOTHING_REMEMBERED: Remembered = { failed: [], leftOut: [], pace: null };
