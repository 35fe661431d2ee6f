/** Image verdicts: the ordered table of one node's index entries against what registries serve. */
import { hexOf, isUrl, meaningOf } from '../reference.ts';
import type { Catalog } from '../model/catalog.ts';
import type { DesiredImage, TrackedImage } from '../model/desired.ts';
import type { Evidence, ImageFinding } from '../model/finding.ts';
import type { IndexEntry, Observation, Observed } from '../model/observed.ts';
import type { Scope } from '../model/scope.ts';
import { blobState, isInUse, ociState } from './blobs.ts';
import { fits, suspectOf } from './catalog.ts';
import { provenOn } from './proofs.ts';
import { imageNameOf, isInPool, judgedAs, otherPools, type Comparison } from './scope.ts';

/** The verdict on every index entry of the node, and on every tracked image that its pool should have. */
export function judgeImages(catalog: Catalog, scope: Scope, observation: Observation): ImageFinding[] {
  const { node, observed } = observation;
  const inPool = scope.images.tracked.filter((image) => isInPool(image, node));
  const tracked = inPool.filter((image) => !isSuspectedOn(catalog, observed, image));
  if (observed === null) {
    return tracked.map((image) =>
      finding(trackedBase(node.name, image, null), {
        verdict: 'unknown',
        reason: 'the node could not be read',
        error: observation.error,
      }),
    );
  }
  const comparison: Comparison = { catalog, scope, node, observed };
  const findings = observed.entries.map((entry) => withNotes(comparison, judgeEntry(comparison, entry)));
  const present = new Set(observed.entries.map((entry) => judgedAs(comparison, entry.reference)));
  return [
    ...findings,
    ...tracked
      .map((image) => ({ image, desired: servedAs(comparison, image) }))
      .filter(({ desired }) => desired === null || !present.has(desired))
      .map(({ image, desired }) => judgeAbsent(comparison, image, desired)),
  ];
}

/** Whether an entry of the node looks like this image under another address: then nothing is said to be missing. */
function isSuspectedOn(catalog: Catalog, observed: Observed | null, { registry, image, tag }: TrackedImage): boolean {
  return (observed?.entries ?? []).some(({ reference }) => {
    const suspect = suspectOf(catalog, reference);
    return registry === null && suspect?.image === image && suspect.tag === tag;
  });
}

/** What a registry serves for a tracked image. */
function servedAs({ catalog, observed }: Comparison, image: TrackedImage): DesiredImage | null {
  const name = imageNameOf(image);
  const served = Object.values(catalog.images);
  return served.find((d) => d.image === name && d.tag === image.tag && fits(d, observed.architecture)) ?? null;
}

function judgeEntry(comparison: Comparison, entry: IndexEntry): ImageFinding {
  const { catalog, scope, node, observed } = comparison;
  const desired = judgedAs(comparison, entry.reference);
  const base = {
    node: node.name,
    reference: entry.reference,
    image: desired?.image ?? null,
    tag: desired?.tag ?? null,
    type: entry.type,
    have: entry.digest,
    want: desired?.contentDigest ?? null,
  };
  if (desired === null) {
    const error = suspectOf(catalog, entry.reference)?.error ?? null;
    return finding(base, { verdict: 'unmanaged', want: null, reason: whyUnmanaged(comparison, entry), error });
  }
  const doubt = doubtAbout(observed, desired, entry.reference);
  if (doubt !== null) return finding(base, { verdict: 'unknown', reason: doubt });
  if (desired.contentDigest === null) return judgeUnlearned(comparison, desired, entry, base);
  const evidence = (): Evidence => evidenceOf(comparison, desired, entry.reference);
  if (entry.digest !== desired.contentDigest) return finding(base, { verdict: 'stale', evidence: evidence() });
  const blob =
    entry.type === 'oci'
      ? ociState(node, observed, desired, entry)
      : blobState(observed, entry.digest, desired, scope.depth);
  if (blob.state === 'absent')
    return finding(base, { verdict: 'blob-missing', reason: blob.why, evidence: evidence() });
  if (blob.state === 'corrupt')
    return finding(base, { verdict: 'blob-corrupt', reason: blob.why, evidence: evidence() });
  if (blob.state === 'unproven') return finding(base, { verdict: 'unknown', reason: blob.why });
  return finding(base, { verdict: 'in-sync', reason: blob.why, error: lostAtEpoch(desired) });
}

/**
 * An entry of which nobody knows what digest it should have. The node's own hashes may prove that it holds what epoch
 * serves, or that it does not.
 */
