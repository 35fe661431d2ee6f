/** One round of questions to registries: each is asked once, however many nodes raise it. */
import type { Registry } from '../../registry/client.ts';
import type { State } from '../../bastion/state.ts';
import type { Manifest } from '../../core/artifact.ts';
import { errorInfo, infoOf } from '../../core/errors.ts';
import type { DesiredImage, DesiredSnapshot } from '../../core/model/desired.ts';
import type { ErrorInfo } from '../../core/model/error.ts';

/** Who is asked. */
export interface Registries {
  epoch: Registry;
  /** The client for another registry, by its host. */
  registryOf: (host: string) => Promise<Registry>;
  /** What earlier runs learned. */
  state: State;
}

/** What registries said is what they serve from its start on; a new one believes no old answer. */
export interface Inquiry extends Registries {
  signal: AbortSignal;
  answers: {
    manifests: Map<string, Promise<FoundManifest>>;
    images: Map<string, Promise<DesiredImage>>;
    /** The first bytes of disks; null where they cannot be had. */
    heads: Map<string, Promise<Uint8Array | null>>;
    containers: Map<string, Promise<DesiredImage[]>>;
    snapshots: Map<string, Promise<DesiredSnapshot>>;
  };
}

export type FoundManifest = { manifest: Manifest; error: null } | { manifest: null; error: ErrorInfo };

/** Has not asked anything yet. */
export function startInquiry({ epoch, registryOf, state }: Registries, signal: AbortSignal): Inquiry {
  const [manifests, images, heads, containers, snapshots] = [new Map(), new Map(), new Map(), new Map(), new Map()];
  return { epoch, registryOf, state, signal, answers: { manifests, images, heads, containers, snapshots } };
}

/** A desired image of which nothing is known yet. */
export const NOTHING_KNOWN: Omit<DesiredImage, 'image' | 'tag' | 'reference'> = {
  platform: null,
  kind: null,
  manifestDigest: null,
  contentDigest: null,
  contentDigestSource: null,
  sizeBytes: null,
  error: null,
  tracked: false,
  blobs: [],
  layers: [],
  unlearned: false,
  missingBlob: null,
  unpullable: null,
  stored: null,
  notes: [],
};

/** What was caught, or why the run ended, which is then the cause of it. */
export function whyOf(error: unknown, signal: AbortSignal): ErrorInfo {
  return infoOf(signal.aborted ? signal.reason : error);
}

/**
 * The first blob that the registry lacks, or has at another length than the manifest says: a pull would come out bad.
 * The error is that blob's; where all are there, the image keeps its own.
 */
export async function findMissingBlob(
  registry: Registry,
  repository: string,
  blobs: DesiredImage['blobs'],
  signal: AbortSignal,
): Promise<{ missingBlob: string | null; error?: ErrorInfo }> {
  const sizes = await Promise.all(
    blobs.map(async (blob) => {
      try {
        return await registry.blobSize(repository, blob.digest, signal);
      } catch (error) {
        return whyOf(error, signal);
      }
    }),
  );
  for (const [i, blob] of blobs.entries()) {
    const found = sizes[i] ?? null;
    if (found !== null && typeof found === 'object') return { missingBlob: blob.digest, error: found };
    if (found !== blob.sizeBytes) {
      const detail = found === null ? 'it is not there' : `it has ${found} bytes and not ${blob.sizeBytes}`;
      const error = errorInfo('REGISTRY_BLOB_MISSING', { repository, digest: blob.digest, detail });
      return { missingBlob: blob.digest, error };
    }
  }
  return { missingBlob: null };
}
