// Makers of images, layers and snapshot archives that both this double and a true cocoon accept.
import { createHash } from 'node:crypto';
import { makeOverlay, seededBytes } from './qcow2.ts';
import { makeTar, type TarEntry } from './tar.ts';

export { makeOverlay, makeQcow2, readQcow2Header, seededBytes } from './qcow2.ts';
export { makeTar, type TarEntry } from './tar.ts';

const MIB = 2 ** 20;
const GIB = 2 ** 30;

export interface SnapshotOptions {
  /** Name in the archive; `snapshot import --name` overrides it. */
  name?: string;
  description?: string;
  /** `root_dir` and `run_dir` of the node that took the snapshot. */
  rootDir?: string;
  runDir?: string;
  /** The image's reference, digest and backend as the snapshot records them. */
  image?: string;
  imageDigest?: string;
  imageType?: 'cloudimg' | 'oci';
  /** Digests (bare hex) that the snapshot pins; default: the hex of `imageDigest`, or the layers of an OCI image. */
  blobIds?: readonly string[];
  /** Backing file of the overlay; default: the blob of `imageDigest` under `rootDir`. */
  backing?: string;
  /** Firmware that the guest boots from; default `<rootDir>/firmware/CLOUDHV.fd`. */
  firmware?: string;
  /** OCI guests: hexes of all layers, and of those that hold kernel and initrd (default: the last). */
  layers?: readonly string[];
  kernelLayer?: string;
  initrdLayer?: string;
  cpu?: number;
  memory?: number;
  storage?: number;
  nics?: number;
  network?: string;
  /** Default true: a Windows guest has no cloud-init disk, so a clone needs no mkfs. */
  windows?: boolean;
  /** Data files to leave out, such as `cocoon.json` for a snapshot made before v0.3.8. */
  omit?: readonly string[];
  /** Path of the overlay in the sidecar where it shall differ from the one in config.json. */
  sidecarDisk?: string;
  /** Version of the archive's envelope; default 1. */
  archiveVersion?: number;
  /** Bytes of guest memory in the archive. */
  memoryBytes?: number;
  seed?: string | number;
}

const SOURCE_VM = 'KNXXK4TDMVLE2SKBMFZWK2LMNR';

/** The `config` of snapshot.json: what `snapshot inspect` shows after the import. */
export function makeSnapshotConfig(options: SnapshotOptions = {}): Record<string, unknown> {
  const type = options.imageType ?? (options.layers ? 'oci' : 'cloudimg');
  const blobIds = options.blobIds ?? options.layers ?? (options.imageDigest ? [hexOf(options.imageDigest)] : []);
  const network = options.network;
  const windows = options.windows ?? true;
  return {
    cpu: options.cpu ?? 1,
    memory: options.memory ?? 512 * MIB,
    storage: options.storage ?? 10 * GIB,
    ...(options.image === undefined ? {} : { image: options.image }),
    ...(options.imageDigest === undefined ? {} : { image_digest: options.imageDigest }),
    ...(options.image === undefined && options.imageDigest === undefined ? {} : { image_type: type }),
    ...(network === undefined ? {} : { network }),
    ...(windows ? { windows } : {}),
    id: 'ONZGGZJNOZWS2NBVNZSXQ5LTMU',
    name: options.name ?? '',
    ...(options.description === undefined ? {} : { description: options.description }),
    ...(blobIds.length === 0 ? {} : { image_blob_ids: Object.fromEntries(blobIds.map((hex) => [hex, {}])) }),
    hypervisor: 'cloud-hypervisor',
    ...(options.nics ? { nics: options.nics } : {}),
  };
}

