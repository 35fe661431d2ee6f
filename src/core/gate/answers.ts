/** Verdicts → the answers of a gate: can what somebody wants to start, start on every node of its pool now? */
import { blobState } from '../judge/blobs.ts';
import { snapshotAsked, type PlacedQuestion } from './cocoonset.ts';
import type { Catalog, Suspect } from '../model/catalog.ts';
import type { Finding, ImageFinding, NodeFindings, SnapshotFinding } from '../model/finding.ts';
import type { Scope } from '../model/scope.ts';
import { suspectOf, yielding } from '../judge/catalog.ts';
import { judgedAs } from '../judge/scope.ts';
import { isChange, type RemedyFor } from '../plan/remedy.ts';
import { said as saidOf } from '../report/rows.ts';
import { provenOn } from '../judge/proofs.ts';
import { isSameDownload, localSnapshotName, meaningOf, parseImageName, parseSnapshotName } from '../reference.ts';
import type { GateSettings } from '../model/settings.ts';
import { formatBytes, shortDigest } from '../text.ts';
import type { DesiredImage, DesiredSnapshot } from '../model/desired.ts';
import type { ErrorInfo } from '../model/error.ts';
import type { Answer, Gate, GateAnswer, GateQuestion, Refusal } from '../model/gate.ts';
import type { Observation } from '../model/observed.ts';
import type { Limit } from '../model/plan.ts';
import type { ImageVerdict, SnapshotVerdict } from '../model/verdict.ts';

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

/** What each verdict on an image answers to a run; `stale` if the old blob is sound, an absent one if it can be had. */
const RUN_ANSWER: Record<ImageVerdict, Answer> = {
  unmanaged: 'unknown',
  unknown: 'unknown',
  missing: 'yes',
  absent: 'yes',
  stale: 'yes',
  'blob-missing': 'no',
  'blob-corrupt': 'no',
  'in-sync': 'yes',
};

/** What a person can do where a pull does not help. */
const HELP: Partial<Record<SnapshotVerdict | ImageVerdict, string>> = {
  pending: 'wait until it is written, then ask again',
  broken: 'remove it there and let the next start fetch it again, or bake it again',
  'base-restorable': 'the base can still be had by its digest: pull that, as the commands say',
  'base-lost': 'bake the snapshot again, or push the old base back to epoch',
};

/** Errors of a registry that say no; after any other the answer is not known. */
const REFUSALS = new Set(['TAG_NOT_FOUND', 'REGISTRY_BLOB_MISSING']);

/** Everything that the answers come from. Findings are in the order of the observations. */
export interface GateFacts {
  catalog: Catalog;
  scope: Scope;
  observations: Observation[];
  findings: NodeFindings[];
  remedyFor: RemedyFor;
}

/** Answers every question on every node that it is about. */
export function judgeGate(questions: PlacedQuestion[], facts: GateFacts, settings: GateSettings): Omit<Gate, 'errors'> {
  const nodes = new Map(
    facts.observations.map((observation, i) => [
      observation.node.name,
      { observation, findings: facts.findings[i] as NodeFindings },
    ]),
  );
  const known = new Map<string, GateAnswer>();
  const answered = questions.map((question): GateQuestion => {
    const { nodes: names, forcePull, ...asked } = question;
    const answers = names.map((name) => {
      const key = JSON.stringify([name, question.mode, question.image, forcePull]);
      const answer =
        known.get(key) ?? answerOn(nodes.get(name) as NodeFacts, question, facts, settings.require === 'in-sync');
      known.set(key, answer);
      return answer;
    });
    return { ...asked, ...outcomeOf(answers, question.nodeName, settings.minReady), nodes: answers };
  });
  return {
    pass: answered.every(({ outcome }) => outcome === 'pass'),
    ...shownSettings(settings),
    questions: answered,
  };
}

/** The gate that had nothing to ask, because what it was given could not be used. */
export function refusedGate(errors: Refusal[], settings: GateSettings): Gate {
  return { pass: false, ...shownSettings(settings), questions: [], errors };
}

function shownSettings({ minReady, require }: GateSettings): Pick<Gate, 'minReady' | 'require'> {
  return { minReady: `${minReady.value}${minReady.percent ? '%' : ''}`, require };
}

interface NodeFacts {
  observation: Observation;
  findings: NodeFindings;
}

/**
 * Passed where enough nodes say yes; blocked where not even the nodes that are not known could make it enough. A share
 * is rounded up. A number that the pool does not have is never reached; of one node that is named, one is enough.
 */
function outcomeOf(
  answers: GateAnswer[],
  nodeName: string | null,
  minReady: Limit,
): Pick<GateQuestion, 'ready' | 'needed' | 'outcome'> {
  const those = (wanted: Answer): number => answers.filter(({ answer }) => answer === wanted).length;
  const ready = those('yes');
  const asked = minReady.percent ? Math.ceil((answers.length * minReady.value) / 100) : minReady.value;
  const needed = nodeName === null ? asked : Math.min(asked, 1);
  if (ready >= needed) return { ready, needed, outcome: 'pass' };
  return { ready, needed, outcome: ready + those('unknown') >= needed ? 'incomplete' : 'blocked' };
}

