/** What a command may touch of the outside: handed in by `program.ts`, the only one behind it that knows `process`. */
import type { ReconcileError } from '../core/errors.ts';
import type { Signal } from '../core/model/exit-codes.ts';
import { plain } from '../core/text.ts';
import type { LogLevel } from './args/options.ts';

export interface Io {
  env: Record<string, string | undefined>;
  home: string;
  /** Whether stdout and stderr are terminals. */
  stdoutIsTerminal: boolean;
  stderrIsTerminal: boolean;
  out: (text: string) => void;
  err: (text: string) => void;
  /** What comes in on stdin, for a command that was told to read it. */
  stdin: () => AsyncIterable<Uint8Array>;
  /** Aborted by SIGHUP, SIGINT and SIGTERM, and when the time is over, with a ReconcileError as the reason. */
  stop: AbortSignal;
  /** Ends the changes that are going on: with `stop`, or the grace later after SIGINT and SIGTERM; SIGHUP never aborts it. */
  workStop: AbortSignal;
  /** How long changes may go on after SIGINT or SIGTERM, in ms. */
  setGrace: (graceMs: number) => void;
  /** Sets how long the command may take, from the start of the program to its end. */
  setDeadline: (timeoutMs: number) => void;
  /** What is left of that time, in ms. */
  remainingMs: () => number;
  interruptedBy: () => Signal | null;
  /** Who runs this, where, and as which process: what reports and locks say of it. */
  who: () => { user: string; host: string; pid: number };
  /** Ends the group of processes that a program of ours leads. */
  endGroup: (leader: number) => void;
}

/** The tool's name and version, as every report carries them. */
export interface Tool {
  name: string;
  version: string;
}

/** Colours: the flag, else `NO_COLOR`, `FORCE_COLOR`, `CI` and `TERM=dumb`, else whether it is a terminal. */
export function wantsColor(flag: boolean | undefined, { env }: Io, isTerminal: boolean): boolean {
  if (flag !== undefined) return flag;
  if (env['NO_COLOR']) return false;
  const forced = env['FORCE_COLOR'];
  if (forced !== undefined) return forced !== '0' && forced !== 'false';
  return isTerminal && !env['CI'] && env['TERM'] !== 'dumb';
}

/** The level of the log: the flag, else quiet or verbose, else warnings. */
export function levelOf(options: { logLevel: LogLevel | undefined; quiet: boolean; verbose: boolean }): LogLevel {
  return options.logLevel ?? (options.quiet ? 'silent' : options.verbose ? 'info' : 'warn');
}

/** `reconcile: what happened` and what to do, on stderr. */
export function complain(io: Io, { info }: ReconcileError): void {
  io.err(`reconcile: ${plain(info.message)}\n  ${plain(info.hint)}\n`);
}
