// An epoch registry in this process: what a client sees of it, in memory, with faults on demand.
import { randomUUID } from 'node:crypto';
import {
  createServer,
  type IncomingHttpHeaders,
  type IncomingMessage,
  type Server,
  type ServerResponse,
} from 'node:http';
import type { AddressInfo } from 'node:net';
import { posix } from 'node:path';
import { digestOf, hexOf, makeSnapshotConfig, makeTar } from './cocoon/fixtures.ts';
import {
  byTitle,
  containerArtifact,
  CREATED,
  imageArtifact,
  indexArtifact,
  isDiskLayer,
  MEDIA,
  pushTo,
  snapshotArtifact,
  TITLE,
  type Artifact,
  type ContainerOptions,
  type Descriptor,
  type ImageOptions,
  type IndexChild,
  type Manifest,
  type SnapshotArtifactOptions,
} from './registry-content.ts';

export interface EpochOptions {
  /** Default: one that is free. */
  port?: number;
  host?: string;
  /** `april`: /dl/NAME only; `may`: /dl/NAME/REF too, and a first blob that is missing is a 500. */
  generation?: 'april' | 'may';
  /** The one token that may write. */
  token?: string;
  /** Base of the token realm (EPOCH_PUBLIC_URL). */
  publicUrl?: string;
}

/** One request as it came in; `status` is 0 where no answer was given. */
export interface LoggedRequest {
  method: string;
  /** Path with query, undecoded. */
  path: string;
  headers: IncomingHttpHeaders;
  status: number;
}

export type RequestMatch = RegExp | ((request: LoggedRequest) => boolean);

export interface Fault {
  /** Which requests; an expression is tried on `METHOD /path?query`. */
  match: RequestMatch;
  /** How many of them; default 1. */
  times?: number;
  /** Let so many pass first. */
  skip?: number;
  /**
   * A status with an error body, or:
   * `reset` no answer, connection reset; `hang` no answer, connection open; `html` a login page with 200;
   * `cut` half the body, then the connection drops; `stall` half the body, then silence;
   * `short` half the body and a clean end; `flip` one bit of the body is wrong;
   * `outage` as when epoch has lost its object store: 500, but a tag list looks like that of an unknown repository.
   */
  how: number | 'reset' | 'hang' | 'html' | 'cut' | 'stall' | 'short' | 'flip' | 'outage';
  /** `Retry-After` of a status. */
  retryAfter?: number | string;
  /** Body and headers of a status, instead of epoch's error. */
  body?: string;
  headers?: Record<string, string>;
}

/** What can be done to any epoch over HTTP, the double or a true one. */
export interface Publisher {
  pushImage(repo: string, tag: string, options: ImageOptions): Promise<Artifact>;
  pushContainer(repo: string, tag: string, options?: ContainerOptions): Promise<Artifact>;
  pushIndex(repo: string, tag: string, children: IndexChild[], mediaType?: string): Promise<Artifact>;
  pushSnapshot(repo: string, tag: string, options?: SnapshotArtifactOptions): Promise<Artifact>;
  push(repo: string, tag: string | null, artifact: Artifact): Promise<Artifact>;
  deleteTag(repo: string, tag: string): Promise<void>;
}

export interface Epoch extends Publisher {
  readonly url: string;
  readonly port: number;
  readonly token: string;
  readonly generation: 'april' | 'may';
  /** Everything asked for so far; empty it with `requests.length = 0`. */
  readonly requests: LoggedRequest[];
  fail(fault: Fault): void;
  /** Runs `action` before each of the next `times` (default 1) matching requests is answered. */
  during(match: RequestMatch, action: () => void | Promise<void>, times?: number): void;
  /** Forgets all faults and actions. */
  heal(): void;
  /** Loses the stored object of a blob. */
  deleteBlob(digest: string): void;
  /** Replaces the stored bytes of a blob without changing its name. */
  damageBlob(digest: string, change: (bytes: Buffer) => Buffer): void;
  /** Stops listening and drops every connection; the content stays. */
  stop(): Promise<void>;
  /** Listens again on the same port. */
  start(): Promise<void>;
}

