/** Asks registries what they serve: tracked images, references found on nodes, and the bases of snapshots. */
import type { Registry } from '../../registry/client.ts';
import { readChecksums } from '../../core/checksums.ts';
import type { Coverage } from '../../core/judge/coverage.ts';
import { contentOf, hasUnpaddedTitles, kindOf, storedAs, withLearned, type Manifest } from '../../core/artifact.ts';
import { errorInfo, fault } from '../../core/errors.ts';
import { object, optionalText, ShapeError } from '../../core/json.ts';
import {
  addressOf,
  epochReference,
  isDigest,
  localSnapshotName,
  meaningOf,
  parseImageName,
  parseSnapshotName,
  readingsOf,
} from '../../core/reference.ts';
import type { Lookup, LookupRequest } from '../../core/judge/snapshots.ts';
import type { DesiredImage, DesiredSnapshot, TrackedImage, TrackedSnapshot } from '../../core/model/desired.ts';
import type { ErrorInfo } from '../../core/model/error.ts';
import { missingBlob, NOTHING_KNOWN, remember, whyOf, type ResolverOptions } from './ask.ts';
import { createOciResolver } from './containers.ts';

/** Asks each question once, however many nodes raise it; what went wrong is in the answers, nothing is thrown. */
export interface Resolver {
  /** The cloud image that epoch serves under a tag. */
  image(repository: string, tag: string): Promise<DesiredImage>;
  /** What a reference on a node stands for, once per platform; none where it is nothing that can be asked for. */
  reference(reference: string, architectures: string[]): Promise<DesiredImage[]>;
  /** A tracked image: as `image`, or of another registry once per platform. */
  tracked(image: TrackedImage, architectures: string[]): Promise<DesiredImage[]>;
  snapshot(name: string): Promise<DesiredSnapshot>;
  /** The image with the way in which cocoon stores it, told from its first bytes at epoch. */
  withStoredForm(image: DesiredImage): Promise<DesiredImage>;
  /**
   * Whether exactly this content is still to be had, where `current` is what the tag of its base serves now.
   * @param needsForm whether it matters how cocoon stores a content of that size: then its first bytes are asked for
   */
  lookup(
    request: LookupRequest,
    current: DesiredImage | null,
    needsForm: (sizeBytes: number) => boolean,
  ): Promise<Lookup>;
}

const UNPADDED =
  'the titles of its parts are not padded with zeros: epoch joins part 10 before part 2, so the joined file is likely garbled';

type Found = { manifest: Manifest | null; error: ErrorInfo | null };

