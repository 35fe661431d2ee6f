/**
 * Has nodes hash their own blobs: to prove what they hold of a split image whose content digest is not known, and for
 * verification in depth. What a node says decides its own rows alone. Nothing here changes a node.
 */
import PQueue from 'p-queue';
import { withDeadline } from '../../system/deadline.ts';
import { hashBlobs, type NotHashed } from '../../node/hash.ts';
import type { Connection, Ssh } from '../../ssh/client.ts';
import type { State } from '../../bastion/state.ts';
import { isHeld } from '../../core/judge/blobs.ts';
import { fault } from '../../core/errors.ts';
import { coverOf, type Served } from '../../core/judge/images.ts';
import { proofItem, proofOf, type HashedBlob, type HashItem } from '../../core/judge/proofs.ts';
import { hexOf } from '../../core/reference.ts';
import { blobHex } from '../../core/judge/snapshots.ts';
import { clip } from '../../core/text.ts';
import type { DesiredImage } from '../../core/model/desired.ts';
import type { Node } from '../../core/model/node.ts';
import type { BlobFact, Observation, Observed } from '../../core/model/observed.ts';
import { whyOf } from '../resolve/ask.ts';

/** Deadline for hashing on one node, in ms: twenty gigabytes twice, on a slow disk at idle priority. */
export const HASH_TIMEOUT_MS = 30 * 60_000;
/** So many blobs are hashed on a node at once; one that lists more has no more turns than the others. */
const MAX_BLOBS = 32;
/** So many ranges fit into one command. */
const MAX_RANGES = 4000;
/** So much of what is left of the run's time hashing takes; the rest is for what follows. */
const SHARE_OF_TIME = 1 / 2;

export interface HashContext {
  ssh: Ssh;
  state: State;
  concurrency: number;
  signal: AbortSignal;
  /** What is left of the run's time, in ms. */
  remainingMs: () => number;
  /** What could not be hashed, and why; the verdicts that depend on it stay `unknown`. */
  onTrouble: (message: string) => void;
}

/** A blob whose hashes a verdict depends on, by its hex; with the split image that it is held against, if any. */
export interface Wish {
  hex: string;
  image: DesiredImage | null;
}

/** What has to be hashed on a node, the proofs first. */
export function wishesOn(served: Served, { node, observed }: Observation): Wish[] {
  if (observed === null) return [];
  const proofs = observed.entries.flatMap(({ type, reference, digest }): Wish[] => {
    const image = type === 'cloudimg' ? coverOf({ served, node, observed }, reference) : null;
    return image?.unlearned === true && isHeld(observed, digest) ? [{ hex: hexOf(digest), image }] : [];
  });
  return [...proofs, ...(served.depth === 'sha256' ? deepWishes(node, observed) : [])];
}

/** The blobs that verdicts in depth depend on. */
export function deepWishes(node: Node, observed: Observed): Wish[] {
  const used = new Set([
    ...observed.entries.filter(({ type }) => type === 'cloudimg').map(({ digest }) => hexOf(digest)),
    ...observed.snapshots.flatMap(({ backing }) => (backing === null ? [] : (blobHex(node, backing) ?? []))),
  ]);
  return [...used].filter((hex) => isHeld(observed, `sha256:${hex}`)).map((hex) => ({ hex, image: null }));
}

/**
 * The observations with what their blobs hash to, as far as verdicts depend on it. The nodes hash side by side, and each
 * has its own share of the time: one that is silent leaves its own rows unknown, and nothing else.
 */
export async function hashFleet(
  observations: Observation[],
  served: Served,
  context: HashContext,
): Promise<Observation[]> {
  const isDeep = served.depth === 'sha256';
  const jobs = observations.map((observation) => {
    const wishes = wishesOn(served, observation);
    const { node, observed } = observation;
    const known = observed === null || isDeep ? observed : recalled(node, observed, wishes, context.state);
    return { observation: { ...observation, observed: known }, wishes: wishes.filter((wish) => isOpen(known, wish)) };
  });
  const slots = await context.ssh.affordable(context.concurrency);
  const queue = new PQueue({ concurrency: slots });
  const endsAt = performance.now() + context.remainingMs() * SHARE_OF_TIME;
  let waiting = jobs.filter(({ wishes }) => wishes.length > 0).length;
  return await Promise.all(
    jobs.map(async ({ observation, wishes }) => {
      if (wishes.length === 0) return observation;
      return await queue.add(async () => {
        const shareMs = Math.max(0, endsAt - performance.now()) / Math.ceil(waiting / slots);
        waiting -= 1;
        return await hashNode(observation, wishes, Math.min(HASH_TIMEOUT_MS, shareMs), context);
      });
    }),
  );
}

/** Never throws: what could not be hashed is said of each blob. */
async function hashNode(
  observation: Observation,
  wishes: Wish[],
  shareMs: number,
  context: HashContext,
): Promise<Observation> {
  const { node } = observation;
  const observed = observation.observed as Observed;
  const until = performance.now() + shareMs;
  const reason = (): Error => fault('SSH_TIMEOUT', { host: node.host, what: 'hashing blobs', afterMs: shareMs });
  const limits = { signal: context.signal, timeout: { afterMs: shareMs, reason } };
  try {
    return await withDeadline(limits, async (signal) => {
      const connection = await context.ssh.connect(node, signal);
      try {
        const leftMs = until - performance.now();
        const found = await hashOn(connection, node, observed, wishes, leftMs, { ...context, signal });
        const why = new Set(wishes.flatMap(({ hex }) => found.blobs[hex]?.unhashed ?? []));
        if (why.size > 0) context.onTrouble(`${node.name}: blobs could not be hashed: ${[...why].join('; ')}`);
        return { ...observation, observed: found };
      } finally {
        connection.close();
      }
    });
  } catch (error) {
    const { message } = whyOf(error, context.signal);
    context.onTrouble(`${node.name}: blobs could not be hashed: ${message}`);
    const blobs = { ...observed.blobs };
    for (const { hex } of wishes) blobs[hex] = { ...(blobs[hex] as BlobFact), unhashed: clip(message, 200) };
    return { ...observation, observed: { ...observed, blobs } };
  }
}

