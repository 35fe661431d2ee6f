/** How many connections may be in the making at once. */
import { settleOnce } from '../../system/deadline.ts';

/**
 * Holds connections back. sshd drops new ones at random while too many have not logged in yet (`MaxStartups`), and so does
 * a network device that has had enough. There is no limit until something is dropped; then it halves with each drop, and
 * grows again with what succeeds: slowly at first, faster the longer nothing is dropped.
 */
export interface Limiter {
  /** Waits for a permit. @throws the signal's reason */
  enter(signal: AbortSignal): Promise<Permit>;
  /** How many may be in the making at once. */
  limit(): number;
}

/** To have one connection in the making. Each of these gives it back; only the first call counts. */
export interface Permit {
  succeeded(): void;
  dropped(): void;
  /** It failed for a reason that has to do with itself, or takes so long that no one else should wait for it. */
  leave(): void;
}

/** Successes without a drop, in multiples of the limit, after which it grows by one with each success. */
const CALM = 8;
/** Past this there is no limit again. */
const ENOUGH = 1024;

/** @param onLimit called when connections begin to be held back */
export function createLimiter(onLimit: () => void = () => undefined): Limiter {
  let limit = Infinity;
  let active = 0;
  let calm = 0;
  const waiting = new Set<() => void>();

  const admit = (): void => {
    for (const enter of waiting) {
      if (active >= Math.floor(limit)) return;
      waiting.delete(enter);
      active += 1;
      enter();
    }
  };

  const createPermit = (): Permit => {
    let isOver = false;
    const end = (learn: () => void): void => {
      if (isOver) return;
      isOver = true;
      learn();
      active -= 1;
      admit();
    };
    return {
      succeeded: () =>
        end(() => {
          calm += 1;
          limit += Math.max(1 / limit, Math.min(1, calm / (CALM * limit)));
          if (limit > ENOUGH) limit = Infinity;
        }),
      dropped: () =>
        end(() => {
          calm = 0;
          if (limit === Infinity) onLimit();
          limit = Math.max(1, Math.min(limit, active) / 2);
        }),
      leave: () => end(() => undefined),
    };
  };

  return {
    limit: () => limit,
    enter(signal) {
      return settleOnce<Permit>({ signal }, ({ done, onEnd }) => {
        const enter = (): void => done(createPermit());
        onEnd(() => waiting.delete(enter));
        waiting.add(enter);
        admit();
      });
    },
  };
}