/** The data files of a Cloud Hypervisor snapshot, without snapshot.json. */
export function makeSnapshotFiles(options: SnapshotOptions = {}): TarEntry[] {
  const rootDir = options.rootDir ?? '/var/lib/cocoon';
  const sourceDir = `${options.runDir ?? `${rootDir}/run`}/cloudhypervisor/${SOURCE_VM}`;
  const { layers } = options;
  const oci = layers !== undefined;
  const disks = oci ? ociDisks(layers, rootDir, sourceDir) : [cowDisk(`${sourceDir}/overlay.qcow2`, '')];
  const payload = oci
    ? ociPayload(options, rootDir)
    : { firmware: options.firmware ?? `${rootDir}/firmware/CLOUDHV.fd` };
  const config = {
    payload,
    cpus: { boot_vcpus: options.cpu ?? 1, max_vcpus: 8 },
    memory: { size: options.memory ?? 512 * MIB },
    disks: disks.map((disk) => ({ path: disk.path, readonly: disk.ro, serial: disk.serial || undefined })),
    rng: { src: '/dev/urandom' },
    watchdog: true,
  };
  const sidecar = {
    storage_configs: disks.map((disk) =>
      disk.role === 'cow' && options.sidecarDisk ? { ...disk, path: options.sidecarDisk } : disk,
    ),
    boot_config: oci ? ociBoot(options, rootDir) : { firmware_path: payload.firmware },
  };
  const state = { id: 'vm', snapshots: { disk: { snapshot_data: { disk_path: disks.at(-1)?.path } } } };
  const overlay = oci
    ? { name: 'cow.raw', data: Buffer.alloc(MIB) }
    : { name: 'overlay.qcow2', data: makeOverlay(options.backing ?? backingOf(options, rootDir), options.storage) };
  const files: TarEntry[] = [
    { name: 'cocoon.json', data: json(sidecar), mode: 0o600 },
    { name: 'config.json', data: json(config), mode: 0o600 },
    { name: 'memory-ranges', data: seededBytes(options.seed ?? 'memory', options.memoryBytes ?? 8192), mode: 0o600 },
    { ...overlay, mode: 0o600 },
    { name: 'state.json', data: json(state), mode: 0o600 },
  ];
  return files.filter((file) => !options.omit?.includes(file.name));
}

/** An archive for `cocoon snapshot import`: snapshot.json first, then the data files. */
export function makeSnapshotArchive(options: SnapshotOptions = {}): Buffer {
  const envelope = { config: makeSnapshotConfig(options), version: options.archiveVersion ?? 1 };
  const members = [{ name: 'snapshot.json', data: Buffer.from(`${JSON.stringify(envelope, null, 2)}\n`) }];
  return makeTar([...members, ...makeSnapshotFiles(options)].filter((file) => !options.omit?.includes(file.name)));
}

/** A layer of a bootable OCI image: a tar with boot/vmlinuz, boot/initrd.img and a file that makes it distinct. */
export function makeBootLayer(seed: string | number = 'boot', kernel = true, initrd = true): Buffer {
  const files: TarEntry[] = [{ name: 'etc/hostname', data: Buffer.from(`${seed}\n`) }];
  if (kernel) files.push({ name: 'boot/vmlinuz', data: seededBytes(`${seed}/vmlinuz`, 2048) });
  if (initrd) files.push({ name: 'boot/initrd.img', data: seededBytes(`${seed}/initrd`, 2048) });
  return makeTar(files);
}

/** `sha256:<hex>` of some bytes. */
export function digestOf(bytes: Buffer | string): string {
  return `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
}

/** The digest without its algorithm, as blob files are named. */
export function hexOf(digest: string): string {
  return digest.replace(/^sha256:/, '');
}

interface Disk {
  path: string;
  ro: boolean;
  serial: string;
  role: 'layer' | 'cow';
}

function cowDisk(path: string, serial: string): Disk {
  return { path, ro: false, serial, role: 'cow' };
}

function ociDisks(layers: readonly string[], rootDir: string, sourceDir: string): Disk[] {
  const readOnly = layers.map((hex, i): Disk => {
    return { path: `${rootDir}/oci/blobs/${hex}.erofs`, ro: true, serial: `cocoon-layer${i}`, role: 'layer' };
  });
  return [...readOnly, cowDisk(`${sourceDir}/cow.raw`, 'cocoon-cow')];
}

function ociBoot(options: SnapshotOptions, rootDir: string) {
  const last = options.layers?.at(-1) ?? '';
  return {
    kernel_path: `${rootDir}/oci/boot/${options.kernelLayer ?? last}/vmlinuz`,
    initrd_path: `${rootDir}/oci/boot/${options.initrdLayer ?? last}/initrd.img`,
    cmdline: 'console=hvc0',
  };
}

function ociPayload(options: SnapshotOptions, rootDir: string) {
  const boot = ociBoot(options, rootDir);
  return { kernel: boot.kernel_path, initramfs: boot.initrd_path, cmdline: boot.cmdline, firmware: undefined };
}

function backingOf(options: SnapshotOptions, rootDir: string): string {
  return `${rootDir}/cloudimg/blobs/${hexOf(options.imageDigest ?? '')}.qcow2`;
}

function json(value: unknown): Buffer {
  return Buffer.from(`${JSON.stringify(value)}\n`);
}
