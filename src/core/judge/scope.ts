/** Which entries of a node are judged: what is tracked for its pool, what its snapshots stand on, what is discovered. */
import type { Catalog } from '../model/catalog.ts';
import type { DesiredImage, TrackedImage } from '../model/desired.ts';
import type { Node } from '../model/node.ts';
import type { Observed } from '../model/observed.ts';
import type { Scope } from '../model/scope.ts';
import { imageKey, imagesOf, isMeant, keysOf, lookup } from './catalog.ts';

/** One node, and what it is held against. */
export interface Comparison {
  catalog: Catalog;
  scope: Scope;
  node: Node;
  observed: Observed;
}

/** What a reference on this node stands for at its registry, for the node's own platform; null where it is not judged. */
export function judgedAs(comparison: Comparison, reference: string): DesiredImage | null {
  const { catalog, observed } = comparison;
  return lookup(catalog, reference, observed.architecture, (image) => isInScope(comparison, reference, image));
}

function isInScope({ catalog, scope, node }: Comparison, reference: string, image: DesiredImage): boolean {
  const { tracked, discover } = scope.images;
  const byRegistry = isMeant(catalog, reference);
  if (discover && byRegistry) return true;
  const isAsked = (one: TrackedImage): boolean =>
    isInPool(one, node) && (byRegistry || one.reference === reference) && isOf(one, image);
  if (tracked.some(isAsked)) return true;
  const own = Object.hasOwn(scope.bases, node.name) ? (scope.bases[node.name] ?? []) : [];
  const key = imageKey(image);
  return own.some((base) => base === reference || (byRegistry && keysOf(catalog, base).includes(key)));
}

/** The pools that track what a reference stands for, without those of the node; empty where none does. */
export function otherPools({ catalog, scope, node }: Comparison, reference: string): string[] {
  const images = imagesOf(catalog, reference);
  const others = scope.images.tracked.filter(
    (image) => !isInPool(image, node) && images.some((other) => isOf(image, other)),
  );
  return [...new Set(others.flatMap(({ pools }) => pools ?? []))].sort();
}

export function isInPool({ pools }: { pools: string[] | null }, { pool }: Node): boolean {
  return pools === null || pools.includes(pool);
}

/** `win11` of epoch, `ghcr.io/a/b` of another registry. */
export function imageNameOf({ registry, image }: TrackedImage): string {
  return registry === null ? image : `${registry}/${image}`;
}

function isOf(tracked: TrackedImage, image: DesiredImage): boolean {
  return image.tag === tracked.tag && image.image === imageNameOf(tracked);
}
