/** The probe's answer, line by line: sorted by kind and bounded, but not yet understood (`node-facts.ts` does that). */
import { type ReconcileError, fault } from '../core/errors.ts';
import { leftoverAt } from '../core/plan/leftovers.ts';
import { backingPlace, HEADER_BYTES, UNREADABLE } from '../core/qcow2.ts';
import { formatBytes } from '../core/text.ts';
import type { Node } from '../core/model/node.ts';
import type { BlobFact, FileState, Leftover } from '../core/model/observed.ts';
import { MAX_FILE_BYTES, MAX_LINES, MAX_LINES_OF_KIND, MORE_LINES_OF } from './limits.ts';

/** A snapshot's directory as the probe saw it. */
export interface DirectoryFact {
  files: Record<string, number>;
  texts: Record<string, string>;
  /** What its overlay opens. */
  backing: string | null;
  /** Whether the beginning of its overlay was read. */
  hasHead: boolean;
  /** So much of the overlay would tell that, in bytes, where too little of it was read. */
  headNeeds: number;
}

/** The answer, sorted by kind of line but not yet understood. */
export interface RawAnswer {
  machine: string;
  version: string;
  cocoonMissing: boolean;
  converting: boolean;
  /** Set where there is no store: who says where else cocoon keeps it, with the directory. */
  storeMissing: { by: string; dir: string }[] | null;
  sqlite: boolean;
  /** Why there was no private copy of a SQLite store to look at, in the words of what failed; and where it was to lie. */
  unmade: string | null;
  scratchDir: string;
  /** The store changed as often as it was copied. */
  unsettled: boolean;
  /** Whether the directories were to be listed, and were. */
  walk: 'begun' | 'done' | null;
  denied: string[];
  freeBytes: number | null;
  /** By the name of the file: an index by its path below the root directory, an answer of cocoon by its kind. */
  texts: Record<string, string>;
  listed: Record<string, number>;
  blobs: Record<string, BlobFact>;
  files: Record<string, FileState>;
  directories: Record<string, DirectoryFact>;
  /** Sizes of what interrupted pulls left behind. */
  leftBytes: number[];
  /** Files of ours. */
  leftovers: Leftover[];
}

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

