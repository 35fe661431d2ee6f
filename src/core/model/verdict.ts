/** The words of verdicts, and how closely was looked. */
export const IMAGE_VERDICTS = [
  'unmanaged',
  'unknown',
  'missing',
  'absent',
  'stale',
  'blob-missing',
  'blob-corrupt',
  'in-sync',
] as const;

export type ImageVerdict = (typeof IMAGE_VERDICTS)[number];

export const SNAPSHOT_VERDICTS = [
  'unknown',
  'not-on-node',
  'pending',
  'broken',
  'base-corrupt',
  'base-drifted',
  'base-restorable',
  'base-missing',
  'base-lost',
  'base-at-risk',
  'clonable',
] as const;

export type SnapshotVerdict = (typeof SNAPSHOT_VERDICTS)[number];

/** How closely a blob is looked at: is it there, has it the size of its manifest, has each byte been hashed. */
export type BlobDepth = 'presence' | 'size' | 'sha256';
