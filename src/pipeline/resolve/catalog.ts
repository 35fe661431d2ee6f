/** Asks registries what they serve: tracked images, references found on nodes, and the bases of snapshots. */
import { localSnapshotName, parseImageName } from '../../core/reference.ts';
import { imageKey } from '../../core/judge/catalog.ts';
import type { Catalog } from '../../core/model/catalog.ts';
import type { DesiredImage, TrackedImage, TrackedSnapshot } from '../../core/model/desired.ts';
import { imageAtEpoch, resolveReference, resolveTracked, type Asking } from './references.ts';
import { snapshotAtEpoch } from './snapshots.ts';

/** What registries say of what was asked. */
export type Resolved = Pick<Catalog, 'images' | 'references' | 'snapshots'>;

/** What nodes hold that raises questions. */
export interface References {
  /** Keys of index entries. */
  references: string[];
  /** The references of the bases of snapshots; where one is a name, it may tie that name to an artifact. */
  bases: string[];
  /** The names of snapshots: where epoch has one under that name, the local copy is held against it. */
  snapshots: string[];
  /** Of the nodes, as `amd64`: an image index is resolved for each. */
  architectures: string[];
}

/**
 * Resolves what the config tracks and what nodes hold. An image that the config names and a node's entry that means
 * the same tag are one image.
 * @param discover whether references of images that the config does not name are resolved too
 */
export async function resolveAll(
  asking: Asking,
  tracked: { images: TrackedImage[]; snapshots: TrackedSnapshot[] },
  held: References,
  discover: boolean,
): Promise<Resolved> {
  const [wanted, snapshots] = await Promise.all([
    Promise.all(tracked.images.map(async (image) => await resolveTracked(asking, image, held.architectures))),
    Promise.all(
      tracked.snapshots.map(async ({ snapshot }) => ({ ...(await snapshotAtEpoch(asking, snapshot)), tracked: true })),
    ),
  ]);
  const images: Resolved['images'] = {};
  const references = Object.create(null) as Resolved['references'];
  const add = (image: DesiredImage): string => {
    const key = imageKey(image);
    const there = images[key] ?? image;
    images[key] = { ...there, notes: [...new Set([...there.notes, ...image.notes])] };
    return key;
  };
  for (const resolved of wanted) {
    const keys = resolved.map((image) => add({ ...image, tracked: true }));
    for (const { reference } of resolved) references[reference] = { images: keys, by: 'config' };
  }
  const bases = new Set([...held.bases, ...snapshots.flatMap(({ base }) => base ?? [])]);
  const found = await Promise.all(
    [...new Set([...bases, ...held.references])].map(async (key) => ({
      key,
      resolved: [...(await resolveReference(asking, key, held.architectures)), ...(await tiedBy(asking, key, bases))],
    })),
  );
  for (const { key, resolved } of found) {
    if (resolved.length === 0) continue;
    const isKnown = (image: DesiredImage): boolean =>
      Object.values(images).some((d) => d.image === image.image && d.tag === image.tag);
    const kept = resolved.filter((image) => discover || bases.has(key) || isKnown(image));
    // What epoch serves under a reference wins over what the config takes it for.
    if (kept.length === 0) delete references[key];
    else references[key] = { images: kept.map((image) => add({ ...image, reference: key })), by: 'registry' };
  }
  const others = await Promise.all(
    [...new Set(held.snapshots)]
      .filter((name) => isFromEpoch(name) && !snapshots.some(({ snapshot }) => localSnapshotName(snapshot) === name))
      .map(async (name) => await snapshotAtEpoch(asking, name)),
  );
  return { images, references, snapshots: [...snapshots, ...others.filter(({ error }) => error === null)] };
}

/** True for the local name of a snapshot that came from epoch: those of forks and hibernations have neither of these. */
function isFromEpoch(name: string): boolean {
  return /[/:]/.test(name);
}

/**
 * Newer vk-cocoon imports cloud images under `repo:tag`. Where a snapshot names such a key as its base,
 * and epoch has that artifact, the key is tied to it.
 */
async function tiedBy(asking: Asking, key: string, bases: ReadonlySet<string>): Promise<DesiredImage[]> {
  const name = bases.has(key) ? parseImageName(key) : null;
  if (name === null || name.registry !== null || name.tag === null) return [];
  const image = await imageAtEpoch(asking, { repository: name.repository, tag: name.tag });
  return image.kind === 'cloud-image' ? [image] : [];
}
