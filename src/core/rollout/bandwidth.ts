/** How pulls begin one after the other, so that all together do not take more than so many bytes per second. */

export interface Pacer {
  /** Books a pull of so many bytes. @returns how long it has to wait, in ms */
  book(sizeBytes: number): number;
}

/**
 * Each pull begins when those before it could have come at that rate: what is quicker in fact makes up for it by a pause, and
 * what is slower does not add up.
 * @param now in ms
 */
export function createPacer(bytesPerSecond: number, now: () => number): Pacer {
  let freeAt = 0;
  return {
    book(sizeBytes) {
      const startsAt = Math.max(now(), freeAt);
      freeAt = startsAt + (sizeBytes * 1000) / bytesPerSecond;
      return startsAt - now();
    },
  };
}
