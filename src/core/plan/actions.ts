/** Verdicts and policy → actions in waves. The plan is the whole truth: applying it looks at nothing else. */
import { errorInfo } from '../errors.ts';
import { coverOf, type Served } from '../judge/images.ts';
import { isUrl } from '../reference.ts';
import type { DesiredImage } from '../model/desired.ts';
import type { Observation } from '../model/observed.ts';
import type { Action, ActionKind, Limit, Policy } from '../model/plan.ts';
import type { NodeVerdicts } from '../model/report.ts';
import type { ActionResult } from '../model/result.ts';

/** What one row asks for: a kind of change, and the reference that is pulled or imported for it. */
interface Wish {
  kind: ActionKind;
  reference: string;
  /** The content that a snapshot pins, where it is restored or replaced; for all else what the image's tag serves. */
  digest: string | null;
}

/**
 * One action per node and reference, in the order of the nodes. An image and a snapshot that ask for the same change
 * share it. The first `canary` nodes of each image that have room form wave 0, all others wave 1.
 * @param pinnedSizes what is downloaded of content that no tag serves, by its reference, in bytes
 */
export function planActions(
  verdicts: NodeVerdicts[],
  observations: Observation[],
  served: Served,
  pinnedSizes: Record<string, number>,
  policy: Policy,
): Action[] {
  const byNode = new Map(observations.map((observation) => [observation.node.name, observation]));
  const canaries = new Map<string, Set<string>>();
  const { minFreeBytes } = policy;
  return verdicts.flatMap((verdict) => {
    const { node, observed } = readNodeOf(byNode, verdict.node);
    let free = observed?.freeBytes ?? 0;
    return wishesOf(verdict).map((wish): Action => {
      const image = observed === null ? null : coverOf({ served, node, observed }, wish.reference);
      const sizeBytes = image?.sizeBytes ?? pinnedSizes[wish.reference] ?? 0;
      const kind = kindOf(wish, image);
      const needBytes = room(isSent({ ...wish, kind }), image, sizeBytes);
      const hasRoom = free - needBytes >= minFreeBytes;
      const noSpace = { host: node.name, needBytes, keepBytes: minFreeBytes, freeBytes: free };
      if (hasRoom) free -= sizeBytes;
      const name = image === null ? wish.reference : `${image.image}:${image.tag}`;
      return {
        node: verdict.node,
        kind,
        reference: wish.reference,
        image: image?.image ?? wish.reference,
        tag: image?.tag ?? '',
        want: wish.digest ?? image?.contentDigest ?? null,
        sizeBytes,
        wave: waveOf(canaries, name, node.name, hasRoom, policy.canary),
        blocked: hasRoom ? null : errorInfo('NO_SPACE', noSpace),
      };
    });
  });
}

function wishesOf({ images, snapshots }: NodeVerdicts): Wish[] {
  const wishes = [
    ...images.flatMap(({ plan, reference }) => (plan === null ? [] : [{ kind: plan, reference, digest: null }])),
    ...snapshots.flatMap(({ plan, source, baseDigest }) =>
      plan === null || source === null
        ? []
        : [{ kind: plan, reference: source, digest: plan === 'pull' ? null : baseDigest }],
    ),
  ];
  return wishes.filter(({ reference }, i) => wishes.findIndex((other) => other.reference === reference) === i);
}

function readNodeOf(byNode: Map<string, Observation>, name: string): Pick<Observation, 'node' | 'observed'> {
  const observation = byNode.get(name);
  if (observation === undefined) throw new Error(`verdicts about ${name}, which is not in the inventory`);
  return observation;
}

/** What is pulled under a name that is no URL would come from another registry: cocoon has to be given it (C.7). */
function kindOf({ kind, reference }: Wish, image: DesiredImage | null): ActionKind {
  return kind === 'pull' && image?.kind === 'cloud-image' && !isUrl(reference) ? 'import' : kind;
}

/** True for what the bastion sends to the node: an imported name has no URL to pull, neither anew nor for a bad file. */
export function isSent({ kind, reference }: Pick<Action, 'kind' | 'reference'>): boolean {
  return kind === 'import' || (kind === 'replace' && !isUrl(reference));
}

/** A conversion and an import have two copies of the content on the disk at once (contract C.1). */
function room(isTwice: boolean, image: DesiredImage | null, sizeBytes: number): number {
  return isTwice || image?.stored === 'converted' ? 2 * sizeBytes : sizeBytes;
}

/** Wave 0 for the first `canary` nodes of an image that can begin. Without canaries everything is one wave. */
function waveOf(
  canaries: Map<string, Set<string>>,
  image: string,
  node: string,
  hasRoom: boolean,
  canary: number,
): number {
  const chosen = canaries.get(image) ?? new Set();
  canaries.set(image, chosen);
  if (hasRoom && chosen.size < canary) chosen.add(node);
  return canary === 0 || chosen.has(node) ? 0 : 1;
}

/** How many actions may fail before no new one is started: a count, or a share of all, rounded up. */
export function failureBudget(limit: Limit, planned: number): number {
  return limit.percent ? Math.ceil((limit.value * planned) / 100) : limit.value;
}

/** The verdicts with the plan's waves and blocks written into the rows. */
export function withPlan(verdicts: NodeVerdicts[], actions: Action[]): NodeVerdicts[] {
  return mark(verdicts, actions, (action) => ({
    wave: action.wave,
    ...(action.blocked === null ? {} : { error: action.blocked }),
  }));
}

/** The verdicts with outcomes written into the rows; where an image and a snapshot share one, the image has the steps. */
export function withResults(verdicts: NodeVerdicts[], results: ActionResult[]): NodeVerdicts[] {
  return mark(verdicts, results, ({ outcome, error, reason, after, steps }, isImage) => ({
    outcome,
    ...(error === null ? {} : { error }),
    ...(reason === null ? {} : { reason }),
    ...(isImage ? { after, steps } : {}),
  }));
}

function mark<T extends { node: string; reference: string }>(
  verdicts: NodeVerdicts[],
  items: T[],
  change: (item: T, isImage: boolean) => object,
): NodeVerdicts[] {
  const byKey = new Map(items.map((item) => [`${item.node}\n${item.reference}`, item]));
  return verdicts.map(({ node, images, snapshots }) => ({
    node,
    images: images.map((row) => {
      const item = row.plan === null ? undefined : byKey.get(`${node}\n${row.reference}`);
      return item === undefined ? row : { ...row, ...change(item, true) };
    }),
    snapshots: snapshots.map((row) => {
      const item = row.plan === null ? undefined : byKey.get(`${node}\n${row.source}`);
      const owned = item !== undefined && images.some((i) => i.plan !== null && i.reference === row.source);
      return item === undefined ? row : { ...row, ...change(item, false), ...(owned ? {} : stepsOf(item)) };
    }),
  }));
}

function stepsOf(item: object): object {
  return 'steps' in item ? { steps: item.steps } : {};
}
