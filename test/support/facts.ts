// Plain values to judge: nodes, what was observed on them, and what epoch serves. Each is whole and healthy; a test
// names only what differs.
import type { Catalog, PinnedContent } from '../../src/core/model/catalog.ts';
import { imageKey } from '../../src/core/judge/catalog.ts';
import type { DesiredImage, DesiredSnapshot, TrackedImage, TrackedSnapshot } from '../../src/core/model/desired.ts';
import type { ErrorInfo } from '../../src/core/model/error.ts';
import type { Node } from '../../src/core/model/node.ts';
import type {
  BlobFact,
  IndexEntry,
  Observation,
  Observed,
  SnapshotFact,
  VmFact,
} from '../../src/core/model/observed.ts';
import type { Repair } from '../../src/core/model/plan.ts';
import type { ImageRow } from '../../src/core/model/report.ts';
import type { Scope } from '../../src/core/model/scope.ts';
import type { ImageVerdict } from '../../src/core/model/verdict.ts';

export const EPOCH = 'https://epoch.example';
export const ROOT = '/var/lib/cocoon';
export const WIN11 = `${EPOCH}/dl/simular/win11`;
export const HOT = 'simular/win11-hot:v1';
export const NOW = Date.parse('2026-05-09T12:00:00Z');

/** The first bytes of a qcow2 file of version 3 without a backing file, of version 2, and of no qcow2 at all. */
export const QCOW2 = '514649fb00000003000000000000000000000000';
export const QCOW2_V2 = '514649fb00000002000000000000000000000000';
export const RAW = 'eb639000000000000000000000000000000000ff';

/** `a1` → a digest that begins with it and is made of it. */
export function sha(pair: string): string {
  return `sha256:${pair.repeat(32)}`;
}

/** The size of every healthy blob. */
export const SIZE = 5_798_205_849;

export function trouble(code: string, message = `${code} happened`, hint = 'mend it'): ErrorInfo {
  return { code, message, hint };
}

export function node(name = 'node-1', over: Partial<Node> = {}): Node {
  return {
    name,
    host: name,
    port: 22,
    user: 'root',
    pool: 'default',
    identityFiles: [],
    knownHostsFiles: [],
    connectTimeoutMs: 10_000,
    cocoon: { binary: 'cocoon', rootDir: ROOT, runDir: null, logDir: null, sudo: false },
    ...over,
  };
}

export function entry(digest: string, reference = WIN11, type: IndexEntry['type'] = 'cloudimg'): IndexEntry {
  return { reference, type, digest, layers: [], kernelLayer: null, initrdLayer: null };
}

export function blob(over: Partial<BlobFact> = {}): BlobFact {
  return {
    regular: true,
    sizeBytes: SIZE,
    header: QCOW2,
    stamp: `${SIZE} 1 1`,
    sha256: null,
    proofs: {},
    unhashed: null,
    ...over,
  };
}

/** `{ a1: blob() }` → by digest, as observed. */
export function blobs(byPair: Record<string, BlobFact>): Observed['blobs'] {
  return Object.fromEntries(Object.entries(byPair).map(([pair, fact]) => [pair.repeat(32), fact]));
}

export function blobPath(pair: string, root = ROOT): string {
  return `${root}/cloudimg/blobs/${pair.repeat(32)}.qcow2`;
}

const FIRMWARE = `${ROOT}/firmware/CLOUDHV.fd`;

/** A snapshot of Cloud Hypervisor on the cloud image `pair`. */
export function snapshot(pair: string, over: Partial<SnapshotFact> = {}): SnapshotFact {
  return {
    id: 'MFRGGZDFMZTWQ2LKNNWG23TPOA',
    name: HOT,
    hypervisor: 'cloud-hypervisor',
    base: WIN11,
    baseDigest: sha(pair),
    baseType: 'cloudimg',
    blobIds: [pair.repeat(32)],
    pending: false,
    createdAt: '2026-05-09T03:00:00.000000003+08:00',
    recorded: true,
    dataDir: `${ROOT}/snapshot/localfile/MFRGGZDFMZTWQ2LKNNWG23TPOA`,
    files: { 'config.json': 900, 'state.json': 9, 'memory-ranges': 8, 'overlay.qcow2': 7, 'cocoon.json': 6 },
    unusable: null,
    backing: blobPath(pair),
    bootFiles: [FIRMWARE],
    layerFiles: [],
    ...over,
  };
}

