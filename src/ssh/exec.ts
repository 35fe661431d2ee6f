/**
 * Commands over a connection, one channel each. A lost connection (ssh2: `close` without `exit`) is an error and never
 * an exit code; every promise is settled exactly once.
 *
 * What a closed channel means for the command on the node is another matter: it may well live on. Whoever starts
 * something that must not outlive the connection gives it a heartbeat and a guard that listens for it.
 */
import { once } from 'node:events';
import type ssh2 from 'ssh2';
import type { ClientChannel } from 'ssh2';
import { fault, ReconcileError } from '../core/errors.ts';
import type { Node } from '../core/model/node.ts';
import { settleOnce, type Settling } from '../system/deadline.ts';
import { disconnect, ignoreThrown, type LoggedIn } from './connect/disconnect.ts';
import { CAUSES, errorCode, unreachable } from './connect/failure.ts';
import type { Log } from './connect/login.ts';

/** Bytes of standard error of any command. What a machine says beyond it is no answer, and is not waited for. */
const MAX_STDERR_BYTES = 32_000_000;

/** How a command is fed, bounded and ended. */
export interface ExecOptions {
  /** Written at once. Then standard input ends, unless there is a heartbeat. */
  stdin?: string;
  /** Written after it, at the pace of the command, before the heartbeat begins. An error of it ends the command. */
  content?: AsyncIterable<Uint8Array>;
  /** Keeps standard input open until the command ends: a byte `x` at once and then every so many milliseconds. */
  heartbeatMs?: number;
  /** More than this is an error: a cut answer would look like a whole one. */
  maxStdoutBytes: number;
  /**
   * Takes standard output piece by piece, and none is gathered then. What it throws ends the command. Once it returns true,
   * nothing more is waited for: what a login does after the command may take for ever.
   */
  onStdout?: (piece: Buffer) => boolean;
  /** Of standard error only the last bytes are kept; more than 32 MB of it are an error. */
  maxStderrBytes: number;
  timeoutMs: number;
  /** Closes the channel and rejects with the signal's reason. */
  signal: AbortSignal;
  /** What the command is, for the words of SSH_TIMEOUT. */
  what?: string;
}

/** What came of a command. */
export interface ExecResult {
  stdout: Buffer;
  stderr: string;
  /** Null for a command that died by a signal, and for one that was not waited for. */
  code: number | null;
  /** The name, as `SIGKILL`. */
  signal: string | null;
}

/** A connection that is logged in, on which commands are run. */
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

/** After its exit a command whose output does not end (a child holds it open) is waited for until silent so long. */
const ORPHAN_MS = 2_000;
const HEARTBEAT = 'x';

/** SSH_UNREACHABLE for a connection that broke, and not for one that fell silent: a new one may well be made. */
export class ConnectionLost extends ReconcileError {}

function lost(node: Node, cause: string, error?: unknown): ConnectionLost {
  return new ConnectionLost(unreachable(node, cause).info, { cause: error });
}

/** @param onEnd called once, when the connection is closed or lost */
export function createConnection(login: LoggedIn, node: Node, log: Log, onEnd: () => void): Connection {
  /** What to do with each command under way when the connection ends. */
  const running = new Set<(reason: ReconcileError) => void>();
  let ended: (() => ReconcileError) | null = null;

  /** The error is made only where a command waits for it: most connections end well, and the stack of an error costs time. */
  const end = (reason: () => ReconcileError): void => {
    if (ended !== null) return;
    ended = reason;
    disconnect(login);
    onEnd();
    for (const abandon of running) abandon(reason());
  };
  login.client.on('error', (error) => {
    log('debug', 'SSH connection failed', { node: node.name, cause: error.message });
    const isSilent = (error as ssh2.ClientErrorExtensions).level === 'client-timeout';
    if (isSilent) end(() => unreachable(node, 'connection lost (no sign of life)', error));
    else end(() => lost(node, `connection lost (${CAUSES[errorCode(error)] ?? error.message})`, error));
  });
  // at `end` ssh2 has already taken its protocol down: a heartbeat after it would throw
  login.client.on('end', () => end(() => lost(node, 'connection lost')));
  login.client.on('close', () => end(() => lost(node, 'connection lost')));

  return {
    close: () => end(() => unreachable(node, 'the connection was closed')),
    exec(command, options) {
      const { signal, timeoutMs: afterMs, what = 'a command' } = options;
      const late = (): ReconcileError => fault('SSH_TIMEOUT', { host: node.host, what, afterMs, of: 'command' });
      return settleOnce<ExecResult>({ signal, timeout: { afterMs, reason: late } }, ({ done, fail, isOver, onEnd }) => {
        if (ended !== null) throw ended();
        running.add(fail);
        onEnd(() => running.delete(fail));
        try {
          login.client.exec(command, (error, opened) => {
            if (error) return fail(unreachable(node, `the server runs no command: ${error.message}`, error));
            if (isOver()) return ignore(opened);
            onEnd(follow(opened, node, options, { done, fail }));
          });
        } catch (error) {
          fail(lost(node, 'connection lost', error));
        }
      });
    },
  };
}

