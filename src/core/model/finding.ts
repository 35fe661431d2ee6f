/** What is the case on a node, with the evidence: no plan and no policy. */
import type { DesiredImage } from './desired.ts';
import type { ErrorInfo } from './error.ts';
import type { ImageVerdict, SnapshotVerdict } from './verdict.ts';

interface Found {
  /** The name of the node. */
  node: string;
  /** Why the verdict is what it is, for people. */
  reason: string | null;
  error: ErrorInfo | null;
  /** What is to be said beside the verdict, after all that is said of a remedy. */
  notes: string[];
  /** What a remedy can be made of; null where nothing that a registry serves would help. */
  evidence: Evidence | null;
}

/** The verdict on one image of one node. */
export interface ImageFinding extends Found {
  kind: 'image';
  verdict: ImageVerdict;
  reference: string;
  image: string | null;
  tag: string | null;
  type: 'cloudimg' | 'oci';
  have: string | null;
  want: string | null;
}

/** The verdict on one snapshot of one node. */
export interface SnapshotFinding extends Found {
  kind: 'snapshot';
  verdict: SnapshotVerdict;
  snapshot: string;
  id: string | null;
  base: string | null;
  baseDigest: string | null;
  /** Of a snapshot that is not on the node, the verdict on its base; null where the first clone brings that too. */
  baseVerdict: SnapshotVerdict | null;
}

export type Finding = ImageFinding | SnapshotFinding;

/** All findings of one node. */
export interface NodeFindings {
  node: string;
  images: ImageFinding[];
  snapshots: SnapshotFinding[];
}

/** Where the content comes from that a finding lacks, and what stands in its way on the node. */
export interface Evidence {
  /** The key under which the node would get it. */
  reference: string;
  /** What its registry serves for that; null for content that a snapshot pins and no tag yields any more. */
  image: DesiredImage | null;
  /** The content digest that is lacking; null where only a pull will tell it. */
  digest: string | null;
  /** What is downloaded for it. */
  sizeBytes: number;
  /** How cocoon stores it, where that is known. */
  stored: DesiredImage['stored'];
  /** What counts in the end: what the tag serves then, or exactly that digest. */
  counts: 'tag' | 'digest';
  /** A file of that digest which is there and unsound: a pull or an import alone would keep it. */
  kept: { state: 'corrupt' | 'unproven'; why: string; isInUse: boolean } | null;
}
