/** The probe's answer as it comes, piece by piece: what lies between its two marks is sorted at once, and bounded. */
import { fault } from '../../core/errors.ts';
import { firstLine, formatBytes } from '../../core/text.ts';
import type { Node } from '../../core/model/node.ts';
import { MAX_BYTES_BEFORE, MAX_FILE_BYTES } from '../limits.ts';
import type { RawAnswer } from './answer.ts';
import { readHeads } from './heads.ts';
import { createSorter } from './sorter.ts';

/** Takes an answer in pieces: none is ever held whole, and no piece takes long. */
export interface AnswerReader {
  /**
   * @returns whether all of it has come; what comes after that is no part of it
   * @throws ReconcileError NODE_ANSWER_INVALID as soon as a line means nothing, or more came than a node can have
   */
  push(piece: Buffer): boolean;
  /** Whether the first mark has come: then the probe runs there. */
  hasBegun(): boolean;
  /** The first line of what came where no mark has: a machine that runs nothing says why. Empty where nothing came. */
  firstLine(): string;
  /**
   * What was said; null where a mark is missing.
   * @throws ReconcileError NODE_ANSWER_INVALID
   */
  end(): RawAnswer | null;
}

const NEWLINE = 10;
/** Bytes that `head -v` writes before the beginning of a file, beside its path. */
const HEAD_LINE_BYTES = 128;
/** Bytes of the beginnings of files that came after the directories had been listed. */
const NEW_HEADS_BYTES = 2 ** 20;

/** @param headBytes how much of the beginning of each file was asked for */
export function createAnswerReader(nonce: string, node: Node, headBytes: number): AnswerReader {
  const begin = `cocoon-probe 1 ${nonce}\n`;
  const last = `cocoon-probe end ${nonce}`;
  const sorter = createSorter(node);
  let stage: 'before' | 'lines' | 'heads' | 'after' = 'before';
  /** What came in this stage and is not used yet: output that is not ours, a part of a line, the beginnings of files. */
  let kept: Buffer[] = [];
  let keptBytes = 0;
  let maxHeadsBytes = 0;
  let seam: Buffer = Buffer.alloc(0);
  let heads: Buffer | null = null;

  const refuse = (what: string): never => {
    throw fault('NODE_ANSWER_INVALID', { host: node.name, what });
  };
  const keep = (piece: Buffer, max: number, what: string): void => {
    if (piece.length === 0) return;
    kept.push(piece);
    keptBytes += piece.length;
    if (keptBytes > max) refuse(what);
  };
  const unkeep = (): Buffer => {
    const all = Buffer.concat(kept, keptBytes);
    kept = [];
    keptBytes = 0;
    return all;
  };
  /** What shell start-up files print before the first mark is not part of the answer. */
  const look = (piece: Buffer): void => {
    kept.push(piece);
    keptBytes += piece.length;
    const all = unkeep();
    const at = all.indexOf(begin);
    if (at === -1) return keep(all, MAX_BYTES_BEFORE, `more than ${MAX_BYTES_BEFORE} bytes of output came before it`);
    stage = 'lines';
    takeLines(all.subarray(at + begin.length));
  };
  const takeLines = (piece: Buffer): void => {
    let from = 0;
    for (let to = piece.indexOf(NEWLINE); to !== -1; to = piece.indexOf(NEWLINE, from)) {
      const bytes = piece.subarray(from, to);
      from = to + 1;
      const line = (kept.length === 0 ? bytes : Buffer.concat([unkeep(), bytes])).toString('utf8');
      if (line === last) {
        stage = 'after';
        return;
      }
      if (line === 'heads') {
        stage = 'heads';
        maxHeadsBytes = countHeadsBytes(sorter.raw, headBytes);
        return takeHeads(piece.subarray(from));
      }
      sorter.take(line);
    }
    sorter.settle();
    keep(piece.subarray(from), MAX_FILE_BYTES, `a line of it is longer than ${formatBytes(MAX_FILE_BYTES)}`);
  };
  const takeHeads = (piece: Buffer): void => {
    const end = `\n${last}\n`;
    const joined = Buffer.concat([seam, piece]); // the mark may have begun in the piece before
    const at = joined.indexOf(end);
    if (at === -1) {
      seam = joined.subarray(-end.length + 1);
      return keep(piece, maxHeadsBytes, `the beginnings of its files are more than ${formatBytes(maxHeadsBytes)}`);
    }
    stage = 'after';
    kept.push(piece);
    heads = Buffer.concat(kept, keptBytes - seam.length + at);
  };

  return {
    push(piece) {
      if (stage === 'before') look(piece);
      else if (stage === 'lines') takeLines(piece);
      else if (stage === 'heads') takeHeads(piece);
      return stage === 'after';
    },
    hasBegun: () => stage !== 'before',
    firstLine: () => (stage === 'before' ? firstLine(Buffer.concat(kept, keptBytes).toString('utf8')) : ''),
    end() {
      if (stage !== 'after') return null;
      sorter.end();
      if (heads !== null) readHeads(heads, sorter.raw, node, headBytes);
      return sorter.raw;
    },
  };
}

/** So many bytes the beginnings of all files that were told of have at most, with the lines that name them. */
function countHeadsBytes({ blobs, directories }: RawAnswer, headBytes: number): number {
  const paths = Object.keys(directories).reduce((sum, path) => sum + Buffer.byteLength(path), 0);
  const files = Object.keys(blobs).length + Object.keys(directories).length;
  return files * (headBytes + HEAD_LINE_BYTES) + paths + NEW_HEADS_BYTES;
}
