/** Verdicts and policy → actions in waves. The plan is the whole truth: applying it looks at nothing else. */
import { errorInfo } from './errors.ts';
import type { Action, ActionResult, DesiredImage, Limit, NodeVerdicts, Observation, Policy } from './types.ts';

/**
 * One action per node and reference, in the order of the nodes. An image and a snapshot that ask for the same pull
 * share it. The first `canary` nodes of each image that have room form wave 0, all others wave 1.
 */
export function planActions(
  verdicts: NodeVerdicts[],
  observations: Observation[],
  desired: DesiredImage[],
  covers: Record<string, number>,
  policy: Policy,
): Action[] {
  const byNode = new Map(observations.map((observation) => [observation.node.name, observation]));
  const canaries = new Map<string, Set<string>>();
  return verdicts.flatMap(({ node, images, snapshots }) => {
    const pulls = [
      ...images.filter((row) => row.plan === 'pull').map((row) => row.reference),
      ...snapshots.filter((row) => row.plan === 'pull').map((row) => row.base as string),
    ];
    let free = freeOn(byNode.get(node));
    return [...new Set(pulls)].map((reference): Action => {
      const image = imageOf(desired, covers, reference);
      const sizeBytes = image.sizeBytes ?? 0;
      const { minFreeBytes } = policy;
      const hasRoom = free - sizeBytes >= minFreeBytes;
      const noSpace = { host: node, needBytes: sizeBytes, keepBytes: minFreeBytes, freeBytes: free };
      if (hasRoom) free -= sizeBytes;
      return {
        node,
        reference,
        image: image.image,
        tag: image.tag,
        want: image.contentDigest as string,
        sizeBytes,
        wave: waveOf(canaries, `${image.image}:${image.tag}`, node, hasRoom, policy.canary),
        blocked: hasRoom ? null : errorInfo('NO_SPACE', noSpace),
      };
    });
  });
}

function imageOf(desired: DesiredImage[], covers: Record<string, number>, reference: string): DesiredImage {
  const place = covers[reference];
  const image = place === undefined ? undefined : desired[place];
  if (image === undefined || image.contentDigest === null)
    throw new Error(`no content digest to pull for ${reference}`);
  return image;
}

function freeOn(observation: Observation | undefined): number {
  if (observation?.observed == null) return 0; // a node that was not read has no planned row
  return observation.observed.freeBytes;
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
      const item = row.plan === null ? undefined : byKey.get(`${node}\n${row.base}`);
      const owned = item !== undefined && images.some((i) => i.plan !== null && i.reference === row.base);
      return item === undefined ? row : { ...row, ...change(item, false), ...(owned ? {} : stepsOf(item)) };
    }),
  }));
}

function stepsOf(item: object): object {
  return 'steps' in item ? { steps: item.steps } : {};
}
