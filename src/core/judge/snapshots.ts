/**
 * Snapshot verdicts: can a clone of this snapshot work on this node? The index is not the judge here: the hypervisor
 * opens the absolute path in the header of the overlay, whatever any index says (contract B.5, D.2).
 */
import { blobState, keepersOf, OCI_CHECKED, ociState } from './blobs.ts';
import { replaceCommands, restoreCommands } from '../plan/commands.ts';
import { isInPool } from './coverage.ts';
import { byReplacing, coverOf, doubtAbout, judgeImages, replaced, type Served, type World } from './images.ts';
import { isServedAs, provenOn } from './proofs.ts';
import { UNREADABLE } from '../qcow2.ts';
import { hexOf, isDigest, isUrl, localSnapshotName } from '../reference.ts';
import { shortDigest } from '../text.ts';
import type { DesiredImage, DesiredSnapshot, TrackedSnapshot } from '../model/desired.ts';
import type { ErrorInfo } from '../model/error.ts';
import type { Node } from '../model/node.ts';
import type { IndexEntry, Observation, Observed, SnapshotFact } from '../model/observed.ts';
import type { SnapshotRow } from '../model/report.ts';
import type { SnapshotVerdict } from '../model/verdict.ts';

/** `save` writes a pending record before the data; gc takes it for abandoned after this long (contract A.12). */
const PENDING_MS = 24 * 3600 * 1000;

/** Whether a registry still gives exactly the content that a snapshot pins. */
export type Lookup =
  /** It does, at this reference; `sizeBytes` is what a pull downloads, and `stored` is known where it matters. */
  | { state: 'there'; reference: string; sizeBytes: number; stored: DesiredImage['stored'] }
  /** It does, but nothing that cocoon can pull names exactly that content. */
  | { state: 'there-unpullable'; why: string }
  | { state: 'gone'; why: string }
  | { state: 'unasked'; error: ErrorInfo | null };

/** What is the same for all nodes. `now` is in milliseconds since the epoch of 1970. */
export interface ServedSnapshots {
  snapshots: DesiredSnapshot[];
  tracked: TrackedSnapshot[];
  discover: boolean;
  /** What a registry said about pinned content that some node lacks, or that no tag yields any more, by `lookupKey`. */
  lookups: Record<string, Lookup>;
  now: number;
}

/** A pinned base whose tag has moved on, gone from a node or not known to be sound there: worth a question to the registry. */
export interface LookupRequest {
  base: string;
  digest: string;
}

export function lookupKey({ base, digest }: LookupRequest): string {
  return `${digest} ${base}`;
}

/** The verdict on every snapshot of the node, and on every tracked one that its pool should be able to start. */
export function judgeSnapshots(served: Served, hot: ServedSnapshots, observation: Observation): SnapshotRow[] {
  const { node, observed } = observation;
  const tracked = hot.tracked.filter((snapshot) => isInPool(snapshot, node));
  if (observed === null) {
    return tracked.map(({ snapshot }) =>
      row(snapshot, { verdict: 'unknown', reason: 'the node could not be read', error: observation.error }),
    );
  }
  const world: World = { served, node, observed };
  const rows = watchedOn(hot, observation).map(({ fact, snapshot }) =>
    withNews(hot, fact, { ...judgeLocal(world, hot, fact), snapshot }),
  );
  const absent = tracked.filter(({ snapshot }) => !rows.some((r) => r.snapshot === snapshot));
  const isComing = (base: string): boolean =>
    rows.some(({ plan, source }) => plan === 'pull' && source === base) ||
    judgeImages(served, observation).some(({ plan, reference }) => plan !== null && reference === base);
  return [...rows, ...absent.map(({ snapshot }) => judgeRemote(world, hot, snapshot, isComing))];
}

type Watched = Pick<ServedSnapshots, 'tracked' | 'discover'>;