export function createSorter({ name: host, cocoon: { rootDir } }: Node): Sorter {
  const raw: RawAnswer = {
    machine: '',
    version: '',
    cocoonMissing: false,
    converting: false,
    storeMissing: null,
    sqlite: false,
    unmade: null,
    scratchDir: '',
    unsettled: false,
    walk: null,
    denied: [],
    freeBytes: null,
    texts: {},
    listed: {},
    blobs: {},
    files: {},
    directories: {},
    leftBytes: [],
    leftovers: [],
  };
  let count = 0;
  const countOf: Record<string, number> = {};
  let text: Text | null = null;

  const refused = (what: string): ReconcileError => fault('NODE_ANSWER_INVALID', { host, what });
  const tooMany = (lines: string): ReconcileError =>
    refused(`it has more than ${lines}, the most that is read of a node`);
  const close = (): void => {
    if (text === null) return;
    if (text.name === null) throw text.invalid();
    const [dir, member] = placeOf(text.name, rootDir);
    (raw.directories[dir] ?? raw).texts[member] = [...text.parts, ...text.lines].join('\n');
    text = null;
  };
  const take = (line: string): void => {
    count += 1;
    if (count > MAX_LINES) throw tooMany(`${MAX_LINES} lines`);
    if (text !== null) {
      if (text.name === null) {
        text.name = line;
        return;
      }
      if (line.startsWith('|')) {
        text.bytes += line.length;
        if (text.bytes > MAX_FILE_BYTES) throw tooLarge(text.name, host);
        text.lines.push(line.slice(1));
        return;
      }
      close();
    }
    if (line === '') return;
    const space = line.indexOf(' ');
    const key = space === -1 ? line : line.slice(0, space);
    const rest = space === -1 ? '' : line.slice(space + 1);
    const place = count;
    const invalid = (): ReconcileError => refused(`line ${place}: ${line.slice(0, 120)}`);
    const most = MORE_LINES_OF[key] ?? MAX_LINES_OF_KIND;
    countOf[key] = (countOf[key] ?? 0) + 1;
    if (countOf[key] > most) throw tooMany(`${most} lines of the kind ${key.slice(0, 20)}`);
    switch (key) {
      case 'machine':
        raw.machine = word(rest, invalid);
        break;
      case 'version':
        raw.version = word(rest, invalid);
        break;
      case 'missing':
        raw.cocoonMissing = true;
        break;
      case 'denied':
        raw.denied.push(absolute(rest, rootDir).replace('/./', '/'));
        break;
      case 'walk':
        raw.walk = 'begun';
        break;
      case 'walked':
        raw.walk = 'done';
        break;
      case 'scratch':
        raw.scratchDir = rest;
        break;
      case 'unmade':
        raw.unmade = rest;
        break;
      case 'unsettled':
        raw.unsettled = true;
        break;
      case 'store':
        if (rest === 'converting') raw.converting = true;
        else if (rest === 'missing') raw.storeMissing = [];
        else raw.sqlite = true;
        break;
      case 'kept': {
        const [, by, dir] = /^(login|vk-cocoon|default) (.+)$/.exec(rest) ?? [];
        if (by === undefined || dir === undefined) throw invalid();
        raw.storeMissing?.push({ by, dir: dir.replace(/^(["'])(.*)\1$/, '$2') });
        break;
      }
      case 'free':
        raw.freeBytes = number(rest.trim(), invalid);
        break;
      case 'listed': {
        const [kind = '', code = ''] = rest.split(' ');
        raw.listed[kind] = number(code, invalid);
        break;
      }
      case 'index': {
        const [, bytes, name] = /^(\d+) (.+)$/.exec(rest) ?? [];
        if (name === undefined) throw invalid();
        if (number(bytes as string, invalid) > MAX_FILE_BYTES) throw tooLarge(name, host);
        raw.texts[name] = ''; // an empty one has no text that follows
        break;
      }
      case 'file':
        if (rest !== '') throw invalid();
        text = { name: null, parts: [], lines: [], bytes: 0, invalid };
        break;
      case 'blob': {
        const [, type, bytes, stamp, name] = /^(.) (\d+) (\d+ [\d.]+) ([0-9a-f]{64})\.qcow2$/.exec(rest) ?? [];
        // A name that is no digest is no blob: a file set aside, or a stranger's.
        if (name !== undefined) {
          const sizeBytes = number(bytes as string, invalid);
          raw.blobs[name] = {
            regular: type === 'f',
            sizeBytes,
            header: null,
            stamp: `${bytes} ${stamp}`,
            sha256: null,
            proofs: {},
            unhashed: null,
          };
        }
        break;
      }
      case 'left':
        raw.leftBytes.push(number(rest, invalid));
        break;
      case 'ours': {
        const left = leftoverAt(rest);
        if (left !== null) raw.leftovers.push(left);
        break;
      }
      case 'path': {
        const [, state, path] = /^(file|none) (.+)$/.exec(rest) ?? [];
        if (path === undefined) throw invalid();
        raw.files[absolute(path, rootDir)] = state as FileState;
        break;
      }
      case 'snapshot':
        if (!rest.endsWith('/.')) throw invalid();
        raw.directories[absolute(rest.slice(0, -2), rootDir)] = {
          files: {},
          texts: {},
          backing: null,
          hasHead: false,
          headNeeds: 0,
        };
        break;
      case 'has': {
        const [, bytes, path] = /^(\d+) (.+)$/.exec(rest) ?? [];
        const [dir, member] = placeOf(path ?? '', rootDir);
        const directory = raw.directories[dir];
        if (directory === undefined) throw invalid();
        directory.files[member] = number(bytes as string, invalid);
        break;
      }
      default:
        throw invalid();
    }
  };
  return {
    raw,
    take,
    settle() {
      if (text === null || text.lines.length < 2) return;
      text.parts.push(text.lines.join('\n'));
      text.lines = [];
    },
    end: close,
  };
}

/** The text of a file, of which more may come. */
interface Text {
  name: string | null;
  parts: string[];
  /** The last ones, which are not joined yet. */
  lines: string[];
  bytes: number;
  /** The error of the line that began it. */
  invalid: () => ReconcileError;
}

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
    const taker = takerOf(name, raw, rootDir, headBytes);
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
function takerOf(name: string, raw: RawAnswer, rootDir: string, headBytes: number): ((head: Buffer) => void) | null {
  const blob = /^cloudimg\/blobs\/([0-9a-f]{64})\.qcow2$/.exec(name)?.[1];
  const fact = blob === undefined ? undefined : raw.blobs[blob];
  // a file that cannot be read begins too, with nothing
  const isWhole = (head: Buffer, bytes: number, wanted: number): boolean => head.length >= Math.min(bytes, wanted);
  if (fact !== undefined) {
    return (head) => {
      if (isWhole(head, fact.sizeBytes, HEADER_BYTES)) fact.header = head.toString('hex', 0, HEADER_BYTES);
    };
  }
  const [dir, member] = placeOf(name, rootDir);
  const directory = member === OVERLAY ? raw.directories[dir] : undefined;
  if (directory === undefined) return null;
  const bytes = directory.files[OVERLAY] ?? 0;
  return (head) => {
    directory.hasHead = isWhole(head, bytes, headBytes);
    const place = backingPlace(head);
    if (place === null) return;
    if (place.to <= head.length) {
      directory.backing = head.toString('utf8', place.from, place.to).replaceAll(/\p{Cc}/gu, UNREADABLE);
    } else if (place.to <= bytes) {
      directory.backing = UNREADABLE;
      if (place.to <= MAX_HEAD_BYTES) directory.headNeeds = place.to;
    }
  };
}

const OVERLAY = 'overlay.qcow2';

/** An overlay that names its base further behind is none of qemu's, which does so within the first kilobytes. */
const MAX_HEAD_BYTES = 65_536;

function tooLarge(name: string, host: string): ReconcileError {
  return fault('NODE_ANSWER_INVALID', { host, what: `${name} is larger than ${formatBytes(MAX_FILE_BYTES)}` });
}

/** A path without a leading slash is one below the root directory. */
function absolute(path: string, rootDir: string): string {
  return path.startsWith('/') ? path : `${rootDir}/${path}`;
}

/** `DIR/./FILE`, a file of a snapshot → its directory and its name; all else has none. */
function placeOf(path: string, rootDir: string): [dir: string, member: string] {
  const end = path.lastIndexOf('/./');
  return end === -1 ? ['', path] : [absolute(path.slice(0, end), rootDir), path.slice(end + '/./'.length)];
}

function word(said: string, invalid: () => Error): string {
  // oxlint-disable-next-line no-control-regex -- refusing control characters is the point
  if (said.length > 100 || /[\x00-\x1f\x7f-\x9f]/.test(said)) throw invalid();
  return said;
}

function number(digits: string, invalid: () => Error): number {
  const value = Number(digits);
  if (!/^\d{1,16}$/.test(digits) || !Number.isSafeInteger(value)) throw invalid();
  return value;
}