const WHY_NOT: Record<NotHashed | 'beyond', string> = {
  gone: 'it was gone by then',
  changed: 'it was written to meanwhile',
  failed: 'sha256sum failed there',
  late: "the share of the run's time that its node has was over",
  beyond: `no more than ${MAX_BLOBS} blobs of a node are hashed in one run, in ${MAX_RANGES} parts`,
};

/**
 * One node's facts with what its blobs hash to. Every proof is remembered: for that node, path and stamp alone.
 * @throws ReconcileError SSH_*, NODE_ANSWER_INVALID
 */
export async function hashOn(
  connection: Connection,
  node: Node,
  observed: Observed,
  wishes: Wish[],
  timeoutMs: number,
  { state, signal }: Pick<HashContext, 'state' | 'signal'>,
): Promise<Observed> {
  const items = itemsFor(observed, wishes);
  const turns = firstOf([...items.values()]);
  const results = await hashBlobs(connection, node, turns, timeoutMs, signal);
  const blobs = { ...observed.blobs };
  for (const [i, [key, { hex }]] of [...items].entries()) {
    const blob = blobs[hex] as BlobFact;
    const result = i < turns.length ? (results[i] as HashedBlob | NotHashed) : 'beyond';
    if (typeof result === 'string' || result.stamp !== blob.stamp) {
      // It is another file by now: its hash is not that of what was read.
      blobs[hex] = { ...blob, unhashed: WHY_NOT[typeof result === 'string' ? result : 'changed'] };
      continue;
    }
    const proofs = { ...blob.proofs };
    for (const { hex: wanted, image } of wishes) {
      const proof =
        wanted === hex && image !== null && keyOf(observed, wanted, image) === key ? proofOf(result, image) : null;
      if (proof === null || image?.manifestDigest == null) continue;
      proofs[image.manifestDigest] = proof;
      state.rememberProof(fileOf(node, hex, blob, image.manifestDigest), proof);
    }
    const isDeep = wishes.some((wish) => wish.hex === hex && wish.image === null);
    blobs[hex] = { ...blob, proofs, sha256: isDeep ? result.whole : blob.sha256 };
  }
  return { ...observed, blobs };
}

/** As many as have their turn. */
function firstOf(items: HashItem[]): HashItem[] {
  let ranges = 0;
  const end = items.findIndex((item, i) => i === MAX_BLOBS || (ranges += item.ranges.length) > MAX_RANGES);
  return end === -1 ? items : items.slice(0, end);
}

/** What to hash for these wishes, each file once where that serves them all. */
function itemsFor(observed: Observed, wishes: Wish[]): Map<string, HashItem> {
  const items = new Map<string, HashItem>();
  for (const { hex, image } of wishes) {
    if (image !== null) items.set(keyOf(observed, hex, image), proofItem(observed, hex, image));
  }
  const whole = new Set([...items.values()].map(({ hex }) => hex));
  for (const { hex } of wishes) if (!whole.has(hex)) items.set(hex, { hex, ranges: [] });
  return items;
}

function keyOf(observed: Observed, hex: string, image: DesiredImage): string {
  return [hex, ...proofItem(observed, hex, image).ranges].join(' ');
}

/** Whether a wish is not fulfilled yet. */
export function isOpen(observed: Observed | null, { hex, image }: Wish): boolean {
  const blob = observed?.blobs[hex];
  if (blob === undefined) return false;
  return image === null ? blob.sha256 === null : blob.proofs[image.manifestDigest ?? ''] === undefined;
}

/** The facts with what the node proved in earlier runs of the files that are still the same. */
export function recalled(node: Node, observed: Observed, wishes: Wish[], state: State): Observed {
  const blobs = { ...observed.blobs };
  for (const { hex, image } of wishes) {
    const blob = blobs[hex];
    if (blob === undefined || image?.manifestDigest == null) continue;
    const proof = state.proofOf(fileOf(node, hex, blob, image.manifestDigest));
    if (proof !== null) blobs[hex] = { ...blob, proofs: { ...blob.proofs, [image.manifestDigest]: proof } };
  }
  return { ...observed, blobs };
}

/** The facts with what was hashed earlier in this run, where the file is still the same. */
export function carriedOver(observed: Observed, before: Observed | null): Observed {
  const blobs = Object.entries(observed.blobs).map(([hex, blob]) => {
    const known = before?.blobs[hex];
    return known?.stamp === blob.stamp ? [hex, { ...blob, sha256: known.sha256, proofs: known.proofs }] : [hex, blob];
  });
  return { ...observed, blobs: Object.fromEntries(blobs) as Observed['blobs'] };
}

/** The name under which a proof is remembered. */
function fileOf({ name, cocoon }: Node, hex: string, { stamp }: BlobFact, manifestDigest: string): string {
  return JSON.stringify([name, `${cocoon.rootDir}/cloudimg/blobs/${hex}.qcow2`, stamp, manifestDigest]);
}
