// Small file operations, with failures in Go's words.
import { randomBytes } from 'node:crypto';
import { type Stats, mkdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync, chmodSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { constants, inflateRawSync } from 'node:zlib';
import { goSystemError } from './text.ts';

/** Creates directories with mode 0750. */
export function ensureDirs(...dirs: string[]): void {
  for (const dir of dirs) {
    const first = firstMissing(dir);
    try {
      mkdirSync(dir, { recursive: true, mode: 0o750 });
    } catch (error) {
      const cause = goSystemError('mkdir', first, error);
      throw new Error(`ensure dirs: create directory ${dir}: ${cause}`, { cause: error });
    }
  }
}

/** The part of a path where creating it begins, or is barred by a file: what Go names when it fails. */
function firstMissing(dir: string): string {
  const parent = dirname(dir);
  const stat = statOrNull(parent);
  if (stat) return stat.isDirectory() ? dir : parent;
  return parent === dir ? dir : firstMissing(parent);
}

/** A regular file that is not empty: all that cocoon ever asks of a blob. */
export function isValidFile(path: string): boolean {
  return fileSize(path) > 0;
}

/** Size of a regular file, 0 where there is none. */
export function fileSize(path: string): number {
  const stat = statOrNull(path);
  return stat?.isFile() ? stat.size : 0;
}

/** Null also where a directory above may not be entered. */
function statOrNull(path: string): Stats | null {
  try {
    return statSync(path);
  } catch {
    return null;
  }
}

/** Throws `stat P: …` where nothing is there. */
export function requireFile(path: string): void {
  try {
    statSync(path);
  } catch (error) {
    throw new Error(goSystemError('stat', path, error), { cause: error });
  }
}

export function readFile(path: string): Buffer {
  try {
    return readFileSync(path);
  } catch (error) {
    const operation = (error as NodeJS.ErrnoException).code === 'EISDIR' ? 'read' : 'open';
    throw new Error(goSystemError(operation, path, error), { cause: error });
  }
}

/** Temporary file in the same directory, then rename: readers see the old document or the new one. */
export function writeAtomically(path: string, data: string): void {
  const temporary = join(dirname(path), `.tmp-${randomBytes(5).readUInt32BE()}`);
  try {
    writeFileSync(temporary, data, { mode: 0o600, flag: 'wx' });
    chmodSync(temporary, 0o644);
    renameSync(temporary, path);
  } catch (error) {
    rmSync(temporary, { force: true });
    throw new Error(`create temp file: ${goSystemError('open', temporary, error)}`, { cause: error });
  }
}

/** Unpacks gzip as Go's reader does when nobody looks at its trailer: neither checksum nor length are verified. */
export function gunzipLoosely(data: Buffer): Buffer {
  const flags = data[3] ?? 0;
  let at = 10;
  if (flags & 4) at += 2 + data.readUInt16LE(at);
  if (flags & 8) at = data.indexOf(0, at) + 1;
  if (flags & 16) at = data.indexOf(0, at) + 1;
  if (flags & 2) at += 2;
  return inflateRawSync(data.subarray(at), { finishFlush: constants.Z_SYNC_FLUSH });
}

/** A fresh identifier: 26 characters of base32. */
export function newId(): string {
  const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567';
  return Array.from(randomBytes(26), (byte) => alphabet[byte % 32]).join('');
}

/** The random part of temporary names. */
export function randomName(): string {
  return String(randomBytes(5).readUInt32BE());
}
