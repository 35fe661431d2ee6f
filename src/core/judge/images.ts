/** Image verdicts: the ordered table of one node's index entries against what epoch serves. */
import { blobState, isInUse, ociState, type BlobState } from './blobs.ts';
import { reimportCommands, replaceCommands } from '../plan/commands.ts';
import { imageNameOf, isInPool, isManaged, otherPools, placesOf, type Coverage } from './coverage.ts';
import { provenOn } from './proofs.ts';
import { hexOf, isUrl, meaningOf } from '../reference.ts';
import type { DesiredImage, TrackedImage } from '../model/desired.ts';
import type { ErrorInfo } from '../model/error.ts';
import type { Node } from '../model/node.ts';
import type { IndexEntry, Observation, Observed } from '../model/observed.ts';
import type { ImageRow } from '../model/report.ts';
import type { BlobDepth } from '../model/verdict.ts';

/** What a run may mend beyond pulling. */
export interface Repair {
  corruptBlobs: 'report' | 'replace';
  restoreBases: 'report' | 'restore';
}

/** An entry that may be of this epoch under an address that the config does not know: what it would be. */
export interface Suspect {
  image: string;
  tag: string;
  error: ErrorInfo;
}

/** What is the same for all nodes. */
export interface Served extends Coverage {
  /** All known addresses of epoch, its own first. */
  addresses: [string, ...string[]];
  /** By reference. */
  suspects: Record<string, Suspect>;
  depth: BlobDepth;
  repair: Repair;
}

/** The verdict on every index entry of the node, and on every tracked image that its pool should have. */
export function judgeImages(served: Served, observation: Observation): ImageRow[] {
  const { node, observed } = observation;
  const inPool = served.tracked.filter((image) => isInPool(image, node));
  const tracked = inPool.filter((image) => !isSuspectedOn(served, observed, image));
  if (observed === null) {
    return tracked.map((image) =>
      row(trackedBase(image, null), {
        verdict: 'unknown',
        reason: 'the node could not be read',
        error: observation.error,
      }),
    );
  }
  const world: World = { served, node, observed };
  const rows = observed.entries.map((entry) => withNotes(world, judgeEntry(world, entry)));
  const present = new Set(observed.entries.map((entry) => coverOf(world, entry.reference)));
  return [
    ...rows,
    ...tracked
      .map((image) => ({ image, desired: servedAs(world, image) }))
      .filter(({ desired }) => desired === null || !present.has(desired))
      .map(({ image, desired }) => judgeAbsent(world, image, desired)),
  ];
}

/** Whether an entry of the node looks like this image under another address: then nothing is said to be missing. */
function isSuspectedOn(
  { suspects }: Served,
  observed: Observed | null,
  { registry, image, tag }: TrackedImage,
): boolean {
  return (observed?.entries ?? []).some(({ reference }) => {
    const suspect = suspectOf(suspects, reference);
    return registry === null && suspect?.image === image && suspect.tag === tag;
  });
}

export function suspectOf(suspects: Served['suspects'], reference: string): Suspect | null {
  return Object.hasOwn(suspects, reference) ? (suspects[reference] ?? null) : null;
}

/** What a registry serves for a tracked image. */
function servedAs({ served, observed }: World, image: TrackedImage): DesiredImage | null {
  const { image: name, tag } = trackedBase(image, null);
  return served.desired.find((d) => d.image === name && d.tag === tag && fits(d, observed)) ?? null;
}

/** One node, and what it is held against. */
export interface World {
  served: Served;
  node: Node;
  observed: Observed;
}

function judgeEntry(world: World, entry: IndexEntry): ImageRow {
  const { served, node, observed } = world;
  const desired = coverOf(world, entry.reference);
  const base = {
    reference: entry.reference,
    image: desired?.image ?? null,
    tag: desired?.tag ?? null,
    type: entry.type,
    have: entry.digest,
    want: desired?.contentDigest ?? null,
  };
  if (desired === null) {
    const error = suspectOf(served.suspects, entry.reference)?.error ?? null;
    return row(base, { verdict: 'unmanaged', want: null, reason: whyUnmanaged(world, entry), error });
  }
  const doubt = doubtAbout(observed, desired, entry.reference);
  if (doubt !== null) return row(base, { verdict: 'unknown', reason: doubt });
  if (desired.contentDigest === null) return judgeUnlearned(world, desired, entry, base);
  if (entry.digest !== desired.contentDigest) return withRefresh(world, desired, row(base, { verdict: 'stale' }));
  const blob =
    entry.type === 'oci'
      ? ociState(node, observed, desired, entry)
      : blobState(observed, entry.digest, desired, served.depth);
  if (blob.state === 'absent') {
    return withRefresh(world, desired, row(base, { verdict: 'blob-missing', reason: blob.why }));
  }
  if (blob.state === 'corrupt') {
    return row(base, { verdict: 'blob-corrupt', ...byReplacing(world, desired, entry.reference, blob) });
  }
  if (blob.state === 'unproven') return row(base, { verdict: 'unknown', reason: blob.why });
  return row(base, { verdict: 'in-sync', reason: blob.why, error: lostAtEpoch(desired) });
}

