// Real OpenSSH servers on loopback ports, each with its own directory and keys, and ending all that ever ran under them.
import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { randomInt } from 'node:crypto';
import { constants } from 'node:fs';
import { access, mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);
const isRoot = process.getuid?.() === 0;

/** Set in every session; its value is the directory of the node, so that strays of that node can be found. */
export const MARK = 'COCOON_FLEET_NODE';

export type HostKeyType = 'ed25519' | 'rsa' | 'ecdsa';

export interface SshdOptions {
  /** Holds configuration, host keys, log and pid file. */
  dir: string;
  /** Public key lines that may log in, as any user that the server can become. */
  authorizedKeys: string[];
  /** Value of MARK in sessions; default `dir`. */
  mark?: string;
  /** Set in every session too. */
  env?: Record<string, string>;
  /** ListenAddress; default 127.0.0.1. */
  host?: string;
  /** Default: one that is free. */
  port?: number;
  hostKeyTypes?: HostKeyType[];
  maxStartups?: string;
  /** Words before the command that starts it, such as `nsenter` with its arguments. */
  under?: string[];
  /** More lines of sshd_config; they come first, so they win. */
  config?: string[];
}

/** A node's SSH server, whichever kind it is. */
export interface NodeServer {
  readonly host: string;
  readonly port: number;
  /** Public host keys, `type base64` each. */
  hostKeys: () => Promise<string[]>;
  /** Processes of its own that may be running, the first of a tree each. */
  pids: () => number[];
  /** Refuses connections from now on, and ends everything that ran in its sessions. */
  stop: () => Promise<void>;
  /** Listens again on the same port. */
  start: () => Promise<void>;
  /** Goes on accepting TCP connections, but says nothing any more; sessions stand still. */
  freeze: () => Promise<void>;
  thaw: () => Promise<void>;
  /** Shows another host key from the next connection on; open connections are ended. */
  changeHostKey: () => Promise<void>;
}

/** Starts a server; resolved when the port accepts connections. */
export async function startSshd(options: SshdOptions): Promise<NodeServer> {
  const { dir, host = '127.0.0.1', hostKeyTypes = ['ed25519'] } = options;
  const binary = await ensureSshd();
  await mkdir(dir, { recursive: true });
  if (isRoot) await mkdir('/run/sshd', { recursive: true });
  await writeFile(join(dir, 'authorized_keys'), `${options.authorizedKeys.join('\n')}\n`);
  await makeHostKeys(dir, hostKeyTypes);
  const { port, ...first } = await listenSomewhere(binary, options);
  let daemon: Daemon = first;

  const pids = () => (isOver(daemon.child) || !daemon.child.pid ? [] : [daemon.child.pid]);
  const signalAll = (name: NodeJS.Signals) =>
    signalUntilStill(async () => descendants(await processes(), pids()), name);
  const stop = async () => {
    if (pids().length > 0) await endAll(pids(), options.mark ?? dir);
    await daemon.ended;
  };
  const start = async () => {
    const again = await listen(binary, options, port);
    if (!again) throw new Error(`port ${port} of ${dir} was taken by another program`);
    daemon = again;
  };
  return {
    host,
    port,
    hostKeys: async () => (await Promise.all(hostKeyTypes.map((type) => readKey(hostKeyFile(dir, type))))).flat(),
    pids,
    stop,
    start,
    freeze: () => signalAll('SIGSTOP'),
    thaw: () => signalAll('SIGCONT'),
    changeHostKey: async () => {
      await stop();
      await makeHostKeys(dir, hostKeyTypes);
      await start();
    },
  };
}

// --- Programs that must be there ------------------------------------------------------------------------------------

/** The path of sshd, installed first where it is missing and that is possible. */
export function ensureSshd(): Promise<string> {
  return ensureCommand('sshd', 'openssh-server');
}

/** The path of a command, installed from its Debian package where it is missing and we are root. */
export async function ensureCommand(command: string, debianPackage: string = command): Promise<string> {
  const found = await findCommand(command);
  if (found) return found;
  const wanted = `${command} is not installed (Debian package ${debianPackage})`;
  if (!isRoot) throw new Error(`${wanted}; install it, or run this as root`);
  if (!(await findCommand('apt-get'))) throw new Error(`${wanted}, and there is no apt-get to install it with`);
  await install(debianPackage).catch((error: unknown) => {
    throw new Error(`${wanted}, and apt-get could not install it: ${saidBy(error) || String(error)}`);
  });
  const installed = await findCommand(command);
  if (!installed) throw new Error(`${debianPackage} was installed, but there is no ${command} in it`);
  return installed;
}

/** What a program that failed wrote to stderr. */
function saidBy(error: unknown): string {
  return (error as { stderr?: string }).stderr?.trim() ?? '';
}

