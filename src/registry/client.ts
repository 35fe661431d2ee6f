/** Epoch and OCI registries over HTTP: manifests, blobs and tags, each answer validated and bounded. */
import { createHash } from 'node:crypto';
import type { Manifest } from '../core/artifact.ts';
import { fault, type ReconcileError } from '../core/errors.ts';
import { array, digest, object, optionalText, parseJson, ShapeError, size, text } from '../core/json.ts';
import { clip } from '../core/text.ts';
import { createHttp, registryCode, type HttpOptions } from './http.ts';
import type { HttpResponse } from './request.ts';

const MAX_MANIFEST_BYTES = 4 * 2 ** 20;
const MAX_CONFIG_BYTES = 4 * 2 ** 20;
const MAX_ERROR_BYTES = 65_536;
const HEAD_BYTES = 104;

/** What the pipeline asks of a registry. Every call may throw ReconcileError REGISTRY_* or TAG_NOT_FOUND. */
export interface Registry {
  /** The manifest of a tag or `sha256:` digest. TAG_NOT_FOUND where there is none. */
  manifest(repository: string, reference: string, signal: AbortSignal): Promise<Manifest>;
  /** The tags of a repository, none where it is unknown. */
  tags(repository: string, signal: AbortSignal): Promise<string[]>;
  /** The length of a blob in bytes, or null where the registry does not have it. */
  blobSize(repository: string, blob: string, signal: AbortSignal): Promise<number | null>;
  /** The first bytes of a blob, at most 104: the header of a disk image. */
  blobHead(repository: string, blob: string, signal: AbortSignal): Promise<Uint8Array>;
  /** A small JSON blob, compared with its digest. */
  blobJson(repository: string, blob: string, signal: AbortSignal): Promise<unknown>;
  /** A small text blob, compared with its digest. */
  blobText(repository: string, blob: string, signal: AbortSignal): Promise<string>;
  /**
   * The bytes of a blob as they come. Ends early, without an error, where the registry ends early: count them.
   * The deadline is one of silence: it begins anew with each chunk.
   */
  blobStream(repository: string, blob: string, signal: AbortSignal): AsyncIterable<Buffer>;
  /** Whether `/dl/REPOSITORY/TAG` is served: newer epochs take the last segment as a tag, older ones do not (E.6). */
  servesTagPath(repository: string, tag: string, signal: AbortSignal): Promise<boolean>;
  /** Asks for nothing but a sign of life; throws where there is none. */
  ping(signal: AbortSignal): Promise<void>;
  /** Loads what the first question needs, and asks nothing. */
  warmUp(): Promise<void>;
  /** Whether any valid answer has come from the registry yet. */
  hasAnswered(): boolean;
  close(): Promise<void>;
}

