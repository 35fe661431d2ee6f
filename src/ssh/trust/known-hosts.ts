/**
 * Whom we trust: host keys from known_hosts files, read and judged as OpenSSH does (sshd(8), "SSH_KNOWN_HOSTS FILE
 * FORMAT"; its hostfile.c and match.c). A test runs the same files through `ssh -o StrictHostKeyChecking=yes`.
 * `@cert-authority` lines are never trusted: ssh2 verifies no host certificates.
 */
import { createHash } from 'node:crypto';
import { fault } from '../../core/errors.ts';
import { readRegularFile } from '../../system/file.ts';
import { remember } from '../../system/remember.ts';
import { isHiddenName, matchHosts, MAX_PATTERN, parseHiddenName, type HiddenName } from './host-patterns.ts';

/** What a line says of its key: that it is the host's, that it is `@revoked`, or a `@cert-authority`. */
export type Marker = 'none' | 'revoked' | 'authority';

/** One usable line. `hosts` is its first field as written; `type` the key's own type (`ssh-rsa`, never `rsa-sha2-…`). */
export interface KnownHostLine {
  file: string;
  line: number;
  marker: Marker;
  hosts: string;
  type: string;
  blob: Buffer;
}

/** What the known_hosts files say of a key that a host shows. */
export type HostKeyVerdict =
  | { verdict: 'ok' }
  /** Another key is known; `file` and `line` are those that `ssh` would call offending. */
  | { verdict: 'mismatch'; file: string; line: number }
  | { verdict: 'revoked'; file: string; line: number }
  /** No key is known. `authority` is a `@cert-authority` line that names the host: the reason why ssh might connect. */
  | { verdict: 'unknown'; authority: { file: string; line: number } | null };

/** Several known_hosts files as one. */
export interface KnownHosts {
  /** Host key algorithms to ask the server for: those of known keys first, so that a known key is what it shows. */
  keyTypesFor(host: string, port: number): string[];
  /** Judges the key (SSH wire format) that the server at `host`:`port` offers. */
  check(host: string, port: number, keyBlob: Buffer): HostKeyVerdict;
}

/** Parsed files by path, each read once; hand the same one to every call of a run. */
export type KnownHostsCache = Map<string, Promise<KnownHostsFile>>;

/** The lines of one file, found by name. */
export interface KnownHostsFile {
  /** Lines whose hosts field matches the name (lower case, `[host]:port` where that is looked up), in file order. */
  find(name: string): KnownHostLine[];
  /** Notes a line that was appended since. */
  add(line: KnownHostLine): void;
}

/** As ssh prefers them by default, without the SHA-1 signatures of `ssh-rsa` that it no longer takes either. */
const ALGORITHMS: readonly { name: string; type: string }[] = [
  { name: 'ssh-ed25519', type: 'ssh-ed25519' },
  { name: 'ecdsa-sha2-nistp256', type: 'ecdsa-sha2-nistp256' },
  { name: 'ecdsa-sha2-nistp384', type: 'ecdsa-sha2-nistp384' },
  { name: 'ecdsa-sha2-nistp521', type: 'ecdsa-sha2-nistp521' },
  { name: 'rsa-sha2-512', type: 'ssh-rsa' },
  { name: 'rsa-sha2-256', type: 'ssh-rsa' },
];

/** Key type → how many length-prefixed fields its wire format has, the name of the type included. */
const WIRE_FIELDS: Record<string, number> = {
  'ssh-ed25519': 2,
  'ecdsa-sha2-nistp256': 3,
  'ecdsa-sha2-nistp384': 3,
  'ecdsa-sha2-nistp521': 3,
  'ssh-rsa': 3,
  'ssh-dss': 5,
  'sk-ssh-ed25519@openssh.com': 3,
  'sk-ecdsa-sha2-nistp256@openssh.com': 4,
};

/** Longer than the known_hosts of any fleet. */
const MAX_FILE_BYTES = 64 * 2 ** 20;

/**
 * Reads the files, of which all count; one that does not exist holds nothing.
 * @throws CONFIG_INVALID naming a file that is there and cannot be read. One of the machine that is not for this user
 *   to read holds nothing, as for ssh
 */
