/**
 * The one error type, and the one place that owns the words: a code with typed arguments becomes a message (what
 * happened) and a hint (what to do next). Codes are stable; the README lists them.
 */
import { briefDuration, clip, count, formatBytes, formatDuration, plain, shortDigest } from './text.ts';
import type { ErrorInfo } from './model/error.ts';
import type { Holder } from './model/holder.ts';

type Words = { message: string; hint: string };

/** For a machine to which ssh would go by a command. */
function notRun(proxyCommand: string | undefined): string | null {
  return proxyCommand === undefined
    ? null
    : `the ssh config has a ProxyCommand for it (${proxyCommand}), and commands are not run: name the way as ProxyJump there, or as ssh.proxyJump`;
}

/** Who says where a node's store is. */
const KEPT_BY: Record<string, string> = {
  default: 'there is one under',
  login: 'COCOON_ROOT_DIR of the login is',
  'vk-cocoon': 'COCOON_ROOT_DIR in /etc/cocoon/vk-cocoon.env is',
};

const HANGS = 'the machine or the way to it is overloaded or hangs';

/** What to do where time ran out, by whose time it was. */
const OUT_OF_TIME = {
  connection: `${HANGS}; raise ssh.connectTimeout if it is only slow`,
  command: `${HANGS}; log in and see what it waits for, its disks first`,
  run: `${HANGS}; raise --timeout if it is only slow: nodes are read in the first half of the time`,
  turn: 'others took all the time in which nodes are read, the first half of the run: raise --timeout or ssh.concurrency',
} as const;

/** Where the directory for temporary files of a node is of no use. */
export const TEMP_HINT =
  'mend that directory, or set TMPDIR for SSH sessions there (SetEnv of sshd); the store is not at fault';

