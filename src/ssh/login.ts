/**
 * One try to reach a machine and to log in. What ssh2 leaves open is decided here, once: every host key is verified,
 * no 'error' event is left without a listener, and what fails leaves neither socket nor listener behind.
 */
import { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import ssh2 from 'ssh2';
import type { ParsedKey, ServerHostKeyAlgorithm } from 'ssh2';
import { fault, type ReconcileError } from '../core/errors.ts';
import { shellQuote } from '../core/text.ts';
import type { SshTarget } from '../core/model/node.ts';
import { settleOnce } from '../system/deadline.ts';
import type { Identities } from './identity.ts';
import { fingerprint, lookupName } from './trust/known-hosts.ts';
import type { HostKeyVerdict, KnownHosts } from './trust/known-hosts.ts';

export type Log = (
  level: 'debug' | 'info' | 'warn' | 'error',
  message: string,
  fields: Record<string, unknown>,
) => void;

/** A machine that we are logged in to. */
export interface Login {
  client: ssh2.Client;
  stream: Duplex;
}

/** How far a connection came and which identities were offered: for the words of its failure. */
export interface Attempt {
  stage: 'reading keys' | 'opening a TCP connection' | 'the SSH handshake' | 'authentication';
  tried: string[];
  /** The identity that was accepted where that was not enough, and what the server asks for besides. */
  accepted: { label: string; wanted: string[] } | null;
}

/** Whom to trust for one machine. */
export interface Trust {
  known: KnownHosts;
  /** Remembers a key that nobody knows; null where such a key is refused. */
  accept: ((key: Buffer) => Promise<HostKeyVerdict>) | null;
}

export interface LoginContext {
  trust: Trust;
  identity: Identities;
  attempt: Attempt;
  stop: AbortSignal;
  keepaliveMs: number;
  log: Log;
  /** The command that leads to the last jump host, null without one: for the words about an unknown host key. */
  via: string | null;
}

/** A failure that is worth another try: nobody listens, the connection was dropped before it was made, or took long. */
export class Dropped extends Error {
  readonly fault: ReconcileError;
  readonly why: 'refused' | 'dropped' | 'slow';
  constructor(reason: ReconcileError, why: Dropped['why']) {
    super(reason.message);
    this.fault = reason;
    this.why = why;
  }
}

/** ssh2 gives up one interval after the last unanswered question: 2 makes that three intervals. */
const KEEPALIVE_UNANSWERED = 2;
/** How long one of several addresses of a host may take before the next is tried too. */
const ADDRESS_MS = 1_000;
/** How long a goodbye may take before the socket is destroyed. */
const GOODBYE_MS = 1_000;

/** Hands the system at once what is written at once: ssh2 writes each packet in three pieces, a segment and a wake-up each. */
function packWrites(socket: Socket): void {
  const write = socket.write.bind(socket) as (...args: unknown[]) => boolean;
  socket.write = (...args: unknown[]) => {
    if (socket.writableCorked === 0) {
      socket.cork();
      queueMicrotask(() => socket.uncork());
    }
    return write(...args);
  };
}

/** @throws SSH_UNREACHABLE, a Dropped around it, or the signal's reason */
export function openTcp(target: SshTarget, stop: AbortSignal): Promise<Socket> {
  return settleOnce({ signal: stop }, ({ done, fail, onEnd }) => {
    const socket = new Socket();
    const onConnect = (): void => done(socket);
    onEnd((isDone) => {
      socket.off('connect', onConnect);
      if (!isDone) socket.destroy();
    });
    socket.once('connect', onConnect);
    // stays: whoever takes the socket over adds listeners of its own
    socket.on('error', (error) => {
      const reason = unreachable(target, causeOf(error, 'opening a TCP connection'), error);
      const code = errorCode(error);
      const why = code === 'ECONNREFUSED' ? 'refused' : DROPPED_CODES.has(code) ? 'dropped' : null;
      fail(why === null ? reason : new Dropped(reason, why));
    });
    socket.setNoDelay(true); // else Nagle's algorithm waits for delayed ACKs: 130 ms per node at 50 ms round trip
    socket.connect({ host: target.host, port: target.port, autoSelectFamilyAttemptTimeout: ADDRESS_MS });
    packWrites(socket); // not before: `connect` puts the original back
  });
}

/**
 * Host key and authentication over a stream that leads to the machine's SSH server. Settles once.
 * @throws SSH_UNREACHABLE, SSH_AUTH_FAILED, SSH_HOST_KEY_…, a Dropped, or the signal's reason
 */
export function logIn(stream: Duplex, target: SshTarget, context: LoginContext): Promise<Login> {
  const { trust, identity, attempt, stop, log } = context;
  return settleOnce<Login>({ signal: stop }, ({ done, fail, isOver, onEnd }) => {
    const client = new ssh2.Client();
    let hostKeyFault: ReconcileError | null = null;
    /** A key that is to be remembered once the server has proved that it is its own. */
    let newKey: Buffer | null = null;
    onEnd((isDone) => {
      if (!isDone) hangUp({ client, stream });
    });
    const onLost = (error: NodeJS.ErrnoException | null): void => {
      if (hostKeyFault !== null) return fail(hostKeyFault);
      const reason = unreachable(target, causeOf(error, attempt.stage), error);
      const again = error === null || DROPPED_CODES.has(errorCode(error));
      fail(again && attempt.stage !== 'authentication' ? new Dropped(reason, 'dropped') : reason);
    };

    client.on('error', (error: ssh2.ClientErrorExtensions & Error) => {
      if (isOver()) return;
      if (hostKeyFault !== null) return fail(hostKeyFault);
      if (isAuthFailure(error, attempt.stage)) {
        const { host, user } = target;
        const { label: accepted = null, wanted = [] } = attempt.accepted ?? {};
        const tried = [...attempt.tried, ...identity.left];
        const { certificates } = identity;
        return fail(fault('SSH_AUTH_FAILED', { host, user, tried, certificates, accepted, wanted }, error));
      }
      // one identity that cannot be used (the agent does not sign, a broken key): ssh2 goes on to the next by itself
      if (error.level === 'agent' || error.level === 'client-authentication') {
        return log('debug', 'an identity was not used', { host: target.host, cause: error.message });
      }
      onLost(error.message === 'Connection lost before handshake' ? null : error);
    });
    client.on('close', () => onLost(null));
    client.on('handshake', () => {
      attempt.stage = 'authentication';
    });
    client.on('ready', () => done({ client, stream }));

    stream.on('error', (error) => onLost(error));
    const offer = offerEach(target.user, identity, attempt);
    const { host, port } = trustedName(target);
    try {
      client.connect({
        sock: stream,
        username: target.user,
        readyTimeout: 0, // the deadline is ours: ssh2's own emits two errors
        keepaliveInterval: context.keepaliveMs,
        keepaliveCountMax: KEEPALIVE_UNANSWERED,
        algorithms: { serverHostKey: trust.known.keyTypesFor(host, port) as ServerHostKeyAlgorithm[] },
        hostVerifier: (key: Buffer) => {
          const verdict = trust.known.check(host, port, key);
          if (verdict.verdict === 'unknown' && trust.accept !== null) newKey = key;
          else hostKeyFault = hostKeyFaultOf(target, verdict, key, context.via);
          return hostKeyFault === null;
        },
        authHandler: (left, partial, next) => {
          if (newKey === null) return offer(left, partial, next);
          const key = newKey;
          newKey = null;
          (trust.accept as NonNullable<Trust['accept']>)(key)
            .then((verdict) => {
              const problem = hostKeyFaultOf(target, verdict, key, context.via);
              if (problem === null) offer(left, partial, next);
              else fail(problem);
            })
            .catch(fail);
        },
      });
      declineHostKeys(client);
      signAtOnce(client);
      if (identity.offers[0]?.isImmediate === true) offerAtOnce(client);
    } catch (error) {
      fail(unreachable(target, String(error), error));
    }
  });
}

/** What of ssh2's protocol is private, and the same in all releases of the one that is pinned. */
interface AuthProtocol {
  authPK?: (user: string, key: ParsedKey, algorithm: string | undefined, sign?: SignRequest) => void;
  service?: (name: string) => void;
  _handlers?: {
    SERVICE_ACCEPT?: (protocol: AuthProtocol, name: string) => void;
    GLOBAL_REQUEST?: (protocol: AuthProtocol, name: string, wantsReply: boolean, data: Buffer) => void;
  };
  _packetRW?: { write: { allocStart: number; alloc: (bytes: number) => Buffer; finalize: (packet: Buffer) => Buffer } };
  _kexinit?: unknown;
  _cipher?: { encrypt: (packet: Buffer) => void };
}
type SignRequest = (data: Buffer, done: (signature: Buffer) => void) => void;

/**
 * ssh2 asks first whether the server would take a key, and signs when it would: a round trip for nothing where signing
 * takes microseconds. A key that we hold, and not the agent, signs at once. Where ssh2 is not as it was, it asks.
 */
function signAtOnce(client: ssh2.Client): void {
  const protocol = protocolOf(client);
  const ask = protocol?.authPK;
  if (protocol === undefined || ask?.length !== 4) return;
  protocol.authPK = (user, key, algorithm, asked) => {
    const sign: SignRequest = (data, done) => {
      const hash = /^rsa-sha2-(256|512)$/.exec(algorithm ?? '')?.[1];
      const signature: Buffer | Error = key.sign(data, hash === undefined ? hash : `sha${hash}`);
      if (signature instanceof Error) ask.call(protocol, user, key, algorithm);
      else done(signature);
    };
    ask.call(protocol, user, key, algorithm, asked ?? (key.isPrivateKey() ? sign : undefined));
  };
}

/**
 * ssh2 asks whether it may log in, and does so when it may: a round trip for nothing, because the answer is always yes (RFC
 * 4253, 10: a server that refuses the service disconnects). This goes on as if the answer were there, once the host key was
 * verified. Where ssh2 is not as it was, it waits.
 *
 * What sshd then says it says in small pieces, and TCP there keeps each until we acknowledge the one before, which TCP here
 * leaves for 40 ms to a packet of ours (Nagle's algorithm, delayed acknowledgements). So one is sent that means nothing.
 */
function offerAtOnce(client: ssh2.Client): void {
  const protocol = protocolOf(client);
  const { service: ask, _handlers: handlers, _packetRW: packets, _cipher: cipher } = protocol ?? {};
  const accepted = handlers?.SERVICE_ACCEPT;
  const isKnown = ask?.length === 1 && accepted?.length === 2 && packets !== undefined;
  if (!isKnown || protocol === undefined || handlers === undefined || cipher === undefined) return;
  protocol.service = (name) => {
    ask.call(protocol, name);
    handlers.SERVICE_ACCEPT = () => {
      if (protocol._kexinit !== undefined) return; // keys are being exchanged: what is sent now has to wait
      const packet = packets.write.alloc(IGNORE.length);
      packet.set(IGNORE, packets.write.allocStart);
      protocol._cipher?.encrypt(packets.write.finalize(packet));
    };
    accepted(protocol, name);
  };
}

/**
 * sshd says which other host keys it has (`hostkeys-00@openssh.com`), and ssh2 has it prove each: for nobody here, and a tenth
 * of a run's CPU. Under a name that it does not know, ssh2 declines such a request as any other. Where it is not as it was, it asks.
 */
function declineHostKeys(client: ssh2.Client): void {
  const handlers = protocolOf(client)?._handlers;
  const answer = handlers?.GLOBAL_REQUEST;
  if (handlers === undefined || answer?.length !== 4) return;
  handlers.GLOBAL_REQUEST = (protocol, _name, wantsReply, data) => answer(protocol, '', wantsReply, data);
}

/** SSH_MSG_IGNORE with no data (RFC 4253, 11.2). */
const IGNORE = [2, 0, 0, 0, 0];

function protocolOf(client: ssh2.Client): AuthProtocol | undefined {
  return (client as unknown as { _protocol?: AuthProtocol })._protocol;
}

/** The name and port under which known_hosts knows the machine. */
export function trustedName({ host, port, hostKeyAlias }: SshTarget): { host: string; port: number } {
  return hostKeyAlias === undefined ? { host, port } : { host: hostKeyAlias, port: 22 };
}

/** Offers each identity in turn; the first without the `none` round trip by which ssh2 asks what is allowed. */
function offerEach(user: string, identity: Identities, attempt: Attempt): ssh2.AuthHandlerMiddleware {
  const offers = identity.offers.values();
  return (methodsLeft: string[] | null, isPartial, next) => {
    if (isPartial) attempt.accepted = { label: attempt.tried.at(-1) ?? 'a key', wanted: methodsLeft ?? [] };
    const offer = methodsLeft === null || methodsLeft.includes('publickey') ? offers.next().value : undefined;
    if (offer === undefined) return next(false as never); // ssh2: nothing more to try
    attempt.tried.push(offer.label);
    next(offer.auth(user));
  };
}

/** Null when the key is trusted. */
function hostKeyFaultOf(
  target: SshTarget,
  verdict: HostKeyVerdict,
  key: Buffer,
  via: string | null,
): ReconcileError | null {
  const named = trustedName(target);
  const host = lookupName(named.host, named.port);
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
        host: target.host,
        port: target.port,
        alias: target.hostKeyAlias ?? null,
        via,
        offered: fingerprint(key),
        file: shellQuote(target.knownHostsFiles[0] ?? 'known_hosts'),
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

export const CAUSES: Record<string, string> = {
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
export function errorCode(error: Error): string {
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

export function unreachable({ host, port, proxyCommand }: SshTarget, cause: string, error?: unknown): ReconcileError {
  return fault('SSH_UNREACHABLE', { host, port, cause, proxyCommand }, error);
}

/** ssh2 throws on a write to a connection whose protocol has ended: then there is nobody to tell. */
export function quietly(write: () => void): void {
  try {
    write();
  } catch {
    // the connection is gone
  }
}

/** Says goodbye, waits for no answer: ssh2 only half-closes, and a frozen peer would keep this process alive. */
export function hangUp({ client, stream }: Login): void {
  quietly(() => client.end());
  if (stream instanceof Socket) stream.destroySoon();
  else quietly(() => stream.end());
  if (!stream.destroyed) setTimeout(() => stream.destroy(), GOODBYE_MS).unref();
}
