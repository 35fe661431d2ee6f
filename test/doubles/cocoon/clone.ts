// `vm clone`: every check in cocoon's own order, with its text.
import { copyFileSync, linkSync, readdirSync, statSync, writeFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { basename, join } from 'node:path';
import { flag, isSet, print, printJson, wantsJson, type Invocation } from './command.ts';
import { ensureImage } from './ensure-image.ts';
import { faults } from './faults.ts';
import { ensureDirs, isValidFile, newId, readFile, requireFile, writeAtomically } from './files.ts';
import { wrapped } from './images.ts';
import { interrupt, pause } from './interrupt.ts';
import { logger } from './log.ts';
import { configureNetwork, releaseNetwork } from './network.ts';
import { makeOverlay, readQcow2Header } from './qcow2.ts';
import type { BootConfig, NetworkConfig, SnapshotRecord, StorageConfig, Vm, VmRecord } from './records.ts';
import { findSnapshot, initSnapshots } from './snapshots.ts';
import { openStore } from './store.ts';
import { decimalSize, goTime, parseJson, parseSize, quote } from './text.ts';
import { BACKEND_DIR, initHypervisors, numberFlag, removeVmDirs, validateGuest, type HypervisorName } from './vms.ts';

interface Plan {
  vmId: string;
  owner: HypervisorName;
  config: Vm['config'];
  snapshot: SnapshotRecord;
  runDir: string;
  logDir: string;
}

/** What cocoon reads of the hypervisor's own config.json. */
interface HypervisorConfig {
  payload?: { firmware?: string; kernel?: string; initramfs?: string; cmdline?: string };
  disks?: { path: string; readonly?: boolean }[];
  net?: { id?: string }[];
}

export async function cloneVm(call: Invocation): Promise<void> {
  initSnapshots(call);
  const ref = call.args[0] ?? '';
  const snapshot = await wrapped(`inspect snapshot ${ref}`, () => findSnapshot(call, ref));
  const owner = snapshot.hypervisor === 'firecracker' ? 'firecracker' : 'cloud-hypervisor';
  initHypervisors(call, [owner], '');
  const vmId = newId();
  const config = guestConfig(call, snapshot, vmId);
  const plan: Plan = {
    vmId,
    owner,
    config,
    snapshot,
    runDir: call.layout.vmRunDir(BACKEND_DIR[owner], vmId),
    logDir: call.layout.vmLogDir(BACKEND_DIR[owner], vmId),
  };
  const vm = faults.newer ? await cloneNewer(call, plan, ref) : await cloneLegacy(call, plan, ref);
  if (wantsJson(call))
    return printJson(faults.newer ? { ...vm, socket_path: join(plan.runDir, 'api.sock'), hints: [] } : vm);
  logger('cmd.vm.clone').info(`VM cloned: ${vm.id} (name: ${vm.config.name})`);
  printHints(vm);
}

/** v0.3.8: image and network first, then the reservation. */
async function cloneLegacy(call: Invocation, plan: Plan, ref: string): Promise<Vm> {
  if (isSet(call, 'pull')) await ensureImage(call, plan.config);
  const nics = await network(call, plan);
  announce(call, ref);
  return rollingBackNetwork(call, plan, nics, () =>
    wrapped('clone VM', async () => {
      checkHostCpus(plan.config.cpu ?? 0);
      await reserve(call, plan);
      return rollingBack(call, plan, () => build(call, plan, nics));
    }),
  );
}

/** Newer: the reservation, which pins the blobs, comes before image and network. */
async function cloneNewer(call: Invocation, plan: Plan, ref: string): Promise<Vm> {
  await wrapped('clone VM', async () => {
    checkHostCpus(plan.config.cpu ?? 0);
    await reserve(call, plan);
  });
  return rollingBack(call, plan, async () => {
    if (isSet(call, 'pull')) await ensureImage(call, plan.config);
    const nics = await network(call, plan);
    announce(call, ref);
    return rollingBackNetwork(call, plan, nics, () => wrapped('clone VM', () => build(call, plan, nics)));
  });
}

/** Flags over the snapshot's values; nothing may be smaller than in the snapshot. */
function guestConfig(call: Invocation, snapshot: SnapshotRecord, vmId: string): Vm['config'] {
  const size = (name: string, inherited = 0) => {
    const given = flag(call, name);
    if (!given) return inherited;
    const bytes = parseSize(given);
    if (bytes === null) throw new Error(`invalid --${name} ${quote(given)}: invalid size: '${given}'`);
    return bytes;
  };
  const cpu = numberFlag(call, 'cpu') || (snapshot.cpu ?? 0);
  const memory = size('memory', snapshot.memory);
  const storage = size('storage', snapshot.storage);
  const least = (name: string, value: number, minimum: number, show: (n: number) => string) => {
    if (value < minimum) throw new Error(`--${name} ${show(value)} below snapshot minimum ${show(minimum)}`);
  };
  least('cpu', cpu, snapshot.cpu ?? 0, String);
  least('memory', memory, snapshot.memory ?? 0, decimalSize);
  least('storage', storage, snapshot.storage ?? 0, decimalSize);
  const fallback = faults.newer ? `cocoon-clone-${vmId.slice(0, 8)}` : '';
  const direct = flag(call, 'no-direct-io');
  const config = omitZero({
    cpu,
    memory,
    storage,
    queue_size: numberFlag(call, 'queue-size') || snapshot.queue_size,
    disk_queue_size: numberFlag(call, 'disk-queue-size') || snapshot.disk_queue_size,
    image: snapshot.image,
    image_digest: snapshot.image_digest,
    image_type: snapshot.image_type,
    network: flag(call, 'network') || snapshot.network,
    no_direct_io: direct ? direct === 'true' : snapshot.no_direct_io,
    windows: snapshot.windows,
    name: flag(call, 'name') || fallback,
  });
  validateGuest(config);
  return config;
}

function omitZero(config: Record<string, unknown>): Vm['config'] {
  const kept = Object.entries(config).filter(([key, value]) => key === 'name' || value);
  return Object.fromEntries(kept) as unknown as Vm['config'];
}

/** L: 0 inherits; N: an explicit value is honoured, also 0. */
async function network(call: Invocation, plan: Plan): Promise<NetworkConfig[]> {
  const inherited = plan.snapshot.nics ?? 0;
  const given = numberFlag(call, 'nics');
  const explicit = faults.newer ? flag(call, 'nics') !== '' : given !== 0;
  const nics = explicit ? given : inherited;
  if (!faults.newer && nics < inherited) throw new Error(`--nics ${nics} below snapshot minimum ${inherited}`);
  return configureNetwork(call, plan.vmId, nics, plan.config.cpu ?? 1, plan.config.network ?? '', flag(call, 'bridge'));
}

function announce(call: Invocation, ref: string): void {
  if (!wantsJson(call)) logger('cmd.vm.clone').info(`cloning VM from snapshot ${ref} (direct) ...`);
}

function checkHostCpus(wanted: number): void {
  const cores = cpus().length;
  if (wanted > cores) throw new Error(`requested ${wanted} vCPUs exceeds host cores (${cores})`);
}

async function reserve(call: Invocation, plan: Plan): Promise<void> {
  const { vmId, owner, config, snapshot, runDir, logDir } = plan;
  const store = await openStore(call.config, owner);
  await wrapped('reserve VM record', () =>
    store.update((index) => {
      const holder = index.names[config.name];
      if (holder !== undefined) throw new Error(`vm name ${quote(config.name)} already exists (id: ${holder})`);
      const now = goTime();
      index.vms[vmId] = {
        id: vmId,
        hypervisor: owner,
        state: 'creating',
        config,
        pid: 0,
        first_booted: false,
        created_at: now,
        updated_at: now,
        ...(snapshot.image_blob_ids ? { image_blob_ids: snapshot.image_blob_ids } : {}),
        run_dir: runDir,
        log_dir: logDir,
      };
      index.names[config.name] = vmId;
    }),
  );
  ensureDirs(runDir, logDir);
}

/** On failure directories and record go; after a signal the record stays, because its lock gives up at once (D.5). */
async function rollingBack<R>(call: Invocation, plan: Plan, run: () => Promise<R>): Promise<R> {
  try {
    return await run();
  } catch (error) {
    removeVmDirs({ run_dir: plan.runDir, log_dir: plan.logDir } as VmRecord);
    try {
      const store = await openStore(call.config, plan.owner);
      if (interrupt.aborted) throw new Error(`acquire flock ${store.lockFile}: context canceled`, { cause: error });
      await store.update((index) => {
        delete index.vms[plan.vmId];
        delete index.names[plan.config.name];
      });
    } catch (failure) {
      const what = `rollback VM ${plan.vmId} (name=${plan.config.name})`;
      logger(`${plan.owner}.RollbackCreate`).warn(`${what}: ${(failure as Error).message}`);
    }
    throw error;
  }
}

async function rollingBackNetwork<R>(
  call: Invocation,
  plan: Plan,
  nics: NetworkConfig[],
  run: () => Promise<R>,
): Promise<R> {
  try {
    return await run();
  } catch (error) {
    if (nics.length > 0 && !interrupt.aborted) await releaseNetwork(call, plan.vmId);
    throw error;
  }
}

/** All that cocoon looks at before a hypervisor starts, of files in their own directory. */
export function preflight(dir: string): void {
  const config = readHypervisorConfig(dir);
  const sidecar = readSidecar(dir);
  checkIntegrity(dir, sidecar, config);
  const boot = bootConfig(config);
  const cow = join(dir, boot?.kernel_path ? 'cow.raw' : 'overlay.qcow2');
  verifyBaseFiles(relocate(sidecar, dir, cow), boot);
  requireFile(cow);
}

/** From the snapshot's files to a running guest. */
async function build(call: Invocation, plan: Plan, nics: NetworkConfig[]): Promise<Vm> {
  const { runDir, snapshot } = plan;
  await wrapped('clone snapshot files', async () => copyFiles(snapshot.data_dir ?? '', runDir));
  const config = await wrapped('parse CH config', async () => readHypervisorConfig(runDir));
  const sidecar = await wrapped('load snapshot meta', async () => readSidecar(runDir));
  await wrapped('snapshot integrity', async () => checkIntegrity(runDir, sidecar, config));
  const boot = bootConfig(config);
  const directBoot = Boolean(boot?.kernel_path);
  const cow = join(runDir, directBoot ? 'cow.raw' : 'overlay.qcow2');
  const disks = relocate(sidecar, runDir, cow);
  await wrapped('verify base files', async () => verifyBaseFiles(disks, boot));
  if (!directBoot) await wrapped('resize COW', async () => growOverlay(cow, plan.config.storage ?? 0));
  const withCidata = directBoot || plan.config.windows ? disks : addCidata(disks, runDir);
  patchConfig(runDir, config, withCidata);
  writeFileSync(join(runDir, 'cmdline'), `cloud-hypervisor --api-socket ${join(runDir, 'api.sock')}`, { mode: 0o600 });
  writeFileSync(join(plan.logDir, 'cloud-hypervisor.log'), '');
  await wrapped('vm.restore', () => restore(cow, directBoot));
  // The guest is taken to be alive as long as this file names a live process; the first one always is.
  writeFileSync(join(runDir, 'ch.pid'), '1\n', { mode: 0o600 });
  const vm = await wrapped('finalize VM record', () => finalize(call, plan, nics, withCidata, boot));
  logger('cloudhypervisor.Clone').info(`VM ${plan.vmId} cloned from snapshot`);
  return vm;
}

/** Guest memory is hard-linked, all else copied. */
function copyFiles(from: string, to: string): void {
  try {
    readHypervisorConfig(from);
  } catch (error) {
    throw new Error(`parse source config: ${(error as Error).message}`, { cause: error });
  }
  for (const name of readdirSync(from)) {
    if (!statSync(join(from, name)).isFile()) continue;
    if (name.startsWith('memory-range')) linkSync(join(from, name), join(to, name));
    else copyFileSync(join(from, name), join(to, name));
  }
}

function readHypervisorConfig(dir: string): HypervisorConfig {
  const path = join(dir, 'config.json');
  let text: string;
  try {
    text = readFile(path).toString();
  } catch (error) {
    throw new Error(`read ${path}: ${(error as Error).message}`, { cause: error });
  }
  try {
    const config = parseJson(text) as HypervisorConfig;
    if (Array.isArray(config.payload)) throw new Error('json: cannot unmarshal array into Go struct field payload');
    return config;
  } catch (error) {
    throw new Error(`decode ${path}: ${(error as Error).message}`, { cause: error });
  }
}

function readSidecar(dir: string): StorageConfig[] {
  let text: string;
  try {
    text = readFile(join(dir, 'cocoon.json')).toString();
  } catch (error) {
    throw new Error(`read cocoon.json: ${(error as Error).message}`, { cause: error });
  }
  try {
    const { storage_configs: disks } = parseJson(text) as { storage_configs?: StorageConfig[] | null };
    return (disks ?? []).map((disk) => ({ ...disk, ro: disk?.ro ?? false })); // Go's zero values
  } catch (error) {
    throw new Error(`decode cocoon.json: ${(error as Error).message}`, { cause: error });
  }
}

function checkIntegrity(dir: string, sidecar: StorageConfig[], config: HypervisorConfig): void {
  for (const [i, disk] of sidecar.entries()) {
    const readOnly = disk.role === 'layer' || disk.role === 'cidata';
    if (!readOnly && disk.role !== 'cow' && disk.role !== 'data') {
      const roles = `role must be one of layer/cow/cidata/data, got ${quote(disk.role)}`;
      throw new Error(`sidecar invalid: storage config ${i} (${disk.path}): ${roles}`);
    }
    if (disk.ro !== readOnly) {
      throw new Error(`sidecar invalid: storage config ${i} (${disk.path}): role ${disk.role} requires RO=${readOnly}`);
    }
    if (disk.role === 'data') checkDataDisk(disk);
    else if (disk.direct_io != null) {
      throw new Error(`sidecar invalid: storage config ${i} (${disk.path}): direct_io only allowed on data disks`);
    }
  }
  for (const disk of sidecar) {
    if (disk.role === 'layer') continue;
    const name = disk.role === 'data' ? `data-${disk.serial}.raw` : basename(disk.path);
    wrapMissing(`snapshot file ${name} missing`, join(dir, name));
  }
  const disks = config.disks ?? [];
  if (sidecar.length !== disks.length) {
    throw new Error(`sidecar/config.json mismatch: ${sidecar.length} vs ${disks.length} disks`);
  }
  for (const [i, disk] of sidecar.entries()) {
    const other = disks[i];
    if (disk.path !== other?.path) {
      throw new Error(
        `sidecar/config.json disk[${i}] path mismatch: ${quote(disk.path)} vs ${quote(other?.path ?? '')}`,
      );
    }
    if (disk.ro !== Boolean(other.readonly)) {
      const both = `sidecar=${disk.ro} config=${Boolean(other.readonly)}`;
      throw new Error(`sidecar/config.json disk[${i}] readonly mismatch: ${both}`);
    }
  }
  wrapMissing('state.json missing', join(dir, 'state.json'));
  if (!readdirSync(dir).some((name) => name.startsWith('memory-range'))) {
    throw new Error('no memory-range-* file in snapshot');
  }
}

function checkDataDisk({ serial, fstype, mount_point: mountPoint }: StorageConfig): void {
  const refused = (why: string) => new Error(`sidecar invalid: data disk ${serial}: ${why}`);
  if (fstype !== 'ext4' && fstype !== 'none') throw refused(`fstype must be ext4 or none, got ${quote(fstype ?? '')}`);
  if (fstype === 'none' && mountPoint) throw refused('fstype=none requires mount_point empty');
  if (mountPoint && !mountPoint.startsWith('/')) {
    throw refused(`mount_point must be absolute, got ${quote(mountPoint)}`);
  }
  if (!/^[a-z][a-z0-9_-]{0,19}$/.test(serial) || serial.startsWith('cocoon-')) {
    throw new Error(`sidecar invalid: data disk: serial ${quote(serial)} does not match name rules`);
  }
}

function wrapMissing(prefix: string, path: string): void {
  try {
    requireFile(path);
  } catch (error) {
    throw new Error(`${prefix}: ${(error as Error).message}`, { cause: error });
  }
}

/** Firmware and kernel come from the hypervisor's config.json, not from the sidecar. */
function bootConfig({ payload }: HypervisorConfig): BootConfig | undefined {
  if (!payload?.kernel && !payload?.firmware) return undefined;
  return {
    ...(payload.kernel ? { kernel_path: payload.kernel } : {}),
    ...(payload.initramfs ? { initrd_path: payload.initramfs } : {}),
    ...(payload.cmdline ? { cmdline: payload.cmdline } : {}),
    ...(payload.firmware ? { firmware_path: payload.firmware } : {}),
  };
}

/** The guest's own disks as they are in the clone's run directory. */
function relocate(sidecar: StorageConfig[], runDir: string, cow: string): StorageConfig[] {
  if (!sidecar.some((disk) => disk.role === 'cow'))
    throw new Error('update COW path: no COW disk found in storage configs');
  return sidecar.map((disk) => {
    if (disk.role === 'cow') return { ...disk, path: cow };
    if (disk.role === 'data') return { ...disk, path: join(runDir, `data-${disk.serial}.raw`) };
    if (disk.role === 'cidata') return { ...disk, path: join(runDir, 'cidata.img') };
    return disk;
  });
}

/** `stat` of OCI layers, kernel, initrd and firmware; the base of a cloud image is not among them. */
function verifyBaseFiles(disks: StorageConfig[], boot: BootConfig | undefined): void {
  for (const disk of disks) if (disk.role === 'layer') wrapMissing(`base layer ${disk.path}`, disk.path);
  const files = { kernel: boot?.kernel_path, initrd: boot?.initrd_path, firmware: boot?.firmware_path };
  for (const [name, path] of Object.entries(files)) if (path) wrapMissing(`${name} ${path}`, path);
}

/** Stands for `qemu-img resize`, which opens the backing file and fails without it. */
function growOverlay(path: string, wanted: number): void {
  const header = readQcow2Header(readFile(path));
  if (!header || wanted <= header.virtualSize) return;
  const { backing } = header;
  if (backing !== null) {
    try {
      requireFile(backing);
    } catch (error) {
      throw new Error(
        `qemu-img resize ${path}: qemu-img: Could not open '${path}': Could not open backing file: ` +
          `Could not open '${backing}': No such file or directory: exit status 1`,
        { cause: error },
      );
    }
    writeFileSync(path, makeOverlay(backing, wanted));
  }
}

function addCidata(disks: StorageConfig[], runDir: string): StorageConfig[] {
  const path = join(runDir, 'cidata.img');
  writeFileSync(path, Buffer.alloc(4096), { mode: 0o600 });
  if (disks.some((disk) => disk.role === 'cidata')) return disks;
  return [...disks, { path, ro: true, serial: '', role: 'cidata' }];
}

function patchConfig(runDir: string, config: HypervisorConfig, disks: StorageConfig[]): void {
  const patched = (config.disks ?? []).map((disk, i) => ({ ...disk, path: disks[i]?.path ?? disk.path }));
  writeAtomically(join(runDir, 'config.json'), JSON.stringify({ ...config, disks: patched }));
}

/** What the hypervisor answers: it opens the overlay, and through it the base, which is where the incident shows. */
async function restore(cow: string, directBoot: boolean): Promise<void> {
  const url = 'http://localhost/api/v1/vm.restore';
  const refuse = (body: string) => new Error(`PUT ${url} → 500: ${body}`);
  try {
    await pause(faults.cloneDelay);
  } catch (error) {
    throw new Error(`PUT ${url}: Put ${quote(url)}: ${(error as Error).message}`, { cause: error });
  }
  if (faults.cloneError) throw refuse(faults.cloneError);
  const backing = directBoot ? null : (readQcow2Header(readFile(cow))?.backing ?? null);
  if (backing === null) return;
  try {
    requireFile(backing);
  } catch (error) {
    const chain = 'Error from API: The VM could not be restored: Failed to open disk image';
    throw Object.assign(
      refuse(`${chain}: Backing file I/O error: ${backing}\nNo such file or directory (os error 2)`),
      { cause: error },
    );
  }
  // It reads the header of the base too.
  if (!isValidFile(backing)) throw refuse(`failed to fill whole buffer: ${backing}`);
}

async function finalize(
  call: Invocation,
  plan: Plan,
  nics: NetworkConfig[],
  disks: StorageConfig[],
  boot: BootConfig | undefined,
): Promise<Vm> {
  const store = await openStore(call.config, plan.owner);
  const now = goTime();
  const vm: Vm = {
    id: plan.vmId,
    hypervisor: plan.owner,
    state: 'running',
    config: plan.config,
    pid: 0,
    ...(nics.length > 0 ? { network_configs: nics } : {}),
    storage_configs: disks,
    first_booted: false,
    created_at: now,
    updated_at: now,
    started_at: now,
  };
  await store.update(({ vms }) => {
    const record = vms[plan.vmId];
    if (!record) throw new Error(`vm ${plan.vmId} disappeared from index`);
    const { image_blob_ids: blobs, run_dir: runDir, log_dir: logDir } = record;
    vms[plan.vmId] = {
      ...vm,
      first_booted: true,
      ...(boot ? { boot_config: boot } : {}),
      ...(blobs ? { image_blob_ids: blobs } : {}),
      ...(runDir ? { run_dir: runDir } : {}),
      ...(logDir ? { log_dir: logDir } : {}),
    };
  });
  return vm;
}

function printHints(vm: Vm): void {
  const lines = vm.config.windows
    ? ['Windows clone: NICs hot-swapped with new MAC addresses.', '  DHCP networks: no action needed.']
    : ['Run inside the guest to finish setup:'];
  print(`\n${lines.join('\n')}\n\n`);
}