/** The snapshots of a node that are judged, by the names that the config and reports have for them. */
function watchedOn(
  { tracked, discover }: Watched,
  { node, observed }: Observation,
): { fact: SnapshotFact; snapshot: string }[] {
  const mine = tracked.filter((snapshot) => isInPool(snapshot, node));
  return (observed?.snapshots ?? []).flatMap((fact) => {
    const found = mine.find(({ snapshot }) => [localSnapshotName(snapshot), snapshot].includes(fact.name));
    if (found === undefined && !discover) return [];
    return [{ fact, snapshot: found?.snapshot ?? (fact.name || fact.id) }];
  });
}

/** The references of what the snapshots of a node that are judged stand on. */
export function basesOn(watched: Watched, observation: Observation): string[] {
  return watchedOn(watched, observation).flatMap(({ fact }) => fact.base ?? []);
}

/** The references of what the snapshots tracked for a node's pool stand on, as epoch has them. */
export function basesFor({ tracked, snapshots }: Pick<ServedSnapshots, 'tracked' | 'snapshots'>, node: Node): string[] {
  const mine = new Set(tracked.filter((snapshot) => isInPool(snapshot, node)).map(({ snapshot }) => snapshot));
  return snapshots.flatMap(({ snapshot, base }) => (base !== null && mine.has(snapshot) ? [base] : []));
}

/** The questions that judging these observations raises: a pure first look before the registry is asked. */
export function neededLookups(served: Served, hot: ServedSnapshots, observations: Observation[]): LookupRequest[] {
  const requests = observations.flatMap((observation) =>
    judgeSnapshots(served, { ...hot, lookups: {} }, observation).flatMap(
      ({ verdict, baseVerdict, base, baseDigest }) => {
        if (base === null || baseDigest === null) return [];
        const said = baseVerdict ?? verdict;
        const isOpen = said === 'base-missing' || (HERE.has(said) && isOldBase(served, observation, baseDigest));
        return isOpen ? [{ base, digest: baseDigest }] : [];
      },
    ),
  );
  return [...new Map(requests.map((request) => [lookupKey(request), request])).values()];
}

/** The verdicts on a base that is there, as long as nothing is known of it but its header. */
const HERE: ReadonlySet<SnapshotVerdict> = new Set(['clonable', 'base-at-risk', 'unknown']);

/** True for a blob that no tag yields any more, so that only the registry can tell what it should be. */
function isOldBase(served: Served, { observed }: Observation, digest: string): boolean {
  const blob = observed?.blobs[hexOf(digest)];
  const isOpen = blob !== undefined && blob.sha256 !== digest && served.depth !== 'presence';
  return isOpen && yielding(served, digest) === null;
}

/**
 * True where it matters how cocoon stores a pinned content: on some node its blob looks wrong, or a restore may bring it.
 * @param sizeBytes of the content at its registry
 */
export function needsForm({ depth }: Served, observations: Observation[], digest: string, sizeBytes: number): boolean {
  const form = { sizeBytes, stored: null };
  return observations.some(
    ({ observed }) => observed !== null && blobState(observed, digest, form, depth).state !== 'sound',
  );
}

function judgeLocal(world: World, hot: ServedSnapshots, fact: SnapshotFact): SnapshotRow {
  const { node, observed } = world;
  const base = { id: fact.id, base: fact.base, baseDigest: pinnedBy(fact) };
  const say = (verdict: SnapshotVerdict, reason: string | null, rest: Partial<SnapshotRow> = {}): SnapshotRow =>
    row(fact.name, { ...base, verdict, reason, ...rest });
  if (fact.pending) {
    const age = hot.now - Date.parse(fact.createdAt);
    return age < PENDING_MS
      ? say('pending', 'its record is being written')
      : say('broken', 'its record was begun more than 24 hours ago and never finished: remove it, or let gc take it');
  }
  const fault = faultOf(observed, fact);
  if (fault !== null) return say('broken', `${fault}: pulling images does not help`);
  if (fact.baseType === 'oci') return judgeOciBase(world, hot, fact, say);

  const backing = fact.backing as string;
  const hex = blobHex(node, backing);
  if (backing.includes(UNREADABLE)) return say('unknown', `its overlay opens ${backing}, which cannot be looked for`);
  if (hex === null) {
    return observed.files[backing] === 'file'
      ? say('clonable', `its base lies outside this node's root directory, at ${backing}; checked: present`)
      : say(
          'broken',
          `its overlay opens ${backing}, which is not there and under another root directory: pulling images does not help`,
        );
  }
  const { verdict, reason, ...rest } = judgeBase(world, hot, fact.base, `sha256:${hex}`);
  return say(verdict, reason, { ...rest, baseDigest: `sha256:${hex}` });
}

