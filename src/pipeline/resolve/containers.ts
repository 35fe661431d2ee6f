/** Container images, at epoch or at any other registry: the manifest that a node of each platform will record. */
import type { Registry } from '../../registry/client.ts';
import { kindOf, type Manifest } from '../../core/artifact.ts';
import { errorInfo, fault } from '../../core/errors.ts';
import { parseImageName } from '../../core/reference.ts';
import type { Lookup } from '../../core/judge/snapshots.ts';
import type { DesiredImage } from '../../core/model/desired.ts';
import { missingBlob, NOTHING_KNOWN, remember, whyOf, type ResolverOptions } from './ask.ts';

export interface OciResolver {
  elsewhere(
    registry: string,
    repository: string,
    tag: string,
    reference: string,
    architectures: string[],
  ): Promise<DesiredImage[]>;
  /** Epoch's own container images: they can be judged, but not pulled by cocoon without a credential (contract E.2). */
  atEpoch(repository: string, tag: string, reference: string, architectures: string[]): Promise<DesiredImage[]>;
  /** Whether the registry of a base still has the manifest that a snapshot pins. */
  lookup(base: string, digest: string): Promise<Lookup>;
}

/** Which content of a registry is asked for, and under which name people know it. */
interface Asked {
  registry: Registry;
  repository: string;
  tag: string;
  image: string;
  reference: string;
  unpullable: string | null;
  /** Of the nodes, as `amd64`: an image index is resolved for each. */
  architectures: string[];
}

export function createOciResolver({ addresses, epoch, registryOf, signal }: ResolverOptions): OciResolver {
  const asked = new Map<string, Promise<DesiredImage[]>>();

  const resolve = async (what: Asked): Promise<DesiredImage[]> => {
    const { image, tag, reference, unpullable } = what;
    const base: DesiredImage = { ...NOTHING_KNOWN, image, tag, reference, kind: 'container-image', unpullable };
    try {
      const manifest = await what.registry.manifest(what.repository, tag, signal);
      const kind = kindOf(manifest);
      if (kind === 'container-image') return [await contentOf(what, base, manifest)];
      if (kind === 'index') {
        const platforms = what.architectures.length > 0 ? what.architectures : ['amd64'];
        return await Promise.all(
          platforms.map(async (architecture) => await childOf(what, base, manifest, architecture)),
        );
      }
      const why = `it is ${kind === 'unknown' ? 'no container image' : `a ${kind}`}, and cocoon dies of that in mkfs.erofs when it pulls it by an OCI reference`;
      return [{ ...base, kind: null, error: errorInfo('ARTIFACT_UNSUPPORTED', { image: reference, why }) }];
    } catch (error) {
      return [{ ...base, error: whyOf(error, signal) }];
    }
  };

  /** The child of an index for one platform: its digest is what a node records, never that of the index (C.6). */
  const childOf = async (
    what: Asked,
    base: DesiredImage,
    index: Manifest,
    architecture: string,
  ): Promise<DesiredImage> => {
    const platform = `linux/${architecture}`;
    const child = index.children.find((c) => c.os === 'linux' && c.architecture === architecture);
    if (child === undefined) {
      const error = errorInfo('ARTIFACT_UNSUPPORTED', { image: what.reference, why: `its index has no ${platform}` });
      return { ...base, platform, error };
    }
    try {
      const manifest = await what.registry.manifest(what.repository, child.digest, signal);
      return { ...(await contentOf(what, base, manifest)), platform };
    } catch (error) {
      return { ...base, platform, error: whyOf(error, signal) };
    }
  };

  const contentOf = async (what: Asked, base: DesiredImage, manifest: Manifest): Promise<DesiredImage> => {
    const blobs = manifest.layers.map(({ digest, sizeBytes }) => ({ digest, sizeBytes }));
    return {
      ...base,
      manifestDigest: manifest.digest,
      contentDigest: manifest.digest,
      contentDigestSource: 'manifest',
      sizeBytes: blobs.reduce((sum, blob) => sum + blob.sizeBytes, 0),
      blobs,
      layers: blobs.map(({ digest }) => digest),
      ...(await missingBlob(what.registry, what.repository, blobs, signal)),
    };
  };

  return {
    elsewhere: async (host, repository, tag, reference, architectures) =>
      await remember(asked, [reference, ...architectures].join(' '), async () => {
        const image = `${host}/${repository}`;
        try {
          return await resolve({
            registry: await registryOf(host),
            repository,
            tag,
            image,
            reference,
            unpullable: null,
            architectures,
          });
        } catch (error) {
          return [{ ...NOTHING_KNOWN, image, tag, reference, kind: 'container-image', error: whyOf(error, signal) }];
        }
      }),
    atEpoch: async (repository, tag, reference, architectures) =>
      await remember(asked, [reference, ...architectures].join(' '), async () => {
        const unpullable = `cocoon cannot pull it from epoch without a credential for its host: an image under /dl/${repository} it can`;
        return await resolve({
          registry: epoch,
          repository,
          tag,
          image: `${new URL(addresses[0]).host}/${repository}`,
          reference,
          unpullable,
          architectures,
        });
      }),
    async lookup(base, digest) {
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
    },
  };
}
