/**
 * What reconcile remembers on the bastion between runs: content digests that epoch's bytes told, for every node, and what
 * nodes proved of their own files, each for itself alone. All of it is a cache keyed by what can never change, so a lost
 * or damaged file costs time and nothing else.
 */
import { randomBytes } from 'node:crypto';
import { mkdir, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { redact } from '../system/secrets.ts';
import { fault } from '../core/errors.ts';
import { digest, object, parseJson, ShapeError } from '../core/json.ts';
import type { Learned } from '../core/artifact.ts';
import { PROOFS, type Proof } from '../core/model/observed.ts';
import { readRegularFile } from '../system/file.ts';

const MAX_ENTRIES = 20_000;
const FILE = 'learned.json';
/** Of twice as many entries. */
const MAX_FILE_BYTES = 64 * 2 ** 20;
/** Version 1 held for all nodes what single ones had claimed: what another version than this one says is not believed. */
const VERSION = 2;

/** What is remembered between runs. */
export interface State {
  /** Null where nothing is kept. */
  dir: string | null;
  /** What epoch's bytes told about a manifest; null where nothing did yet. */
  learned(manifestDigest: string): Learned | null;
  /** The manifests that were seen to yield a content digest, the newest first. */
  manifestsOf(contentDigest: string): string[];
  learn(manifestDigest: string, learned: Learned): void;
  /**
   * What a node's own hashes proved of a file of it; null where it was never hashed.
   * @param file node, path, stamp (size, inode, mtime) and the manifest that it was held against
   */
  proofOf(file: string): Proof | null;
  rememberProof(file: string, proof: Proof): void;
  /** Writes what is new, whole, by rename. */
  save(): Promise<void>;
}

/**
 * Opens the first usable directory; where none of the defaults is, nothing is remembered.
 * @param configured `run.stateDir`; it must be usable, where the defaults may not be
 * @param onFallback told why another directory than the first is used, or none
 * @throws ReconcileError CONFIG_INVALID where the configured directory cannot be used
 */
export async function openState(
  configured: string | null,
  defaults: string[],
  onFallback: (message: string) => void,
): Promise<State> {
  const candidates = configured === null ? defaults : [configured];
  const refused: string[] = [];
  for (const dir of candidates) {
    try {
      await mkdir(dir, { recursive: true, mode: 0o700 });
      const state = await loadState(dir);
      await state.probe();
      if (refused.length > 0) onFallback(`state is kept in ${dir}, because ${refused.join('; ')}`);
      return state;
    } catch (error) {
      const { code, message } = error as NodeJS.ErrnoException;
      const why = code === 'EEXIST' ? 'it is no directory' : (code ?? message);
      refused.push(`${dir} cannot be used (${why})`);
    }
  }
  if (configured !== null) throw fault('CONFIG_INVALID', { problem: `run.stateDir: ${refused.join('; ')}` });
  onFallback(`nothing is remembered from one run to the next, because ${refused.join('; ')}`);
  return createState(null, parse(''));
}

/** A file that is not there, or cannot be read, is an empty cache; a pipe in its place is nothing that we made. */
async function readLearned(file: string): Promise<string> {
  const read = await readRegularFile(file, MAX_FILE_BYTES);
  if ('bytes' in read) return read.bytes.toString('utf8');
  if (read.cause === 'irregular') throw new Error(`${FILE} ${read.problem}`);
  return '';
}

interface Content {
  learned: Map<string, Learned>;
  proofs: Map<string, Proof>;
}

async function loadState(dir: string): Promise<State & { probe: () => Promise<void> }> {
  return createState(dir, parse(await readLearned(join(dir, FILE))));
}

function createState(dir: string | null, { learned, proofs }: Content): State & { probe: () => Promise<void> } {
  let isDirty = false;
  const write = async (): Promise<void> => {
    if (dir === null) return;
    const file = join(dir, FILE);
    const fresh = `${file}.new-${randomBytes(6).toString('hex')}`;
    const document = { version: VERSION, learned: keepNewest(learned), proofs: keepNewest(proofs) };
    await writeFile(fresh, JSON.stringify(redact(document)), { mode: 0o600 });
    await rename(fresh, file);
  };
  /** The newest go last, and the oldest are forgotten first. */
  const put = <T>(map: Map<string, T>, key: string, value: T): void => {
    map.delete(key);
    map.set(key, value);
    isDirty = true;
  };
  return {
    dir,
    probe: write,
    learned: (manifestDigest) => learned.get(manifestDigest) ?? null,
    manifestsOf: (contentDigest) =>
      [...learned].flatMap(([manifest, content]) => (content.digest === contentDigest ? [manifest] : [])).reverse(),
    learn: (manifestDigest, content) => put(learned, manifestDigest, content),
    proofOf: (file) => proofs.get(file) ?? null,
    rememberProof: (file, proof) => put(proofs, file, proof),
    save: async () => {
      if (isDirty) await write();
      isDirty = false;
    },
  };
}

function keepNewest<T>(map: Map<string, T>): Record<string, T> {
  return Object.fromEntries([...map].slice(-MAX_ENTRIES));
}

/** A file that cannot be understood, or that another version wrote, is an empty cache. */
function parse(content: string): Content {
  const empty = (): Content => ({ learned: new Map(), proofs: new Map() });
  if (content === '') return empty();
  try {
    const found = empty();
    const document = object(parseJson(content, FILE), FILE);
    if (document['version'] !== VERSION) return empty();
    for (const [manifest, value] of Object.entries(object(document['learned'], 'learned'))) {
      const item = object(value, manifest);
      const source = parseOneOf(item['source'], ['checksums', 'stream'] as const);
      found.learned.set(digest(manifest, 'manifest'), { digest: digest(item['digest'], 'digest'), source });
    }
    for (const [file, value] of Object.entries(object(document['proofs'], 'proofs'))) {
      found.proofs.set(file, parseOneOf(value, PROOFS));
    }
    return found;
  } catch (error) {
    if (!(error instanceof ShapeError)) throw error;
    return empty();
  }
}

function parseOneOf<T extends string>(value: unknown, known: readonly T[]): T {
  const found = known.find((one) => one === value);
  if (found === undefined) throw new ShapeError(`${FILE}: a word that this version does not know`);
  return found;
}
