// What a scenario is: a state of epoch, a state of one node, a config, and what the command must make of them.
import type { Leftover, NodeStatus } from '../../src/core/model/observed.ts';
import type { Outcome } from '../../src/core/model/result.ts';
import type { ImageVerdict, SnapshotVerdict } from '../../src/core/model/verdict.ts';
import type { Epoch, Fault } from '../doubles/epoch.ts';
import type { Artifact } from '../doubles/registry-content.ts';
import type { CommandResult, Fleet, FleetNode } from '../fleet/world.ts';

/** The names that all scenarios use unless they say otherwise. */
export const IMAGE = 'simular/win11';
export const KEY = `/dl/${IMAGE}`;
export const SNAPSHOT = 'simular/win11-hot:v1';

/** Names a content: A came before B, B before C. Most are a disk of one layer in qcow2 version 3. */
export type Letter = 'A' | 'B' | 'C';

/**
 * The key of an index entry: `/…` at epoch; `EPOCH` and `OTHER` stand for the hosts of epoch and of another registry,
 * `ALIAS` for a host under which epoch is reached too,
 * `sha256:A` for the digest of A, of its manifest under `/dl` and of its bytes elsewhere. What is no URL and names no
 * host was imported under that name.
 */
export type Key = string;

/** What a content is, where it is no plain disk. */
export interface Shape {
  /** Parts that its disk is cut into. */
  parts?: number;
  format?: 'qcow2 v2' | 'raw';
  titles?: 'unpadded';
  checksums?: 'parts' | 'assembled' | 'contradicting';
  mediaType?: string;
  artifactType?: string;
  annotations?: Record<string, string>;
  /** Bytes of the disk. */
  size?: number;
  /** The same bytes as another content, in another manifest. */
  sameAs?: Letter;
  /** A container image for these platforms: of several, and of `index`, an image index. */
  container?: string[] | 'index';
  /** A hot snapshot, or a manifest without artifactType, where an image is expected. */
  as?: 'snapshot' | 'untyped';
}

export interface EpochState {
  generation?: 'may';
  /** What `repo:tag` serves; a letter alone is what `simular/win11:latest` serves. `OTHER/…` is the other registry. */
  serves?: Letter | Record<string, Letter>;
  /** What it can still give by digest. Whatever is neither served nor kept is gone from its store. */
  keeps?: Letter[];
  /** Blobs of a content that have gone from its store, by their place among its layers. */
  lost?: Partial<Record<Letter, number>>;
  /** Contents of which one bit in the store has changed. */
  rotten?: Letter[];
  /** Hot snapshots under `repo:tag`, with the content that they pin; `createdAt` is the time of the push. */
  snapshots?: Record<string, Letter | { pins: Letter; createdAt: string; base?: Key }>;
}

export interface SnapshotState {
  /** The content whose blob its overlay opens. */
  pins: Letter;
  /** The reference of its base. */
  base?: Key;
  /** Of what its record says: another content than the overlay opens. */
  records?: Letter;
  omit?: string[];
  /** The root directory of the node that it was taken on, where that is another one. */
  takenUnder?: string;
  firmware?: string;
}

export type Damage = 'gone' | 'empty' | 'short' | 'flipped' | 'headless' | 'directory' | 'no initrd' | 'empty initrd';

export interface NodeState {
  store?: 'sqlite';
  /** What the index maps keys to; a letter alone is under the usual key. */
  index?: Letter | Record<Key, Letter>;
  /** Blobs that are there and in no index entry. */
  blobs?: Letter[];
  /** What became of the files of a content after all of them were there. */
  damage?: Partial<Record<Letter, Damage>>;
  /** By name; a letter alone is the content that the usual snapshot pins. */
  snapshots?: Letter | Record<string, SnapshotState>;
  /** Running VMs: name → snapshot that they were cloned from, before anything was damaged. */
  vms?: Record<string, string>;
}

export interface Expected {
  node?: Exclude<NodeStatus, 'observed'>;
  /** By key; a verdict alone is of the usual key. Left out: the node has no row for an image. */
  image?: ImageVerdict | Record<Key, ImageVerdict>;
  snapshot?: SnapshotVerdict | Record<string, SnapshotVerdict>;
  /** Of a snapshot that is not on the node. */
  baseVerdict?: SnapshotVerdict | null;
  /** All that is planned, the image's first; a word alone is the image's plan. */
  plan?: string;
  /** What a dead run left on each node: a dry run says so, and a run tidies it. */
  leftovers?: Leftover['kind'][];
  /** Exit codes. */
  dry: number;
  run: number;
  outcome?: Outcome;
  /** How often the nodes pull, where that is not once per planned action. */
  pulls?: number;
  /** Codes of errors in the rows, or of nodes, of the dry run and of the run. */
  codes?: string[];
  runCodes?: string[];
  /** What people read after the dry run, and after the run. */
  said?: string[];
  runSaid?: string[];
  /** How epoch's content digest was learned. */
  source?: string;
}

export interface Scenario {
  /** A number of the list of known states, with a letter where there are several; `+` for those beyond the list. */
  id: string;
  /** The state in one sentence. */
  state: string;
  contents?: Partial<Record<Letter, Shape>>;
  epoch?: EpochState;
  node?: NodeState;
  /** How many nodes are in that state; default one. */
  nodes?: number;
  /** Laid over the standard config. */
  config?: Record<string, unknown>;
  args?: string[];
  /** Who logs in, where it is not root: a user who may not become root. */
  user?: 'unprivileged';
  /** Faults of epoch, armed before each command. */
  faults?: Fault[];
  /** Variables of the node's cocoon while the commands run. */
  env?: Record<string, string>;
  /** What no cocoon command does to a node: done after all else. */
  then?: (stage: Stage) => Promise<void> | void;
  /** Something that goes on during the commands; what it returns ends it. */
  meanwhile?: (stage: Stage) => Promise<() => void> | (() => void);
  /** Happens once during the run. */
  during?: { match: RegExp; action: (stage: Stage) => Promise<void> | void };
  /** What else must hold of the world after the run. */
  afterwards?: (stage: Stage) => Promise<void> | void;
  /** Set where cocoon itself does not look at what is wrong, so that a clone works in spite of the verdict. */
  clonesAnyway?: true;
  /** Only with our own cocoon: the newer generation, or a fault that the true one does not know. */
  doubleOnly?: boolean;
  expect: Expected;
}

/** The world of a scenario while it is played. */
export interface Stage {
  fleet: Fleet;
  node: FleetNode;
  other: Epoch;
  artifact: (letter: Letter) => Artifact;
  /** The digest that a node records. */
  digest: (letter: Letter) => string;
  /** A key as the node spells it. */
  spell: (key: Key) => string;
  /** Lets a tag of epoch serve a content from now on. */
  serve: (letter: Letter, repoTag?: string) => Promise<void>;
  /** Gives the node a snapshot. */
  addSnapshot: (name: string, state: SnapshotState, node?: FleetNode) => Promise<void>;
  /** A cocoon command on the node that must succeed. */
  cocoon: (...args: string[]) => Promise<CommandResult>;
  down: () => Promise<void>;
}
