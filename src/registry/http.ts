/** Requests to one registry: one keep-alive pool, deadlines, retries, redirects and authentication. */
import type { Dispatcher } from 'undici';
import { fault, ReconcileError } from '../core/errors.ts';
import { array, object, parseJson, ShapeError, text } from '../core/json.ts';
import { basic, mayKnow, parseChallenge, parseToken, tokenUrl } from './auth.ts';
import type { Login } from './logins.ts';
import type { Proxy } from './proxy.ts';
import { MAX_ERROR_BYTES, newAgent, open, readBody } from './request.ts';
import type { HttpResponse, Opened, SentRequest, Take } from './request.ts';
import { withDeadline } from '../system/deadline.ts';
import { withRetries, type Retry } from '../system/retry.ts';
import { keepSecret } from '../system/secrets.ts';

const MAX_REDIRECTS = 5;
const PAUSE = { pauseMs: 300, maxPauseMs: 5000 };
/** How one registry is asked. */
export interface HttpOptions {
  /** Without a trailing slash. */
  url: string;
  /** A bearer token that is sent with every request to this registry. */
  token: string | null;
  /** Whom to be when the registry asks, by Basic or at its token server; null where nobody looked for a login. */
  login: Login | null;
  /** The proxies of the environment, or null where it names none. */
  proxy: Proxy | null;
  /** PEM text of a private CA. */
  ca: string | null;
  /** Deadline of one request with its redirects, and of the silence between two chunks of a stream, in ms. */
  timeoutMs: number;
  retries: number;
}

/** One question to the registry. */
export interface HttpRequest {
  method: 'GET' | 'HEAD';
  /** Whose content is asked for: the scope of a token. */
  repository: string;
  /** Behind the address of the registry. */
  path: string;
  take: Take;
}

/** A client of one registry. */
export interface Http {
  /**
   * One request, tried again on 429, 5xx and lost connections. Statuses below 500 are the caller's to judge.
   * @throws ReconcileError REGISTRY_UNREACHABLE, REGISTRY_ANSWER_INVALID, or the signal's reason
   */
  send(request: HttpRequest, signal: AbortSignal): Promise<HttpResponse>;
  /** The body of a 200 as it comes, unbounded in length and not tried again. Throws as `send` does. */
  stream(repository: string, path: string, signal: AbortSignal): AsyncGenerator<Buffer>;
  /** Loads what the first request needs. */
  warmUp(): Promise<void>;
  close(): Promise<void>;
}

