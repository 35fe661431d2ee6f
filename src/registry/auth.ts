/** Who we are to a registry: challenges and tokens, and who may be told. */
import { object, optionalText, ShapeError } from '../core/json.ts';
import type { Credentials } from './logins.ts';

/** Hosts that cocoon's registry library speaks plain HTTP to: this machine, `.local` names and private addresses. */
const PLAIN_HOST =
  /^(localhost|127\.\d+\.\d+\.\d+|\[::1\]|10\.\d+\.\d+\.\d+|192\.168\.\d+\.\d+|172\.(1[6-9]|2\d|3[01])\.\d+\.\d+|.*\.local)$/;

/** The address of a registry by the host that references name; Docker Hub answers under another one. */
export function registryUrl(host: string): string {
  if (host === 'docker.io' || host === 'index.docker.io') return 'https://registry-1.docker.io';
  return `${PLAIN_HOST.test(host.replace(/:\d+$/, '')) ? 'http' : 'https'}://${host}`;
}

/** A `WWW-Authenticate` header, as far as registries use it. */
export type Challenge =
  { scheme: 'basic' } | { scheme: 'bearer'; realm: string; service: string | null; scope: string | null };

/** Header → challenge; null for a scheme that we do not speak, or a realm that is no http(s) URL. */
export function parseChallenge(header: string): Challenge | null {
  const [, scheme, rest] = /^\s*([A-Za-z]+)\s*(.*)$/.exec(header) ?? [];
  if (scheme?.toLowerCase() === 'basic') return { scheme: 'basic' };
  if (scheme?.toLowerCase() !== 'bearer') return null;
  const parameters = new Map<string, string>();
  for (const [, key, quoted, bare] of (rest ?? '').matchAll(/([a-z_]+)=(?:"([^"]*)"|([^",\s]+))/gi)) {
    parameters.set((key as string).toLowerCase(), quoted ?? bare ?? '');
  }
  const realm = parameters.get('realm');
  if (realm === undefined || !URL.canParse(realm) || !/^https?:$/.test(new URL(realm).protocol)) return null;
  return {
    scheme: 'bearer',
    realm,
    service: parameters.get('service') ?? null,
    scope: parameters.get('scope') ?? null,
  };
}

/**
 * Whether the token server of a challenge may be told who we are: it is on the registry's own host, or the registry named
 * it over https and it is spoken to by https. Nobody else learns a password because an answer says so.
 */
export function mayKnow(realm: string, registry: string): boolean {
  const [server, home] = [new URL(realm), new URL(registry)];
  if (home.protocol === 'https:') return server.protocol === 'https:';
  return server.hostname === home.hostname;
}

/** The URL to ask for a token; repositories are read only. */
export function tokenUrl(challenge: Challenge & { scheme: 'bearer' }, repository: string): string {
  const url = new URL(challenge.realm);
  url.username = '';
  url.password = '';
  if (challenge.service !== null) url.searchParams.set('service', challenge.service);
  url.searchParams.set('scope', challenge.scope ?? `repository:${repository}:pull`);
  return url.href;
}

/**
 * A token server's answer → token; null for an empty one, which must not be sent
 * (conformance: gives an empty token to nobody in particular).
 */
export function parseToken(body: string): string | null {
  const answer = object(parseJsonUnquoted(body), 'the token answer');
  return optionalText(answer['token'], 'token', 65_536) ?? optionalText(answer['access_token'], 'access_token', 65_536);
}

/** Without a word of the parser: it quotes what it read, which may be a token. */
function parseJsonUnquoted(body: string): unknown {
  try {
    return JSON.parse(body);
  } catch {
    throw new ShapeError('the token answer is no JSON');
  }
}

/** The header of Basic authentication (RFC 7617). */
export function basic({ username, password }: Credentials): string {
  return `Basic ${Buffer.from(`${username}:${password}`).toString('base64')}`;
}
