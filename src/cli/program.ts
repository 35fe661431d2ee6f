/** The program: flags, dispatch, signals and the exit code. Nothing else touches `process`, but for its version and user (`main.ts`). */
import { setMaxListeners } from 'node:events';
import { redact } from '../system/secrets.ts';
import { homeOf, hostName, userName } from '../system/user.ts';
import { errorInfo, fault } from '../core/errors.ts';
import { EXIT_CODES, type Signal } from '../core/model/exit-codes.ts';
import { parseArgs } from './args/parse.ts';
import type { Io, Tool } from './io.ts';
import { exit } from './startup/last-resort.ts';
import { GRACE_MS, startWatchdog, type Watchdog } from './startup/watchdog.ts';

const SIGNALS: readonly Signal[] = ['SIGHUP', 'SIGINT', 'SIGTERM'];

const WATCHDOG = new URL('./watchdog-thread.js', import.meta.url);
/** The build writes it here, so that no file has to be looked for. */
declare const TOOL: Tool;
/** Until the config says: as long as a run may take where it says nothing. */
const TIMEOUT_MS = 2 * 3600_000;
/** Node.js keeps no longer ones: 24 days. */
const MAX_TIMER_MS = 2 ** 31 - 1;

/** Signals and the deadline end a command in order, a second signal ends the program at once, and the watchdog one that hangs. */
function watchTheEnd(): Pick<Io, 'stop' | 'workStop' | 'setGrace' | 'interruptedBy' | 'setDeadline' | 'remainingMs'> {
  const controller = new AbortController();
  const work = new AbortController();
  for (const { signal } of [controller, work]) setMaxListeners(0, signal); // Node.js warns on stderr of more than ten
  let first: Signal | null = null;
  let graceMs = 0;
  for (const signal of SIGNALS) {
    process.on(signal, () => {
      if (first !== null) exit(EXIT_CODES[first].code);
      first = signal;
      const reason = fault('INTERRUPTED', { signal });
      controller.abort(reason);
      if (signal !== 'SIGHUP') setTimeout(() => work.abort(reason), graceMs);
    });
  }
  let timer: NodeJS.Timeout | undefined;
  let watchdog: Watchdog | undefined;
  let endsAt = TIMEOUT_MS;
  const setDeadline = (timeoutMs: number): void => {
    clearTimeout(timer);
    endsAt = timeoutMs;
    const end = (): void => {
      const reason = fault('RUN_DEADLINE', { timeoutMs });
      controller.abort(reason);
      work.abort(reason);
    };
    timer = setTimeout(end, Math.min(timeoutMs - performance.now(), MAX_TIMER_MS));
    const { message, hint } = errorInfo('RUN_HANGS', { graceMs: GRACE_MS });
    watchdog ??= startWatchdog(WATCHDOG, `reconcile: ${message}; ${hint}`);
    watchdog(timeoutMs);
  };
  const remainingMs = (): number => Math.max(0, endsAt - performance.now());
  const setGrace = (ms: number): void => void (graceMs = ms);
  return {
    stop: controller.signal,
    workStop: work.signal,
    setGrace,
    interruptedBy: () => first,
    setDeadline,
    remainingMs,
  };
}

/** Where text goes that is printed, and what became of it. */
interface Outlet {
  write: (text: string) => void;
  /** Why not all of it was written, or null; a reader that went away (`| head`) wanted no more. */
  problem: () => string | null;
}

/** What cannot be written ends the output and not the run. */
function outlet(stream: NodeJS.WriteStream): Outlet {
  let problem: string | null = null;
  stream.on('error', ({ code, message }: NodeJS.ErrnoException) => {
    if (code !== 'EPIPE') problem ??= code ?? message;
  });
  return { write: (text) => stream.write(text), problem: () => problem };
}

/** Where none of the group is left there is nothing to end. */
function endGroup(leader: number): void {
  try {
    process.kill(-leader, 'SIGKILL');
  } catch {
    // it has ended by itself
  }
}

/** Stdin ends with who read it first: another one would find nothing there, and take that for an answer. */
function readOnce(open: Io['stdin']): Io['stdin'] {
  let isRead = false;
  return () => {
    if (isRead) throw fault('CONFIG_INVALID', { problem: 'stdin is named twice, and can be read only once' });
    isRead = true;
    return open();
  };
}

/** Does what the words ask for, and returns the exit code. */
async function dispatch(argv: string[], io: Io, tool: Tool): Promise<number> {
  try {
    const parsed = parseArgs(argv, tool.version);
    if (parsed.kind === 'text') {
      io.out(parsed.text);
      return EXIT_CODES.OK.code;
    }
    const { common, run } = parsed.invocation;
    io.setDeadline(common.timeoutMs ?? TIMEOUT_MS);
    return await run(io, tool);
  } catch (error) {
    return await (await import('./failure.ts')).printFailure(error, argv, io, tool);
  }
}

async function main(): Promise<number> {
  const home = homeOf(process.env);
  const [stdout, stderr] = [outlet(process.stdout), outlet(process.stderr)];
  const io: Io = {
    env: { ...process.env, HOME: home },
    home,
    stdoutIsTerminal: process.stdout.isTTY,
    stderrIsTerminal: process.stderr.isTTY,
    out: stdout.write,
    err: (text) => stderr.write(redact(text)),
    stdin: readOnce(() => process.stdin),
    endGroup,
    who: () => ({ user: userName(), host: hostName(), pid: process.pid }),
    ...watchTheEnd(),
  };
  const argv = process.argv.slice(2);
  const code = await dispatch(argv, io, TOOL);
  await new Promise((resolve) => process.stdout.write('', resolve));
  const problem = stdout.problem();
  if (problem === null) return code;
  io.err(`reconcile: the output could not be written (${problem}); but for that the exit code would be ${code}\n`);
  return code === EXIT_CODES.OK.code ? EXIT_CODES.ERROR.code : code;
}

process.exitCode = EXIT_CODES.ERROR.code; // of a program that ends before it is done
void main().then((code) => {
  // Whatever a library still holds open must not keep a finished run alive.
  process.stderr.write('', () => exit(code));
});
