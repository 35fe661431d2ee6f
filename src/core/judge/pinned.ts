/** What judging snapshots makes worth asking of registries: pinned content that no tag yields, and how it is stored. */
import { hexOf } from '../reference.ts';
import type { Catalog, PinnedQuestion } from '../model/catalog.ts';
import type { Observation } from '../model/observed.ts';
import type { Scope } from '../model/scope.ts';
import type { SnapshotVerdict } from '../model/verdict.ts';
import { blobState } from './blobs.ts';
import { pinnedKey, yielding } from './catalog.ts';
import { judgeSnapshots } from './snapshots.ts';

/** The questions that judging these observations raises: a pure first look before the registry is asked. */
export function pinnedQuestions(catalog: Catalog, scope: Scope, observations: Observation[]): PinnedQuestion[] {
  const questions = observations.flatMap((observation) =>
    judgeSnapshots({ ...catalog, pinned: {} }, scope, observation).flatMap(
      ({ verdict, baseVerdict, base, baseDigest }) => {
        if (base === null || baseDigest === null) return [];
        const said = baseVerdict ?? verdict;
        const isOpen =
          said === 'base-missing' || (HERE.has(said) && isOldBase(catalog, scope, observation, baseDigest));
        return isOpen ? [{ base, digest: baseDigest }] : [];
      },
    ),
  );
  return [...new Map(questions.map((question) => [pinnedKey(question), question])).values()];
}

/** The verdicts on a base that is there, as long as nothing is known of it but its header. */
const HERE: ReadonlySet<SnapshotVerdict> = new Set(['clonable', 'base-at-risk', 'unknown']);

/** True for a blob that no tag yields any more, so that only the registry can tell what it should be. */
function isOldBase(catalog: Catalog, scope: Scope, { observed }: Observation, digest: string): boolean {
  const blob = observed?.blobs[hexOf(digest)];
  const isOpen = blob !== undefined && blob.sha256 !== digest && scope.depth !== 'presence';
  return isOpen && yielding(catalog, digest) === null;
}

/**
 * True where it matters how cocoon stores a pinned content: on some node its blob looks wrong, or a restore may bring it.
 * @param sizeBytes of the content at its registry
 */
export function needsForm({ depth }: Scope, observations: Observation[], digest: string, sizeBytes: number): boolean {
  const form = { sizeBytes, stored: null };
  return observations.some(
    ({ observed }) => observed !== null && blobState(observed, digest, form, depth).state !== 'sound',
  );
}
