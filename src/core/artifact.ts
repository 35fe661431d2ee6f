/** Manifests → what a node records after a pull: the content digest, and only where it is certain. */
import { errorInfo } from './errors.ts';
import { isPlainQcow2 } from './qcow2.ts';
import type { ContentDigestSource, DesiredImage, DesiredKind } from './model/desired.ts';
import type { ErrorInfo } from './model/error.ts';

/** A manifest as validated by the registry adapter; unknown fields are dropped there. */
export interface Manifest {
  digest: string;
  mediaType: string | null;
  artifactType: string | null;
  configMediaType: string | null;
  configDigest: string | null;
  /** When it was pushed, as its annotations say. */
  createdAt?: string | null;
  layers: { mediaType: string; digest: string; sizeBytes: number; title: string | null }[];
  /** The children of an index. */
  children: { digest: string; os: string | null; architecture: string | null }[];
}

export type ArtifactKind = 'cloud-image' | 'container-image' | 'snapshot' | 'index' | 'unknown';

const CLOUD_IMAGE_TYPES = new Set([
  'application/vnd.cocoonstack.os-image.v1+json',
  'application/vnd.cocoonstack.windows-image.v1+json',
]);
const CONTAINER_CONFIGS = new Set([
  'application/vnd.oci.image.config.v1+json',
  'application/vnd.docker.container.image.v1+json',
]);
const INDEX_TYPES = new Set([
  'application/vnd.oci.image.index.v1+json',
  'application/vnd.docker.distribution.manifest.list.v2+json',
]);
const DISK_LAYER = /^application\/vnd\.cocoonstack\.(windows\.)?disk\.(qcow2|raw)(\.part)?$/;

/** What an artifact is, by what epoch looks at and in its order: layer types do not count. */
export function kindOf(manifest: Manifest): ArtifactKind {
  if (manifest.artifactType !== null && CLOUD_IMAGE_TYPES.has(manifest.artifactType)) return 'cloud-image';
  if (manifest.artifactType === 'application/vnd.cocoonstack.snapshot.v1+json') return 'snapshot';
  if (manifest.configMediaType !== null && CONTAINER_CONFIGS.has(manifest.configMediaType)) return 'container-image';
  if (manifest.mediaType !== null && INDEX_TYPES.has(manifest.mediaType)) return 'index';
  return 'unknown';
}

/** What a manifest says about the content that a node will record. */
export interface Content {
  kind: DesiredKind | null;
  contentDigest: string | null;
  contentDigestSource: ContentDigestSource | null;
  sizeBytes: number | null;
  blobs: { digest: string; sizeBytes: number }[];
  unlearned: boolean;
  error: ErrorInfo | null;
}

/**
 * The content of a cloud image. With one disk layer a node records that layer's digest
 * (conformance: a qcow2 v3 image is stored unchanged under its digest, read-only). No algebra
 * turns the digests of several parts into the digest of the joined file, so that, and every other shape, has no
 * content digest and says why.
 */
export function contentOf(image: string, manifest: Manifest): Content {
  const none = (kind: DesiredKind | null, why: string): Content => ({
    kind,
    contentDigest: null,
    contentDigestSource: null,
    sizeBytes: null,
    blobs: [],
    unlearned: false,
    error: errorInfo('ARTIFACT_UNSUPPORTED', { image, why }),
  });
  const kind = kindOf(manifest);
  if (kind === 'snapshot') return none(null, 'this is a hot snapshot and no image');
  if (kind === 'container-image')
    return none('container-image', 'this is a container image: cocoon pulls it by its OCI reference and not from /dl');
  if (kind === 'index') return none(null, 'this is an image index, which /dl refuses to serve');
  if (kind === 'unknown') {
    return none(null, `epoch serves an artifact of unknown kind (artifactType ${manifest.artifactType ?? 'not set'})`);
  }
  const blobs = manifest.layers
    .filter((layer) => DISK_LAYER.test(layer.mediaType))
    .map((layer) => ({ title: layer.title ?? '', digest: layer.digest, sizeBytes: layer.sizeBytes }))
    .sort((a, b) => compareBytes(a.title, b.title))
    .map(({ digest, sizeBytes }) => ({ digest, sizeBytes }));
  const [only] = blobs;
  if (only === undefined) return none('cloud-image', 'the artifact holds no disk');
  const sizeBytes = blobs.reduce((sum, blob) => sum + blob.sizeBytes, 0);
  if (blobs.length > 1) {
    const why = `the image is split into ${blobs.length} parts: their digests do not tell the digest of the joined file`;
    return { ...none('cloud-image', why), sizeBytes, blobs, unlearned: true };
  }
  return {
    kind,
    contentDigest: only.digest,
    contentDigestSource: 'layer',
    sizeBytes,
    blobs,
    unlearned: false,
    error: null,
  };
}

/** `part.10` comes before `part.2` (conformance: joins parts in bytewise order of their titles). */
function compareBytes(a: string, b: string): number {
  return Buffer.compare(Buffer.from(a), Buffer.from(b));
}

/**
 * Parts whose titles would stand in another order if their numbers were compared: epoch joins them bytewise, so the
 * producer, who counted, most likely made a file that nobody can use.
 */
export function hasUnpaddedTitles({ layers }: Manifest): boolean {
  const titles = layers.filter(({ mediaType }) => DISK_LAYER.test(mediaType)).map(({ title }) => title ?? '');
  const natural = [...titles].sort((a, b) => a.localeCompare(b, 'en', { numeric: true }));
  const bytewise = [...titles].sort(compareBytes);
  return natural.join('\n') !== bytewise.join('\n');
}

/**
 * How cocoon will store a download, told from the first bytes of the disk: qcow2 version 3
 * without a backing file is kept as it is, anything else is converted, and a converted blob's bytes prove nothing.
 */
export function storedAs(head: Uint8Array): 'as-is' | 'converted' {
  return isPlainQcow2(head) ? 'as-is' : 'converted';
}

/** What epoch's own bytes told about a split image beyond its manifest: true for ever, because a digest names its bytes. */
export interface Learned {
  /** The digest that a node records after pulling it. */
  digest: string;
  source: 'checksums' | 'stream';
}

/** A split image with its content digest; `source` tells a fresh lesson from one out of the cache. */
export function withLearned(
  image: DesiredImage,
  learned: Learned | null,
  source: ContentDigestSource = 'cache',
): DesiredImage {
  if (!image.unlearned || learned === null) return image;
  return { ...image, contentDigest: learned.digest, contentDigestSource: source, unlearned: false, error: null };
}
