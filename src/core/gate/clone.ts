/** Whether a clone of a snapshot starts on a node: from the copy there, or from what the first start fetches. */
import { localSnapshotName, parseSnapshotName } from '../reference.ts';
import { shortDigest } from '../text.ts';
import type { DesiredImage, DesiredSnapshot } from '../model/desired.ts';
import type { SnapshotFinding } from '../model/finding.ts';
import type { Answer } from '../model/gate.ts';
import type { Observation } from '../model/observed.ts';
import type { SnapshotVerdict } from '../model/verdict.ts';
import { provenOn } from '../judge/proofs.ts';
import { snapshotAsked } from './questions.ts';
import {
  byError,
  byVerdict,
  coldStart,
  BAKE_AGAIN,
  PLAIN_REASON,
  say,
  servedFor,
  withNote,
  type GateFacts,
  type NodeFacts,
  type Said,
} from './say.ts';

/** What each verdict on a snapshot answers to a clone. One that is not on the node is answered by its base's. */
const CLONE_ANSWER: Record<SnapshotVerdict, Answer> = {
  unknown: 'unknown',
  'not-on-node': 'unknown',
  pending: 'no',
  broken: 'no',
  'base-corrupt': 'no',
  'base-drifted': 'no',
  'base-restorable': 'no',
  'base-missing': 'no',
  'base-lost': 'no',
  'base-at-risk': 'yes',
  clonable: 'yes',
};

export function cloneAnswer(node: NodeFacts, image: string, facts: GateFacts, inSync: boolean): Said {
  const snapshot = snapshotAsked(image);
  // A node knows it by its local name; what is there under that name is used as it is, for ever: vk-cocoon fetches no snapshot twice.
  const fact = node.observation.observed?.snapshots.find(({ name }) => name === localSnapshotName(snapshot));
  const row = node.findings.snapshots.find((r) => r.snapshot === snapshot && r.id === (fact?.id ?? null));
  if (row === undefined) return say('unknown', 'UNKNOWN', PLAIN_REASON.unknown);
  const wanted = facts.catalog.snapshots.find((s) => s.snapshot === snapshot) ?? null;
  const isHere = row.verdict !== 'not-on-node';
  const said = isHere
    ? byVerdict(CLONE_ANSWER[row.verdict], row.verdict, row, facts.remedyFor)
    : fetchAnswer(node.observation, row, wanted, facts);
  if (said.answer !== 'yes' || (!isHere && !inSync)) return said; // a cold start says more than a tag that moved on
  const unclear = inSync ? notComparable(node.observation, row, wanted, facts) : null;
  return unclear ?? withNote(said, 'TAG_MOVED', movedOn(node.observation, row, wanted, facts), inSync);
}

/** Which tag has moved on since this node fetched the snapshot: that of its base, or its own. */
function movedOn(
  observation: Observation,
  row: SnapshotFinding,
  wanted: DesiredSnapshot | null,
  facts: GateFacts,
): string | null {
  const base = baseOf(observation, row, facts);
  const now = base?.contentDigest ?? null;
  if (row.baseDigest === null) return null;
  const pinned = shortDigest(row.baseDigest);
  if (now !== null && now !== row.baseDigest) {
    return `the tag of its base has moved on to ${shortDigest(now)}; clones keep using ${pinned}, which is there`;
  }
  if (base !== null && proofOn(observation, base, row.baseDigest) === 'other') {
    return `the tag of its base has moved on, as its parts prove; clones keep using ${pinned}, which is there`;
  }
  const rebaked = wanted?.baseDigest ?? null;
  if (rebaked === null || rebaked === row.baseDigest) return null;
  return `epoch's snapshot of this tag is baked on ${shortDigest(rebaked)} now; this node keeps its copy on ${pinned}`;
}

/** Where the gate asks for content in sync: epoch could not be asked what its tags are. */
function notComparable(
  observation: Observation,
  row: SnapshotFinding,
  wanted: DesiredSnapshot | null,
  facts: GateFacts,
): Said | null {
  const base = baseOf(observation, row, facts);
  const isProven = base !== null && row.baseDigest !== null && proofOn(observation, base, row.baseDigest) !== null;
  if (base !== null && base.contentDigest === null && !isProven)
    return byError(base.error, 'what the tag of its base is, is not known');
  return wanted?.error?.code.startsWith('REGISTRY_') === true ? byError(wanted.error, '') : null;
}

function baseOf(observation: Observation, { base }: SnapshotFinding, facts: GateFacts): DesiredImage | null {
  return base === null ? null : servedFor(observation, base, facts);
}

/** What this node proved about a digest of it, where epoch's own bytes did not tell what it serves. */
function proofOn({ observed }: Observation, image: DesiredImage, digest: string): 'same' | 'other' | null {
  const proof = observed === null ? null : provenOn(observed, image, digest);
  return proof === 'nothing' ? null : proof;
}

/** A snapshot that the node has not fetched yet: yes where it can be fetched, and its base is there or comes along. */
function fetchAnswer(
  observation: Observation,
  row: SnapshotFinding,
  wanted: DesiredSnapshot | null,
  facts: GateFacts,
): Said {
  if (parseSnapshotName(row.snapshot) === null) {
    const [repository, ...rest] = row.snapshot.split(':');
    const reason = `it is not on the node, and a clone asks epoch for the repository "${repository}" with the tag "${rest.join(':')}", which cannot be`;
    return say('no', 'IMAGE_NAME_INVALID', reason, { help: 'a clone takes REPO[:TAG] at epoch, without a host' });
  }
  if (wanted === null || wanted.error !== null) return byError(wanted?.error ?? null, PLAIN_REASON.unknown);
  const { baseVerdict } = row;
  const answer = baseVerdict === null ? 'yes' : CLONE_ANSWER[baseVerdict];
  if (baseVerdict !== null && answer !== 'yes') return byVerdict(answer, baseVerdict, row, facts.remedyFor);
  if (baseVerdict !== null) return coldStart(observation, [['the snapshot', wanted.sizeBytes]]);

  const base = baseOf(observation, row, facts);
  const pulled = `the first start pulls its base ${row.base} too`;
  if (base === null || base.contentDigest === null) {
    return byError(base?.error ?? null, `${pulled}, and what that brings is not known`);
  }
  if (base.contentDigest !== row.baseDigest) {
    const reason = `${pulled}, which brings ${shortDigest(base.contentDigest)} now: the tag has moved on from ${shortDigest(row.baseDigest)}, which it needs`;
    return say('no', 'BASE_MISSING', reason, { help: BAKE_AGAIN });
  }
  if (base.missingBlob !== null) return byError(base.error, pulled);
  return coldStart(observation, [
    ['the snapshot', wanted.sizeBytes],
    ['its base', base.sizeBytes],
  ]);
}
