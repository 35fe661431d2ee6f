/**
 * How a stream to a machine is opened: straight there, or through jump hosts (ProxyJump). What goes through one jump host
 * shares a connection to it, until that carries as many channels as an sshd has file descriptors for; then there is another.
 */
import type { Duplex } from 'node:stream';
import { fault, infoOf, type ReconcileError } from '../../core/errors.ts';
import type { SshTarget } from '../../core/model/node.ts';
import { settleOnce, unlessAborted, withDeadline } from '../../system/deadline.ts';
import { disconnect, type LoggedIn } from './disconnect.ts';
import { RetryableConnectError, unreachable } from './failure.ts';
import { createLimiter, type Limiter } from './limiter.ts';
import { openTcp } from './tcp.ts';

/** Opens streams to SSH servers. */
export interface Transport {
  /** Holds back the connections that go this way. */
  limiter: Limiter;
  /** A stream to the SSH server of the machine. @throws SSH_… (also of a jump host), a RetryableConnectError, or the signal's reason */
  open(target: SshTarget, stop: AbortSignal): Promise<Duplex>;
  /** Whether what it led through is gone. */
  isLost(stream: Duplex): boolean;
}

/** The transports of a run. */
export interface Transports {
  /** The one through these machines, the nearest first; the same one for the same machines. */
  through(jumps: SshTarget[]): Transport;
  close(): void;
}

/** Of the 1024 descriptors that an sshd usually may have open, each channel takes one. */
const MAX_CHANNELS = 500;
/** A jump host that could not be reached is left alone so long; one that refuses us or that we refuse, for good. */
const LEFT_ALONE_MS = 30_000;
const FINAL = /^SSH_(AUTH|HOST_KEY|IDENTITY)|^CONFIG/;

/** @param logInTo logs in to the last of these machines through the others, with retries and deadlines of its own */
export function createTransports(
  logInTo: (jumps: SshTarget[]) => Promise<LoggedIn>,
  onLimit: (through: string | null) => void,
): Transports {
  const transports = new Map<string, Transport & { close(): void }>();
  return {
    through(jumps) {
      const key = jumps.map(({ user, host, port }) => `${user}@${host}:${port}`).join(',');
      let transport = transports.get(key);
      if (transport === undefined) {
        const limiter = createLimiter(() => onLimit(jumps.at(-1)?.host ?? null));
        transport =
          jumps.length === 0
            ? createDirect(limiter)
            : createJump(limiter, jumps.at(-1) as SshTarget, () => logInTo(jumps));
        transports.set(key, transport);
      }
      return transport;
    },
    close() {
      for (const transport of transports.values()) transport.close();
    },
  };
}

function createDirect(limiter: Limiter): Transport & { close(): void } {
  return {
    limiter,
    // A lost packet of the first try may cost seconds; half the time is left for a second one.
    async open(target, stop) {
      const { host, connectTimeoutMs: afterMs, proxyCommand } = target;
      const late = (): RetryableConnectError =>
        new RetryableConnectError(
          fault('SSH_TIMEOUT', { host, what: 'opening a TCP connection', afterMs, proxyCommand }),
          'slow',
        );
      return await withDeadline({ signal: stop, timeout: { afterMs: afterMs / 2, reason: late } }, (signal) =>
        openTcp(target, signal),
      );
    },
    isLost: () => false,
    close: () => undefined,
  };
}

/** One connection to a jump host, made or in the making. */
interface JumpConnection {
  login: Promise<LoggedIn>;
  channels: number;
  lost: boolean;
}

function createJump(
  limiter: Limiter,
  jump: SshTarget,
  logInToIt: () => Promise<LoggedIn>,
): Transport & { close(): void } {
  const connections = new Set<JumpConnection>();
  const connectionOf = new WeakMap<Duplex, JumpConnection>();

  const connect = (): JumpConnection => {
    const connection: JumpConnection = { login: logInToIt(), channels: 0, lost: false };
    connections.add(connection);
    const onLost = (): void => {
      connection.lost = true;
      connections.delete(connection);
    };
    connection.login
      .then((login) => {
        const { client } = login;
        client.on('error', onLost).on('end', onLost).on('close', onLost);
        client.once('close', () => disconnect(login));
      })
      .catch((error: unknown) => {
        if (FINAL.test(infoOf(error).code)) return;
        setTimeout(onLost, LEFT_ALONE_MS).unref();
      });
    return connection;
  };

  return {
    limiter,
    async open(target, stop) {
      const connection = [...connections].find(({ channels }) => channels < MAX_CHANNELS) ?? connect();
      connection.channels += 1;
      let stream: Duplex;
      try {
        const { client } = await unlessAborted(connection.login, stop);
        stream = await openChannel({ client, connection, jump }, target, stop);
      } catch (error) {
        connection.channels -= 1;
        throw error;
      }
      connectionOf.set(stream, connection);
      stream.once('close', () => (connection.channels -= 1));
      return stream;
    },
    isLost: (stream) => connectionOf.get(stream)?.lost === true,
    close() {
      for (const { login } of connections) login.then(disconnect).catch(() => undefined);
    },
  };
}

/** A connection to a jump host that is logged in. */
interface OpenJump {
  client: LoggedIn['client'];
  connection: JumpConnection;
  jump: SshTarget;
}

function openChannel({ client, connection, jump }: OpenJump, target: SshTarget, stop: AbortSignal): Promise<Duplex> {
  const afterMs = target.connectTimeoutMs;
  const late = (): ReconcileError =>
    fault('SSH_TIMEOUT', { host: target.host, what: `opening a TCP connection from ${jump.host}`, afterMs });
  return settleOnce({ signal: stop, timeout: { afterMs, reason: late } }, ({ done, fail, isOver }) => {
    const lost = (error: unknown): RetryableConnectError =>
      new RetryableConnectError(
        unreachable(target, `the connection to the jump host ${jump.host} was lost`, error),
        'dropped',
      );
    if (connection.lost) return fail(lost(undefined));
    try {
      client.forwardOut('127.0.0.1', 0, target.host, target.port, (error, channel) => {
        if (error) return fail(connection.lost ? lost(error) : explainRefusal(error, jump, target));
        channel.on('error', () => undefined);
        if (isOver()) return void channel.destroy();
        done(channel);
      });
    } catch (error) {
      fail(lost(error)); // ssh2 throws where it is not connected any more
    }
  });
}

/** Reason codes of RFC 4254, 5.1. */
const PROHIBITED = 1;
const SHORTAGE = 4;

/** The error of a channel that a jump host did not open. */
function explainRefusal(
  error: Error & { reason?: unknown },
  jump: SshTarget,
  target: SshTarget,
): ReconcileError | RetryableConnectError {
  const said = error.message.replace('(SSH) Channel open failure: ', '');
  if (error.reason === PROHIBITED) {
    return unreachable(target, `the jump host ${jump.host} forwards no connection there (${said})`, error);
  }
  const reason = unreachable(target, `${said} (from the jump host ${jump.host})`, error);
  if (error.reason === SHORTAGE || typeof error.reason !== 'number')
    return new RetryableConnectError(reason, 'dropped');
  return /refused/i.test(said) ? new RetryableConnectError(reason, 'refused') : reason;
}
