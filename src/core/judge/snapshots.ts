/**
 * Snapshot verdicts: can a clone of this snapshot work on this node? The index is not the judge here: the hypervisor
 * opens the absolute path in the header of the overlay, whatever any index says
 * (conformance: the incident: a missing base shows only when the hypervisor restores).
 */
import { localSnapshotName } from '../reference.ts';
import type { Catalog } from '../model/catalog.ts';
import type { SnapshotFinding } from '../model/finding.ts';
import type { Observation, SnapshotFact } from '../model/observed.ts';
import type { Scope } from '../model/scope.ts';
import type { SnapshotVerdict } from '../model/verdict.ts';
import { judgeBase, judgeLayers, judgeOciEntry } from './bases.ts';
import { keepersOf } from './blobs.ts';
import { canBeHad, judgeImages } from './images.ts';
import { provenOn } from './proofs.ts';
import { isInPool, judgedAs, type Comparison } from './scope.ts';
import { filesAgainst, openedBase, pinnedBy, whyUnusable } from './snapshot-files.ts';
import { watchedOn } from './watched.ts';

/** `save` writes a pending record before the data; gc takes it for abandoned after this long. */
const PENDING_MS = 24 * 3600 * 1000;

/** The verdict on every snapshot of the node, and on every tracked one that its pool should be able to start. */
export function judgeSnapshots(catalog: Catalog, scope: Scope, observation: Observation): SnapshotFinding[] {
  const { node, observed } = observation;
  const tracked = scope.snapshots.tracked.filter((snapshot) => isInPool(snapshot, node));
  if (observed === null) {
    return tracked.map(({ snapshot }) =>
      finding(node.name, snapshot, {
        verdict: 'unknown',
        reason: 'the node could not be read',
        error: observation.error,
      }),
    );
  }
  const comparison: Comparison = { catalog, scope, node, observed };
  const local = watchedOn(scope.snapshots, observation).map(({ fact, snapshot }) =>
    withNews(catalog, fact, { ...judgeLocal(comparison, fact), snapshot }),
  );
  const absent = tracked.filter(({ snapshot }) => !local.some((one) => one.snapshot === snapshot));
  if (absent.length === 0) return local;
  const coming = new Set(
    [...local, ...judgeImages(catalog, scope, observation)].flatMap(({ evidence }) =>
      evidence?.counts === 'tag' && canBeHad(evidence) ? evidence.reference : [],
    ),
  );
  return [...local, ...absent.map(({ snapshot }) => judgeRemote(comparison, snapshot, coming))];
}

function judgeLocal(comparison: Comparison, fact: SnapshotFact): SnapshotFinding {
  const { node, observed, scope } = comparison;
  const base = { id: fact.id, base: fact.base, baseDigest: pinnedBy(fact) };
  const say: Say = (verdict, reason, rest = {}) => finding(node.name, fact.name, { ...base, verdict, reason, ...rest });
  if (fact.pending) {
    const age = scope.now - Date.parse(fact.createdAt);
    return age < PENDING_MS
      ? say('pending', 'its record is being written')
      : say('broken', 'its record was begun more than 24 hours ago and never finished: remove it, or let gc take it');
  }
  const unusable = whyUnusable(observed, fact);
  if (unusable !== null) return say('broken', `${unusable}: pulling images does not help`);
  const served = comparison.catalog.snapshots.find(({ snapshot }) => localSnapshotName(snapshot) === fact.name);
  const { damage, checked } = filesAgainst(fact, served?.files ?? {});
  if (damage !== null) return say('broken', `${damage}: pulling images does not help`);
  const judged = judgeStanding(comparison, fact, say);
  return judged.verdict === 'clonable' ? { ...judged, notes: [...judged.notes, checked] } : judged;
}

type Say = (verdict: SnapshotVerdict, reason: string | null, rest?: Partial<SnapshotFinding>) => SnapshotFinding;