/** Starts an epoch on a loopback port. */
export async function startEpoch(options: EpochOptions = {}): Promise<Epoch> {
  const { host = '127.0.0.1', generation = 'april', token = 'fleet-token' } = options;
  const store: Store = {
    blobs: new Map(),
    tags: new Map(),
    byDigest: new Map(),
    uploads: new Map(),
    catalog: new Map(),
  };
  const settings: Settings = { generation, token, publicUrl: options.publicUrl, store };
  const requests: LoggedRequest[] = [];
  const faults: Armed<Fault>[] = [];
  const actions: Armed<{ match: RequestMatch; action: () => void | Promise<void> }>[] = [];

  const server = createServer((incoming, response) => {
    const logged = { method: incoming.method ?? '', path: incoming.url ?? '', headers: incoming.headers, status: 0 };
    requests.push(logged);
    const serve = async () => {
      await take(actions, logged)?.action();
      const fault = take(faults, logged);
      const body = await readBody(incoming);
      transmit(logged, response, answer(settings, parse(logged, body)), fault);
    };
    serve().catch((error: unknown) => response.destroy(error as Error));
  });
  await listen(server, options.port ?? 0, host);
  const { port } = server.address() as AddressInfo;
  const url = `http://${host}:${port}`;

  return {
    ...publisher(url, token),
    url,
    port,
    token,
    generation,
    requests,
    fail: (fault) => void faults.push({ ...fault, left: fault.times ?? 1, passing: fault.skip ?? 0 }),
    during: (match, action, times = 1) => void actions.push({ match, action, left: times, passing: 0 }),
    heal: () => {
      faults.length = 0;
      actions.length = 0;
    },
    deleteBlob: (digest) => void store.blobs.delete(hexOf(digest)),
    damageBlob: (digest, change) => void store.blobs.set(hexOf(digest), change(Buffer.from(blobOf(store, digest)))),
    stop: () => close(server),
    start: () => listen(server, port, host),
  };
}

/** Pushes to the epoch at `url`. */
export function publisher(url: string, token: string): Publisher {
  const push = async (repo: string, tag: string | null, artifact: Artifact) => {
    await pushTo(url, token, repo, tag, artifact);
    return artifact;
  };
  return {
    push,
    pushImage: (repo, tag, options) => push(repo, tag, imageArtifact(options)),
    pushContainer: (repo, tag, options) => push(repo, tag, containerArtifact(options)),
    pushIndex: (repo, tag, children, mediaType) => push(repo, tag, indexArtifact(children, mediaType)),
    pushSnapshot: (repo, tag, options) => push(repo, tag, snapshotArtifact(options)),
    deleteTag: async (repo, tag) => {
      const headers = { authorization: `Bearer ${token}` };
      const gone = await fetch(`${url}/v2/${repo}/manifests/${tag}`, { method: 'DELETE', headers });
      if (gone.status !== 202) throw new Error(`DELETE ${repo}:${tag}: ${gone.status} ${await gone.text()}`);
    },
  };
}

// --- What is stored -------------------------------------------------------------------------------------------------

interface Store {
  /** By bare hex, over all repositories. */
  blobs: Map<string, Buffer>;
  /** Repository → tag → manifest. */
  tags: Map<string, Map<string, Buffer>>;
  /** Repository → manifest digest → manifest; never overwritten by a push. */
  byDigest: Map<string, Map<string, Buffer>>;
  uploads: Map<string, Buffer[]>;
  /** What /api serves: the state at the last sync. */
  catalog: Map<string, CatalogRepository>;
}

interface CatalogRepository {
  id: number;
  createdAt: string;
  updatedAt: string;
  tags: Map<string, CatalogTag>;
}

interface CatalogTag {
  id: number;
  digest: string;
  artifactType: string;
  kind: string;
  manifest: Manifest;
  totalSize: number;
  layerCount: number;
  platformSizes: { digest: string; size: number; layerCount: number }[];
  pushedAt: string;
  syncedAt: string;
}

interface Settings {
  generation: 'april' | 'may';
  token: string;
  publicUrl: string | undefined;
  store: Store;
}

function blobOf(store: Store, digest: string): Buffer {
  const blob = store.blobs.get(hexOf(digest));
  if (!blob) throw new Error(`no blob ${digest}`);
  return blob;
}

function manifestOf(store: Store, repo: string, reference: string): Buffer | undefined {
  const shelf = reference.startsWith('sha256:') ? store.byDigest : store.tags;
  return shelf.get(repo)?.get(reference);
}

function shelve(shelf: Map<string, Map<string, Buffer>>, repo: string, key: string, manifest: Buffer): void {
  shelf.set(repo, (shelf.get(repo) ?? new Map<string, Buffer>()).set(key, manifest));
}

function unlinkTag(store: Store, repo: string, tag: string): void {
  const tags = store.tags.get(repo);
  tags?.delete(tag);
  if (tags?.size === 0) store.tags.delete(repo);
}

function kindOf(manifest: Manifest): string {
  if (manifest.artifactType === MEDIA.osImage || manifest.artifactType === MEDIA.windowsImage) return 'cloud-image';
  if (manifest.artifactType === MEDIA.snapshot) return 'snapshot';
  const config = manifest.config?.mediaType;
  if (config === MEDIA.containerConfig || config === MEDIA.dockerConfig) return 'container-image';
  if (manifest.mediaType === MEDIA.index || manifest.mediaType === MEDIA.dockerIndex) return 'image-index';
  return 'unknown';
}

