/**
 * Snapshot verdicts: can a clone of this snapshot work on this node? The index is not the judge here: the hypervisor
 * opens the absolute path in the header of the overlay, whatever any index says (contract B.5, D.2).
 */
import { blobState, coveredBy, type BlobState, type Served } from './images.ts';
import { isDigest, localSnapshotName } from './reference.ts';
import { shortDigest } from './text.ts';
import type {
  DesiredImage,
  DesiredSnapshot,
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
  return [...rows, ...absent.map(({ snapshot }) => judgeRemote(served, hot, observed, snapshot))];
}

function judgeLocal(served: Served, node: Node, observed: Observed, fact: SnapshotFact, now: number): SnapshotRow {
  const base = { id: fact.id, base: fact.base, baseDigest: pinnedBy(fact) };
  const say = (verdict: SnapshotVerdict, reason: string | null, rest: Partial<SnapshotRow> = {}): SnapshotRow =>
    row(fact.name, { ...base, verdict, reason, ...rest });
  if (fact.pending) {
    const age = now - Date.parse(fact.createdAt);
    return age < PENDING_MS
      ? say('pending', 'its record is being written')
      : say('broken', 'its record was begun more than 24 hours ago and never finished: remove it, or let gc take it');
  }
  const fault = faultOf(observed, fact);
  if (fault !== null) return say('broken', `${fault}: pulling images does not help`);
  if (fact.baseType === 'oci') return judgeOciBase(observed, fact, say);

  const backing = fact.backing as string;
  const hex = blobHex(node, backing);
  if (hex === null) {
    return observed.files[backing] === 'file'
      ? say('clonable', `its base lies outside this node's root directory, at ${backing}`)
      : say(
          'broken',
          `its overlay opens ${backing}, which is under another root directory: pulling images does not help`,
        );
  }
  const digest = `sha256:${hex}`;
  const desired = fact.base === null ? null : coveredBy(served, fact.base);
  const serving = desired?.contentDigest === digest ? desired : yielding(served, digest);
  const blob = blobState(observed.blobs[hex], serving, served.depth);
  const pinned = { baseDigest: digest };
  if (blob.state === 'absent')
    return say(...baseGone(desired, digest, blob), { ...pinned, ...planFor(desired, digest) });
  if (blob.state === 'corrupt') return say('base-corrupt', blob.why, pinned);
  if (blob.state === 'unproven') return say('unknown', `its base: ${blob.why}`, pinned);
  return say('clonable', movedOn(desired, digest), pinned);
}

/** The base is not there: can a pull of its tag bring exactly it (the incident), or not? */
function baseGone(desired: DesiredImage | null, digest: string, blob: BlobState): [SnapshotVerdict, string] {
  const gone = `its base ${shortDigest(digest)}: ${blob.why}`;
  if (desired?.contentDigest === digest) {
    return ['base-drifted', `${gone}, but epoch's tag serves exactly that: a forced pull heals it`];
  }
  const why =
    desired === null || desired.contentDigest === null
      ? 'what its tag serves now is not known'
      : `its tag has moved on to ${shortDigest(desired.contentDigest)}, so a pull does not bring it back`;
  return ['base-missing', `${gone}, and ${why}`];
}

function planFor(desired: DesiredImage | null, digest: string): Partial<SnapshotRow> {
  return { plan: desired?.contentDigest === digest && desired.missingBlob === null ? 'pull' : null };
}

function movedOn(desired: DesiredImage | null, digest: string): string | null {
  if (desired === null || desired.contentDigest === null || desired.contentDigest === digest) return null;
  return `its tag has moved on to ${shortDigest(desired.contentDigest)}; clones keep using ${shortDigest(digest)}`;
}

function yielding(served: Served, digest: string): DesiredImage | null {
  return served.desired.find((d) => d.contentDigest === digest) ?? null;
}

type Say = (verdict: SnapshotVerdict, reason: string | null, rest?: Partial<SnapshotRow>) => SnapshotRow;

function judgeOciBase(observed: Observed, fact: SnapshotFact, say: Say): SnapshotRow {
  const gone = fact.layerFiles.filter((path) => observed.files[path] !== 'file');
  if (gone.length === 0) return say('clonable', null);
  return say(
    'base-missing',
    `${gone.length} of ${fact.layerFiles.length} layers of its base are not there: ${gone[0]}`,
  );
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
  if (lacking !== undefined) return `its file ${lacking} is missing`;
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
function judgeRemote(served: Served, hot: ServedSnapshots, observed: Observed, snapshot: string): SnapshotRow {
  const wanted = hot.snapshots.find((s) => s.snapshot === snapshot);
  const { base = null, baseDigest = null } = wanted ?? {};
  const say = (baseVerdict: SnapshotVerdict | null, reason: string, rest: Partial<SnapshotRow> = {}): SnapshotRow =>
    row(snapshot, {
      verdict: 'not-on-node',
      base,
      baseDigest,
      baseVerdict,
      reason: `not fetched yet; ${reason}`,
      ...rest,
    });
  if (base === null || baseDigest === null) {
    const error = wanted?.error ?? null;
    return say('unknown', error?.message ?? 'what it needs is not known', { error });
  }
  const desired = coveredBy(served, base);
  const blob = blobState(
    observed.blobs[baseDigest.slice('sha256:'.length)],
    yielding(served, baseDigest),
    served.depth,
  );
  if (blob.state === 'sound') return say('clonable', 'its base is there');
  if (blob.state === 'corrupt') return say('base-corrupt', blob.why ?? '');
  if (blob.state === 'unproven') return say('unknown', blob.why ?? '');
  if (!observed.entries.some((entry) => entry.reference === base)) {
    return say(null, 'the first clone pulls its base too (a cold start)');
  }
  const [verdict, reason] = baseGone(desired, baseDigest, blob);
  return say(verdict, reason, planFor(desired, baseDigest));
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