async function findCommand(command: string): Promise<string | undefined> {
  const dirs = [...(process.env['PATH'] ?? '').split(delimiter), '/usr/sbin', '/usr/local/sbin', '/sbin'];
  for (const dir of dirs) {
    const file = join(dir || '/', command);
    const usable = await access(file, constants.X_OK).then(
      () => true,
      () => false,
    );
    if (usable) return file;
  }
  return undefined;
}

/** Installs without starting what the package would start: nobody asked for an SSH server on port 22. */
async function install(debianPackage: string): Promise<void> {
  const policy = '/usr/sbin/policy-rc.d';
  const ours = await writeFile(policy, '#!/bin/sh\nexit 101\n', { mode: 0o755, flag: 'wx' }).then(
    () => true,
    () => false,
  );
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' };
  const apt = (...args: string[]) => run('apt-get', args, { env });
  try {
    const argv = ['install', '-y', '--no-install-recommends', debianPackage] as const;
    await apt(...argv).catch(async () => {
      await apt('update');
      await apt(...argv);
    });
  } finally {
    if (ours) await rm(policy, { force: true });
  }
}

// --- Starting -------------------------------------------------------------------------------------------------------

/** Below the range from which systems take ports for outgoing connections, so that a stopped node can have its own again. */
function somePort(): number {
  return randomInt(12000, 32000);
}

interface Daemon {
  child: ChildProcess;
  ended: Promise<void>;
}

/** Servers that must not outlive this process. */
const running = new Set<ChildProcess>();
process.once('exit', () => running.forEach((child) => child.kill('SIGKILL')));

async function listenSomewhere(binary: string, options: SshdOptions): Promise<Daemon & { port: number }> {
  for (let attempt = 0; attempt < 50; attempt += 1) {
    const port = options.port ?? somePort();
    const daemon = await listen(binary, options, port);
    if (daemon) return { ...daemon, port };
    if (options.port) break;
  }
  throw new Error(options.port ? `port ${options.port} is in use` : 'found no free port for sshd');
}

/** The running server, or undefined where the port is taken. */
async function listen(binary: string, options: SshdOptions, port: number): Promise<Daemon | undefined> {
  const config = join(options.dir, 'sshd_config');
  const log = join(options.dir, 'sshd.log');
  await writeFile(config, await configText(binary, options, port));
  await writeFile(log, '');
  const [program, ...argv] = [...(options.under ?? []), binary, '-D', '-f', config, '-E', log];
  const child = spawn(program, argv, { stdio: 'ignore', env: {} });
  running.add(child);
  const ended = new Promise<void>((resolve) => child.once('close', () => resolve()).once('error', () => resolve()));
  void ended.then(() => running.delete(child));
  for (;;) {
    if ((await readFile(log, 'utf8')).includes('Server listening on') && !isOver(child)) return { child, ended };
    if (isOver(child)) {
      await ended;
      const said = (await readFile(log, 'utf8')).trim();
      if (said.includes('Address already in use')) return undefined;
      throw new Error(`sshd did not start: ${said || `exit code ${child.exitCode}`}`);
    }
    await Promise.race([ended, pause(10)]);
  }
}

function isOver(child: ChildProcess): boolean {
  return child.exitCode !== null || child.signalCode !== null || child.pid === undefined;
}

async function configText(binary: string, options: SshdOptions, port: number): Promise<string> {
  const { dir, host = '127.0.0.1', hostKeyTypes = ['ed25519'], maxStartups = '500:30:1000' } = options;
  // With SHLVL set, bash takes no start-up file for a command, slow as that may be.
  const env = Object.entries({ SHLVL: '1', ...options.env, [MARK]: options.mark ?? dir });
  const lines = [
    ...(options.config ?? []),
    `Port ${port}`,
    `ListenAddress ${host}`,
    ...hostKeyTypes.map((type) => `HostKey ${quote(hostKeyFile(dir, type))}`),
    `AuthorizedKeysFile ${quote(join(dir, 'authorized_keys'))}`,
    `PidFile ${quote(join(dir, 'sshd.pid'))}`,
    `SetEnv ${env.map(([key, value]) => quote(`${key}=${value}`)).join(' ')}`,
    `MaxStartups ${maxStartups}`,
    'StrictModes no',
    'UsePAM no',
    'UseDNS no',
    'PasswordAuthentication no',
    'KbdInteractiveAuthentication no',
    'PermitRootLogin prohibit-password',
    'PrintMotd no',
    'PrintLastLog no',
    ...((await hasPenalties(binary)) ? ['PerSourcePenalties no'] : []),
  ];
  return `${lines.join('\n')}\n`;
}

