/** Whether a new VM starts from an image on a node: from the entry there, or from what its registry serves. */
import { isSameDownload, meaningOf, parseImageName } from '../reference.ts';
import { shortDigest } from '../text.ts';
import type { Catalog, Suspect } from '../model/catalog.ts';
import type { DesiredImage } from '../model/desired.ts';
import type { ImageFinding } from '../model/finding.ts';
import type { Answer } from '../model/gate.ts';
import type { Observation } from '../model/observed.ts';
import type { ImageVerdict } from '../model/verdict.ts';
import { blobState } from '../judge/blobs.ts';
import { suspectOf, yielding } from '../judge/catalog.ts';
import type { PlacedQuestion } from './questions.ts';
import {
  byError,
  byVerdict,
  coldStart,
  PLAIN_REASON,
  say,
  servedFor,
  withNote,
  type GateFacts,
  type NodeFacts,
  type Said,
} from './say.ts';

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

export function runAnswer(node: NodeFacts, question: PlacedQuestion, facts: GateFacts, inSync: boolean): Said {
  const { image, forcePull } = question;
  const { catalog, remedyFor } = facts;
  const desired = servedFor(node.observation, image, facts);
  const row = findingAsked(node.findings.images, question, catalog);
  if (desired === null) return notAsked(image, catalog.addresses);
  const have = row?.have ?? null;
  const here = row === undefined || have === null ? null : { ...row, have }; // a tracked image has a row also where the node has no entry
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
  const said = here.type === 'oci' ? byVerdict('yes', 'stale', here, remedyFor) : staleAnswer(node, here.have, facts);
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
function staleAnswer({ observation }: NodeFacts, have: string, { catalog, scope }: GateFacts): Said {
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
