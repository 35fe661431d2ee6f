/** Epoch over HTTP: manifests, blobs and tags, each answer validated and bounded (contract §E). */
import { createHash } from 'node:crypto';
import { Agent, type Dispatcher } from 'undici';
import type { Manifest } from '../core/desired.ts';
import { fault, ReconcileError } from '../core/errors.ts';
import { array, digest, object, optionalText, parseJson, ShapeError, size, text } from '../core/json.ts';
import { clip } from '../core/text.ts';
import { withRetries } from './retry.ts';

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
  /** Whether `/dl/REPOSITORY/TAG` is served: newer epochs take the last segment as a tag, older ones do not (E.6). */
  servesTagPath(repository: string, tag: string, signal: AbortSignal): Promise<boolean>;
  /** Asks for nothing but a sign of life; throws where there is none. */
  ping(signal: AbortSignal): Promise<void>;
  /** Whether any valid answer has come from the registry yet. */
  hasAnswered(): boolean;
  close(): Promise<void>;
}

export interface RegistryOptions {
  url: string;
  token: string | null;
  ca: string | null;
  /** Deadline of one request in ms. */
  timeoutMs: number;
  retries: number;
}

/**
 * How much of a body is wanted: all of it, refusing more than `atMost` bytes; or its `first` bytes, after which the
 * connection is dropped, because epoch ignores ranges (E.1).
 */
type Take = { atMost: number } | { first: number };

/** A validated HTTP exchange. */
interface Answer {
  status: number;
  headers: Record<string, string | string[] | undefined>;
  body: Buffer;
}

