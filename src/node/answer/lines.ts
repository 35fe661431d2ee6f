/**
 * The grammar of the probe's answer: what each kind of line means, by its first word. `../probe.sh` writes these lines. In
 * the forms below, PATH is absolute or lies below the root directory, DIR/./NAME is a file of a snapshot, and numbers are
 * decimal. Three kinds are not in this table, because what follows them belongs to them: `file`, which begins a text
 * (`sorter.ts`), and `heads` and the two marks, which divide the answer (`stream.ts`).
 */
import { fault, type ReconcileError } from '../../core/errors.ts';
import { leftoverAt } from '../../core/plan/leftovers.ts';
import { formatBytes } from '../../core/text.ts';
import type { FileState } from '../../core/model/observed.ts';
import { MAX_FILE_BYTES } from '../limits.ts';
import { makeAbsolute, splitMember, type RawAnswer } from './answer.ts';

/** What a line is read with beside its words. */
export interface LineContext {
  host: string;
  rootDir: string;
  /** The error of a line that means nothing. */
  invalid: () => ReconcileError;
}

/**
 * Takes what a line says into the answer.
 * @param words the line without its first word
 * @throws ReconcileError NODE_ANSWER_INVALID
 */
type LineParser = (answer: RawAnswer, words: string, context: LineContext) => void;

const PARSERS: Record<string, LineParser> = {
  /** `machine NAME`: the name of `uname -m`. */
  machine: (answer, words, { invalid }) => {
    answer.machine = checkWord(words, invalid);
  },
  /** `version TEXT`: what `cocoon version` says. */
  version: (answer, words, { invalid }) => {
    answer.version = checkWord(words, invalid);
  },
  /** `missing cocoon`: there is no such program. */
  missing: (answer) => {
    answer.cocoonMissing = true;
  },
  /** `denied PATH`: it is there and not for this user to read. */
  denied: (answer, words, { rootDir }) => {
    answer.denied.push(makeAbsolute(words, rootDir).replace('/./', '/'));
  },
  /** `walk`: the directories are listed from here on. */
  walk: (answer) => {
    answer.walk = 'begun';
  },
  /** `walked`: they can be listed. */
  walked: (answer) => {
    answer.walk = 'done';
  },
  /** `scratch DIR`: where the private copy of a SQLite store lies. */
  scratch: (answer, words) => {
    answer.scratchDir = words;
  },
  /** `unmade TEXT`: why there is no such copy. */
  unmade: (answer, words) => {
    answer.unmade = words;
  },
  /** `unsettled`: the store changed whenever it was copied. */
  unsettled: (answer) => {
    answer.unsettled = true;
  },
  /** `store converting`, `store missing` or `store sqlite`. */
  store: (answer, words) => {
    if (words === 'converting') answer.converting = true;
    else if (words === 'missing') answer.storeMissing = [];
    else answer.sqlite = true;
  },
  /** `kept BY DIR`, after `store missing`: who says that cocoon keeps its store there. */
  kept: (answer, words, { invalid }) => {
    const [, by, dir] = /^(login|vk-cocoon|default) (.+)$/s.exec(words) ?? [];
    if (by === undefined || dir === undefined) throw invalid();
    answer.storeMissing?.push({ by, dir: dir.replace(/^(["'])(.*)\1$/s, '$2') });
  },
  /** `free BYTES`: where a pull would write. */
  free: (answer, words, { invalid }) => {
    answer.freeBytes = parseNumber(words.trim(), invalid);
  },
  /** `listed KIND CODE`: how `cocoon KIND list` ended; the texts KIND-list and KIND-errors are what it said. */
  listed: (answer, words, { invalid }) => {
    const [kind = '', code = ''] = words.split(' ');
    answer.listed[kind] = parseNumber(code, invalid);
  },
  /** `index BYTES PATH`: an index; its text follows, but that of an empty one does not. */
  index: (answer, words, { host, invalid }) => {
    const [, bytes, name] = /^(\d+) (.+)$/s.exec(words) ?? [];
    if (name === undefined) throw invalid();
    if (parseNumber(bytes as string, invalid) > MAX_FILE_BYTES) throw createTooLarge(name, host);
    answer.texts[name] = '';
  },
  /** `blob TYPE BYTES INODE MTIME HEX.qcow2`. A name that is no digest is no blob: a file set aside, or a stranger's. */
  blob: (answer, words, { invalid }) => {
    const [, type, bytes, stamp, name] = /^(.) (\d+) (\d+ [\d.]+) ([0-9a-f]{64})\.qcow2$/.exec(words) ?? [];
    if (name === undefined) return;
    answer.blobs[name] = {
      regular: type === 'f',
      sizeBytes: parseNumber(bytes as string, invalid),
      header: null,
      stamp: `${bytes} ${stamp}`,
      sha256: null,
      proofs: {},
      unhashed: null,
    };
  },
  /** `left BYTES`: what an interrupted pull left behind. */
  left: (answer, words, { invalid }) => {
    answer.leftBytes.push(parseNumber(words, invalid));
  },
  /** `ours PATH`: what a change of ours left behind, or is at work with. */
  ours: (answer, words) => {
    const leftover = leftoverAt(words);
    if (leftover !== null) answer.leftovers.push(leftover);
  },
  /** `path file PATH` or `path none PATH`: whether a file with something in it is there. */
  path: (answer, words, { rootDir, invalid }) => {
    const [, state, path] = /^(file|none) (.+)$/s.exec(words) ?? [];
    if (path === undefined) throw invalid();
    answer.files[makeAbsolute(path, rootDir)] = state as FileState;
  },
  /** `snapshot DIR/.`: a directory of a snapshot. */
  snapshot: (answer, words, { rootDir, invalid }) => {
    if (!words.endsWith('/.')) throw invalid();
    answer.directories[makeAbsolute(words.slice(0, -2), rootDir)] = {
      files: {},
      texts: {},
      backing: null,
      hasHead: false,
      headNeeds: 0,
    };
  },
  /** `has BYTES DIR/./NAME`: a file of a snapshot, after the line of its directory. */
  has: (answer, words, { rootDir, invalid }) => {
    const [, bytes, path] = /^(\d+) (.+)$/s.exec(words) ?? [];
    const [dir, member] = splitMember(path ?? '', rootDir);
    const directory = answer.directories[dir];
    if (directory === undefined) throw invalid();
    directory.files[member] = parseNumber(bytes as string, invalid);
  },
};

/** First word → what takes such a line; a word of a node is no key of an object. */
export const LINE_PARSERS: ReadonlyMap<string, LineParser> = new Map(Object.entries(PARSERS));

/** The error of a file that is larger than any is read. */
export function createTooLarge(name: string, host: string): ReconcileError {
  return fault('NODE_ANSWER_INVALID', { host, what: `${name} is larger than ${formatBytes(MAX_FILE_BYTES)}` });
}

function checkWord(said: string, invalid: () => Error): string {
  // oxlint-disable-next-line no-control-regex -- refusing control characters is the point
  if (said.length > 100 || /[\x00-\x1f\x7f-\x9f]/.test(said)) throw invalid();
  return said;
}

function parseNumber(digits: string, invalid: () => Error): number {
  const value = Number(digits);
  if (!/^\d{1,16}$/.test(digits) || !Number.isSafeInteger(value)) throw invalid();
  return value;
}
