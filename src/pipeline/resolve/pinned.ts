/** Content that a snapshot pins and no tag yields any more: does a registry still give exactly that? */
import { contentOf } from '../../core/artifact.ts';
import { fault } from '../../core/errors.ts';
import { addressOf, meaningOf, parseImageName } from '../../core/reference.ts';
import type { PinnedContent, PinnedQuestion } from '../../core/model/catalog.ts';
import type { DesiredImage } from '../../core/model/desired.ts';
import { formOf, manifestAt, servesTagPath } from './cloud-image.ts';
import { whyOf, type Inquiry } from './inquiry.ts';
import type { Asking } from './references.ts';

/** Whether it matters how cocoon stores a content of that size: then its first bytes are asked for. */
export type NeedsForm = (sizeBytes: number) => boolean;

/**
 * Whether exactly this content is still to be had; what went wrong is in the answer.
 * @param current what the tag of its base serves now
 */
export async function resolvePinned(
  asking: Asking,
  question: PinnedQuestion,
  current: DesiredImage | null,
  needsForm: NeedsForm,
): Promise<PinnedContent> {
  try {
    if (current === null) return await pinnedElsewhere(asking, question, needsForm);
    if (current.kind === 'container-image') return await pinnedManifest(asking, question);
    return await pinnedBlob(asking, question, current, needsForm);
  } catch (error) {
    return { state: 'unasked', error: whyOf(error, asking.signal) };
  }
}

async function blobThere(
  asking: Asking,
  { repository, digest, reference }: { repository: string; digest: string; reference: string },
  needsForm: NeedsForm,
): Promise<PinnedContent | null> {
  const sizeBytes = await asking.epoch.blobSize(repository, digest, asking.signal);
  if (sizeBytes === null) return null;
  const stored = needsForm(sizeBytes) ? await formOf(asking, repository, digest) : null;
  return { state: 'there', reference, sizeBytes, stored };
}

async function pinnedBlob(
  asking: Asking,
  { base, digest }: PinnedQuestion,
  current: DesiredImage,
  needsForm: NeedsForm,
): Promise<PinnedContent> {
  const address = addressOf(base, asking.addresses) ?? asking.addresses[0]; // the node reaches epoch as its own keys do
  const reference = `${address}/v2/${current.image}/blobs/${digest}`;
  const blob = await blobThere(asking, { repository: current.image, digest, reference }, needsForm);
  if (blob !== null) return blob;
  // A split image has no blob of its joined content: only a manifest that was seen to yield it leads there.
  for (const manifestDigest of asking.state.manifestsOf(digest)) {
    const found = await manifestAt(asking, { repository: current.image, tag: manifestDigest });
    if (found.manifest === null) continue;
    const newer = await servesTagPath(asking, { repository: current.image, tag: manifestDigest });
    const { sizeBytes: joined, blobs } = contentOf(current.image, found.manifest);
    const [first] = blobs;
    if (newer === true && joined !== null && first !== undefined) {
      const stored = needsForm(joined) ? await formOf(asking, current.image, first.digest) : null;
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
}

/** Of a base that is no tag of anything that we ask: what names its own content at epoch can still be had there. */
async function pinnedElsewhere(
  asking: Asking,
  { base, digest }: PinnedQuestion,
  needsForm: NeedsForm,
): Promise<PinnedContent> {
  if (meaningOf(base, asking.addresses).kind === 'immutable' && base.endsWith(`/blobs/${digest}`)) {
    const [, repository = ''] = /\/v2\/(.+)\/blobs\//.exec(base) ?? [];
    const blob = await blobThere(asking, { repository, digest, reference: base }, needsForm);
    return blob ?? { state: 'gone', why: 'epoch does not give it any more' };
  }
  if (parseImageName(base)?.registry != null) return { state: 'unasked', error: null };
  return { state: 'gone', why: 'nothing tells where it could be had' };
}

/** Whether the registry of a base still has the manifest that a snapshot pins. @throws ReconcileError REGISTRY_* */
async function pinnedManifest(
  { registryOf, signal }: Inquiry,
  { base, digest }: PinnedQuestion,
): Promise<PinnedContent> {
  const name = parseImageName(base.replace(/@sha256:[0-9a-f]{64}$/, ''));
  if (name === null || name.registry === null) {
    throw fault('ARTIFACT_UNSUPPORTED', { image: base, why: 'it names no registry' });
  }
  const registry = await registryOf(name.registry);
  try {
    const manifest = await registry.manifest(name.repository, digest, signal);
    const sizeBytes = manifest.layers.reduce((sum, layer) => sum + layer.sizeBytes, 0);
    return { state: 'there', reference: `${name.registry}/${name.repository}@${digest}`, sizeBytes, stored: null };
  } catch (error) {
    const info = whyOf(error, signal);
    if (info.code !== 'TAG_NOT_FOUND') throw error;
    return { state: 'gone', why: `${name.registry} does not give it any more` };
  }
}
