// `meta init|convert` of newer releases: JSON files into the SQLite store.
import { existsSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import type { Invocation } from './command.ts';
import { ensureDirs } from './files.ts';
import { logger } from './log.ts';
import { PLACES } from './store.ts';
import { bootstrap, inserts } from './store-sqlite.ts';
import { parseJson } from './text.ts';

export async function initMeta(call: Invocation): Promise<void> {
  await bootstrap(call.layout.metaDb);
  logger('cmd.meta.init').info(`sqlite store at ${call.layout.metaDb}`);
}

/** Writes the manifest, imports every index, renames the sources, removes the manifest. */
export async function convertMeta(call: Invocation): Promise<void> {
  const { metaDb, metaManifest } = call.layout;
  const sources = Object.values(PLACES)
    .map((place) => ({ place, file: join(call.config.rootDir, place.file) }))
    .filter(({ file }) => existsSync(file));
  ensureDirs(dirname(metaDb));
  writeFileSync(metaManifest, JSON.stringify({ from: 'json', to: 'sqlite', sources: sources.map(({ file }) => file) }));
  const rows = sources.map(({ place, file }) =>
    inserts(parseJson(readFileSync(file, 'utf8')) as Parameters<typeof inserts>[0], place),
  );
  await bootstrap(metaDb, rows.join('\n'));
  const stamp = new Date().toISOString().replace(/[-:]|\.\d+/g, '');
  for (const { file } of sources) renameSync(file, `${file}.converted-${stamp}`);
  rmSync(metaManifest);
  logger('cmd.meta.convert').info(`converted ${sources.length} index file(s) to ${metaDb}`);
}
