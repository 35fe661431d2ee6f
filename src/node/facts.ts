/** What the probe said → `Observed`: every index, record and list validated, so that a hostile one is an error of its node alone. */
import { fault } from '../core/errors.ts';
import { array, digest, object, optionalText, parseJson, ShapeError, text, type JsonObject } from '../core/json.ts';
import { checkDisks, disksOf } from '../core/preflight.ts';
import { isCanaryName } from '../core/plan/leftovers.ts';
import { count, formatBytes } from '../core/text.ts';
import type { Node } from '../core/model/node.ts';
import type { IndexEntry, Leftover, Observed, SnapshotFact, VmFact } from '../core/model/observed.ts';
import { MAX_ENTRIES } from './limits.ts';
import { explainCopyFailure, isFull } from './private-copy.ts';
import type { DirectoryFact, RawAnswer } from './answer/answer.ts';

/** Below the root directory. */
const CLOUD_INDEX = 'cloudimg/db/images.json';
const OCI_INDEX = 'oci/db/images.json';
const SNAPSHOT_INDEX = 'snapshot/db/snapshots.json';
/** Leftovers of one node that a run takes up; the next one finds the rest. */
const MAX_LEFTOVERS = 100;

/** The names of `uname -m` in Go's words, which are those of registries. */
const ARCHITECTURES = new Map([
  ['x86_64', 'amd64'],
  ['aarch64', 'arm64'],
]);

/**
 * Yields where others may have their turn.
 * @throws ShapeError naming the place; ReconcileError NODE_ANSWER_INVALID where the free space is not told
 */
export function* parseFacts(raw: RawAnswer, node: Node): Generator<void, Observed> {
  if (raw.freeBytes === null)
    throw fault('NODE_ANSWER_INVALID', { host: node.name, what: 'it does not tell the free space' });
  const stored = raw.sqlite ? parseListedEntries(raw, node) : null;
  yield;
  const stray = stored === null ? [] : parseStrayEntries(raw);
  const entries = stored ?? parseJsonEntries(raw);
  yield;
  const indexSource = raw.sqlite
    ? 'sqlite'
    : CLOUD_INDEX in raw.texts || OCI_INDEX in raw.texts || SNAPSHOT_INDEX in raw.texts
      ? 'json'
      : 'none';
  const notes: string[] = [];
  if (stray === null) notes.push('a damaged JSON index lies beside meta.db, which is the one that counts');
  else if (stray.length > 0) notes.push('a JSON index lies beside meta.db, which is the one that counts');
  if (indexSource === 'none') notes.push('cocoon has no store there yet');
  if (raw.leftBytes.length > 0) {
    const bytes = raw.leftBytes.reduce((sum, left) => sum + left, 0);
    notes.push(
      `interrupted pulls left ${formatBytes(bytes)} in ${count(raw.leftBytes.length, 'file')}: garbage collection takes it some day`,
    );
  }
  const records = raw.sqlite ? parseListedSnapshots(raw, node) : parseJsonSnapshots(raw);
  yield;
  const vms = raw.sqlite ? parseListedVms(raw, node) : parseJsonVms(raw);
  const snapshots: SnapshotFact[] = [];
  for (const record of records) {
    yield;
    snapshots.push(describeSnapshot(record, raw, node));
  }
  return {
    cocoonVersion: raw.version,
    architecture: ARCHITECTURES.get(raw.machine) ?? raw.machine,
    indexSource,
    freeBytes: raw.freeBytes,
    entries,
    conflicts: findConflicts(entries, stray ?? []),
    blobs: raw.blobs,
    files: raw.files,
    snapshots,
    vms: vms.filter(({ name }) => !isCanaryName(name)),
    leftovers: collectLeftovers(vms, raw),
    unlistedBackings: raw.sqlite ? findUnlistedBackings(raw, records) : [],
    notes,
  };
}

/** What a JSON index beside meta.db says; null where it cannot be read, which takes nothing from meta.db. */
function parseStrayEntries(raw: RawAnswer): IndexEntry[] | null {
  try {
    return parseJsonEntries(raw);
  } catch (error) {
    if (!(error instanceof ShapeError)) throw error;
    return null;
  }
}

/** References that both live stores know, with different digests. */
function findConflicts(stored: IndexEntry[], json: IndexEntry[]): string[] {
  return stored
    .filter((entry) =>
      json.some((o) => o.reference === entry.reference && o.type === entry.type && o.digest !== entry.digest),
    )
    .map((entry) => entry.reference);
}

/**
 * A missing index is an empty one, and the key is the reference
 * (conformance: null entries of an index are skipped).
 */