/** Closes a channel that nobody reads any more; what still comes is thrown away, so that it fills no memory. */
function ignore(channel: ClientChannel): void {
  channel.on('error', () => undefined).resume();
  channel.stderr.on('error', () => undefined).resume();
  ignoreThrown(() => channel.close());
}

/** Feeds a channel and gathers what comes back. Returns what ends both: to be called once it was done or failed. */
function follow(
  channel: ClientChannel,
  node: Node,
  options: ExecOptions,
  { done, fail }: Pick<Settling<ExecResult>, 'done' | 'fail'>,
): () => void {
  const stdout: Buffer[] = [];
  let stdoutBytes = 0;
  let stderrBytes = 0;
  const stderr = keepTail(options.maxStderrBytes);
  let exit: { code: number | null; signal: string | null } | null = null;
  let orphan: NodeJS.Timeout | undefined;
  let open = 2; // the channel and its standard error: each closes when its last byte was read
  let stopped = false;
  let isEnough = false;

  const finish = (): void => {
    if (stopped) return;
    if (isEnough) return done({ stdout: Buffer.alloc(0), stderr: stderr.text(), code: null, signal: null });
    if (exit === null) return fail(lost(node, 'the command ended without an exit status'));
    done({ stdout: Buffer.concat(stdout), stderr: stderr.text(), ...exit });
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
    try {
      if (options.onStdout === undefined) stdout.push(chunk);
      else isEnough = options.onStdout(chunk);
    } catch (error) {
      return fail(error);
    }
    if (isEnough) return finish();
    waitForOrphan();
  });
  channel.stderr.on('data', (chunk: Buffer) => {
    stderrBytes += chunk.length;
    if (stderrBytes > MAX_STDERR_BYTES) {
      const what = `more than ${MAX_STDERR_BYTES} bytes of error output`;
      return fail(fault('NODE_ANSWER_INVALID', { host: node.host, what }));
    }
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

  const stopFeeding = feed(channel, options, fail);
  return () => {
    stopped = true;
    stopFeeding();
    clearTimeout(orphan);
    if (open === 0) return;
    channel.removeAllListeners('data').removeAllListeners('exit');
    channel.stderr.removeAllListeners('data');
    ignore(channel);
  };
}

/** Writes what the command is given, and then its heartbeat, or ends its standard input. Returns what stops that. */
function feed(channel: ClientChannel, options: ExecOptions, fail: (error: unknown) => void): () => void {
  const { stdin, content, heartbeatMs } = options;
  let stopped = false;
  let heartbeat: NodeJS.Timeout | undefined;
  const stopping = content === undefined ? null : new AbortController();
  const write = async (): Promise<void> => {
    if (stdin) channel.write(stdin);
    for await (const chunk of content ?? []) {
      if (stopped) return;
      if (!channel.write(chunk)) await once(channel, 'drain', { signal: stopping?.signal });
    }
    if (stopped) return;
    if (heartbeatMs === undefined) {
      channel.end();
      return;
    }
    const beat = (): void => {
      if (channel.writable && channel.writableLength === 0) channel.write(HEARTBEAT);
    };
    channel.write(HEARTBEAT);
    heartbeat = setInterval(beat, heartbeatMs);
  };
  write().catch((error: unknown) => {
    if (!stopped) fail(error);
  });
  return () => {
    stopped = true;
    stopping?.abort();
    clearInterval(heartbeat);
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
