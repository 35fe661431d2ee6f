// What lies in a registry: manifests and blobs of every shape that epoch knows, and pushing them over HTTP.
import {
  digestOf,
  makeBootLayer,
  makeSnapshotConfig,
  makeSnapshotFiles,
  type SnapshotOptions,
} from './cocoon/fixtures.ts';

export const MEDIA = {
  manifest: 'application/vnd.oci.image.manifest.v1+json',
  index: 'application/vnd.oci.image.index.v1+json',
  dockerIndex: 'application/vnd.docker.distribution.manifest.list.v2+json',
  containerConfig: 'application/vnd.oci.image.config.v1+json',
  dockerConfig: 'application/vnd.docker.container.image.v1+json',
  emptyConfig: 'application/vnd.oci.empty.v1+json',
  layer: 'application/vnd.oci.image.layer.v1.tar',
  osImage: 'application/vnd.cocoonstack.os-image.v1+json',
  windowsImage: 'application/vnd.cocoonstack.windows-image.v1+json',
  snapshot: 'application/vnd.cocoonstack.snapshot.v1+json',
  snapshotConfig: 'application/vnd.cocoonstack.snapshot.config.v1+json',
  bytes: 'application/octet-stream',
  tar: 'application/x-tar',
} as const;

export const TITLE = 'org.opencontainers.image.title';
export const CREATED = 'org.opencontainers.image.created';

export interface Descriptor {
  mediaType: string;
  digest: string;
  size: number;
  annotations?: Record<string, string>;
  platform?: { os: string; architecture: string; variant?: string };
}

/** The fields of a manifest or an index that somebody reads. */
export interface Manifest {
  schemaVersion: number;
  mediaType?: string;
  artifactType?: string;
  config?: Descriptor;
  layers?: Descriptor[];
  manifests?: Descriptor[];
  annotations?: Record<string, string>;
}

/** One manifest with everything that it names, ready to be pushed. */
export interface Artifact {
  manifest: Buffer;
  mediaType: string;
  manifestDigest: string;
  /** What a node records after pulling it; null where it records nothing (a snapshot). */
  contentDigest: string | null;
  /** Bytes of the disk layers, of all layers of a container image, or of all files of a snapshot. */
  sizeBytes: number;
  layers: Descriptor[];
  blobs: Buffer[];
  /** The children of an index. */
  children: Artifact[];
}

export interface ImageOptions {
  /** The disk, whole. */
  content: Buffer;
  /** Cut into so many layers; default 1. */
  parts?: number;
  /** Media type of each disk layer; default `….disk.qcow2`, with `.part` where there are several. */
  mediaType?: string;
  artifactType?: string;
  /** Media type of the config; default the empty config. */
  configMediaType?: string;
  /** Name of the whole disk; default `disk.qcow2`. */
  name?: string;
  /** Title of the i-th of n layers; default `<name>` or `<name>.NN.qcow2.part`. */
  title?: (index: number, parts: number) => string | undefined;
  /** A SHA256SUMS layer: lines of the parts as the real producer writes them, also of the whole disk, or this very text. */
  checksums?: 'parts' | 'assembled' | { text: string };
  annotations?: Record<string, string>;
}

/** A cloud image of one disk layer or of several parts. */
export function imageArtifact(options: ImageOptions): Artifact {
  const { content, name = 'disk.qcow2' } = options;
  const parts = split(content, options.parts ?? 1);
  const mediaType = options.mediaType ?? `application/vnd.cocoonstack.disk.qcow2${parts.length > 1 ? '.part' : ''}`;
  const titleOf = options.title ?? ((index, count) => (count === 1 ? name : `${name}.${pad(index)}.qcow2.part`));
  const disks = parts.map((part, index) => {
    return { part, descriptor: describe(part, mediaType, titled(titleOf(index, parts.length))) };
  });
  const assembled = Buffer.concat(byTitle(disks, (disk) => disk.descriptor).map((disk) => disk.part));
  const layers = disks.map((disk) => disk.descriptor);
  const blobs = [...parts];
  if (options.checksums) {
    const text = Buffer.from(checksumText(options.checksums, layers, name, assembled));
    layers.push(describe(text, 'text/plain', titled('SHA256SUMS')));
    blobs.push(text);
  }
  const config = Buffer.from('{}');
  const manifest: Manifest = {
    schemaVersion: 2,
    mediaType: MEDIA.manifest,
    artifactType: options.artifactType ?? MEDIA.osImage,
    config: describe(config, options.configMediaType ?? MEDIA.emptyConfig),
    layers,
    ...(options.annotations ? { annotations: options.annotations } : {}),
  };
  return artifact(manifest, [config, ...blobs], digestOf(assembled), assembled.length);
}

