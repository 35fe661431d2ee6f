/** A part of the fleet, and what each part may do: pure arithmetic that every shard comes to by itself. */
import type { Limit } from '../model/plan.ts';

/** The part `index` (from 0) of `count` parts. */
export interface Shard {
  index: number;
  count: number;
}

/** More parts than nodes that one process can read are of no use. */
export const MAX_SHARDS = 10_000;

/** `3/8` → the shard; null for what is none. */
export function parseShard(text: string): Shard | null {
  const match = /^(0|[1-9]\d{0,4})\/([1-9]\d{0,4})$/.exec(text);
  const [index, count] = [Number(match?.[1] ?? -1), Number(match?.[2] ?? -1)];
  return match !== null && index < count && count <= MAX_SHARDS ? { index, count } : null;
}

export function shardName({ index, count }: Shard): string {
  return `${index}/${count}`;
}

/**
 * The shard of a name by rendezvous hashing: the one whose mix with the name is highest. A name that is added moves no
 * other; one shard more moves only the names that it takes.
 */
export function shardOf(name: string, count: number): number {
  const hash = hashOf(name);
  let best = 0;
  let highest = -1;
  for (let index = 0; index < count; index += 1) {
    const rank = rankOf(hash, index);
    if (rank <= highest) continue;
    highest = rank;
    best = index;
  }
  return best;
}

/** All shards in the order in which they would take a name: the first is `shardOf`. */
export function shardsFor(name: string, count: number): number[] {
  const hash = hashOf(name);
  return Array.from({ length: count }, (_, index) => ({ index, rank: rankOf(hash, index) }))
    .sort((a, b) => b.rank - a.rank || a.index - b.index)
    .map(({ index }) => index);
}

/** The members of one shard, in their order. */
export function membersOf<T extends { name: string }>(members: T[], { index, count }: Shard): T[] {
  return members.filter(({ name }) => shardOf(name, count) === index);
}

/** What a shard gets of a whole number that all share: the remainder goes to the first ones. */
export function shareOf(total: number, { index, count }: Shard): number {
  return Math.floor(total / count) + (index < total % count ? 1 : 0);
}

/** A count is divided; a percentage of what a shard plans is its part already. */
export function limitOf(limit: Limit, shard: Shard): Limit {
  return limit.percent ? limit : { value: shareOf(limit.value, shard), percent: false };
}

/** FNV-1a over the UTF-16 units, 32 bits. */
function hashOf(text: string): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < text.length; i += 1) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193);
  return hash >>> 0;
}

/** The finalizer of MurmurHash3 over a name and a shard: each bit of the result hangs on each bit of both. */
function rankOf(hash: number, index: number): number {
  let mixed = hash ^ Math.imul(index + 1, 0x9e3779b1);
  mixed = Math.imul(mixed ^ (mixed >>> 16), 0x85ebca6b);
  mixed = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2ae35);
  return (mixed ^ (mixed >>> 16)) >>> 0;
}
