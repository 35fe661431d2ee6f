/** Findings and policy → actions in waves. The plan is the whole truth: applying it looks at nothing else. */
import { errorInfo } from '../errors.ts';
import { isUrl } from '../reference.ts';
import type { ErrorInfo } from '../model/error.ts';
import type { Evidence, NodeFindings } from '../model/finding.ts';
import type { Observation, Observed } from '../model/observed.ts';
import { imageOf } from '../model/plan.ts';
import type { Action, ActionKind, CloneTest, Content, Expected, HashedFile, Policy, TagAsked } from '../model/plan.ts';
import type { Scope } from '../model/scope.ts';
import { NOTHING_REMEMBERED, type Remembered } from '../model/rollout.ts';
import { isInPool } from '../judge/scope.ts';
import { watchedOn } from '../judge/watched.ts';
import { canaryOrder, type Candidate } from '../rollout/canaries.ts';
import { isRemembered } from '../rollout/remember.ts';
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
  /** What earlier runs left; nothing where nothing is known of them. */
  remembered?: Remembered;
}

/** What the findings of a node ask for. */
interface PlannedChange {
  kind: ActionKind;
  evidence: Evidence;
  /** Some finding says more than that an image is old. */
  isBroken: boolean;
}

/** An action that has no place in its image's rollout yet. */
type Unplaced = Omit<Action, 'wave' | 'canaryRank'>;

/**
 * One action per node and reference, in the order of the nodes. An image and a snapshot that ask for the same change
 * share it. The canaries of each image form wave 0, all others wave 1.
 */
export function planActions(request: PlanRequest): Action[] {
  const { observations, policy, remembered = NOTHING_REMEMBERED } = request;
  return inWaves(unplacedActions(request), observations, policy.canary, remembered);
}

function unplacedActions(request: PlanRequest): Unplaced[] {
  const { findings, observations, scope, policy, remedyFor, runId, remembered = NOTHING_REMEMBERED } = request;
  const byNode = new Map(observations.map((observation) => [observation.node.name, observation]));
  const wasLeftOut = isRemembered(remembered.leftOut);
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
    return changes.map(({ kind, evidence, isBroken }): Unplaced => {
      const { reference, image, digest, sizeBytes, stored } = evidence;
      const tag = tagOf(evidence);
      const content = contentOf(kind, evidence);
      const needBytes = content.by === 'send' || image?.stored === 'converted' ? 2 * sizeBytes : sizeBytes; // two copies at once
      const hasRoom = free - needBytes >= minFreeBytes;
      const noSpace = { host: node.name, needBytes, keepBytes: minFreeBytes, freeBytes: free };
      const fresh = isBroken ? null : tooFresh(evidence, policy.minAgeMs, scope.now);
      if (hasRoom && fresh === null) free -= sizeBytes;
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
        isBroken,
        wasLeftOut: wasLeftOut(node.name, reference),
        blocked: fresh ?? (hasRoom ? null : errorInfo('NO_SPACE', noSpace)),
      };
    });
  });
}

/** Why an image is left to settle, or null. A push in the future is of a clock that is wrong, and as good as one of now. */
function tooFresh({ image }: Evidence, minAgeMs: number, now: number): ErrorInfo | null {
  const pushed = Date.parse(image?.pushedAt ?? '');
  if (image === null || Number.isNaN(pushed)) return null;
  const ageMs = Math.max(0, now - pushed);
  return ageMs < minAgeMs ? errorInfo('TOO_FRESH', { image: imageOf(image), ageMs, minAgeMs }) : null;
}

function changesOf({ images, snapshots }: NodeFindings, remedyFor: RemedyFor): PlannedChange[] {
  const changes = [...images, ...snapshots].flatMap((finding): PlannedChange[] => {
    const remedy = remedyFor(finding);
    const isBroken = finding.verdict !== 'stale';
    return isChange(remedy) ? [{ kind: remedy.kind, evidence: remedy.evidence, isBroken }] : [];
  });
  const same = ({ evidence: { reference } }: PlannedChange): PlannedChange[] =>
    changes.filter(({ evidence }) => evidence.reference === reference);
  return changes
    .filter((change) => same(change)[0] === change)
    .map((change) => ({ ...change, isBroken: same(change).some(({ isBroken }) => isBroken) }));
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
function inWaves(actions: Unplaced[], observations: Observation[], canary: number, { failed }: Remembered): Action[] {
  if (canary === 0) return actions.map((action) => ({ ...action, wave: 0, canaryRank: null }));
  const hasFailed = isRemembered(failed);
  const runningVms = new Map(
    observations.map(({ node, observed }) => [
      node.name,
      (observed?.vms ?? []).filter(({ state }) => state === 'running').length,
    ]),
  );
  const candidates = new Map<string, Map<string, Candidate>>();
  for (const action of actions.filter(({ blocked }) => blocked === null)) {
    const image = imageOf(action);
    const { name, pool } = action.node;
    const mine = candidates.get(image) ?? new Map<string, Candidate>();
    candidates.set(image, mine);
    const candidate = { node: name, pool, runningVms: runningVms.get(name) ?? 0, hasFailed: hasFailed(name, image) };
    mine.set(name, candidate);
  }
  const ranks = new Map(
    [...candidates].map(([image, mine]) => {
      const order = canaryOrder([...mine.values()]).map((node, rank): [string, number] => [node, rank]);
      return [image, new Map(order)];
    }),
  );
  return actions.map((action): Action => {
    const canaryRank = ranks.get(imageOf(action))?.get(action.node.name) ?? null;
    return { ...action, wave: canaryRank !== null && canaryRank < canary ? 0 : 1, canaryRank };
  });
}
