// `snapshot list|inspect|rm|import|export`.
import { closeSync, ftruncateSync, openSync, readdirSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import { basename, join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { flag, isSet, print, printJson, printList, type Invocation } from './command.ts';
import { ensureDirs, gunzipLoosely, newId, readFile } from './files.ts';
import { wrapped } from './images.ts';
import { logger } from './log.ts';
import { resolveRef, type SnapshotConfig, type SnapshotIndex, type SnapshotRecord } from './records.ts';
import { inputFrom, stdin } from './stdin.ts';
import { openStore } from './store.ts';
import { makeTar, readTar, type TarEntry } from './tar.ts';
import { goJson, goTime, humanSize, parseJson, quote, tableTime } from './text.ts';

export function initSnapshots(call: Invocation): void {
  try {
    ensureDirs(...call.layout.dirs.snapshot);
  } catch (error) {
    throw new Error(`init snapshot backend: ${(error as Error).message}`, { cause: error });
  }
}

/** The record behind a reference; one whose data are still being written does not exist yet. */
export async function findSnapshot(call: Invocation, ref: string): Promise<SnapshotRecord> {
  const index = await (await openStore(call.config, 'snapshot')).read();
  const record = index.snapshots[resolveRef(index.snapshots, index.names, ref) ?? ''];
  if (!record || record.pending) throw new Error('snapshot not found');
  return record;
}

export async function listSnapshots(call: Invocation): Promise<void> {
  initSnapshots(call);
  const owned = await snapshotsOfVm(call, flag(call, 'vm'));
  if (owned?.size === 0) return print('No snapshots found for VM.\n');
  const index = await wrapped('list', async () => (await openStore(call.config, 'snapshot')).read());
  const visible = Object.values(index.snapshots)
    .filter((record) => record !== null)
    .filter((record) => !record.pending && (!owned || owned.has(record.id ?? '')))
    .sort((a, b) => Date.parse(a.created_at) - Date.parse(b.created_at));
  if (visible.length === 0) return print('No snapshots found.\n');
  const header = ['ID', 'NAME', 'CPU', 'MEMORY', 'DESCRIPTION', 'CREATED'];
  printList(call, visible.map(toPublic), header, (snapshot: SnapshotRecord) => [
    snapshot.id ?? '',
    snapshot.name,
    String(snapshot.cpu ?? 0),
    humanSize(snapshot.memory ?? 0),
    snapshot.description ?? '',
    tableTime(snapshot.created_at),
  ]);
}

export async function inspectSnapshot(call: Invocation): Promise<void> {
  initSnapshots(call);
  printJson(toPublic(await wrapped('inspect', () => findSnapshot(call, call.args[0] ?? ''))));
}

/** Removes records and the data directory under the own root; pending records too. */
export async function removeSnapshots(call: Invocation): Promise<void> {
  initSnapshots(call);
  const log = logger('cmd.snapshot.rm');
  await wrapped('rm', async () => {
    const store = await openStore(call.config, 'snapshot');
    const ids = resolveAll(await store.read(), call.args);
    for (const id of ids) {
      rmSync(call.layout.snapshotData(id), { recursive: true, force: true });
      await store.update((index) => {
        const name = index.snapshots[id]?.name;
        if (name) delete index.names[name];
        delete index.snapshots[id];
      });
    }
    for (const id of ids) log.info(`deleted: ${id}`);
    if (ids.length === 0) log.info('no snapshots deleted');
  });
}

/** Unpacks the data first and writes the record last; the base image is neither checked nor fetched. */
export async function importSnapshot(call: Invocation): Promise<void> {
  initSnapshots(call);
  const log = logger('cmd.snapshot.import');
  const [file] = call.args;
  const input = file === undefined ? stdin() : inputFrom(await wrapped('open archive', async () => readFile(file)));
  log.info(file === undefined ? 'importing from stdin ...' : `importing from ${file} ...`);
  await wrapped('import', async () => {
    if ((await input.peek(2)).length < 2) throw new Error('peek archive header: EOF');
    const id = newId();
    const dataDir = call.layout.snapshotData(id);
    ensureDirs(dataDir);
    try {
      const config = unpack(await input.rest(), dataDir);
      await record(call, { ...config, id }, dataDir);
    } catch (error) {
      rmSync(dataDir, { recursive: true, force: true });
      throw error;
    }
    log.info(`snapshot imported: ${id}`);
  });
}

export async function exportSnapshot(call: Invocation): Promise<void> {
  initSnapshots(call);
  const log = logger('cmd.snapshot.export');
  const found = await wrapped('export', () => findSnapshot(call, call.args[0] ?? ''));
  const { created_at: _created, data_dir: dataDir = '', pending: _pending, ...config } = found;
  const files: TarEntry[] = readdirSync(dataDir).map((name) => ({
    name,
    data: readFile(join(dataDir, name)),
    mode: 0o600,
  }));
  const envelope = Buffer.from(`${goJson({ config, version: 1 }, 2)}\n`);
  const tar = makeTar([{ name: 'snapshot.json', data: envelope }, ...files]);
  const archive = isSet(call, 'gzip') ? gzipSync(tar) : tar;
  const output = flag(call, 'output') || `${found.name || found.id}${isSet(call, 'gzip') ? '.tar.gz' : '.tar'}`;
  if (output === '-') {
    process.stdout.write(archive);
    return;
  }
  log.info(`exporting to ${output} ...`);
  writeFileSync(output, archive);
  log.info(`exported: ${output}`);
}

async function record(call: Invocation, config: SnapshotConfig & { id: string }, dataDir: string): Promise<void> {
  const name = flag(call, 'name') || config.name;
  const description = flag(call, 'description') || config.description;
  const store = await openStore(call.config, 'snapshot');
  await store.update((index) => {
    const holder = name ? index.names[name] : undefined;
    if (holder !== undefined) throw new Error(`snapshot name ${quote(name)} already in use by ${holder}`);
    index.snapshots[config.id] = ordered({ ...config, name, ...(description ? { description } : {}) }, dataDir);
    if (name) index.names[name] = config.id;
  });
}

/** The fields of a record in the order of the file; what is zero or empty is left out. */
function ordered(config: SnapshotConfig, dataDir: string): SnapshotRecord {
  const keys = [
    'cpu',
    'memory',
    'storage',
    'queue_size',
    'disk_queue_size',
    'image',
    'image_digest',
    'image_type',
    'network',
    'no_direct_io',
    'windows',
    'id',
    'name',
    'description',
    'image_blob_ids',
    'hypervisor',
    'nics',
  ] as const;
  const present = keys.filter((key) => key === 'name' || config[key]);
  const fields = Object.fromEntries(present.map((key) => [key, config[key]])) as unknown as SnapshotConfig;
  return { ...fields, created_at: goTime(), data_dir: dataDir };
}

/** Writes the flat data files and returns what snapshot.json says. */
function unpack(archive: Buffer, dataDir: string): SnapshotConfig {
  const gzip = archive[0] === 0x1f && archive[1] === 0x8b;
  const tar = gzip ? gunzip(archive) : archive;
  let envelope: Buffer | null = null;
  try {
    for (const member of readTar(tar)) {
      const name = basename(member.name);
      if (member.type !== '0') continue;
      if (name === 'snapshot.json') envelope = member.data;
      else extract(join(dataDir, name), member.data, member.mode, member.pax);
    }
  } catch (error) {
    throw new Error(`extract archive: tar next: ${(error as Error).message}`, { cause: error });
  }
  if (!envelope) throw new Error('invalid snapshot archive: snapshot.json not found');
  const { config, version } = parseEnvelope(envelope);
  if (version !== 1) throw new Error(`unsupported snapshot archive version ${version}`);
  return config;
}

function parseEnvelope(bytes: Buffer): { config: SnapshotConfig; version: number } {
  try {
    return parseJson(bytes.toString()) as { config: SnapshotConfig; version: number };
  } catch (error) {
    throw new Error(`parse snapshot.json: ${(error as Error).message}`, { cause: error });
  }
}

/** Sparse members carry a map of their data segments. */
function extract(path: string, data: Buffer, mode: number, pax: Record<string, string>): void {
  const fd = openSync(path, 'w', mode);
  const map = pax['COCOON.sparse.map'];
  const segments = map === undefined ? [{ o: 0, l: data.length }] : (JSON.parse(map) as { o: number; l: number }[]);
  let at = 0;
  for (const { o, l } of segments) {
    writeSync(fd, data, at, l, o);
    at += l;
  }
  if (map !== undefined) ftruncateSync(fd, Number(pax['COCOON.sparse.size']));
  closeSync(fd);
}

function gunzip(archive: Buffer): Buffer {
  try {
    return gunzipLoosely(archive);
  } catch (error) {
    throw new Error('extract archive: tar next: unexpected EOF', { cause: error });
  }
}

function resolveAll(index: SnapshotIndex, refs: string[]): string[] {
  const ids = refs.map((ref) => {
    const id = resolveRef(index.snapshots, index.names, ref);
    if (id === null) throw new Error(`resolve ${quote(ref)}: snapshot not found`);
    return id;
  });
  return [...new Set(ids)];
}

async function snapshotsOfVm(call: Invocation, ref: string): Promise<Set<string> | null> {
  if (!ref) return null;
  const { findVm } = await import('./vms.ts');
  return new Set(Object.keys((await findVm(call, ref)).vm.snapshot_ids ?? {}));
}

function toPublic(record: SnapshotRecord): SnapshotRecord {
  const { pending: _pending, data_dir: _dataDir, ...shown } = record;
  return shown;
}
