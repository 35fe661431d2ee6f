/** How one shard of a run stands, as it tells the others; and what follows for each from what all have told. Pure. */
import { object, ShapeError, size, text } from '../json.ts';
import { shardsFor } from './shard.ts';

/** Each comes after the one before it. `canaries`: those of this shard are over; `done`: it changes nothing any more. */
export const PHASES = ['reading', 'planned', 'canaries', 'done'] as const;
export type Phase = (typeof PHASES)[number];

/** What became of an image in the shard that has canaries of it. */
export type Verdict = 'healed' | 'stopped';

export interface Standing {
  phase: Phase;
  /** Images that are to be pulled, by `image:tag`, with the number of nodes where that can begin. */
  planned: Record<string, number>;
  verdicts: Record<string, Verdict>;
  /** Actions in the plan, and those that failed. */
  actions: number;
  failures: number;
}

export const NOTHING_SAID: Standing = { phase: 'reading', planned: {}, verdicts: {}, actions: 0, failures: 0 };

const MAX_IMAGES = 20_000;

/** @throws ShapeError for what no shard has written */
export function parseStanding(value: unknown): Standing {
  const found = object(value, 'it');
  const phase = oneOf(found['phase'], PHASES);
  const planned = entries(found['planned'], 'planned').map(([image, nodes]) => [image, size(nodes, image)] as const);
  const verdicts = entries(found['verdicts'], 'verdicts').map(
    ([image, verdict]) => [image, oneOf(verdict, ['healed', 'stopped'] as const)] as const,
  );
  return {
    phase,
    planned: Object.fromEntries(planned),
    verdicts: Object.fromEntries(verdicts),
    actions: size(found['actions'], 'actions'),
    failures: size(found['failures'], 'failures'),
  };
}

function entries(value: unknown, where: string): [string, unknown][] {
  const all = Object.entries(object(value, where));
  if (all.length > MAX_IMAGES) throw new ShapeError(`${where} has more than ${MAX_IMAGES} items`);
  for (const [image] of all) text(image, where, 4096);
  return all;
}

function oneOf<T extends string>(value: unknown, known: readonly T[]): T {
  const found = known.find((one) => one === value);
  if (found === undefined) throw new ShapeError('a word that no shard says');
  return found;
}

/** True where a shard has come at least as far. */
export function hasReached(standing: Standing | null | undefined, phase: Phase): boolean {
  return standing != null && PHASES.indexOf(standing.phase) >= PHASES.indexOf(phase);
}

/**
 * The shards that have the canaries of an image, with how many each: by the hash of the image those that come first and plan
 * a pull of it. One shard has them all where it has nodes enough. Null while a shard that may be one of them has not planned.
 */
export function canaryShards(
  image: string,
  canary: number,
  standings: readonly (Standing | null)[],
): Map<number, number> | null {
  const order = shardsFor(image, standings.length);
  if (standings.some((standing) => !hasReached(standing, 'planned'))) return null;
  const nodesOf = (index: number): number => standings[index]?.planned[image] ?? 0;
  const enough = order.find((index) => nodesOf(index) >= canary);
  if (enough !== undefined) return new Map([[enough, canary]]);
  const found = new Map<number, number>();
  let left = canary;
  for (const index of order) {
    const some = Math.min(left, nodesOf(index));
    if (some === 0) continue;
    found.set(index, some);
    left -= some;
  }
  return found;
}

/** What all shards together say of an image: may nodes beyond its canaries be touched? */
export function verdictOn(
  image: string,
  canary: number,
  standings: readonly (Standing | null)[],
): { verdict: Verdict; shard: number } | { verdict: 'open'; shard: number | null } {
  const stopped = standings.findIndex((standing) => standing?.verdicts[image] === 'stopped');
  if (stopped !== -1) return { verdict: 'stopped', shard: stopped };
  const shards = canaryShards(image, canary, standings);
  if (shards === null) {
    const silent = standings.findIndex((standing) => !hasReached(standing, 'planned'));
    return { verdict: 'open', shard: silent === -1 ? null : silent };
  }
  const waiting = [...shards.keys()].find((index) => standings[index]?.verdicts[image] !== 'healed');
  return waiting === undefined
    ? { verdict: 'healed', shard: [...shards.keys()][0] ?? 0 }
    : { verdict: 'open', shard: waiting };
}

/**
 * Of what a shard must wait for before it may pull at all, where there are fewer pulls than shards: a pull goes round among
 * the shards that share it, once for their canaries and then once for all else.
 * @returns the shard and what it must have reached; null where nothing is to be waited for
 */
export function turnAfter(
  { index, count }: { index: number; count: number },
  maxPulls: number,
  phase: 'canaries' | 'done',
): { shard: number; phase: 'canaries' | 'done' } | null {
  if (maxPulls >= count) return null;
  const before = index - maxPulls;
  if (before >= 0) return { shard: before, phase };
  if (phase === 'canaries') return null;
  const last = index + Math.floor((count - 1 - index) / maxPulls) * maxPulls;
  return { shard: last, phase: 'canaries' };
}
