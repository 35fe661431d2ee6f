/**
 * Connections to nodes over ssh2, and one command at a time on them. What ssh2 leaves open is decided here, once:
 * every host key is verified; TCP, handshake and authentication share one deadline; a dead peer is noticed by
 * keepalives; a lost connection (ssh2: `close` without `exit`) is an error and never an exit code; every promise is
 * settled exactly once, and no 'error' event is left without a listener.
 *
 * What a closed channel means for the command on the node is another matter: it may well live on. Whoever starts
 * something that must not outlive the connection gives it a heartbeat and a guard that listens for it.
 */
import { Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import ssh2 from 'ssh2';
import type { ClientChannel, ServerHostKeyAlgorithm } from 'ssh2';
import { fault, type ReconcileError } from '../core/errors.ts';
import { shellQuote } from '../core/text.ts';
import type { Node } from '../core/types.ts';
import { createIdentities } from './identity.ts';
import type { Identities } from './identity.ts';
import { fingerprint, loadKnownHosts, lookupName } from './known-hosts.ts';
import type { KnownHosts, KnownHostsCache } from './known-hosts.ts';

export interface ExecOptions {
  /** Written at once. Then standard input ends, unless there is a heartbeat. */
  stdin?: string;
  /** Keeps standard input open until the command ends: a byte `x` at once and then every so many milliseconds. */
  heartbeatMs?: number;
  /** More than this is an error: a cut answer would look like a whole one. */
  maxStdoutBytes: number;
  /** Of standard error only the last bytes are kept. */
  maxStderrBytes: number;
  timeoutMs: number;
  /** Closes the channel and rejects with the signal's reason. */
  signal: AbortSignal;
  /** What the command is, for the words of SSH_TIMEOUT. */
  what?: string;
}

export interface ExecResult {
  stdout: Buffer;
  stderr: string;
  /** Null for a command that died by a signal. */
  code: number | null;
  /** The name, as `SIGKILL`. */
  signal: string | null;
}

export interface Connection {
  /**
   * Runs a command by the user's login shell, without a terminal.
   * @throws SSH_TIMEOUT, SSH_UNREACHABLE (the connection was lost, or the server runs no command), NODE_ANSWER_INVALID
   *   (more output than allowed), or the signal's reason. The channel is closed in each case.
   */
  exec(command: string, options: ExecOptions): Promise<ExecResult>;
  /** Ends the connection and what runs on it; waits for nothing. May be called again. */
  close(): void;
}

export interface Ssh {
  /**
   * A verified and authenticated connection, within `node.connectTimeoutMs`. A connection that the server drops
   * before its handshake (sshd throttles by MaxStartups) or refuses is tried again, three times in all.
   * @throws SSH_UNREACHABLE, SSH_TIMEOUT, SSH_AUTH_FAILED, SSH_IDENTITY_UNUSABLE, SSH_HOST_KEY_MISMATCH,
   *   SSH_HOST_KEY_UNKNOWN, SSH_HOST_KEY_REVOKED, CONFIG_INVALID (an unreadable known_hosts file), or the signal's
   *   reason
   */
  connect(node: Node, signal: AbortSignal): Promise<Connection>;
  /** Ends every connection, also those that are being made. */
  close(): void;
}

export interface SshOptions {
  /** The socket of the ssh-agent (`SSH_AUTH_SOCK`), or null for none. */
  agentSocket: string | null;
  /** Private keys offered to nodes that name none, as far as they exist. */
  defaultIdentityFiles: string[];
  log: (level: 'debug' | 'info' | 'warn' | 'error', message: string, fields: Record<string, unknown>) => void;
  /** How long a silent peer is left alone before it is asked for a sign of life; dead after three times this. */
  keepaliveMs?: number;
}

const KEEPALIVE_MS = 10_000;
/** ssh2 gives up one interval after the last unanswered question: 2 makes that three intervals. */
const KEEPALIVE_UNANSWERED = 2;
const CONNECT_TRIES = 3;
const RETRY_MS = 250;
/** How long one of several addresses of a host may take before the next is tried too. */
const ADDRESS_MS = 1_000;
/** After its exit a command whose output does not end (a child holds it open) is waited for until silent so long. */
const ORPHAN_MS = 2_000;
/** How long a goodbye may take before the socket is destroyed. */
const GOODBYE_MS = 1_000;
const HEARTBEAT = 'x';

export function createSsh(options: SshOptions): Ssh {
  const { log } = options;
  const identities = createIdentities(options.agentSocket, options.defaultIdentityFiles);
  const knownFiles: KnownHostsCache = new Map();
  const knownHosts = new Map<string, Promise<KnownHosts>>();
  const closing = new AbortController();
  const open = new Set<Connection>();

  const trustFor = (files: string[]): Promise<KnownHosts> => {
    const key = files.join('\0');
    let trust = knownHosts.get(key);
    if (trust === undefined) {
      trust = loadKnownHosts(files, knownFiles);
      knownHosts.set(key, trust);
    }
    return trust;
  };

  return {
    async connect(node, signal) {
      const attempt: Attempt = { stage: 'reading keys', tried: [] };
      const stop = new AbortController();
      const deadline = performance.now() + node.connectTimeoutMs;
      const timer = setTimeout(() => {
        stop.abort(fault('SSH_TIMEOUT', { host: node.host, what: attempt.stage, afterMs: node.connectTimeoutMs }));
      }, node.connectTimeoutMs);
      const unlink = [signal, closing.signal].map((source) => forwardAbort(source, stop));
      try {
        const [trust, identity] = await unlessAborted(
          Promise.all([trustFor(node.knownHostsFiles), identities.load(node.identityFiles)]),
          stop.signal,
        );
        for (let tries = 1; ; tries += 1) {
          try {
            return await openOnce(node, { trust, identity, attempt, stop: stop.signal, options, open });
          } catch (error) {
            if (!(error instanceof Dropped)) throw error;
            const pause = Math.random() * RETRY_MS * 2 ** tries;
            if (tries === CONNECT_TRIES || performance.now() + pause >= deadline) throw error.fault;
            log('debug', 'connecting again', { node: node.name, tries, cause: error.fault.message });
            await unlessAborted(sleep(pause, undefined, { ref: false }), stop.signal);
          }
        }
      } finally {
        clearTimeout(timer);
        for (const off of unlink) off();
      }
    },
    close() {
      closing.abort(new Error('the SSH client was closed'));
      for (const connection of open) connection.close();
    },
  };
}

/** How far a connection came and which identities were offered: for the words of its failure. */
interface Attempt {
  stage: 'reading keys' | 'opening a TCP connection' | 'the SSH handshake' | 'authentication';
  tried: string[];
}

/** A connection that was refused, or dropped before its handshake: worth another try. */
class Dropped extends Error {
  readonly fault: ReconcileError;
  constructor(reason: ReconcileError) {
    super(reason.message);
    this.fault = reason;
  }
}

interface Link {
  client: ssh2.Client;
  socket: Socket;
}

interface Context {
  trust: KnownHosts;
  identity: Identities;
  attempt: Attempt;
  stop: AbortSignal;
  options: SshOptions;
  /** Where a connection is noted as long as it is open. */
  open: Set<Connection>;
}

/** One try: TCP, host key, authentication. Settles once; what fails leaves neither socket nor listener behind. */
function openOnce(node: Node, context: Context): Promise<Connection> {
  const { trust, identity, attempt, stop, options, open } = context;
  return new Promise((resolve, reject) => {
    const socket = new Socket();
    const client = new ssh2.Client();
    let hostKeyFault: ReconcileError | null = null;
    let settled = false;

    const settle = (end: () => void): void => {
      if (settled) return;
      settled = true;
      stop.removeEventListener('abort', onStop);
      end();
    };
    const fail = (error: unknown): void =>
      settle(() => {
        hangUp({ client, socket });
        reject(error);
      });
    const onStop = (): void => fail(stop.reason);
    const onLost = (error: NodeJS.ErrnoException | null): void => {
      if (hostKeyFault !== null) return fail(hostKeyFault);
      const reason = unreachable(node, causeOf(error, attempt.stage), error);
      const again = error === null || DROPPED_CODES.has(errorCode(error));
      fail(again && attempt.stage !== 'authentication' ? new Dropped(reason) : reason);
    };

    client.on('error', (error: ssh2.ClientErrorExtensions & Error) => {
      if (settled) return;
      if (hostKeyFault !== null) return fail(hostKeyFault);
      if (isAuthFailure(error, attempt.stage)) {
        const tried = [...attempt.tried, ...identity.left];
        return fail(fault('SSH_AUTH_FAILED', { host: node.host, user: node.user, tried }, error));
      }
      // one identity that cannot be used (the agent does not sign, a broken key): ssh2 goes on to the next by itself
      if (error.level === 'agent' || error.level === 'client-authentication') {
        return options.log('debug', 'an identity was not used', { node: node.name, cause: error.message });
      }
      onLost(error.message === 'Connection lost before handshake' ? null : error);
    });
    client.on('close', () => onLost(null));
    client.on('handshake', () => {
      attempt.stage = 'authentication';
    });
    client.on('ready', () => settle(() => resolve(connectionOver({ client, socket }, node, options.log, open))));

    if (stop.aborted) return onStop();
    stop.addEventListener('abort', onStop, { once: true });
    attempt.stage = 'opening a TCP connection';
    attempt.tried = [];
    socket.setNoDelay(true); // else Nagle's algorithm waits for delayed ACKs: 130 ms per node at 50 ms round trip
    socket.on('error', (error) => onLost(error));
    socket.once('connect', () => {
      if (settled) return;
      attempt.stage = 'the SSH handshake';
      try {
        client.connect({
          sock: socket,
          username: node.user,
          readyTimeout: 0, // the deadline is ours: ssh2's own emits two errors
          keepaliveInterval: options.keepaliveMs ?? KEEPALIVE_MS,
          keepaliveCountMax: KEEPALIVE_UNANSWERED,
          algorithms: { serverHostKey: trust.keyTypesFor(node.host, node.port) as ServerHostKeyAlgorithm[] },
          hostVerifier: (key: Buffer) => {
            hostKeyFault = judgeHostKey(node, trust, key);
            return hostKeyFault === null;
          },
          authHandler: offerEach(node.user, identity, attempt),
        });
      } catch (error) {
        fail(unreachable(node, String(error), error));
      }
    });
    socket.connect({
      host: node.host,
      port: node.port,
      autoSelectFamilyAttemptTimeout: ADDRESS_MS,
    });
  });
}

/** Offers each identity in turn; the first without the `none` round trip by which ssh2 asks what is allowed. */
function offerEach(user: string, identity: Identities, attempt: Attempt): ssh2.AuthHandlerMiddleware {
  const offers = identity.offers.values();
  return (methodsLeft: string[] | null, _partial, next) => {
    const offer = methodsLeft === null || methodsLeft.includes('publickey') ? offers.next().value : undefined;
    if (offer === undefined) return next(false as never); // ssh2: nothing more to try
    attempt.tried.push(offer.label);
    next(offer.auth(user));
  };
}

/** Null when the key is trusted. */
function judgeHostKey(node: Node, trust: KnownHosts, key: Buffer): ReconcileError | null {
  const verdict = trust.check(node.host, node.port, key);
  const host = lookupName(node.host, node.port);
  switch (verdict.verdict) {
    case 'ok':
      return null;
    case 'mismatch':
      return fault('SSH_HOST_KEY_MISMATCH', {
        host,
        offered: fingerprint(key),
        file: verdict.file,
        line: verdict.line,
      });
    case 'revoked':
      return fault('SSH_HOST_KEY_REVOKED', { host, file: verdict.file, line: verdict.line });
    case 'unknown': {
      const { authority } = verdict;
      return fault('SSH_HOST_KEY_UNKNOWN', {
        host: node.host,
        port: node.port,
        offered: fingerprint(key),
        file: shellQuote(node.knownHostsFiles[0] ?? 'known_hosts'),
        authority: authority === null ? null : `${authority.file}:${authority.line}`,
      });
    }
  }
}

/** ssh2's last word after all identities, or sshd's after MaxAuthTries. */
function isAuthFailure(error: ssh2.ClientErrorExtensions & Error, stage: Attempt['stage']): boolean {
  if (error.level === 'client-authentication') return error.message.startsWith('All configured');
  return stage === 'authentication' && /too many authentication failures/i.test(error.message);
}

const CAUSES: Record<string, string> = {
  ECONNREFUSED: 'connection refused',
  ECONNRESET: 'connection reset',
  EPIPE: 'connection reset',
  EHOSTUNREACH: 'no route to host',
  ENETUNREACH: 'network is unreachable',
  ETIMEDOUT: 'the TCP connection timed out',
  ENOTFOUND: 'name not found',
  EAI_AGAIN: 'the name service does not answer',
};
const DROPPED_CODES: ReadonlySet<string> = new Set(['ECONNREFUSED', 'ECONNRESET', 'EPIPE']);

/** The code of a system error; of several addresses that failed (an AggregateError) that of the first. */
function errorCode(error: Error): string {
  const first = (error instanceof AggregateError ? error.errors[0] : error) as NodeJS.ErrnoException | undefined;
  return first?.code ?? '';
}

function causeOf(error: Error | null, stage: Attempt['stage']): string {
  if (error === null) {
    return stage === 'authentication'
      ? 'the server closed the connection during authentication'
      : 'the server closed the connection before the SSH handshake (does sshd throttle by MaxStartups?)';
  }
  return CAUSES[errorCode(error)] ?? `${stage} failed: ${error.message}`;
}

function unreachable(node: Node, cause: string, error?: unknown): ReconcileError {
  return fault('SSH_UNREACHABLE', { host: node.host, port: node.port, cause }, error);
}

/** ssh2 throws on a write to a connection whose protocol has ended: then there is nobody to tell. */
function quietly(write: () => void): void {
  try {
    write();
  } catch {
    // the connection is gone
  }
}

/** Says goodbye, waits for no answer: ssh2 only half-closes, and a frozen peer would keep this process alive. */
function hangUp({ client, socket }: Link): void {
  if (socket.connecting) return void socket.destroy();
  quietly(() => client.end());
  socket.destroySoon();
  if (!socket.destroyed) setTimeout(() => socket.destroy(), GOODBYE_MS).unref();
}

function connectionOver(link: Link, node: Node, log: SshOptions['log'], open: Set<Connection>): Connection {
  /** What to do with each command under way when the connection ends. */
  const running = new Set<(reason: ReconcileError) => void>();
  let ended: ReconcileError | null = null;

  const end = (cause: string, error?: unknown): void => {
    if (ended !== null) return;
    ended = unreachable(node, cause, error);
    hangUp(link);
    open.delete(connection);
    for (const abandon of running) abandon(ended);
  };
  link.client.on('error', (error) => {
    log('debug', 'SSH connection failed', { node: node.name, cause: error.message });
    const silent = (error as ssh2.ClientErrorExtensions).level === 'client-timeout';
    end(`connection lost (${silent ? 'no sign of life' : (CAUSES[errorCode(error)] ?? error.message)})`, error);
  });
  // at `end` ssh2 has already taken its protocol down: a heartbeat after it would throw
  link.client.on('end', () => end('connection lost'));
  link.client.on('close', () => end('connection lost'));

  const connection: Connection = {
    close: () => end('the connection was closed'),
    exec(command, options) {
      return new Promise<ExecResult>((resolve, reject) => {
        options.signal.throwIfAborted();
        if (ended !== null) throw ended;
        let stop = (): void => undefined;
        let settled = false;
        const settle = (finish: () => void): void => {
          if (settled) return;
          settled = true;
          clearTimeout(deadline);
          options.signal.removeEventListener('abort', onAbort);
          running.delete(fail);
          stop();
          finish();
        };
        const fail = (error: unknown): void => settle(() => reject(error));
        const onAbort = (): void => fail(options.signal.reason);
        const deadline = setTimeout(() => {
          const what = options.what ?? 'a command';
          fail(fault('SSH_TIMEOUT', { host: node.host, what, afterMs: options.timeoutMs }));
        }, options.timeoutMs);
        options.signal.addEventListener('abort', onAbort, { once: true });
        running.add(fail);

        try {
          link.client.exec(command, (error, opened) => {
            if (error) return fail(unreachable(node, `the server runs no command: ${error.message}`, error));
            if (settled) return ignore(opened);
            stop = follow(opened, node, options, fail, (result) => settle(() => resolve(result)));
          });
        } catch (error) {
          fail(unreachable(node, 'connection lost', error));
        }
      });
    },
  };
  open.add(connection);
  return connection;
}

/** Closes a channel that nobody reads any more; what still comes is thrown away, so that it fills no memory. */
function ignore(channel: ClientChannel): void {
  channel.on('error', () => undefined).resume();
  channel.stderr.on('error', () => undefined).resume();
  quietly(() => channel.close());
}

/** Feeds a channel and gathers what comes back. Returns what ends that: to be called once it was done or failed. */
function follow(
  channel: ClientChannel,
  node: Node,
  options: ExecOptions,
  fail: (error: unknown) => void,
  done: (result: ExecResult) => void,
): () => void {
  const stdout: Buffer[] = [];
  let stdoutBytes = 0;
  const stderr = keepTail(options.maxStderrBytes);
  let exit: { code: number | null; signal: string | null } | null = null;
  let orphan: NodeJS.Timeout | undefined;
  let open = 2; // the channel and its standard error: each closes when its last byte was read
  let stopped = false;

  const finish = (): void => {
    if (stopped) return;
    if (exit === null) return fail(unreachable(node, 'the command ended without an exit status'));
    done({ stdout: Buffer.concat(stdout, stdoutBytes), stderr: stderr.text(), ...exit });
  };
  const onStreamClosed = (): void => {
    open -= 1;
    if (open === 0) finish();
  };
  const waitForOrphan = (): void => {
    if (exit === null) return;
    clearTimeout(orphan);
    orphan = setTimeout(finish, ORPHAN_MS);
  };

  channel.on('data', (chunk: Buffer) => {
    stdoutBytes += chunk.length;
    if (stdoutBytes > options.maxStdoutBytes) {
      const what = `more than ${options.maxStdoutBytes} bytes of output`;
      return fail(fault('NODE_ANSWER_INVALID', { host: node.host, what }));
    }
    stdout.push(chunk);
    waitForOrphan();
  });
  channel.stderr.on('data', (chunk: Buffer) => {
    stderr.push(chunk);
    waitForOrphan();
  });
  channel.on('exit', (code: number | null, signal?: string) => {
    exit = { code, signal: signal ?? null };
    waitForOrphan();
  });
  channel.on('close', onStreamClosed);
  channel.stderr.on('close', onStreamClosed);
  channel.on('error', () => undefined); // a write that came too late; `close` tells the rest

  let heartbeat: NodeJS.Timeout | undefined;
  if (options.stdin !== undefined) channel.write(options.stdin);
  if (options.heartbeatMs === undefined) {
    channel.end();
  } else {
    const beat = (): void => {
      if (channel.writable && channel.writableLength === 0) channel.write(HEARTBEAT);
    };
    channel.write(HEARTBEAT);
    heartbeat = setInterval(beat, options.heartbeatMs);
  }

  return () => {
    stopped = true;
    clearTimeout(orphan);
    clearInterval(heartbeat);
    channel.removeAllListeners('data').removeAllListeners('exit');
    channel.stderr.removeAllListeners('data');
    ignore(channel);
  };
}

/** The last `max` bytes of a stream, as text. */
function keepTail(max: number): { push(chunk: Buffer): void; text(): string } {
  const chunks: Buffer[] = [];
  let bytes = 0;
  return {
    push(chunk) {
      chunks.push(chunk);
      bytes += chunk.length;
      while (chunks.length > 1 && bytes - (chunks[0] as Buffer).length >= max) {
        bytes -= (chunks.shift() as Buffer).length;
      }
    },
    text: () =>
      Buffer.concat(chunks, bytes)
        .subarray(Math.max(0, bytes - max))
        .toString('utf8'),
  };
}

/** Hands an abort on; returns what stops that. */
function forwardAbort(source: AbortSignal, target: AbortController): () => void {
  const forward = (): void => target.abort(source.reason);
  if (source.aborted) forward();
  source.addEventListener('abort', forward, { once: true });
  return () => source.removeEventListener('abort', forward);
}

/** The promise, or the signal's reason once it is aborted; a later rejection of the promise is then nobody's. */
function unlessAborted<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const onAbort = (): void => reject(signal.reason as Error);
    if (signal.aborted) onAbort();
    signal.addEventListener('abort', onAbort, { once: true });
    promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', onAbort));
  });
}
