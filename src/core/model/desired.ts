/** What the config asks for, and what registries serve for it. */
import type { ErrorInfo } from './error.ts';

/** An image that the config names. `pools: null` means every pool. */
export interface TrackedImage {
  image: string;
  tag: string;
  /** The registry of an OCI image (`ghcr.io`), or null for a cloud image at epoch. */
  registry: string | null;
  /** The key under which a node that has no entry is reported, and that is pulled there. */
  reference: string;
  presence: 'required' | 'if-present';
  pools: string[] | null;
}

/** A hot snapshot that the config names. */
export interface TrackedSnapshot {
  snapshot: string;
  pools: string[] | null;
}

export type DesiredKind = 'cloud-image' | 'container-image';

export type ContentDigestSource = 'layer' | 'manifest' | 'cache' | 'checksums' | 'stream';

/** What a registry serves now for one image and tag. Where `error` is set, digests may be null. */
export interface Desired {
  image: string;
  tag: string;
  platform: string | null;
  reference: string;
  kind: DesiredKind | null;
  manifestDigest: string | null;
  /** The digest that a node records after pulling this: never guessed, null when it cannot be known. */
  contentDigest: string | null;
  contentDigestSource: ContentDigestSource | null;
  sizeBytes: number | null;
  error: ErrorInfo | null;
}

/** `Desired` with what judging and planning need beyond the report. */
export interface DesiredImage extends Desired {
  /** True where the config names it; false where an entry on a node made us ask. */
  tracked: boolean;
  /** The disk blobs of a cloud image, in the order in which epoch joins them. */
  blobs: { digest: string; sizeBytes: number }[];
  /** The layers of a container image, in order. */
  layers: string[];
  /**
   * A split image whose content digest nothing has told yet: streaming its parts would, and a node's own hashes may prove
   * what that node holds.
   */
  unlearned: boolean;
  /** A blob that the manifest names and the registry does not have: nothing can be pulled until it is back. */
  missingBlob: string | null;
  /** Why cocoon cannot pull this reference, whatever the registry serves; null where it can. */
  unpullable: string | null;
  /** How cocoon stores it: as downloaded, converted (then its bytes prove nothing), or not known. */
  stored: 'as-is' | 'converted' | null;
  /** When it was pushed, as its manifest says; left out where nothing tells. */
  pushedAt?: string | null;
  /** Sentences for people about this image: ambiguity of its URL, contradictions of the artifact. */
  notes: string[];
}

/** What epoch says about one snapshot: the base image that its clones need. */
export interface DesiredSnapshot {
  snapshot: string;
  tracked: boolean;
  base: string | null;
  baseDigest: string | null;
  baseType: 'cloudimg' | 'oci';
  /** When it was taken. */
  createdAt: string | null;
  /** Of all its files together: what a node downloads that has not fetched it. */
  sizeBytes: number | null;
  /** Name → size in bytes of its files, as they are on a node. */
  files: Record<string, number>;
  error: ErrorInfo | null;
}
