/** What the hashes of a node say about the split images that it may hold: they decide its own rows, and nobody else's. */
import { hexOf } from '../reference.ts';
import type { DesiredImage } from '../model/desired.ts';
import type { Observed, Proof } from '../model/observed.ts';

/** A blob to hash on its node, by the hex of its name; with the lengths of ranges to hash as well, in bytes. */
export interface HashItem {
  hex: string;
  ranges: number[];
}

/** What a blob hashes to. Digests are `sha256:<hex>`. */
export interface HashedBlob {
  hex: string;
  whole: string;
  ranges: string[];
  /** Size, inode and mtime of the file that was hashed, as the probe tells them. */
  stamp: string;
}

/** What a node must hash to compare a blob with a split image; ranges make sense only where the lengths fit. */
export function proofItem({ blobs }: Observed, hex: string, image: DesiredImage): HashItem {
  const fits = blobs[hex]?.sizeBytes === image.sizeBytes;
  return { hex, ranges: fits ? image.blobs.map(({ sizeBytes }) => sizeBytes) : [] };
}

/**
 * A blob that is what its name says, and whose ranges are the parts, is the joined file; one that is what its name says
 * and differs anywhere is other content. Null where it came between looking and hashing, so that no range was asked for.
 */
export function proofOf(hashed: HashedBlob, image: DesiredImage): Proof | null {
  if (hashed.whole !== `sha256:${hashed.hex}`) return 'nothing';
  if (Number(hashed.stamp.split(' ', 1)[0]) !== image.sizeBytes) return 'other';
  if (hashed.ranges.length !== image.blobs.length) return null;
  return image.blobs.every((blob, i) => blob.digest === hashed.ranges[i]) ? 'same' : 'other';
}

/** What the node itself proved about a digest and an image whose content digest is not known; null where it proved nothing. */
export function provenOn({ blobs }: Observed, image: DesiredImage, digest: string): Proof | null {
  const { manifestDigest, unlearned } = image;
  return unlearned && manifestDigest !== null ? (blobs[hexOf(digest)]?.proofs[manifestDigest] ?? null) : null;
}

/** Whether a digest is what epoch serves: for all nodes where epoch's bytes tell, else where the node proved it for itself. */
export function isServedAs(observed: Observed, image: DesiredImage, digest: string): boolean {
  return image.contentDigest === digest || provenOn(observed, image, digest) === 'same';
}
