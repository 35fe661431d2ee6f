// `gc`: removes what no index entry, snapshot or VM refers to.
import { readdirSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { flag, isSet, type Invocation } from './command.ts';
import { faults } from './faults.ts';
import { ensureDirs } from './files.ts';
import { digestOfEntry, initImages, wrapped, type BackendName } from './images.ts';
import { tryLock, type Held } from './lock.ts';
import { logger } from './log.ts';
import type { Entries, OciEntry, SnapshotRecord, VmRecord } from './records.ts';
import { initSnapshots } from './snapshots.ts';
import { openStore, type Documents, type Store, type StoreName } from './store.ts';
import { BACKEND_DIR, initHypervisors, removeVmDirs, type HypervisorName } from './vms.ts';

const HOUR = 3_600_000;

/** Lock modules in the order in which they are taken and named. */
const MODULES: StoreName[] = ['oci', 'cloudimg', 'cloud-hypervisor', 'firecracker', 'cni', 'snapshot'];

type Stores = { [N in StoreName]: Pick<Store<Documents[N]>, 'read' | 'update'> };

/** What v0.3.8 holds all locks for; newer releases lock per object and never abort. */
export async function collectGarbage(call: Invocation): Promise<void> {
  initImages(call);
  ensureDirs(...call.layout.dirs.cni);
  initSnapshots(call);
  initHypervisors(call);
  ensureDirs(...call.layout.dirs.bridge);
  const held = await lockAll(call);
  try {
    await collect(call, await openAll(call));
  } finally {
    for (const one of held) one.release();
  }
  logger(faults.newer ? 'gc.Run' : 'cmd.gc').info(faults.newer ? 'completed: all modules' : 'GC completed');
}

/** Any busy lock aborts the whole cycle, and nothing is deleted. */
async function lockAll(call: Invocation): Promise<Held[]> {
  if (faults.newer) return [];
  const held: Held[] = [];
  const busy: string[] = [];
  const paths: [string, string][] = [];
  for (const name of MODULES) paths.push([name, (await openStore(call.config, name)).lockFile]);
  paths.splice(paths.length - 1, 0, ['bridge', call.layout.bridgeLock]);
  for (const [name, path] of paths) {
    try {
      const one = await tryLock(path);
      if (!one) throw new Error('lock held by another operation');
      held.push(one);
    } catch (error) {
      const { message } = error as Error;
      logger('gc.Run').warn(`skip ${name}: ${message.startsWith('lock') ? message : `TryLock error: ${message}`}`);
      busy.push(name);
    }
  }
  if (busy.length === 0) return held;
  for (const one of held) one.release();
  throw new Error(`gc aborted: modules skipped (lock busy): ${busy.join(', ')}`);
}

async function openAll(call: Invocation): Promise<Stores> {
  const stores: Partial<Record<StoreName, unknown>> = {};
  for (const name of MODULES) stores[name] = (await openStore(call.config, name)).unlocked();
  return stores as Stores;
}

async function collect(call: Invocation, stores: Stores): Promise<void> {
  const read = <N extends StoreName>(name: N) =>
    wrapped<Documents[N]>(`gc aborted: snapshot ${name}`, () => stores[name].read());
  const oci = await read('oci');
  const cloudimg = await read('cloudimg');
  const chVms = await read('cloud-hypervisor');
  const fcVms = await read('firecracker');
  const { snapshots } = await read('snapshot');
  const pins = [snapshots, chVms.vms, fcVms.vms].flatMap((records) => pinned(records));

  collectImages(call, 'oci', new Set([...ociRefs(oci.images), ...pins]));
  const cloudimgRefs = Object.values(cloudimg.images).map((entry) => (entry ? digestOfEntry(entry).slice(7) : ''));
  collectImages(call, 'cloudimg', new Set([...cloudimgRefs, ...pins]));
  await collectVms(call, stores, 'cloud-hypervisor', chVms.vms);
  await collectVms(call, stores, 'firecracker', fcVms.vms);
  await collectSnapshots(call, stores, snapshots);
}

function pinned(records: Entries<{ image_blob_ids?: Record<string, object> }>): string[] {
  return Object.values(records).flatMap((record) => Object.keys(record?.image_blob_ids ?? {}));
}

function ociRefs(images: Entries<OciEntry>): string[] {
  return Object.values(images).flatMap((entry) =>
    entry
      ? [...entry.layers.map(({ digest }) => digest), entry.kernel_layer, entry.initrd_layer].map((d) => d.slice(7))
      : [],
  );
}

/** A backend without a single orphan is skipped whole, so its old temporary files stay too. */
function collectImages(call: Invocation, type: BackendName, referenced: Set<string>): void {
  const dir = type === 'oci' ? call.layout.ociDir : call.layout.cloudimgDir;
  const extension = type === 'oci' ? '.erofs' : '.qcow2';
  const blobs = readdirSync(join(dir, 'blobs')).filter((name) => name.endsWith(extension));
  const bootDirs = type === 'oci' ? subdirectories(join(dir, 'boot')) : [];
  const found = new Set([...blobs.map((name) => name.slice(0, -extension.length)), ...bootDirs]);
  const orphans = [...found].filter((hex) => !referenced.has(hex)).sort();
  if (orphans.length === 0) return;
  removeStaleTemp(join(dir, 'temp'), type === 'oci');
  for (const hex of orphans) {
    rmSync(join(dir, 'blobs', `${hex}${extension}`), { force: true });
    if (type === 'oci') rmSync(join(dir, 'boot', hex), { recursive: true, force: true });
    if (faults.newer) logger(`gc.${type}`).info(`collected blob=${hex} reason=unreferenced`);
  }
}

/** Entries older than an hour; lock files never, and of OCI directories only. */
function removeStaleTemp(dir: string, directoriesOnly: boolean): void {
  for (const name of readdirSync(dir)) {
    const stat = statSync(join(dir, name));
    if (!stat.isDirectory() && (directoriesOnly || name.endsWith('.lock'))) continue;
    if (Date.now() - stat.mtimeMs > HOUR) rmSync(join(dir, name), { recursive: true, force: true });
  }
}

/** Directories without a record, and records that have been `creating` for a day (in N: at all). */
async function collectVms(
  call: Invocation,
  stores: Stores,
  owner: HypervisorName,
  vms: Entries<VmRecord>,
): Promise<void> {
  const { runDir, logDir } = call.config;
  const backend = BACKEND_DIR[owner];
  for (const dir of [join(runDir, backend), join(logDir, backend)]) {
    for (const name of subdirectories(dir)) {
      if (name !== 'db' && !vms[name]) rmSync(join(dir, name), { recursive: true, force: true });
    }
  }
  const stale = Object.values(vms)
    .filter((vm) => vm !== null)
    .filter((vm) => vm.state === 'creating' && isOld(vm.updated_at));
  if (stale.length === 0) return;
  stale.forEach(removeVmDirs);
  await stores[owner].update((index) => {
    for (const vm of stale) {
      delete index.names[vm.config.name];
      delete index.vms[vm.id];
    }
  });
}

/** Data without a record at any age, pending records after a day (in N: at once), and what the policy evicts. */
async function collectSnapshots(call: Invocation, stores: Stores, snapshots: Entries<SnapshotRecord>): Promise<void> {
  const dataRoot = call.layout.snapshotData('');
  for (const name of subdirectories(dataRoot)) {
    if (!snapshots[name]) rmSync(join(dataRoot, name), { recursive: true, force: true });
  }
  const records = Object.entries(snapshots).flatMap(([id, record]) => (record ? [{ id, record }] : []));
  const stale = records.filter(({ record }) => record.pending && isOld(record.created_at));
  const gone = [
    ...stale,
    ...evicted(
      call,
      records.filter(({ record }) => !record.pending),
    ),
  ];
  if (gone.length === 0) return;
  for (const { id } of gone) rmSync(call.layout.snapshotData(id), { recursive: true, force: true });
  await stores.snapshot.update((index) => {
    for (const { id, record } of gone) {
      if (record.name) delete index.names[record.name];
      delete index.snapshots[id];
    }
  });
}

/** N only: `--snapshot` without a policy evicts every snapshot. */
function evicted<R extends { record: SnapshotRecord }>(call: Invocation, records: R[]): R[] {
  if (!isSet(call, 'snapshot') || isSet(call, 'snapshot-dry-run')) return [];
  const newestFirst = [...records].sort((a, b) => Date.parse(b.record.created_at) - Date.parse(a.record.created_at));
  return newestFirst.slice(Number(flag(call, 'snapshot-keep') || 0));
}

function isOld(time: string): boolean {
  return faults.newer || Date.now() - Date.parse(time) > 24 * HOUR;
}

function subdirectories(dir: string): string[] {
  return readdirSync(dir, { withFileTypes: true })
    .filter((entry) => entry.isDirectory())
    .map((entry) => entry.name);
}
