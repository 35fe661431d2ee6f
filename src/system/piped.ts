/** Text that comes through a pipe in the place of a file, as from `<(sops -d x)`: bounded, and ended by the deadline. */
import { fstat } from 'node:fs';
import { Socket } from 'node:net';
import { promisify } from 'node:util';
import { unlessAborted } from './deadline.ts';
import type { FileRead } from './file.ts';

/** What this process was given to read from. */
export interface Piped {
  stdin: () => AsyncIterable<Uint8Array>;
  signal: AbortSignal;
}

const DESCRIPTOR = /^\/(?:dev|proc\/self)\/fd\/(\d{1,4})$/;

/**
 * The descriptor that a path stands for: that of stdin, or one that a shell opened for `<(…)`. Null for any other path: a pipe
 * with a name may have nobody who writes, so it is no such file.
 */
export function descriptorOf(path: string): number | null {
  if (path === '-' || path === '/dev/stdin') return 0;
  const number = DESCRIPTOR.exec(path)?.[1];
  return number === undefined ? null : Number(number);
}

/** As `stdin` in messages, any other as it is. */
export function nameOfInput(path: string): string {
  return descriptorOf(path) === 0 ? 'stdin' : path;
}

/**
 * All that comes through a descriptor, to its end. Null where it is that of a file or of nothing: such a path is read as any other.
 * @throws the signal's reason
 */
export async function readPiped(descriptor: number, maxBytes: number, piped: Piped): Promise<FileRead | null> {
  if (descriptor === 0) return await readStream(piped.stdin(), maxBytes, piped.signal);
  const info = await promisify(fstat)(descriptor).catch(() => null);
  if (info === null || !(info.isFIFO() || info.isSocket())) return null;
  return await readStream(new Socket({ fd: descriptor, writable: false }), maxBytes, piped.signal);
}

async function readStream(chunks: AsyncIterable<Uint8Array>, maxBytes: number, signal: AbortSignal): Promise<FileRead> {
  const parts: Uint8Array[] = [];
  let length = 0;
  const iterator = chunks[Symbol.asyncIterator]();
  for (;;) {
    const { done, value } = await unlessAborted(iterator.next(), signal);
    if (done === true) return { bytes: Buffer.concat(parts) };
    length += value.length;
    if (length > maxBytes) return { problem: `is larger than ${maxBytes / 1024} KiB`, cause: 'large' };
    parts.push(value);
  }
}
