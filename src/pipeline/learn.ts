/**
 * Learns what no manifest tells: the content digest of a split image, from a node that holds the content or by streaming
 * the parts through a hash; and the digests of blobs on nodes, for verification in depth. Nothing here changes a node.
 */
import { createHash, type Hash } from 'node:crypto';
import PQueue from 'p-queue';
import { hashBlobs, type HashedBlob, type HashItem } from '../adapters/node-hash.ts';
import type { Registry } from '../adapters/registry.ts';
import type { Ssh } from '../adapters/ssh.ts';
import type { State } from '../adapters/state.ts';
import { withLearned } from '../core/desired.ts';
import { fault } from '../core/errors.ts';
import { coverOf, isTied, type Served } from '../core/images.ts';
import { hexOf } from '../core/reference.ts';
import { blobHex, pinnedBy } from '../core/snapshots.ts';
import type { DesiredImage, DesiredSnapshot, Node, Observation, Observed } from '../core/types.ts';
import { whyOf } from './ask.ts';

/** Deadline for hashing on one node, in ms: twenty gigabytes twice, on a slow disk at idle priority. */
export const HASH_TIMEOUT_MS = 30 * 60_000;
const PART_TRIES = 4;

export interface LearnContext {
  ssh: Ssh;
  epoch: Registry;
  state: State;
  concurrency: number;
  signal: AbortSignal;
  /** What could not be learned, and why; the verdicts that depend on it stay `unknown`. */
  onTrouble: (message: string) => void;
}

/** A split image of which it is not known what a node records, though epoch could serve all of it. */
export function isUnlearned(image: DesiredImage): boolean {
  return image.kind === 'cloud-image' && image.blobs.length > 1 && image.contentDigest === null;
}

// ------------------------------------------------------------------------------------------------ proof

/** What hashing a blob says about the image that it may be. */
export type Proof = 'same' | 'other' | 'nothing';

/** What a node must hash to compare a blob with a split image; ranges make sense only where the lengths fit. */
export function proofItem(observed: Observed, digest: string, image: DesiredImage): HashItem {
  const fits = observed.blobs[hexOf(digest)]?.sizeBytes === image.sizeBytes;
  return { hex: hexOf(digest), ranges: fits ? image.blobs.map(({ sizeBytes }) => sizeBytes) : [] };
}

/**
 * A blob that is what its name says, and whose ranges are the parts, is the joined file; one that is what its name says
 * and differs anywhere is other content. One that is not what its name says was converted or damaged: it proves nothing.
 */
export function proofOf(hashed: HashedBlob | undefined, image: DesiredImage): Proof {
  if (hashed === undefined || hashed.whole !== `sha256:${hashed.hex}`) return 'nothing';
  if (Number(hashed.stamp.split(' ', 1)[0]) !== image.sizeBytes) return 'other';
  if (hashed.ranges.length !== image.blobs.length) return 'nothing'; // it came between looking and hashing
  return image.blobs.every((blob, i) => blob.digest === hashed.ranges[i]) ? 'same' : 'other';
}

/** Remembers a proof about `digest`, and gives the image with it. */
export function withProof(state: State, image: DesiredImage, digest: string, proof: Proof): DesiredImage {
  const manifest = image.manifestDigest as string;
  if (proof === 'same') state.learnContent(manifest, digest, 'node');
  if (proof === 'other') state.disprove(manifest, digest);
  return withLearned(image, state.learned(manifest), 'node');
}

/** The nodes that hold a digest under a reference of the image, by digest. */
function holdersOf(image: DesiredImage, served: Served, observations: Observation[]): Map<string, Observation[]> {
  const holders = new Map<string, Observation[]>();
  for (const observation of observations) {
    const { node, observed } = observation;
    if (observed === null) continue;
    for (const { reference, digest } of observed.entries) {
      if (!isHeld(observed, digest) || coverOf({ served, node, observed }, reference) !== image) continue;
      holders.set(digest, [...(holders.get(digest) ?? []), observation]);
    }
  }
  return holders;
}