/** Of the newest content, `e2`: entry, blob, and nothing else. */
export function observed(over: Partial<Observed> = {}): Observed {
  return {
    cocoonVersion: 'v0.3.8',
    architecture: 'amd64',
    indexSource: 'json',
    freeBytes: 500e9,
    entries: [entry(sha('e2'))],
    conflicts: [],
    blobs: blobs({ e2: blob() }),
    files: { [FIRMWARE]: 'file' },
    snapshots: [],
    vms: [],
    leftovers: [],
    unlistedBackings: [],
    notes: [],
    ...over,
  };
}

export function observation(facts: Partial<Observed> = {}, of: Node = node()): Observation {
  return { node: of, status: 'observed', observed: observed(facts), error: null, durationMs: 300 };
}

export function unreachable(of: Node = node(), error = trouble('SSH_TIMEOUT')): Observation {
  return { node: of, status: 'unreachable', observed: null, error, durationMs: 10_000 };
}

/** `simular/win11:latest` at epoch: one disk, content `e2`. */
export function desired(over: Partial<DesiredImage> = {}): DesiredImage {
  return {
    image: 'simular/win11',
    tag: 'latest',
    platform: null,
    reference: WIN11,
    kind: 'cloud-image',
    manifestDigest: sha('99'),
    contentDigest: sha('e2'),
    contentDigestSource: 'layer',
    sizeBytes: SIZE,
    error: null,
    tracked: true,
    blobs: [{ digest: sha('e2'), sizeBytes: SIZE }],
    layers: [],
    unlearned: false,
    missingBlob: null,
    unpullable: null,
    stored: null,
    notes: [],
    ...over,
  };
}

/** The same in two parts, so that nothing has told its content digest yet. */
export function split(over: Partial<DesiredImage> = {}): DesiredImage {
  return desired({
    contentDigest: null,
    contentDigestSource: null,
    unlearned: true,
    blobs: [
      { digest: sha('31'), sizeBytes: 3_000_000_000 },
      { digest: sha('32'), sizeBytes: SIZE - 3_000_000_000 },
    ],
    error: trouble('ARTIFACT_UNSUPPORTED', 'the image is split into 2 parts'),
    ...over,
  });
}

/** A row of the report of which nothing else is known. */
export function imageRow(verdict: ImageVerdict, over: Partial<ImageRow> = {}): ImageRow {
  return {
    reference: WIN11,
    image: null,
    tag: null,
    type: 'cloudimg',
    verdict,
    have: null,
    want: null,
    plan: null,
    wave: null,
    reason: null,
    error: null,
    commands: [],
    outcome: null,
    after: null,
    steps: [],
    ...over,
  };
}

export const OCI = 'ghcr.io/a/b:1';

/** `ghcr.io/a/b:1` for amd64: manifest `c3`, layers `d4` and `e5`. */
export function container(over: Partial<DesiredImage> = {}): DesiredImage {
  const layers = [sha('d4'), sha('e5')];
  return desired({
    image: 'ghcr.io/a/b',
    tag: '1',
    platform: 'linux/amd64',
    reference: OCI,
    kind: 'container-image',
    manifestDigest: sha('c3'),
    contentDigest: sha('c3'),
    contentDigestSource: 'manifest',
    sizeBytes: 2000,
    blobs: layers.map((digest) => ({ digest, sizeBytes: 1000 })),
    layers,
    ...over,
  });
}

