/** Cloud images at epoch: what a tag serves, and what a node will record after pulling it. */
import { readChecksums } from '../../core/checksums.ts';
import { contentOf, hasUnpaddedTitles, storedAs, withLearned, type Manifest } from '../../core/artifact.ts';
import type { DesiredImage } from '../../core/model/desired.ts';
import { errorInfo } from '../../core/errors.ts';
import { whyUnusable } from '../../core/qcow2.ts';
import type { ErrorInfo } from '../../core/model/error.ts';
import { remember } from '../../system/remember.ts';
import { findMissingBlob, NOTHING_KNOWN, whyOf, type FoundManifest, type Inquiry } from './inquiry.ts';

/** What a path under /dl may name. */
export interface Reading {
  repository: string;
  tag: string;
}

const UNPADDED =
  'the titles of its parts are not padded with zeros: epoch joins part 10 before part 2, so the joined file is likely garbled';

/** The manifest at epoch, or why there is none; nothing is thrown. */
export async function manifestAt(inquiry: Inquiry, { repository, tag }: Reading): Promise<FoundManifest> {
  const { epoch, signal, answers } = inquiry;
  return await remember(answers.manifests, `${repository}:${tag}`, async () => {
    try {
      return { manifest: await epoch.manifest(repository, tag, signal), error: null };
    } catch (error) {
      return { manifest: null, error: whyOf(error, signal) };
    }
  });
}

/** The cloud image that epoch serves under a tag; what went wrong is in its error. */
export async function cloudImage(inquiry: Inquiry, reading: Reading, reference: string): Promise<DesiredImage> {
  const { repository, tag } = reading;
  const found = await remember(
    inquiry.answers.images,
    `${repository}:${tag}`,
    async () => await askForImage(inquiry, reading),
  );
  return { ...found, reference };
}

async function askForImage(inquiry: Inquiry, reading: Reading): Promise<DesiredImage> {
  const { repository, tag } = reading;
  const { manifest, error } = await manifestAt(inquiry, reading);
  const base = { ...NOTHING_KNOWN, image: repository, tag, reference: '' };
  if (manifest === null) return { ...base, error };
  const found: DesiredImage = {
    ...base,
    manifestDigest: manifest.digest,
    pushedAt: manifest.createdAt ?? null,
    ...contentOf(`${repository}:${tag}`, manifest),
    notes: hasUnpaddedTitles(manifest) ? [UNPADDED] : [],
  };
  if (found.blobs.length === 0) return found;
  const learned = withLearned(found, inquiry.state.learned(manifest.digest));
  const known = learned.unlearned ? await fromChecksums(inquiry, learned, manifest) : learned;
  const [first] = known.blobs;
  const [missing, head] = await Promise.all([
    findMissingBlob(inquiry.epoch, repository, known.blobs, inquiry.signal),
    first === undefined ? null : headOf(inquiry, repository, first.digest),
  ]);
  const why = head === null ? null : whyUnusable(head);
  if (why === null || missing.missingBlob !== null) return { ...known, ...missing };
  const unusable = errorInfo('ARTIFACT_UNSUPPORTED', { image: `${repository}:${tag}`, why });
  return { ...known, contentDigest: null, contentDigestSource: null, unlearned: false, error: unusable };
}

/** A checksums layer may name the joined file of a split image. */
async function fromChecksums(
  { epoch, state, signal }: Inquiry,
  split: DesiredImage,
  manifest: Manifest,
): Promise<DesiredImage> {
  const layer = manifest.layers.find(({ title, sizeBytes }) => /sha256sums/i.test(title ?? '') && sizeBytes <= 2 ** 20);
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
}

/** The image with the way in which cocoon stores it, told from its first bytes at epoch. */
export async function withStoredForm(inquiry: Inquiry, image: DesiredImage): Promise<DesiredImage> {
  const [first] = image.blobs;
  if (first === undefined || image.kind !== 'cloud-image') return image;
  return { ...image, stored: await formOf(inquiry, image.image, first.digest) };
}

/** How cocoon stores what begins with this blob, told from its first bytes; null where they cannot be had. */
export async function formOf(inquiry: Inquiry, repository: string, first: string): Promise<DesiredImage['stored']> {
  const head = await headOf(inquiry, repository, first);
  return head === null ? null : storedAs(head);
}

async function headOf(
  { epoch, signal, answers }: Inquiry,
  repository: string,
  first: string,
): Promise<Uint8Array | null> {
  return await remember(answers.heads, `${repository} ${first}`, async () => {
    try {
      return await epoch.blobHead(repository, first, signal);
    } catch {
      return null; // what depends on it is not known then, and the verdict says so
    }
  });
}

/** Whether this epoch is a newer one (conformance: serves /dl/NAME/REF by tag and by manifest digest). */
export async function servesTagPath({ epoch, signal }: Inquiry, reading: Reading): Promise<boolean | ErrorInfo> {
  try {
    return await epoch.servesTagPath(reading.repository, reading.tag, signal);
  } catch (error) {
    return whyOf(error, signal);
  }
}