/** Builds the client: one keep-alive pool, closed by the caller. */
export function createRegistry(options: RegistryOptions): Registry {
  const agent = new Agent({
    connections: 8,
    connect: { timeout: options.timeoutMs, ...(options.ca === null ? {} : { ca: options.ca }) },
    headersTimeout: options.timeoutMs,
    bodyTimeout: options.timeoutMs,
  });
  let answered = false;

  /** One request, tried again on 429, 5xx and lost connections. Statuses below 500 are the caller's to judge. */
  const request = async (method: 'GET' | 'HEAD', path: string, take: Take, signal: AbortSignal): Promise<Answer> => {
    const url = `${options.url}${path}`;
    return await withRetries(
      { retries: options.retries, pauseMs: 300, maxPauseMs: 5000 },
      signal,
      isTransient,
      async () => {
        try {
          const answer = await exchange(agent, options, method, url, take, signal);
          if (answer.status === 429 || answer.status >= 500) throw new TransientStatus(answer, method, url);
          return answer;
        } catch (error) {
          signal.throwIfAborted();
          if (error instanceof ReconcileError || error instanceof TransientStatus) throw error;
          throw fault('REGISTRY_UNREACHABLE', { method, url, cause: reasonOf(error, options.timeoutMs) }, error);
        }
      },
      retryAfter,
    ).catch((error: unknown) => {
      if (!(error instanceof TransientStatus)) throw error;
      throw fault('REGISTRY_UNREACHABLE', { method, url, cause: error.message });
    });
  };

  /** A valid document, or the error that says which place of it is not. */
  const understood = <T>(method: string, path: string, read: () => T): T => {
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
  const refused = (method: string, path: string, answer: Answer): ReconcileError | null => {
    if (answer.status === 404 && (method === 'HEAD' || registryCode(answer.body) !== null)) {
      answered = true;
      return null;
    }
    const body = answer.body.length > 0 ? `: ${clip(answer.body.toString('utf8'), 120)}` : '';
    return fault('REGISTRY_ANSWER_INVALID', {
      method,
      url: `${options.url}${path}`,
      what: `status ${answer.status}${body}`,
    });
  };

  const tags: Registry['tags'] = async (repository, signal) => {
    const path = `/v2/${repository}/tags/list`;
    const answer = await request('GET', path, { atMost: MAX_MANIFEST_BYTES }, signal);
    if (answer.status !== 200) {
      const error = refused('GET', path, answer);
      if (error !== null) throw error;
      return [];
    }
    return understood('GET', path, () => {
      const list = object(parseJson(answer.body.toString('utf8'), 'the answer'), 'the answer')['tags'] ?? [];
      return array(list, 'tags', 100_000).map((tag, i) => text(tag, `tags[${i}]`, 128));
    });
  };

  return {
    tags,
    async manifest(repository, reference, signal) {
      const path = `/v2/${repository}/manifests/${reference}`;
      const answer = await request('GET', path, { atMost: MAX_MANIFEST_BYTES }, signal);
      if (answer.status !== 200) {
        const error = refused('GET', path, answer);
        if (error !== null) throw error;
        const known = await tags(repository, signal).catch(() => []);
        throw fault('TAG_NOT_FOUND', { repository, tag: reference, known });
      }
      return understood('GET', path, () => parseManifest(answer, reference));
    },
    async blobSize(repository, blob, signal) {
      const path = `/v2/${repository}/blobs/${blob}`;
      const answer = await request('HEAD', path, { atMost: 0 }, signal);
      if (answer.status === 200)
        return understood('HEAD', path, () => size(Number(answer.headers['content-length']), 'Content-Length'));
      const error = refused('HEAD', path, answer);
      if (error !== null) throw error;
      return null;
    },
    async blobHead(repository, blob, signal) {
      const path = `/v2/${repository}/blobs/${blob}`;
      const answer = await request('GET', path, { first: HEAD_BYTES }, signal);
      if (answer.status !== 200) {
        throw fault('REGISTRY_BLOB_MISSING', { repository, digest: blob, detail: `status ${answer.status}` });
      }
      return answer.body.subarray(0, HEAD_BYTES);
    },
    async blobJson(repository, blob, signal) {
      const path = `/v2/${repository}/blobs/${blob}`;
      const answer = await request('GET', path, { atMost: MAX_CONFIG_BYTES }, signal);
      if (answer.status !== 200) {
        throw fault('REGISTRY_BLOB_MISSING', { repository, digest: blob, detail: `status ${answer.status}` });
      }
      return understood('GET', path, () => {
        if (sha256(answer.body) !== blob) throw new ShapeError('the bytes do not have the digest that was asked for');
        return parseJson(answer.body.toString('utf8'), 'the blob');
      });
    },
    async servesTagPath(repository, tag, signal) {
      const answer = await request('GET', `/dl/${repository}/${tag}`, { first: 1 }, signal);
      return answer.status === 200;
    },
    async ping(signal) {
      const answer = await request('GET', '/v2/', { atMost: MAX_ERROR_BYTES }, signal);
      if (answer.status === 200 || registryCode(answer.body) !== null) answered = true;
      else throw refused('GET', '/v2/', answer) ?? new Error('unreachable');
    },
    hasAnswered: () => answered,
    close: () => agent.close(),
  };
}

/** A status that may pass: kept apart until the tries are used up. */
class TransientStatus extends Error {
  readonly answer: Answer;
  constructor(answer: Answer, method: string, url: string) {
    const code = registryCode(answer.body);
    super(`${method} ${url}: status ${answer.status}${code === null ? '' : ` ${code}`}`);
    this.answer = answer;
  }
}

function isTransient(error: unknown): boolean {
  return (
    error instanceof TransientStatus || (error instanceof ReconcileError && error.info.code === 'REGISTRY_UNREACHABLE')
  );
}

/** `Retry-After` in whole seconds, the only form that registries send. */
function retryAfter(error: unknown): number | null {
  if (!(error instanceof TransientStatus)) return null;
  const seconds = Number(error.answer.headers['retry-after']);
  return Number.isFinite(seconds) && seconds >= 0 ? seconds * 1000 : null;
}

/** One request and its body. */
async function exchange(
  agent: Dispatcher,
  options: RegistryOptions,
  method: 'GET' | 'HEAD',
  url: string,
  take: Take,
  signal: AbortSignal,
): Promise<Answer> {
  const { origin, pathname } = new URL(url);
  const { statusCode, headers, body } = await agent.request({
    origin,
    path: pathname,
    method,
    signal: AbortSignal.any([signal, AbortSignal.timeout(options.timeoutMs)]),
    headers: {
      accept:
        'application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, application/json, */*',
      ...(options.token === null ? {} : { authorization: `Bearer ${options.token}` }),
    },
  });
  const wanted = statusCode === 200 ? take : { first: MAX_ERROR_BYTES };
  const chunks: Buffer[] = [];
  let length = 0;
  for await (const chunk of body) {
    chunks.push(chunk as Buffer);
    length += (chunk as Buffer).length;
    if ('first' in wanted && length >= wanted.first) break;
    if ('atMost' in wanted && length > wanted.atMost) {
      throw fault('REGISTRY_ANSWER_INVALID', { method, url, what: `the answer is longer than ${wanted.atMost} bytes` });
    }
  }
  return { status: statusCode, headers, body: Buffer.concat(chunks) };
}

function reasonOf(error: unknown, timeoutMs: number): string {
  const { name, message, code } = error as { name?: string; message?: string; code?: string };
  if (name === 'TimeoutError') return `no answer within ${timeoutMs} ms`;
  return message !== undefined && message !== '' ? message : (code ?? String(error));
}

/** The code of the registry's own error document, or null where the body is none. */
function registryCode(body: Buffer): string | null {
  try {
    const document = object(parseJson(body.toString('utf8'), 'body'), 'body');
    const [first] = array(document['errors'], 'errors', 100);
    return text(object(first, 'errors[0]')['code'], 'code', 100);
  } catch {
    return null; // no error document: the caller says so with the status and the body's beginning
  }
}

function sha256(bytes: Buffer): string {
  return `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
}

function parseManifest(answer: Answer, reference: string): Manifest {
  const computed = sha256(answer.body);
  const claimed = answer.headers['docker-content-digest'];
  if (claimed !== undefined && claimed !== computed)
    throw new ShapeError('Docker-Content-Digest does not fit the body');
  if (reference.startsWith('sha256:') && reference !== computed)
    throw new ShapeError('the body does not have the digest that was asked for');
  const document = object(parseJson(answer.body.toString('utf8'), 'the manifest'), 'the manifest');
  const config = document['config'] === undefined ? null : object(document['config'], 'config');
  return {
    digest: computed,
    mediaType: optionalText(document['mediaType'], 'mediaType'),
    artifactType: optionalText(document['artifactType'], 'artifactType'),
    configMediaType: config === null ? null : optionalText(config['mediaType'], 'config.mediaType'),
    configDigest: config === null ? null : digest(config['digest'], 'config.digest'),
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