/** Opens no connection yet. */
export function createHttp(options: HttpOptions): Http {
  let pool: Promise<Dispatcher> | null = null;
  const agent = (): Promise<Dispatcher> => (pool ??= newAgent(options));
  const { origin } = new URL(options.url);
  /** Of one request with its redirects, from the question to the last byte of the answer. */
  const timeout = { afterMs: options.timeoutMs, reason: () => new Error(`no answer within ${options.timeoutMs} ms`) };
  const retry: Retry = {
    retries: options.retries,
    ...PAUSE,
    isWorthwhile: (error) => !(error instanceof ReconcileError || error instanceof ShapeError),
    pauseAskedFor: readRetryAfter,
  };
  /** Repository → the header that its registry asked for. */
  const granted = new Map<string, string>();

  if (options.token !== null) keepSecret(options.token);
  const credentials = options.login?.credentials ?? null;
  if (credentials !== null) {
    keepSecret(credentials.password);
    keepSecret(`${credentials.username}:${credentials.password}`);
  }

  const authorization = (repository: string): string | undefined =>
    options.token === null ? granted.get(repository) : `Bearer ${options.token}`;

  /** The header that answers a challenge of the registry itself; null where there is nothing more to offer. */
  const answerChallenge = async (
    challenged: HttpResponse,
    repository: string,
    signal: AbortSignal,
  ): Promise<string | null> => {
    const challenge = parseChallenge(String(challenged.headers['www-authenticate'] ?? ''));
    if (challenge === null || options.token !== null || challenged.stranger !== null) return null;
    if (challenge.scheme === 'basic') return credentials === null ? null : basic(credentials);
    const isTrusted = mayKnow(challenge.realm, options.url);
    if (credentials !== null && !isTrusted) challenged.stranger = new URL(challenge.realm).origin;
    const who = credentials !== null && isTrusted ? basic(credentials) : undefined;
    const url = tokenUrl(challenge, repository);
    const { status, body } = await withDeadline({ signal, timeout }, async (stop) =>
      readBody(
        { ...(await open(await agent(), { method: 'GET', url, authorization: who }, stop)), stranger: null },
        { method: 'GET', url, take: { atMost: MAX_ERROR_BYTES } },
      ),
    );
    const token = status === 200 ? parseToken(body.toString('utf8')) : null;
    if (token === null) return null;
    keepSecret(token);
    return `Bearer ${token}`;
  };

  /** Opens a request, following redirects. Our authorization goes to the registry itself, and not there by way of others. */
  const follow = async (
    { method, repository, url, take }: SentRequest & { take?: Take },
    signal: AbortSignal,
  ): Promise<Opened> => {
    let target = url;
    let stranger: string | null = null;
    for (let hops = 0; ; hops += 1) {
      if (stranger !== null || new URL(target).origin !== origin) stranger = new URL(target).origin;
      const who = stranger === null ? authorization(repository) : undefined;
      const asked = { method, url: target, authorization: who, take };
      const opened = { ...(await open(await agent(), asked, signal)), stranger };
      const { location } = opened.headers;
      if (![301, 302, 303, 307, 308].includes(opened.statusCode) || typeof location !== 'string') return opened;
      await withDeadline({ signal, timeout }, (stop) => opened.body.dump({ limit: MAX_ERROR_BYTES, signal: stop }));
      const next = URL.canParse(location, target) ? new URL(location, target) : null;
      if (next === null || !/^https?:$/.test(next.protocol) || hops === MAX_REDIRECTS) {
        throw fault('REGISTRY_ANSWER_INVALID', {
          method,
          url,
          what: `status ${opened.statusCode}: a redirect to nowhere`,
        });
      }
      target = next.href;
    }
  };

  const ask = async (
    question: SentRequest & { take: Take },
    signal: AbortSignal,
    isAnswered = false,
  ): Promise<HttpResponse> => {
    const response = await withDeadline({ signal, timeout }, async (stop) =>
      readBody(await follow(question, stop), question),
    );
    if (response.status === 429 || response.status >= 500) throw new TransientStatus(response, question);
    // What was granted before may have expired: each request may answer one challenge.
    const { repository } = question;
    const header = response.status === 401 && !isAnswered ? await answerChallenge(response, repository, signal) : null;
    if (header === null) return response;
    granted.set(repository, header);
    return await ask(question, signal, true);
  };

  /** Whatever went wrong → one of our errors. */
  const explain = (
    error: unknown,
    { method, url }: Pick<SentRequest, 'method' | 'url'>,
    signal: AbortSignal,
  ): unknown => {
    if (signal.aborted) return signal.reason;
    if (error instanceof ReconcileError) return error;
    if (error instanceof ShapeError)
      return fault('REGISTRY_ANSWER_INVALID', { method, url, what: error.message }, error);
    const cause = error instanceof TransientStatus ? error.message : describeReason(error);
    return fault('REGISTRY_UNREACHABLE', { method, url, cause }, error);
  };

  return {
    async send({ method, repository, path, take }, signal) {
      const question = { method, repository, url: `${options.url}${path}`, take };
      try {
        return await withRetries(retry, signal, async () => await ask(question, signal));
      } catch (error) {
        throw explain(error, question, signal);
      }
    },
    async *stream(repository, path, signal) {
      const question: SentRequest = { method: 'GET', repository, url: `${options.url}${path}` };
      try {
        const { statusCode, body } = await follow(question, signal);
        if (statusCode !== 200) {
          await withDeadline({ signal, timeout }, (stop) => body.dump({ limit: MAX_ERROR_BYTES, signal: stop }));
          throw fault('REGISTRY_ANSWER_INVALID', { method: 'GET', url: question.url, what: `status ${statusCode}` });
        }
        for await (const chunk of body) yield chunk as Buffer;
      } catch (error) {
        throw explain(error, question, signal);
      }
    },
    warmUp: async () => void (await agent()),
    close: async () => await (await pool)?.close(),
  };
}

/** A status that may pass: kept apart until the tries are used up. */
class TransientStatus extends Error {
  readonly response: HttpResponse;
  constructor(response: HttpResponse, { method, url }: SentRequest) {
    const code = registryCode(response.body);
    super(`${method} ${url}: status ${response.status}${code === null ? '' : ` ${code}`}`);
    this.response = response;
  }
}

/** `Retry-After` in whole seconds, the only form that registries send; in ms. */
function readRetryAfter(error: unknown): number | null {
  if (!(error instanceof TransientStatus)) return null;
  const seconds = Number(error.response.headers['retry-after']);
  return Number.isFinite(seconds) && seconds >= 0 ? seconds * 1000 : null;
}

function describeReason(error: unknown): string {
  const { message, code } = error as { message?: string; code?: string };
  return message !== undefined && message !== '' ? message : (code ?? String(error));
}

/** The code of a registry's own error document, or null where the body is none. */
export function registryCode(body: Buffer): string | null {
  try {
    const document = object(parseJson(body.toString('utf8'), 'body'), 'body');
    const [first] = array(document['errors'], 'errors', 100);
    return text(object(first, 'errors[0]')['code'], 'code', 100);
  } catch {
    return null; // no error document: the caller says so with the status and the body's beginning
  }
}