function parseJsonEntries(raw: RawAnswer): IndexEntry[] {
  const cloud = parseRecords(raw.texts, CLOUD_INDEX, 'images').map(([reference, record, where]): IndexEntry => ({
    reference,
    type: 'cloudimg',
    digest: digest(record['content_sum'], `${where}.content_sum`),
    layers: [],
    kernelLayer: null,
    initrdLayer: null,
  }));
  const oci = parseRecords(raw.texts, OCI_INDEX, 'images').map(([reference, record, where]): IndexEntry => ({
    reference,
    type: 'oci',
    digest: digest(record['manifest_digest'], `${where}.manifest_digest`),
    layers: array(record['layers'] ?? [], `${where}.layers`, 1000).map((layer, i) =>
      digest(object(layer, `${where}.layers[${i}]`)['digest'], `${where}.layers[${i}].digest`),
    ),
    kernelLayer: optionalText(record['kernel_layer'], `${where}.kernel_layer`),
    initrdLayer: optionalText(record['initrd_layer'], `${where}.initrd_layer`),
  }));
  return [...cloud, ...oci];
}

function parseRecords(texts: RawAnswer['texts'], file: string, table: string): [string, JsonObject, string][] {
  const content = texts[file];
  if (content === undefined) return [];
  const rows = object(object(parseJson(content, file), file)[table] ?? {}, `${file}: ${table}`);
  const keys = Object.keys(rows).filter((key) => rows[key] !== null);
  if (keys.length > MAX_ENTRIES) throw new ShapeError(`${file} has more than ${MAX_ENTRIES} entries`);
  return keys.map((key) => {
    const where = `${file}: ${JSON.stringify(text(key, `a key of ${file}`))}`;
    return [key, object(rows[key], where), where];
  });
}

/** `cocoon … list -o json` of a SQLite store (conformance: `image list -o json` says "No images found." and succeeds). */
function parseList(raw: RawAnswer, kind: 'image' | 'snapshot' | 'vm', node: Node): JsonObject[] {
  const where = `cocoon ${kind} list`;
  const output = (raw.texts[`${kind}-list`] ?? '').trim();
  if (raw.listed[kind] !== 0) {
    const said = `${where} failed: ${(raw.texts[`${kind}-errors`] ?? '').trim()}`;
    throw isFull(said) ? explainCopyFailure(raw.scratchDir, said, node) : new ShapeError(said);
  }
  if (/^No (images|snapshots|VMs) found\.$/.test(output)) return [];
  return array(parseJson(output, where), where, MAX_ENTRIES).map((item, i) => object(item, `${where}[${i}]`));
}

function parseListedEntries(raw: RawAnswer, node: Node): IndexEntry[] {
  return parseList(raw, 'image', node).map((item, i) => {
    const where = `cocoon image list[${i}]`;
    const type = item['type'];
    if (type !== 'cloudimg' && type !== 'oci') throw new ShapeError(`${where}.type is unknown`);
    return {
      reference: text(item['name'], `${where}.name`),
      type,
      digest: digest(item['id'], `${where}.id`),
      layers: [],
      kernelLayer: null,
      initrdLayer: null,
    };
  });
}

/** A snapshot's record and where its data is; `record` is null for a name that points nowhere. */
interface SnapshotRecord {
  id: string;
  name: string;
  record: JsonObject | null;
  dataDir: string | null;
}

function parseJsonSnapshots(raw: RawAnswer): SnapshotRecord[] {
  const file = SNAPSHOT_INDEX;
  const rows = parseRecords(raw.texts, file, 'snapshots').map(([id, record, where]): SnapshotRecord => ({
    id,
    name: optionalText(record['name'], `${where}.name`) ?? '',
    record,
    dataDir: optionalText(record['data_dir'], `${where}.data_dir`),
  }));
  const content = raw.texts[file];
  const names =
    content === undefined ? {} : object(object(parseJson(content, file), file)['names'] ?? {}, `${file}: names`);
  const known = new Set(rows.map((row) => row.id));
  const dangling = Object.entries(names)
    .map(([name, id]) => ({
      name: text(name, `a name of ${file}`),
      id: text(id, `${file}: names`),
      record: null,
      dataDir: null,
    }))
    .filter(({ id }) => !known.has(id));
  return [...rows, ...dangling];
}

/** On a SQLite root the CLI does not tell `data_dir`: it is `snapshot/localfile/<ID>`. */
function parseListedSnapshots(raw: RawAnswer, node: Node): SnapshotRecord[] {
  return parseList(raw, 'snapshot', node).map((record, i) => {
    const id = text(record['id'], `cocoon snapshot list[${i}].id`);
    const name = optionalText(record['name'], `cocoon snapshot list[${i}].name`) ?? '';
    const dataDir = Object.keys(raw.directories).find((dir) => dir.endsWith(`/snapshot/localfile/${id}`)) ?? null;
    return { id, name, record, dataDir };
  });
}