export function createResolver(options: ResolverOptions): Resolver {
  const { addresses, epoch, state, signal } = options;
  const [epochUrl] = addresses;
  const oci = createOciResolver(options);
  const manifests = new Map<string, Promise<Found>>();
  const images = new Map<string, Promise<DesiredImage>>();
  const snapshots = new Map<string, Promise<DesiredSnapshot>>();

  const manifestOf = async (repository: string, tag: string): Promise<Found> =>
    await remember(manifests, `${repository}:${tag}`, async () => {
      try {
        return { manifest: await epoch.manifest(repository, tag, signal), error: null };
      } catch (error) {
        return { manifest: null, error: whyOf(error, signal) };
      }
    });

  const image: Resolver['image'] = async (repository, tag) =>
    await remember(images, `${repository}:${tag}`, async () => {
      const { manifest, error } = await manifestOf(repository, tag);
      const base = { ...NOTHING_KNOWN, image: repository, tag, reference: epochReference(epochUrl, repository, tag) };
      if (manifest === null) return { ...base, error };
      const found: DesiredImage = {
        ...base,
        manifestDigest: manifest.digest,
        ...contentOf(`${repository}:${tag}`, manifest),
        notes: hasUnpaddedTitles(manifest) ? [UNPADDED] : [],
      };
      if (found.blobs.length === 0) return found;
      const learned = withLearned(found, state.learned(manifest.digest));
      const known = learned.unlearned ? await fromChecksums(learned, manifest) : learned;
      return { ...known, ...(await missingBlob(epoch, repository, known.blobs, signal)) };
    });

  /** A checksums layer may name the joined file of a split image. */
  const fromChecksums = async (split: DesiredImage, manifest: Manifest): Promise<DesiredImage> => {
    const layer = manifest.layers.find(
      ({ title, sizeBytes }) => /sha256sums/i.test(title ?? '') && sizeBytes <= 2 ** 20,
    );
    if (layer === undefined) return split;
    try {
      const text = await epoch.blobText(split.image, layer.digest, signal);
      const parts = manifest.layers.filter(({ digest }) => split.blobs.some((blob) => blob.digest === digest));
      const { joined, contradicted } = readChecksums(
        text,
        parts.map(({ title, digest }) => ({ title: title ?? '', digest })),
      );
      if (contradicted.length > 0) {
        const note = `the artifact contradicts itself: its checksums name another digest for ${contradicted.join(', ')}`;
        return { ...split, notes: [...split.notes, note] };
      }
      if (joined === null) return split;
      const learned = { digest: joined, source: 'checksums' } as const;
      state.learn(manifest.digest, learned);
      return withLearned(split, learned, 'checksums');
    } catch {
      return split; // the checksums are only the cheapest of several ways to learn the digest
    }
  };

  const servesTagPath = async (reading: { repository: string; tag: string }): Promise<boolean | ErrorInfo> => {
    try {
      return await epoch.servesTagPath(reading.repository, reading.tag, signal);
    } catch (error) {
      return whyOf(error, signal);
    }
  };

  /** What `/dl/PATH` means to this epoch (contract E.6): newer ones take the last segment for a tag first. */
  const download = async (path: string): Promise<DesiredImage[]> => {
    const { whole, split } = readingsOf(path);
    const asTag = split === null ? null : (await manifestOf(split.repository, split.tag)).manifest;
    if (split !== null && asTag !== null) {
      const asName = whole === null ? null : (await manifestOf(whole.repository, whole.tag)).manifest;
      const probe = whole !== null && asName !== null ? whole : split;
      const newer = await servesTagPath(probe);
      if (typeof newer === 'object') {
        const found = await image(split.repository, split.tag);
        return [{ ...found, contentDigest: null, unlearned: false, error: newer }];
      }
      if (newer) {
        const found = await image(split.repository, split.tag);
        if (asName === null || whole === null) return [found];
        const note = `/dl/${path} is ambiguous: epoch serves ${split.repository}:${split.tag} there and not ${whole.repository}:latest, whose URL is /dl/${whole.repository}/latest`;
        return [{ ...found, notes: [...found.notes, note] }];
      }
    }
    return whole === null ? [] : [await image(whole.repository, whole.tag)];
  };

  /** Older epochs serve the tag `latest` under /dl and no other (contract E.6): another has no URL that cocoon could pull. */
  const whyUnpullable = async ({
    image: repository,
    tag,
    reference,
    contentDigest,
  }: DesiredImage): Promise<string | null> => {
    const isTagPath = reference === epochReference(epochUrl, repository, tag) && tag !== 'latest';
    if (!isTagPath || contentDigest === null || (await servesTagPath({ repository, tag })) !== false) return null;
    return `this epoch serves only the tag latest under /dl: tag it so, or give it a reference that nodes can pull`;
  };

  const snapshot = async (name: string): Promise<DesiredSnapshot> => {
    const none: DesiredSnapshot = {
      snapshot: name,
      tracked: false,
      base: null,
      baseDigest: null,
      baseType: 'cloudimg',
      createdAt: null,
      sizeBytes: null,
      error: null,
    };
    const parsed = parseSnapshotName(name);
    if (parsed === null) {
      const why = 'this is no repo[:tag] at epoch';
      return { ...none, error: errorInfo('ARTIFACT_UNSUPPORTED', { image: name, why }) };
    }
    try {
      const manifest = await snapshotManifest(epoch, parsed.repository, parsed.tag, signal);
      const config = await epoch.blobJson(parsed.repository, manifest.configDigest as string, signal);
      const sizeBytes = manifest.layers.reduce((sum, layer) => sum + layer.sizeBytes, 0);
      return { ...none, sizeBytes, ...readSnapshotConfig(config, name) };
    } catch (error) {
      return { ...none, error: whyOf(error, signal) };
    }
  };

  /** How cocoon stores what begins with this blob, told from its first bytes; null where they cannot be had. */
  const formOf = async (repository: string, first: string): Promise<DesiredImage['stored']> => {
    try {
      return storedAs(await epoch.blobHead(repository, first, signal));
    } catch {
      return null; // the verdict says then that it is not known
    }
  };

  type NeedsForm = (sizeBytes: number) => boolean;

  const blobThere = async (
    repository: string,
    digest: string,
    reference: string,
    needsForm: NeedsForm,
  ): Promise<Lookup | null> => {
    const sizeBytes = await epoch.blobSize(repository, digest, signal);
    if (sizeBytes === null) return null;
    const stored = needsForm(sizeBytes) ? await formOf(repository, digest) : null;
    return { state: 'there', reference, sizeBytes, stored };
  };

  const lookupCloud = async (
    { base, digest }: LookupRequest,
    current: DesiredImage,
    needsForm: NeedsForm,
  ): Promise<Lookup> => {
    const address = addressOf(base, addresses) ?? epochUrl; // the node reaches epoch as its own keys do
    const url = `${address}/v2/${current.image}/blobs/${digest}`;
    const blob = await blobThere(current.image, digest, url, needsForm);
    if (blob !== null) return blob;
    // A split image has no blob of its joined content: only a manifest that was seen to yield it leads there.
    for (const manifestDigest of state.manifestsOf(digest)) {
      const found = await manifestOf(current.image, manifestDigest);
      if (found.manifest === null) continue;
      const newer = await servesTagPath({ repository: current.image, tag: manifestDigest });
      const { sizeBytes: joined, blobs } = contentOf(current.image, found.manifest);
      const [first] = blobs;
      if (newer === true && joined !== null && first !== undefined) {
        const stored = needsForm(joined) ? await formOf(current.image, first.digest) : null;
        const reference = `${address}/dl/${current.image}/${manifestDigest}`;
        return { state: 'there', reference, sizeBytes: joined, stored };
      }
      const why = `epoch still has it as manifest ${manifestDigest}, but this release serves no download by digest: tag it`;
      return { state: 'there-unpullable', why };
    }
    if (current.contentDigest === null) {
      return { state: 'unasked', error: current.error };
    }
    return { state: 'gone', why: 'epoch does not give it any more' };
  };

  /** Of a base that is no tag of anything that we ask: what names its own content at epoch can still be had there. */
  const lookupUncovered = async (base: string, digest: string, needsForm: NeedsForm): Promise<Lookup> => {
    if (meaningOf(base, addresses).kind === 'immutable' && base.endsWith(`/blobs/${digest}`)) {
      const [, repository = ''] = /\/v2\/(.+)\/blobs\//.exec(base) ?? [];
      const blob = await blobThere(repository, digest, base, needsForm);
      return blob ?? { state: 'gone', why: 'epoch does not give it any more' };
    }
    if (parseImageName(base)?.registry != null) return { state: 'unasked', error: null };
    return { state: 'gone', why: 'nothing tells where it could be had' };
  };

  return {
    image,
    async reference(key, architectures) {
      const meaning = meaningOf(key, addresses);
      if (meaning.kind === 'download') return await download(meaning.path);
      if (meaning.kind === 'epoch-oci') return await oci.atEpoch(meaning.repository, meaning.tag, key, architectures);
      return [];
    },
    async tracked({ registry, image: repository, tag, reference }, architectures) {
      if (registry !== null) return await oci.elsewhere(registry, repository, tag, reference, architectures);
      const found = { ...(await image(repository, tag)), reference };
      return [{ ...found, unpullable: await whyUnpullable(found) }];
    },
    snapshot: async (name) => await remember(snapshots, name, async () => await snapshot(name)),
    async withStoredForm(desired) {
      const [first] = desired.blobs;
      if (first === undefined || desired.kind !== 'cloud-image') return desired;
      return { ...desired, stored: await formOf(desired.image, first.digest) };
    },
    async lookup({ base, digest }, current, needsForm) {
      try {
        if (current === null) return await lookupUncovered(base, digest, needsForm);
        if (current.kind === 'container-image') return await oci.lookup(base, digest);
        return await lookupCloud({ base, digest }, current, needsForm);
      } catch (error) {
        return { state: 'unasked', error: whyOf(error, signal) };
      }
    },
  };
}

