/**
 * The plain values that flow through a run: inventory → observed, epoch → desired, both → verdicts → plan →
 * outcomes → report. Each survives `JSON.stringify`; what is named in the report keeps the report's field names.
 * Sizes are bytes, durations milliseconds, times RFC 3339 UTC, digests `sha256:<64 hex>`.
 */

/** What a user, a pipeline and the report are told about something that went wrong. */
export interface ErrorInfo {
  code: string;
  message: string;
  /** What to do about it. */
  hint: string;
}

/** A machine to log in to: where it is, as whom, and what proves either side. */
export interface SshTarget {
  host: string;
  port: number;
  user: string;
  identityFiles: string[];
  /** The user's, of which the first is where a new key is added. */
  knownHostsFiles: string[];
  /** Those of the machine that we run on, which count as much. */
  globalKnownHostsFiles?: string[];
  /** Deadline of one try: for the TCP connection, and again for the handshake with authentication. */
  connectTimeoutMs: number;
  /** The name under which known_hosts knows the machine, whatever its address and port (`HostKeyAlias`). */
  hostKeyAlias?: string;
  /** Of the agent only the keys that `identityFiles` name are offered (`IdentitiesOnly`). */
  identitiesOnly?: boolean;
  /** The files come from an ssh config, where one that does not exist is passed over. */
  mayLackIdentityFiles?: boolean;
  /** `strictHostKeyChecking: accept-new` */
  acceptNewHostKey?: boolean;
  /** Where the ssh config names a command that leads to the machine (`FILE:LINE`); it is never run. */
  proxyCommand?: string;
}

/** One cocoon-vm machine after the config, its defaults, the ssh config and all inventory sources are joined. */
export interface Node extends SshTarget {
  name: string;
  pool: string;
  /** The machines to log in to on the way, the nearest first. */
  jumps?: SshTarget[];
  cocoon: CocoonSettings;
}

/** Where cocoon lives on a node; `runDir` and `logDir` are handed to cocoon only when set. */
export interface CocoonSettings {
  binary: string;
  rootDir: string;
  runDir: string | null;
  logDir: string | null;
  sudo: boolean;
}

// ---------------------------------------------------------------------------------------------- desired

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
  error: ErrorInfo | null;
}

// --------------------------------------------------------------------------------------------- observed

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
  /** References that two live stores map to different digests (contract B.7). */
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

// --------------------------------------------------------------------------------------------- verdicts

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

export type Outcome = 'healed' | 'failed' | 'skipped' | 'superseded';

export interface Step {
  step: 'pull' | 'replace' | 'restore' | 'import' | 'verify' | 'clone';
  /** Null where there was nothing to test. */
  ok: boolean | null;
  durationMs: number;
  error: ErrorInfo | null;
}

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

/** A node's verdicts. */
export interface NodeVerdicts {
  node: string;
  images: ImageRow[];
  snapshots: SnapshotRow[];
}

// ------------------------------------------------------------------------------------------------- plan

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

/** What came of one action. */
export interface ActionResult {
  node: string;
  reference: string;
  outcome: Outcome;
  reason: string | null;
  error: ErrorInfo | null;
  after: string | null;
  steps: Step[];
}

/** What came of tidying one leftover; `skipped` where its owner may be alive, or its turn never came. */
export interface TidyResult {
  node: string;
  name: string;
  outcome: 'tidied' | 'failed' | 'skipped';
  error: ErrorInfo | null;
}

// ----------------------------------------------------------------------------------------------- report

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

/** How closely a blob is looked at: is it there, has it the size of its manifest, has each byte been hashed. */
export type BlobDepth = 'presence' | 'size' | 'sha256';

export type RunMode = 'run' | 'dry-run' | 'gate';

/** How a node starts what a question names: a clone of a hot snapshot, or a new VM from an image (contract F.3). */
export type StartMode = 'clone' | 'run';

export type Answer = 'yes' | 'no' | 'unknown';

/** What the gate says of one node. */
export interface GateAnswer {
  node: string;
  answer: Answer;
  /** The verdict behind it in capitals, or the code of an error. */
  reasonCode: string;
  reason: string;
  /** A forced pull of the reference on this node turns the answer into a yes. */
  pullHelps: boolean;
  /** What else a person can do, and the exact commands where there are some. */
  help: string | null;
  commands: string[];
}

/** One image that somebody wants to start, with the answer of every node that it could be started on. */
export interface GateQuestion {
  /** `FILE:LINE` where the image is named, or the option. */
  source: string;
  /** `NAMESPACE/NAME` of the CocoonSet; null for a question of the command line. */
  set: string | null;
  role: 'agent' | 'toolbox' | null;
  toolbox: string | null;
  mode: StartMode;
  image: string;
  pool: string;
  /** The one node that the CocoonSet names, instead of its pool. */
  nodeName: string | null;
  /** How many nodes say yes, how many must, and what follows. */
  ready: number;
  needed: number;
  outcome: 'pass' | 'blocked' | 'incomplete';
  nodes: GateAnswer[];
}

/** A manifest, or a set in it, of which nothing was asked. */
export interface Refusal {
  /** FILE:LINE, or FILE. */
  source: string;
  error: ErrorInfo;
}

export interface Gate {
  pass: boolean;
  minReady: string;
  require: 'start' | 'in-sync';
  questions: GateQuestion[];
  errors: Refusal[];
}

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
    shard: null;
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
