/** Hot snapshots at epoch: the base that their clones need. */
import type { Registry } from '../../registry/client.ts';
import { kindOf, type Manifest } from '../../core/artifact.ts';
import { errorInfo, fault } from '../../core/errors.ts';
import { object, optionalText, ShapeError, size } from '../../core/json.ts';
import { isDigest, parseSnapshotName } from '../../core/reference.ts';
import type { DesiredSnapshot } from '../../core/model/desired.ts';
import { remember } from '../../system/remember.ts';
import { whyOf, type Inquiry } from './inquiry.ts';

/** What epoch says about a snapshot; what went wrong is in its error. */
export async function snapshotAtEpoch(inquiry: Inquiry, name: string): Promise<DesiredSnapshot> {
  return await remember(inquiry.answers.snapshots, name, async () => await askForSnapshot(inquiry, name));
}

async function askForSnapshot({ epoch, signal }: Inquiry, name: string): Promise<DesiredSnapshot> {
  const none: DesiredSnapshot = {
    snapshot: name,
    tracked: false,
    base: null,
    baseDigest: null,
    baseType: 'cloudimg',
    createdAt: null,
    sizeBytes: null,
    files: {},
    error: null,
  };
  const parsed = parseSnapshotName(name);
  if (parsed === null) {
    const why = 'this is no repo[:tag] at epoch';
    return { ...none, error: errorInfo('ARTIFACT_UNSUPPORTED', { image: name, why }) };
  }
  try {
    const { manifest, configDigest } = await snapshotManifest(epoch, parsed.repository, parsed.tag, signal);
    const config = await epoch.blobJson(parsed.repository, configDigest, signal);
    const sizeBytes = manifest.layers.reduce((sum, layer) => sum + layer.sizeBytes, 0);
    return { ...none, sizeBytes, ...readSnapshotConfig(config, name), files: filesOf(manifest, config) };
  } catch (error) {
    return { ...none, error: whyOf(error, signal) };
  }
}

/** A snapshot tag may be an image index: then linux/amd64, else the first child that is no attestation (F.4). */
async function snapshotManifest(
  epoch: Registry,
  repository: string,
  tag: string,
  signal: AbortSignal,
): Promise<{ manifest: Manifest; configDigest: string }> {
  const image = `${repository}:${tag}`;
  let manifest = await epoch.manifest(repository, tag, signal);
  if (kindOf(manifest) === 'index') {
    const children = manifest.children.filter((child) => child.architecture !== 'unknown');
    const child = children.find((c) => c.os === 'linux' && c.architecture === 'amd64') ?? children[0];
    if (child === undefined) throw fault('ARTIFACT_UNSUPPORTED', { image, why: 'its image index has no usable child' });
    manifest = await epoch.manifest(repository, child.digest, signal);
  }
  const { configDigest } = manifest;
  if (kindOf(manifest) !== 'snapshot' || configDigest === null) {
    throw fault('ARTIFACT_UNSUPPORTED', { image, why: 'epoch serves no hot snapshot under this tag' });
  }
  return { manifest, configDigest };
}

/** A file with holes is packed at epoch, and its config tells the size that it has on a node. */
function filesOf({ layers }: Manifest, document: unknown): DesiredSnapshot['files'] {
  const packed = object(object(document, 'the config blob')['files'] ?? {}, 'files');
  return Object.fromEntries(
    layers.flatMap(({ title, sizeBytes }) => {
      if (title === null) return [];
      const { sparseSize } = object(packed[title] ?? {}, `files: ${title}`);
      return [[title, sparseSize == null ? sizeBytes : size(sparseSize, `${title}: sparseSize`)]];
    }),
  );
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
