/** Image verdicts: the ordered table of one node's index entries against what epoch serves. */
import { replaceCommands } from './commands.ts';
import { isPlainQcow2 } from './desired.ts';
import { hexOf, meaningOf } from './reference.ts';
import type {
  BlobFact,
  DesiredImage,
  ImageRow,
  IndexEntry,
  Node,
  Observation,
  Observed,
  TrackedImage,
} from './types.ts';

/** How closely a blob is looked at. */
export type BlobDepth = 'presence' | 'size';

/** What is the same for all nodes. `covers` maps a reference on a node to its place in `desired`. */
export interface Served {
  epochUrl: string;
  desired: DesiredImage[];
  covers: Record<string, number>;
  tracked: TrackedImage[];
  depth: BlobDepth;
}

/** The verdict on every index entry of the node, and on every tracked image that its pool should have. */
export function judgeImages(served: Served, observation: Observation): ImageRow[] {
  const { node, observed } = observation;
  const tracked = served.tracked.filter((image) => image.pools === null || image.pools.includes(node.pool));
  if (observed === null) {
    return tracked.map((image) =>
      row(trackedBase(image, null), {
        verdict: 'unknown',
        reason: 'the node could not be read',
        error: observation.error,
      }),
    );
  }
  const rows = observed.entries.map((entry) => withNotes(served, judgeEntry(served, node, observed, entry)));
  const present = new Set(observed.entries.map((entry) => coveredBy(served, entry.reference)));
  return [
    ...rows,
    ...tracked
      .map((image) => ({ image, desired: servedAs(served, image) }))
      .filter(({ desired }) => desired === null || !present.has(desired))
      .map(({ image, desired }) => judgeAbsent(served, node, observed, image, desired)),
  ];
}

/** What epoch serves for a tracked image. Another registry may have one of the same name. */
function servedAs({ desired }: Served, { image, tag, reference }: TrackedImage): DesiredImage | null {
  return desired.find((d) => d.image === image && d.tag === tag && d.reference === reference) ?? null;
}

function judgeEntry(served: Served, node: Node, observed: Observed, entry: IndexEntry): ImageRow {
  const desired = coveredBy(served, entry.reference);
  const base = {
    reference: entry.reference,
    image: desired?.image ?? null,
    tag: desired?.tag ?? null,
    type: entry.type,
    have: entry.digest,
    want: desired?.contentDigest ?? null,
  };
  if (desired === null) {
    return row(base, { verdict: 'unmanaged', want: null, reason: whyUnmanaged(served, observed, entry) });
  }
  const doubt = doubtAbout(observed, desired, entry.reference);
  if (doubt !== null) return row(base, { verdict: 'unknown', reason: doubt });
  if (desired.contentDigest === null) {
    return row(base, { verdict: 'unknown', reason: desired.error?.message ?? null, error: desired.error });
  }
  if (entry.digest !== desired.contentDigest) {
    return withPull(node, observed, desired, row(base, { verdict: 'stale' }));
  }
  const blob = blobState(observed.blobs[hexOf(entry.digest)], desired, served.depth);
  if (blob.state === 'absent') {
    return withPull(node, observed, desired, row(base, { verdict: 'blob-missing', reason: blob.why }));
  }
  if (blob.state === 'corrupt') {
    return row(base, {
      verdict: 'blob-corrupt',
      ...byReplacing(node, { ...desired, reference: entry.reference }, blob),
    });
  }
  if (blob.state === 'unproven') return row(base, { verdict: 'unknown', reason: blob.why });
  return row(base, { verdict: 'in-sync', reason: blob.why, error: lostAtEpoch(desired) });
}

/** Why it is in doubt what cocoon takes a reference for, or null. Under such a one nothing is pulled. */
export function doubtAbout(observed: Observed, desired: DesiredImage, reference: string): string | null {
  const [first, ...more] = observed.entries.filter((entry) => entry.reference === reference);
  if (more.length > 0) return 'the name is in both backends, so cocoon refuses it: remove one of the two by its digest';
  if (observed.conflicts.includes(reference)) {
    return 'meta.db and the JSON index are both live and name different digests';
  }
  return first?.type === 'oci' && desired.kind === 'cloud-image'
    ? 'a container image has this name, and a pull would put it into both backends: remove it by its digest'
    : null;
}

/** What is to be said about the image itself, whatever the node holds of it. */
function withNotes(served: Served, judged: ImageRow): ImageRow {
  const notes = coveredBy(served, judged.reference)?.notes ?? [];
  return notes.length === 0 ? judged : { ...judged, reason: [judged.reason, ...notes].filter(Boolean).join('; ') };
}

function judgeAbsent(
  served: Served,
  node: Node,
  observed: Observed,
  image: TrackedImage,
  desired: DesiredImage | null,
): ImageRow {
  const base = trackedBase(image, desired?.contentDigest ?? null);
  if (desired === null || desired.contentDigest === null) {
    return row(base, { verdict: 'unknown', reason: desired?.error?.message ?? null, error: desired?.error ?? null });
  }
  if (image.presence === 'if-present') {
    return row(base, { verdict: 'absent', reason: 'not on this node, and it need not be' });
  }
  const missing = row(base, { verdict: 'missing', reason: 'it must be on this node' });
  if (coveredBy(served, image.reference) !== desired) {
    const why = `epoch serves another image under ${image.reference}: give it an unambiguous reference in the config`;
    return { ...missing, reason: `${missing.reason}, but ${why}` };
  }
  return withPull(node, observed, desired, missing);
}

