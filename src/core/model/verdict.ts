/** The words of verdicts, and how closely was looked. */

/** Of an index entry, or of a tracked image that has none. */
export const IMAGE_VERDICTS = [
  /** Nothing covers the entry: it is listed, and never touched. */
  'unmanaged',
  /** What its registry serves, or what the node holds, could not be told. Never taken for in sync. */
  'unknown',
  /** The image must be on the node, and has no entry there. */
  'missing',
  /** It has no entry, and need not have one. */
  'absent',
  /** The entry names other content than its registry serves now. */
  'stale',
  /** The entry names what is served, and its file is not there or empty. */
  'blob-missing',
  /** The entry names what is served, and its file is not that. A pull alone would keep it. */
  'blob-corrupt',
  /** The entry names what is served, and its file is sound as far as was looked. */
  'in-sync',
] as const;

export type ImageVerdict = (typeof IMAGE_VERDICTS)[number];

/** Of a hot snapshot: would a clone of it start on this node? */
export const SNAPSHOT_VERDICTS = [
  /** What it needs could not be told. */
  'unknown',
  /** The node has not fetched it yet: the verdict on its base is the one that counts. */
  'not-on-node',
  /** Its record is being written. */
  'pending',
  /** Its own files or record are unusable: pulling images does not help. */
  'broken',
  /** Its base is there and has other bytes than its digest. */
  'base-corrupt',
  /** Its base is gone, and the tag of its image serves exactly that: a pull heals it. */
  'base-drifted',
  /** Its base is gone and its tag has moved on, but a registry still gives exactly that content. */
  'base-restorable',
  /** Its base is gone, and no registry could be asked for exactly that content. */
  'base-missing',
  /** Its base is gone, and no registry has that content any more. */
  'base-lost',
  /** A clone would start, but nothing keeps its base from the next garbage collection. */
  'base-at-risk',
  /** A clone would start. */
  'clonable',
] as const;

export type SnapshotVerdict = (typeof SNAPSHOT_VERDICTS)[number];

/** How closely a blob is looked at: is it there, has it the size of its manifest, has each byte been hashed. */
export const BLOB_DEPTHS = ['presence', 'size', 'sha256'] as const;

export type BlobDepth = (typeof BLOB_DEPTHS)[number];