export interface ContainerOptions {
  /** Tar layers; default one that holds a kernel and an initrd, made from `seed`. */
  layers?: Buffer[];
  seed?: string;
  os?: string;
  architecture?: string;
  annotations?: Record<string, string>;
}

/** An ordinary OCI container image, by default one that cocoon can boot. */
export function containerArtifact(options: ContainerOptions = {}): Artifact {
  const { os = 'linux', architecture = 'amd64', seed = 'container' } = options;
  const contents = options.layers ?? [makeBootLayer(`${seed}/${architecture}`)];
  const diffIds = contents.map((layer) => digestOf(layer));
  const config = Buffer.from(
    JSON.stringify({ architecture, os, config: {}, rootfs: { type: 'layers', diff_ids: diffIds } }),
  );
  const manifest: Manifest = {
    schemaVersion: 2,
    mediaType: MEDIA.manifest,
    config: describe(config, MEDIA.containerConfig),
    layers: contents.map((layer) => describe(layer, MEDIA.layer)),
    ...(options.annotations ? { annotations: options.annotations } : {}),
  };
  const built = artifact(manifest, [config, ...contents], null, sum(contents.map((layer) => layer.length)));
  return { ...built, contentDigest: built.manifestDigest };
}

export interface IndexChild {
  os?: string;
  architecture: string;
  variant?: string;
  artifact: Artifact;
}

/** An index over images of several platforms; its content digest is that of the linux/amd64 child. */
export function indexArtifact(children: IndexChild[], mediaType: string = MEDIA.index): Artifact {
  const manifests = children.map(({ os = 'linux', architecture, variant, artifact: child }) => ({
    mediaType: child.mediaType,
    digest: child.manifestDigest,
    size: child.manifest.length,
    platform: { os, architecture, ...(variant === undefined ? {} : { variant }) },
  }));
  const chosen = children.find((child) => (child.os ?? 'linux') === 'linux' && child.architecture === 'amd64');
  const built = artifact({ schemaVersion: 2, mediaType, manifests }, [], chosen?.artifact.contentDigest ?? null, 0);
  return { ...built, sizeBytes: chosen?.artifact.sizeBytes ?? 0, children: children.map((child) => child.artifact) };
}

export interface SnapshotArtifactOptions extends SnapshotOptions {
  /** Fields laid over the config blob; one that is undefined is left out, as in artifacts of old tools. */
  config?: Record<string, unknown>;
  /** `cocoonstack.snapshot.baseimage` and others. */
  annotations?: Record<string, string>;
}

/** A hot snapshot: a config blob that names its base, and one layer per data file. */
export function snapshotArtifact(options: SnapshotArtifactOptions = {}): Artifact {
  const files = makeSnapshotFiles(options);
  const config = Buffer.from(JSON.stringify({ ...snapshotConfig(options, files), ...options.config }));
  const manifest: Manifest = {
    schemaVersion: 2,
    mediaType: MEDIA.manifest,
    artifactType: MEDIA.snapshot,
    config: describe(config, MEDIA.snapshotConfig),
    layers: files.map((file) => describe(file.data, snapshotLayerType(file.name), titled(file.name))),
    annotations: { [CREATED]: '2026-05-09T03:00:00Z', ...options.annotations },
  };
  const contents = files.map((file) => file.data);
  return artifact(manifest, [config, ...contents], null, sum(contents.map((content) => content.length)));
}

/** Any manifest at all, also one that no client can use. */
export function rawArtifact(manifest: Manifest | string, blobs: Buffer[] = []): Artifact {
  const text = Buffer.from(typeof manifest === 'string' ? manifest : JSON.stringify(manifest));
  const mediaType = (typeof manifest === 'string' ? undefined : manifest.mediaType) ?? MEDIA.manifest;
  return {
    ...artifact({ schemaVersion: 2 }, blobs, null, 0),
    manifest: text,
    mediaType,
    manifestDigest: digestOf(text),
  };
}

/** True for the layers that make up the disk of a cloud image. */
export function isDiskLayer(descriptor: Descriptor): boolean {
  return /^application\/vnd\.cocoonstack\.(windows\.)?disk\.(qcow2|raw)(\.part)?$/.test(descriptor.mediaType);
}

/** Stable order by title, compared bytewise: the order in which epoch joins the parts of a disk. */
export function byTitle<T>(items: readonly T[], descriptorOf: (item: T) => Descriptor): T[] {
  const titleOf = (item: T) => Buffer.from(descriptorOf(item).annotations?.[TITLE] ?? '');
  return [...items].sort((a, b) => Buffer.compare(titleOf(a), titleOf(b)));
}