const catalog = {
  // the run
  CONFIG_INVALID: (a: { problem: string; hint?: string | undefined }): Words => ({
    message: a.problem,
    hint: a.hint ?? 'correct that and run again; config/reconcile.example.yaml explains every key',
  }),
  FILTER_EMPTY: (a: { option: string; value: string; near: string[] }): Words => ({
    message: `${a.option} ${a.value} matches nothing in the config or on any node that was read`,
    hint:
      a.near.length > 0
        ? `known: ${a.near.join(', ')}`
        : '`reconcile nodes` lists the nodes, `reconcile --dry-run --verbose` every image and snapshot',
  }),
  INVENTORY_EMPTY: (a: { filtered: boolean }): Words => ({
    message: a.filtered ? 'no node is left after the filters' : 'the inventory holds no node',
    hint: a.filtered ? '`reconcile nodes` shows the inventory' : 'name nodes under `nodes:` or `inventory:`',
  }),
  INVENTORY_FAILED: (a: { source: string; problem: string }): Words => ({
    message: `the inventory from ${a.source} cannot be used: ${a.problem}`,
    hint: 'it must give the list that config/README.md describes: try that command or look at that file by hand',
  }),
  MANIFEST_INVALID: (a: {
    problem: string;
    /** FILE:LINE, or FILE. */
    source?: string;
  }): Words => ({
    message: a.source === undefined ? a.problem : `${a.source}: ${a.problem}`,
    hint: 'correct the manifest; a gate does not pass over one that it cannot use',
  }),
  GATE_EMPTY: (a: { problem: string }): Words => ({
    message: `the gate has nothing to ask: ${a.problem}`,
    hint: 'name a CocoonSet manifest (a file, a directory, or -), --snapshot or --image; a gate that asks nothing does not pass',
  }),
  GATE_UNREAD: (a: { nodes: number; first: ErrorInfo | null }): Words => ({
    message: `the gate has no answer: ${a.nodes === 1 ? 'the node that it asks could not' : `none of the ${a.nodes} nodes that it asks could`} be read${a.first === null ? '' : `: ${a.first.message}`}`,
    hint: a.first?.hint ?? '`reconcile --dry-run` says of each node why',
  }),
  NOTHING_JUDGED: (a: {
    /** Nodes that were read. */
    nodes: number;
    /** What they hold, with their names; and how much more. */
    held: string[];
    more: number;
    /** Addresses that may be epoch's too. */
    aliases: string[];
  }): Words => {
    const held = a.held.map((one) => clip(one, 180)).join('; ');
    const more = a.more > 0 ? `; and ${a.more} more` : '';
    return {
      message: `no image and no snapshot was judged on ${count(a.nodes, 'node')}: they hold ${a.held.length === 0 ? 'nothing' : `only ${held}${more}`}`,
      hint:
        a.aliases.length > 0
          ? `if that is the same epoch, add to the config: epoch: {aliases: [${a.aliases
              .slice(0, 3)
              .map((one) => clip(one, 120))
              .join(', ')}]}`
          : 'are epoch.url and cocoon.rootDir those of the nodes? epoch.aliases names other addresses of epoch, images.track what else is to be judged',
    };
  },
  MERGE_REFUSED: (a: {
    problem: string;
    /** What to do; default to have all shards of one run. */
    hint?: string;
  }): Words => ({
    message: `these reports are not merged: ${clip(a.problem, 1000)}`,
    hint: a.hint ?? 'give one report of each shard of one run, all with the same config',
  }),
  SHARED_DIR_LOST: (a: { dir: string; why: string }): Words => ({
    message: `the shards cannot meet in ${a.dir} (${clip(a.why, 300)}): nothing more is begun`,
    hint: 'run.sharedDir must be a directory that all shards can write, with room; mend that, then run again',
  }),
  SHARD_WAITED: (a: {
    /** What was waited for, of which shard. */
    what: string;
    shard: string;
  }): Words => ({
    message: `${a.what} never came from shard ${a.shard}`,
    hint: 'did that shard run, with the same config and run.sharedDir? run all of them again',
  }),
  RUN_DEADLINE: (a: { timeoutMs: number } | { judgingMs: number }): Words => ({
    message:
      'judgingMs' in a
        ? `judging took longer than ${formatDuration(a.judgingMs)}, its share of the run's time`
        : `the run's deadline of ${formatDuration(a.timeoutMs)} passed`,
    hint: 'raise --timeout or run.timeout; what was left out is in the report',
  }),
  RUN_HANGS: (a: { graceMs: number }): Words => ({
    message: `the program hangs: its deadline passed ${formatDuration(a.graceMs)} ago, and it gives no sign; it is ended (exit 4)`,
    hint: 'what it had begun on nodes is ended there by its guard; run again to see where they stand, and please report this',
  }),
  RUN_LOCKED: (a: {
    /** Null where nothing tells. */
    holder: Holder | null;
  }): Words => ({
    message: `another run over the whole fleet holds the lock${a.holder === null ? '' : `: ${heldBy(a.holder)}`}`,
    hint: 'nothing was done: wait for it (--lock-timeout 30m), or name nodes (--node): such a run waits only for these',
  }),
  INTERRUPTED: (a: { signal: string }): Words => ({
    message: `interrupted by ${a.signal}`,
    hint: 'what was begun was finished or cleaned up; run again to go on',
  }),
  INTERNAL: (a: { problem: string }): Words => ({
    message: `internal error: ${clip(a.problem, 500)}`,
    hint: 'this is a bug in reconcile: please report it with the output of --log-level debug',
  }),

  // SSH
  SSH_UNREACHABLE: (a: { host: string; port: number; cause: string; proxyCommand?: string | undefined }): Words => ({
    message: `${a.host}:${a.port} cannot be reached: ${clip(a.cause, 300)}`,
    hint: notRun(a.proxyCommand) ?? 'is the machine up, its address right, and sshd running?',
  }),
  SSH_TIMEOUT: (a: {
    host: string;
    what: string;
    afterMs: number;
    /** Whose time ran out; default that of the connection. */
    of?: keyof typeof OUT_OF_TIME;
    proxyCommand?: string | undefined;
  }): Words => ({
    message: `${a.host}: ${a.what} took longer than ${formatDuration(a.afterMs)}`,
    hint: notRun(a.proxyCommand) ?? OUT_OF_TIME[a.of ?? 'connection'],
  }),
  SSH_AUTH_FAILED: (a: {
    host: string;
    user: string;
    tried: string[];
    /** User certificates that were not offered. */
    certificates: string[];
    /** An identity that was accepted where that was not enough, and what the server asks for besides. */
    accepted: string | null;
    wanted: string[];
  }): Words => {
    const who = `${a.user}@${a.host}`;
    const tried = a.tried.length > 0 ? a.tried.join(', ') : 'none to offer';
    if (a.accepted !== null) {
      return {
        message: `${who} accepted ${a.accepted}, and asks for a second factor: ${a.wanted.join(' or ')} (offered: ${tried})`,
        hint: 'no second factor can be given here: let a key be enough there (in sshd_config: Match User, AuthenticationMethods publickey)',
      };
    }
    return {
      message: `${who} accepted none of the identities (${tried})`,
      hint:
        a.certificates.length > 0
          ? `user certificates (${a.certificates.join(', ')}) are not supported: add the public key itself to authorized_keys there, or name another identity`
          : 'set ssh.identityFile, or add the key to the agent (ssh-add) and its public half to authorized_keys there',
    };
  },
  SSH_IDENTITY_UNUSABLE: (a: { file: string; problem: string }): Words => ({
    message: `identity file ${a.file} cannot be used: ${clip(a.problem, 200)}`,
    hint: 'name a private key that this user can read; one with a passphrase needs the agent, RECONCILE_SSH_PASSPHRASE or RECONCILE_SSH_PASSPHRASE_FILE',
  }),
  SSH_HOST_KEY_MISMATCH: (a: { host: string; offered: string; file: string; line: number }): Words => ({
    message: `the host key of ${a.host} (${a.offered}) is another than the one known from ${a.file}:${a.line}`,
    hint: `either the machine was installed anew, or somebody is in between: find out, then remove line ${a.line} of ${a.file}`,
  }),
  SSH_HOST_KEY_UNKNOWN: (a: {
    host: string;
    port: number;
    offered: string;
    file: string;
    /** The name under which known_hosts is to know the host, where it is not its own. */
    alias: string | null;
    /** The command that leads to the jump host from which the host can be reached. */
    via: string | null;
    /** Where known_hosts names a certificate authority for the host, as file:line. */
    authority: string | null;
  }): Words => {
    const asked = `${a.via === null ? '' : `${a.via} `}ssh-keyscan ${a.port === 22 ? '' : `-p ${a.port} `}${a.host}`;
    const named = a.alias === null ? '' : ` | sed 's/^[^ ]*/${a.alias}/'`;
    const scan = `${asked}${named} >> ${a.file}   # then compare the fingerprint`;
    return {
      message: `no host key of ${a.host} is known (it offers ${a.offered})`,
      hint:
        a.authority === null
          ? scan
          : `host certificates are not supported, so the @cert-authority of ${a.authority} does not count; add the key itself: ${scan}`,
    };
  },
  SSH_HOST_KEY_REVOKED: (a: { host: string; file: string; line: number }): Words => ({
    message: `the host key of ${a.host} is marked revoked in ${a.file}:${a.line}`,
    hint: 'give the machine a new host key',
  }),

  // the node
  NODE_PERMISSION_DENIED: (a: { host: string; what: string; user: string; hint?: string }): Words => ({
    message: `${a.host}: permission denied: ${clip(a.what, 300)}`,
    hint:
      a.hint ??
      `connect as root, or add to sudoers: ${a.user} ALL=(root) NOPASSWD: ALL   # the probe runs as root by \`sudo -n sh -s\``,
  }),
  NODE_COCOON_MISSING: (a: { host: string; binary: string }): Words => ({
    message: `${a.host}: there is no cocoon (${a.binary})`,
    hint: 'is this a cocoon-vm node? set cocoon.binary to an absolute path where it lies outside PATH',
  }),
  NODE_STORE_MISSING: (a: {
    host: string;
    rootDir: string;
    /** Who there names another directory. */
    kept: { by: string; dir: string }[];
  }): Words => {
    const set = 'set cocoon.rootDir, or rootDir of this node,';
    const [first] = a.kept.map(({ by, dir }) => `${KEPT_BY[by] ?? by} ${clip(dir, 200)}`);
    return {
      message: `${a.host}: there is no store of cocoon under ${a.rootDir}`,
      hint:
        first === undefined
          ? `${set} to the directory that cocoon uses there; where it has never run, \`cocoon image list\` makes its store`
          : `${first}: ${set} to that`,
    };
  },
  NODE_INDEX_CORRUPT: (a: { host: string; what: string }): Words => ({
    message: `${a.host}: the metadata store cannot be read: ${clip(a.what, 400)}`,
    hint: 'every cocoon command fails there until it is mended; reconcile never writes to it',
  }),
  NODE_BUSY: (a: { host: string; why: 'conversion' | 'writes' }): Words =>
    a.why === 'conversion'
      ? {
          message: `${a.host}: a conversion of the metadata store is in flight (meta-convert.manifest)`,
          hint: 'let it finish, or run `cocoon meta convert` there to complete it',
        }
      : {
          message: `${a.host}: the metadata store (meta.db) was written to as often as it was copied`,
          hint: 'run again when fewer cocoon commands run there',
        },
  NODE_TEMP_UNUSABLE: (a: { host: string; dir: string; said: string }): Words => ({
    message: `${a.host}: its store is read on a private copy, and ${plain(a.dir)} takes none: ${clip(a.said, 300)}`,
    hint: TEMP_HINT,
  }),
  NODE_ANSWER_INVALID: (a: { host: string; what: string }): Words => ({
    message: `${a.host}: the probe's answer cannot be trusted: ${clip(a.what, 300)}`,
    hint: 'log in and look for output of shell start-up files, a broken disk or a stranger in between',
  }),

  // registries
  EPOCH_ALIAS_SUSPECTED: (a: {
    reference: string;
    /** Where it is, without the path of the image. */
    address: string;
    epochUrl: string;
    repository: string;
    /** Epoch serves the repository, or there are too many such references to ask epoch about each. */
    why: 'served' | 'unasked';
  }): Words => ({
    message:
      a.why === 'unasked'
        ? `${clip(a.reference, 300)} is of no known epoch, and there are too many such to ask epoch about each`
        : `${clip(a.reference, 300)} is of no known epoch, but ${a.epochUrl} serves ${a.repository} too: it was not judged`,
    hint: `if that is the same epoch, add to the config: epoch: {aliases: [${clip(a.address, 200)}]}; if not, add its references to images.ignore`,
  }),
  REGISTRY_UNREACHABLE: (a: { method: string; url: string; cause: string }): Words => ({
    message: `${a.method} ${a.url}: ${clip(a.cause, 300)}`,
    hint: 'is epoch up, and does this host reach it?',
  }),
  REGISTRY_ANSWER_INVALID: (a: { method: string; url: string; what: string }): Words => ({
    message: `${a.method} ${a.url}: ${clip(a.what, 300)}`,
    hint: 'this is no answer of a registry: look for a proxy or a login page in between',
  }),
  REGISTRY_LOGIN_NEEDED: (a: { method: string; url: string; status: number; looked: string }): Words => ({
    message: `${a.method} ${a.url}: the registry wants a login (status ${a.status}); ${clip(a.looked, 1000)}`,
    hint: 'for epoch set epoch.tokenFile; for another registry run `docker login` or `podman login` as the user who runs this',
  }),
  REGISTRY_BLOB_MISSING: (a: { repository: string; digest: string; detail: string }): Words => ({
    message: `epoch cannot serve blob ${shortDigest(a.digest)} of ${a.repository}: ${a.detail}`,
    hint: `push the artifact again; until ${a.digest} is back, a pull would only bring a broken image`,
  }),
  TAG_NOT_FOUND: (a: { repository: string; tag: string; known: string[] }): Words => ({
    message: `epoch has no tag ${a.tag} of ${a.repository}`,
    hint:
      a.known.length > 0
        ? `tags there: ${a.known.slice(0, 10).join(', ')}${a.known.length > 10 ? ' …' : ''}`
        : 'the repository has no tag at all: is its name right?',
  }),
  ARTIFACT_UNSUPPORTED: (a: { image: string; why: string }): Words => ({
    message: `${a.image}: ${clip(a.why, 300)}`,
    hint: 'push it in a form that can be checked (one layer, qcow2 v3 without backing file, external data or encryption), or leave it out by images.ignore',
  }),

  // steps of an action
  PULL_FAILED: (a: { host: string; reference: string; exit: string; stderr: string }): Words => ({
    message: `${a.host}: \`cocoon image pull --force ${a.reference}\` ${a.exit}: ${clip(a.stderr, 600)}`,
    hint: 'what cocoon said is the cause; mend that there, then run again',
  }),
  PULL_TIMEOUT: (a: { host: string; reference: string; afterMs: number }): Words => ({
    message: `${a.host}: pulling ${a.reference} took longer than ${formatDuration(a.afterMs)} and was ended`,
    hint: 'raise rollout.pullTimeout (cocoon itself gives up after 30 minutes), or see what holds cocoon up there',
  }),
  IMPORT_FAILED: (a: { host: string; reference: string; why: string }): Words => ({
    message: `${a.host}: importing ${a.reference} failed: ${clip(a.why, 600)}`,
    hint: 'mend the cause there (room in the temporary directory, the connection, what cocoon says), then run again',
  }),
  BLOB_IN_USE: (a: { host: string; digest: string }): Words => ({
    message: `${a.host}: a process holds the blob ${shortDigest(a.digest)} open, so it is not replaced`,
    hint: 'stop the VMs that run on it, then run again',
  }),
  VERIFY_MISMATCH: (a: {
    host: string;
    reference: string;
    have: string | null;
    want: string | null;
    detail: string;
  }): Words => ({
    message: `${a.host}: after the pull ${a.reference} is ${shortDigest(a.have)} and not ${shortDigest(a.want)}: ${a.detail}`,
    hint: 'epoch ends a download cleanly when a blob fails in the middle: look at its log. An object that has rotted must go from its store first: pushing it again does not mend it',
  }),
  CLONE_FAILED: (a: { host: string; snapshot: string; why: string }): Words => ({
    message: `${a.host}: a clone of ${a.snapshot} does not work: ${clip(a.why, 600)}`,
    hint: 'the other nodes keep what they have; look at the cause there, push a sound image or bake the snapshot again, then run again',
  }),
  CANARY_LEFT: (a: { host: string; name: string; why: string }): Words => ({
    message: `${a.host}: the canary VM ${a.name} may still be there: ${clip(a.why, 300)}`,
    hint: `there: cocoon vm rm --force ${a.name}`,
  }),
  TIDY_FAILED: (a: { host: string; name: string; why: string }): Words => ({
    message: `${a.host}: what a run that died left is still there (${a.name}): ${clip(a.why, 300)}`,
    hint: 'mend what is in the way there; the next run tries again',
  }),
  NO_SPACE: (
    a:
      | { host: string; needBytes: number; keepBytes: number; freeBytes: number }
      | { host: string; dir: string; said: string },
  ): Words =>
    'dir' in a
      ? {
          message: `${a.host}: its store is read on a private copy, and ${plain(a.dir)} is full: ${clip(a.said, 300)}`,
          hint: TEMP_HINT,
        }
      : {
          message: `${a.host}: a pull needs ${formatBytes(a.needBytes)} and ${formatBytes(a.keepBytes)} must stay free, but only ${formatBytes(a.freeBytes)} are`,
          hint: 'make room there (`cocoon gc` collects what nothing needs), or lower rollout.minFreeBytes',
        },
  LOCKED: (a: { host: string; by: string }): Words => ({
    message: `${a.host}: ${a.by}`,
    hint: 'wait for it to end, then run again',
  }),
  NOTHING_TO_TEST: (a: { host: string; image: string }): Words => ({
    message: `${a.host}: no snapshot there uses the new content of ${a.image}`,
    hint: 'the pull is verified; that a clone works is not proven',
  }),
  NOT_STARTED: (a: { why: string }): Words => ({
    message: a.why,
    hint: 'mend what failed before it, then run again',
  }),
  TOO_FRESH: (a: { image: string; ageMs: number; minAgeMs: number }): Words => ({
    message: `${clip(a.image, 300)} was pushed ${briefDuration(a.ageMs)} ago, and settles for ${briefDuration(a.minAgeMs)} (rollout.minAge)`,
    hint: 'nothing is broken without it; a later run pulls it',
  }),
  NO_TIME: (a: {
    /** Null where no pace is known. */
    needMs: number | null;
    leftMs: number;
  }): Words => ({
    message:
      a.needMs === null ? 'no time is left' : `needs ${briefDuration(a.needMs)}, ${briefDuration(a.leftMs)} left`,
    hint: 'the next run begins with it; give it longer (--until, --timeout), or more pulls at once (--max-pulls)',
  }),
};

