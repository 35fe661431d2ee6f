// The documents that cocoon keeps; field order is that of the files.

export interface CloudimgEntry {
  ref: string;
  content_sum: string;
  size: number;
  created_at: string;
}

export interface OciEntry {
  ref: string;
  manifest_digest: string;
  layers: { digest: string }[];
  kernel_layer: string;
  initrd_layer: string;
  size: number;
  created_at: string;
}

/** A map that may hold `null` values, which are skipped everywhere. */
export type Entries<E> = Record<string, E | null>;

export interface ImageIndex<E> {
  images: Entries<E>;
}

/** What a snapshot passes on to a clone. */
export interface GuestConfig {
  cpu?: number;
  memory?: number;
  storage?: number;
  queue_size?: number;
  disk_queue_size?: number;
  image?: string;
  image_digest?: string;
  image_type?: string;
  network?: string;
  no_direct_io?: boolean;
  windows?: boolean;
}

export interface SnapshotConfig extends GuestConfig {
  id?: string;
  name: string;
  description?: string;
  image_blob_ids?: Record<string, object>;
  hypervisor?: string;
  nics?: number;
}

export interface SnapshotRecord extends SnapshotConfig {
  created_at: string;
  pending?: boolean;
  data_dir?: string;
}

export interface SnapshotIndex {
  snapshots: Entries<SnapshotRecord>;
  names: Record<string, string>;
}

export interface StorageConfig {
  path: string;
  ro: boolean;
  serial: string;
  role: string;
  mount_point?: string;
  fstype?: string;
  direct_io?: boolean;
}

export interface NetworkConfig {
  tap: string;
  mac: string;
  num_queues: number;
  queue_size: number;
  backend?: string;
  bridge_dev?: string;
  netns_path?: string;
  network?: { ip?: string; gateway?: string; prefix?: number };
}

export interface BootConfig {
  kernel_path?: string;
  initrd_path?: string;
  cmdline?: string;
  firmware_path?: string;
}

export interface Vm {
  id: string;
  hypervisor?: string;
  state: string;
  config: GuestConfig & { name: string };
  pid: number;
  socket_path?: string;
  network_configs?: NetworkConfig[];
  storage_configs?: StorageConfig[];
  first_booted: boolean;
  snapshot_ids?: Record<string, object>;
  created_at: string;
  updated_at: string;
  started_at?: string;
  stopped_at?: string;
}

export interface VmRecord extends Vm {
  boot_config?: BootConfig;
  image_blob_ids?: Record<string, object>;
  run_dir?: string;
  log_dir?: string;
}

export interface VmIndex {
  vms: Entries<VmRecord>;
  names: Record<string, string>;
}

export interface NetworkIndex {
  networks: Entries<{ network: object; id: string; type: string; vm_id: string; if_name: string }>;
}

/** Resolves an ID, a name or a unique ID prefix of three characters and more; null when unknown. */
export function resolveRef<R>(items: Entries<R>, names: Record<string, string>, ref: string): string | null {
  if (items[ref]) return ref;
  const named = names[ref];
  if (named !== undefined && items[named]) return named;
  if (ref.length < 3) return null;
  const matches = Object.keys(items).filter((id) => id.startsWith(ref));
  if (matches.length > 1) throw new Error(`ambiguous ref ${JSON.stringify(ref)}: multiple matches`);
  return matches[0] ?? null;
}