/**
 * An entry of which nobody knows what digest it should have. The node's own hashes may prove that it holds what epoch
 * serves, or that it does not.
 */
function judgeUnlearned(world: World, desired: DesiredImage, entry: IndexEntry, base: Base): ImageRow {
  const { observed, served } = world;
  const proof = provenOn(observed, desired, entry.digest);
  if (proof === 'other') {
    const reason = 'epoch serves other content: the digests of its parts prove it';
    return withRefresh(world, desired, row(base, { verdict: 'stale', reason }));
  }
  if (proof === 'same') {
    const { state, why } = blobState(observed, entry.digest, desired, served.depth);
    return state === 'sound'
      ? row(base, { verdict: 'in-sync', reason: 'its own hashes match the parts', error: lostAtEpoch(desired) })
      : row(base, { verdict: 'unknown', reason: why });
  }
  const blob = observed.blobs[hexOf(entry.digest)];
  const kept = desired.error?.code === 'TAG_NOT_FOUND' ? 'the local copy is kept' : null;
  const unproven = !desired.unlearned
    ? null
    : proof === 'nothing'
      ? 'the bytes of the blob are not what its name says, so its own hashes prove nothing'
      : blob?.unhashed && `the bytes of the blob could not be hashed: ${blob.unhashed}`;
  const reason = [desired.error?.message, kept, unproven].filter(Boolean).join('; ') || null;
  return row(base, { verdict: 'unknown', reason, error: desired.error });
}

/** Why it is in doubt what cocoon takes a reference for, or null. Under such a one nothing is pulled. */
export function doubtAbout(observed: Observed, desired: DesiredImage, reference: string): string | null {
  const [first, ...more] = observed.entries.filter((entry) => entry.reference === reference);
  if (more.length > 0) return 'the name is in both backends, so cocoon refuses it: remove one of the two by its digest';
  if (observed.conflicts.includes(reference)) {
    return 'meta.db and the JSON index are both live and name different digests';
  }
  if (first?.type === 'oci' && desired.kind === 'cloud-image') {
    return 'a container image has this name, and a pull would put it into both backends: remove it by its digest';
  }
  return first?.type === 'cloudimg' && desired.kind === 'container-image' && desired.contentDigest !== null
    ? 'a cloud image has the name of this container image, and a pull would put it into both backends: remove it by its digest'
    : null;
}

/** What is to be said about the image itself, whatever the node holds of it. */
function withNotes(world: World, judged: ImageRow): ImageRow {
  const notes = coverOf(world, judged.reference)?.notes ?? [];
  return notes.length === 0 ? judged : { ...judged, reason: [judged.reason, ...notes].filter(Boolean).join('; ') };
}

function judgeAbsent(world: World, image: TrackedImage, desired: DesiredImage | null): ImageRow {
  const base = trackedBase(image, desired?.contentDigest ?? null);
  if (desired === null || desired.contentDigest === null) {
    return row(base, { verdict: 'unknown', reason: desired?.error?.message ?? null, error: desired?.error ?? null });
  }
  if (image.presence === 'if-present') {
    return row(base, { verdict: 'absent', reason: 'not on this node, and it need not be' });
  }
  const missing = row(base, { verdict: 'missing', reason: 'it must be on this node' });
  if (coverOf(world, image.reference) !== desired) {
    const why = `epoch serves another image under ${image.reference}: give it an unambiguous reference in the config`;
    return { ...missing, reason: `${missing.reason}, but ${why}` };
  }
  return withRefresh(world, desired, missing);
}

/** What a reference on this node stands for at its registry, for the node's own platform; null where nothing covers it. */
export function coverOf(world: World, reference: string): DesiredImage | null {
  const { served, node } = world;
  return standsFor(world, reference, (place) => isManaged(served, node, reference, place));
}

/** The same wherever it is managed, be it on another node only. */
export function standsFor(
  { served, observed }: Omit<World, 'node'>,
  reference: string,
  isWanted: (place: number) => boolean = () => true,
): DesiredImage | null {
  const covering = placesOf(served, reference).flatMap((place) => {
    const image = served.desired[place];
    return image !== undefined && fits(image, observed) && isWanted(place) ? [image] : [];
  });
  return covering[0] ?? null;
}

function fits({ platform }: DesiredImage, { architecture }: Observed): boolean {
  return platform === null || platform === `linux/${architecture}`;
}