/** The manifest as fields; undefined where the stored JSON is no object. */
function parseManifest(raw: Buffer): Manifest | undefined {
  const value: unknown = JSON.parse(raw.toString());
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Manifest) : undefined;
}

// --- Requests and answers -------------------------------------------------------------------------------------------

interface Request {
  method: string;
  path: string;
  query: URLSearchParams;
  headers: IncomingHttpHeaders;
  body: Buffer;
}

interface Answer {
  status: number;
  headers: Record<string, string>;
  body: Buffer;
  /** No Content-Length unless the body is tiny, as Go's server does for streams. */
  streamed?: boolean;
}

type Handler = (settings: Settings, request: Request, name: string, part: string) => Answer;

const ROUTES: readonly [method: string, path: RegExp, handler: Handler][] = [
  ['GET', /^\/v2\/$/, checkVersion],
  ['HEAD', /^\/v2\/$/, checkVersion],
  ['GET', /^\/v2\/_catalog$/, listRepositories],
  ['HEAD', /^\/v2\/_catalog$/, listRepositories],
  ['GET', /^\/v2\/token$/, issueToken],
  ['POST', /^\/v2\/token$/, issueToken],
  ['GET', /^\/v2\/(.+)\/manifests\/([^/]+)$/, getManifest],
  ['HEAD', /^\/v2\/(.+)\/manifests\/([^/]+)$/, getManifest],
  ['PUT', /^\/v2\/(.+)\/manifests\/([^/]+)$/, putManifest],
  ['DELETE', /^\/v2\/(.+)\/manifests\/([^/]+)$/, deleteManifest],
  ['GET', /^\/v2\/(.+)\/tags\/list$/, listTags],
  ['POST', /^\/v2\/(.+)\/blobs\/uploads\/$/, startUpload],
  ['PATCH', /^\/v2\/(.+)\/blobs\/uploads\/([^/]+)$/, appendUpload],
  ['PUT', /^\/v2\/(.+)\/blobs\/uploads\/([^/]+)$/, finishUpload],
  ['GET', /^\/v2\/(.+)\/blobs\/([^/]+)$/, getBlob],
  ['HEAD', /^\/v2\/(.+)\/blobs\/([^/]+)$/, getBlob],
  [
    'PUT',
    /^\/v2\/(.+)\/blobs\/([^/]+)$/,
    (settings, request, name, part) => {
      return storeBlob(settings, name, `sha256:${hexOf(part)}`, request.body);
    },
  ],
  ['GET', /^\/api\/stats$/, apiStats],
  ['GET', /^\/api\/repositories$/, apiRepositories],
  ['POST', /^\/api\/catalog\/sync$/, apiSync],
  ['GET', /^\/api\/repositories\/(.+)\/tags\/([^/]+)$/, apiTag],
  ['DELETE', /^\/api\/repositories\/(.+)\/tags\/([^/]+)$/, apiDeleteTag],
  ['GET', /^\/api\/repositories\/(.+)\/tags$/, apiTags],
  ['GET', /^\/api\/repositories\/(.+)$/, apiRepository],
  ['GET', /^\/dl\/(.+)$/, download],
  [
    'GET',
    /^\/healthz$/,
    () => ({ status: 200, headers: { 'Content-Type': 'text/plain; charset=utf-8' }, body: Buffer.from('ok') }),
  ],
];

const CORS = {
  'Access-Control-Allow-Origin': '*',
  'Access-Control-Allow-Methods': 'GET, HEAD, PUT, DELETE, POST, OPTIONS',
  'Access-Control-Allow-Headers': 'Content-Type',
};

function answer(settings: Settings, request: Request): Answer {
  const given = request.method === 'OPTIONS' ? empty(204) : (refusal(settings, request) ?? route(settings, request));
  return { ...given, headers: { ...CORS, ...given.headers } };
}

/** The 401 to a request that needs a token and has none, or undefined where the request may go on. */
function refusal(settings: Settings, request: Request): Answer | undefined {
  if (!request.path.startsWith('/v2/') || request.path === '/v2/token') return undefined;
  const writes = ['PUT', 'POST', 'PATCH', 'DELETE'].includes(request.method);
  if (!writes && request.path !== '/v2/') return undefined;
  if (request.headers.authorization === `Bearer ${settings.token}`) return undefined;
  const message = request.path === '/v2/' ? 'authentication required' : 'valid Bearer token required';
  const challenge = `Bearer realm="${publicBase(settings, request)}/v2/token",service="epoch"`;
  return withHeaders(v2Error(401, 'UNAUTHORIZED', message), { 'WWW-Authenticate': challenge });
}