/** A snapshot tag may be an image index: then linux/amd64, else the first child that is no attestation (F.4). */
async function snapshotManifest(
  epoch: Registry,
  repository: string,
  tag: string,
  signal: AbortSignal,
): Promise<Manifest> {
  const image = `${repository}:${tag}`;
  let manifest = await epoch.manifest(repository, tag, signal);
  if (kindOf(manifest) === 'index') {
    const children = manifest.children.filter((child) => child.architecture !== 'unknown');
    const child = children.find((c) => c.os === 'linux' && c.architecture === 'amd64') ?? children[0];
    if (child === undefined) throw fault('ARTIFACT_UNSUPPORTED', { image, why: 'its image index has no usable child' });
    manifest = await epoch.manifest(repository, child.digest, signal);
  }
  if (kindOf(manifest) !== 'snapshot' || manifest.configDigest === null) {
    throw fault('ARTIFACT_UNSUPPORTED', { image, why: 'epoch serves no hot snapshot under this tag' });
  }
  return manifest;
}

type SnapshotBase = Pick<DesiredSnapshot, 'base' | 'baseDigest' | 'baseType' | 'createdAt' | 'error'>;

/** The base that a snapshot's config blob names (E.8); old ones name only the blobs. */
function readSnapshotConfig(document: unknown, name: string): SnapshotBase {
  try {
    const config = object(document, 'the config blob');
    const [only, ...more] = Object.keys(object(config['imageBlobIds'] ?? {}, 'imageBlobIds'));
    const listed = only !== undefined && more.length === 0 ? `sha256:${only}` : null;
    const baseDigest = optionalText(config['imageDigest'], 'imageDigest') ?? listed;
    if (baseDigest !== null && !isDigest(baseDigest)) throw new ShapeError('imageDigest is no sha256 digest');
    const baseType = config['imageType'] === 'oci' ? 'oci' : 'cloudimg';
    const createdAt = optionalText(config['createdAt'], 'createdAt', 64);
    return { base: optionalText(config['image'], 'image'), baseDigest, baseType, createdAt, error: null };
  } catch (error) {
    if (!(error instanceof ShapeError)) throw error;
    const unusable = errorInfo('ARTIFACT_UNSUPPORTED', { image: name, why: error.message });
    return { base: null, baseDigest: null, baseType: 'cloudimg', createdAt: null, error: unusable };
  }
}