/** Nobody fetches a snapshot again that a node holds already (contract F.4), whatever its tag serves by now. */
function withNews({ snapshots }: ServedSnapshots, fact: SnapshotFact, judged: SnapshotRow): SnapshotRow {
  const served = snapshots.find(({ snapshot }) => localSnapshotName(snapshot) === fact.name);
  if (served === undefined || fact.pending) return judged;
  const pinned = pinnedBy(fact);
  const isNewer = Date.parse(served.createdAt ?? '') > Date.parse(fact.createdAt);
  const isOther = served.baseDigest !== null && pinned !== null && served.baseDigest !== pinned;
  if (!isNewer && !isOther) return judged;
  const news = `the tag at epoch is ${isNewer ? 'newer than' : 'another snapshot than'} the local copy, which stays until somebody removes it`;
  return { ...judged, reason: [judged.reason, news].filter(Boolean).join('; ') };
}

type Judgement = Pick<SnapshotRow, 'verdict' | 'reason'> & Partial<SnapshotRow>;

/** The verdict on the base of a cloud-image snapshot: the blob that the hypervisor will open. */
function judgeBase(world: World, hot: ServedSnapshots, base: string | null, digest: string): Judgement {
  const { served, observed } = world;
  const desired = base === null ? null : coverOf(world, base);
  const serving = desired !== null && isServedAs(observed, desired, digest) ? desired : yielding(served, digest);
  const known = base === null || serving !== null ? undefined : hot.lookups[lookupKey({ base, digest })];
  const old = known?.state === 'there' ? known : null;
  const blob = blobState(observed, digest, serving ?? old, served.depth);
  if (blob.state === 'absent')
    return judgeGone(world, hot, base, digest, `its base ${shortDigest(digest)}: ${blob.why}`);
  if (blob.state === 'unproven') return { verdict: 'unknown', reason: `its base: ${blob.why}` };
  if (blob.state === 'corrupt') {
    if (serving?.contentDigest !== digest) return judgeOldCorrupt(world, old, digest, blob.why);
    const from = sourceOf(world, serving, digest);
    const doubt = doubtAbout(observed, serving, from);
    if (doubt !== null) return { verdict: 'base-corrupt', reason: `its base: ${blob.why}; ${doubt}` };
    const { plan, reason, error, commands } = byReplacing(world, serving, from, blob);
    return {
      verdict: 'base-corrupt',
      reason: `its base: ${reason}`,
      error,
      commands,
      plan,
      source: plan === null ? null : from,
    };
  }
  if (keepersOf(observed, digest).length === 0) {
    const reason =
      'its base is there, but no index entry, VM or snapshot record keeps it: the next garbage collection may take it';
    return { verdict: 'base-at-risk', reason };
  }
  const unnamed = observed.entries.every((entry) => entry.digest !== digest)
    ? 'no index entry names its base, and none needs to'
    : null;
  const notes = [movedOn(desired, digest), unnamed].filter((note) => note !== null);
  return { verdict: 'clonable', reason: notes.length === 0 ? blob.why : [...notes, blob.why].join('; ') };
}

/** The bad base is one that no tag yields any more: it comes from the registry by its own digest, as a restored one does. */
function judgeOldCorrupt(
  world: World,
  old: (Lookup & { state: 'there' }) | null,
  digest: string,
  why: string,
): Judgement {
  if (old === null) return { verdict: 'base-corrupt', reason: `its base: ${why}` };
  const by = replaceCommands(world.node.cocoon, old.reference, digest);
  const { plan, reason, error, commands } = replaced(world, digest, why, 'a forced pull', by);
  const source = plan === null ? null : old.reference;
  return { verdict: 'base-corrupt', reason: `its base: ${reason}`, error, commands, plan, source };
}

