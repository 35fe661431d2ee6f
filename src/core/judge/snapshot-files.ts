/** A snapshot's own files and record: whether it is usable whatever its base is, and which base it opens. */
import { UNREADABLE } from '../qcow2.ts';
import { isDigest } from '../reference.ts';
import { count } from '../text.ts';
import type { Node } from '../model/node.ts';
import type { Observed, SnapshotFact } from '../model/observed.ts';

/**
 * What makes a snapshot unusable whatever its base is, or null: what a clone looks at before it opens the base. A snapshot of Cloud
 * Hypervisor needs `cocoon.json` since v0.3.8.
 */
export function whyUnusable(observed: Observed, fact: SnapshotFact): string | null {
  if (!fact.recorded) return 'its name points at a record that is not there';
  if (fact.files === null) return `its data directory is not there (${fact.dataDir ?? 'none recorded'})`;
  const { files } = fact;
  const cow = fact.baseType === 'oci' ? 'cow.raw' : 'overlay.qcow2';
  const needed = fact.hypervisor === 'firecracker' ? ['vmstate', 'mem', 'cow.raw'] : ['config.json', 'state.json', cow];
  const lacking = needed.find((name) => !((files[name] ?? 0) > 0));
  if (lacking !== undefined) return `its file ${lacking} is missing or empty`;
  if (fact.hypervisor !== 'firecracker') {
    if (!Object.keys(files).some((name) => name.startsWith('memory-range')))
      return 'its memory is missing (memory-ranges)';
    if (files['cocoon.json'] === undefined && needsSidecar(observed.cocoonVersion)) {
      return 'it was made before cocoon v0.3.8 and has no cocoon.json: bake it again';
    }
  }
  if (fact.unusable !== null) return fact.unusable;
  const boot = fact.bootFiles.find((path) => observed.files[path] !== 'file');
  if (boot !== undefined) return `${boot} is missing`;
  if (fact.baseType === 'cloudimg' && fact.backing === null) return 'its overlay names no base';
  return null;
}

/** How closely the files of a usable snapshot were looked at. What is in them only a hypervisor can tell. */
const CHECKED = {
  there: 'of its own files, checked: files present',
  size: 'of its own files, checked: files present, sizes as at epoch',
};

/**
 * Holds the files of a snapshot against those of the one of its name at epoch, where the two are the same: then all that
 * describes the guest has the same sizes. Another one of that name may differ in everything.
 * @returns what is wrong with a file, or how closely they were looked at
 */
export function filesAgainst(
  { files }: SnapshotFact,
  atEpoch: Record<string, number>,
): { damage: string; checked: null } | { damage: null; checked: string } {
  const describing = Object.keys(atEpoch).filter((name) => name.endsWith('.json') && name !== 'snapshot.json');
  const isSame = describing.length > 1 && describing.every((name) => files?.[name] === atEpoch[name]);
  if (!isSame) return { damage: null, checked: CHECKED.there };
  const other = Object.entries(atEpoch).find(([name, bytes]) => (files?.[name] ?? bytes) !== bytes);
  if (other === undefined) return { damage: null, checked: CHECKED.size };
  const [name, bytes] = other;
  return { damage: `its file ${name} has ${count(files?.[name] ?? 0, 'byte')}, and ${bytes} at epoch`, checked: null };
}

/** v0.3.8 is the first that refuses a snapshot without `cocoon.json`; a version that cannot be read counts as newer. */
function needsSidecar(version: string): boolean {
  const match = /^v?(\d+)\.(\d+)\.(\d+)/.exec(version);
  if (match === null) return true;
  const [major, minor, patch] = match.slice(1).map(Number) as [number, number, number];
  return major > 0 || minor > 3 || (minor === 3 && patch >= 8);
}

/** `<rootDir>/cloudimg/blobs/<hex>.qcow2` → `<hex>`; null for any other path. */
export function blobHex(node: Pick<Node, 'cocoon'>, path: string): string | null {
  const prefix = `${node.cocoon.rootDir}/cloudimg/blobs/`;
  if (!path.startsWith(prefix)) return null;
  return /^([0-9a-f]{64})\.qcow2$/.exec(path.slice(prefix.length))?.[1] ?? null;
}

/** The digest that a record pins: its own field, or for older ones the single blob that it names. */
export function pinnedBy(fact: SnapshotFact): string | null {
  if (fact.baseDigest !== null) return fact.baseDigest;
  const [only, ...more] = fact.blobIds;
  const digest = `sha256:${only}`;
  return only !== undefined && more.length === 0 && isDigest(digest) ? digest : null;
}

/** What a clone of a snapshot opens, as far as its own files tell. */
export type OpenedBase =
  | { kind: 'blob'; digest: string }
  /** A file outside the root directory of its node. */
  | { kind: 'file'; path: string; isThere: boolean }
  | { kind: 'unreadable'; path: string }
  /** Of a container image: its layers, kernel and initrd, and those that are not there. */
  | { kind: 'layers'; needed: string[]; gone: string[] };

export const NO_LAYERS = 'neither its files nor its record tell the layers of its base';

export function layersGone(needed: string[], gone: string[]): string {
  return `${gone.length} of the ${needed.length} files of its base are not there, as ${gone[0]}`;
}

/** @param fact of a snapshot that is usable itself */
export function openedBase({ cocoon }: Pick<Node, 'cocoon'>, { files }: Observed, fact: SnapshotFact): OpenedBase {
  if (fact.baseType === 'oci') {
    // A snapshot of firecracker names its layers in its record alone.
    const blobs = fact.blobIds.map((hex) => `${cocoon.rootDir}/oci/blobs/${hex}.erofs`);
    const needed = fact.layerFiles.length > 0 ? fact.layerFiles : blobs;
    return { kind: 'layers', needed, gone: needed.filter((path) => files[path] !== 'file') };
  }
  const path = fact.backing ?? '';
  if (path.includes(UNREADABLE)) return { kind: 'unreadable', path };
  const hex = blobHex({ cocoon }, path);
  return hex === null
    ? { kind: 'file', path, isThere: files[path] === 'file' }
    : { kind: 'blob', digest: `sha256:${hex}` };
}