export async function loadKnownHosts(
  { own, global }: { own: string[]; global: string[] },
  cache: KnownHostsCache = new Map(),
): Promise<KnownHosts> {
  const files = [...own.map((file) => ({ file, isOwn: true })), ...global.map((file) => ({ file, isOwn: false }))];
  return joinKnownHosts(
    await Promise.all(
      files.map(
        async ({ file, isOwn }) => await remember(cache, file, async () => indexLines(await readLines(file, isOwn))),
      ),
    ),
  );
}

async function readLines(file: string, isOwn: boolean): Promise<KnownHostLine[]> {
  const read = await readRegularFile(file, MAX_FILE_BYTES);
  if ('bytes' in read) return parseKnownHosts(read.bytes.toString('utf8'), file);
  if (read.cause === 'absent' || (!isOwn && read.cause === 'denied')) return [];
  const hint = isOwn ? 'see ssh.knownHostsFile' : 'see GlobalKnownHostsFile in the ssh config';
  throw fault('CONFIG_INVALID', { problem: `known_hosts file ${file} ${read.problem}`, hint });
}

/** Text → its usable lines; comments, blank and broken lines are passed over, as ssh does. */
export function parseKnownHosts(text: string, file: string): KnownHostLine[] {
  const lines: KnownHostLine[] = [];
  for (const [index, raw] of text.split('\n').entries()) {
    const parsed = parseLine(raw.replace(/^[ \t]+/, ''));
    if (parsed !== null) lines.push({ file, line: index + 1, ...parsed });
  }
  return lines;
}

function parseLine(line: string): Omit<KnownHostLine, 'file' | 'line'> | null {
  if (line === '' || line.startsWith('#')) return null;
  let marker: Marker = 'none';
  let rest = line;
  if (line.startsWith('@')) {
    // ssh ends a marker at the first space of the line, and only where there is none at its first tab
    const space = line.indexOf(' ');
    const end = space >= 0 ? space : line.indexOf('\t');
    const name = line.slice(0, Math.max(end, 0));
    if (name === '@revoked') marker = 'revoked';
    else if (name === '@cert-authority') marker = 'authority';
    else return null;
    rest = line.slice(end).replace(/^[ \t]+/, '');
    if (rest.startsWith('@')) return null;
  }
  const match = /^([^ \t]+)[ \t]+([^ \t]+)[ \t]+([^ \t]+)/.exec(rest);
  if (match === null) return null;
  const [, hosts, typeName, base64] = match as unknown as [string, string, string, string];
  const type = typeName === 'rsa-sha2-256' || typeName === 'rsa-sha2-512' ? 'ssh-rsa' : typeName;
  const blob = decodeKey(type, base64);
  return blob === null ? null : { marker, hosts, type, blob };
}

/** Strict base64 (a carriage return at its end is no harm) of a key whose wire format is whole and of that type. */
function decodeKey(type: string, base64: string): Buffer | null {
  const text = base64.replace(/\s+/g, '');
  if (text.length % 4 !== 0 || !/^[A-Za-z0-9+/]+={0,2}$/.test(text)) return null;
  const blob = Buffer.from(text, 'base64');
  let offset = 0;
  for (let fieldsLeft = WIRE_FIELDS[type] ?? -1; fieldsLeft !== 0; fieldsLeft -= 1) {
    if (fieldsLeft < 0 || offset + 4 > blob.length) return null;
    offset += 4 + blob.readUInt32BE(offset);
  }
  return offset === blob.length && keyType(blob) === type ? blob : null;
}

/** The type that a key in wire format names itself, `''` when it is no key. */
export function keyType(blob: Buffer): string {
  return blob.length < 4 ? '' : blob.toString('latin1', 4, Math.min(4 + blob.readUInt32BE(0), blob.length));
}

/** A key as people compare it: `ED25519 SHA256:…`, as `ssh-keygen -l` and ssh print it. */
export function fingerprint(blob: Buffer): string {
  const hash = createHash('sha256').update(blob).digest('base64').replace(/=+$/, '');
  const kind = /^(?:sk-)?(?:ssh-)?([a-z0-9]+)/.exec(keyType(blob))?.[1] ?? 'unknown';
  return `${kind === 'dss' ? 'DSA' : kind.toUpperCase()} SHA256:${hash}`;
}

