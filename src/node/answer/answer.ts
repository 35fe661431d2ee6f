/** The probe's answer as plain data: sorted by kind of line, but not yet understood (`../facts.ts` does that). */
import type { BlobFact, FileState, Leftover } from '../../core/model/observed.ts';

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

/** What the lines of an answer say, sorted but not yet understood. */
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

/** An answer that says nothing yet. */
export function createAnswer(): RawAnswer {
  return {
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
}

/** A path without a leading slash is one below the root directory. */
export function makeAbsolute(path: string, rootDir: string): string {
  return path.startsWith('/') ? path : `${rootDir}/${path}`;
}

/** `DIR/./FILE`, a file of a snapshot → its directory and its name; all else has none. */
export function splitMember(path: string, rootDir: string): [dir: string, member: string] {
  const end = path.lastIndexOf('/./');
  return end === -1 ? ['', path] : [makeAbsolute(path.slice(0, end), rootDir), path.slice(end + '/./'.length)];
}
