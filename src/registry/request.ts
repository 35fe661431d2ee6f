/** One HTTP request as it is sent, and its response as it is read: bounded, and with no secret in what may be shown. */
import type { Dispatcher } from 'undici';
import { fault } from '../core/errors.ts';
import { redactQuote } from '../system/secrets.ts';
import type { Proxy } from './proxy.ts';

/** Of the body of a status that is no 200. */
export const MAX_ERROR_BYTES = 65_536;
const ACCEPT = [
  'application/vnd.oci.image.index.v1+json',
  'application/vnd.docker.distribution.manifest.list.v2+json',
  'application/vnd.oci.image.manifest.v1+json',
  'application/vnd.docker.distribution.manifest.v2+json',
  'application/json',
  '*/*',
].join(', ');

/**
 * How much of a body is wanted: all of it, refusing more than `atMost` bytes; or its `first` bytes, which are asked
 * for as a range. Epoch ignores ranges, so the connection is dropped after them.
 */
export type Take = { atMost: number } | { first: number };

/** What came back, after redirects. */
export interface HttpResponse {
  status: number;
  headers: Record<string, string | string[] | undefined>;
  /** Of a status that is no 200 its beginning, with no secret in it. */
  body: Buffer;
  /** Who answered in the place of the registry, after a redirect, or its token server that may not be told who we are. */
  stranger: string | null;
}

/** What the connections of a registry are made with; see `HttpOptions`. */
interface AgentOptions {
  timeoutMs: number;
  ca: string | null;
  proxy: Proxy | null;
}

/** The HTTP library is loaded with the first request: a node need not wait for it. */
export async function newAgent({ timeoutMs, ca, proxy }: AgentOptions): Promise<Dispatcher> {
  const { default: undici } = await import('undici');
  const connect = { timeout: timeoutMs, ...(ca === null ? {} : { ca }) };
  const common = { connections: 8, connect, headersTimeout: timeoutMs, bodyTimeout: timeoutMs };
  if (proxy === null) return new undici.Agent(common);
  return new undici.EnvHttpProxyAgent({
    ...common,
    httpProxy: proxy.http,
    httpsProxy: proxy.https,
    noProxy: proxy.except,
    requestTls: connect,
    proxyTunnel: false, // http:// is asked of a proxy as other programs ask it: many refuse a tunnel there
  });
}

/** A request as it is sent, at the registry's address or where it redirects to. */
export interface SentRequest {
  method: 'GET' | 'HEAD';
  repository: string;
  url: string;
}

/** A response whose body is still to be read. */
export type Opened = Dispatcher.ResponseData & Pick<HttpResponse, 'stranger'>;

/** What goes over the wire. */
interface Sent extends Omit<SentRequest, 'repository'> {
  authorization: string | undefined;
  take?: Take | undefined;
}

/** Sends a request, and waits for the head of its response. */
export async function open(
  agent: Dispatcher,
  { method, url, authorization, take }: Sent,
  signal: AbortSignal,
): Promise<Dispatcher.ResponseData> {
  const { origin, pathname, search } = new URL(url);
  const range = take !== undefined && 'first' in take ? { range: `bytes=0-${take.first - 1}` } : {};
  return await agent.request({
    origin,
    path: `${pathname}${search}`,
    method,
    signal,
    headers: { accept: ACCEPT, ...range, ...(authorization === undefined ? {} : { authorization }) },
  });
}

/** The response with its body, as far as it is wanted. */
export async function readBody(
  { statusCode, headers, body, stranger }: Opened,
  { method, url, take }: Omit<SentRequest, 'repository'> & { take: Take },
): Promise<HttpResponse> {
  const isWanted = statusCode === 200 || statusCode === 206;
  const wanted = isWanted ? take : { first: MAX_ERROR_BYTES };
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
  const all = Buffer.concat(chunks);
  const shown = isWanted ? all : Buffer.from(redactQuote(all.toString('utf8', 0, MAX_ERROR_BYTES)));
  return { status: statusCode, headers, body: shown, stranger };
}