/** The place of a reference in `desired`, or null where nothing covers it. */
export function coveredBy(served: Served, reference: string): DesiredImage | null {
  const place = Object.hasOwn(served.covers, reference) ? served.covers[reference] : undefined;
  return place === undefined ? null : (served.desired[place] ?? null);
}

/** A row that a forced pull heals, with that plan, or with the reason why a pull cannot work. */
function withPull(node: Node, observed: Observed, desired: DesiredImage, drifted: ImageRow): ImageRow {
  const but = (why: string | null): string => [drifted.reason, why].filter(Boolean).join('; ');
  const error = lostAtEpoch(desired);
  if (error !== null) return { ...drifted, error, reason: but(error.message) };
  const want = desired.contentDigest as string;
  const there = blobState(observed.blobs[hexOf(want)], desired, 'size');
  if (there.state === 'corrupt' || there.state === 'unproven') {
    const why = `a forced pull would keep the file of the wanted digest, which is there and unsound: ${there.why}`;
    const commands = there.state === 'corrupt' ? replaceCommands(node.cocoon, drifted.reference, want) : [];
    return { ...drifted, reason: but(why), commands };
  }
  return { ...drifted, plan: 'pull' };
}

/** What is said of a corrupt blob of `desired`: how a person replaces it, unless epoch cannot give it either. */
export function byReplacing(
  { cocoon }: Node,
  desired: DesiredImage,
  { why }: BlobState,
): Pick<ImageRow, 'reason' | 'error' | 'commands'> {
  const error = lostAtEpoch(desired);
  if (error !== null) return { reason: `${why}; ${error.message}`, error, commands: [] };
  const commands = replaceCommands(cocoon, desired.reference, desired.contentDigest as string);
  return { reason: `${why}; a forced pull alone would keep it`, error: null, commands };
}

/** Why nothing can be pulled: epoch lacks a blob of the image, or could not be asked for it. */
export function lostAtEpoch(desired: DesiredImage): ImageRow['error'] {
  return desired.missingBlob === null ? null : desired.error;
}

/** What is known of one blob file. */
export interface BlobState {
  state: 'sound' | 'absent' | 'corrupt' | 'unproven';
  why: string | null;
}

/**
 * Judges a blob against the manifest that yields it. The index's own size proves nothing (contract A.5): a forced
 * pull keeps a bad file and then records its size. A converted blob has other bytes than the download, so only its
 * presence and its header can be looked at.
 */
export function blobState(blob: BlobFact | undefined, desired: DesiredImage | null, depth: BlobDepth): BlobState {
  if (blob === undefined) return { state: 'absent', why: 'the blob is not there' };
  if (!blob.regular) return { state: 'absent', why: 'the blob is no regular file' };
  if (blob.sizeBytes === 0) return { state: 'absent', why: 'the blob is empty' };
  if (depth === 'presence') return { state: 'sound', why: null };
  const isQcow2 = blob.header !== null && isPlainQcow2(Buffer.from(blob.header, 'hex'));
  const sameSize = desired === null || desired.sizeBytes === null || blob.sizeBytes === desired.sizeBytes;
  if (isQcow2 && sameSize) return { state: 'sound', why: null };
  const why = isQcow2
    ? `the blob has ${blob.sizeBytes} bytes and not ${desired?.sizeBytes}`
    : 'the blob does not begin as a qcow2 base image does';
  if (desired?.stored === 'as-is') return { state: 'corrupt', why };
  if (desired?.stored === 'converted' && isQcow2) {
    return { state: 'sound', why: 'cocoon converted the download: only presence and header can be verified' };
  }
  return { state: 'unproven', why: `${why}, and whether cocoon converted the download is not known` };
}

/**
 * The images whose blobs look wrong somewhere, so that it matters how cocoon stores them: their first bytes are worth
 * a request. Everything else is judged without it.
 */
export function needsStoredForm(served: Served, observations: Observation[]): number[] {
  const places = new Set<number>();
  for (const { observed } of observations) {
    if (observed === null) continue;
    for (const [place, desired] of served.desired.entries()) {
      if (desired.contentDigest === null || desired.stored !== null) continue;
      if (blobState(observed.blobs[hexOf(desired.contentDigest)], desired, 'size').state === 'unproven')
        places.add(place);
    }
  }
  return [...places];
}

function whyUnmanaged(served: Served, observed: Observed, entry: IndexEntry): string {
  const meaning = meaningOf(entry.reference, served.epochUrl);
  const why = {
    download: 'no tracked tag covers it',
    immutable: 'it names content by its digest, which never goes stale',
    'foreign-url': 'the URL is not of this epoch',
    name:
      entry.type === 'oci'
        ? 'no tracked tag covers it'
        : 'it was imported under a name that nothing ties to an artifact',
  }[meaning.kind];
  const absent =
    entry.type === 'cloudimg' && blobState(observed.blobs[hexOf(entry.digest)], null, 'presence').state === 'absent';
  return absent ? `${why}; its blob is missing` : why;
}

type Base = Pick<ImageRow, 'reference' | 'image' | 'tag' | 'type' | 'have' | 'want'>;

/** The row of a tracked image that has no entry on the node. */
function trackedBase(image: TrackedImage, want: string | null): Base {
  const { reference, image: repository, tag, registry } = image;
  return { reference, image: repository, tag, type: registry === null ? 'cloudimg' : 'oci', have: null, want };
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