function publicBase(settings: Settings, request: Request): string {
  if (settings.publicUrl) return settings.publicUrl.replace(/\/+$/, '');
  const first = (name: string) =>
    String(request.headers[name] ?? '')
      .split(',')[0]
      ?.trim();
  return `${first('x-forwarded-proto') || 'http'}://${first('x-forwarded-host') || request.headers.host}`;
}

function route(settings: Settings, request: Request): Answer {
  const clean = posix.normalize(request.path);
  if (clean !== request.path) return withHeaders(empty(301), { Location: clean });
  for (const [method, path, handler] of ROUTES) {
    const found = method === request.method ? path.exec(request.path) : null;
    if (found) return handler(settings, request, found[1] ?? '', found[2] ?? '');
  }
  if (request.path === '/v2') return moved('/v2/');
  const bare = request.path.replace(/\/$/, '');
  if (bare.startsWith('/v2/') && ROUTES.some(([method, path]) => method === request.method && path.test(bare)))
    return moved(bare);
  if (request.method !== 'GET') return empty(405);
  if (request.path === '/') return text(200, '<!doctype html><title>epoch</title>', 'text/html; charset=utf-8');
  return plain(404, '404 page not found');
}

function moved(location: string): Answer {
  const page = text(301, `<a href="${location}">Moved Permanently</a>.\n\n`, 'text/html; charset=utf-8');
  return withHeaders(page, { Location: location });
}

function empty(status: number): Answer {
  return { status, headers: {}, body: Buffer.alloc(0) };
}

function text(status: number, body: string, type: string): Answer {
  return { status, headers: { 'Content-Type': type }, body: Buffer.from(body) };
}

/** An error as Go's http.Error writes it. */
function plain(status: number, line: string): Answer {
  return withHeaders(text(status, `${line}\n`, 'text/plain; charset=utf-8'), { 'X-Content-Type-Options': 'nosniff' });
}

function json(status: number, value: unknown): Answer {
  return { ...text(status, JSON.stringify(value), 'application/json'), streamed: true };
}

function v2Error(status: number, code: string, message: string): Answer {
  return json(status, { errors: [{ code, message }] });
}

function withHeaders(given: Answer, headers: Record<string, string>): Answer {
  return { ...given, headers: { ...given.headers, ...headers } };
}

// --- /v2 ------------------------------------------------------------------------------------------------------------

function checkVersion(): Answer {
  return withHeaders(json(200, {}), { 'Docker-Distribution-API-Version': 'registry/2.0' });
}

function listRepositories({ store }: Settings): Answer {
  const names = [...store.tags.keys()].sort();
  return json(200, { repositories: names.length > 0 ? names : null });
}

function issueToken(settings: Settings, request: Request): Answer {
  const candidate = credential(request);
  if (candidate !== '' && candidate !== settings.token) return plain(401, 'invalid credentials');
  const issuedAt = `${new Date().toISOString().slice(0, 19)}Z`;
  return json(200, { token: candidate, access_token: candidate, expires_in: 3600, issued_at: issuedAt });
}

/** The Basic password, whoever the user; else the form or query field. */
function credential(request: Request): string {
  const basic = /^Basic (.+)$/i.exec(request.headers.authorization ?? '')?.[1];
  const password = basic ? Buffer.from(basic, 'base64').toString().split(':').slice(1).join(':') : '';
  if (password) return password;
  const form = new URLSearchParams(request.body.toString());
  for (const field of ['password', 'refresh_token']) {
    const value = form.get(field) ?? request.query.get(field);
    if (value) return value;
  }
  return '';
}

function getManifest({ store }: Settings, request: Request, name: string, reference: string): Answer {
  const raw = manifestOf(store, name, reference);
  if (!raw) {
    if (request.method === 'HEAD') return empty(404);
    return v2Error(404, 'MANIFEST_UNKNOWN', `manifest ${name}:${reference} not found`);
  }
  return withHeaders(
    { status: 200, headers: {}, body: raw },
    {
      'Content-Type': parseManifest(raw)?.mediaType || MEDIA.manifest,
      'Docker-Content-Digest': digestOf(raw),
    },
  );
}

function putManifest({ store }: Settings, request: Request, name: string, reference: string): Answer {
  try {
    JSON.parse(request.body.toString());
  } catch {
    return v2Error(400, 'MANIFEST_INVALID', 'invalid JSON');
  }
  const digest = digestOf(request.body);
  const isDigest = reference.startsWith('sha256:');
  if (isDigest && reference !== digest) {
    return v2Error(400, 'DIGEST_INVALID', `manifest digest ${digest} does not match reference ${reference}`);
  }
  shelve(store.byDigest, name, digest, request.body);
  if (!isDigest) shelve(store.tags, name, reference, request.body);
  return withHeaders(empty(201), { 'Docker-Content-Digest': digest, Location: `/v2/${name}/manifests/${reference}` });
}

