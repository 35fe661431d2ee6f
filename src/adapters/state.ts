/**
 * What reconcile remembers on the bastion between runs: content digests that were learned once, and hashes of blobs on
 * nodes. All of it is a cache keyed by what can never change, so a lost or damaged file costs time and nothing else.
 */
import { randomBytes } from 'node:crypto';
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fault } from '../core/errors.ts';
import { digest, object, parseJson, ShapeError, text } from '../core/json.ts';
import type { Learned } from '../core/desired.ts';
import type { ContentDigestSource } from '../core/types.ts';

const MAX_ENTRIES = 20_000;
const FILE = 'learned.json';

export interface State {
  dir: string;
  learned(manifestDigest: string): Learned;
  /** The manifests that were seen to yield a content digest, the newest first. */
  manifestsOf(contentDigest: string): string[];
  learnContent(manifestDigest: string, contentDigest: string, source: ContentDigestSource): void;
  disprove(manifestDigest: string, contentDigest: string): void;
  /** The sha256 of a blob file as it was when it had this size, mtime and inode; null where it was never hashed. */
  hashOf(stamp: string): string | null;
  rememberHash(stamp: string, sha256: string): void;
  /** Writes what is new, whole, by rename. */
  save(): Promise<void>;
}

/**
 * Opens the first usable directory.
 * @param configured `run.stateDir`; it must be usable, where the two defaults may not be
 * @param onFallback told why another directory than the first is used
 * @throws ReconcileError CONFIG_INVALID where no directory can be used
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
      refused.push(`${dir} cannot be used (${(error as NodeJS.ErrnoException).code ?? (error as Error).message})`);
    }
  }
  throw fault('CONFIG_INVALID', { problem: `run.stateDir: ${refused.join('; ')}` });
}

interface Content {
  learned: Map<string, Learned>;
  hashes: Map<string, string>;
}

async function loadState(dir: string): Promise<State & { probe: () => Promise<void> }> {
  const file = join(dir, FILE);
  const { learned, hashes } = parse(await readFile(file, 'utf8').catch(() => ''));
  let isDirty = false;
  const write = async (): Promise<void> => {
    const fresh = `${file}.new-${randomBytes(6).toString('hex')}`;
    const document = { version: 1, learned: newest(learned), hashes: newest(hashes) };
    await writeFile(fresh, JSON.stringify(document), { mode: 0o600 });
    await rename(fresh, file);
  };
  const recall = (manifestDigest: string): Learned => learned.get(manifestDigest) ?? { content: null, disproved: [] };
  const learn = (manifestDigest: string, change: Partial<Learned>): void => {
    const known = recall(manifestDigest);
    learned.delete(manifestDigest); // the newest go last, and the oldest are forgotten first
    learned.set(manifestDigest, { ...known, ...change });
    isDirty = true;
  };
  return {
    dir,
    probe: write,
    learned: recall,
    manifestsOf: (contentDigest) =>
      [...learned]
        .flatMap(([manifest, { content }]) => (content?.digest === contentDigest ? [manifest] : []))
        .reverse(),
    learnContent: (manifestDigest, contentDigest, source) =>
      learn(manifestDigest, { content: { digest: contentDigest, source } }),
    disprove: (manifestDigest, contentDigest) => {
      const { disproved } = recall(manifestDigest);
      learn(manifestDigest, { disproved: [...new Set([...disproved, contentDigest])].slice(-100) });
    },
    hashOf: (stamp) => hashes.get(stamp) ?? null,
    rememberHash: (stamp, sha256) => {
      hashes.delete(stamp);
      hashes.set(stamp, sha256);
      isDirty = true;
    },
    save: async () => {
      if (isDirty) await write();
      isDirty = false;
    },
  };
}

function newest<T>(map: Map<string, T>): Record<string, T> {
  return Object.fromEntries([...map].slice(-MAX_ENTRIES));
}

/** A file that cannot be understood is an empty cache. */
function parse(content: string): Content {
  const empty: Content = { learned: new Map(), hashes: new Map() };
  if (content === '') return empty;
  try {
    const document = object(parseJson(content, FILE), FILE);
    for (const [manifest, value] of Object.entries(object(document['learned'] ?? {}, 'learned'))) {
      const item = object(value, manifest);
      const known = item['content'] === null ? null : object(item['content'], 'content');
      empty.learned.set(digest(manifest, 'manifest'), {
        content:
          known === null
            ? null
            : {
                digest: digest(known['digest'], 'digest'),
                source: text(known['source'], 'source') as ContentDigestSource,
              },
        disproved: (item['disproved'] as unknown[]).map((value_) => digest(value_, 'disproved')),
      });
    }
    for (const [stamp, value] of Object.entries(object(document['hashes'] ?? {}, 'hashes'))) {
      empty.hashes.set(stamp, digest(value, stamp));
    }
    return empty;
  } catch (error) {
    if (!(error instanceof ShapeError || error instanceof TypeError)) throw error;
    return { learned: new Map(), hashes: new Map() };
  }
}
