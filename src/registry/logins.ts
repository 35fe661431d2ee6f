/**
 * What `docker login` and `podman login` left on this machine for a registry. Helpers that their files name are programs:
 * they are not run, and that is said.
 */
import { join } from 'node:path';
import { object, optionalText, ShapeError, text, type JsonObject } from '../core/json.ts';
import { readRegularFile } from '../system/file.ts';

/** Who to be at a registry. */
export interface Credentials {
  username: string;
  password: string;
}

/** The login for a registry, if there is one, and the files that were looked at, each with what was not found there. */
export interface Login {
  credentials: Credentials | null;
  /** The file that has it; else all of them. */
  looked: string;
}

const MAX_BYTES = 2 ** 20;

/** The files that may hold logins, in the order in which they are asked. */
export function loginFiles(env: Record<string, string | undefined>, home: string): string[] {
  const { REGISTRY_AUTH_FILE: named, DOCKER_CONFIG: docker, XDG_RUNTIME_DIR: runtime, XDG_CONFIG_HOME: config } = env;
  return [
    ...(named ? [named] : []),
    join(docker || join(home, '.docker'), 'config.json'),
    ...(runtime ? [join(runtime, 'containers/auth.json')] : []),
    join(config || join(home, '.config'), 'containers/auth.json'),
  ];
}

/**
 * The login of the first file that has one for the registry.
 * @param host as references name it
 * @throws ShapeError where a file is none of theirs; nothing of what is in it is quoted
 */
export async function findLogin(files: string[], host: string): Promise<Login> {
  const looked: string[] = [];
  for (const file of files) {
    const content = await readRegularFile(file, MAX_BYTES);
    if ('problem' in content) {
      looked.push(`${file} (${content.problem})`);
      continue;
    }
    const document = parseLogins(content.bytes.toString('utf8'), file);
    const credentials = findCredentials(document, file, host);
    if (credentials !== null) return { credentials, looked: file };
    const helper = findHelper(document, file, host);
    looked.push(
      helper === null
        ? `${file} (no login for it)`
        : `${file} (it names the helper ${helper}, and helpers are not run)`,
    );
  }
  return { credentials: null, looked: looked.join(', ') };
}

/** Without a word of the parser: it quotes what it read. */
function parseLogins(content: string, file: string): JsonObject {
  try {
    return object(JSON.parse(content), file);
  } catch {
    throw new ShapeError(`${file} is no JSON object`);
  }
}

/** A program that the file names for the registry, or for all of them. */
function findHelper(document: JsonObject, file: string, host: string): string | null {
  const helpers = object(document['credHelpers'] ?? {}, `${file}: credHelpers`);
  const key = keysOf(host).find((candidate) => helpers[candidate] !== undefined) ?? host;
  return (
    optionalText(helpers[key], `${file}: credHelpers`, 200) ??
    optionalText(document['credsStore'], `${file}: credsStore`, 200)
  );
}

function findCredentials(document: JsonObject, file: string, host: string): Credentials | null {
  const auths = object(document['auths'] ?? {}, `${file}: auths`);
  const key = keysOf(host).find((candidate) => auths[candidate] !== undefined);
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

/** As the programs write a registry. */
function keysOf(host: string): string[] {
  return host === 'docker.io' || host === 'index.docker.io'
    ? ['https://index.docker.io/v1/', 'docker.io', 'index.docker.io']
    : [host, `https://${host}`, `http://${host}`];
}