/** A missing tag is deleted like any other; a digest takes its tags along. */
function deleteManifest({ store }: Settings, _request: Request, name: string, reference: string): Answer {
  if (!reference.startsWith('sha256:')) {
    unlinkTag(store, name, reference);
    return empty(202);
  }
  if (!store.byDigest.get(name)?.delete(reference)) {
    return v2Error(404, 'MANIFEST_UNKNOWN', `manifest ${name}:${reference} not found`);
  }
  for (const [tag, raw] of store.tags.get(name) ?? []) {
    if (digestOf(raw) === reference) unlinkTag(store, name, tag);
  }
  return empty(202);
}

/** Tags in the order of the object keys `<tag>.json`; a repository that nobody knows is an empty one. */
function listTags({ store }: Settings, _request: Request, name: string): Answer {
  const keys = [...(store.tags.get(name)?.keys() ?? [])].map((tag) => `${tag}.json`).sort();
  return json(200, { name, tags: keys.map((key) => key.slice(0, -'.json'.length)) });
}

function startUpload(settings: Settings, request: Request, name: string): Answer {
  const digest = request.query.get('digest');
  if (digest) return storeBlob(settings, name, digest, request.body);
  const id = randomUUID();
  settings.store.uploads.set(id, []);
  return uploadState(name, id, '0-0');
}

function appendUpload({ store }: Settings, request: Request, name: string, id: string): Answer {
  const upload = store.uploads.get(id);
  if (!upload) return v2Error(404, 'BLOB_UPLOAD_UNKNOWN', 'upload session not found');
  upload.push(request.body);
  return uploadState(name, id, `0-${Buffer.concat(upload).length - 1}`);
}

function finishUpload(settings: Settings, request: Request, name: string, id: string): Answer {
  const upload = settings.store.uploads.get(id);
  settings.store.uploads.delete(id);
  const digest = request.query.get('digest');
  if (!digest) return v2Error(400, 'DIGEST_INVALID', 'digest query parameter required');
  if (!upload) return v2Error(404, 'BLOB_UPLOAD_UNKNOWN', 'upload session not found');
  return storeBlob(settings, name, digest, Buffer.concat([...upload, request.body]));
}

function uploadState(name: string, id: string, range: string): Answer {
  const location = `/v2/${name}/blobs/uploads/${id}`;
  return withHeaders(empty(202), { Location: location, 'Docker-Upload-UUID': id, Range: range });
}

/** A blob that is already there is kept, whatever its bytes are by now. */
function storeBlob({ store }: Settings, name: string, digest: string, body: Buffer): Answer {
  const got = digestOf(body);
  if (got !== digest) return v2Error(400, 'DIGEST_INVALID', `digest mismatch: got ${got}, expected ${digest}`);
  if (!store.blobs.has(hexOf(digest))) store.blobs.set(hexOf(digest), body);
  return withHeaders(empty(201), { Location: `/v2/${name}/blobs/${digest}`, 'Docker-Content-Digest': digest });
}

function getBlob({ store }: Settings, request: Request, _name: string, digest: string): Answer {
  const blob = store.blobs.get(hexOf(digest));
  if (!blob) return request.method === 'HEAD' ? empty(404) : v2Error(404, 'BLOB_UNKNOWN', 'blob not found');
  const headers = { 'Content-Type': MEDIA.bytes, 'Docker-Content-Digest': `sha256:${hexOf(digest)}` };
  return { status: 200, headers, body: blob };
}

// --- /dl ------------------------------------------------------------------------------------------------------------

function download(settings: Settings, _request: Request, path: string): Answer {
  const { store, generation } = settings;
  const cut = generation === 'may' ? path.lastIndexOf('/') : -1;
  const [name, reference] = cut > 0 ? [path.slice(0, cut), path.slice(cut + 1)] : [path, 'latest'];
  const direct = manifestOf(store, name, reference);
  const raw = direct ?? manifestOf(store, path, 'latest');
  if (!raw) return plain(404, 'artifact not found');
  const given = stream(settings, parseManifest(raw), direct ? name : path);
  if (direct) return given;
  return withHeaders(given, { Deprecation: 'true', Link: `</dl/${path}/latest>; rel="successor-version"` });
}