function judgeUnlearned(comparison: Comparison, desired: DesiredImage, entry: IndexEntry, base: Base): ImageFinding {
  const { observed, scope } = comparison;
  const proof = provenOn(observed, desired, entry.digest);
  if (proof === 'other') {
    const reason = 'epoch serves other content: the digests of its parts prove it';
    return finding(base, { verdict: 'stale', reason, evidence: evidenceOf(comparison, desired, entry.reference) });
  }
  if (proof === 'same') {
    const { state, why } = blobState(observed, entry.digest, desired, scope.depth);
    return state === 'sound'
      ? finding(base, { verdict: 'in-sync', reason: 'its own hashes match the parts', error: lostAtEpoch(desired) })
      : finding(base, { verdict: 'unknown', reason: why });
  }
  const blob = observed.blobs[hexOf(entry.digest)];
  const kept = desired.error?.code === 'TAG_NOT_FOUND' ? 'the local copy is kept' : null;
  const unproven = !desired.unlearned
    ? null
    : proof === 'nothing'
      ? 'the bytes of the blob are not what its name says, so its own hashes prove nothing'
      : blob?.unhashed && `the bytes of the blob could not be hashed: ${blob.unhashed}`;
  const reason = [desired.error?.message, kept, unproven].filter(Boolean).join('; ') || null;
  return finding(base, { verdict: 'unknown', reason, error: desired.error });
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
function withNotes(comparison: Comparison, judged: ImageFinding): ImageFinding {
  return { ...judged, notes: judgedAs(comparison, judged.reference)?.notes ?? [] };
}

function judgeAbsent(comparison: Comparison, image: TrackedImage, desired: DesiredImage | null): ImageFinding {
  const base = trackedBase(comparison.node.name, image, desired?.contentDigest ?? null);
  if (desired === null || desired.contentDigest === null) {
    return finding(base, {
      verdict: 'unknown',
      reason: desired?.error?.message ?? null,
      error: desired?.error ?? null,
    });
  }
  if (image.presence === 'if-present') {
    return finding(base, { verdict: 'absent', reason: 'not on this node, and it need not be' });
  }
  const reason = 'it must be on this node';
  if (judgedAs(comparison, image.reference) !== desired) {
    const why = `epoch serves another image under ${image.reference}: give it an unambiguous reference in the config`;
    return finding(base, { verdict: 'missing', reason: `${reason}, but ${why}` });
  }
  return finding(base, { verdict: 'missing', reason, evidence: evidenceOf(comparison, desired, image.reference) });
}

/** What would bring what its registry serves to the node, under this reference. */
export function evidenceOf({ observed, scope }: Comparison, desired: DesiredImage, reference: string): Evidence {
  const digest = desired.contentDigest;
  const there =
    digest === null || desired.kind === 'container-image' ? null : blobState(observed, digest, desired, scope.depth);
  const kept =
    digest !== null && (there?.state === 'corrupt' || there?.state === 'unproven')
      ? { state: there.state, why: there.why, isInUse: isInUse(observed, digest) }
      : null;
  const { sizeBytes, stored } = desired;
  return { reference, image: desired, digest, sizeBytes: sizeBytes ?? 0, stored, counts: 'tag', kept };
}

/**
 * Why what is served cannot be had: the registry lacks a blob of the image or could not be asked for it, or cocoon cannot
 * pull it; null where it can.
 */
export function whyNotServed(desired: DesiredImage): { why: string; error: ImageFinding['error'] } | null {
  const error = lostAtEpoch(desired);
  if (error !== null) return { why: error.message, error };
  return desired.unpullable === null ? null : { why: desired.unpullable, error: null };
}

/** Whether a run could bring the content under some policy: a bad file that is in the way may be replaced, unless a VM runs on it. */
export function canBeHad({ image, reference, digest, kept }: Evidence): boolean {
  if (image === null || whyNotServed(image) !== null) return false;
  if (kept !== null) return kept.state === 'corrupt' && !kept.isInUse && digest !== null;
  return digest !== null || !isTied(image, reference);
}

/** A cloud image under a name that is no URL: cocoon would look for it at an OCI registry. */
export function isTied({ kind }: DesiredImage, reference: string): boolean {
  return kind === 'cloud-image' && !isUrl(reference);
}

/** Why nothing can be pulled: the registry lacks a blob of the image, or could not be asked for it. */
function lostAtEpoch(desired: DesiredImage): ImageFinding['error'] {
  return desired.missingBlob === null ? null : desired.error;
}

function whyUnmanaged(comparison: Comparison, entry: IndexEntry): string {
  const { catalog, observed } = comparison;
  const meaning = meaningOf(entry.reference, catalog.addresses);
  const pools = otherPools(comparison, entry.reference);
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

type Base = Pick<ImageFinding, 'node' | 'reference' | 'image' | 'tag' | 'type' | 'have' | 'want'>;

/** The row of a tracked image that has no entry on the node. */
function trackedBase(node: string, image: TrackedImage, want: string | null): Base {
  const { reference, tag, registry } = image;
  return {
    node,
    reference,
    image: imageNameOf(image),
    tag,
    type: registry === null ? 'cloudimg' : 'oci',
    have: null,
    want,
  };
}

function finding(base: Base, rest: Partial<ImageFinding> & Pick<ImageFinding, 'verdict'>): ImageFinding {
  return { kind: 'image', ...base, reason: null, error: null, notes: [], evidence: null, ...rest };
}
