/** What an operator allows, and what will be done under that. */
import type { ErrorInfo } from './error.ts';

/** What the operator allows a run to do. */
export interface Policy {
  canary: number;
  maxPulls: number;
  maxFailures: Limit;
  pullTimeoutMs: number;
  pullRetries: number;
  minFreeBytes: number;
  clone: CloneMode;
}

export type CloneMode = 'none' | 'files' | 'vm';

/** A count, or a share of the planned actions in percent (rounded up). */
export interface Limit {
  value: number;
  percent: boolean;
}

export type ActionKind = 'pull' | 'replace' | 'import' | 'restore';

/** One change on one node. */
export interface Action {
  node: string;
  kind: ActionKind;
  /** The key in the node's index; of a `restore` that of the snapshots' base. */
  reference: string;
  image: string;
  /** Empty for content that a snapshot pins and no tag serves any more: `image` is the reference then. */
  tag: string;
  /** The content digest that must be there in the end; null where only the pull will tell it. */
  want: string | null;
  sizeBytes: number;
  /** 0 for the canary nodes of an image, 1 for all others. */
  wave: number;
  /** Set where the action is in the plan but cannot begin. */
  blocked: ErrorInfo | null;
}