/** A reference on the node under which exactly this content is pulled or imported, or where there is none the image's own. */
function sourceOf(world: World, serving: DesiredImage, digest: string): string {
  const entry = world.observed.entries.find(
    ({ reference, digest: has }) => has === digest && coverOf(world, reference) === serving,
  );
  return entry?.reference ?? serving.reference;
}

/** The base is not there. Can a pull of its tag bring exactly it (the incident), can the registry, or can nobody? */
function judgeGone(world: World, hot: ServedSnapshots, base: string | null, digest: string, gone: string): Judgement {
  const desired = base === null ? null : coverOf(world, base);
  if (base !== null && desired?.contentDigest === digest) {
    if (desired.missingBlob !== null) {
      const reason = `${gone}; ${desired.error?.message ?? 'epoch lacks one of its blobs'}`;
      return { verdict: 'base-drifted', reason, error: desired.error };
    }
    const but = desired.unpullable ?? doubtAbout(world.observed, desired, base);
    if (but !== null) {
      return { verdict: 'base-drifted', reason: `${gone}, and though the tag of its image is exactly that, ${but}` };
    }
    const isName = desired.kind === 'cloud-image' && !isUrl(base);
    const tag = desired.kind === 'cloud-image' ? "epoch's tag" : 'the tag of its image';
    const cure = isName ? `importing it again as ${base}` : 'a forced pull';
    return {
      verdict: 'base-drifted',
      reason: `${gone}, but ${tag} serves exactly that, so ${cure} heals it`,
      plan: 'pull',
      source: base,
    };
  }
  const moved =
    desired === null || desired.contentDigest === null
      ? 'what its tag serves now is not known'
      : `its tag has moved on to ${shortDigest(desired.contentDigest)}, so pulling that does not bring it back`;
  const known = base === null ? undefined : hot.lookups[lookupKey({ base, digest })];
  const lookup: Lookup = known ?? { state: 'unasked', error: null };
  switch (lookup.state) {
    case 'there':
      return judgeRestorable(world, lookup, `${gone}; ${moved}, but the registry still gives exactly that`);
    case 'there-unpullable':
      return { verdict: 'base-restorable', reason: `${gone}; ${moved}; ${lookup.why}` };
    case 'gone':
      return {
        verdict: 'base-lost',
        reason: `${gone}; ${moved}, and ${lookup.why}: bake the snapshot again, or push the old base back`,
      };
    case 'unasked': {
      const { error } = lookup;
      const why = error === null ? 'no registry could be asked for it' : error.message;
      return { verdict: 'base-missing', reason: `${gone}; ${moved}, and ${why}`, error };
    }
  }
}

function judgeRestorable({ served, node }: World, lookup: Lookup & { state: 'there' }, reason: string): Judgement {
  if (served.repair.restoreBases === 'restore') {
    return { verdict: 'base-restorable', reason, plan: 'restore', source: lookup.reference };
  }
  return { verdict: 'base-restorable', reason, commands: restoreCommands(node.cocoon, lookup.reference) };
}

function movedOn(desired: DesiredImage | null, digest: string): string | null {
  if (desired === null || desired.contentDigest === null || desired.contentDigest === digest) return null;
  return `its tag has moved on to ${shortDigest(desired.contentDigest)}; clones keep using ${shortDigest(digest)}`;
}

function yielding(served: Served, digest: string): DesiredImage | null {
  return served.desired.find((d) => d.contentDigest === digest) ?? null;
}

type Say = (verdict: SnapshotVerdict, reason: string | null, rest?: Partial<SnapshotRow>) => SnapshotRow;