/** Asks one node per distinct digest what its blob is, until the content digest is known. */
async function proveOnNodes(
  image: DesiredImage,
  served: Served,
  observations: Observation[],
  context: LearnContext,
): Promise<DesiredImage> {
  let learned = image;
  const holders = [...holdersOf(image, served, observations)].sort(([, a], [, b]) => b.length - a.length);
  for (const [digest, nodes] of holders) {
    if (learned.contentDigest !== null) break;
    if (learned.disproved.includes(digest)) continue;
    for (const { node, observed } of nodes.slice(0, 3)) {
      const [hashed] = await hashOn(node, [proofItem(observed as Observed, digest, image)], context);
      const proof = proofOf(hashed, image);
      learned = withProof(context.state, learned, digest, proof);
      if (proof !== 'nothing') break;
    }
  }
  return learned;
}

async function hashOn(node: Node, items: HashItem[], context: LearnContext): Promise<HashedBlob[]> {
  const { ssh, signal, onTrouble } = context;
  try {
    const connection = await ssh.connect(node, signal);
    try {
      return await hashBlobs(connection, node, items, HASH_TIMEOUT_MS, signal);
    } finally {
      connection.close();
    }
  } catch (error) {
    onTrouble(`${node.name}: blobs could not be hashed: ${whyOf(error, signal).message}`);
    return [];
  }
}

// ------------------------------------------------------------------------------------------------ stream

/**
 * The digest of the joined file, by reading every part from epoch once. Memory is bounded; a part that fails begins
 * again from a copy of the hash taken before it.
 * @param onProgress bytes read so far, of all
 * @throws ReconcileError REGISTRY_*
 */
export async function streamContent(
  epoch: Registry,
  image: DesiredImage,
  signal: AbortSignal,
  onProgress: (bytes: number, total: number) => void,
): Promise<string> {
  let joined = createHash('sha256');
  let before = 0;
  for (const part of image.blobs) {
    joined = await streamPart(epoch, image, part, joined, signal, (bytes) =>
      onProgress(before + bytes, image.sizeBytes ?? 0),
    );
    before += part.sizeBytes;
  }
  return `sha256:${joined.digest('hex')}`;
}

async function streamPart(
  epoch: Registry,
  image: DesiredImage,
  part: { digest: string; sizeBytes: number },
  before: Hash,
  signal: AbortSignal,
  onProgress: (bytes: number) => void,
): Promise<Hash> {
  for (let tries = 1; ; tries += 1) {
    const joined = before.copy();
    const own = createHash('sha256');
    let bytes = 0;
    try {
      for await (const chunk of epoch.blobStream(image.image, part.digest, signal)) {
        joined.update(chunk);
        own.update(chunk);
        bytes += chunk.length;
        onProgress(bytes);
        if (bytes > part.sizeBytes) break;
      }
      if (bytes === part.sizeBytes && `sha256:${own.digest('hex')}` === part.digest) return joined;
      const detail =
        bytes === part.sizeBytes
          ? 'its bytes have another digest'
          : `it ended after ${bytes} of ${part.sizeBytes} bytes`;
      throw fault('REGISTRY_BLOB_MISSING', { repository: image.image, digest: part.digest, detail });
    } catch (error) {
      if (tries === PART_TRIES || signal.aborted) throw error;
    }
  }
}

// -------------------------------------------------------------------------------------------- all at once

/**
 * `served` with the content digests of split images that nodes can prove, and, where `stream` is given, of those that
 * only streaming tells and a verdict depends on.
 */
export async function learnContents(
  served: Served,
  snapshots: DesiredSnapshot[],
  observations: Observation[],
  context: LearnContext,
  stream: ((image: DesiredImage, bytes: number, total: number) => void) | null,
): Promise<Served> {
  const desired = [...served.desired];
  for (const [place, image] of desired.entries()) {
    if (!isUnlearned(image)) continue;
    const proved = await proveOnNodes(image, served, observations, context);
    desired[place] =
      stream !== null && isUndecided(proved, image, served, snapshots, observations)
        ? await streamed(proved, context, stream)
        : proved;
  }
  return { ...served, desired };
}

/**
 * True where some node holds a digest that nothing has been proven about, or lacks an image that it should have; or
 * where it holds another under a name, because what is imported is compared with its digest; or where it lacks the base
 * of a snapshot, which may be this content.
 */
