/** The beginnings of blobs and overlays, which end the probe's answer. */
import { fault } from '../../core/errors.ts';
import { backingPlace, HEADER_BYTES, UNREADABLE } from '../../core/qcow2.ts';
import type { Node } from '../../core/model/node.ts';
import { splitMember, type RawAnswer } from './answer.ts';

/**
 * The first bytes of blobs and overlays, one after the other as `head -v` writes them. What one file holds cannot pass for
 * another one: each must be named once.
 * @param headBytes how much of each was asked for
 * @throws ReconcileError NODE_ANSWER_INVALID
 */
export function readHeads(
  heads: Buffer,
  raw: RawAnswer,
  { name: host, cocoon: { rootDir } }: Node,
  headBytes: number,
): void {
  const text = heads.toString('latin1');
  const seen = new Set<string>();
  let take: ((head: Buffer) => void) | null = null;
  let from = 0;
  for (const match of text.matchAll(HEAD)) {
    const name = Buffer.from(match[1] as string, 'latin1').toString();
    const taker = findTaker(name, raw, rootDir, headBytes);
    if (taker === null) continue;
    if (seen.has(name)) throw fault('NODE_ANSWER_INVALID', { host, what: `${name} seems to begin twice` });
    seen.add(name);
    take?.(heads.subarray(from, match.index));
    take = taker;
    from = match.index + match[0].length;
  }
  take?.(heads.subarray(from));
}

const HEAD = /(?:^|\n)==> ([^\n]+) <==\n/g;

/**
 * True where a file is there whose beginning was not read: it went away meanwhile, or `head` did not work. Nothing is known
 * of it then, least of all that it is bad.
 */
export function isUnread({ blobs, directories }: RawAnswer): boolean {
  return (
    Object.values(blobs).some(({ regular, sizeBytes, header }) => regular && sizeBytes > 0 && header === null) ||
    Object.values(directories).some(({ files, hasHead }) => (files[OVERLAY] ?? 0) > 0 && !hasHead)
  );
}

/** What the beginning of this file is good for; null for one that was not asked for. */
function findTaker(name: string, raw: RawAnswer, rootDir: string, headBytes: number): ((head: Buffer) => void) | null {
  const blob = /^cloudimg\/blobs\/([0-9a-f]{64})\.qcow2$/.exec(name)?.[1];
  const fact = blob === undefined ? undefined : raw.blobs[blob];
  // a file that cannot be read begins too, with nothing
  const isWhole = (head: Buffer, bytes: number, wanted: number): boolean => head.length >= Math.min(bytes, wanted);
  if (fact !== undefined) {
    return (head) => {
      if (isWhole(head, fact.sizeBytes, HEADER_BYTES)) fact.header = head.toString('hex', 0, HEADER_BYTES);
    };
  }
  const [dir, member] = splitMember(name, rootDir);
  const directory = member === OVERLAY ? raw.directories[dir] : undefined;
  if (directory === undefined) return null;
  const bytes = directory.files[OVERLAY] ?? 0;
  return (head) => {
    directory.hasHead = isWhole(head, bytes, headBytes);
    const backing = backingPlace(head);
    if (backing === null) return;
    if (backing.to <= head.length) {
      directory.backing = head.toString('utf8', backing.from, backing.to).replaceAll(/\p{Cc}/gu, UNREADABLE);
    } else if (backing.to <= bytes) {
      directory.backing = UNREADABLE;
      if (backing.to <= MAX_HEAD_BYTES) directory.headNeeds = backing.to;
    }
  };
}

const OVERLAY = 'overlay.qcow2';

/** An overlay that names its base further behind is none of qemu's, which does so within the first kilobytes. */
const MAX_HEAD_BYTES = 65_536;