/** Pushes blobs, children and the manifest; without a tag the manifest can be had by digest only. */
export async function pushTo(
  url: string,
  token: string,
  repo: string,
  tag: string | null,
  pushed: Artifact,
): Promise<void> {
  for (const blob of pushed.blobs) await pushBlob(url, token, repo, blob);
  for (const child of pushed.children) await pushTo(url, token, repo, null, child);
  const reference = tag ?? pushed.manifestDigest;
  await send(`${url}/v2/${repo}/manifests/${reference}`, token, 'PUT', pushed.manifest, pushed.mediaType);
}

async function pushBlob(url: string, token: string, repo: string, blob: Buffer): Promise<void> {
  const digest = digestOf(blob);
  const known = await fetch(`${url}/v2/${repo}/blobs/${digest}`, { method: 'HEAD' });
  if (known.status === 200) return;
  await send(`${url}/v2/${repo}/blobs/uploads/?digest=${digest}`, token, 'POST', blob, MEDIA.bytes);
}

async function send(url: string, token: string, method: string, body: Buffer, contentType: string): Promise<void> {
  const headers = { authorization: `Bearer ${token}`, 'content-type': contentType };
  const answer = await fetch(url, { method, headers, body: new Uint8Array(body) });
  const text = await answer.text();
  if (!answer.ok) throw new Error(`${method} ${url}: ${answer.status} ${text}`);
}

function artifact(manifest: Manifest, blobs: Buffer[], contentDigest: string | null, sizeBytes: number): Artifact {
  const text = Buffer.from(JSON.stringify(manifest, null, 2));
  return {
    manifest: text,
    mediaType: manifest.mediaType ?? MEDIA.manifest,
    manifestDigest: digestOf(text),
    contentDigest,
    sizeBytes,
    layers: manifest.layers ?? [],
    blobs,
    children: [],
  };
}

function describe(content: Buffer, mediaType: string, annotations?: Record<string, string>): Descriptor {
  return { mediaType, digest: digestOf(content), size: content.length, ...(annotations ? { annotations } : {}) };
}

function titled(title: string | undefined): Record<string, string> | undefined {
  return title === undefined ? undefined : { [TITLE]: title };
}

function split(content: Buffer, parts: number): Buffer[] {
  const size = Math.ceil(content.length / parts);
  return Array.from({ length: parts }, (_, index) => content.subarray(index * size, (index + 1) * size));
}

function checksumText(
  checksums: NonNullable<ImageOptions['checksums']>,
  layers: Descriptor[],
  name: string,
  assembled: Buffer,
): string {
  if (typeof checksums === 'object') return checksums.text;
  const lines = layers.map((layer) => `${layer.digest.slice(7)}  ${layer.annotations?.[TITLE] ?? '-'}\n`);
  if (checksums === 'assembled') lines.push(`${digestOf(assembled).slice(7)}  ${name}\n`);
  return lines.join('');
}

/** The config blob of a snapshot artifact: cocoon's own record in epoch's spelling. */
function snapshotConfig(
  options: SnapshotOptions,
  files: ReturnType<typeof makeSnapshotFiles>,
): Record<string, unknown> {
  const { id, name: _name, image_digest, image_type, image_blob_ids, ...rest } = makeSnapshotConfig(options);
  return {
    schemaVersion: 'v1',
    snapshotId: id,
    ...rest,
    imageDigest: image_digest,
    imageType: image_type,
    imageBlobIds: image_blob_ids,
    files: Object.fromEntries(files.map((file) => [file.name, { mode: file.mode ?? 0o644 }])),
    createdAt: '2026-05-09T03:00:00Z',
  };
}

function snapshotLayerType(file: string): string {
  const known: Record<string, string> = {
    'config.json': 'application/vnd.cocoonstack.vm.config+json',
    'state.json': 'application/vnd.cocoonstack.vm.state+json',
    'memory-ranges': 'application/vnd.cocoonstack.vm.memory',
    'cidata.img': 'application/vnd.cocoonstack.vm.cidata',
  };
  const disk = /\.(qcow2|raw)$/.exec(file)?.[1];
  return known[file] ?? (disk ? `application/vnd.cocoonstack.disk.${disk}` : MEDIA.bytes);
}

function pad(index: number): string {
  return String(index).padStart(2, '0');
}

function sum(numbers: number[]): number {
  return numbers.reduce((total, n) => total + n, 0);
}
