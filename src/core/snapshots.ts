/**
 * Snapshot verdicts: can a clone of this snapshot work on this node? The index is not the judge here: the hypervisor
 * opens the absolute path in the header of the overlay, whatever any index says (contract B.5, D.2).
 */
import { blobState, byReplacing, coveredBy, doubtAbout, lostAtEpoch, type BlobState, type Served } from './images.ts';
import { hexOf, isDigest, localSnapshotName } from './reference.ts';
import { shortDigest } from './text.ts';
import type {
  DesiredImage,
  DesiredSnapshot,
  IndexEntry,
  Node,
  Observation,
  Observed,
  SnapshotFact,
  SnapshotRow,
  SnapshotVerdict,
  TrackedSnapshot,
} from './types.ts';

/** `save` writes a pending record before the data; gc takes it for abandoned after this long (contract A.12). */
const PENDING_MS = 24 * 3600 * 1000;

/** What is the same for all nodes. `now` is in milliseconds since the epoch of 1970. */
export interface ServedSnapshots {
  snapshots: DesiredSnapshot[];
  tracked: TrackedSnapshot[];
  discover: boolean;
  now: number;
}

/** The verdict on every snapshot of the node, and on every tracked one that its pool should be able to start. */
export function judgeSnapshots(served: Served, hot: ServedSnapshots, observation: Observation): SnapshotRow[] {
  const { node, observed } = observation;
  const tracked = hot.tracked.filter((s) => s.pools === null || s.pools.includes(node.pool));
  if (observed === null) {
    return tracked.map(({ snapshot }) =>
      row(snapshot, { verdict: 'unknown', reason: 'the node could not be read', error: observation.error }),
    );
  }
  const nameOf = (fact: SnapshotFact): string =>
    tracked.find(({ snapshot }) => localSnapshotName(snapshot) === fact.name)?.snapshot ?? (fact.name || fact.id);
  const rows = observed.snapshots
    .filter((fact) => hot.discover || tracked.some(({ snapshot }) => snapshot === nameOf(fact)))
    .map((fact) => ({ ...judgeLocal(served, node, observed, fact, hot.now), snapshot: nameOf(fact) }));
  const absent = tracked.filter(({ snapshot }) => !rows.some((r) => r.snapshot === snapshot));
  return [...rows, ...absent.map(({ snapshot }) => judgeRemote(served, hot, node, observed, snapshot))];
}

function judgeLocal(served: Served, node: Node, observed: Observed, fact: SnapshotFact, now: number): SnapshotRow {
  const base = { id: fact.id, base: fact.base, baseDigest: pinnedBy(fact) };
  const say = (verdict: SnapshotVerdict, reason: string): SnapshotRow => row(fact.name, { ...base, verdict, reason });
  if (fact.pending) {
    const age = now - Date.parse(fact.createdAt);
    return age < PENDING_MS
      ? say('pending', 'its record is being written')
      : say('broken', 'its record was begun more than 24 hours ago and never finished: remove it, or let gc take it');
  }
  const fault = faultOf(observed, fact);
  if (fault !== null) return say('broken', `${fault}: pulling images does not help`);
  if (fact.baseType === 'oci') return row(fact.name, { ...base, ...judgeFiles(observed, fact.layerFiles) });

  const backing = fact.backing as string;
  const hex = blobHex(node, backing);
  if (hex === null) {
    return observed.files[backing] === 'file'
      ? say('clonable', `its base lies outside this node's root directory, at ${backing}`)
      : say(
          'broken',
          `its overlay opens ${backing}, which is not there and under another root directory: pulling images does not help`,
        );
  }
  const digest = `sha256:${hex}`;
  return row(fact.name, { ...base, ...judgeBase(served, node, observed, fact.base, digest), baseDigest: digest });
}

type Judged = Partial<SnapshotRow> & Pick<SnapshotRow, 'verdict' | 'reason'>;

/** The verdict on the cloud image that a clone opens: the blob of `digest`, pulled under the reference `base`. */
function judgeBase(served: Served, node: Node, observed: Observed, base: string | null, digest: string): Judged {
  const desired = base === null ? null : coveredBy(served, base);
  const source =
    desired?.contentDigest === digest ? { ...desired, reference: base as string } : yielding(served, digest);
  const blob = blobState(observed.blobs[hexOf(digest)], source, served.depth);
  if (blob.state === 'absent') {
    const doubt = desired === null ? null : doubtAbout(observed, desired, base as string);
    return baseGone(desired, digest, blob, doubt);
  }
  if (blob.state === 'unproven') return { verdict: 'unknown', reason: `its base: ${blob.why}` };
  if (blob.state === 'corrupt') {
    return { verdict: 'base-corrupt', ...byReplacing(node, source as DesiredImage, blob) };
  }
  return { verdict: 'clonable', reason: movedOn(desired, digest) };
}

/** The base is not there: can a pull of its tag bring exactly it (the incident), or not? */
function baseGone(desired: DesiredImage | null, digest: string, blob: BlobState, doubt: string | null): Judged {
  const gone = `its base ${shortDigest(digest)}: ${blob.why}`;
  if (desired === null || desired.contentDigest === null) {
    return { verdict: 'base-missing', reason: `${gone}, and what its tag serves now is not known` };
  }
  if (desired.contentDigest !== digest) {
    const why = `its tag has moved on to ${shortDigest(desired.contentDigest)}, so a pull does not bring it back`;
    return { verdict: 'base-missing', reason: `${gone}, and ${why}` };
  }
  const error = lostAtEpoch(desired);
  const but = error?.message ?? doubt;
  if (but !== null) {
    return { verdict: 'base-drifted', reason: `${gone}, and though epoch's tag is exactly that, ${but}`, error };
  }
  const why = "but epoch's tag serves exactly that, so a forced pull heals it";
  return { verdict: 'base-drifted', reason: `${gone}, ${why}`, plan: 'pull' };
}