/** A row that a change on the node heals, with that plan, or with the reason why none can work. */
function withRefresh(world: World, desired: DesiredImage, drifted: ImageRow): ImageRow {
  const but = (why: string | null): string => [drifted.reason, why].filter(Boolean).join('; ');
  const error = lostAtEpoch(desired);
  if (error !== null) return { ...drifted, error, reason: but(error.message) };
  if (desired.unpullable !== null) return { ...drifted, reason: but(desired.unpullable) };
  const want = desired.contentDigest;
  const there =
    drifted.type === 'oci' || want === null ? null : blobState(world.observed, want, desired, world.served.depth);
  if (there !== null && (there.state === 'corrupt' || there.state === 'unproven')) {
    const cure = isTied(drifted) ? 'an import' : 'a forced pull';
    const why = `${cure} would keep the file of the wanted digest, which is there and unsound: ${there.why}`;
    if (there.state === 'unproven') return { ...drifted, reason: but(why) };
    const replacing = byReplacing(world, desired, drifted.reference, there);
    return { ...drifted, ...replacing, reason: but(`${why}; ${replacing.reason}`) };
  }
  if (!isTied(drifted)) return { ...drifted, plan: 'pull' };
  if (want !== null) return { ...drifted, plan: 'import' };
  return { ...drifted, reason: but('an import is compared with its content digest, which is not known') };
}

/** A cloud image under a name that is no URL: cocoon would look for it at an OCI registry (contract C.7). */
export function isTied({ type, reference }: Pick<ImageRow, 'type' | 'reference'>): boolean {
  return type === 'cloudimg' && !isUrl(reference);
}

/** What becomes of a corrupt blob: replaced where that is allowed and possible, else the commands for a person. */
export function byReplacing(
  world: World,
  desired: DesiredImage,
  reference: string,
  { why }: BlobState,
): Pick<ImageRow, 'reason' | 'error' | 'commands'> & { plan: 'replace' | null } {
  const error = lostAtEpoch(desired);
  if (error !== null) return { plan: null, reason: `${why}; ${error.message}`, error, commands: [] };
  if (desired.unpullable !== null)
    return { plan: null, reason: `${why}; ${desired.unpullable}`, error: null, commands: [] };
  const { served, node } = world;
  const digest = desired.contentDigest as string;
  if (isUrl(reference)) {
    return replaced(world, digest, why, 'a forced pull', replaceCommands(node.cocoon, reference, digest));
  }
  const commands = reimportCommands(node.cocoon, served.addresses[0], desired, reference, digest);
  return replaced(world, digest, why, 'another import', commands);
}

/**
 * The plan for a bad blob whose content can be had: replaced where that is allowed and no VM runs on it.
 * @param cure what alone would keep the bad file
 */
export function replaced(
  { served, observed }: World,
  digest: string,
  why: string,
  cure: string,
  commands: string[],
): Pick<ImageRow, 'reason' | 'error' | 'commands'> & { plan: 'replace' | null } {
  if (served.repair.corruptBlobs === 'replace') {
    if (!isInUse(observed, digest)) return { plan: 'replace', reason: why, error: null, commands: [] };
    return { plan: null, reason: `${why}; a VM is running on it, so it is not replaced`, error: null, commands };
  }
  return { plan: null, reason: `${why}; ${cure} alone would keep it`, error: null, commands };
}

/** Why nothing can be pulled: the registry lacks a blob of the image, or could not be asked for it. */
export function lostAtEpoch(desired: DesiredImage): ImageRow['error'] {
  return desired.missingBlob === null ? null : desired.error;
}

function whyUnmanaged({ served, node, observed }: World, entry: IndexEntry): string {
  const meaning = meaningOf(entry.reference, served.addresses);
  const pools = otherPools(served, node, entry.reference);
  const byMeaning = {
    download: 'no tracked tag covers it',
    immutable: 'it names content by its digest, which never goes stale',
    'foreign-url': 'the URL is not of this epoch',
    'epoch-oci': 'no tracked tag covers it',
    name:
      entry.type === 'oci'
        ? 'no tracked tag covers it'
        : 'it was imported under a name that nothing ties to an artifact',
  }[meaning.kind];
  const why = pools.length === 0 ? byMeaning : `it is tracked for other pools only: ${pools.join(', ')}`;
  const absent = entry.type === 'cloudimg' && blobState(observed, entry.digest, null, 'presence').state === 'absent';
  return absent ? `${why}; its blob is missing` : why;
}

type Base = Pick<ImageRow, 'reference' | 'image' | 'tag' | 'type' | 'have' | 'want'>;

/** The row of a tracked image that has no entry on the node. */
function trackedBase(image: TrackedImage, want: string | null): Base {
  const { reference, tag, registry } = image;
  return { reference, image: imageNameOf(image), tag, type: registry === null ? 'cloudimg' : 'oci', have: null, want };
}

function row(base: Base, rest: Partial<ImageRow> & Pick<ImageRow, 'verdict'>): ImageRow {
  return {
    ...base,
    plan: null,
    wave: null,
    reason: null,
    error: null,
    commands: [],
    outcome: null,
    after: null,
    steps: [],
    ...rest,
  };
}
