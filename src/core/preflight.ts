/** What cocoon itself looks at before it clones a snapshot of Cloud Hypervisor: the two documents that describe its disks. */
import { array, object, optionalText, ShapeError, type JsonObject } from './json.ts';

/** A disk as `cocoon.json` lists it. */
export interface Disk {
  path: string;
  ro: boolean;
  role: string;
  serial: string;
}

const READ_ONLY: ReadonlyMap<string, boolean> = new Map([
  ['layer', true],
  ['cidata', true],
  ['cow', false],
  ['data', false],
]);
const MAX_DISKS = 1000;

/**
 * The disks that the sidecar `cocoon.json` lists.
 * @throws ShapeError that says what cocoon refuses of them
 */
export function disksOf(sidecar: JsonObject): Disk[] {
  return listOf(sidecar, 'storage_configs').map((item, i) => diskOf(item, `storage_configs[${i}]`));
}

/**
 * Refuses what cocoon does: the disks must be those of the hypervisor's own `config.json`, one by one, each with its file
 * in the directory, and one of them the guest's own.
 * @param files name → size in bytes
 * @throws ShapeError that says what cocoon refuses
 */
export function checkDisks(disks: Disk[], config: JsonObject, files: Record<string, number>): void {
  for (const disk of disks) {
    const name = fileOf(disk);
    if (name !== null && files[name] === undefined) throw new ShapeError(`its file ${name} is missing`);
  }
  const others = listOf(config, 'disks');
  if (disks.length !== others.length) {
    throw new ShapeError(`cocoon.json lists ${disks.length} disks and config.json ${others.length}`);
  }
  for (const [i, disk] of disks.entries()) {
    const where = `disks[${i}]`;
    const other = object(others[i], where);
    if ((optionalText(other['path'], `${where}.path`) ?? '') !== disk.path) {
      throw new ShapeError(`cocoon.json and config.json name different files for disk ${i}`);
    }
    if (flag(other['readonly'], `${where}.readonly`) !== disk.ro) {
      throw new ShapeError(`cocoon.json and config.json differ in whether disk ${i} may be written`);
    }
  }
  if (!disks.some(({ role }) => role === 'cow')) throw new ShapeError('cocoon.json lists no disk of the guest itself');
  const kernel = optionalText(object(config['payload'] ?? {}, 'payload')['kernel'], 'payload.kernel');
  const cow = kernel === null ? 'overlay.qcow2' : 'cow.raw';
  if (files[cow] === undefined) throw new ShapeError(`its file ${cow} is missing`);
}

function listOf(document: JsonObject, key: string): unknown[] {
  return array(document[key] ?? [], key, MAX_DISKS);
}

function diskOf(item: unknown, where: string): Disk {
  const fields = object(item, where);
  const role = optionalText(fields['role'], `${where}.role`) ?? '';
  const ro = flag(fields['ro'], `${where}.ro`);
  const isReadOnly = READ_ONLY.get(role);
  if (isReadOnly === undefined) throw new ShapeError(`${where} has no role that cocoon knows`);
  if (ro !== isReadOnly)
    throw new ShapeError(`${where} has the role ${role}, which ${ro ? 'must' : 'cannot'} be written`);
  const path = optionalText(fields['path'], `${where}.path`) ?? '';
  const serial = optionalText(fields['serial'], `${where}.serial`) ?? '';
  if (role === 'data') checkData(fields, serial, where);
  else if (fields['direct_io'] != null) throw new ShapeError(`${where} has direct_io, which only a data disk may have`);
  return { path, ro, role, serial };
}

/** The rules for the disks that a user adds to a guest. */
function checkData(fields: JsonObject, serial: string, where: string): void {
  const fileSystem = optionalText(fields['fstype'], `${where}.fstype`);
  const mountPoint = optionalText(fields['mount_point'], `${where}.mount_point`);
  flag(fields['direct_io'], `${where}.direct_io`);
  if (fileSystem !== 'ext4' && fileSystem !== 'none') throw new ShapeError(`${where}.fstype is neither ext4 nor none`);
  if (mountPoint !== null && (fileSystem === 'none' || !mountPoint.startsWith('/'))) {
    throw new ShapeError(`${where}.mount_point cannot be used`);
  }
  if (!/^[a-z][a-z0-9_-]{0,19}$/.test(serial) || serial.startsWith('cocoon-')) {
    throw new ShapeError(`${where}.serial is no name of a data disk`);
  }
}

/** The file of a disk in the snapshot's directory; layers are shared and lie elsewhere. */
function fileOf({ role, path, serial }: Disk): string | null {
  if (role === 'layer') return null;
  return role === 'data' ? `data-${serial}.raw` : (path.replace(/\/+$/, '').split('/').at(-1) ?? '');
}

function flag(value: unknown, where: string): boolean {
  if (value === undefined || value === null) return false;
  if (typeof value !== 'boolean') throw new ShapeError(`${where} is neither true nor false`);
  return value;
}
