/** The probe's answer, line by line: sorted by kind and bounded, but not yet understood (`node-read.ts` does that). */
import { type ReconcileError, fault } from '../core/errors.ts';
import { leftoverAt } from '../core/leftovers.ts';
import type { BlobFact, FileState, Leftover } from '../core/types.ts';

const MAX_FILE_CHARACTERS = 8 * 2 ** 20;

/** The lines between the two marks. What shell start-up files print before the first mark is not part of the answer. */
export function linesBetween(answer: string, nonce: string): string[] | null {
  const begin = `cocoon-probe 1 ${nonce}\n`;
  const end = `\ncocoon-probe end ${nonce}\n`;
  const from = answer.indexOf(begin);
  if (from === -1 || !answer.endsWith(end)) return null;
  return answer.slice(from + begin.length, -end.length).split('\n');
}

/** A snapshot's directory as the probe saw it. */
export interface DirectoryFact {
  files: Record<string, number>;
  texts: Record<string, string>;
  backing: string | null;
}

/** The answer, sorted by kind of line but not yet understood. */
export interface RawAnswer {
  machine: string;
  version: string;
  cocoonMissing: boolean;
  converting: boolean;
  sqlite: boolean;
  failed: string | null;
  denied: string[];
  freeBytes: number | null;
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

/**
 * The lines of the answer, each sorted by its first word.
 * @throws ReconcileError NODE_ANSWER_INVALID
 */
export function tokenise(lines: string[], host: string): RawAnswer {
  const raw: RawAnswer = {
    machine: '',
    version: '',
    cocoonMissing: false,
    converting: false,
    sqlite: false,
    failed: null,
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
  let directory: DirectoryFact | null = null;
  for (let i = 0; i < lines.length; i += 1) {
    const line = lines[i] as string;
    if (line === '') continue;
    const space = line.indexOf(' ');
    const key = space === -1 ? line : line.slice(0, space);
    const rest = space === -1 ? '' : line.slice(space + 1);
    const invalid = (): ReconcileError =>
      fault('NODE_ANSWER_INVALID', { host, what: `line ${i + 1}: ${line.slice(0, 120)}` });
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
        raw.denied.push(rest);
        break;
      case 'failed':
        raw.failed = rest;
        break;
      case 'store':
        if (rest === 'converting') raw.converting = true;
        else raw.sqlite = true;
        break;
      case 'free':
        raw.freeBytes = number(rest.trim(), invalid);
        break;
      case 'listed': {
        const [kind = '', code = ''] = rest.split(' ');
        raw.listed[kind] = number(code, invalid);
        break;
      }
      case 'file': {
        let end = i + 1;
        while (end < lines.length && (lines[end] as string).startsWith('|')) end += 1;
        const content = lines
          .slice(i + 1, end)
          .map((marked) => marked.slice(1))
          .join('\n');
        if (content.length > MAX_FILE_CHARACTERS)
          throw fault('NODE_ANSWER_INVALID', { host, what: `${rest} is larger than 8 MiB` });
        (directory?.texts ?? raw.texts)[rest] = content;
        i = end - 1;
        break;
      }
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
      case 'head': {
        const [, name, bytes] = /^([0-9a-f]{64})\.qcow2 ((?: [0-9a-f]{2}){1,20})$/.exec(rest) ?? [];
        const blob = name === undefined ? undefined : raw.blobs[name];
        if (blob !== undefined) blob.header = (bytes as string).replaceAll(' ', '');
        break;
      }
      case 'path': {
        const [, state, path] = /^(file|empty|absent) (\/.*)$/.exec(rest) ?? [];
        if (path === undefined) throw invalid();
        raw.files[path] = state as FileState;
        break;
      }
      case 'snapshot':
        directory = { files: {}, texts: {}, backing: null };
        raw.directories[rest] = directory;
        break;
      case 'has': {
        const [, bytes, name] = /^(\d+) (.+)$/.exec(rest) ?? [];
        if (directory === null || name === undefined) throw invalid();
        directory.files[name] = number(bytes as string, invalid);
        break;
      }
      case 'backing':
        if (directory === null || !/^( [0-9a-f]{2})+$/.test(rest)) throw invalid();
        directory.backing = Buffer.from(rest.replaceAll(' ', ''), 'hex').toString('utf8');
        break;
      default:
        throw invalid();
    }
  }
  return raw;
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
