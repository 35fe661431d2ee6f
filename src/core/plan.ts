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
  const canaries = new Map<string, number>();
  return verdicts.flatMap(({ node, images, snapshots }) => {
    const pulls = [
      ...images.filter((row) => row.plan === 'pull').map((row) => row.reference),
      ...snapshots.filter((row) => row.plan === 'pull').map((row) => row.base as string),
    ];
    return [...new Set(pulls)].map((reference): Action => {
      const image = imageOf(desired, covers, reference);
      const { host, free } = roomOn(byNode.get(node));
      const sizeBytes = image.sizeBytes ?? 0;
      const blocked =
        free - sizeBytes < policy.minFreeBytes
          ? errorInfo('NO_SPACE', { host, needBytes: sizeBytes, keepBytes: policy.minFreeBytes, freeBytes: free })
          : null;
      return {
        node,
        reference,
        image: image.image,
        tag: image.tag,
        want: image.contentDigest as string,
        sizeBytes,
        wave: blocked === null ? nextWave(canaries, `${image.image}:${image.tag}`, policy.canary) : 1,
        blocked,
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

function roomOn(observation: Observation | undefined): { host: string; free: number } {
  if (observation === undefined || observation.observed === null)
    throw new Error('an action on a node that was not read');
  return { host: observation.node.name, free: observation.observed.freeBytes };
}

/** The first `canary` calls for an image get wave 0. Without canaries everything is one wave. */
function nextWave(used: Map<string, number>, image: string, canary: number): number {
  const n = used.get(image) ?? 0;
  used.set(image, n + 1);
  return canary === 0 || n < canary ? 0 : 1;
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
