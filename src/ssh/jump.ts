/**
 * Ways to a machine: straight there, or through jump hosts. All that goes through one jump host shares one connection to
 * it, as long as that carries no more channels than an sshd has file descriptors for; then another one is opened.
 */
import type { Duplex } from 'node:stream';
import { fault, infoOf, type ReconcileError } from '../core/errors.ts';
import type { SshTarget } from '../core/model/node.ts';
import { settleOnce, unlessAborted, withDeadline } from '../system/deadline.ts';
import { Dropped, hangUp, openTcp, unreachable } from './login.ts';
import type { Login } from './login.ts';
import { createThrottle, type Throttle } from './throttle.ts';

export interface Way {
  /** Holds back the connections that go this way. */
  throttle: Throttle;
  /** A stream to the SSH server of the machine. @throws SSH_… (also of a jump host), a Dropped, or the signal's reason */
  open(target: SshTarget, stop: AbortSignal): Promise<Duplex>;
  /** Whether what it led through is gone. */
  isLost(stream: Duplex): boolean;
}

export interface Ways {
  /** The way through these machines, the nearest first; the same one for the same machines. */
  through(jumps: SshTarget[]): Way;
  close(): void;
}

/** Of the 1024 descriptors that an sshd usually may have open, each channel takes one. */
const MAX_CHANNELS = 500;
/** A jump host that could not be reached is left alone so long; one that refuses us or that we refuse, for good. */
const LEFT_ALONE_MS = 30_000;
const FINAL = /^SSH_(AUTH|HOST_KEY|IDENTITY)|^CONFIG/;

/** @param logInTo logs in to the last of these machines by way of the others, with retries and deadlines of its own */
export function createWays(
  logInTo: (jumps: SshTarget[]) => Promise<Login>,
  onLimit: (through: string | null) => void,
): Ways {
  const ways = new Map<string, Way & { close(): void }>();
  return {
    through(jumps) {
      const key = jumps.map(({ user, host, port }) => `${user}@${host}:${port}`).join(',');
      let way = ways.get(key);
      if (way === undefined) {
        const throttle = createThrottle(() => onLimit(jumps.at(-1)?.host ?? null));
        way =
          jumps.length === 0 ? direct(throttle) : jumpHost(throttle, jumps.at(-1) as SshTarget, () => logInTo(jumps));
        ways.set(key, way);
      }
      return way;
    },
    close() {
      for (const way of ways.values()) way.close();
    },
  };
}

function direct(throttle: Throttle): Way & { close(): void } {
  return {
    throttle,
    // A lost packet of the first try may cost seconds; half the time is left for a second one.
    async open(target, stop) {
      const { host, connectTimeoutMs: afterMs, proxyCommand } = target;
      const late = (): Dropped =>
        new Dropped(fault('SSH_TIMEOUT', { host, what: 'opening a TCP connection', afterMs, proxyCommand }), 'slow');
      return await withDeadline({ signal: stop, timeout: { afterMs: afterMs / 2, reason: late } }, (signal) =>
        openTcp(target, signal),
      );
    },
    isLost: () => false,
    close: () => undefined,
  };
}

/** One connection to a jump host, made or in the making. */
interface Trunk {
  login: Promise<Login>;
  channels: number;
  lost: boolean;
}

function jumpHost(throttle: Throttle, jump: SshTarget, logInToIt: () => Promise<Login>): Way & { close(): void } {
  const trunks = new Set<Trunk>();
  const trunkOf = new WeakMap<Duplex, Trunk>();

  const openTrunk = (): Trunk => {
    const trunk: Trunk = { login: logInToIt(), channels: 0, lost: false };
    trunks.add(trunk);
    const onLost = (): void => {
      trunk.lost = true;
      trunks.delete(trunk);
    };
    trunk.login
      .then((login) => {
        const { client } = login;
        client.on('error', onLost).on('end', onLost).on('close', onLost);
        client.once('close', () => hangUp(login));
      })
      .catch((error: unknown) => {
        if (FINAL.test(infoOf(error).code)) return;
        setTimeout(onLost, LEFT_ALONE_MS).unref();
      });
    return trunk;
  };

  return {
    throttle,
    async open(target, stop) {
      const trunk = [...trunks].find(({ channels }) => channels < MAX_CHANNELS) ?? openTrunk();
      trunk.channels += 1;
      let stream: Duplex;
      try {
        const { client } = await unlessAborted(trunk.login, stop);
        stream = await openChannel(client, trunk, jump, target, stop);
      } catch (error) {
        trunk.channels -= 1;
        throw error;
      }
      trunkOf.set(stream, trunk);
      stream.once('close', () => (trunk.channels -= 1));
      return stream;
    },
    isLost: (stream) => trunkOf.get(stream)?.lost === true,
    close() {
      for (const { login } of trunks) login.then(hangUp).catch(() => undefined);
    },
  };
}

function openChannel(
  client: Login['client'],
  trunk: Trunk,
  jump: SshTarget,
  target: SshTarget,
  stop: AbortSignal,
): Promise<Duplex> {
  const afterMs = target.connectTimeoutMs;
  const late = (): ReconcileError =>
    fault('SSH_TIMEOUT', { host: target.host, what: `opening a TCP connection from ${jump.host}`, afterMs });
  return settleOnce({ signal: stop, timeout: { afterMs, reason: late } }, ({ done, fail, isOver }) => {
    const lost = (error: unknown): Dropped =>
      new Dropped(unreachable(target, `the connection to the jump host ${jump.host} was lost`, error), 'dropped');
    if (trunk.lost) return fail(lost(undefined));
    try {
      client.forwardOut('127.0.0.1', 0, target.host, target.port, (error, channel) => {
        if (error) return fail(trunk.lost ? lost(error) : refusal(error, jump, target));
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

function refusal(error: Error & { reason?: unknown }, jump: SshTarget, target: SshTarget): ReconcileError | Dropped {
  const said = error.message.replace('(SSH) Channel open failure: ', '');
  if (error.reason === PROHIBITED) {
    return unreachable(target, `the jump host ${jump.host} forwards no connection there (${said})`, error);
  }
  const reason = unreachable(target, `${said} (from the jump host ${jump.host})`, error);
  if (error.reason === SHORTAGE || typeof error.reason !== 'number') return new Dropped(reason, 'dropped');
  return /refused/i.test(said) ? new Dropped(reason, 'refused') : reason;
}
