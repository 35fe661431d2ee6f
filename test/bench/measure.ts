// What one command costs: wall time, CPU of its whole process tree, and the most memory that the tree held at once.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { endAll, pause } from '../fleet/sshd.ts';
import type { Cost } from './tables.ts';

export interface Measured extends Omit<Cost, 'serverMs'> {
  /** As bash tells it: more than 128 after a signal. */
  code: number | null;
  stdout: string;
  stderr: string;
}

export interface Surroundings {
  /** Nothing else is in the environment of the command. */
  env: Record<string, string>;
  /** Where its output goes: files, so that reading it costs it no time. */
  dir: string;
  signal: AbortSignal;
}

/** bash counts what its child and every descendant that was waited for used, to the millisecond; nothing need be installed. */
const TIMED = 'TIMEFORMAT="%R %U %S"; out=$1 err=$2; shift 2; time "$@" >"$out" 2>"$err" </dev/null';

/** Looking at a tree takes at most this share of one core from the command. */
const LOOKING_SHARE = 0.05;
const LOOK_MS = 10;

/** Runs a command to its end. */
export async function measure(argv: string[], { env, dir, signal }: Surroundings): Promise<Measured> {
  signal.throwIfAborted();
  const [out, err] = [join(dir, 'stdout'), join(dir, 'stderr')];
  const shell = spawn('bash', ['-c', TIMED, 'bash', out, err, ...argv], { env, stdio: ['ignore', 'ignore', 'pipe'] });
  const ended = once(shell, 'close') as Promise<[number | null]>;
  const pid = shell.pid ?? 0;
  let ending: Promise<void> | undefined;
  const onAbort = () => {
    ending = endAll([pid]);
  };
  signal.addEventListener('abort', onAbort, { once: true });
  let said = '';
  shell.stderr.setEncoding('utf8').on('data', (text: string) => (said += text));
  const peak = watchMemory(pid, ended);
  const [code] = await ended;
  signal.removeEventListener('abort', onAbort);
  await ending;
  signal.throwIfAborted();
  const [wall, user, system] = (said.trim().split('\n').at(-1) ?? '').split(' ').map(Number);
  if (wall === undefined || user === undefined || system === undefined)
    throw new Error(`bash measured nothing: ${said}`);
  const [stdout, stderr, peakBytes] = await Promise.all([readFile(out, 'utf8'), readFile(err, 'utf8'), peak]);
  return { wallMs: wall * 1000, cpuMs: (user + system) * 1000, peakBytes, code, stdout, stderr };
}

async function watchMemory(shell: number, ended: Promise<unknown>): Promise<number> {
  const over = ended.then(() => true);
  let peak = 0;
  for (;;) {
    const before = process.cpuUsage();
    peak = Math.max(peak, treeBytes(childrenOf(shell)));
    const { user, system } = process.cpuUsage(before);
    const nextLook = pause(Math.max(LOOK_MS, (user + system) / 1000 / LOOKING_SHARE)).then(() => false);
    if (await Promise.race([over, nextLook])) return peak;
  }
}

/**
 * Memory of these processes and all below them. One alone: the most that it ever held (VmHWM), so nothing between two
 * looks is missed. Several: what each holds now, pages that they share counted once (the sum of Pss).
 */
function treeBytes(roots: number[]): number {
  const pids = [...roots];
  for (const pid of pids) pids.push(...childrenOf(pid));
  if (pids.length === 1) return kibOf(`/proc/${pids[0]}/status`, 'VmHWM') * 1024;
  return pids.reduce((sum, pid) => sum + kibOf(`/proc/${pid}/smaps_rollup`, 'Pss') * 1024, 0);
}

export function childrenOf(pid: number): number[] {
  const tasks = orNothing(() => readdirSync(`/proc/${pid}/task`), []);
  return tasks.flatMap((task) => {
    const list = orNothing(() => readFileSync(`/proc/${pid}/task/${task}/children`, 'utf8'), '');
    return list.split(' ').filter(Boolean).map(Number);
  });
}

function kibOf(file: string, field: string): number {
  const text = orNothing(() => readFileSync(file, 'utf8'), '');
  return Number(new RegExp(`^${field}:\\s*(\\d+) kB$`, 'm').exec(text)?.[1] ?? 0);
}

/** The process may be over by now. */
function orNothing<T>(read: () => T, nothing: T): T {
  try {
    return read();
  } catch {
    return nothing;
  }
}
