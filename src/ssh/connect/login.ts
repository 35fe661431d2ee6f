/**
 * One login over a stream to an SSH server. What ssh2 leaves open is decided here, once: every host key is verified, no
 * 'error' event is left without a listener, and what fails leaves neither socket nor listener behind.
 */
import type { Duplex } from 'node:stream';
import ssh2 from 'ssh2';
import type { ServerHostKeyAlgorithm } from 'ssh2';
import { fault, type ReconcileError } from '../../core/errors.ts';
import type { SshTarget } from '../../core/model/node.ts';
import { settleOnce } from '../../system/deadline.ts';
import type { Identities } from '../identity.ts';
import { hostKeyError, knownHostsName, type Trust } from '../trust/host-key.ts';
import { disconnect, type LoggedIn } from './disconnect.ts';
import { describeCause, errorCode, RETRYABLE_CODES, RetryableConnectError, unreachable } from './failure.ts';
import type { ConnectStage } from './failure.ts';
import { declineHostKeys, offerAtOnce, signAtOnce } from './ssh2-private.ts';

/** Writes a line of the log. */
export type Log = (
  level: 'debug' | 'info' | 'warn' | 'error',
  message: string,
  fields: Record<string, unknown>,
) => void;

/** How far a connection came and which identities were offered: for the words of its failure. */
export interface Attempt {
  stage: ConnectStage;
  tried: string[];
  /** The identity that was accepted where that was not enough, and what the server asks for besides. */
  accepted: { label: string; wanted: string[] } | null;
}

/** What a login needs beside its stream and its target. */
export interface LoginContext {
  trust: Trust;
  identity: Identities;
  attempt: Attempt;
  /** Ends the attempt with its reason. */
  stop: AbortSignal;
  /** How long a silent peer is left alone before it is asked for a sign of life. */
  keepaliveMs: number;
  log: Log;
  /** The command that leads to the last jump host, null without one: for the words about an unknown host key. */
  via: string | null;
}

/** ssh2 gives up one interval after the last unanswered question: 2 makes that three intervals. */
const KEEPALIVE_UNANSWERED = 2;

/**
 * Host key and authentication over a stream that leads to the machine's SSH server. Settles once.
 * @throws SSH_UNREACHABLE, SSH_AUTH_FAILED, SSH_HOST_KEY_…, a RetryableConnectError, or the signal's reason
 */
export function logIn(stream: Duplex, target: SshTarget, context: LoginContext): Promise<LoggedIn> {
  const { trust, identity, attempt, stop, log } = context;
  return settleOnce<LoggedIn>({ signal: stop }, ({ done, fail, isOver, onEnd }) => {
    const client = new ssh2.Client();
    let refusedKey: ReconcileError | null = null;
    /** A key that is to be remembered once the server has proved that it is its own. */
    let newKey: Buffer | null = null;
    onEnd((isDone) => {
      if (!isDone) disconnect({ client, stream });
    });
    const onLost = (error: NodeJS.ErrnoException | null): void => {
      if (refusedKey !== null) return fail(refusedKey);
      const reason = unreachable(target, describeCause(error, attempt.stage), error);
      const isDropped = error === null || RETRYABLE_CODES.has(errorCode(error));
      fail(isDropped && attempt.stage !== 'authentication' ? new RetryableConnectError(reason, 'dropped') : reason);
    };

    client.on('error', (error: ssh2.ClientErrorExtensions & Error) => {
      if (isOver()) return;
      if (refusedKey !== null) return fail(refusedKey);
      if (isAuthFailure(error, attempt.stage)) {
        const { host, user } = target;
        const { label: accepted = null, wanted = [] } = attempt.accepted ?? {};
        const tried = [...attempt.tried, ...identity.notOffered];
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
    const offer = createOfferer(target.user, identity, attempt);
    const { host, port } = knownHostsName(target);
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
          else refusedKey = hostKeyError(target, verdict, key, context.via);
          return refusedKey === null;
        },
        authHandler: (methodsLeft, isPartial, next) => {
          if (newKey === null) return offer(methodsLeft, isPartial, next);
          const key = newKey;
          newKey = null;
          (trust.accept as NonNullable<Trust['accept']>)(key)
            .then((verdict) => {
              const problem = hostKeyError(target, verdict, key, context.via);
              if (problem === null) offer(methodsLeft, isPartial, next);
              else fail(problem);
            })
            .catch(fail);
        },
      });
      declineHostKeys(client);
      signAtOnce(client);
      if (identity.credentials[0]?.isImmediate === true) offerAtOnce(client);
    } catch (error) {
      fail(unreachable(target, String(error), error));
    }
  });
}

/** Offers each identity in turn; the first without the `none` round trip by which ssh2 asks what is allowed. */
function createOfferer(user: string, identity: Identities, attempt: Attempt): ssh2.AuthHandlerMiddleware {
  const credentials = identity.credentials.values();
  return (methodsLeft: string[] | null, isPartial, next) => {
    if (isPartial) attempt.accepted = { label: attempt.tried.at(-1) ?? 'a key', wanted: methodsLeft ?? [] };
    const canUseKeys = methodsLeft === null || methodsLeft.includes('publickey');
    const credential = canUseKeys ? credentials.next().value : undefined;
    if (credential === undefined) return next(false as never); // ssh2: nothing more to try
    attempt.tried.push(credential.label);
    next(credential.auth(user));
  };
}

/** ssh2's last word after all identities, or sshd's after MaxAuthTries. */
function isAuthFailure(error: ssh2.ClientErrorExtensions & Error, stage: ConnectStage): boolean {
  if (error.level === 'client-authentication') return error.message.startsWith('All configured');
  return stage === 'authentication' && /too many authentication failures/i.test(error.message);
}
