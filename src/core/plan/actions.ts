/** Findings and policy → actions in waves. The plan is the whole truth: applying it looks at nothing else. */
import { errorInfo } from '../errors.ts';
import { isUrl } from '../reference.ts';
import type { Evidence, NodeFindings } from '../model/finding.ts';
import type { Observation, Observed } from '../model/observed.ts';
import { imageOf } from '../model/plan.ts';
import type { Action, ActionKind, CloneTest, Content, Expected, HashedFile, Policy, TagAsked } from '../model/plan.ts';
import type { Scope } from '../model/scope.ts';
import { isInPool } from '../judge/scope.ts';
import { watchedOn } from '../judge/watched.ts';
import { canaryName } from './leftovers.ts';
import { isChange, type RemedyFor } from './remedy.ts';

/** What a plan is made of. */
export interface PlanRequest {
  findings: NodeFindings[];
  observations: Observation[];
  scope: Scope;
  policy: Policy;
  remedyFor: RemedyFor;
  runId: string;
}

/** What one finding asks for. */
interface PlannedChange {
  kind: ActionKind;
  evidence: Evidence;
}

/**
 * One action per node and reference, in the order of the nodes. An image and a snapshot that ask for the same change
 * share it. The first `canary` nodes of each image that have room form wave 0, all others wave 1.
 */
export function planActions({ findings, observations, scope, policy, remedyFor, runId }: PlanRequest): Action[] {
  const byNode = new Map(observations.map((observation) => [observation.node.name, observation]));
  const waveOf = createWaves(policy.canary);
  const { minFreeBytes, pullTimeoutMs, pullRetries } = policy;
  return findings.flatMap((of) => {
    const observation = byNode.get(of.node);
    if (observation === undefined) throw new Error(`findings about ${of.node}, which is not in the inventory`);
    const { node, observed } = observation;
    const changes = changesOf(of, remedyFor);
    if (changes.length === 0 || observed === null) return [];
    const clone = cloneTest(scope, policy, observation, runId);
    const hashed = hashedOn(observed);
    let free = observed.freeBytes;
    return changes.map(({ kind, evidence }): Action => {
      const { reference, image, digest, sizeBytes, stored } = evidence;
      const tag = tagOf(evidence);
      const content = contentOf(kind, evidence);
      const needBytes = content.by === 'send' || image?.stored === 'converted' ? 2 * sizeBytes : sizeBytes; // two copies at once
      const hasRoom = free - needBytes >= minFreeBytes;
      const noSpace = { host: node.name, needBytes, keepBytes: minFreeBytes, freeBytes: free };
      if (hasRoom) free -= sizeBytes;
      const named = { image: image?.image ?? reference, tag: image?.tag ?? '' };
      return {
        node,
        kind,
        reference,
        ...named,
        want: digest,
        sizeBytes,
        content,
        expected: { tag, form: tag === null ? { sizeBytes, stored } : null, depth: scope.depth, hashed },
        clone,
        pullTimeoutMs,
        pullRetries,
        wave: waveOf(imageOf(named), node.name, hasRoom),
        blocked: hasRoom ? null : errorInfo('NO_SPACE', noSpace),
      };
    });
  });
}

function changesOf({ images, snapshots }: NodeFindings, remedyFor: RemedyFor): PlannedChange[] {
  const changes = [...images, ...snapshots].flatMap((finding): PlannedChange[] => {
    const remedy = remedyFor(finding);
    return isChange(remedy) ? [{ kind: remedy.kind, evidence: remedy.evidence }] : [];
  });
  const isFirst = ({ evidence: { reference } }: PlannedChange, i: number): boolean =>
    changes.findIndex(({ evidence }) => evidence.reference === reference) === i;
  return changes.filter(isFirst);
}

/** An imported name has no URL to pull, neither anew nor for a bad file: the bastion sends it to the node. */
function contentOf(kind: ActionKind, { reference, image, digest }: Evidence): Content {
  const replaces = kind === 'replace';
  if (kind !== 'import' && !(replaces && !isUrl(reference))) return { by: 'pull', replaces: replaces ? digest : null };
  if (image === null || digest === null) throw new Error(`nothing tells what to send for ${reference}`);
  return { by: 'send', repository: image.image, parts: image.blobs, digest, replaces };
}

/** The tag to hold the node against afterwards; null where a digest counts, whatever tags serve. */
function tagOf({ counts, image }: Evidence): TagAsked | null {
  if (counts === 'digest' || image === null) return null;
  const { tag, platform } = image;
  if (image.kind !== 'container-image') return { registry: null, repository: image.image, tag, platform };
  const slash = image.image.indexOf('/');
  return { registry: image.image.slice(0, slash), repository: image.image.slice(slash + 1), tag, platform };
}

function hashedOn({ blobs }: Observed): Expected['hashed'] {
  const known = Object.entries(blobs).filter(
    ([, { sha256, proofs }]) => sha256 !== null || Object.keys(proofs).length > 0,
  );
  return Object.fromEntries(
    known.map(([hex, { stamp, sha256, proofs }]): [string, HashedFile] => [hex, { stamp, sha256, proofs }]),
  );
}

function cloneTest(scope: Scope, { clone, vm }: Policy, observation: Observation, runId: string): CloneTest | null {
  if (clone === 'none') return null;
  const watched = watchedOn(scope.snapshots, observation);
  const snapshots = watched.map(({ fact, snapshot }) => ({ id: fact.id, snapshot }));
  if (clone === 'files') return { snapshots, vm: null };
  const mine = scope.snapshots.tracked.filter((one) => isInPool(one, observation.node)).map(({ snapshot }) => snapshot);
  const { timeoutMs, extraArgs } = vm;
  return {
    snapshots,
    vm: {
      name: canaryName(runId),
      snapshots: vm.snapshot === null ? mine : [vm.snapshot],
      isAnyGood: vm.snapshot === null,
      isForCanaries: vm.nodes === 'canary',
      timeoutMs,
      extraArgs,
    },
  };
}

/** Wave 0 for the first `canary` nodes of an image that can begin. Without canaries everything is one wave. */
function createWaves(canary: number): (image: string, node: string, hasRoom: boolean) => number {
  const canaries = new Map<string, Set<string>>();
  return (image, node, hasRoom) => {
    const chosen = canaries.get(image) ?? new Set();
    canaries.set(image, chosen);
    if (hasRoom && chosen.size < canary) chosen.add(node);
    return canary === 0 || chosen.has(node) ? 0 : 1;
  };
}
