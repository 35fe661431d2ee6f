/**
 * Learns what no manifest tells: the content digest of a split image, by streaming its parts through a hash. All nodes
 * are held against it, so it comes from epoch's own bytes and from nothing that a node said.
 */
import { createHash, type Hash } from 'node:crypto';
import { startDeadline } from '../../system/deadline.ts';
import type { Registry } from '../../registry/client.ts';
import type { State } from '../../bastion/state.ts';
import { keysOf, withImages } from '../../core/judge/catalog.ts';
import { withLearned } from '../../core/artifact.ts';
import { fault } from '../../core/errors.ts';
import type { Catalog } from '../../core/model/catalog.ts';
import type { Scope } from '../../core/model/scope.ts';
import type { DesiredImage } from '../../core/model/desired.ts';
import type { Observation } from '../../core/model/observed.ts';
import { whyOf } from '../resolve/inquiry.ts';

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
    const read = before;
    const onBytes = (bytes: number): void => onProgress(read + bytes, image.sizeBytes ?? 0);
    joined = await streamPart({ epoch, signal, onBytes }, image.image, part, joined);
    before += part.sizeBytes;
  }
  return `sha256:${joined.digest('hex')}`;
}

async function streamPart(
  { epoch, signal, onBytes }: { epoch: Registry; signal: AbortSignal; onBytes: (bytes: number) => void },
  repository: string,
  part: { digest: string; sizeBytes: number },
  before: Hash,
): Promise<Hash> {
  for (let tries = 1; ; tries += 1) {
    const joined = before.copy();
    const own = createHash('sha256');
    let bytes = 0;
    try {
      for await (const chunk of epoch.blobStream(repository, part.digest, signal)) {
        joined.update(chunk);
        own.update(chunk);
        bytes += chunk.length;
        onBytes(bytes);
        if (bytes > part.sizeBytes) break;
      }
      if (bytes === part.sizeBytes && `sha256:${own.digest('hex')}` === part.digest) return joined;
      const detail =
        bytes === part.sizeBytes
          ? 'its bytes have another digest'
          : `it ended after ${bytes} of ${part.sizeBytes} bytes`;
      throw fault('REGISTRY_BLOB_MISSING', { repository, digest: part.digest, detail });
    } catch (error) {
      if (tries === PART_TRIES || signal.aborted) throw error;
    }
  }
}

/** The image with the digest that streaming its parts tells; with the reason, where that fails. */
export async function streamImage(
  image: DesiredImage,
  { epoch, state, signal, onTrouble }: LearnContext,
  onProgress: OnStream,
): Promise<DesiredImage> {
  try {
    const digest = await streamContent(epoch, image, signal, (bytes, total) => onProgress(image, bytes, total));
    const learned = { digest, source: 'stream' } as const;
    if (image.manifestDigest !== null) state.learn(image.manifestDigest, learned);
    return withLearned(image, learned, 'stream');
  } catch (error) {
    const why = whyOf(error, signal);
    onTrouble(`${image.image}:${image.tag}: its parts could not be read: ${why.message}`);
    return { ...image, error: why };
  }
}

/**
 * The catalog with the content digests that only streaming tells. Which images are streamed depends on what is asked
 * about, and not on what any node holds of it: one node must not decide how closely another is looked at.
 */
export async function learnContents(
  { catalog, scope }: { catalog: Catalog; scope: Scope },
  observations: Observation[],
  context: LearnContext & { remainingMs: () => number },
  onStream: OnStream,
): Promise<Catalog> {
  const endsAt = performance.now() + context.remainingMs() * SHARE_OF_TIME;
  const learned: DesiredImage[] = [];
  for (const image of inFairOrder(catalog, scope, observations)) {
    const shareMs = Math.max(0, endsAt - performance.now());
    const reason = (): Error => {
      const cause = "its parts did not come within the share of the run's time that is for them";
      return fault('REGISTRY_UNREACHABLE', { method: 'GET', url: `${image.image}:${image.tag}`, cause });
    };
    const deadline = startDeadline({ signal: context.signal, timeout: { afterMs: shareMs, reason } });
    try {
      learned.push(await streamImage(image, { ...context, signal: deadline.signal }, onStream));
    } finally {
      deadline.end();
    }
  }
  return withImages(catalog, learned);
}

/**
 * The images to stream: first what was asked about without any node, then of each node its first, then of each its
 * second. So a node that names many waits itself, and the others do not.
 */
function inFairOrder(catalog: Catalog, scope: Scope, observations: Observation[]): DesiredImage[] {
  const unlearned = Object.entries(catalog.images).filter(([, one]) => one.unlearned && one.missingBlob === null);
  /** By key, the turn in which a node first asks for it. */
  const turns = new Map<string, number>(unlearned.map(([key]) => [key, Infinity]));
  for (const { node, observed } of observations) {
    const references = [
      ...(observed?.entries.map(({ reference }) => reference) ?? []),
      ...(scope.bases[node.name] ?? []),
    ];
    const keys = references.flatMap((reference) => keysOf(catalog, reference));
    for (const [turn, key] of [...new Set(keys.filter((one) => turns.has(one)))].entries()) {
      turns.set(key, Math.min(turn, turns.get(key) ?? Infinity));
    }
  }
  const turnOf = ([key, { tracked }]: [string, DesiredImage]): number => {
    const turn = turns.get(key) ?? Infinity;
    return tracked || turn === Infinity ? -1 : turn;
  };
  return unlearned.toSorted((a, b) => turnOf(a) - turnOf(b)).map(([, image]) => image);
}