/** Builds the client, to be closed by the caller. */
export function createRegistry(options: HttpOptions): Registry {
  const http = createHttp(options);
  let answered = false;

  /** A valid document, or the error that says which place of it is not. */
  const parse = <T>(method: string, path: string, read: () => T): T => {
    try {
      const value = read();
      answered = true;
      return value;
    } catch (error) {
      if (!(error instanceof ShapeError)) throw error;
      throw fault('REGISTRY_ANSWER_INVALID', { method, url: `${options.url}${path}`, what: error.message }, error);
    }
  };

  /** 404 in the registry's own words is an answer; anything else that is no 200 is none. */
  const explainRefusal = (method: string, path: string, response: HttpResponse): ReconcileError | null => {
    if (response.status === 404 && (method === 'HEAD' || registryCode(response.body) !== null)) {
      answered = true;
      return null;
    }
    if (wantsLogin(response)) return loginNeeded(method, `${options.url}${path}`, response, options);
    const body = response.body.length > 0 ? `: ${clip(response.body.toString('utf8'), 120)}` : '';
    return fault('REGISTRY_ANSWER_INVALID', {
      method,
      url: `${options.url}${path}`,
      what: `status ${response.status}${body}`,
    });
  };

  const tags: Registry['tags'] = async (repository, signal) => {
    const path = `/v2/${repository}/tags/list`;
    const response = await http.send({ method: 'GET', repository, path, take: { atMost: MAX_MANIFEST_BYTES } }, signal);
    if (response.status !== 200) {
      const error = explainRefusal('GET', path, response);
      if (error !== null) throw error;
      return [];
    }
    return parse('GET', path, () => {
      const list = object(parseJson(response.body.toString('utf8'), 'the answer'), 'the answer')['tags'] ?? [];
      return array(list, 'tags', 100_000).map((tag, i) => text(tag, `tags[${i}]`, 128));
    });
  };

  const blobText: Registry['blobText'] = async (repository, blob, signal) => {
    const path = `/v2/${repository}/blobs/${blob}`;
    const response = await http.send({ method: 'GET', repository, path, take: { atMost: MAX_CONFIG_BYTES } }, signal);
    if (response.status !== 200) {
      if (wantsLogin(response)) throw loginNeeded('GET', `${options.url}${path}`, response, options);
      throw fault('REGISTRY_BLOB_MISSING', { repository, digest: blob, detail: `status ${response.status}` });
    }
    return parse('GET', path, () => {
      if (sha256(response.body) !== blob) throw new ShapeError('the bytes do not have the digest that was asked for');
      return response.body.toString('utf8');
    });
  };

  return {
    tags,
    async manifest(repository, reference, signal) {
      const path = `/v2/${repository}/manifests/${reference}`;
      const response = await http.send(
        { method: 'GET', repository, path, take: { atMost: MAX_MANIFEST_BYTES } },
        signal,
      );
      if (response.status !== 200) {
        const error = explainRefusal('GET', path, response);
        if (error !== null) throw error;
        const known = await tags(repository, signal).catch(() => []);
        throw fault('TAG_NOT_FOUND', { repository, tag: reference, known });
      }
      return parse('GET', path, () => parseManifest(response, reference));
    },
    async blobSize(repository, blob, signal) {
      const path = `/v2/${repository}/blobs/${blob}`;
      const response = await http.send({ method: 'HEAD', repository, path, take: { atMost: 0 } }, signal);
      if (response.status === 200)
        return parse('HEAD', path, () => size(Number(response.headers['content-length']), 'Content-Length'));
      const error = explainRefusal('HEAD', path, response);
      if (error !== null) throw error;
      return null;
    },
    async blobHead(repository, blob, signal) {
      const path = `/v2/${repository}/blobs/${blob}`;
      const response = await http.send({ method: 'GET', repository, path, take: { first: HEAD_BYTES } }, signal);
      if (response.status !== 200 && response.status !== 206) {
        if (wantsLogin(response)) throw loginNeeded('GET', `${options.url}${path}`, response, options);
        throw fault('REGISTRY_BLOB_MISSING', { repository, digest: blob, detail: `status ${response.status}` });
      }
      return response.body.subarray(0, HEAD_BYTES);
    },
    blobText,
    async blobJson(repository, blob, signal) {
      const content = await blobText(repository, blob, signal);
      return parse('GET', `/v2/${repository}/blobs/${blob}`, () => parseJson(content, 'the blob'));
    },
    blobStream: (repository, blob, signal) => http.stream(repository, `/v2/${repository}/blobs/${blob}`, signal),
    async servesTagPath(repository, tag, signal) {
      const path = `/dl/${repository}/${tag}`;
      const response = await http.send({ method: 'GET', repository, path, take: { first: 1 } }, signal);
      if (wantsLogin(response)) throw loginNeeded('GET', `${options.url}${path}`, response, options);
      return response.status === 200 || response.status === 206;
    },
    async ping(signal) {
      const response = await http.send(
        { method: 'GET', repository: '', path: '/v2/', take: { atMost: MAX_ERROR_BYTES } },
        signal,
      );
      if (response.status === 200 || registryCode(response.body) !== null) answered = true;
      else throw explainRefusal('GET', '/v2/', response) ?? new Error('unreachable');
    },
    hasAnswered: () => answered,
    warmUp: async () => await http.warmUp(),
    close: async () => await http.close(),
  };
}