/** An answer without the node. */
type Said = Omit<GateAnswer, 'node'>;

function answerOn(node: NodeFacts, question: PlacedQuestion, facts: GateFacts, inSync: boolean): GateAnswer {
  const { observation } = node;
  const said =
    observation.observed === null
      ? byError(observation.error, 'the node could not be read')
      : question.mode === 'clone'
        ? cloneAnswer(node, question.image, facts, inSync)
        : runAnswer(node, question, facts, inSync);
  return { node: observation.node.name, ...said };
}

function say(answer: Answer, reasonCode: string, reason: string, rest: Partial<Said> = {}): Said {
  return { answer, reasonCode, reason, pullHelps: false, help: null, commands: [], ...rest };
}

/** An error as an answer: some say no, all others that nothing is known. */
function byError(error: ErrorInfo | null, otherwise: string): Said {
  if (error === null) return say('unknown', 'UNKNOWN', otherwise);
  return say(REFUSALS.has(error.code) ? 'no' : 'unknown', error.code, error.message, { help: error.hint });
}

/** `base-drifted` → `BASE_DRIFTED`. */
function codeOf(verdict: string): string {
  return verdict.toUpperCase().replaceAll('-', '_');
}

/** A verdict as an answer, with what helps. */
function byVerdict(
  answer: Answer,
  verdict: SnapshotVerdict | ImageVerdict,
  finding: Finding,
  remedyFor: RemedyFor,
): Said {
  const remedy = remedyFor(finding);
  const row = saidOf(finding, remedy);
  const code = answer === 'unknown' && row.error !== null ? row.error.code : codeOf(verdict);
  if (answer === 'yes') {
    const all = [row.error?.message ?? PLAIN_REASON.yes, row.reason].filter(Boolean);
    return say(answer, code, all.join('; '));
  }
  const reason = row.reason ?? row.error?.message ?? PLAIN_REASON[answer];
  const planned = isChange(remedy) ? `\`reconcile\` heals it (${remedy.kind})` : null;
  return say(answer, code, reason, {
    pullHelps: remedy.kind === 'pull',
    help: planned ?? row.error?.hint ?? HELP[verdict] ?? null,
    commands: row.commands,
  });
}

const PLAIN_REASON: Record<Answer, string> = {
  yes: 'everything that it needs is there',
  no: 'something that it needs is not there',
  unknown: 'what it needs is not known',
};

/** A yes with something to be said; where the gate asks for content in sync, a no. */
function withNote(said: Said, code: string, note: string | null, inSync: boolean): Said {
  if (said.answer !== 'yes' || note === null) return said;
  return { ...said, answer: inSync ? 'no' : 'yes', reasonCode: code, reason: note };
}

// ------------------------------------------------------------------------------------------------- clone

function cloneAnswer(node: NodeFacts, image: string, facts: GateFacts, inSync: boolean): Said {
  const snapshot = snapshotAsked(image);
  // A node knows it by its local name; what is there under that name is used as it is, for ever (contract F.4).
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

/** What a reference stands for on the platform of this node. */
function servedFor(
  { node, observed }: Observation,
  reference: string,
  { catalog, scope }: GateFacts,
): DesiredImage | null {
  return observed === null ? null : judgedAs({ catalog, scope, node, observed }, reference);
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
    return say('no', 'BASE_MISSING', reason, { help: HELP['base-lost'] as string });
  }
  if (base.missingBlob !== null) return byError(base.error, pulled);
  return coldStart(observation, [
    ['the snapshot', wanted.sizeBytes],
    ['its base', base.sizeBytes],
  ]);
}

/** A yes, but one that has to download first; a no where there is no room for it. */
function coldStart({ observed }: Observation, parts: [what: string, sizeBytes: number | null][]): Said {
  const all = parts.reduce((sum, [, sizeBytes]) => sum + (sizeBytes ?? 0), 0);
  const what = parts.map(([name, size]) => (size === null ? name : `${name} (${formatBytes(size)})`)).join(' and ');
  const free = observed?.freeBytes ?? 0;
  if (all > free) {
    return say('no', 'NO_SPACE', `the first start downloads ${what}, and only ${formatBytes(free)} are free`, {
      help: 'make room there: `cocoon gc` collects what nothing needs',
    });
  }
  return say('yes', 'COLD_START', `not on the node yet: the first start downloads ${what}`);
}

// --------------------------------------------------------------------------------------------------- run

