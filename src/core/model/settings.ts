/** What the config says, after defaults, environment and flags: plain values, durations in ms, sizes in bytes. */
import type { TrackedImage, TrackedSnapshot } from './desired.ts';
import type { CanaryVmPolicy, CloneMode, Limit, Policy, Repair } from './plan.ts';

export interface Settings {
  epoch: {
    /** Without a trailing slash. */
    url: string;
    /** Other addresses of the same epoch, as nodes have them in their index; without a trailing slash. */
    aliases: string[];
    /** The bearer token; never printed, logged or put into a report. */
    token: string | null;
    /** PEM text of the CA that signed epoch's certificate, where it is no public one. */
    ca: string | null;
    timeoutMs: number;
    retries: number;
    /** How long to wait for it where it does not answer. */
    waitForMs: number;
  };
  /** As written under `nodes:`; ranges are not expanded yet. */
  nodes: NodeSpec[];
  inventory: { file: string | null; command: string[] | null };
  ssh: NodeDefaults['ssh'] & { concurrency: number };
  cocoon: NodeDefaults['cocoon'];
  images: { discover: boolean; track: TrackedImage[]; ignore: string[]; stream: boolean };
  snapshots: { discover: boolean; track: TrackedSnapshot[]; ignore: string[] };
  verify: {
    blob: 'presence' | 'size' | 'sha256';
    clone: CloneMode;
    vm: CanaryVmPolicy;
  };
  rollout: Omit<Policy, 'clone' | 'vm' | 'repair'>;
  repair: Repair;
  gate: GateSettings;
  run: {
    timeoutMs: number;
    /** Where to remember what was learned; null for the usual places. */
    stateDir: string | null;
    /** Where the shards of one run meet; null: within the state directory. */
    sharedDir: string | null;
  };
}

/** All known addresses of epoch, its own first. */
export function addressesOf({ epoch }: Pick<Settings, 'epoch'>): [string, ...string[]] {
  return [epoch.url, ...epoch.aliases];
}

/** What the settings allow a run to do. */
export function policyOf({ rollout, verify, repair }: Pick<Settings, 'rollout' | 'verify' | 'repair'>): Policy {
  return { ...rollout, clone: verify.clone, vm: verify.vm, repair };
}

/** When a gate passes. */
export interface GateSettings {
  /** Of the nodes per image and pool, how many must say yes. */
  minReady: Limit;
  /** `in-sync`: what would start, but from other content than epoch serves now, is a no. */
  require: 'start' | 'in-sync';
}

/**
 * What the config says under `ssh`, or a node's entry for itself. What is left out comes from the ssh config, and from
 * the defaults (`bastion/inventory.ts`) where that is silent too.
 */
export interface SshSettings {
  user?: string;
  port?: number;
  identityFiles?: string[];
  knownHostsFiles?: string[];
  acceptNewHostKey?: boolean;
  connectTimeoutMs?: number;
  /** `[user@]host[:port]` each, the nearest first; empty: none, whatever the ssh config says. */
  proxyJump?: string[];
}

/** What every node gets unless its own entry says otherwise. */
export interface NodeDefaults {
  ssh: SshSettings & {
    /** The ssh config, as `~/.ssh/config`; one that does not exist says nothing. Null: none is read. */
    configFile: string | null;
    /** The home directory: where relative names of that file begin, and `~`. */
    home: string;
  };
  cocoon: {
    binary: string;
    rootDir: string;
    runDir: string | null;
    logDir: string | null;
    /** `auto`: when the SSH user is not root. */
    sudo: 'auto' | boolean;
  };
}

/** One item of a node list, from the config, an inventory file or an inventory command. `name` may hold a range. */
export interface NodeSpec extends SshSettings {
  name: string;
  host?: string;
  pool?: string;
  binary?: string;
  rootDir?: string;
  runDir?: string;
  logDir?: string;
  sudo?: 'auto' | boolean;
}
