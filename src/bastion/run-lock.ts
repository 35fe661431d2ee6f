/** One run over the whole fleet at a time on this machine: a lock in the state directory, which says who holds it. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { open, type FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { errorInfo, fault, ReconcileError } from '../core/errors.ts';
import { object, parseJson, ShapeError, size, text } from '../core/json.ts';
import type { Holder } from '../core/model/holder.ts';
import { readRegularFile } from '../system/file.ts';

const FILE = 'run.lock';
const MAX_BYTES = 4096;
const ASK_AGAIN_MS = 200;

/**
 * Takes the lock, and holds it until it is released or this process ends, however that ends. The kernel frees it: nobody has to
 * find out whether a holder is alive.
 * @param waitMs how long to wait for another holder
 * @returns what releases it
 * @throws ReconcileError RUN_LOCKED, CONFIG_INVALID where the lock cannot be made, or the signal's reason
 */
export async function takeRunLock(
  dir: string,
  me: Holder,
  { waitMs, signal }: { waitMs: number; signal: AbortSignal },
): Promise<() => Promise<void>> {
  const file = join(dir, FILE);
  let handle: FileHandle;
  try {
    handle = await open(file, 'a+', 0o600);
  } catch (error) {
    throw fault('CONFIG_INVALID', { problem: `${file} cannot be opened (${(error as NodeJS.ErrnoException).code})` });
  }
  const endsAt = performance.now() + waitMs;
  try {
    while (!(await isTaken(handle))) {
      if (performance.now() >= endsAt)
        throw new ReconcileError(errorInfo('RUN_LOCKED', { holder: await holderOf(file) }));
      await sleep(Math.min(ASK_AGAIN_MS, Math.max(1, endsAt - performance.now())), undefined, { signal });
    }
    await handle.truncate(0);
    await handle.appendFile(`${JSON.stringify(me)}\n`);
  } catch (error) {
    await handle.close();
    throw signal.aborted ? (signal.reason as Error) : error;
  }
  return async () => {
    await handle.truncate(0).catch(() => undefined); // a full disk keeps nothing from ending
    await handle.close();
  };
}

/** Whether the lock is ours now. It belongs to the open file, which `flock` shares with us, and so outlives `flock`. */
async function isTaken({ fd }: FileHandle): Promise<boolean> {
  const child = spawn('flock', ['--nonblock', '3'], { stdio: ['ignore', 'ignore', 'ignore', fd] });
  const [code] = (await Promise.race([
    once(child, 'close'),
    once(child, 'error').then(([error]) => {
      throw fault('CONFIG_INVALID', { problem: `flock cannot be run (${(error as NodeJS.ErrnoException).code})` });
    }),
  ])) as [number | null];
  return code === 0;
}

/** Who says to hold the lock; null where nothing tells. */
async function holderOf(file: string): Promise<Holder | null> {
  const read = await readRegularFile(file, MAX_BYTES);
  if (!('bytes' in read)) return null;
  try {
    const found = object(parseJson(read.bytes.toString('utf8'), FILE), FILE);
    const word = (key: string): string => text(found[key], key, 256);
    return {
      user: word('user'),
      host: word('host'),
      run: word('run'),
      since: word('since'),
      pid: size(found['pid'], 'pid'),
    };
  } catch (error) {
    if (!(error instanceof ShapeError)) throw error;
    return null; // it was taken a moment ago, and says so in the next
  }
}