function isUndecided(
  proved: DesiredImage,
  image: DesiredImage,
  served: Served,
  snapshots: DesiredSnapshot[],
  observations: Observation[],
): boolean {
  if (proved.contentDigest !== null || proved.missingBlob !== null) return false;
  if (proved.tracked) return true;
  return observations.some(({ node, observed }) => {
    if (observed === null) return false;
    const isOurs = (reference: string | null): boolean =>
      reference !== null && coverOf({ served, node, observed }, reference) === image;
    const isLacking = (digest: string | null): boolean =>
      digest !== null && !proved.disproved.includes(digest) && !isHeld(observed, digest);
    return (
      observed.entries.some(
        (entry) => isOurs(entry.reference) && (isTied(entry) || !proved.disproved.includes(entry.digest)),
      ) ||
      observed.snapshots.some((fact) => isOurs(fact.base) && isLacking(pinnedBy(fact))) ||
      snapshots.some(({ base, baseDigest }) => isOurs(base) && isLacking(baseDigest))
    );
  });
}

function isHeld({ blobs }: Observed, digest: string): boolean {
  const blob = blobs[hexOf(digest)];
  return blob !== undefined && blob.regular && blob.sizeBytes > 0;
}

/** The image with the digest that streaming its parts tells; as it was, where that fails. */
export async function streamed(
  image: DesiredImage,
  { epoch, state, signal, onTrouble }: Pick<LearnContext, 'epoch' | 'state' | 'signal' | 'onTrouble'>,
  onProgress: (image: DesiredImage, bytes: number, total: number) => void,
): Promise<DesiredImage> {
  try {
    const digest = await streamContent(epoch, image, signal, (bytes, total) => onProgress(image, bytes, total));
    const manifest = image.manifestDigest as string;
    state.learnContent(manifest, digest, 'stream');
    return withLearned(image, state.learned(manifest), 'stream');
  } catch (error) {
    const why = whyOf(error, signal);
    onTrouble(`${image.image}:${image.tag}: its parts could not be read: ${why.message}`);
    return { ...image, error: why };
  }
}

/** The observations with the digests of the blobs that verdicts depend on; only what changed since is hashed again. */
export async function hashDeep(observations: Observation[], context: LearnContext): Promise<Observation[]> {
  const queue = new PQueue({ concurrency: context.concurrency });
  return await queue.addAll(
    observations.map((observation) => async () => {
      const { node, observed } = observation;
      return observed === null ? observation : { ...observation, observed: await withHashes(node, observed, context) };
    }),
  );
}

/** One node's facts with the digests of its blobs in use. */
export async function withHashes(node: Node, observed: Observed, context: LearnContext): Promise<Observed> {
  const used = new Set([
    ...observed.entries.filter(({ type }) => type === 'cloudimg').map(({ digest }) => hexOf(digest)),
    ...observed.snapshots.flatMap(({ backing }) => (backing === null ? [] : (blobHex(node, backing) ?? []))),
  ]);
  const stampOf = (hex: string, stamp: string): string => `${node.name}:${node.cocoon.rootDir}/${hex} ${stamp}`;
  const blobs = { ...observed.blobs };
  const unknown: string[] = [];
  for (const hex of used) {
    const blob = blobs[hex];
    if (blob === undefined || !blob.regular || blob.sizeBytes === 0) continue;
    const sha256 = context.state.hashOf(stampOf(hex, blob.stamp));
    if (sha256 === null) unknown.push(hex);
    else blobs[hex] = { ...blob, sha256 };
  }
  if (unknown.length === 0) return { ...observed, blobs };
  for (const { hex, whole, stamp } of await hashOn(
    node,
    unknown.map((hex) => ({ hex, ranges: [] })),
    context,
  )) {
    const blob = blobs[hex];
    if (blob === undefined || blob.stamp !== stamp) continue; // it is another file by now: its hash is not that of what was read
    context.state.rememberHash(stampOf(hex, stamp), whole);
    blobs[hex] = { ...blob, sha256: whole };
  }
  return { ...observed, blobs };
}