function stream(settings: Settings, manifest: Manifest | undefined, name: string): Answer {
  if (!manifest) return plain(500, 'internal server error');
  switch (kindOf(manifest)) {
    case 'cloud-image':
      return streamed(settings, MEDIA.bytes, diskBytes(settings.store, manifest));
    case 'snapshot':
      return streamed(settings, MEDIA.tar, snapshotTar(settings.store, manifest, name));
    case 'container-image':
      return plain(405, 'container image — pull via OCI client (oras / crane / docker)');
    default:
      return plain(405, 'unknown artifact kind');
  }
}

/** The bytes sent before something went wrong; only the May server looks at the first byte before it says 200. */
function streamed(settings: Settings, type: string, body: Buffer): Answer {
  if (settings.generation === 'may' && body.length === 0) return plain(500, 'internal server error');
  return { status: 200, headers: { 'Content-Type': type }, body, streamed: true };
}

/** All parts in order of their titles, up to the first that is missing, short, long or wrong. */
function diskBytes(store: Store, manifest: Manifest): Buffer {
  const sent: Buffer[] = [];
  for (const layer of byTitle((manifest.layers ?? []).filter(isDiskLayer), (descriptor) => descriptor)) {
    const { bytes, sound } = blobFor(store, layer);
    sent.push(bytes);
    if (!sound) break;
  }
  return Buffer.concat(sent);
}

interface SnapshotFile {
  mode?: number;
  sparseMap?: string;
  sparseSize?: number;
}

/** An archive for `snapshot import`; a broken one ends at the last full write buffer. */
function snapshotTar(store: Store, manifest: Manifest, name: string): Buffer {
  const config = manifest.config && store.blobs.get(hexOf(manifest.config.digest));
  if (!config) return Buffer.alloc(0);
  const { files = {}, ...known } = JSON.parse(config.toString()) as { files?: Record<string, SnapshotFile> };
  const envelope = { version: 1, config: cocoonRecord(known, name) };
  const members = [makeTar([{ name: 'snapshot.json', data: Buffer.from(`${JSON.stringify(envelope, null, 2)}\n`) }])];
  for (const layer of manifest.layers ?? []) {
    const { bytes, sound } = blobFor(store, layer);
    const title = layer.annotations?.[TITLE] ?? '';
    const { mode = 0o640, sparseMap, sparseSize } = files[title] ?? {};
    const sparse = sparseMap && { 'COCOON.sparse.map': sparseMap, 'COCOON.sparse.size': String(sparseSize) };
    members.push(makeTar([{ name: title, data: bytes, mode, ...(sparse ? { pax: sparse } : {}) }]));
    if (!sound) return flushed(Buffer.concat(members.map(withoutEnd)));
  }
  return Buffer.concat([...members.map(withoutEnd), Buffer.alloc(1024)]);
}

const WRITE_BUFFER = 256 * 1024;

function flushed(bytes: Buffer): Buffer {
  return bytes.subarray(0, Math.floor(bytes.length / WRITE_BUFFER) * WRITE_BUFFER);
}

function withoutEnd(archive: Buffer): Buffer {
  return archive.subarray(0, -1024);
}

/** The `config` of snapshot.json from a config blob: cocoon's spelling, under the name it was asked for by. */
function cocoonRecord(config: Record<string, unknown>, name: string): Record<string, unknown> {
  const known = Object.keys(
    makeSnapshotConfig({ image: '-', imageDigest: '-', description: '-', network: '-', nics: 1 }),
  );
  const record = Object.entries(config).map(([key, value]) => {
    return [key === 'snapshotId' ? 'id' : key === 'imageBlobIds' ? 'image_blob_ids' : snake(key), value] as const;
  });
  return { ...Object.fromEntries(record.filter(([key]) => known.includes(key))), name };
}

function snake(key: string): string {
  return key.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}

/** What is sent of one blob, and whether it was what its descriptor says. */
function blobFor(store: Store, descriptor: Descriptor): { bytes: Buffer; sound: boolean } {
  const blob = store.blobs.get(hexOf(descriptor.digest)) ?? Buffer.alloc(0);
  const sound = blob.length === descriptor.size && digestOf(blob) === descriptor.digest;
  return { bytes: blob.subarray(0, descriptor.size), sound };
}

// --- /api -----------------------------------------------------------------------------------------------------------

function apiSync({ store }: Settings): Answer {
  const now = `${new Date().toISOString().slice(0, 19)}Z`;
  for (const name of store.catalog.keys()) if (!store.tags.has(name)) store.catalog.delete(name);
  for (const [name, tags] of store.tags) {
    const known = store.catalog.get(name) ?? {
      id: nextId(store.catalog),
      createdAt: now,
      updatedAt: now,
      tags: new Map(),
    };
    known.updatedAt = now;
    store.catalog.set(name, known);
    for (const tag of known.tags.keys()) if (!tags.has(tag)) known.tags.delete(tag);
    for (const [tag, raw] of tags) syncTag(store, name, known, tag, raw, now);
  }
  return json(200, { status: 'synced' });
}