/** Everything that registries say, for judging. */
export interface Resolved extends Pick<Coverage, 'desired' | 'covers' | 'meant'> {
  snapshots: DesiredSnapshot[];
}

/** What nodes hold that raises questions. */
export interface Held {
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
 * the same tag are one item of `desired`.
 * @param discover whether references of images that the config does not name are resolved too
 */
export async function resolveAll(
  resolver: Resolver,
  tracked: { images: TrackedImage[]; snapshots: TrackedSnapshot[] },
  held: Held,
  discover: boolean,
): Promise<Resolved> {
  const [images, snapshots] = await Promise.all([
    Promise.all(tracked.images.map(async (image) => await resolver.tracked(image, held.architectures))),
    Promise.all(
      tracked.snapshots.map(async ({ snapshot }) => ({ ...(await resolver.snapshot(snapshot)), tracked: true })),
    ),
  ]);
  const desired: DesiredImage[] = [];
  const covers = Object.create(null) as Resolved['covers'];
  const meant = Object.create(null) as Resolved['meant'];
  const add = (image: DesiredImage): number => {
    const place = desired.findIndex(
      (d) => d.image === image.image && d.tag === image.tag && d.platform === image.platform,
    );
    if (place === -1) return desired.push(image) - 1;
    const there = desired[place] as DesiredImage;
    desired[place] = { ...there, notes: [...new Set([...there.notes, ...image.notes])] };
    return place;
  };
  for (const resolved of images) {
    const places = resolved.map((image) => add({ ...image, tracked: true }));
    for (const { reference } of resolved) covers[reference] = places;
  }
  const bases = [...held.bases, ...snapshots.flatMap(({ base }) => base ?? [])];
  const found = await Promise.all(
    [...new Set([...bases, ...held.references])].map(async (key) => ({
      key,
      resolved: [...(await resolver.reference(key, held.architectures)), ...(await tiedBy(resolver, key, bases))],
    })),
  );
  for (const { key, resolved } of found) {
    if (resolved.length === 0) continue;
    const isKnown = (image: DesiredImage): boolean =>
      desired.some((d) => d.image === image.image && d.tag === image.tag);
    const wanted = resolved.filter((image) => discover || bases.includes(key) || isKnown(image));
    // What epoch serves under a reference wins over what the config takes it for.
    if (wanted.length === 0) delete covers[key];
    else {
      covers[key] = wanted.map((image) => add({ ...image, reference: key }));
      meant[key] = true;
    }
  }
  const others = await Promise.all(
    [...new Set(held.snapshots)]
      .filter((name) => isFromEpoch(name) && !snapshots.some(({ snapshot }) => localSnapshotName(snapshot) === name))
      .map(async (name) => await resolver.snapshot(name)),
  );
  return { desired, covers, meant, snapshots: [...snapshots, ...others.filter(({ error }) => error === null)] };
}

/** True for the local name of a snapshot that came from epoch: those of forks and hibernations have neither of these. */
function isFromEpoch(name: string): boolean {
  return /[/:]/.test(name);
}

/**
 * Newer vk-cocoon imports cloud images under `repo:tag` (contract F.4). Where a snapshot names such a key as its base,
 * and epoch has that artifact, the key is tied to it.
 */
async function tiedBy(resolver: Resolver, key: string, bases: string[]): Promise<DesiredImage[]> {
  const name = bases.includes(key) ? parseImageName(key) : null;
  if (name === null || name.registry !== null || name.tag === null) return [];
  const image = await resolver.image(name.repository, name.tag);
  return image.kind === 'cloud-image' ? [image] : [];
}
