/** Files that a person or a config names: read whole, bounded, and never waited for. */
import { constants } from 'node:fs';
import { open, type FileHandle } from 'node:fs/promises';

/** The bytes of a file, or what is wrong, as the end of a sentence that begins with its name. */
export type FileRead =
  { bytes: Buffer } | { problem: string; cause: 'absent' | 'denied' | 'irregular' | 'large' | 'failed' };

/** The number of /dev/null on Linux (major 1, minor 3): people name it for a file that holds nothing. */
const NULL_DEVICE = 0x1_03;
const CHUNK_BYTES = 2 ** 16;

/** Reads a regular file. Pipes, sockets, devices and what is larger are refused: they may never end. */
export async function readRegularFile(file: string, maxBytes: number): Promise<FileRead> {
  let handle: FileHandle | undefined;
  try {
    // without O_NONBLOCK a pipe without a writer would be waited for
    handle = await open(file, constants.O_RDONLY | constants.O_NONBLOCK);
    const info = await handle.stat();
    if (info.isCharacterDevice() && info.rdev === NULL_DEVICE) return { bytes: Buffer.alloc(0) };
    if (!info.isFile()) return { problem: 'is not a regular file', cause: 'irregular' };
    const bytes = info.size > maxBytes ? null : await readUpTo(handle, info.size, maxBytes);
    return bytes === null ? { problem: `is larger than ${maxBytes / 1024} KiB`, cause: 'large' } : { bytes };
  } catch (error) {
    const { code = '', message } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ENOTDIR') return { problem: 'does not exist', cause: 'absent' };
    if (code === 'EACCES') return { problem: 'cannot be read: permission denied', cause: 'denied' };
    if (code === 'ENXIO') return { problem: 'is not a regular file', cause: 'irregular' }; // a socket
    return { problem: `cannot be read: ${message}`, cause: 'failed' };
  } finally {
    await handle?.close();
  }
}

/** To the end of the file; null where that lies beyond the bound. A single read may give less than there is. */
async function readUpTo(handle: FileHandle, expected: number, maxBytes: number): Promise<Buffer | null> {
  const parts: Buffer[] = [];
  let length = 0;
  for (let want = expected + 1; ; want = CHUNK_BYTES) {
    const { bytesRead, buffer } = await handle.read(Buffer.allocUnsafe(want), 0, want, null);
    if (bytesRead === 0) return Buffer.concat(parts, length);
    length += bytesRead;
    if (length > maxBytes) return null;
    parts.push(buffer.subarray(0, bytesRead));
  }
}
