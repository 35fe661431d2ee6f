/** What references stand for: those that the config names, and those that nodes turned out to hold. */
import { epochReference, meaningOf, readingsOf } from '../../core/reference.ts';
import type { Catalog } from '../../core/model/catalog.ts';
import type { DesiredImage, TrackedImage } from '../../core/model/desired.ts';
import { cloudImage, manifestAt, servesTagPath, type Reading } from './cloud-image.ts';
import { containersAt, type ContainerAsked } from './containers.ts';
import type { Inquiry } from './inquiry.ts';

/** An inquiry that knows at which addresses epoch is. */
export interface Asking extends Inquiry {
  addresses: Catalog['addresses'];
}

/** The cloud image under a tag, with the reference that epoch itself gives it. */
export async function imageAtEpoch(asking: Asking, reading: Reading): Promise<DesiredImage> {
  return await cloudImage(asking, reading, epochReference(asking.addresses[0], reading.repository, reading.tag));
}

/** What a reference on a node stands for, once per platform; none where it is nothing that can be asked for. */
export async function resolveReference(asking: Asking, key: string, architectures: string[]): Promise<DesiredImage[]> {
  const meaning = meaningOf(key, asking.addresses);
  if (meaning.kind === 'download') return await download(asking, meaning.path);
  if (meaning.kind !== 'epoch-oci') return [];
  // Epoch's own container images can be judged, but not pulled by cocoon without a credential.
  const { repository, tag } = meaning;
  const unpullable = `cocoon cannot pull it from epoch without a credential for its host: an image under /dl/${repository} it can`;
  const image = `${new URL(asking.addresses[0]).host}/${repository}`;
  const asked: ContainerAsked = { registry: null, repository, tag, image, reference: key, unpullable };
  return await containersAt(asking, asked, architectures);
}

/** A tracked image; of another registry once per platform. */
export async function resolveTracked(
  asking: Asking,
  { registry, image: repository, tag, reference }: TrackedImage,
  architectures: string[],
): Promise<DesiredImage[]> {
  if (registry !== null) {
    const image = `${registry}/${repository}`;
    return await containersAt(asking, { registry, repository, tag, image, reference, unpullable: null }, architectures);
  }
  const found = await cloudImage(asking, { repository, tag }, reference);
  return [{ ...found, unpullable: await whyUnpullable(asking, found) }];
}

/** What `/dl/PATH` means to this epoch: newer ones take the last segment for a tag first. */
async function download(asking: Asking, path: string): Promise<DesiredImage[]> {
  const { whole, split } = readingsOf(path);
  const asTag = split === null ? null : (await manifestAt(asking, split)).manifest;
  if (split !== null && asTag !== null) {
    const asName = whole === null ? null : (await manifestAt(asking, whole)).manifest;
    if (asName === null) {
      // An epoch that takes the last segment for a tag refuses to begin what it lacks, and looks as one that does not.
      const found = await imageAtEpoch(asking, split);
      if (found.missingBlob !== null) return [found];
    }
    const probe = whole !== null && asName !== null ? whole : split;
    const newer = await servesTagPath(asking, probe);
    if (typeof newer === 'object') {
      const found = await imageAtEpoch(asking, split);
      return [{ ...found, contentDigest: null, unlearned: false, error: newer }];
    }
    if (newer) {
      const found = await imageAtEpoch(asking, split);
      if (asName === null || whole === null) return [found];
      const note = `/dl/${path} is ambiguous: epoch serves ${split.repository}:${split.tag} there and not ${whole.repository}:latest, whose URL is /dl/${whole.repository}/latest`;
      return [{ ...found, notes: [...found.notes, note] }];
    }
  }
  return whole === null ? [] : [await imageAtEpoch(asking, whole)];
}

/** Older epochs serve the tag `latest` under /dl and no other: another has no URL that cocoon could pull. */
async function whyUnpullable(asking: Asking, image: DesiredImage): Promise<string | null> {
  const { image: repository, tag, reference, contentDigest } = image;
  const isTagPath = reference === epochReference(asking.addresses[0], repository, tag) && tag !== 'latest';
  if (!isTagPath || contentDigest === null || (await servesTagPath(asking, { repository, tag })) !== false) return null;
  return `this epoch serves only the tag latest under /dl: tag it so, or give it a reference that nodes can pull`;
}
