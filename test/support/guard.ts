// What happens on a node while something is being changed there: its processes, our lock, and the guard by itself.
import { spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { readdir, readFile } from 'node:fs/promises';
import { userInfo } from 'node:os';
import { shellQuote } from '../../src/core/text.ts';
import { marked, pause } from '../fleet/sshd.ts';
import type { Fleet, FleetNode } from '../fleet/world.ts';

export const isRoot = userInfo().uid === 0;

/**
 * The logins by which the guard is tried: the one that needs sudo for everything. The other tests log in as root;
 * RECONCILE_LOGINS=all tries the guard by both.
 */
export const LOGINS = isRoot
  ? [...(process.env['RECONCILE_LOGINS'] === 'all' ? ['root'] : []), 'an operator with sudo']
  : ['the user of this process'];

interface Process {
  pid: number;
  parent: number;
  argv: string[];
}

async function processes(): Promise<Process[]> {
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name)).map(Number);
  const found = pids.map(async (pid): Promise<Process[]> => {
    const [stat, cmdline] = await Promise.all(
      ['stat', 'cmdline'].map(async (name) => await readFile(`/proc/${pid}/${name}`, 'utf8').catch(() => '')),
    );
    const parent = Number(stat?.slice(stat.lastIndexOf(')') + 2).split(' ')[1]);
    return cmdline ? [{ pid, parent, argv: cmdline.split('\0').slice(0, -1) }] : [];
  });
  return (await Promise.all(found)).flat();
}

/** Waits for what another process does; nothing here measures time. */
export async function until(what: string, condition: () => Promise<boolean> | boolean, ms = 60_000): Promise<void> {
  const deadline = performance.now() + ms;
  while (!(await condition())) {
    if (performance.now() > deadline) throw new Error(`${ms / 1000} s passed without: ${what}`);
    await pause(20);
  }
}

/** The processes of a cocoon command (and of its sudo) under the node's root directory. */
export async function cocoonOn(node: FleetNode, ...words: string[]): Promise<number[]> {
  const all = await processes();
  return all
    .filter(({ argv }) => argv.includes(node.rootDir) && words.every((word) => argv.includes(word)))
    .map(({ pid }) => pid);
}

/** Of the processes with these words the one that started the others; numbers say nothing, they begin anew. */
export async function firstOn(node: FleetNode, ...words: string[]): Promise<number> {
  const pids = await cocoonOn(node, ...words);
  const first = (await processes()).find(({ pid, parent }) => pids.includes(pid) && !pids.includes(parent));
  if (first === undefined) throw new Error(`no process ${words.join(' ')} on ${node.name}`);
  return first.pid;
}

/** Everything that SSH sessions of that node started and that still runs. */
export async function strays(node: FleetNode): Promise<string[]> {
  const pids = await marked(node.dir);
  return (await processes()).filter(({ pid }) => pids.includes(pid)).map(({ pid, argv }) => `${pid} ${argv.join(' ')}`);
}

/** Kills the SSH server's processes of every open connection, and not the server itself. */
export async function cutConnections(fleet: Fleet): Promise<void> {
  const all = await processes();
  const isServer = ({ argv }: Process): boolean => argv[0]?.startsWith('sshd') === true;
  const first = all.filter((process) => fleet.pids().includes(process.parent) && isServer(process));
  // for a user who is not root there is one more behind each
  const second = all.filter((process) => first.some(({ pid }) => pid === process.parent) && isServer(process));
  const doomed = [...first, ...second];
  if (doomed.length === 0) throw new Error('no connection is open');
  for (const { pid } of doomed) process.kill(pid, 'SIGKILL');
}

/** The lock that a change of this node takes. */
export function lockFile(node: FleetNode, uid = userInfo().uid): string {
  const dir = uid === 0 ? '/run/cocoon-reconcile' : `/tmp/cocoon-reconcile-${uid}`;
  return `${dir}/${node.rootDir.replaceAll('/', '_').slice(-200)}.lock`;
}

export function isLocked(node: FleetNode): boolean {
  if (!existsSync(lockFile(node))) return false;
  return spawnSync('flock', ['-n', lockFile(node), 'true']).status !== 0;
}

/** Waits for the end of a command on a node; until it is over, the lock must be held. */
export async function overBeforeUnlocked(node: FleetNode, ...words: string[]): Promise<void> {
  await until(`the end of ${words.join(' ')} on ${node.name}`, async () => {
    const free = !isLocked(node);
    const alive = (await cocoonOn(node, ...words)).length > 0;
    if (free && alive) throw new Error('the lock is free while the command runs');
    return free && !alive;
  });
}

export interface GuardOptions {
  user?: string;
  /** The shell that runs the script. */
  shell?: string[];
  sudo?: boolean;
  silence?: number;
  deadline?: number;
  binary?: string;
  rootDir?: string;
}

export interface GuardAnswer {
  lines: string[];
  stderr: string;
  code: number | null;
}

export interface RunningGuard {
  client: ChildProcess;
  /** Goes on without a heartbeat, the connection open. */
  fallSilent: () => void;
  /** Closes standard input, the connection open. */
  disconnect: () => void;
  ended: Promise<GuardAnswer>;
}

const NONCE = '0123456789abcdef';
const script = readFileSync(new URL('../../src/node/change.sh', import.meta.url));

/** Runs `change.sh` over OpenSSH's own client, as the program does over its own. */
export function startGuard(fleet: Fleet, node: FleetNode, words: string[], options: GuardOptions = {}): RunningGuard {
  const { user = userInfo().username, shell = ['sh'], sudo = false, silence = 30, deadline = 60 } = options;
  const [verb = '', ...rest] = words;
  const fixed = [options.rootDir ?? node.rootDir, sudo ? 'yes' : 'no', String(silence), String(deadline)];
  const cocoon = [options.binary ?? node.binary, node.runDir, node.logDir];
  const command = [...shell, '-c', `eval "$(head -c ${script.length})"`, 'change', NONCE, verb, ...fixed, ...cocoon];
  const known = [`UserKnownHostsFile=${fleet.knownHostsFile}`, 'StrictHostKeyChecking=yes', 'BatchMode=yes'];
  const argv = ['-F', 'none', '-i', fleet.identityFile, '-p', String(node.port), ...known.flatMap((o) => ['-o', o])];
  const client = spawn('ssh', [...argv, `${user}@${node.host}`, [...command, ...rest].map(shellQuote).join(' ')]);
  client.stdin.on('error', () => undefined);
  client.stdin.write(script);
  const beat = setInterval(() => client.stdin.write('x'), 200);
  const ended = new Promise<GuardAnswer>((resolve, reject) => {
    let stdout = '';
    let stderr = '';
    client.stdout.on('data', (chunk: Buffer) => (stdout += chunk.toString()));
    client.stderr.on('data', (chunk: Buffer) => (stderr += chunk.toString()));
    client.on('error', reject);
    client.on('close', (code) => {
      clearInterval(beat);
      const marked = stdout.split('\n').filter((line) => line.startsWith(`${NONCE} `));
      resolve({ lines: marked.map((line) => line.slice(NONCE.length + 1).trimEnd()), stderr, code });
    });
  });
  return {
    client,
    fallSilent: () => clearInterval(beat),
    disconnect: () => {
      clearInterval(beat);
      client.stdin.end();
    },
    ended,
  };
}

export async function guard(
  fleet: Fleet,
  node: FleetNode,
  words: string[],
  options: GuardOptions = {},
): Promise<GuardAnswer> {
  return await startGuard(fleet, node, words, options).ended;
}