/** The name that is looked up: lower case, and `[host]:port` for any port but 22. */
export function lookupName(host: string, port: number): string {
  const name = host.toLowerCase();
  return port === 22 ? name : `[${name}]:${port}`;
}

/**
 * Finds lines by name without comparing each name with each line: plain names by a map; patterns, which are few, one
 * by one. A hashed line hides exactly one name, so once found it moves to the map and is not hashed again.
 */
export function indexLines(lines: KnownHostLine[]): KnownHostsFile {
  const named = new Map<string, KnownHostLine[]>();
  const patterns: KnownHostLine[] = [];
  let hashed: { line: KnownHostLine; hidden: HiddenName }[] = [];
  const known = new Map<string, KnownHostLine[]>();

  const addName = (name: string, line: KnownHostLine): void => {
    const list = named.get(name);
    if (list === undefined) named.set(name, [line]);
    else if (!list.includes(line)) list.push(line);
  };
  const add = (line: KnownHostLine): void => {
    if (line.hosts.startsWith('|')) {
      const hidden = parseHiddenName(line.hosts);
      if (hidden !== null) hashed.push({ line, hidden });
    } else if (/[*?!]/.test(line.hosts) || line.hosts.length >= MAX_PATTERN) patterns.push(line);
    else for (const name of line.hosts.toLowerCase().split(',')) addName(name, line);
  };
  for (const line of lines) add(line);

  return {
    add(line) {
      known.clear();
      add(line);
    },
    find(name) {
      let found = known.get(name);
      if (found === undefined) {
        const bytes = Buffer.from(name);
        hashed = hashed.filter(({ line, hidden }) => {
          if (!isHiddenName(hidden, bytes)) return true;
          addName(name, line);
          return false;
        });
        found = [...(named.get(name) ?? []), ...patterns.filter((line) => matchHosts(line.hosts, name))];
        found.sort((a, b) => a.line - b.line);
        known.set(name, found);
      }
      return found;
    },
  };
}

/** Several files as one, in their order. */
export function joinKnownHosts(files: KnownHostsFile[]): KnownHosts {
  const find = (name: string): KnownHostLine[] => files.flatMap((file) => file.find(name));
  return {
    keyTypesFor(host, port) {
      const known = new Set(find(lookupName(host, port)).map((line) => (line.marker === 'none' ? line.type : '')));
      return [
        ...ALGORITHMS.filter(({ type }) => known.has(type)),
        ...ALGORITHMS.filter(({ type }) => !known.has(type)),
      ].map(({ name }) => name);
    },
    check(host, port, keyBlob) {
      const verdict = judge(find(lookupName(host, port)), keyBlob);
      if (port === 22 || verdict.verdict !== 'unknown') return verdict;
      // nothing for `[host]:port`: ssh then takes the key that is known for the bare name, and no other
      const bare = judge(find(lookupName(host, 22)), keyBlob);
      if (bare.verdict === 'ok' || bare.verdict === 'revoked') return bare;
      return bare.verdict === 'unknown' && verdict.authority === null ? bare : verdict;
    },
  };
}

function judge(lines: KnownHostLine[], keyBlob: Buffer): HostKeyVerdict {
  const at = ({ file, line }: KnownHostLine): { file: string; line: number } => ({ file, line });
  const revoked = lines.find((line) => line.marker === 'revoked' && line.blob.equals(keyBlob));
  if (revoked !== undefined) return { verdict: 'revoked', ...at(revoked) };
  const plain = lines.filter((line) => line.marker === 'none');
  if (plain.some((line) => line.blob.equals(keyBlob))) return { verdict: 'ok' };
  const offending = plain.at(-1);
  if (offending !== undefined) return { verdict: 'mismatch', ...at(offending) };
  const authority = lines.find((line) => line.marker === 'authority');
  return { verdict: 'unknown', authority: authority === undefined ? null : at(authority) };
}
