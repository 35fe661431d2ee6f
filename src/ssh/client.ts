/**
 * Connections to nodes over ssh2: whom to trust (`trust/`) and who we are (`identity.ts`), how a connection is made and
 * tried again (`connect/`), and commands over it (`exec.ts`). Every wait has a deadline, and a dead peer is noticed by
 * keepalives.
 */
import { readFile } from 'node:fs/promises';
import { fault, ReconcileError } from '../core/errors.ts';
import type { Node, SshTarget } from '../core/model/node.ts';
import { createAcceptor } from './trust/accept-new.ts';
import { startDeadline, withDeadline } from '../system/deadline.ts';
import { remember } from '../system/remember.ts';
import { createConnection, type Connection } from './exec.ts';
import { AGENT_MS } from './agent.ts';
import { createIdentities } from './identity.ts';
import type { Passphrase } from './key-file.ts';
import { RetryableConnectError } from './connect/failure.ts';
import { createTransports } from './connect/jump.ts';
import type { LoggedIn } from './connect/disconnect.ts';
import { logIn, type Attempt, type Log } from './connect/login.ts';
import { knownHostsName, type Trust } from './trust/host-key.ts';
import { loadKnownHosts } from './trust/known-hosts.ts';
import type { KnownHosts, KnownHostsCache } from './trust/known-hosts.ts';
import { withRetries, type RetryPolicy } from '../system/retry.ts';

export type { Connection, ExecOptions } from './exec.ts';

/** Makes connections to nodes. */
export interface Ssh {
  /**
   * A verified and authenticated connection. `node.connectTimeoutMs` is the deadline for the TCP connection, and again
   * for the handshake with authentication. What is dropped before its handshake (sshd throttles by MaxStartups), refused
   * or not answered is tried again. At most one connection per node: an older one is closed.
   * @throws SSH_UNREACHABLE, SSH_TIMEOUT, SSH_AUTH_FAILED, SSH_IDENTITY_UNUSABLE, SSH_HOST_KEY_MISMATCH,
   *   SSH_HOST_KEY_UNKNOWN, SSH_HOST_KEY_REVOKED, CONFIG_INVALID (a known_hosts file that cannot be read or written), or
   *   the signal's reason; those of a jump host too
   */
  connect(node: Node, signal: AbortSignal): Promise<Connection>;
  /** So many connections at once of those wanted, as this process may have files open; fewer ones are said in the log. */
  affordable(wanted: number): Promise<number>;
  /** Ends every connection, also those that are being made. */
  close(): void;
}

/** What all connections of a run have in common. */
export interface SshOptions {
  /** The socket of the ssh-agent (`SSH_AUTH_SOCK`), or null for none. */
  agentSocket: string | null;
  /** Private keys offered to nodes that name none, as far as they exist. */
  defaultIdentityFiles: string[];
  /** Of encrypted keys. */
  passphrase?: Passphrase;
  log: Log;
  /** How long a silent peer is left alone before it is asked for a sign of life; dead after three times this. */
  keepaliveMs?: number;
  retry?: RetryPolicy;
}

const KEEPALIVE_MS = 10_000;
const NO_PASSPHRASE: Passphrase = { text: null, file: null };
/** For what is dropped: the way is open again as soon as others have come through. */
const RETRY: RetryPolicy = { retries: 8, pauseMs: 250, maxPauseMs: 2_000 };
/** Of these tries so many are for a port that nobody listens on, and for a TCP connection that does not come about. */
const AGAIN: Record<RetryableConnectError['why'], number> = { dropped: Infinity, refused: 2, slow: 1 };
/** So many drops of one machine say something about the way there; more of them, about the machine. */
const TELLING_DROPS = 2;
/** Open files beside those of nodes: of Node.js itself, connections to registries, the agent, logs. */
const OTHER_FILES = 64;
/** A connection that takes longer in the making holds no other one back. */
const SLOW_MS = 2_000;