function syncTag(store: Store, repo: string, into: CatalogRepository, tag: string, raw: Buffer, now: string): void {
  const manifest = parseManifest(raw);
  const digest = hexOf(digestOf(raw));
  const known = into.tags.get(tag);
  if (!manifest || known?.digest === digest) return;
  const kind = kindOf(manifest);
  const platformSizes = kind === 'image-index' ? childSizes(store, repo, manifest) : [];
  into.tags.set(tag, {
    id: known?.id ?? nextId(into.tags),
    digest,
    artifactType: manifest.artifactType ?? '',
    kind,
    manifest,
    totalSize: kind === 'image-index' ? total(platformSizes) : sizeOf(manifest),
    layerCount: kind === 'image-index' ? (manifest.manifests ?? []).length : (manifest.layers ?? []).length,
    platformSizes,
    pushedAt: manifest.annotations?.[CREATED] ?? now,
    syncedAt: now,
  });
}

function childSizes(store: Store, repo: string, manifest: Manifest): CatalogTag['platformSizes'] {
  return (manifest.manifests ?? []).flatMap((child) => {
    const raw = manifestOf(store, repo, child.digest);
    const parsed = raw && parseManifest(raw);
    return parsed ? [{ digest: child.digest, size: sizeOf(parsed), layerCount: (parsed.layers ?? []).length }] : [];
  });
}

function sizeOf(manifest: Manifest): number {
  return (manifest.config?.size ?? 0) + total(manifest.layers ?? []);
}

function total(items: readonly { size: number }[]): number {
  return items.reduce((sum, item) => sum + item.size, 0);
}

function nextId(rows: Map<string, { id: number }>): number {
  return Math.max(0, ...[...rows.values()].map((row) => row.id)) + 1;
}

function apiStats({ store }: Settings): Answer {
  const tags = [...store.catalog.values()].flatMap((repo) => [...repo.tags.values()]);
  const digests = tags.flatMap(({ manifest }) =>
    [manifest.config, ...(manifest.layers ?? [])].map((blob) => blob?.digest),
  );
  return json(200, {
    repositoryCount: store.catalog.size,
    tagCount: tags.length,
    blobCount: new Set(digests.filter(Boolean)).size,
    totalSize: distinctSize(tags),
  });
}

function distinctSize(tags: readonly CatalogTag[]): number {
  return [...new Map(tags.map((tag) => [tag.digest, tag.totalSize])).values()].reduce((sum, size) => sum + size, 0);
}

function repositoryRow(name: string, repo: CatalogRepository): Record<string, unknown> {
  const tags = newestFirst(repo);
  const newest = tags[0]?.[1];
  return {
    id: repo.id,
    name,
    tagCount: tags.length,
    totalSize: distinctSize(tags.map(([, tag]) => tag)),
    ...(newest?.artifactType ? { artifactType: newest.artifactType } : {}),
    ...(newest?.kind ? { kind: newest.kind } : {}),
    createdAt: repo.createdAt,
    updatedAt: repo.updatedAt,
  };
}

function newestFirst(repo: CatalogRepository): [string, CatalogTag][] {
  return [...repo.tags].sort(([, a], [, b]) => b.pushedAt.localeCompare(a.pushedAt) || b.id - a.id);
}

function apiRepositories({ store }: Settings): Answer {
  return json(
    200,
    [...store.catalog].map(([name, repo]) => repositoryRow(name, repo)),
  );
}

function apiRepository({ store }: Settings, _request: Request, name: string): Answer {
  const repo = store.catalog.get(name);
  return repo ? json(200, repositoryRow(name, repo)) : json(404, { error: 'repository not found' });
}

function apiTags({ store }: Settings, _request: Request, repoName: string): Answer {
  const repo = store.catalog.get(repoName);
  const rows = (repo ? newestFirst(repo) : []).map(([name, { id, digest, artifactType, kind, ...tag }]) => ({
    id,
    repoName,
    name,
    digest,
    ...(artifactType ? { artifactType } : {}),
    kind,
    totalSize: tag.totalSize,
    layerCount: tag.layerCount,
    pushedAt: tag.pushedAt,
    syncedAt: tag.syncedAt,
  }));
  return json(200, rows);
}

function apiTag({ store }: Settings, _request: Request, repoName: string, name: string): Answer {
  const tag = store.catalog.get(repoName)?.tags.get(name);
  if (!tag) return json(404, { error: 'tag not found' });
  const { id: _id, platformSizes, ...rest } = tag;
  const config =
    tag.kind === 'snapshot' && tag.manifest.config ? store.blobs.get(hexOf(tag.manifest.config.digest)) : undefined;
  return json(200, {
    repoName,
    tag: name,
    ...rest,
    ...(config ? { snapshotConfig: JSON.parse(config.toString()) as unknown } : {}),
    ...(platformSizes.length > 0 ? { platformSizes } : {}),
  });
}