/** The registry knows what it is asked for, and wants to know who asks. A 403 that is no word of a registry is a proxy's. */
function wantsLogin({ status, body }: HttpResponse): boolean {
  return status === 401 || (status === 403 && registryCode(body) !== null);
}

function loginNeeded(
  method: string,
  url: string,
  { status, stranger }: HttpResponse,
  { token, login }: HttpOptions,
): ReconcileError {
  const sent =
    token !== null
      ? 'the token of the config was sent, and does not do'
      : login?.credentials != null
        ? `the login of ${login.looked} was sent, and does not do`
        : login === null
          ? 'none was sent'
          : `none was found in ${login.looked}`;
  const looked = stranger === null ? sent : `${stranger} wants it, and was not sent the one for the registry itself`;
  return fault('REGISTRY_LOGIN_NEEDED', { method, url, status, looked });
}

function sha256(bytes: Buffer): string {
  return `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
}

/** What the registry calls a document that does not say it itself, as an OCI index need not. */
function contentType({ headers }: HttpResponse): string | null {
  const [type = ''] = String(headers['content-type'] ?? '').split(';');
  return type.trim() === '' ? null : type.trim();
}

/** What the annotations say of it; whatever else they hold is nobody's trouble. */
function createdAtOf(annotations: unknown): string | null {
  if (typeof annotations !== 'object' || annotations === null) return null;
  const said: unknown = Reflect.get(annotations, 'org.opencontainers.image.created');
  return typeof said === 'string' && !Number.isNaN(Date.parse(said)) ? said : null;
}

function parseManifest(response: HttpResponse, reference: string): Manifest {
  const computed = sha256(response.body);
  const claimed = response.headers['docker-content-digest'];
  if (claimed !== undefined && claimed !== computed)
    throw new ShapeError('Docker-Content-Digest does not fit the body');
  if (reference.startsWith('sha256:') && reference !== computed)
    throw new ShapeError('the body does not have the digest that was asked for');
  const document = object(parseJson(response.body.toString('utf8'), 'the manifest'), 'the manifest');
  const config = document['config'] === undefined ? null : object(document['config'], 'config');
  return {
    digest: computed,
    mediaType: optionalText(document['mediaType'], 'mediaType') ?? contentType(response),
    artifactType: optionalText(document['artifactType'], 'artifactType'),
    configMediaType: config === null ? null : optionalText(config['mediaType'], 'config.mediaType'),
    configDigest: config === null ? null : digest(config['digest'], 'config.digest'),
    createdAt: createdAtOf(document['annotations']),
    layers: array(document['layers'] ?? [], 'layers', 10_000).map((item, i) => {
      const layer = object(item, `layers[${i}]`);
      const annotations = object(layer['annotations'] ?? {}, `layers[${i}].annotations`);
      return {
        mediaType: text(layer['mediaType'], `layers[${i}].mediaType`),
        digest: digest(layer['digest'], `layers[${i}].digest`),
        sizeBytes: size(layer['size'], `layers[${i}].size`),
        title: optionalText(annotations['org.opencontainers.image.title'], `layers[${i}] title`),
      };
    }),
    children: array(document['manifests'] ?? [], 'manifests', 1000).map((item, i) => {
      const child = object(item, `manifests[${i}]`);
      const platform = object(child['platform'] ?? {}, `manifests[${i}].platform`);
      return {
        digest: digest(child['digest'], `manifests[${i}].digest`),
        os: optionalText(platform['os'], `manifests[${i}].platform.os`),
        architecture: optionalText(platform['architecture'], `manifests[${i}].platform.architecture`),
      };
    }),
  };
}