/** Pending VMs are records too, and every record keeps its base. */
function parseJsonVms(raw: RawAnswer): VmFact[] {
  return ['cloudhypervisor', 'firecracker'].flatMap((hypervisor) =>
    parseRecords(raw.texts, `${hypervisor}/db/vms.json`, 'vms').map(([, record, where]) => parseVm(record, where)),
  );
}

function parseListedVms(raw: RawAnswer, node: Node): VmFact[] {
  return parseList(raw, 'vm', node).map((record, i) => parseVm(record, `cocoon vm list[${i}]`));
}

function parseVm(record: JsonObject, where: string): VmFact {
  const config = object(record['config'] ?? {}, `${where}.config`);
  return {
    name: optionalText(config['name'], `${where}.config.name`) ?? '',
    state: optionalText(record['state'], `${where}.state`, 64) ?? '',
    blobIds: Object.keys(object(record['image_blob_ids'] ?? {}, `${where}.image_blob_ids`)),
    imageDigest: optionalText(config['image_digest'], `${where}.config.image_digest`),
  };
}

function collectLeftovers(vms: VmFact[], raw: RawAnswer): Leftover[] {
  const canaries = [...new Set(vms.map(({ name }) => name).filter(isCanaryName))];
  const all = [...canaries.map((name): Leftover => ({ kind: 'canary-vm', name })), ...raw.leftovers];
  return all.slice(0, MAX_LEFTOVERS);
}

function findUnlistedBackings(raw: RawAnswer, listedRecords: SnapshotRecord[]): string[] {
  const known = new Set(listedRecords.map(({ dataDir }) => dataDir));
  return Object.entries(raw.directories).flatMap(([dir, { backing }]) =>
    known.has(dir) || backing === null ? [] : [backing],
  );
}

function describeSnapshot({ id, name, record, dataDir }: SnapshotRecord, raw: RawAnswer, node: Node): SnapshotFact {
  const where = `snapshot ${id}`;
  const fields = record ?? {};
  const directory = dataDir !== null && Object.hasOwn(raw.directories, dataDir) ? raw.directories[dataDir] : undefined;
  const hypervisor = optionalText(fields['hypervisor'], `${where}.hypervisor`, 64) ?? 'cloud-hypervisor';
  const needs = needsOf(directory, `${node.cocoon.rootDir}/oci/`, hypervisor);
  const type = fields['image_type'];
  const pinned = fields['image_digest'];
  return {
    id,
    name,
    hypervisor,
    base: optionalText(fields['image'], `${where}.image`),
    baseDigest: optionalText(pinned, `${where}.image_digest`) === null ? null : digest(pinned, `${where}.image_digest`),
    baseType:
      type === 'oci' || (type !== 'cloudimg' && directory?.files['overlay.qcow2'] === undefined) ? 'oci' : 'cloudimg',
    blobIds: Object.keys(object(fields['image_blob_ids'] ?? {}, `${where}.image_blob_ids`)),
    pending: fields['pending'] === true,
    createdAt: optionalText(fields['created_at'], `${where}.created_at`, 64) ?? '',
    recorded: record !== null,
    dataDir,
    files: directory?.files ?? null,
    backing: directory?.backing ?? null,
    ...needs,
  };
}

/**
 * What a clone needs beside the base blob: firmware, kernel and initrd from the payload
 * of the hypervisor's own `config.json`, layers from the sidecar. What lies under cocoon's `oci` belongs to the base.
 */
function needsOf(
  directory: DirectoryFact | undefined,
  ociDir: string,
  hypervisor: string,
): Pick<SnapshotFact, 'unusable' | 'bootFiles' | 'layerFiles'> {
  try {
    const config = parseMember(directory, 'config.json');
    const payload = object(config['payload'] ?? {}, 'payload');
    const boot = ['firmware', 'kernel', 'initramfs'].flatMap((key) => optionalText(payload[key], key) ?? []);
    const disks = disksOf(parseMember(directory, 'cocoon.json'));
    const hasSidecar = directory?.files['cocoon.json'] !== undefined;
    if (directory !== undefined && hasSidecar && hypervisor !== 'firecracker')
      checkDisks(disks, config, directory.files);
    const layers = disks.filter(({ role }) => role === 'layer').map(({ path }) => path);
    return {
      unusable: null,
      bootFiles: boot.filter((path) => !path.startsWith(ociDir)),
      layerFiles: [...layers, ...boot.filter((path) => path.startsWith(ociDir))],
    };
  } catch (error) {
    if (!(error instanceof ShapeError)) throw error;
    return { unusable: `its configuration cannot be used: ${error.message}`, bootFiles: [], layerFiles: [] };
  }
}

/** @throws ShapeError also for a file that is there and whose text did not come: it is too large, or could not be read */
function parseMember(directory: DirectoryFact | undefined, name: string): JsonObject {
  if (directory?.files[name] === undefined && directory?.texts[name] === undefined) return {};
  return object(parseJson(directory.texts[name] ?? '', name), name);
}
