// `vm run`: boots from an image that the index resolves.
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { flag, isSet, printJson, wantsJson, type Invocation } from './command.ts';
import { ensureDirs, isValidFile, newId } from './files.ts';
import { imageStore, initImages, lookupExactly, wrapped, type BackendName } from './images.ts';
import { logger } from './log.ts';
import { configureNetwork } from './network.ts';
import { makeOverlay } from './qcow2.ts';
import type { BootConfig, NetworkConfig, StorageConfig, Vm, VmRecord } from './records.ts';
import { openStore } from './store.ts';
import { goTime, parseSize, quote } from './text.ts';
import { initHypervisors, numberFlag, toPublic, validateGuest } from './vms.ts';

interface Resolved {
  type: BackendName;
  digest: string;
  disks: StorageConfig[];
  boot: BootConfig;
  blobs: string[];
}

export async function runVm(call: Invocation): Promise<void> {
  const image = call.args[0] ?? '';
  const config = guestConfig(call, image);
  validateGuest(config);
  initImages(call);
  initHypervisors(call, ['cloud-hypervisor'], '');
  const resolved = await resolveImage(call, image, config.name);
  const id = newId();
  const count = Number(flag(call, 'nics') || 1);
  const bridge = flag(call, 'bridge');
  const nics = await configureNetwork(call, id, count, config.cpu ?? 1, config.network ?? '', bridge);
  const record = describeVm(call, id, config, resolved, nics);
  await wrapped('create VM: reserve VM record', () => reserve(call, record));
  startGuest(record, resolved);
  if (wantsJson(call)) return printJson(toPublic(record));
  const log = logger('cmd.vm.run');
  log.info(`VM created: ${id} (name: ${config.name})`);
  log.info(`started: ${id}`);
}

function guestConfig(call: Invocation, image: string): Vm['config'] {
  return {
    cpu: numberFlag(call, 'cpu') || 2,
    memory: parseSize(flag(call, 'memory') || '1G') ?? 0,
    storage: parseSize(flag(call, 'storage') || '10G') ?? 0,
    image,
    ...(flag(call, 'network') ? { network: flag(call, 'network') } : {}),
    ...(isSet(call, 'windows') ? { windows: true } : {}),
    name: flag(call, 'name') || `cocoon-${image.replace(/[/:]/g, '-')}`.slice(0, 63),
  };
}

function describeVm(
  call: Invocation,
  id: string,
  config: Vm['config'],
  resolved: Resolved,
  nics: NetworkConfig[],
): VmRecord & { run_dir: string; log_dir: string } {
  const runDir = call.layout.vmRunDir('cloudhypervisor', id);
  const now = goTime();
  return {
    id,
    hypervisor: 'cloud-hypervisor',
    state: 'running',
    config: { ...config, image_digest: resolved.digest, image_type: resolved.type },
    pid: 0,
    ...(nics.length > 0 ? { network_configs: nics } : {}),
    storage_configs: guestDisks(resolved, runDir),
    first_booted: true,
    created_at: now,
    updated_at: now,
    started_at: now,
    boot_config: resolved.boot,
    image_blob_ids: Object.fromEntries(resolved.blobs.map((hex) => [hex, {}])),
    run_dir: runDir,
    log_dir: call.layout.vmLogDir('cloudhypervisor', id),
  };
}

async function reserve(call: Invocation, record: VmRecord): Promise<void> {
  const store = await openStore(call.config, 'cloud-hypervisor');
  const { name } = record.config;
  await store.update((index) => {
    const holder = index.names[name];
    if (holder !== undefined) throw new Error(`vm name ${quote(name)} already exists (id: ${holder})`);
    index.names[name] = record.id;
    index.vms[record.id] = record;
  });
}

function startGuest(record: VmRecord & { run_dir: string; log_dir: string }, resolved: Resolved): void {
  ensureDirs(record.run_dir, record.log_dir);
  if (resolved.type === 'cloudimg') {
    const overlay = makeOverlay(resolved.disks[0]?.path ?? '', record.config.storage);
    writeFileSync(join(record.run_dir, 'overlay.qcow2'), overlay);
  }
  writeFileSync(join(record.run_dir, 'ch.pid'), '1\n', { mode: 0o600 });
}

/** Both backends are asked; unlike a clone, a run looks at the blob of a cloud image. */
async function resolveImage(call: Invocation, image: string, name: string): Promise<Resolved> {
  const failures: string[] = [];
  const found: Resolved[] = [];
  for (const type of ['oci', 'cloudimg'] as const) {
    try {
      found.push(await resolveIn(call, type, image, name));
    } catch (error) {
      failures.push(`${type}: ${(error as Error).message}`);
    }
  }
  const [first] = found;
  if (!first) throw new Error(`image ${quote(image)} not resolved: ${failures.join('; ')}`);
  if (found.length === 1) return first;
  throw new Error(`image ${image}: image ref resolves to multiple backends (matched both oci and cloudimg)`);
}

async function resolveIn(call: Invocation, type: BackendName, image: string, name: string): Promise<Resolved> {
  const { layout } = call;
  const { images } = await (await imageStore(call, type)).read();
  const entry = lookupExactly(images, image);
  if (!entry) throw new Error(`image ${quote(image)} not found for VM ${name}`);
  const need = (path: string, lack: string) => {
    if (!isValidFile(path)) throw new Error(lack);
    return path;
  };
  if ('content_sum' in entry) {
    const hex = entry.content_sum.slice(7);
    const path = need(layout.cloudimgBlob(hex), `blob invalid for VM ${name} (${entry.content_sum})`);
    const firmware = need(layout.firmware, `firmware not found: ${layout.firmware}`);
    const disk = { path, ro: true, serial: 'cocoon-base', role: 'layer' };
    return { type, digest: entry.content_sum, disks: [disk], boot: { firmware_path: firmware }, blobs: [hex] };
  }
  const disks = entry.layers.map(({ digest }, i) => ({
    path: need(layout.ociBlob(digest.slice(7)), `blob invalid for VM ${name} layer ${i} (${digest})`),
    ro: true,
    serial: `cocoon-layer${i}`,
    role: 'layer',
  }));
  const kernel = join(layout.ociBootDir(entry.kernel_layer.slice(7)), 'vmlinuz');
  const initrd = join(layout.ociBootDir(entry.initrd_layer.slice(7)), 'initrd.img');
  const boot = {
    kernel_path: need(kernel, `kernel invalid for VM ${name} (${entry.kernel_layer})`),
    initrd_path: need(initrd, `initrd invalid for VM ${name} (${entry.initrd_layer})`),
  };
  const blobs = [...entry.layers.map(({ digest }) => digest), entry.kernel_layer, entry.initrd_layer];
  return {
    type,
    digest: entry.manifest_digest,
    disks,
    boot,
    blobs: [...new Set(blobs.map((digest) => digest.slice(7)))],
  };
}

function guestDisks(resolved: Resolved, runDir: string): StorageConfig[] {
  if (resolved.type === 'cloudimg')
    return [{ path: join(runDir, 'overlay.qcow2'), ro: false, serial: '', role: 'cow' }];
  return [...resolved.disks, { path: join(runDir, 'cow.raw'), ro: false, serial: 'cocoon-cow', role: 'cow' }];
}
