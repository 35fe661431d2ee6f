// Which engine keeps the metadata, and the one interface that commands see.
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { layout, type Config } from './config.ts';
import { faults } from './faults.ts';
import { logger } from './log.ts';
import type { CloudimgEntry, ImageIndex, NetworkIndex, OciEntry, SnapshotIndex, VmIndex } from './records.ts';

export interface Documents {
  oci: ImageIndex<OciEntry>;
  cloudimg: ImageIndex<CloudimgEntry>;
  snapshot: SnapshotIndex;
  'cloud-hypervisor': VmIndex;
  firecracker: VmIndex;
  cni: NetworkIndex;
}

export type StoreName = keyof Documents;

export interface Store<D> {
  /** Reads a consistent document. */
  read(): Promise<D>;
  /** Changes it in place; what `change` throws leaves the store as it was. */
  update<R>(change: (document: D) => R | Promise<R>): Promise<R>;
  /** Reads and writes without taking the lock, for a caller that holds it. */
  unlocked(): Pick<Store<D>, 'read' | 'update'>;
  /** The lock file beside the index; also taken by the collector. */
  lockFile: string;
}

/** Where a document lies as a file, and in which SQL tables its maps lie. */
export interface Place {
  file: string;
  namespace: string;
  tables: Record<string, string>;
}

export const PLACES: Record<StoreName, Place> = {
  oci: { file: 'oci/db/images.json', namespace: 'images_oci', tables: { images: 'records' } },
  cloudimg: { file: 'cloudimg/db/images.json', namespace: 'images_cloudimg', tables: { images: 'records' } },
  snapshot: {
    file: 'snapshot/db/snapshots.json',
    namespace: 'snapshots',
    tables: { snapshots: 'records', names: 'names' },
  },
  'cloud-hypervisor': {
    file: 'cloudhypervisor/db/vms.json',
    namespace: 'vms_cloudhypervisor',
    tables: { vms: 'records', names: 'names' },
  },
  firecracker: {
    file: 'firecracker/db/vms.json',
    namespace: 'vms_firecracker',
    tables: { vms: 'records', names: 'names' },
  },
  cni: { file: 'cni/db/networks.json', namespace: 'networks', tables: { networks: 'records' } },
};

/** Opens the store that holds one kind of document. */
export async function openStore<N extends StoreName>(config: Config, name: N): Promise<Store<Documents[N]>> {
  const place = PLACES[name];
  if (faults.newer && chooseEngine(config) === 'sqlite') {
    const { sqliteStore } = await import('./store-sqlite.ts');
    return (await sqliteStore(config, place)) as Store<Documents[N]>;
  }
  const { jsonStore } = await import('./store-json.ts');
  return jsonStore<Documents[N]>(join(config.rootDir, place.file), Object.keys(place.tables));
}

let warned = false;

/** An explicit setting, else an existing database, else existing JSON files, else SQLite. */
export function chooseEngine(config: Config): 'json' | 'sqlite' {
  const { metaDb, metaManifest } = layout(config);
  if (existsSync(metaManifest)) {
    throw new Error(
      `open meta store: ${metaManifest} exists: a conversion is in flight, run \`cocoon meta convert\` to finish it`,
    );
  }
  const legacy = Object.values(PLACES).some((place) => existsSync(join(config.rootDir, place.file)));
  if (config.metaBackend === 'json') return 'json';
  if (existsSync(metaDb)) return 'sqlite';
  if (config.metaBackend === 'sqlite' && legacy) {
    throw new Error(`no sqlite store at ${metaDb}: run \`cocoon meta init\` or \`cocoon meta convert\``);
  }
  if (!legacy) return 'sqlite';
  if (!warned)
    logger('core.metastore').warn('legacy json meta store in use; `cocoon meta convert` upgrades it to sqlite');
  warned = true;
  return 'json';
}