function movedOn(desired: DesiredImage | null, digest: string): string | null {
  if (desired === null || desired.contentDigest === null || desired.contentDigest === digest) return null;
  return `its tag has moved on to ${shortDigest(desired.contentDigest)}; clones keep using ${shortDigest(digest)}`;
}

function yielding(served: Served, digest: string): DesiredImage | null {
  return served.desired.find((d) => d.contentDigest === digest) ?? null;
}

/** The verdict on the files of an OCI base. */
function judgeFiles(observed: Observed, files: string[]): Judged {
  const gone = files.filter((path) => observed.files[path] !== 'file');
  if (gone.length === 0) return { verdict: 'clonable', reason: null };
  const reason = `${gone.length} of ${files.length} layers of its base are not there: ${gone[0]}`;
  return { verdict: 'base-missing', reason };
}

/**
 * What makes a snapshot unusable whatever its base is (contract D.2 steps 12 to 15), or null. A snapshot of Cloud
 * Hypervisor needs `cocoon.json` since v0.3.8.
 */
function faultOf(observed: Observed, fact: SnapshotFact): string | null {
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

/** v0.3.8 is the first that refuses a snapshot without `cocoon.json`; a version that cannot be read counts as newer. */
function needsSidecar(version: string): boolean {
  const match = /^v?(\d+)\.(\d+)\.(\d+)/.exec(version);
  if (match === null) return true;
  const [major, minor, patch] = match.slice(1).map(Number) as [number, number, number];
  return major > 0 || minor > 3 || (minor === 3 && patch >= 8);
}

/** `<rootDir>/cloudimg/blobs/<hex>.qcow2` → `<hex>`; null for any other path. */
export function blobHex(node: Node, path: string): string | null {
  const prefix = `${node.cocoon.rootDir}/cloudimg/blobs/`;
  if (!path.startsWith(prefix)) return null;
  return /^([0-9a-f]{64})\.qcow2$/.exec(path.slice(prefix.length))?.[1] ?? null;
}

/** The digest that a record pins: its own field, or for older ones the single blob that it names (contract B.5). */
export function pinnedBy(fact: SnapshotFact): string | null {
  if (fact.baseDigest !== null) return fact.baseDigest;
  const [only, ...more] = fact.blobIds;
  const digest = `sha256:${only}`;
  return only !== undefined && more.length === 0 && isDigest(digest) ? digest : null;
}

/** A tracked snapshot that the node has not fetched yet: what would its base get? */
function judgeRemote(
  served: Served,
  hot: ServedSnapshots,
  node: Node,
  observed: Observed,
  snapshot: string,
): SnapshotRow {
  const wanted = hot.snapshots.find((s) => s.snapshot === snapshot);
  const { base = null, baseDigest = null, error = null } = wanted ?? {};
  const say = ({
    verdict,
    reason,
    ...rest
  }: Omit<Judged, 'verdict'> & { verdict: SnapshotVerdict | null }): SnapshotRow =>
    row(snapshot, {
      ...rest,
      verdict: 'not-on-node',
      base,
      baseDigest,
      baseVerdict: verdict,
      reason: `not fetched yet; ${reason ?? 'its base is there'}`,
    });
  if (base === null || baseDigest === null) {
    return say({ verdict: 'unknown', reason: error?.message ?? 'what it needs is not known', error });
  }
  const coldStart = { verdict: null, reason: 'the first clone pulls its base too (a cold start)' };
  const entry = observed.entries.find(({ reference }) => reference === base);
  if (entry?.type === 'oci') {
    // cocoon looks for the digest in the index, and pulls by digest where it is not there (contract D.3).
    return say(entry.digest === baseDigest ? judgeOciEntry(node, observed, entry) : coldStart);
  }
  const judged = judgeBase(served, node, observed, base, baseDigest);
  const isGone = judged.verdict === 'base-drifted' || judged.verdict === 'base-missing';
  return say(isGone && entry === undefined ? coldStart : judged);
}

/** An OCI entry and its files. Only a JSON index tells which files those are. */
function judgeOciEntry(node: Node, observed: Observed, { layers, kernelLayer, initrdLayer }: IndexEntry): Judged {
  if (layers.length === 0) return { verdict: 'unknown', reason: 'cocoon does not tell the layers of its base' };
  const oci = `${node.cocoon.rootDir}/oci`;
  const files = [
    ...layers.map((layer) => `${oci}/blobs/${hexOf(layer)}.erofs`),
    ...(kernelLayer === null ? [] : [`${oci}/boot/${hexOf(kernelLayer)}/vmlinuz`]),
    ...(initrdLayer === null ? [] : [`${oci}/boot/${hexOf(initrdLayer)}/initrd.img`]),
  ];
  return judgeFiles(observed, files);
}

function row(snapshot: string, rest: Partial<SnapshotRow> & Pick<SnapshotRow, 'verdict'>): SnapshotRow {
  return {
    snapshot,
    id: null,
    base: null,
    baseDigest: null,
    baseVerdict: null,
    plan: null,
    wave: null,
    reason: null,
    error: null,
    commands: [],
    outcome: null,
    steps: [],
    ...rest,
  };
}
