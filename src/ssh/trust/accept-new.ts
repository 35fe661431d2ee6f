/**
 * `strictHostKeyChecking: accept-new`: keys of hosts that nobody knows yet are appended to a known_hosts file, whole
 * lines under a lock. The lock is flock(2) on the file itself, held by a descriptor of ours: the kernel frees it however
 * this process ends, and nothing is left behind.
 */
import { spawn } from 'node:child_process';
import { mkdir, open, stat, type FileHandle } from 'node:fs/promises';
import { dirname } from 'node:path';
import { fault, type ReconcileError } from '../../core/errors.ts';
import { indexLines, joinKnownHosts, keyType, lookupName, parseKnownHosts } from './known-hosts.ts';
import type { HostKeyVerdict, KnownHostLine } from './known-hosts.ts';

/** A key, and for whom it is to be remembered. */
export interface NewKey {
  host: string;
  port: number;
  blob: Buffer;
}

/** Remembers keys of hosts that nobody knows yet. */
export interface Acceptor {
  /**
   * Appends the key, unless another process has added one for that host since the file was read: then the verdict is
   * about that one. Keys that wait at the same time are written under one lock.
   * @returns the verdict, and the line where the file knows the key
   * @throws CONFIG_INVALID where the file cannot be written, or there is no `flock`
   */
  accept(file: string, key: NewKey): Promise<{ verdict: HostKeyVerdict; line: KnownHostLine | null }>;
}

type Accepted = Awaited<ReturnType<Acceptor['accept']>>;

interface Waiting {
  key: NewKey;
  resolve: (accepted: Accepted) => void;
  reject: (error: unknown) => void;
}

/** @param signal ends the wait for a lock that another process holds */
export function createAcceptor(signal: AbortSignal): Acceptor {
  const queues = new Map<string, Waiting[]>();

  const drain = async (file: string, queue: Waiting[]): Promise<void> => {
    while (queue.length > 0) {
      const batch = queue.splice(0);
      try {
        const accepted = await underLock(file, signal, (handle) =>
          append(
            handle,
            file,
            batch.map(({ key }) => key),
          ),
        );
        for (const [i, { resolve }] of batch.entries()) resolve(accepted[i] as Accepted);
      } catch (error) {
        for (const { reject } of batch) reject(error);
      }
    }
    queues.delete(file);
  };

  return {
    accept: (file, key) =>
      new Promise((resolve, reject) => {
        const waiting = { key, resolve, reject };
        const queue = queues.get(file);
        if (queue !== undefined) return void queue.push(waiting);
        const fresh = [waiting];
        queues.set(file, fresh);
        void drain(file, fresh);
      }),
  };
}

/** Judges each key by what the file holds now, and writes those that are still unknown in one go. */
async function append(handle: FileHandle, file: string, keys: NewKey[]): Promise<Accepted[]> {
  const text = await handle.readFile('utf8');
  const lines = parseKnownHosts(text, file);
  const index = indexLines(lines);
  const known = joinKnownHosts([index]);
  const torn = text !== '' && !text.endsWith('\n');
  let next = text.split('\n').length + (torn ? 1 : 0);
  let added = '';
  const accepted = keys.map(({ host, port, blob }): Accepted => {
    const verdict = known.check(host, port, blob);
    if (verdict.verdict !== 'unknown') {
      const line = lines.find((one) => one.marker === 'none' && one.blob.equals(blob)) ?? null;
      return { verdict, line: verdict.verdict === 'ok' ? line : null };
    }
    const hosts = lookupName(host, port);
    const type = keyType(blob);
    const line: KnownHostLine = { file, line: next, marker: 'none', hosts, type, blob };
    next += 1;
    added += `${hosts} ${type} ${blob.toString('base64')}\n`;
    lines.push(line);
    index.add(line);
    return { verdict: { verdict: 'ok' }, line };
  });
  if (added !== '') await handle.appendFile(torn ? `\n${added}` : added);
  return accepted;
}

const WHERE_ADDED = 'strictHostKeyChecking accept-new adds keys to the first of ssh.knownHostsFile';

async function underLock<T>(file: string, signal: AbortSignal, work: (handle: FileHandle) => Promise<T>): Promise<T> {
  for (;;) {
    try {
      await mkdir(dirname(file), { recursive: true, mode: 0o700 });
      const handle = await open(file, 'a+', 0o600);
      try {
        if (!(await handle.stat()).isFile()) throw notAFile(file);
        await lock(handle, signal);
        if (await isStill(handle, file)) return await work(handle);
      } finally {
        await handle.close(); // frees the lock
      }
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code === undefined || signal.aborted) throw error;
      const problem = `known_hosts file ${file} cannot be written (${code})`;
      throw fault('CONFIG_INVALID', { problem, hint: WHERE_ADDED }, error);
    }
  }
}

/** Nothing but a file is read: reading a pipe may never end. */
function notAFile(file: string): ReconcileError {
  const problem = `known_hosts file ${file} cannot be written (it is not a regular file)`;
  return fault('CONFIG_INVALID', { problem, hint: WHERE_ADDED });
}

/** False where another file has taken the name meanwhile, as `ssh-keygen -R` does it: then it is to be locked anew. */
async function isStill(handle: FileHandle, file: string): Promise<boolean> {
  const [ours, there] = await Promise.all([handle.stat(), stat(file).catch(() => null)]);
  return there !== null && ours.ino === there.ino && ours.dev === there.dev;
}

/** The child shares our descriptor, so that the lock outlives it. */
function lock(handle: FileHandle, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const child = spawn('flock', ['-x', '3'], { stdio: ['ignore', 'ignore', 'ignore', handle.fd], signal });
    child.once('error', (error: NodeJS.ErrnoException) => {
      if (error.code !== 'ENOENT') return reject(error);
      const problem = 'strictHostKeyChecking accept-new needs the program flock (util-linux)';
      reject(fault('CONFIG_INVALID', { problem, hint: 'install it, or add the keys with ssh-keyscan' }, error));
    });
    child.once('close', (code) => {
      if (code === 0) resolve();
      else reject(new Error(`flock ended with ${code}`));
    });
  });
}
