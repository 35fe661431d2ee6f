/** The base of a snapshot: the blob or the layers that the hypervisor opens, and whence they can be had again. */
import { shortDigest } from '../text.ts';
import type { PinnedContent } from '../model/catalog.ts';
import type { DesiredImage } from '../model/desired.ts';
import type { Evidence, SnapshotFinding } from '../model/finding.ts';
import type { IndexEntry, SnapshotFact } from '../model/observed.ts';
import { blobState, isInUse, keepersOf, OCI_CHECKED, ociState } from './blobs.ts';
import { pinnedContent, yielding } from './catalog.ts';
import { doubtAbout, evidenceOf, isTied } from './images.ts';
import { isServedAs } from './proofs.ts';
import { judgedAs, type Comparison } from './scope.ts';
import { layersGone, NO_LAYERS, type OpenedBase } from './snapshot-files.ts';

export type Judgement = Pick<SnapshotFinding, 'verdict' | 'reason'> & Partial<SnapshotFinding>;

/** The verdict on the base of a cloud-image snapshot: the blob that the hypervisor will open. */
export function judgeBase(comparison: Comparison, base: string | null, digest: string): Judgement {
  const { catalog, scope, observed } = comparison;
  const desired = base === null ? null : judgedAs(comparison, base);
  const serving = desired !== null && isServedAs(observed, desired, digest) ? desired : yielding(catalog, digest);
  const known = base === null || serving !== null ? null : pinnedContent(catalog, { base, digest });
  const old = known?.state === 'there' ? known : null;
  const blob = blobState(observed, digest, serving ?? old, scope.depth);
  if (blob.state === 'absent')
    return judgeGone(comparison, base, digest, `its base ${shortDigest(digest)}: ${blob.why}`);
  if (blob.state === 'unproven') return { verdict: 'unknown', reason: `its base: ${blob.why}` };
  if (blob.state === 'corrupt') {
    const bad = { state: blob.state, why: blob.why, isInUse: isInUse(observed, digest) };
    const reason = `its base: ${blob.why}`;
    // One that no tag yields any more comes from the registry by its own digest, as a restored one does.
    if (serving?.contentDigest !== digest) {
      const evidence = old === null ? null : { ...byDigest(old, digest), kept: bad };
      return { verdict: 'base-corrupt', reason, evidence };
    }
    const from = sourceOf(comparison, serving, digest);
    const doubt = doubtAbout(observed, serving, from);
    if (doubt !== null) return { verdict: 'base-corrupt', reason: `${reason}; ${doubt}` };
    const counts = judgedAs(comparison, from) === serving ? ('tag' as const) : ('digest' as const);
    const { sizeBytes, stored } = serving;
    const evidence = { reference: from, image: serving, digest, sizeBytes: sizeBytes ?? 0, stored, counts, kept: bad };
    return { verdict: 'base-corrupt', reason, evidence };
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

/** What a registry gives by its digest alone. */
function byDigest({ reference, sizeBytes, stored }: PinnedContent & { state: 'there' }, digest: string): Evidence {
  return { reference, image: null, digest, sizeBytes, stored, counts: 'digest', kept: null };
}

/** A reference on the node under which exactly this content is pulled or imported, or where there is none the image's own. */
function sourceOf(comparison: Comparison, serving: DesiredImage, digest: string): string {
  const entry = comparison.observed.entries.find(
    ({ reference, digest: has }) => has === digest && judgedAs(comparison, reference) === serving,
  );
  return entry?.reference ?? serving.reference;
}

/** The base is not there. Can a pull of its tag bring exactly it (the incident), can the registry, or can nobody? */
function judgeGone(comparison: Comparison, base: string | null, digest: string, gone: string): Judgement {
  const { catalog, observed } = comparison;
  const desired = base === null ? null : judgedAs(comparison, base);
  if (base !== null && desired?.contentDigest === digest) {
    if (desired.missingBlob !== null) {
      const reason = `${gone}; ${desired.error?.message ?? 'epoch lacks one of its blobs'}`;
      return { verdict: 'base-drifted', reason, error: desired.error };
    }
    const but = desired.unpullable ?? doubtAbout(observed, desired, base);
    if (but !== null) {
      return { verdict: 'base-drifted', reason: `${gone}, and though the tag of its image is exactly that, ${but}` };
    }
    const tag = desired.kind === 'cloud-image' ? "epoch's tag" : 'the tag of its image';
    const cure = isTied(desired, base) ? `importing it again as ${base}` : 'a forced pull';
    return {
      verdict: 'base-drifted',
      reason: `${gone}, but ${tag} serves exactly that, so ${cure} heals it`,
      evidence: evidenceOf(comparison, desired, base),
    };
  }
  const moved =
    desired === null || desired.contentDigest === null
      ? 'what its tag serves now is not known'
      : `its tag has moved on to ${shortDigest(desired.contentDigest)}, so pulling that does not bring it back`;
  const known = base === null ? null : pinnedContent(catalog, { base, digest });
  const pinned: PinnedContent = known ?? { state: 'unasked', error: null };
  switch (pinned.state) {
    case 'there': {
      const reason = `${gone}; ${moved}, but the registry still gives exactly that`;
      return { verdict: 'base-restorable', reason, evidence: byDigest(pinned, digest) };
    }
    case 'there-unpullable':
      return { verdict: 'base-restorable', reason: `${gone}; ${moved}; ${pinned.why}` };
    case 'gone':
      return {
        verdict: 'base-lost',
        reason: `${gone}; ${moved}, and ${pinned.why}: bake the snapshot again, or push the old base back`,
      };
    case 'unasked': {
      const { error } = pinned;
      const why = error === null ? 'no registry could be asked for it' : error.message;
      return { verdict: 'base-missing', reason: `${gone}; ${moved}, and ${why}`, error };
    }
  }
}

function movedOn(desired: DesiredImage | null, digest: string): string | null {
  if (desired === null || desired.contentDigest === null || desired.contentDigest === digest) return null;
  return `its tag has moved on to ${shortDigest(desired.contentDigest)}; clones keep using ${shortDigest(digest)}`;
}

/** An OCI base is all its layers, its kernel and its initrd; the digest that the record pins is the manifest's. */
export function judgeLayers(
  comparison: Comparison,
  { base, baseDigest }: SnapshotFact,
  { needed, gone }: OpenedBase & { kind: 'layers' },
): Judgement {
  if (needed.length === 0) return { verdict: 'unknown', reason: NO_LAYERS };
  if (gone.length === 0) return { verdict: 'clonable', reason: OCI_CHECKED };
  const words = layersGone(needed, gone);
  if (baseDigest === null) {
    return { verdict: 'base-missing', reason: `${words}, and its record does not say which image that was` };
  }
  return judgeGone(comparison, base, baseDigest, words);
}

/** cocoon looks for the digest in the index, and pulls by digest where it is not there: a cold start. */
export function judgeOciEntry(comparison: Comparison, entry: IndexEntry, digest: string): Judgement | null {
  if (entry.digest !== digest) return null;
  const desired = judgedAs(comparison, entry.reference);
  const isSame = desired?.contentDigest === digest;
  if (entry.layers.length === 0 && !isSame) {
    return { verdict: 'unknown', reason: 'cocoon does not tell the layers of its base' };
  }
  const files = ociState(comparison.node, comparison.observed, isSame ? desired : null, entry);
  if (files.state === 'sound') return { verdict: 'clonable', reason: files.why };
  return judgeGone(comparison, entry.reference, digest, `of its base, ${files.why}`);
}
