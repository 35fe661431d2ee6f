/** Asks epoch what it serves: tracked images, references found on nodes, and the bases of snapshots. */
import type { Registry } from '../adapters/registry.ts';
import { contentOf, kindOf, storedAs, type Manifest } from '../core/desired.ts';
import { errorInfo, fault, infoOf } from '../core/errors.ts';
import { object, optionalText, ShapeError } from '../core/json.ts';
import { epochReference, isDigest, meaningOf, parseSnapshotName, readingsOf } from '../core/reference.ts';
import type { DesiredImage, DesiredSnapshot, ErrorInfo, TrackedImage, TrackedSnapshot } from '../core/types.ts';

/** Asks each question once, however many nodes raise it; what went wrong is in the answers, nothing is thrown. */
export interface Resolver {
  image(repository: string, tag: string): Promise<DesiredImage>;
  /** What `/dl/PATH` means to this epoch, and what it serves there; null where it is no image at epoch. */
  reference(reference: string): Promise<DesiredImage | null>;
  snapshot(name: string): Promise<DesiredSnapshot>;
  /** The image with the way in which cocoon stores it, told from its first bytes at epoch. */
  withStoredForm(image: DesiredImage): Promise<DesiredImage>;
}

type Found = { manifest: Manifest | null; error: ErrorInfo | null };

export function createResolver(registry: Registry, epochUrl: string, signal: AbortSignal): Resolver {
  const manifests = new Map<string, Promise<Found>>();
  const images = new Map<string, Promise<DesiredImage>>();

  const manifestOf = async (repository: string, tag: string): Promise<Found> =>
    await remember(manifests, `${repository}:${tag}`, async () => {
      try {
        return { manifest: await registry.manifest(repository, tag, signal), error: null };
      } catch (error) {
        return { manifest: null, error: whyOf(error, signal) };
      }
    });

  const image: Resolver['image'] = async (repository, tag) =>
    await remember(images, `${repository}:${tag}`, async () => {
      const { manifest, error } = await manifestOf(repository, tag);
      const content =
        manifest === null
          ? { kind: null, contentDigest: null, contentDigestSource: null, sizeBytes: null, blobs: [], error }
          : contentOf(`${repository}:${tag}`, manifest);
      return {
        image: repository,
        tag,
        platform: null,
        reference: epochReference(epochUrl, repository, tag),
        manifestDigest: manifest?.digest ?? null,
        ...content,
        ...(content.error === null
          ? await missingBlob(registry, repository, content.blobs, signal)
          : { missingBlob: null }),
        tracked: false,
        stored: null,
        notes: [],
      };
    });

  const servesTagPath = async ({
    repository,
    tag,
  }: {
    repository: string;
    tag: string;
  }): Promise<boolean | ErrorInfo> => {
    try {
      return await registry.servesTagPath(repository, tag, signal);
    } catch (error) {
      return whyOf(error, signal);
    }
  };

  const reference: Resolver['reference'] = async (key) => {
    const meaning = meaningOf(key, epochUrl);
    if (meaning.kind !== 'download') return null;
    const { whole, split } = readingsOf(meaning.path);
    const asTag = split === null ? null : (await manifestOf(split.repository, split.tag)).manifest;
    if (split !== null && asTag !== null) {
      const asName = whole === null ? null : (await manifestOf(whole.repository, whole.tag)).manifest;
      const probe = whole !== null && asName !== null ? whole : split;
      const newer = await servesTagPath(probe);
      if (typeof newer === 'object')
        return { ...(await image(split.repository, split.tag)), contentDigest: null, error: newer };
      if (newer) {
        const found = await image(split.repository, split.tag);
        if (asName === null || whole === null) return found;
        const note = `/dl/${meaning.path} is ambiguous: epoch serves ${split.repository}:${split.tag} there and not ${whole.repository}:latest, whose URL is /dl/${whole.repository}/latest`;
        return { ...found, notes: [note] };
      }
    }
    return whole === null ? null : await image(whole.repository, whole.tag);
  };

  const snapshots = new Map<string, Promise<DesiredSnapshot>>();
  const snapshot = async (name: string): Promise<DesiredSnapshot> => {
    const none = { snapshot: name, tracked: false, base: null, baseDigest: null, sizeBytes: null };
    const parsed = parseSnapshotName(name);
    if (parsed === null) {
      return {
        ...none,
        error: errorInfo('ARTIFACT_UNSUPPORTED', { image: name, why: 'this is no repo[:tag] at epoch' }),
      };
    }
    const { repository, tag } = parsed;
    try {
      const manifest = await snapshotManifest(registry, repository, tag, signal);
      return {
        ...none,
        sizeBytes: manifest.layers.reduce((sum, layer) => sum + layer.sizeBytes, 0),
        ...readSnapshotConfig(await registry.blobJson(repository, manifest.configDigest as string, signal), name),
      };
    } catch (error) {
      return { ...none, error: whyOf(error, signal) };
    }
  };

  return {
    image,
    reference,
    snapshot: (name) => remember(snapshots, name, async () => await snapshot(name)),
    async withStoredForm(desired) {
      const [first] = desired.blobs;
      if (first === undefined) return desired;
      try {
        return { ...desired, stored: storedAs(await registry.blobHead(desired.image, first.digest, signal)) };
      } catch {
        return desired; // not known then: the verdict says so and stays `unknown`
      }
    },
  };
}