function apiDeleteTag({ store }: Settings, _request: Request, repoName: string, tag: string): Answer {
  unlinkTag(store, repoName, tag);
  store.catalog.get(repoName)?.tags.delete(tag);
  return empty(204);
}

// --- The wire -------------------------------------------------------------------------------------------------------

type Armed<T extends { match: RequestMatch }> = T & { left: number; passing: number };

/** The first rule that is due for this request, used up by one. */
function take<T extends { match: RequestMatch }>(rules: Armed<T>[], request: LoggedRequest): Armed<T> | undefined {
  for (const rule of rules) {
    if (rule.left <= 0 || !matches(rule.match, request)) continue;
    if (rule.passing > 0) {
      rule.passing -= 1;
      continue;
    }
    rule.left -= 1;
    return rule;
  }
  return undefined;
}

function matches(match: RequestMatch, request: LoggedRequest): boolean {
  return match instanceof RegExp ? match.test(`${request.method} ${request.path}`) : match(request);
}

function parse(logged: LoggedRequest, body: Buffer): Request {
  const [path = '', query = ''] = logged.path.split('?', 2);
  const { method, headers } = logged;
  return { method, path: decodeURIComponent(path), query: new URLSearchParams(query), headers, body };
}

async function readBody(incoming: IncomingMessage): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of incoming) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks);
}

/** Sends the answer, spoiled as the fault says. */
function transmit(logged: LoggedRequest, response: ServerResponse, sound: Answer, fault: Fault | undefined): void {
  if (fault?.how === 'hang') return;
  if (fault?.how === 'reset') {
    response.socket?.resetAndDestroy();
    return;
  }
  const given = fault ? spoil(logged.path, sound, fault) : sound;
  const noBody = logged.method === 'HEAD' || given.status === 204;
  logged.status = given.status;
  response.writeHead(given.status, { ...given.headers, ...lengthOf(logged.method, given) });
  const breaks = fault?.how === 'cut' || fault?.how === 'stall';
  if (!breaks) {
    if (!noBody) response.write(given.body);
    response.end();
    return;
  }
  response.write(given.body.subarray(0, given.body.length / 2), () => {
    if (fault.how === 'cut') response.destroy();
  });
}

function lengthOf(method: string, given: Answer): Record<string, string> {
  if (given.status === 204 || (method === 'HEAD' && given.body.length === 0)) return {};
  if (given.streamed && given.body.length > 2048) return {};
  return { 'Content-Length': String(given.body.length) };
}

function spoil(path: string, sound: Answer, fault: Fault): Answer {
  if (typeof fault.how === 'number') {
    const body = fault.body ?? JSON.stringify({ errors: [{ code: 'UNAVAILABLE', message: 'try again later' }] });
    const retry: Record<string, string> =
      fault.retryAfter === undefined ? {} : { 'Retry-After': String(fault.retryAfter) };
    return withHeaders(text(fault.how, body, 'application/json'), { ...retry, ...fault.headers });
  }
  switch (fault.how) {
    case 'html':
      return text(200, '<!DOCTYPE html>\n<html><body>Please sign in</body></html>\n', 'text/html; charset=utf-8');
    case 'outage':
      return outage(path);
    case 'short':
      return { ...sound, body: sound.body.subarray(0, sound.body.length / 2) };
    case 'flip':
      return { ...sound, body: flipped(sound.body) };
    case 'reset':
    case 'hang':
    case 'cut':
    case 'stall':
      return sound; // the connection is spoiled, not the answer
  }
}

function outage(path: string): Answer {
  const repo = /^\/v2\/(.+)\/tags\/list/.exec(path)?.[1];
  if (repo) return v2Error(404, 'NAME_UNKNOWN', `repository ${JSON.stringify(repo)} not found`);
  if (!path.startsWith('/v2/')) return plain(500, 'internal server error');
  return v2Error(500, 'INTERNAL_ERROR', 'stat object: dial tcp 127.0.0.1:9000: connect: connection refused');
}

function flipped(body: Buffer): Buffer {
  const copy = Buffer.from(body);
  const middle = Math.floor(copy.length / 2);
  copy[middle] = (copy[middle] ?? 0) ^ 1;
  return copy;
}

function listen(server: Server, port: number, host: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(port, host, () => {
      server.off('error', reject);
      resolve();
    });
  });
}

function close(server: Server): Promise<void> {
  return new Promise((resolve) => {
    server.close(() => resolve());
    server.closeAllConnections();
  });
}
