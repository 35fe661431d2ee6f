/** How quickly images come, and what fits into the time that is left. */
import { briefDuration, count, formatBytes } from '../text.ts';
import type { Pace } from '../model/rollout.ts';

/** One pull that succeeded: what it brought, and when, in ms of any clock. */
export interface PullTime {
  bytes: number;
  startedAt: number;
  endedAt: number;
}

/** Shorter ones say nothing of a rate: the content was there already, or is tiny. */
const TELLING_MS = 200;

/** The pace of these pulls; null where none of them took long enough to tell. */
export function paceOf(pulls: PullTime[]): Pace | null {
  const telling = pulls
    .filter(({ startedAt, endedAt }) => endedAt - startedAt >= TELLING_MS)
    .sort((a, b) => a.startedAt - b.startedAt);
  let [bytes, eachMs, allMs, until] = [0, 0, 0, -Infinity];
  for (const pull of telling) {
    bytes += pull.bytes;
    eachMs += pull.endedAt - pull.startedAt;
    allMs += Math.max(0, pull.endedAt - Math.max(pull.startedAt, until));
    until = Math.max(until, pull.endedAt);
  }
  if (bytes === 0) return null;
  return { each: (1000 * bytes) / eachMs, all: (1000 * bytes) / allMs };
}

/** How long one pull takes, in ms. */
export function pullMs(bytes: number, { each }: Pace): number {
  return (1000 * bytes) / each;
}

/** What cocoon gives a download, from its first byte to its last, in ms: it cannot be set. */
export const DOWNLOAD_MS = 30 * 60_000;

/** A pull that died after so long died of that deadline: another one would, too. */
export const DIED_OF_DEADLINE_MS = DOWNLOAD_MS - 30_000;

/** How many pulls of so many bytes may share the rate, so that each ends before cocoon's own deadline; at least one. */
export function pullsAtOnce(bytes: number, pace: Pace | null): number {
  if (pace === null || bytes === 0) return Infinity;
  return Math.max(1, Math.floor((pace.all * DOWNLOAD_MS) / 1000 / bytes));
}

/** What a plan needs of a night. */
export interface Forecast {
  pulls: number;
  bytes: number;
  /** All of it one after another at the pace of all pulls together; null where no pace is known. */
  needMs: number | null;
  /** Pulls that do not end in the time that is left; null where no pace is known. */
  unfit: number | null;
}

/**
 * @param sizes bytes of the pulls, in the order in which they would be begun
 * @param leftMs the time in which all must have ended
 */
export function forecast(sizes: number[], pace: Pace | null, leftMs: number): Forecast {
  const bytes = sizes.reduce((sum, size) => sum + size, 0);
  if (pace === null) return { pulls: sizes.length, bytes, needMs: null, unfit: null };
  let [sum, fit] = [0, 0];
  for (const size of sizes) {
    sum += size;
    if ((1000 * sum) / pace.all <= leftMs && pullMs(size, pace) <= leftMs) fit += 1;
  }
  return { pulls: sizes.length, bytes, needMs: (1000 * bytes) / pace.all, unfit: sizes.length - fit };
}

/** `58 pulls, 696 GB, about 4h50m at 40.0 MB/s; 22 will not fit before 06:00`. @param end the end that counts, for people */
export function forecastWords({ pulls, bytes, needMs, unfit }: Forecast, pace: Pace | null, end: string): string {
  const what = `${count(pulls, 'pull')}, ${formatBytes(bytes)}`;
  if (needMs === null || pace === null || pulls === 0) return what;
  const left = unfit === null || unfit === 0 ? '' : `; ${unfit} will not fit before ${end}`;
  return `${what}, about ${briefDuration(needMs)} at ${formatBytes(Math.round(pace.all))}/s${left}`;
}