/** The files of a container image of these layers; kernel and initrd come from the last. */
export function ociFiles(pairs: string[], root = ROOT): Observed['files'] {
  const boot = `${root}/oci/boot/${(pairs.at(-1) ?? '').repeat(32)}`;
  const paths = [
    ...pairs.map((pair) => `${root}/oci/blobs/${pair.repeat(32)}.erofs`),
    `${boot}/vmlinuz`,
    `${boot}/initrd.img`,
  ];
  return Object.fromEntries(paths.map((path) => [path, 'file' as const]));
}

/** A virtual machine on the blob `pair`. */
export function vm(pair: string, state = 'running'): VmFact {
  return { name: 'demo-0', state, blobIds: [pair.repeat(32)], imageDigest: sha(pair) };
}

export function tracked(over: Partial<TrackedImage> = {}): TrackedImage {
  return {
    image: 'simular/win11',
    tag: 'latest',
    registry: null,
    reference: WIN11,
    presence: 'if-present',
    pools: null,
    ...over,
  };
}

/** What is judged against, in short: what registries serve for images, what is looked at, and what may be repaired. */
export interface Given {
  addresses: Catalog['addresses'];
  suspects: Catalog['suspects'];
  desired: DesiredImage[];
  /** Reference → the places in `desired` of what it stands for; each by itself where it is left out. */
  covers: Record<string, number[]>;
  /** The references that a registry gave their meaning. */
  meant: Record<string, true>;
  tracked: TrackedImage[];
  discover: boolean;
  bases: Scope['bases'];
  depth: Scope['depth'];
  repair: Repair;
}

export function served(images: DesiredImage[] = [desired()], over: Partial<Given> = {}): Given {
  const covers = over.covers ?? Object.fromEntries(images.map((image, place) => [image.reference, [place]]));
  return {
    addresses: [EPOCH],
    suspects: {},
    desired: images,
    covers,
    meant: Object.fromEntries(Object.keys(covers).map((reference) => [reference, true as const])),
    tracked: [tracked()],
    discover: true,
    bases: {},
    depth: 'size',
    repair: { corruptBlobs: 'report', restoreBases: 'report' },
    ...over,
  };
}

export function wantedSnapshot(over: Partial<DesiredSnapshot> = {}): DesiredSnapshot {
  return {
    snapshot: HOT,
    tracked: true,
    base: WIN11,
    baseDigest: sha('e2'),
    baseType: 'cloudimg',
    sizeBytes: null,
    files: {},
    createdAt: null,
    error: null,
    ...over,
  };
}

/** The same of snapshots. */
export interface Hot {
  snapshots: DesiredSnapshot[];
  tracked: TrackedSnapshot[];
  discover: boolean;
  /** By `pinnedKey`. */
  lookups: Record<string, PinnedContent>;
  now: number;
}

export function hot(over: Partial<Hot> = {}): Hot {
  return { snapshots: [], tracked: [], discover: true, lookups: {}, now: NOW, ...over };
}

/** All that registries say. */
export function catalogOf(at: Given, of: Hot = hot()): Catalog {
  return {
    addresses: at.addresses,
    images: Object.fromEntries(at.desired.map((image) => [imageKey(image), image])),
    references: Object.fromEntries(
      Object.entries(at.covers).map(([reference, places]) => [
        reference,
        {
          images: places.map((place) => imageKey(at.desired[place] as DesiredImage)),
          by: at.meant[reference] === true ? 'registry' : 'config',
        },
      ]),
    ),
    snapshots: of.snapshots,
    pinned: of.lookups,
    suspects: at.suspects,
  };
}

/** All that is looked at. */
export function scopeOf({ tracked: images, discover, bases, depth }: Given, of: Hot = hot()): Scope {
  return {
    images: { tracked: images, discover },
    snapshots: { tracked: of.tracked, discover: of.discover },
    bases,
    depth,
    now: of.now,
  };
}