function heldBy({ user, host, pid, run, since }: Holder): string {
  return `${clip(user, 64)}@${clip(host, 128)}, process ${pid}, run ${clip(run, 64)}, since ${clip(since, 32)}`;
}

export type ErrorCode = keyof typeof catalog;
type Args<C extends ErrorCode> = Parameters<(typeof catalog)[C]>[0];

/** Every code there is, for the README's list and its test. */
export const ERROR_CODES = Object.keys(catalog) as ErrorCode[];

/** Code and arguments → the words that every report shows. */
export function errorInfo<C extends ErrorCode>(code: C, args: Args<C>): ErrorInfo {
  const words = (catalog[code] as (a: Args<C>) => Words)(args);
  return { code, message: clip(words.message, 1500), hint: clip(words.hint, 500) };
}

/** The error that what speaks to the world throws and the pipeline turns into a row: it carries `ErrorInfo` and nothing secret. */
export class ReconcileError extends Error {
  readonly info: ErrorInfo;
  constructor(info: ErrorInfo, options?: ErrorOptions) {
    super(info.message, options);
    this.name = 'ReconcileError';
    this.info = info;
  }
}

/** Builds the error to throw. */
export function fault<C extends ErrorCode>(code: C, args: Args<C>, cause?: unknown): ReconcileError {
  return new ReconcileError(errorInfo(code, args), cause === undefined ? undefined : { cause });
}

/** Whatever was caught → `ErrorInfo`; what is none of ours is a bug and says so. */
export function infoOf(error: unknown): ErrorInfo {
  if (error instanceof ReconcileError) return error.info;
  return errorInfo('INTERNAL', { problem: error instanceof Error ? (error.stack ?? error.message) : String(error) });
}