/** An OCI base is all its layers, its kernel and its initrd; the digest that the record pins is the manifest's. */
function judgeOciBase(world: World, hot: ServedSnapshots, fact: SnapshotFact, say: Say): SnapshotRow {
  // A snapshot of firecracker names its layers in its record alone.
  const blobs = fact.blobIds.map((hex) => `${world.node.cocoon.rootDir}/oci/blobs/${hex}.erofs`);
  const needed = fact.layerFiles.length > 0 ? fact.layerFiles : blobs;
  if (needed.length === 0) return say('unknown', 'neither its files nor its record tell the layers of its base');
  const gone = needed.filter((path) => world.observed.files[path] !== 'file');
  if (gone.length === 0) return say('clonable', OCI_CHECKED);
  const words = `${gone.length} of the ${needed.length} files of its base are not there, as ${gone[0]}`;
  if (fact.baseDigest === null)
    return say('base-missing', `${words}, and its record does not say which image that was`);
  const { verdict, reason, ...rest } = judgeGone(world, hot, fact.base, fact.baseDigest, words);
  return say(verdict, reason, rest);
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

/**
 * A tracked snapshot that the node has not fetched yet: what would its base get?
 * @param isComing whether the node is to get an entry for a reference that it lacks now: then the first clone pulls nothing
 */
function judgeRemote(
  world: World,
  hot: ServedSnapshots,
  snapshot: string,
  isComing: (base: string) => boolean,
): SnapshotRow {
  const { observed } = world;
  const wanted = hot.snapshots.find((s) => s.snapshot === snapshot);
  const { base = null, baseDigest = null } = wanted ?? {};
  const say = (
    baseVerdict: SnapshotVerdict | null,
    reason: string | null,
    rest: Partial<SnapshotRow> = {},
  ): SnapshotRow =>
    row(snapshot, {
      base,
      baseDigest,
      ...rest,
      verdict: 'not-on-node',
      baseVerdict,
      reason: ['not fetched yet', reason].filter(Boolean).join('; '),
    });
  if (base === null || baseDigest === null) {
    const error = wanted?.error ?? null;
    return say('unknown', error?.message ?? 'what it needs is not known', { error });
  }
  const entry = observed.entries.find(({ reference }) => reference === base);
  const judged =
    entry?.type === 'oci'
      ? judgeOciEntry(world, hot, entry, baseDigest)
      : wanted?.baseType === 'oci'
        ? null
        : judgeBase(world, hot, base, baseDigest);
  const isGone = judged !== null && GONE.has(judged.verdict);
  if (judged === null || (isGone && entry === undefined && (judged.verdict === 'base-drifted' || !isComing(base)))) {
    return say(null, 'the first clone pulls its base too (a cold start)');
  }
  const { verdict, reason, ...rest } = judged;
  const there = verdict === 'clonable' ? 'its base is there' : null;
  return say(verdict, [there, reason, leftWithoutKeeper(world, base, baseDigest)].filter(Boolean).join('; '), rest);
}

/** The verdicts on a base that is not there. */
const GONE: ReadonlySet<SnapshotVerdict> = new Set(['base-drifted', 'base-restorable', 'base-missing', 'base-lost']);

/** cocoon looks for the digest in the index, and pulls by digest where it is not there (contract D.3): a cold start. */
function judgeOciEntry(world: World, hot: ServedSnapshots, entry: IndexEntry, digest: string): Judgement | null {
  if (entry.digest !== digest) return null;
  const desired = coverOf(world, entry.reference);
  const isSame = desired?.contentDigest === digest;
  if (entry.layers.length === 0 && !isSame) {
    return { verdict: 'unknown', reason: 'cocoon does not tell the layers of its base' };
  }
  const files = ociState(world.node, world.observed, isSame ? desired : null, entry);
  if (files.state === 'sound') return { verdict: 'clonable', reason: files.why };
  return judgeGone(world, hot, entry.reference, digest, `of its base, ${files.why}`);
}

/** A pull of the tag is still right where it takes the last keeper of this base, but it is announced. */
function leftWithoutKeeper(world: World, base: string, digest: string): string | null {
  const [only, ...more] = keepersOf(world.observed, digest);
  const desired = coverOf(world, base);
  const isMoved =
    desired !== null &&
    (desired.contentDigest === null
      ? provenOn(world.observed, desired, digest) === 'other'
      : desired.contentDigest !== digest);
  return only === base && more.length === 0 && isMoved
    ? 'once the tag is pulled again nothing keeps its base on this node'
    : null;
}

function row(snapshot: string, rest: Partial<SnapshotRow> & Pick<SnapshotRow, 'verdict'>): SnapshotRow {
  return {
    snapshot,
    id: null,
    base: null,
    baseDigest: null,
    baseVerdict: null,
    source: null,
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