/** What was caught, or why the run ended, which is then the cause of it. */
function whyOf(error: unknown, signal: AbortSignal): ErrorInfo {
  return infoOf(signal.aborted ? signal.reason : error);
}

function remember<T>(memory: Map<string, Promise<T>>, key: string, ask: () => Promise<T>): Promise<T> {
  const known = memory.get(key);
  if (known !== undefined) return known;
  const asked = ask();
  memory.set(key, asked);
  return asked;
}

/** The first disk blob that epoch lacks, or has at another length than its manifest says: a pull would come out bad. */
async function missingBlob(
  registry: Registry,
  repository: string,
  blobs: DesiredImage['blobs'],
  signal: AbortSignal,
): Promise<{ missingBlob: string | null; error?: ErrorInfo }> {
  const sizes = await Promise.all(
    blobs.map(async (blob) => {
      try {
        return await registry.blobSize(repository, blob.digest, signal);
      } catch (error) {
        return whyOf(error, signal);
      }
    }),
  );
  for (const [i, blob] of blobs.entries()) {
    const found = sizes[i] ?? null;
    if (found !== null && typeof found === 'object') return { missingBlob: blob.digest, error: found };
    if (found !== blob.sizeBytes) {
      const detail = found === null ? 'it is not there' : `it has ${found} bytes and not ${blob.sizeBytes}`;
      return {
        missingBlob: blob.digest,
        error: errorInfo('REGISTRY_BLOB_MISSING', { repository, digest: blob.digest, detail }),
      };
    }
  }
  return { missingBlob: null };
}

/** A snapshot tag may be an image index: then linux/amd64, else the first child that is no attestation (F.4). */
async function snapshotManifest(
  registry: Registry,
  repository: string,
  tag: string,
  signal: AbortSignal,
): Promise<Manifest> {
  const name = `${repository}:${tag}`;
  let manifest = await registry.manifest(repository, tag, signal);
  if (kindOf(manifest) === 'index') {
    const children = manifest.children.filter((child) => child.architecture !== 'unknown');
    const child = children.find((c) => c.os === 'linux' && c.architecture === 'amd64') ?? children[0];
    if (child === undefined)
      throw fault('ARTIFACT_UNSUPPORTED', { image: name, why: 'its image index has no usable child' });
    manifest = await registry.manifest(repository, child.digest, signal);
  }
  if (kindOf(manifest) !== 'snapshot' || manifest.configDigest === null) {
    throw fault('ARTIFACT_UNSUPPORTED', { image: name, why: 'epoch serves no hot snapshot under this tag' });
  }
  return manifest;
}

