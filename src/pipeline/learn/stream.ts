/**
 * Learns what no manifest tells: the content digest of a split image, by streaming its parts through a hash. All nodes
 * are held against it, so it comes from epoch's own bytes and from nothing that a node said.
 */
import { createHash, type Hash } from 'node:crypto';
import { startDeadline } from '../../system/deadline.ts';
import type { Registry } from '../../registry/client.ts';
import type { State } from '../../bastion/state.ts';
import { placesOf } from '../../core/judge/coverage.ts';
import { withLearned } from '../../core/artifact.ts';
import { fault } from '../../core/errors.ts';
import type { Served } from '../../core/judge/images.ts';
import type { DesiredImage } from '../../core/model/desired.ts';
import type { Observation } from '../../core/model/observed.ts';
import { whyOf } from '../resolve/ask.ts';

const PART_TRIES = 4;
/** So much of what is left of the run's time streaming may take: nodes prove for themselves what it did not tell. */
const SHARE_OF_TIME = 1 / 2;

export interface LearnContext {
  epoch: Registry;
  state: State;
  signal: AbortSignal;
  /** What could not be learned, and why; the verdicts that depend on it stay `unknown`. */
  onTrouble: (message: string) => void;
}

/** Told while an image is streamed: bytes read so far, of all. */
export type OnStream = (image: DesiredImage, bytes: number, total: number) => void;

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

/** The image with the digest that streaming its parts tells; with the reason, where that fails. */
export async function streamed(
  image: DesiredImage,
  { epoch, state, signal, onTrouble }: LearnContext,
  onProgress: OnStream,
): Promise<DesiredImage> {
  try {
    const digest = await streamContent(epoch, image, signal, (bytes, total) => onProgress(image, bytes, total));
    const learned = { digest, source: 'stream' } as const;
    state.learn(image.manifestDigest as string, learned);
    return withLearned(image, learned, 'stream');
  } catch (error) {
    const why = whyOf(error, signal);
    onTrouble(`${image.image}:${image.tag}: its parts could not be read: ${why.message}`);
    return { ...image, error: why };
  }
}

/**
 * `served` with the content digests that only streaming tells. Which images are streamed depends on what is asked about,
 * and not on what any node holds of it: one node must not decide how closely another is looked at.
 */
export async function learnContents(
  served: Served,
  observations: Observation[],
  context: LearnContext & { remainingMs: () => number },
  onStream: OnStream,
): Promise<Served> {
  const endsAt = performance.now() + context.remainingMs() * SHARE_OF_TIME;
  const desired = [...served.desired];
  for (const place of inFairOrder(served, observations)) {
    const image = desired[place] as DesiredImage;
    const shareMs = Math.max(0, endsAt - performance.now());
    const reason = (): Error => {
      const cause = "its parts did not come within the share of the run's time that is for them";
      return fault('REGISTRY_UNREACHABLE', { method: 'GET', url: `${image.image}:${image.tag}`, cause });
    };
    const deadline = startDeadline({ signal: context.signal, timeout: { afterMs: shareMs, reason } });
    try {
      desired[place] = await streamed(image, { ...context, signal: deadline.signal }, onStream);
    } finally {
      deadline.end();
    }
  }
  return { ...served, desired };
}

/**
 * The places of the images to stream: first what was asked about without any node, then of each node its first, then of
 * each its second. So a node that names many waits itself, and the others do not.
 */
function inFairOrder(served: Served, observations: Observation[]): number[] {
  const ranks = new Map<number, number>();
  for (const [place, { unlearned, missingBlob }] of served.desired.entries()) {
    if (unlearned && missingBlob === null) ranks.set(place, Infinity);
  }
  const asked = new Set(ranks.keys());
  for (const { node, observed } of observations) {
    const references = [
      ...(observed?.entries.map(({ reference }) => reference) ?? []),
      ...(served.bases[node.name] ?? []),
    ];
    const own = new Set(
      references.flatMap((reference) => placesOf(served, reference)).filter((place) => ranks.has(place)),
    );
    for (const [turn, place] of [...own].entries()) {
      asked.delete(place);
      ranks.set(place, Math.min(turn, ranks.get(place) as number));
    }
  }
  const turnOf = (place: number): number =>
    asked.has(place) || served.desired[place]?.tracked === true ? -1 : (ranks.get(place) as number);
  return [...ranks.keys()].sort((a, b) => turnOf(a) - turnOf(b));
}
