/** What a shard tells the others and hears of them while it carries out its part of the plan. */
import { setTimeout as sleep } from 'node:timers/promises';
import { errorInfo, infoOf } from '../../core/errors.ts';
import { countOf } from '../../core/limit.ts';
import type { ErrorInfo } from '../../core/model/error.ts';
import { imageOf, type Action, type Limit } from '../../core/model/plan.ts';
import { shardName, type Shard } from '../../core/shard/shard.ts';
import { NOTHING_SAID, PHASES, type Standing } from '../../core/shard/standing.ts';
import type { SharedRun } from '../../bastion/shared-run.ts';

/** How often the others are looked at, in ms, and as much longer for each of them. */
const PAUSE_MS = 100;
const PAUSE_PER_SHARD_MS = 5;

export interface Board {
  /** How all shards stood at the last look. */
  standings: () => readonly (Standing | null)[];
  /** What this shard stands for itself. */
  mine: () => Standing;
  /** Changes that and tells the others, one telling after the other. A directory that is lost is `trouble` from then on. */
  tell: (change: Partial<Standing>) => Promise<void>;
  /** Looks at the others until the condition holds or the time is over. @returns whether it holds */
  until: (holds: () => boolean, atMostMs: number) => Promise<boolean>;
  /** Why nothing more may be begun: the directory is lost, an image is stopped, or too much failed in the whole fleet. */
  whyNot: (action: Action) => Promise<ErrorInfo | null>;
  trouble: () => ErrorInfo | null;
}

/** Reads what this shard said before it was started again in the same run: it takes nothing of that back. */
export async function openBoard(
  shared: SharedRun,
  { shard, maxFailures, signal }: { shard: Shard; maxFailures: Limit; signal: AbortSignal },
): Promise<Board> {
  let trouble: ErrorInfo | null = null;
  let standings: readonly (Standing | null)[] = [];
  const look = async (): Promise<void> => {
    try {
      if (trouble === null) standings = await shared.read();
    } catch (error) {
      trouble = infoOf(error);
    }
  };
  await look();
  let mine = standings[shard.index] ?? NOTHING_SAID;
  let telling = Promise.resolve();
  const pauseMs = PAUSE_MS + PAUSE_PER_SHARD_MS * shard.count;

  return {
    standings: () => standings,
    mine: () => mine,
    tell: async (change) => {
      const phase = later(mine, change);
      mine = { ...mine, ...change, phase };
      const said = mine;
      telling = telling.then(async () => {
        try {
          if (trouble === null) await shared.tell(said);
        } catch (error) {
          trouble = infoOf(error);
        }
      });
      await telling;
    },
    until: async (holds, atMostMs) => {
      const endsAt = performance.now() + atMostMs;
      for (;;) {
        await look();
        if (trouble !== null || holds()) return trouble === null;
        if (signal.aborted || performance.now() >= endsAt) return false;
        await sleep(Math.min(pauseMs, Math.max(1, endsAt - performance.now())), undefined, { signal }).catch(
          () => undefined,
        );
      }
    },
    whyNot: async (action) => {
      await look();
      if (trouble !== null) return trouble;
      const image = imageOf(action);
      const stopped = standings.findIndex((standing) => standing?.verdicts[image] === 'stopped');
      if (stopped !== -1) return stoppedBy(stopped, shard);
      const all = standings.with(shard.index, mine).flatMap((standing) => standing ?? []);
      const total = (of: 'actions' | 'failures'): number => all.reduce((sum, standing) => sum + standing[of], 0);
      const budget = countOf(maxFailures, total('actions'));
      if (total('failures') <= budget) return null;
      return errorInfo('NOT_STARTED', {
        why: `more than ${budget} of the planned actions of all shards failed (rollout.maxFailures)`,
      });
    },
    trouble: () => trouble,
  };
}

/** An image that another shard has stopped. */
export function stoppedBy(index: number, { count }: Shard): ErrorInfo {
  return errorInfo('NOT_STARTED', { why: `its canary was not healed, in shard ${shardName({ index, count })}` });
}

function later(before: Standing, { phase = before.phase }: Partial<Standing>): Standing['phase'] {
  return PHASES.indexOf(phase) > PHASES.indexOf(before.phase) ? phase : before.phase;
}
