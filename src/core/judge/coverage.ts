/** Which entries of a node are managed: what is tracked for its pool, what its snapshots stand on, what is discovered. */
import type { DesiredImage, TrackedImage } from '../model/desired.ts';
import type { Node } from '../model/node.ts';

/** What decides it, for all nodes. */
export interface Coverage {
  desired: DesiredImage[];
  /** Reference → its places in `desired`, one per platform. */
  covers: Record<string, number[]>;
  /** The references that a registry gave their meaning; the others of `covers` have it from the config. */
  meant: Record<string, true>;
  tracked: TrackedImage[];
  /** Whether images of epoch are managed that nothing tracks. */
  discover: boolean;
  /** By node, the references of the bases of the snapshots that are judged there. */
  bases: Record<string, string[]>;
}

/** The places in `desired` of what a reference stands for, wherever it is managed. */
export function placesOf({ covers }: Coverage, reference: string): number[] {
  return Object.hasOwn(covers, reference) ? (covers[reference] ?? []) : [];
}

/** Whether an entry of this node is held against what a registry serves under its reference. */
export function isManaged(coverage: Coverage, node: Node, reference: string, place: number): boolean {
  const { desired, tracked, discover, bases } = coverage;
  const isMeant = Object.hasOwn(coverage.meant, reference);
  if (discover && isMeant) return true;
  const isAsked = (image: TrackedImage): boolean =>
    isInPool(image, node) && (isMeant || image.reference === reference) && isOf(image, desired[place]);
  if (tracked.some(isAsked)) return true;
  const own = Object.hasOwn(bases, node.name) ? (bases[node.name] ?? []) : [];
  return own.some((base) => base === reference || (isMeant && placesOf(coverage, base).includes(place)));
}

/** The pools that track what a reference stands for, without those of the node; empty where none does. */
export function otherPools(coverage: Coverage, node: Node, reference: string): string[] {
  const images = placesOf(coverage, reference).map((place) => coverage.desired[place]);
  const others = coverage.tracked.filter(
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

function isOf(tracked: TrackedImage, image: DesiredImage | undefined): boolean {
  return image !== undefined && image.tag === tracked.tag && image.image === imageNameOf(tracked);
}
