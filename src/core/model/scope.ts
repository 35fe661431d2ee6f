/** What is judged, and how closely: the config's words, without any policy. */
import type { TrackedImage, TrackedSnapshot } from './desired.ts';
import type { BlobDepth } from './verdict.ts';

export interface Scope {
  images: {
    tracked: TrackedImage[];
    /** Whether images of epoch are judged that nothing tracks. */
    discover: boolean;
  };
  snapshots: {
    tracked: TrackedSnapshot[];
    /** Whether snapshots are judged that nothing tracks. */
    discover: boolean;
  };
  /** By node, the references of the bases of the snapshots that are judged there. */
  bases: Record<string, string[]>;
  depth: BlobDepth;
  /** In milliseconds since the epoch of 1970. */
  now: number;
}
