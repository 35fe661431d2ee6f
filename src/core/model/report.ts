/** The report: the one public object that every format shows. Its field names are fixed. */
import type { Desired } from './desired.ts';
import type { ErrorInfo } from './error.ts';
import type { Gate } from './gate.ts';
import type { Leftover, NodeStatus } from './observed.ts';
import type { Outcome, Step, TidyResult } from './result.ts';
import type { ImageVerdict, SnapshotVerdict, BlobDepth } from './verdict.ts';

/** One row of the report per node and image. */
export interface ImageRow {
  reference: string;
  image: string | null;
  tag: string | null;
  type: 'cloudimg' | 'oci';
  verdict: ImageVerdict;
  have: string | null;
  want: string | null;
  plan: 'pull' | 'replace' | 'import' | null;
  wave: number | null;
  reason: string | null;
  error: ErrorInfo | null;
  commands: string[];
  outcome: Outcome | null;
  after: string | null;
  steps: Step[];
}

/** One row of the report per node and snapshot. */
export interface SnapshotRow {
  snapshot: string;
  id: string | null;
  verdict: SnapshotVerdict;
  base: string | null;
  baseDigest: string | null;
  baseVerdict: SnapshotVerdict | null;
  /** What the plan pulls: the reference of the base, or the URL that restores exactly the pinned content. */
  source: string | null;
  plan: 'pull' | 'replace' | 'restore' | null;
  wave: number | null;
  reason: string | null;
  error: ErrorInfo | null;
  commands: string[];
  outcome: Outcome | null;
  steps: Step[];
}

/** The rows of one node. */
export interface NodeRows {
  node: string;
  images: ImageRow[];
  snapshots: SnapshotRow[];
}

/** A leftover, and what became of it: null where nothing was tried, as in a dry run. */
export interface LeftoverRow extends Leftover {
  outcome: TidyResult['outcome'] | null;
  error: ErrorInfo | null;
}

export interface NodeReport {
  name: string;
  host: string;
  pool: string;
  status: NodeStatus;
  error: ErrorInfo | null;
  cocoonVersion: string | null;
  indexSource: 'json' | 'sqlite' | 'none' | null;
  freeBytes: number | null;
  durationMs: number;
  notes: string[];
  leftovers: LeftoverRow[];
  images: ImageRow[];
  snapshots: SnapshotRow[];
}

export type RunMode = 'run' | 'dry-run' | 'gate';

export interface Report {
  schemaVersion: 1;
  tool: { name: string; version: string };
  run: {
    id: string;
    mode: RunMode;
    startedAt: string;
    finishedAt: string;
    /** How closely blobs were looked at; null where nothing was. */
    blobDepth: BlobDepth | null;
    exitCode: number;
    error: ErrorInfo | null;
    /** `I/N` of a part of the fleet; null for all of it. */
    shard: string | null;
    /** Of a shard: stands for all that its config and options say, so that only parts of one whole are merged. */
    config?: string;
  };
  desired: Desired[];
  snapshots: { snapshot: string; base: string | null; baseDigest: string | null; error: ErrorInfo | null }[];
  nodes: NodeReport[];
  gate: Gate | null;
  summary: {
    nodes: { total: number; observed: number; unreachable: number; unreadable: number };
    images: Record<ImageVerdict, number>;
    snapshots: Record<SnapshotVerdict, number>;
    actions: { planned: number; healed: number; superseded: number; failed: number; skipped: number };
  };
}