/** Opens nothing yet; to be closed by the caller. */
export function createSsh(options: SshOptions): Ssh {
  const { log, agentSocket, defaultIdentityFiles, passphrase = NO_PASSPHRASE } = options;
  const { retry = RETRY, keepaliveMs = KEEPALIVE_MS } = options;
  const closing = new AbortController();
  const warn = (message: string): void => log('warn', message, {});
  const identities = createIdentities(agentSocket, defaultIdentityFiles, passphrase, warn);
  const acceptor = createAcceptor(closing.signal);
  const knownFiles: KnownHostsCache = new Map();
  const knownHosts = new Map<string, Promise<KnownHosts>>();
  const open = new Map<string, Connection>();

  const loadTrust = async (target: SshTarget): Promise<Trust> => {
    const { knownHostsFiles: own, globalKnownHostsFiles: global = [] } = target;
    const key = JSON.stringify([own, global]);
    const known = remember(knownHosts, key, async () => await loadKnownHosts({ own, global }, knownFiles));
    const file = own[0];
    const mayAccept = target.acceptNewHostKey === true && file !== undefined;
    return { known: await known, accept: mayAccept ? (blob) => accept(target, file, blob) : null };
  };

  const accept = async (target: SshTarget, file: string, blob: Buffer) => {
    const { verdict, line } = await acceptor.accept(file, { ...knownHostsName(target), blob });
    if (line !== null) {
      (await knownFiles.get(file))?.add(line);
      log('info', `${target.host}: its host key is known from now on`, { file, line: line.line });
    }
    return verdict;
  };

  /** Logs in to a machine through others, and again where that is worth it. */
  const reach = async (target: SshTarget, jumps: SshTarget[], signal: AbortSignal): Promise<LoggedIn> => {
    const { host, proxyCommand, connectTimeoutMs: afterMs } = target;
    const attempt: Attempt = { stage: 'reading keys', tried: [], accepted: null };
    const late = (): ReconcileError => fault('SSH_TIMEOUT', { host, what: attempt.stage, afterMs, proxyCommand });
    const timeout = { afterMs, reason: late };
    const [trust, identity] = await withDeadline({ signal, timeout: { ...timeout, afterMs: afterMs + AGENT_MS } }, () =>
      Promise.all([loadTrust(target), identities.load(target)]),
    );
    const transport = transports.through(jumps);
    const via = jumps.length === 0 ? null : describeCommand(jumps);
    const seen: Record<RetryableConnectError['why'], number> = { dropped: 0, refused: 0, slow: 0 };

    const once = async (): Promise<LoggedIn> => {
      const permit = await transport.limiter.enter(signal);
      const slow = setTimeout(() => permit.leave(), SLOW_MS);
      attempt.stage = 'opening a TCP connection';
      attempt.tried = [];
      attempt.accepted = null;
      try {
        const stream = await transport.open(target, signal);
        attempt.stage = 'the SSH handshake';
        const login = await withDeadline({ signal, timeout }, (stop) =>
          logIn(stream, target, { trust, identity, attempt, stop, keepaliveMs, log, via }),
        ).catch((error: unknown) => {
          const lost = error instanceof ReconcileError && transport.isLost(stream);
          throw lost ? new RetryableConnectError(error, 'dropped') : error;
        });
        permit.succeeded();
        return login;
      } catch (error) {
        if (error instanceof RetryableConnectError) {
          seen[error.why] += 1;
          if (error.why === 'dropped' && seen.dropped <= TELLING_DROPS) permit.dropped();
        }
        throw error;
      } finally {
        clearTimeout(slow);
        permit.leave();
      }
    };
    const isWorthwhile = (error: unknown): boolean => {
      if (!(error instanceof RetryableConnectError) || seen[error.why] > AGAIN[error.why]) return false;
      log('debug', 'connecting again', { host, cause: error.message });
      return true;
    };
    try {
      return await withRetries({ ...retry, isWorthwhile }, signal, once);
    } catch (error) {
      if (signal.aborted) throw signal.reason;
      throw error instanceof RetryableConnectError ? error.reported : error;
    }
  };

  const transports = createTransports(
    (jumps) => reach(jumps.at(-1) as SshTarget, jumps.slice(0, -1), closing.signal),
    (through) => {
      const where = through === null ? '' : ` through ${through}`;
      log('info', `connections${where} are dropped: fewer are made at once for a while`, {});
    },
  );

  return {
    async connect(node, signal) {
      const key = `${node.name} ${node.host} ${node.port}`;
      open.get(key)?.close();
      const stop = startDeadline({ signal: [signal, closing.signal] });
      try {
        const login = await reach(node, node.jumps ?? [], stop.signal);
        const connection = createConnection(login, node, log, () => {
          if (open.get(key) === connection) open.delete(key);
        });
        open.get(key)?.close();
        open.set(key, connection);
        return connection;
      } finally {
        stop.end();
      }
    },
    async affordable(wanted) {
      const limit = await openFilesLimit();
      const most = Math.max(1, limit - OTHER_FILES);
      if (wanted <= most) return wanted;
      log(
        'warn',
        `only ${most} nodes at once and not ${wanted}: no more than ${limit} files may be open (ulimit -n)`,
        {},
      );
      return most;
    },
    close() {
      closing.abort(new Error('the SSH client was closed'));
      for (const connection of open.values()) connection.close();
      transports.close();
    },
  };
}

/** The soft limit of open files; none where the system does not say it. */
async function openFilesLimit(): Promise<number> {
  const limits = await readFile('/proc/self/limits', 'utf8').catch(() => '');
  const soft = /^Max open files +(\d+)/m.exec(limits)?.[1];
  return soft === undefined ? Infinity : Number(soft);
}

/** What to type to have a command run on the last of these machines. */
function describeCommand(jumps: SshTarget[]): string {
  const names = jumps.map(({ user, host, port }) => `${user}@${host.includes(':') ? `[${host}]` : host}:${port}`);
  const before = names.slice(0, -1).join(',');
  const { user, host, port } = jumps.at(-1) as SshTarget;
  return `ssh ${before === '' ? '' : `-J ${before} `}${port === 22 ? '' : `-p ${port} `}${user}@${host}`;
}
