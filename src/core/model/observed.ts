/** The validated facts of a node: what one probe told. */
import type { ErrorInfo } from './error.ts';
import type { Node } from './node.ts';

/** One row of a node's index. */
export interface IndexEntry {
  reference: string;
  type: 'cloudimg' | 'oci';
  digest: string;
  /** OCI entries read from the JSON store: the layers and boot layers that must be on the node; else empty or null. */
  layers: string[];
  kernelLayer: string | null;
  initrdLayer: string | null;
}

/** A file in `cloudimg/blobs`. `header` is the hex of its first bytes, null when it is empty. */
export interface BlobFact {
  regular: boolean;
  sizeBytes: number;
  header: string | null;
  /** Size, inode and mtime: as long as it is the same, so are the bytes. */
  stamp: string;
  /** The digest of its bytes, where they were hashed. */
  sha256: string | null;
  /** What its node's own hashes say of it against the parts of split images, by their manifest digests. */
  proofs: Record<string, Proof>;
  /** Why its bytes were to be hashed and were not; null where they were, or nobody asked. */
  unhashed: string | null;
}

/**
 * What the hashes of a blob in ranges say about the split image that it may be. `nothing`: it is not what its name says,
 * so it was converted, or is damaged.
 */
export const PROOFS = ['same', 'other', 'nothing'] as const;

export type Proof = (typeof PROOFS)[number];

/** A virtual machine of a node, as far as it matters to images. */
export interface VmFact {
  name: string;
  state: string;
  /** The blobs that its record names, and the digest of its image. */
  blobIds: string[];
  imageDigest: string | null;
}

/** One hot snapshot of a node: its record, and what lies in its data directory. */
export interface SnapshotFact {
  id: string;
  name: string;
  hypervisor: string;
  /** The reference of the base image, and the digest that the record pins. */
  base: string | null;
  baseDigest: string | null;
  baseType: 'cloudimg' | 'oci';
  blobIds: string[];
  pending: boolean;
  createdAt: string;
  /** False for a name whose record is gone. */
  recorded: boolean;
  dataDir: string | null;
  /** Name → size of the files in the data directory; null when the directory is not there. */
  files: Record<string, number> | null;
  /** Why its own configuration cannot be used, or null. */
  unusable: string | null;
  /** The absolute path in the header of `overlay.qcow2`: what the hypervisor will open. */
  backing: string | null;
  /** Absolute paths of firmware, kernel and initrd that no image brings. */
  bootFiles: string[];
  /** Absolute paths of the layers, kernel and initrd of an OCI base. */
  layerFiles: string[];
}

/** `none`: nothing is there, or an empty file, or something that is no file. */
export type FileState = 'file' | 'none';

/** What a run of ours that died left: a canary VM, a bad blob that it had set aside, the content of an import. */
export interface Leftover {
  kind: 'canary-vm' | 'blob-aside' | 'import';
  /** Of a VM its name, else the path below the root directory. */
  name: string;
}

/** The validated facts of one node: one probe. */
export interface Observed {
  cocoonVersion: string;
  architecture: string;
  indexSource: 'json' | 'sqlite' | 'none';
  freeBytes: number;
  entries: IndexEntry[];
  /** References that two live stores map to different digests. */
  conflicts: string[];
  blobs: Record<string, BlobFact>;
  /** Every file outside `cloudimg/blobs` that an entry or a snapshot needs, by absolute path. */
  files: Record<string, FileState>;
  snapshots: SnapshotFact[];
  /** Without canary VMs: those are leftovers, and a run removes them before it changes anything. */
  vms: VmFact[];
  leftovers: Leftover[];
  /**
   * What the overlays of data directories open that no snapshot record names: on a SQLite store, which does not list
   * pending records, one that is being taken.
   */
  unlistedBackings: string[];
  /** Sentences for people: a stray index beside the live one, an empty node. */
  notes: string[];
}

export type NodeStatus = 'observed' | 'unreachable' | 'unreadable';

/** A node and what came of reading it. */
export interface Observation {
  node: Node;
  status: NodeStatus;
  observed: Observed | null;
  error: ErrorInfo | null;
  durationMs: number;
}