/** OpenSSH 9.8 began to shut out addresses whose logins fail; all our nodes share one. */
async function hasPenalties(binary: string): Promise<boolean> {
  const said = await run(binary, ['-V']).then(({ stderr }) => stderr, saidBy);
  const [, major = '0', minor = '0'] = /OpenSSH_(\d+)\.(\d+)/.exec(said) ?? [];
  return Number(major) * 100 + Number(minor) >= 908;
}

function quote(value: string): string {
  return `"${value.replaceAll('%', '%%')}"`;
}

function hostKeyFile(dir: string, type: HostKeyType): string {
  return join(dir, `host_${type}`);
}

async function makeHostKeys(dir: string, types: HostKeyType[]): Promise<void> {
  for (const type of types) {
    const file = hostKeyFile(dir, type);
    await Promise.all([rm(file, { force: true }), rm(`${file}.pub`, { force: true })]);
    await run('ssh-keygen', ['-q', '-t', type, '-N', '', '-C', 'fleet', '-f', file]);
  }
}

async function readKey(file: string): Promise<string[]> {
  const [type, key] = (await readFile(`${file}.pub`, 'utf8')).split(' ');
  return type && key ? [`${type} ${key}`] : [];
}

// --- Processes ------------------------------------------------------------------------------------------------------

interface ProcessEntry {
  pid: number;
  parent: number;
}

/** Ends these processes, all their descendants, and whatever carries the mark of that directory or of one below it. */
export async function endAll(roots: number[], mark?: string): Promise<void> {
  const doomed = async () => {
    const all = await processes();
    return [...new Set([...descendants(all, roots), ...(mark === undefined ? [] : await withMark(all, mark))])];
  };
  // Nothing may start children, or lose its parent, while we look.
  await signalUntilStill(doomed, 'SIGSTOP');
  for (let left = await doomed(); left.length > 0; left = await doomed()) {
    for (const pid of left) signal(pid, 'SIGKILL');
    await pause(5);
  }
}

/** Processes with that value of MARK, or one below it, in their environment. */
export async function marked(mark: string): Promise<number[]> {
  return withMark(await processes(), mark);
}

async function withMark(all: ProcessEntry[], mark: string): Promise<number[]> {
  const found = all.map(async ({ pid }) => {
    const environment = await readFile(`/proc/${pid}/environ`, 'utf8').catch(() => '');
    const value = environment.split('\0').find((entry) => entry.startsWith(`${MARK}=`));
    const path = value?.slice(MARK.length + 1);
    return pid !== process.pid && (path === mark || path?.startsWith(`${mark}/`)) ? [pid] : [];
  });
  return (await Promise.all(found)).flat();
}

/** Signals processes until no further ones are found. */
async function signalUntilStill(find: () => Promise<number[]>, name: NodeJS.Signals): Promise<void> {
  const done = new Set<number>();
  for (;;) {
    const fresh = (await find()).filter((pid) => !done.has(pid));
    if (fresh.length === 0) return;
    for (const pid of fresh) {
      signal(pid, name);
      done.add(pid);
    }
  }
}

/** These processes, their children and so on. */
function descendants(all: ProcessEntry[], roots: number[]): number[] {
  const found = all.filter((entry) => roots.includes(entry.pid)).map((entry) => entry.pid);
  for (const parent of found) found.push(...all.filter((entry) => entry.parent === parent).map((entry) => entry.pid));
  return found;
}

/** A name for a running process that no later one of the same number has; undefined where there is none. */
export async function identify(pid: number): Promise<string | undefined> {
  const fields = await statFields(pid);
  return fields && `${pid}@${fields[19]}`;
}

/** CPU time, in milliseconds, of a process and of every descendant of it that ended and was waited for. */
export async function cpuMsOf(pid: number): Promise<number> {
  const ticks = (await statFields(pid))?.slice(11, 15) ?? [];
  return ticks.reduce((sum, value) => sum + Number(value) * 10, 0); // Linux shows hundredths of a second
}

async function processes(): Promise<ProcessEntry[]> {
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name)).map(Number);
  const entries = await Promise.all(
    pids.map(async (pid): Promise<ProcessEntry[]> => {
      const fields = await statFields(pid);
      return fields ? [{ pid, parent: Number(fields[1]) }] : [];
    }),
  );
  return entries.flat();
}

/** The fields of /proc/PID/stat behind the name: state, parent and so on; undefined where the process is over. */
async function statFields(pid: number): Promise<string[] | undefined> {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => '');
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return fields.length < 20 || fields[0] === 'Z' || fields[0] === 'X' ? undefined : fields;
}

function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name);
  } catch {
    // It is gone already, or another user's by now.
  }
}

export function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
