// `vm list|inspect|stop|rm`.
import { readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { flag, isSet, print, printJson, printList, wantsJson, type Invocation } from './command.ts';
import { faults } from './faults.ts';
import { ensureDirs } from './files.ts';
import { wrapped } from './images.ts';
import { logger } from './log.ts';
import { resolveRef, type Vm, type VmRecord } from './records.ts';
import { openStore } from './store.ts';
import { binarySize, goTime, quote, tableTime } from './text.ts';

export type HypervisorName = 'cloud-hypervisor' | 'firecracker';

const HYPERVISORS: HypervisorName[] = ['cloud-hypervisor', 'firecracker'];

/** The directory name of a hypervisor under root, run and log directory. */
export const BACKEND_DIR = { 'cloud-hypervisor': 'cloudhypervisor', firecracker: 'firecracker' };

/** Files that exist only while a guest runs. */
const RUNTIME_FILES = ['api.sock', 'ch.pid', 'console.sock', 'cmdline'];

export function initHypervisors(call: Invocation, names = HYPERVISORS, suffix = ' for GC'): void {
  for (const name of names) {
    try {
      ensureDirs(...call.layout.dirs.hypervisor(BACKEND_DIR[name]));
    } catch (error) {
      throw new Error(`init ${suffix ? name : 'hypervisor'}${suffix}: ${(error as Error).message}`, { cause: error });
    }
  }
}

/** A VM and the hypervisor that owns it; the error for an unknown one is what clients look for. */
export async function findVm(call: Invocation, ref: string): Promise<{ owner: HypervisorName; vm: VmRecord }> {
  initHypervisors(call);
  const matches: { owner: HypervisorName; vm: VmRecord }[] = [];
  for (const owner of HYPERVISORS) {
    await wrapped(`inspect ${ref} in ${owner}`, async () => {
      const index = await (await openStore(call.config, owner)).read();
      const vm = index.vms[resolveRef(index.vms, index.names, ref) ?? ''];
      if (vm) matches.push({ owner, vm });
    });
  }
  const [match] = matches;
  if (!match) throw new Error(`vm ${ref}: VM not found`);
  if (matches.length === 1) return match;
  const owners = matches.map(({ owner }) => owner).join(', ');
  throw new Error(`vm ${ref}: VM ref resolves to multiple backends (backends: ${owners})`);
}

export async function listVms(call: Invocation): Promise<void> {
  initHypervisors(call);
  const vms: Vm[] = [];
  for (const owner of HYPERVISORS) {
    const index = await wrapped(`list: list ${owner}`, async () => (await openStore(call.config, owner)).read());
    vms.push(
      ...Object.values(index.vms)
        .filter((vm) => vm !== null)
        .map(toPublic),
    );
  }
  if (vms.length === 0) return print('No VMs found.\n');
  vms.sort((a, b) => Date.parse(a.created_at) - Date.parse(b.created_at));
  const header = ['ID', 'NAME', 'STATE', 'CPU', 'MEMORY', 'STORAGE', 'IP', 'IMAGE', 'CREATED'];
  printList(call, vms, header, (vm: Vm) => [
    vm.id,
    vm.config.name,
    displayState(vm),
    String(vm.config.cpu ?? 0),
    binarySize(vm.config.memory ?? 0),
    binarySize(vm.config.storage ?? 0),
    vm.network_configs?.flatMap((nic) => nic.network?.ip ?? []).join(',') || '-',
    vm.config.image ?? '',
    tableTime(vm.created_at),
  ]);
}

export async function inspectVm(call: Invocation): Promise<void> {
  const { vm } = await wrapped('inspect', () => findVm(call, call.args[0] ?? ''));
  const shown = toPublic(vm);
  printJson({ ...shown, state: displayState(shown) });
}

/** The double has no guests to wait for: a stop is over at once. */
export async function stopVms(call: Invocation): Promise<void> {
  await forEachVm(call, 'stop', async ({ owner, vm }) => {
    removeRuntimeFiles(vm);
    const store = await openStore(call.config, owner);
    await store.update(({ vms }) => {
      const now = goTime();
      const record = vms[vm.id];
      if (record) Object.assign(record, { state: 'stopped', updated_at: now, stopped_at: now });
    });
  });
}

/** Directories go first, then the record; a running guest needs `--force`. */
export async function removeVms(call: Invocation): Promise<void> {
  const force = isSet(call, 'force');
  await forEachVm(call, 'rm', async ({ owner, vm }) => {
    if (isRunning(vm) && !force) throw new Error('stop before delete: running (force required)');
    removeVmDirs(vm);
    const store = await openStore(call.config, owner);
    await store.update((index) => {
      delete index.names[vm.config.name];
      delete index.vms[vm.id];
    });
    ensureDirs(...call.layout.dirs.cni);
    const networks = await openStore(call.config, 'cni');
    const { networks: records } = await networks.read();
    if (!Object.values(records).some((record) => record?.vm_id === vm.id)) return;
    await networks.update((index) => {
      for (const [id, record] of Object.entries(index.networks)) if (record?.vm_id === vm.id) delete index.networks[id];
    });
  });
}

export function removeVmDirs(vm: VmRecord): void {
  for (const dir of [vm.run_dir, vm.log_dir]) if (dir) rmSync(dir, { recursive: true, force: true });
}

/** What commands show: paths and pins stay on disk, the process is looked up now. */
export function toPublic(record: VmRecord): Vm {
  const { boot_config: _boot, image_blob_ids: _blobs, run_dir: runDir = '', log_dir: _log, ...vm } = record;
  if (vm.state !== 'running') return vm;
  const { id, hypervisor, state, config, pid: _pid, ...rest } = vm;
  return {
    id,
    ...(hypervisor ? { hypervisor } : {}),
    state,
    config,
    pid: pidOf(runDir),
    socket_path: join(runDir, 'api.sock'),
    ...rest,
  };
}

function displayState(vm: Vm): string {
  return vm.state === 'running' && !isAlive(vm.pid) ? 'stopped (stale)' : vm.state;
}

function isRunning(vm: VmRecord): boolean {
  return isAlive(pidOf(vm.run_dir ?? ''));
}

function pidOf(runDir: string): number {
  try {
    return Number(readFileSync(join(runDir, 'ch.pid'), 'utf8').trim()) || 0;
  } catch {
    return 0;
  }
}

function isAlive(pid: number): boolean {
  if (pid <= 0) return false;
  try {
    return process.kill(pid, 0);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}

function removeRuntimeFiles(vm: VmRecord): void {
  for (const name of RUNTIME_FILES) rmSync(join(vm.run_dir ?? '', name), { force: true });
}

/** All references are resolved before the first VM is touched; failures of single VMs are collected. */
async function forEachVm(
  call: Invocation,
  verb: 'stop' | 'rm',
  act: (found: { owner: HypervisorName; vm: VmRecord }) => Promise<void>,
): Promise<void> {
  const log = logger(`cmd.${verb === 'rm' ? 'vm.rm' : verb}`);
  const found = new Map<string, { owner: HypervisorName; vm: VmRecord }>();
  for (const ref of call.args) {
    const match = await findVm(call, ref);
    found.set(match.vm.id, match);
  }
  const succeeded: string[] = [];
  const failures: string[] = [];
  for (const [id, match] of found) {
    try {
      await act(match);
      succeeded.push(id);
    } catch (error) {
      failures.push(`item ${id}: ${(error as Error).message}`);
    }
  }
  const backendLog = logger(`cloud-hypervisor.${verb === 'rm' ? 'Delete' : 'Stop'}`);
  for (const failure of failures) backendLog.warn(`${verb === 'rm' ? 'Delete' : 'Stop'}: ${failure}`);
  const past = verb === 'rm' ? (faults.newer ? 'deleted' : 'deleted VM') : 'stopped';
  if (!wantsJson(call)) for (const id of succeeded) log.info(`${past}: ${id}`);
  if (failures.length > 0) throw new Error(`${verb}: ${failures.join('\n')}`);
  if (wantsJson(call)) printJson({ succeeded: succeeded.length > 0 ? succeeded : null });
  else if (succeeded.length === 0) log.info(`no VMs ${verb === 'rm' ? 'deleted' : 'stopped'}`);
}

/** `vm name "x" …` refusals, in the order of the checks. */
export function validateGuest(config: Vm['config']): void {
  const pattern = '^[a-zA-Z0-9][a-zA-Z0-9._-]{0,62}$';
  if (!config.name) throw new Error('vm name cannot be empty');
  if (!new RegExp(pattern).test(config.name)) {
    throw new Error(`vm name ${quote(config.name)} is invalid: must match ${pattern} (max 63 chars)`);
  }
  const { cpu = 0, memory = 0, storage = 0 } = config;
  if (cpu <= 0) throw new Error(`--cpu must be at least 1, got ${cpu}`);
  if (memory < 512 * 2 ** 20) throw new Error(`--memory must be at least 512M, got ${memory}`);
  if (storage < 10 * 2 ** 30) throw new Error(`--storage must be at least 10G, got ${storage}`);
}

/** A flag that holds a number. */
export function numberFlag(call: Invocation, name: string): number {
  return Number(flag(call, name) || 0);
}
