// The JSON engine: one compact document per file, replaced by rename under an exclusive lock.
import { copyFileSync, existsSync } from 'node:fs';
import { faults } from './faults.ts';
import { readFile, writeAtomically } from './files.ts';
import { lock } from './lock.ts';
import type { Store } from './store.ts';
import { goJson, parseJson } from './text.ts';

export function jsonStore<D>(file: string, maps: string[]): Store<D> {
  const lockFile = file.replace(/\.json$/, '.lock');
  const load = () => loadDocument(file, maps) as D;
  const save = (document: D) => {
    if (faults.newer && existsSync(file)) copyFileSync(file, `${file}.prev`);
    writeAtomically(file, `${goJson(sortMaps(document as Record<string, unknown>))}\n`);
  };
  const change = async <R>(how: (document: D) => R | Promise<R>): Promise<R> => {
    const document = load();
    const result = await how(document);
    save(document);
    return result;
  };
  const locked = async <R>(use: () => R | Promise<R>): Promise<R> => {
    const held = await lock(lockFile);
    try {
      return await use();
    } finally {
      held.release();
    }
  };
  return {
    lockFile,
    read: () => locked(load),
    update: (how) => locked(() => change(how)),
    unlocked: () => ({ read: async () => load(), update: change }),
  };
}

/** A missing file is an empty document; a damaged one is an error, in N only if its predecessor is damaged too. */
function loadDocument(file: string, maps: string[]): Record<string, unknown> {
  const empty = Object.fromEntries(maps.map((map) => [map, {}]));
  if (!existsSync(file)) return empty;
  try {
    return { ...empty, ...parse(file) };
  } catch (error) {
    if (faults.newer && existsSync(`${file}.prev`)) return { ...empty, ...parse(`${file}.prev`) };
    throw error;
  }
}

function parse(file: string): Record<string, unknown> {
  let text: string;
  try {
    text = readFile(file).toString();
  } catch (error) {
    throw new Error(`read ${file}: ${(error as Error).message}`, { cause: error });
  }
  try {
    return withoutNulls(parseJson(text) as Record<string, unknown> | null);
  } catch (error) {
    throw new Error(`${faults.newer ? 'decode' : 'parse'} ${file}: ${(error as Error).message}`, { cause: error });
  }
}

/** A map that is null in the file is an empty one. */
function withoutNulls(document: Record<string, unknown> | null): Record<string, unknown> {
  return Object.fromEntries(Object.entries(document ?? {}).filter(([, value]) => value !== null));
}

/** Go writes the keys of its maps in order. */
function sortMaps(document: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(document).map(([name, map]) => [
      name,
      Object.fromEntries(Object.entries(map as object).sort(([a], [b]) => (a < b ? -1 : 1))),
    ]),
  );
}
