// A client of OCI registries as cocoon's library behaves: ping, token, manifest, blobs.
import { createHash } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { getFollowing, readBody } from './http.ts';
import { quote } from './text.ts';

export interface Reference {
  /** As typed: the index key. */
  typed: string;
  registry: string;
  repository: string;
  /** Tag or digest. */
  target: string;
}

export interface RemoteImage {
  digest: string;
  layers: { digest: string; size: number }[];
  /** Downloads a layer, checks its digest, and unpacks gzip. */
  readLayer(digest: string): Promise<Buffer>;
}

const MANIFEST_TYPES = [
  'application/vnd.docker.distribution.manifest.v2+json',
  'application/vnd.oci.image.manifest.v1+json',
  'application/vnd.docker.distribution.manifest.list.v2+json',
  'application/vnd.oci.image.index.v1+json',
];

/** Splits `[registry/]repository[:tag][@digest]`; the default registry is Docker Hub. */
export function parseReference(typed: string): Reference {
  const bad = () => new Error(`invalid image reference ${quote(typed)}: could not parse reference: ${typed}`);
  const [named = '', digest] = typed.split('@');
  const tagAt = named.lastIndexOf(':');
  const hasTag = tagAt > named.lastIndexOf('/');
  const name = hasTag ? named.slice(0, tagAt) : named;
  const tag = hasTag ? named.slice(tagAt + 1) : 'latest';
  const slash = name.indexOf('/');
  const first = name.slice(0, Math.max(slash, 0));
  const explicit = slash > 0 && (/[.:]/.test(first) || first === 'localhost');
  const registry = explicit ? first : 'index.docker.io';
  let repository = explicit ? name.slice(slash + 1) : name;
  if (!explicit && !repository.includes('/')) repository = `library/${repository}`;
  if (!/^[a-z0-9_./-]{2,255}$/.test(repository) || !/^[\w.-]{1,128}$/.test(tag)) throw bad();
  if (digest !== undefined && !/^sha256:[0-9a-f]{64}$/.test(digest)) throw bad();
  return { typed, registry, repository, target: digest ?? tag };
}

/** `registry/repository`, Docker Hub spelled `index.docker.io/library/…`. */
export function repositoryOf(reference: Reference): string {
  return `${reference.registry}/${reference.repository}`;
}

/** Resolves a reference to the image for this machine; an index is resolved to its child. */
export async function fetchImage(reference: Reference): Promise<RemoteImage> {
  const base = `${isPlainHttp(reference.registry) ? 'http' : 'https'}://${reference.registry}`;
  const headers = await authorise(base, reference);
  let { body, digest } = await fetchManifest(base, reference.repository, reference.target, headers);
  const children = (JSON.parse(body.toString()) as { manifests?: Child[] }).manifests;
  if (children) {
    const architecture = process.arch === 'x64' ? 'amd64' : process.arch;
    const child = children.find(({ platform }) => platform?.os === 'linux' && platform.architecture === architecture);
    if (!child) throw new Error(`no child with platform linux/${architecture} in index ${reference.typed}`);
    ({ body, digest } = await fetchManifest(base, reference.repository, child.digest, headers));
  }
  const { layers = [] } = JSON.parse(body.toString()) as { layers?: RemoteImage['layers'] };
  return {
    digest,
    layers,
    readLayer: async (layer) => {
      const url = `${base}/v2/${reference.repository}/blobs/${layer}`;
      const blob = await request(url, headers);
      const actual = `sha256:${createHash('sha256').update(blob).digest('hex')}`;
      if (actual !== layer) {
        throw new Error(
          `error verifying sha256 checksum after reading ${blob.length} bytes; got ${quote(actual)}, want ${quote(layer)}`,
        );
      }
      return blob[0] === 0x1f && blob[1] === 0x8b ? gunzipSync(blob) : blob;
    },
  };
}

interface Child {
  digest: string;
  platform?: { os: string; architecture: string };
}

/** Loopback, private addresses and `.local` names are spoken to in plain HTTP. */
function isPlainHttp(registry: string): boolean {
  const host = registry.replace(/:\d+$/, '');
  return /^(localhost|127\..*|10\..*|192\.168\..*|172\.(1[6-9]|2\d|3[01])\..*|\[::1\]|.*\.local)$/.test(host);
}

async function authorise(base: string, reference: Reference): Promise<Record<string, string>> {
  const { message } = await getFollowing(`${base}/v2/`, {});
  const challenge = message.headers['www-authenticate'] ?? '';
  message.destroy();
  if (message.statusCode !== 401) return {};
  const basic = dockerCredential(reference.registry);
  if (/^basic/i.test(challenge)) return basic ? { authorization: `Basic ${basic}` } : {};
  const field = (name: string) => new RegExp(`${name}="([^"]*)"`).exec(challenge)?.[1] ?? '';
  const url = new URL(field('realm'));
  url.searchParams.set('scope', `repository:${reference.repository}:pull`);
  url.searchParams.set('service', field('service'));
  const body = await request(url.href, basic ? { authorization: `Basic ${basic}` } : {});
  const answer = JSON.parse(body.toString()) as { token?: string; access_token?: string };
  const token = answer.token || answer.access_token;
  if (!token) throw new Error(`no token in bearer response:\n${body.toString()}`);
  return { authorization: `Bearer ${token}` };
}

/** The base64 of `user:password` that docker's configuration holds for a registry. */
function dockerCredential(registry: string): string | undefined {
  const file = join(process.env['DOCKER_CONFIG'] ?? join(homedir(), '.docker'), 'config.json');
  if (!existsSync(file)) return undefined;
  const { auths = {} } = JSON.parse(readFileSync(file, 'utf8')) as { auths?: Record<string, { auth?: string }> };
  return auths[registry]?.auth ?? auths[`https://${registry}`]?.auth;
}

async function fetchManifest(base: string, repository: string, target: string, headers: Record<string, string>) {
  const url = `${base}/v2/${repository}/manifests/${target}`;
  const body = await request(url, { ...headers, accept: MANIFEST_TYPES.join(',') });
  const digest = `sha256:${createHash('sha256').update(body).digest('hex')}`;
  if (target.startsWith('sha256:') && target !== digest) {
    throw new Error(
      `manifest digest: ${quote(digest)} does not match requested digest: ${quote(target)} for ${quote(`${repository}@${target}`)}`,
    );
  }
  return { body, digest };
}

/** GETs a body; other answers than 200 become the registry's own words. */
async function request(url: string, headers: Record<string, string>): Promise<Buffer> {
  const { message } = await getFollowing(url, headers);
  const body = await readBody(message);
  if (message.statusCode === 200) return body;
  throw new Error(`GET ${url}: ${registryError(body, `${message.statusCode} ${message.statusMessage}`)}`);
}

function registryError(body: Buffer, status: string): string {
  try {
    const { errors } = JSON.parse(body.toString()) as { errors: { code: string; message: string }[] };
    return errors.map((error) => `${error.code}: ${error.message}`).join('; ');
  } catch {
    return `unexpected status code ${status}: ${body.toString()}`;
  }
}
