// Advisory flock(2) locks on the sibling *.lock files.
//
// Node has no flock; flock(1) can lock a descriptor that it inherits. The lock belongs to the open file description,
// so it stays with us when flock(1) ends, and the kernel frees it when we close the descriptor or die.
import { spawn } from 'node:child_process';
import { closeSync, constants, openSync } from 'node:fs';
import { interrupt } from './interrupt.ts';
import { goSystemError } from './text.ts';

export interface Held {
  release(): void;
}

/** Waits without limit, until a signal comes. */
export async function lock(path: string): Promise<Held> {
  if (interrupt.aborted) throw new Error(`acquire flock ${path}: context canceled`);
  const fd = openLockFile(path);
  if (await flock(fd, '-x')) return { release: () => closeSync(fd) };
  closeSync(fd);
  throw new Error(`acquire flock ${path}: context canceled`);
}

/** Null when somebody else holds it. */
export async function tryLock(path: string): Promise<Held | null> {
  const fd = openLockFile(path);
  if (await flock(fd, '-xn')) return { release: () => closeSync(fd) };
  closeSync(fd);
  return null;
}

function openLockFile(path: string): number {
  try {
    return openSync(path, constants.O_CREAT | constants.O_RDONLY, 0o600);
  } catch (error) {
    throw new Error(`acquire flock ${path}: ${goSystemError('open', path, error)}`, { cause: error });
  }
}

function flock(fd: number, how: string): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const child = spawn('flock', [how, '3'], { stdio: ['ignore', 'ignore', 'inherit', fd] });
    const cancel = () => child.kill('SIGKILL');
    interrupt.addEventListener('abort', cancel, { once: true });
    child.on('error', reject);
    child.on('exit', (code) => {
      interrupt.removeEventListener('abort', cancel);
      resolve(code === 0);
    });
  });
}
