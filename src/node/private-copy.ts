/** The private copy on which a SQLite store is read: what a node says where it cannot be made or used, and what that means. */
import { fault, TEMP_HINT, type ReconcileError } from '../core/errors.ts';
import type { Node } from '../core/model/node.ts';

const FULL = /no space left|disk is full|quota exceeded/i;
const CLOSED = /permission denied|read-only|not permitted/i;
/** What `cp` says of the file that it reads. */
const SOURCE = /cannot open|cannot stat|error reading/;

/** True for the words of a program that found no room for what it wrote. */
export function isFull(said: string): boolean {
  return FULL.test(said);
}

/**
 * The error of a private copy that could not be made. Only what was said of the store itself is held against the store.
 * @param said the words of mktemp, mkdir, cp or cocoon
 */
export function explainCopyFailure(dir: string, said: string, { name: host, user }: Node): ReconcileError {
  if (SOURCE.test(said)) return fault('NODE_INDEX_CORRUPT', { host, what: said });
  if (isFull(said)) return fault('NO_SPACE', { host, dir, said });
  if (CLOSED.test(said)) {
    const what = `its store is read on a private copy, and ${dir} takes none: ${said}`;
    return fault('NODE_PERMISSION_DENIED', { host, user, what, hint: TEMP_HINT });
  }
  return fault('NODE_TEMP_UNUSABLE', { host, dir, said });
}
