/** What an operator allows, and what will be done under that. */
import type { DesiredImage } from './desired.ts';
import type { ErrorInfo } from './error.ts';
import type { Node } from './node.ts';
import type { BlobFact, Leftover } from './observed.ts';
import type { BlobDepth } from './verdict.ts';

/** What the operator allows a run to do. */
export interface Policy {
  canary: number;
  maxPulls: number;
  maxFailures: Limit;
  pullTimeoutMs: number;
  pullRetries: number;
  minFreeBytes: number;
  /** Bytes per second of all pulls together; null for no limit. */
  bandwidth: number | null;
  /** How long a node, or a run, that another holds is waited for. */
  lockTimeoutMs: number;
  /** A newer push than this is not pulled, unless something is broken without it. */
  minAgeMs: number;
  /** How long what runs may go on after the run was told to end. */
  graceMs: number;
  clone: CloneMode;
  vm: CanaryVmPolicy;
  repair: Repair;
}

/** What a run may mend beyond pulling. */
export interface Repair {
  corruptBlobs: 'report' | 'replace';
  restoreBases: 'report' | 'restore';
}

export type CloneMode = 'none' | 'files' | 'vm';

/** Which snapshot is cloned to a VM that proves it, and where. */
export interface CanaryVmPolicy {
  /** The one to clone; null for the tracked ones, else the first of the node. */
  snapshot: string | null;
  timeoutMs: number;
  nodes: 'canary' | 'healed';
  extraArgs: string[];
}

/** A count, or a share of the planned actions in percent (rounded up). */
export interface Limit {
  value: number;
  percent: boolean;
}

export type ActionKind = 'pull' | 'replace' | 'import' | 'restore';

/** One change on one node: all that applying it needs, beside clients and limits. */
export interface Action {
  node: Node;
  kind: ActionKind;
  /** The key in the node's index; of a `restore` that of the snapshots' base. */
  reference: string;
  image: string;
  /** Empty for content that a snapshot pins and no tag serves any more: `image` is the reference then. */
  tag: string;
  /** The content digest that must be there in the end; null where only the pull will tell it. */
  want: string | null;
  /** What is downloaded. */
  sizeBytes: number;
  content: Content;
  expected: Expected;
  /** Null where nothing is cloned. */
  clone: CloneTest | null;
  pullTimeoutMs: number;
  pullRetries: number;
  /** 0 for the canary nodes of an image, 1 for all others. */
  wave: number;
  /** The place of its node in the order in which nodes are asked to be the image's canary; null without canaries, or room. */
  canaryRank: number | null;
  /** Something does not work without it; where false, the node merely has an older image. */
  isBroken: boolean;
  /** The last run left it out. */
  wasLeftOut: boolean;
  /** Set where the action is in the plan but cannot begin. */
  blocked: ErrorInfo | null;
}

/** The image that an action brings, for people: `simular/win11:latest`; `REFERENCE:` where no tag serves it. */
export function imageOf({ image, tag }: Pick<Action, 'image' | 'tag'>): string {
  return `${image}:${tag}`;
}

/** What the node pulls by itself, or is sent. `replaces`: a bad file of that digest is set aside first. */
export type Content =
  | { by: 'pull'; replaces: string | null }
  /** The disk at epoch, part after part, which together have the digest. */
  | {
      by: 'send';
      repository: string;
      parts: { digest: string; sizeBytes: number }[];
      digest: string;
      replaces: boolean;
    };

/** What must be true after a change, and how closely that is looked at. */
export interface Expected {
  /** What its registry serves by then counts; null where exactly `want` does. */
  tag: TagAsked | null;
  /** Of content that no tag tells: what its file must be, where that is known. */
  form: { sizeBytes: number; stored: DesiredImage['stored'] } | null;
  depth: BlobDepth;
  /** What blobs of the node hashed to in this run, by hex: a file that is still the same is not hashed again. */
  hashed: Record<string, HashedFile>;
}

export type HashedFile = Pick<BlobFact, 'stamp' | 'sha256' | 'proofs'>;

/** A tag, and the registry that it is asked of: null for epoch. */
export interface TagAsked {
  registry: string | null;
  repository: string;
  tag: string;
  platform: string | null;
}

/** The snapshots of a node that must clone where they stand on what was brought. */
export interface CloneTest {
  snapshots: { id: string; snapshot: string }[];
  /** A VM is cloned of some of these; null where files are proof enough. */
  vm: CanaryVm | null;
}

export interface CanaryVm {
  name: string;
  /** Those to clone, of the ones that stand on what was brought. */
  snapshots: string[];
  /** Where none of these does, the first other one is cloned. */
  isAnyGood: boolean;
  /** On the canary nodes of an image only. */
  isForCanaries: boolean;
  timeoutMs: number;
  extraArgs: string[];
}

/** What a run tidies on one node before its first wave. */
export interface Tidying {
  node: Node;
  leftovers: Leftover[];
}

/** All that a run is about to do. */
export interface Plan {
  tidyings: Tidying[];
  actions: Action[];
}
