// `vm run`: boots from an image that the index resolves (contract D.8).
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { flag, printJson, wantsJson, type Invocation } from './command.ts';
import { ensureDirs, isValidFile, newId } from './files.ts';
import { imageStore, initImages, lookupExactly, wrapped, type BackendName } from './images.ts';
import { logger } from './log.ts';
import { configureNetwork } from './network.ts';
import { makeOverlay } from './qcow2.ts';
import type { BootConfig, StorageConfig, Vm } from './records.ts';
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
  const config: Vm['config'] = {
    cpu: numberFlag(call, 'cpu') || 2,
    memory: parseSize(flag(call, 'memory') || '1G') ?? 0,
    storage: parseSize(flag(call, 'storage') || '10G') ?? 0,
    image,
    ...(flag(call, 'network') ? { network: flag(call, 'network') } : {}),
    ...(flag(call, 'windows') === 'true' ? { windows: true } : {}),
    name: flag(call, 'name') || `cocoon-${image.replace(/[/:]/g, '-')}`.slice(0, 63),
  };
  validateGuest(config);
  initImages(call);
  initHypervisors(call, ['cloud-hypervisor'], '');
  const resolved = await resolveImage(call, image, config.name);
  const vmId = newId();
  const nics = await configureNetwork(
    call,
    vmId,
    Number(flag(call, 'nics') || 1),
    config.cpu ?? 1,
    config.network ?? '',
    flag(call, 'bridge'),
  );
  const runDir = call.layout.vmRunDir('cloudhypervisor', vmId);
  const logDir = call.layout.vmLogDir('cloudhypervisor', vmId);
  const store = await openStore(call.config, 'cloud-hypervisor');
  const record = await wrapped('create VM', () =>
    wrapped('reserve VM record', () =>
      store.update((index) => {
        const holder = index.names[config.name];
        if (holder !== undefined) throw new Error(`vm name ${quote(config.name)} already exists (id: ${holder})`);
        const now = goTime();
        index.names[config.name] = vmId;
        return (index.vms[vmId] = {
          id: vmId,
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
          log_dir: logDir,
        });
      }),
    ),
  );
  ensureDirs(runDir, logDir);
  const [base] = resolved.disks;
  if (resolved.type === 'cloudimg')
    writeFileSync(join(runDir, 'overlay.qcow2'), makeOverlay(base?.path ?? '', config.storage));
  writeFileSync(join(runDir, 'ch.pid'), '1\n', { mode: 0o600 });
  if (wantsJson(call)) return printJson(toPublic(record));
  const log = logger('cmd.vm.run');
  log.info(`VM created: ${vmId} (name: ${config.name})`);
  log.info(`started: ${vmId}`);
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
