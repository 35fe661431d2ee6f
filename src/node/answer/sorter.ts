/** Sorts the lines of the probe's answer as they come, within the bounds of `../limits.ts`. */
import { type ReconcileError, fault } from '../../core/errors.ts';
import type { Node } from '../../core/model/node.ts';
import { MAX_FILE_BYTES, MAX_LINES, MAX_LINES_OF_KIND, MORE_LINES_OF } from '../limits.ts';
import { createAnswer, splitMember, type RawAnswer } from './answer.ts';
import { createTooLarge, LINE_PARSERS } from './lines.ts';

/** Sorts the lines of an answer, each by its first word. */
export interface Sorter {
  raw: RawAnswer;
  /** @throws ReconcileError NODE_ANSWER_INVALID for a line that means nothing, and for one more than a node can have */
  take(line: string): void;
  /** Joins what came of a text so far, so that no line of it is kept on its own. */
  settle(): void;
  /** @throws ReconcileError NODE_ANSWER_INVALID where the last line needs another one */
  end(): void;
}

/**
 * The text of a file, of which more may come: a line `file`, then one with its name, then its own lines, each marked by `|`
 * so that nothing in a file can pass for a line of the answer.
 */
interface Text {
  name: string | null;
  parts: string[];
  /** The last ones, which are not joined yet. */
  lines: string[];
  bytes: number;
  /** The error of the line that began it. */
  invalid: () => ReconcileError;
}

/** A sorter for the answer of this node. */
export function createSorter({ name: host, cocoon: { rootDir } }: Node): Sorter {
  const raw = createAnswer();
  let lineNumber = 0;
  const countOf: Record<string, number> = {};
  let text: Text | null = null;

  const refuse = (what: string): ReconcileError => fault('NODE_ANSWER_INVALID', { host, what });
  const refuseMoreThan = (lines: string): ReconcileError =>
    refuse(`it has more than ${lines}, the most that is read of a node`);
  const countKind = (kind: string): void => {
    const most = MORE_LINES_OF[kind] ?? MAX_LINES_OF_KIND;
    countOf[kind] = (countOf[kind] ?? 0) + 1;
    if (countOf[kind] > most) throw refuseMoreThan(`${most} lines of the kind ${kind.slice(0, 20)}`);
  };
  const endText = (): void => {
    if (text === null) return;
    if (text.name === null) throw text.invalid();
    const [dir, member] = splitMember(text.name, rootDir);
    (raw.directories[dir] ?? raw).texts[member] = [...text.parts, ...text.lines].join('\n');
    text = null;
  };
  /** Whether the line belongs to the text, which ends where it does not. */
  const takeIntoText = (line: string): boolean => {
    if (text === null) return false;
    if (text.name === null) {
      text.name = line;
      return true;
    }
    if (!line.startsWith('|')) {
      endText();
      return false;
    }
    text.bytes += line.length;
    if (text.bytes > MAX_FILE_BYTES) throw createTooLarge(text.name, host);
    text.lines.push(line.slice(1));
    return true;
  };
  return {
    raw,
    take(line) {
      lineNumber += 1;
      if (lineNumber > MAX_LINES) throw refuseMoreThan(`${MAX_LINES} lines`);
      if (takeIntoText(line) || line === '') return;
      const space = line.indexOf(' ');
      const kind = space === -1 ? line : line.slice(0, space);
      const words = space === -1 ? '' : line.slice(space + 1);
      const number = lineNumber;
      const invalid = (): ReconcileError => refuse(`line ${number}: ${line.slice(0, 120)}`);
      countKind(kind);
      if (kind === 'file' && words === '') {
        text = { name: null, parts: [], lines: [], bytes: 0, invalid };
        return;
      }
      const parse = LINE_PARSERS.get(kind);
      if (parse === undefined) throw invalid();
      parse(raw, words, { host, rootDir, invalid });
    },
    settle() {
      if (text === null || text.lines.length < 2) return;
      text.parts.push(text.lines.join('\n'));
      text.lines = [];
    },
    end: endText,
  };
}
