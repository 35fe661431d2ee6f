/** Who we are to a registry: challenges, tokens, and the credentials of `~/.docker/config.json`. */
import { readFile } from 'node:fs/promises';
import { object, optionalText, parseJson, ShapeError, text } from '../core/json.ts';

export interface Credentials {
  username: string;
  password: string;
}

/** Hosts that cocoon's registry library speaks plain HTTP to: this machine, `.local` names and private addresses. */
const PLAIN_HOST =
  /^(localhost|127\.\d+\.\d+\.\d+|10\.\d+\.\d+\.\d+|192\.168\.\d+\.\d+|172\.(1[6-9]|2\d|3[01])\.\d+\.\d+|.*\.local)$/;

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

/** The URL to ask for a token; repositories are read only. */
export function tokenUrl(challenge: Challenge & { scheme: 'bearer' }, repository: string): string {
  const url = new URL(challenge.realm);
  if (challenge.service !== null) url.searchParams.set('service', challenge.service);
  url.searchParams.set('scope', challenge.scope ?? `repository:${repository}:pull`);
  return url.href;
}

/** A token server's answer → token; null for an empty one, which must not be sent (contract E.2). */
export function parseToken(body: string): string | null {
  const answer = object(parseJson(body, 'the token answer'), 'the token answer');
  return optionalText(answer['token'], 'token', 65_536) ?? optionalText(answer['access_token'], 'access_token', 65_536);
}

export function basic({ username, password }: Credentials): string {
  return `Basic ${Buffer.from(`${username}:${password}`).toString('base64')}`;
}

/**
 * What `docker login` left for a registry, by its host. Helpers that the file names are programs and are not run.
 * @returns null where the file, or the registry in it, is not there
 * @throws ShapeError where the file is none of docker's
 */
export async function dockerCredentials(file: string, host: string): Promise<Credentials | null> {
  const content = await readFile(file, 'utf8').catch(() => null);
  if (content === null) return null;
  const auths = object(object(parseJson(content, file), file)['auths'] ?? {}, `${file}: auths`);
  const keys = host === 'docker.io' ? ['https://index.docker.io/v1/', 'docker.io'] : [host, `https://${host}`];
  const key = keys.find((candidate) => auths[candidate] !== undefined);
  if (key === undefined) return null;
  const entry = object(auths[key], `${file}: auths`);
  const encoded = optionalText(entry['auth'], `${file}: auth`, 65_536);
  if (encoded === null) {
    const username = optionalText(entry['username'], `${file}: username`);
    return username === null ? null : { username, password: text(entry['password'], `${file}: password`) };
  }
  const decoded = Buffer.from(encoded, 'base64').toString('utf8');
  const colon = decoded.indexOf(':');
  if (colon === -1) throw new ShapeError(`${file}: the auth of ${host} cannot be decoded`);
  return { username: decoded.slice(0, colon), password: decoded.slice(colon + 1) };
}
