/** What one node hashes of its own blobs, and what is known of them already. What it says decides its own rows alone. */
import type { State } from '../../bastion/state.ts';
import { hashBlobs, type NotHashed } from '../../node/hash.ts';
import type { NodeSession } from '../../node/session.ts';
import { isHeld } from '../../core/judge/blobs.ts';
import { proofItem, proofOf, type HashItem } from '../../core/judge/proofs.ts';
import { blobHex } from '../../core/judge/snapshot-files.ts';
import type { DesiredImage } from '../../core/model/desired.ts';
import type { Node } from '../../core/model/node.ts';
import type { BlobFact, Observed } from '../../core/model/observed.ts';
import type { HashedFile } from '../../core/model/plan.ts';
import { hexOf } from '../../core/reference.ts';

/** Deadline for hashing on one node, in ms: twenty gigabytes twice, on a slow disk at idle priority. */
export const HASH_TIMEOUT_MS = 30 * 60_000;
/** So many blobs are hashed on a node at once; one that lists more has no more turns than the others. */
const MAX_BLOBS = 32;
/** So many ranges fit into one command. */
const MAX_RANGES = 4000;

/** A blob whose hashes a verdict depends on, by its hex; with the split image that it is held against, if any. */
export interface HashWish {
  hex: string;
  image: DesiredImage | null;
}

/** The blob that an entry names, where its hashes prove what it is of a split image; none where they prove nothing. */
export function proofWishes(observed: Observed, image: DesiredImage | null, digest: string): HashWish[] {
  return image?.unlearned === true && isHeld(observed, digest) ? [{ hex: hexOf(digest), image }] : [];
}

/** The blobs that verdicts in depth depend on. */
export function deepWishes(node: Node, observed: Observed): HashWish[] {
  const used = new Set([
    ...observed.entries.filter(({ type }) => type === 'cloudimg').map(({ digest }) => hexOf(digest)),
    ...observed.snapshots.flatMap(({ backing }) => (backing === null ? [] : (blobHex(node, backing) ?? []))),
  ]);
  return [...used].filter((hex) => isHeld(observed, `sha256:${hex}`)).map((hex) => ({ hex, image: null }));
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
  session: NodeSession,
  observed: Observed,
  wishes: HashWish[],
  { timeoutMs, state }: { timeoutMs: number; state: State },
): Promise<Observed> {
  const items = itemsFor(observed, wishes);
  const turns = firstOf([...items.values()]);
  const results = await hashBlobs(session, turns, timeoutMs);
  const blobs = { ...observed.blobs };
  for (const [i, [key, { hex }]] of [...items].entries()) {
    const blob = blobs[hex];
    if (blob === undefined) continue;
    const result = results[i] ?? 'beyond';
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
      state.rememberProof(fileOf(session.node, hex, blob, image.manifestDigest), proof);
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
function itemsFor(observed: Observed, wishes: HashWish[]): Map<string, HashItem> {
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
export function isOpen(observed: Observed | null, { hex, image }: HashWish): boolean {
  const blob = observed?.blobs[hex];
  if (blob === undefined) return false;
  return image === null ? blob.sha256 === null : blob.proofs[image.manifestDigest ?? ''] === undefined;
}

/** The facts with what the node proved in earlier runs of the files that are still the same. */
export function recallProofs(node: Node, observed: Observed, wishes: HashWish[], state: State): Observed {
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
export function carryHashes(observed: Observed, before: Record<string, HashedFile>): Observed {
  const blobs = Object.entries(observed.blobs).map(([hex, blob]) => {
    const known = Object.hasOwn(before, hex) ? before[hex] : undefined;
    return known?.stamp === blob.stamp ? [hex, { ...blob, sha256: known.sha256, proofs: known.proofs }] : [hex, blob];
  });
  return { ...observed, blobs: Object.fromEntries(blobs) as Observed['blobs'] };
}

/** The name under which a proof is remembered. */
function fileOf({ name, cocoon }: Node, hex: string, { stamp }: BlobFact, manifestDigest: string): string {
  return JSON.stringify([name, `${cocoon.rootDir}/cloudimg/blobs/${hex}.qcow2`, stamp, manifestDigest]);
}
