/** The program that prints the inventory: run without a shell and standard input, bounded, and ended with all that it started. */
import { spawn, type ChildProcess } from 'node:child_process';
import { fault, type ReconcileError } from '../core/errors.ts';
import { clip, formatDuration } from '../core/text.ts';
import { settleOnce } from '../system/deadline.ts';

const TIMEOUT_MS = 30_000;
const MAX_STDOUT_BYTES = 16 * 2 ** 20;
const MAX_SAID_CHARS = 400;

/** What a command of the inventory is run under. */
export interface CommandContext {
  /** Ends the program, with the signal's reason. */
  signal: AbortSignal;
  /** Ends the group of processes that this one leads. */
  endGroup: (pid: number) => void;
  timeoutMs?: number | undefined;
}

/**
 * What the program prints on stdout until it ends; a child of its own that goes on and holds its output is not waited for.
 * Where it does not end in time, its whole group is ended.
 * @param source names it in errors
 * @throws INVENTORY_FAILED, or the signal's reason
 */
export function runInventoryCommand(
  [program = '', ...args]: string[],
  source: string,
  context: CommandContext,
): Promise<string> {
  const { signal, endGroup, timeoutMs: afterMs = TIMEOUT_MS } = context;
  const createFailure = (problem: string, error?: unknown): ReconcileError =>
    fault('INVENTORY_FAILED', { source, problem }, error);
  const stdout: Buffer[] = [];
  let length = 0;
  let stderr = '';
  const addWords = (problem: string): string =>
    stderr.trim() === '' ? problem : `${problem}: ${clip(stderr.trim().slice(-MAX_SAID_CHARS), MAX_SAID_CHARS)}`;
  const reason = (): Error => createFailure(addWords(`it took longer than ${formatDuration(afterMs)} and was killed`));

  return settleOnce({ signal, timeout: { afterMs, reason } }, ({ done, fail, onEnd, isOver }) => {
    // a group of its own, so that it can be ended with its children
    const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'pipe'], detached: true });
    onEnd((isDone) => {
      const isRunning = child.exitCode === null && child.signalCode === null;
      if (!isDone && isRunning && child.pid !== undefined) endGroup(child.pid);
      release(child);
    });
    child.on('error', (error: NodeJS.ErrnoException) => fail(createFailure(explainNotStarted(error), error)));
    child.stdout.on('data', (chunk: Buffer) => {
      stdout.push(chunk);
      length += chunk.length;
      if (length > MAX_STDOUT_BYTES) fail(createFailure(`it printed more than ${MAX_STDOUT_BYTES / 2 ** 20} MiB`));
    });
    child.stderr.on('data', (chunk: Buffer) => (stderr = (stderr + chunk.toString()).slice(-2 * MAX_SAID_CHARS)));
    child.on('exit', (code, killedBy) => {
      const settle = (): void => {
        if (code === 0) done(Buffer.concat(stdout).toString('utf8'));
        else fail(createFailure(addWords(code === null ? String(killedBy) : `it ended with exit code ${code}`)));
      };
      void waitUntilSilent(() => length + stderr.length, isOver).then(settle);
    });
  });
}

/**
 * What a program printed before it ended lies ready to be read: waits until a turn of the event loop brings nothing more.
 * The end of its output would come only with that of the last child that holds it.
 */
async function waitUntilSilent(progress: () => number, isOver: () => boolean): Promise<void> {
  for (let before = -1; before !== progress() && !isOver();) {
    before = progress();
    // the first ends this turn, the second one that has read
    for (const _turn of [1, 2]) await new Promise((resolve) => setImmediate(resolve));
  }
}

function release(child: ChildProcess): void {
  child.stdout?.destroy();
  child.stderr?.destroy();
  child.unref();
}

function explainNotStarted(error: NodeJS.ErrnoException): string {
  if (error.code === 'ENOENT') return 'there is no such program';
  return error.code === 'EACCES' ? 'the program cannot be executed' : error.message;
}
