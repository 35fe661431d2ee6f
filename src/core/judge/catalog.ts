/** Asking the catalog: what a reference stands for, what yields a digest, what may be of epoch after all. */
import type { Catalog, PinnedContent, PinnedQuestion, Suspect } from '../model/catalog.ts';
import type { DesiredImage } from '../model/desired.ts';

/** The key of an image in the catalog. */
export function imageKey({ image, tag, platform }: Pick<DesiredImage, 'image' | 'tag' | 'platform'>): string {
  return `${image}:${tag}${platform === null ? '' : ` ${platform}`}`;
}

/**
 * What a reference stands for at its registry, for the platform of a node; null where nothing is known of it.
 * @param isWanted where only some of the images count
 */
export function lookup(
  catalog: Catalog,
  reference: string,
  architecture: string,
  isWanted: (image: DesiredImage) => boolean,
): DesiredImage | null {
  return imagesOf(catalog, reference).find((image) => fits(image, architecture) && isWanted(image)) ?? null;
}

/** The same for all platforms. */
export function imagesOf(catalog: Catalog, reference: string): DesiredImage[] {
  return keysOf(catalog, reference).flatMap((key) => catalog.images[key] ?? []);
}

/** The keys of what a reference stands for. */
export function keysOf({ references }: Catalog, reference: string): string[] {
  return Object.hasOwn(references, reference) ? (references[reference]?.images ?? []) : [];
}

/** Whether a registry gave the reference its meaning, and not the config alone. */
export function isMeant({ references }: Catalog, reference: string): boolean {
  return Object.hasOwn(references, reference) && references[reference]?.by === 'registry';
}

/** Whether an image is for the platform of a node; `architecture` as `amd64`. */
export function fits({ platform }: DesiredImage, architecture: string): boolean {
  return platform === null || platform === `linux/${architecture}`;
}

/** An image whose tag yields exactly this content. */
export function yielding({ images }: Catalog, digest: string): DesiredImage | null {
  return Object.values(images).find(({ contentDigest }) => contentDigest === digest) ?? null;
}

export function suspectOf({ suspects }: Catalog, reference: string): Suspect | null {
  return Object.hasOwn(suspects, reference) ? (suspects[reference] ?? null) : null;
}

/** The key of `Catalog.pinned`. */
export function pinnedKey({ base, digest }: PinnedQuestion): string {
  return `${digest} ${base}`;
}

/** What is known of content that a snapshot pins; null where nobody was asked. */
export function pinnedContent({ pinned }: Catalog, question: PinnedQuestion): PinnedContent | null {
  return pinned[pinnedKey(question)] ?? null;
}

/** The catalog with these images in place of those of the same key. */
export function withImages(catalog: Catalog, changed: DesiredImage[]): Catalog {
  return {
    ...catalog,
    images: { ...catalog.images, ...Object.fromEntries(changed.map((image) => [imageKey(image), image])) },
  };
}