/** The verdict on a snapshot whose own files are all there, by the base that it opens. */
function judgeStanding(comparison: Comparison, fact: SnapshotFact, say: Say): SnapshotFinding {
  const { node, observed } = comparison;
  const opened = openedBase(node, observed, fact);
  switch (opened.kind) {
    case 'unreadable':
      return say('unknown', `its overlay opens ${opened.path}, which cannot be looked for`);
    case 'file':
      return opened.isThere
        ? say('clonable', `its base lies outside this node's root directory, at ${opened.path}; checked: present`)
        : say(
            'broken',
            `its overlay opens ${opened.path}, which is not there and under another root directory: pulling images does not help`,
          );
    case 'layers': {
      const { verdict, reason, ...rest } = judgeLayers(comparison, fact, opened);
      return say(verdict, reason, rest);
    }
    case 'blob': {
      const { verdict, reason, ...rest } = judgeBase(comparison, fact.base, opened.digest);
      return say(verdict, reason, { ...rest, baseDigest: opened.digest });
    }
  }
}

/** vk-cocoon fetches no snapshot again that a node holds already, whatever its tag serves by now. */
function withNews({ snapshots }: Catalog, fact: SnapshotFact, judged: SnapshotFinding): SnapshotFinding {
  const served = snapshots.find(({ snapshot }) => localSnapshotName(snapshot) === fact.name);
  if (served === undefined || fact.pending) return judged;
  const pinned = pinnedBy(fact);
  const isNewer = Date.parse(served.createdAt ?? '') > Date.parse(fact.createdAt);
  const isOther = served.baseDigest !== null && pinned !== null && served.baseDigest !== pinned;
  if (!isNewer && !isOther) return judged;
  const news = `the tag at epoch is ${isNewer ? 'newer than' : 'another snapshot than'} the local copy, which stays until somebody removes it`;
  return { ...judged, notes: [...judged.notes, news] };
}

/**
 * A tracked snapshot that the node has not fetched yet: what would its base get?
 * @param coming the references for which a run may bring an entry to the node: then the first clone pulls nothing
 */
function judgeRemote(comparison: Comparison, snapshot: string, coming: ReadonlySet<string>): SnapshotFinding {
  const { node, observed, catalog } = comparison;
  const wanted = catalog.snapshots.find((s) => s.snapshot === snapshot);
  const { base = null, baseDigest = null } = wanted ?? {};
  const say = (
    baseVerdict: SnapshotVerdict | null,
    reason: string | null,
    rest: Partial<SnapshotFinding> = {},
  ): SnapshotFinding =>
    finding(node.name, snapshot, {
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
      ? judgeOciEntry(comparison, entry, baseDigest)
      : wanted?.baseType === 'oci'
        ? null
        : judgeBase(comparison, base, baseDigest);
  const isGone = judged !== null && GONE.has(judged.verdict);
  if (judged === null || (isGone && entry === undefined && (judged.verdict === 'base-drifted' || !coming.has(base)))) {
    return say(null, 'the first clone pulls its base too (a cold start)');
  }
  const { verdict, reason, ...rest } = judged;
  const there = verdict === 'clonable' ? 'its base is there' : null;
  const notes = leftWithoutKeeper(comparison, base, baseDigest);
  return say(verdict, [there, reason].filter(Boolean).join('; '), { ...rest, notes });
}

/** The verdicts on a base that is not there. */
const GONE: ReadonlySet<SnapshotVerdict> = new Set(['base-drifted', 'base-restorable', 'base-missing', 'base-lost']);

/** A pull of the tag is still right where it takes the last keeper of this base, but it is announced. */
function leftWithoutKeeper(comparison: Comparison, base: string, digest: string): string[] {
  const { observed } = comparison;
  const [only, ...more] = keepersOf(observed, digest);
  const desired = judgedAs(comparison, base);
  const isMoved =
    desired !== null &&
    (desired.contentDigest === null
      ? provenOn(observed, desired, digest) === 'other'
      : desired.contentDigest !== digest);
  return only === base && more.length === 0 && isMoved
    ? ['once the tag is pulled again nothing keeps its base on this node']
    : [];
}

function finding(
  node: string,
  snapshot: string,
  rest: Partial<SnapshotFinding> & Pick<SnapshotFinding, 'verdict'>,
): SnapshotFinding {
  return {
    kind: 'snapshot',
    node,
    snapshot,
    id: null,
    base: null,
    baseDigest: null,
    baseVerdict: null,
    reason: null,
    error: null,
    notes: [],
    evidence: null,
    ...rest,
  };
}