/** The base that a snapshot's config blob names (E.8); old ones name only the blobs. */
function readSnapshotConfig(document: unknown, name: string): Pick<DesiredSnapshot, 'base' | 'baseDigest' | 'error'> {
  try {
    const config = object(document, 'the config blob');
    const [only, ...more] = Object.keys(object(config['imageBlobIds'] ?? {}, 'imageBlobIds'));
    const listed = only !== undefined && more.length === 0 ? `sha256:${only}` : null;
    const baseDigest = optionalText(config['imageDigest'], 'imageDigest') ?? listed;
    if (baseDigest !== null && !isDigest(baseDigest)) throw new ShapeError('imageDigest is no sha256 digest');
    return { base: optionalText(config['image'], 'image'), baseDigest, error: null };
  } catch (error) {
    if (!(error instanceof ShapeError)) throw error;
    return {
      base: null,
      baseDigest: null,
      error: errorInfo('ARTIFACT_UNSUPPORTED', { image: name, why: error.message }),
    };
  }
}

/** Everything that epoch says, for judging. `covers` maps each reference to its place in `desired`. */
export interface Resolved {
  desired: DesiredImage[];
  covers: Record<string, number>;
  snapshots: DesiredSnapshot[];
}

/**
 * Resolves what the config tracks and what nodes hold. An image that the config names and a node's entry that means
 * the same tag are one row of `desired`.
 * @param references keys and snapshot bases found on nodes; only those that epoch could mean are asked for
 * @param discover whether references of images that the config does not name are resolved too
 */
export async function resolveAll(
  resolver: Resolver,
  tracked: { images: TrackedImage[]; snapshots: TrackedSnapshot[] },
  references: string[],
  discover: boolean,
): Promise<Resolved> {
  const [images, snapshots] = await Promise.all([
    Promise.all(tracked.images.map(async (image) => await resolveTracked(resolver, image))),
    Promise.all(
      tracked.snapshots.map(async ({ snapshot }) => ({ ...(await resolver.snapshot(snapshot)), tracked: true })),
    ),
  ]);
  const desired = [...images];
  const covers: Record<string, number> = Object.create(null) as Record<string, number>;
  for (const [place, image] of images.entries()) covers[image.reference] ??= place;
  const bases = snapshots.flatMap(({ base }) => base ?? []);
  const found = await Promise.all(
    [...new Set([...references, ...bases])].map(async (key) => ({ key, image: await resolver.reference(key) })),
  );
  for (const { key, image } of found) {
    if (image === null) continue;
    let place = desired.findIndex((d) => d.image === image.image && d.tag === image.tag);
    if (place === -1) {
      if (!discover && !bases.includes(key)) {
        delete covers[key]; // the key of a tracked image, under which this epoch serves another one
        continue;
      }
      place = desired.push({ ...image, reference: key }) - 1;
    }
    covers[key] = place;
    const target = desired[place] as DesiredImage;
    desired[place] = { ...target, notes: [...new Set([...target.notes, ...image.notes])] };
  }
  return { desired, covers, snapshots };
}

async function resolveTracked(resolver: Resolver, image: TrackedImage): Promise<DesiredImage> {
  const { reference, tag } = image;
  if (image.registry === null) return { ...(await resolver.image(image.image, tag)), reference, tracked: true };
  return {
    image: image.image,
    tag,
    platform: null,
    reference,
    kind: 'container-image',
    manifestDigest: null,
    contentDigest: null,
    contentDigestSource: null,
    sizeBytes: null,
    error: errorInfo('ARTIFACT_UNSUPPORTED', {
      image: reference,
      why: 'OCI images of other registries are not resolved yet',
    }),
    tracked: true,
    blobs: [],
    missingBlob: null,
    stored: null,
    notes: [],
  };
}
