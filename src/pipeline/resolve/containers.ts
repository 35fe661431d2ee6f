/** Container images, at epoch or at any other registry: the manifest that a node of each platform will record. */
import type { Registry } from '../../registry/client.ts';
import { kindOf, type Manifest } from '../../core/artifact.ts';
import { errorInfo } from '../../core/errors.ts';
import type { DesiredImage } from '../../core/model/desired.ts';
import { remember } from '../../system/remember.ts';
import { findMissingBlob, NOTHING_KNOWN, whyOf, type Inquiry } from './inquiry.ts';

/** Which content of a registry is asked for, and under which name people know it. */
export interface ContainerAsked {
  /** Its host; null for epoch. */
  registry: string | null;
  repository: string;
  tag: string;
  image: string;
  reference: string;
  unpullable: string | null;
}

/** What is the same for all platforms of an image. */
interface TagContent {
  registry: Registry;
  repository: string;
  base: DesiredImage;
  signal: AbortSignal;
}

/**
 * The images under one tag, once per platform; what went wrong is in their errors.
 * @param architectures of the nodes, as `amd64`: an image index is resolved for each
 */
export async function containersAt(
  inquiry: Inquiry,
  asked: ContainerAsked,
  architectures: string[],
): Promise<DesiredImage[]> {
  const key = [asked.registry, asked.reference, ...architectures].join(' ');
  return await remember(inquiry.answers.containers, key, async () => await resolve(inquiry, asked, architectures));
}

async function resolve(inquiry: Inquiry, what: ContainerAsked, architectures: string[]): Promise<DesiredImage[]> {
  const { image, tag, reference, unpullable } = what;
  const base: DesiredImage = { ...NOTHING_KNOWN, image, tag, reference, kind: 'container-image', unpullable };
  try {
    const registry = what.registry === null ? inquiry.epoch : await inquiry.registryOf(what.registry);
    const manifest = await registry.manifest(what.repository, tag, inquiry.signal);
    const content = { registry, repository: what.repository, base, signal: inquiry.signal };
    const kind = kindOf(manifest);
    if (kind === 'container-image') return [await imageFrom(content, manifest)];
    if (kind === 'index') {
      const platforms = architectures.length > 0 ? architectures : ['amd64'];
      return await Promise.all(platforms.map(async (architecture) => await childOf(content, manifest, architecture)));
    }
    const why = `it is ${kind === 'unknown' ? 'no container image' : `a ${kind}`}, and cocoon dies of that in mkfs.erofs when it pulls it by an OCI reference`;
    return [{ ...base, kind: null, error: errorInfo('ARTIFACT_UNSUPPORTED', { image: reference, why }) }];
  } catch (error) {
    return [{ ...base, error: whyOf(error, inquiry.signal) }];
  }
}

/** The child of an index for one platform: its digest is what a node records, never that of the index (C.6). */
async function childOf(content: TagContent, index: Manifest, architecture: string): Promise<DesiredImage> {
  const { registry, repository, base, signal } = content;
  const platform = `linux/${architecture}`;
  const child = index.children.find((c) => c.os === 'linux' && c.architecture === architecture);
  if (child === undefined) {
    const error = errorInfo('ARTIFACT_UNSUPPORTED', { image: base.reference, why: `its index has no ${platform}` });
    return { ...base, platform, error };
  }
  try {
    const manifest = await registry.manifest(repository, child.digest, signal);
    return { ...(await imageFrom(content, manifest)), platform };
  } catch (error) {
    return { ...base, platform, error: whyOf(error, signal) };
  }
}

async function imageFrom(
  { registry, repository, base, signal }: TagContent,
  manifest: Manifest,
): Promise<DesiredImage> {
  const blobs = manifest.layers.map(({ digest, sizeBytes }) => ({ digest, sizeBytes }));
  return {
    ...base,
    manifestDigest: manifest.digest,
    contentDigest: manifest.digest,
    contentDigestSource: 'manifest',
    sizeBytes: blobs.reduce((sum, blob) => sum + blob.sizeBytes, 0),
    blobs,
    layers: blobs.map(({ digest }) => digest),
    ...(await findMissingBlob(registry, repository, blobs, signal)),
  };
}