function runAnswer(node: NodeFacts, question: PlacedQuestion, facts: GateFacts, inSync: boolean): Said {
  const { image, forcePull } = question;
  const { catalog, remedyFor } = facts;
  const desired = servedFor(node.observation, image, facts);
  const row = findingAsked(node.findings.images, question, catalog);
  if (desired === null) return notAsked(image, catalog.addresses);
  const here = row?.have == null ? null : row; // a tracked image has a row also where the node has no entry
  // The registry is asked at each start where the node has no such entry or a pull is forced, and for OCI always.
  const atEpoch = canPull(desired);
  if (here === null) {
    const suspect = suspectOn(node.observation, desired, catalog);
    if (suspect !== null) return byError(suspect.error, PLAIN_REASON.unknown);
    return atEpoch ?? coldStart(node.observation, [['it', desired.sizeBytes]]);
  }
  const answer = RUN_ANSWER[here.verdict];
  if (answer !== 'yes') return byVerdict(answer, here.verdict, here, remedyFor);
  if (atEpoch !== null && (forcePull || here.type === 'oci')) return atEpoch;
  if (here.verdict !== 'stale') return byVerdict('yes', here.verdict, here, remedyFor);
  const said = here.type === 'oci' ? byVerdict('yes', 'stale', here, remedyFor) : staleAnswer(node, here, facts);
  const now = here.want === null ? 'other content' : shortDigest(here.want);
  const note = `it starts from ${shortDigest(here.have)}, and epoch serves ${now} now`;
  const noted = withNote(said, 'STALE', note, inSync);
  return noted.answer === 'no' ? { ...noted, ...helpOf(byVerdict('no', 'stale', here, remedyFor)) } : noted;
}

/** The finding about the image itself; for a question of the command line also under another address of epoch, the worst then. */
function findingAsked(
  rows: ImageFinding[],
  { image, set }: PlacedQuestion,
  { addresses }: Catalog,
): ImageFinding | undefined {
  const exact = rows.find(({ reference }) => reference === image);
  if (set !== null || exact?.have != null) return exact;
  const same = rows.filter(({ reference, have }) => have !== null && isSameDownload(reference, image, addresses));
  return same.find(({ verdict }) => RUN_ANSWER[verdict] !== 'yes') ?? same[0] ?? exact;
}

/** An entry of the node that may be this image under an address of epoch that the config does not know. */
function suspectOn({ observed }: Observation, { image, tag }: DesiredImage, catalog: Catalog): Suspect | null {
  const all = (observed?.entries ?? []).flatMap(({ reference }) => suspectOf(catalog, reference) ?? []);
  return all.find((suspect) => suspect.image === image && suspect.tag === tag) ?? null;
}

function helpOf({ pullHelps, help, commands }: Said): Pick<Said, 'pullHelps' | 'help' | 'commands'> {
  return { pullHelps, help, commands };
}

/** A new VM starts from the blob that the index names, whatever epoch serves: is that one sound? */
function staleAnswer({ observation }: NodeFacts, row: ImageFinding, { catalog, scope }: GateFacts): Said {
  const have = row.have as string;
  const source = yielding(catalog, have);
  const { observed } = observation;
  if (observed === null) return say('unknown', 'UNKNOWN', PLAIN_REASON.unknown);
  const { state, why } = blobState(observed, have, source, scope.depth);
  const old = `its index names ${shortDigest(have)}: ${why}`;
  switch (state) {
    case 'sound':
      return say('yes', 'STALE', PLAIN_REASON.yes);
    case 'absent':
      return say('no', 'BLOB_MISSING', old);
    case 'corrupt':
      return say('no', 'BLOB_CORRUPT', old);
    case 'unproven':
      return say('unknown', 'UNKNOWN', old);
  }
}

/**
 * Null where the registry can serve the image; else what follows from that it cannot. A split image of which nothing else
 * is wrong can be had, whether or not anybody knows the digest of what comes.
 */
function canPull({ error, missingBlob, unpullable, unlearned }: DesiredImage): Said | null {
  if (unpullable !== null) return say('unknown', 'REGISTRY_NOT_KNOWN', unpullable);
  if (unlearned && missingBlob === null && error?.code === 'ARTIFACT_UNSUPPORTED') return null;
  return error === null && missingBlob === null ? null : byError(error, PLAIN_REASON.unknown);
}

/** Why nobody was asked for this image. */
function notAsked(image: string, addresses: Catalog['addresses']): Said {
  const [epochUrl] = addresses;
  const url = `for an image of epoch write its URL, ${epochUrl}/dl/REPO[/TAG]`;
  switch (meaningOf(image, addresses).kind) {
    case 'download':
      return say('unknown', 'UNKNOWN', 'this is no image that epoch could have', { help: url });
    case 'immutable':
      return say('unknown', 'UNMANAGED', 'it names content by its digest, which no tag of epoch covers', { help: url });
    case 'foreign-url':
      return say('unknown', 'REGISTRY_NOT_KNOWN', 'the URL is not of this epoch, and only epoch is asked', {
        help: url,
      });
    case 'epoch-oci':
    case 'name': {
      const registry = parseImageName(image)?.registry ?? 'docker.io';
      if (addresses.some((address) => registry === new URL(address).host)) {
        const reason = 'it is an OCI reference on the host of epoch, where cocoon cannot pull without a credential';
        return say('unknown', 'REGISTRY_NOT_KNOWN', reason, { help: url });
      }
      const reason = `a node pulls it from the registry ${registry}, which the config does not name`;
      const help = `track it under images.track, with this reference; ${url}`;
      return say('unknown', 'REGISTRY_NOT_KNOWN', reason, { help });
    }
  }
}
