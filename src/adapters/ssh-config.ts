/**
 * The ssh config (`~/.ssh/config`) as OpenSSH reads it: ssh_config(5) and its readconf.c. Of what it can say we honour
 * what leads to a node and proves who is there; the rest is named, so that it can be said. A test compares the answers
 * with those of `ssh -G`, key by key. `Match exec` is never run: such a block does not apply.
 */
import { readdir, readFile } from 'node:fs/promises';
import { hostname, userInfo } from 'node:os';
import { dirname, join } from 'node:path';
import { fault, type ReconcileError } from '../core/errors.ts';
import { parseDuration } from '../core/text.ts';
import { matchPattern, matchPatterns } from './known-hosts.ts';

/** What the file says about a host, as `ssh -G` prints it: paths and names are not expanded. Null: nothing. */
export interface HostConfig {
  /** The host asked for where the file names no other. */
  hostName: string;
  port: number | null;
  user: string | null;
  identityFiles: string[] | null;
  identitiesOnly: boolean | null;
  knownHostsFiles: string[] | null;
  hostKeyAlias: string | null;
  /** `[user@]host[:port]`, several with commas between. */
  proxyJump: string | null;
  connectTimeoutMs: number | null;
}

export interface HostQuestion {
  /** As one would type it after `ssh`. */
  host: string;
  /** What is said elsewhere, and wins over the file. */
  user?: string | undefined;
  /** Who logs in where nothing says it, for `Match user`. */
  defaultUser: string;
}

export interface SshConfig {
  find(question: HostQuestion): HostConfig;
  /** What the files hold that is not honoured, as `Keyword (FILE:LINE)`, each keyword once. */
  ignored: string[];
}

/** Includes within includes; ssh gives up at the same depth. */
const MAX_DEPTH = 16;
const MAX_FILES = 1000;

/** One line; the files of an Include are in its place. */
interface Line {
  keyword: string;
  args: string[];
  place: string;
  included: Line[][];
}

const HONOURED = new Set([
  'host',
  'match',
  'include',
  'hostname',
  'port',
  'user',
  'identityfile',
  'identitiesonly',
  'userknownhostsfile',
  'hostkeyalias',
  'proxyjump',
  'connecttimeout',
]);

/**
 * Reads the file and all that it includes; one that does not exist says nothing.
 * @param home the home directory: relative names of included files begin in its `.ssh`
 * @throws CONFIG_INVALID for a file that cannot be read or that ssh would not take
 */
export async function loadSshConfig(file: string, home: string): Promise<SshConfig> {
  const files = { left: MAX_FILES };
  const lines = (await readLines(file, home, 0, files)) ?? [];
  return { find: (question) => answer(lines, question), ignored: ignoredIn(lines) };
}

function refuse(place: string, problem: string): ReconcileError {
  return fault('CONFIG_INVALID', { problem: `${place}: ${problem}`, hint: 'see ssh.configFile' });
}

async function readLines(file: string, home: string, depth: number, files: { left: number }): Promise<Line[] | null> {
  if (depth > MAX_DEPTH || (files.left -= 1) < 0) throw refuse(file, 'too many files are included');
  let text: string;
  try {
    text = await readFile(file, 'utf8');
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ENOTDIR') return null;
    throw refuse(file, `cannot be read (${code})`);
  }
  const lines: Line[] = [];
  for (const [index, raw] of text.split('\n').entries()) {
    const place = `${file}:${index + 1}`;
    const parsed = parseLine(raw, place);
    if (parsed === null) continue;
    const line: Line = { ...parsed, place, included: [] };
    lines.push(line);
    if (line.keyword !== 'include') continue;
    for (const pattern of line.args) {
      const path = pattern.startsWith('/')
        ? pattern
        : join(home, pattern.startsWith('~/') ? '' : '.ssh', pattern.replace(/^~\//, ''));
      for (const found of await expandGlob(path)) {
        const within = await readLines(found, home, depth + 1, files);
        if (within !== null) line.included.push(within);
      }
    }
  }
  return lines;
}

/** The files that a pattern means, sorted; `*`, `?` and `[…]` as in a shell. */
async function expandGlob(pattern: string): Promise<string[]> {
  if (!/[*?[]/.test(pattern)) return [pattern];
  const { default: picomatch } = await import('picomatch');
  const options = { nobrace: true, noextglob: true, nonegate: true, noglobstar: true };
  let found = ['/'];
  for (const part of pattern.split('/').filter((name) => name !== '')) {
    if (!/[*?[]/.test(part)) {
      found = found.map((dir) => join(dir, part));
      continue;
    }
    const isMatch = picomatch(part, options);
    const names = await Promise.all(
      found.map(async (dir) =>
        (await readdir(dir).catch(() => [])).filter((name) => isMatch(name)).map((name) => join(dir, name)),
      ),
    );
    found = names.flat();
  }
  return found.sort();
}

/** Keyword and arguments, quotes removed; null for a comment or an empty line. */
function parseLine(raw: string, place: string): { keyword: string; args: string[] } | null {
  const match = /^\s*(?:"([^"]*)"|([^\s="#][^\s="]*))(?:\s*=\s*|\s+|$)(.*)$/.exec(raw.replace(/[\s\f]+$/, ''));
  if (match === null) {
    if (/^\s*(#|$)/.test(raw)) return null;
    throw refuse(place, 'this is no line of an ssh config');
  }
  const [, quoted, plain, rest] = match as unknown as [string, string | undefined, string | undefined, string];
  const keyword = (quoted ?? plain ?? '').toLowerCase();
  const args = splitArguments(rest);
  if (args === null) throw refuse(place, 'a quote is not closed');
  if (args.length === 0) throw refuse(place, `${keyword} has no value`);
  return { keyword, args };
}

/** As OpenSSH's argv_split: quotes of both kinds, a backslash before a quote, a backslash or a blank; `#` ends it. */
function splitArguments(text: string): string[] | null {
  const args: string[] = [];
  let i = 0;
  for (;;) {
    while (text[i] === ' ' || text[i] === '\t') i += 1;
    if (i >= text.length || text[i] === '#') return args;
    let arg = '';
    let quote = '';
    for (; i < text.length; i += 1) {
      const char = text[i] as string;
      const next = text[i + 1] ?? '';
      if (char === '\\' && (/['"\\]/.test(next) || (quote === '' && next === ' '))) {
        arg += next;
        i += 1;
      } else if (quote === '' && (char === ' ' || char === '\t')) break;
      else if (quote === '' && (char === '"' || char === "'")) quote = char;
      else if (quote !== '' && char === quote) quote = '';
      else arg += char;
    }
    if (quote !== '') return null;
    args.push(arg);
  }
}

function ignoredIn(lines: Line[]): string[] {
  const found = new Map<string, string>();
  const visit = (list: Line[]): void => {
    for (const { keyword, args, place, included } of list) {
      const exec = keyword === 'match' && args.some((arg) => /^!?exec$/i.test(arg)) ? 'match exec' : null;
      const name = exec ?? (HONOURED.has(keyword) ? null : keyword);
      if (name !== null && !found.has(name)) found.set(name, `${name} (${place})`);
      for (const file of included) visit(file);
    }
  };
  visit(lines);
  return [...found.values()];
}

// -------------------------------------------------------------------------------------------- one host

interface Search {
  /** The host that `Host` patterns see: as asked for, and in the final pass its HostName. */
  host: string;
  question: HostQuestion;
  final: boolean;
  wantsFinal: boolean;
  found: Partial<Record<keyof HostConfig, unknown>>;
}

function answer(lines: Line[], question: HostQuestion): HostConfig {
  const search: Search = { host: question.host, question, final: false, wantsFinal: false, found: {} };
  apply(lines, search, true);
  if (search.wantsFinal) {
    search.host = hostNameOf(search).toLowerCase();
    search.final = true;
    apply(lines, search, true);
  }
  const found = search.found as Partial<HostConfig>;
  return {
    hostName: hostNameOf(search).toLowerCase(),
    port: found.port ?? null,
    user: found.user ?? null,
    identityFiles: found.identityFiles ?? null,
    identitiesOnly: found.identitiesOnly ?? null,
    knownHostsFiles: found.knownHostsFiles ?? null,
    hostKeyAlias: found.hostKeyAlias ?? null,
    proxyJump: found.proxyJump ?? null,
    connectTimeoutMs: found.connectTimeoutMs ?? null,
  };
}

/** Of HostName only `%h` and `%%` are known. */
function hostNameOf({ found, question }: Search): string {
  const name = found.hostName as string | undefined;
  return name === undefined ? question.host : expandTokens(name, { h: question.host }, 'HostName');
}

/** Lets the lines say what has not been said yet. `enclosing`: whether the block around an Include applies. */
function apply(lines: Line[], search: Search, enclosing: boolean): void {
  let active = enclosing;
  for (const line of lines) {
    if (line.keyword === 'host') active = enclosing && matchesHost(line.args, search.host);
    else if (line.keyword === 'match') active = matchesCriteria(line, search) && enclosing;
    else if (line.keyword === 'include') for (const file of line.included) apply(file, search, active);
    else if (active) set(line, search.found);
  }
}

function matchesHost(patterns: string[], host: string): boolean {
  let found = false;
  for (const pattern of patterns) {
    if (!matchPattern(pattern.replace(/^!/, ''), host)) continue;
    if (pattern.startsWith('!')) return false;
    found = true;
  }
  return found;
}

function matchesCriteria(line: Line, search: Search): boolean {
  const { question, found } = search;
  const { place } = line;
  const args = line.args.flatMap((arg) => /^(!?\w+)=(.+)$/s.exec(arg)?.slice(1) ?? [arg]); // as in `Match user=op`
  let result = true;
  for (let i = 0; i < args.length; i += 1) {
    const word = (args[i] as string).toLowerCase();
    const negated = word.startsWith('!');
    const criterion = word.replace(/^!/, '');
    if (criterion === 'all') {
      if (args.length > i + 1 || i > 1) throw refuse(place, 'Match all stands alone');
      result &&= !negated;
      continue;
    }
    if (criterion === 'final' || criterion === 'canonical') {
      search.wantsFinal ||= criterion === 'final';
      if (search.final === negated) result = false;
      continue;
    }
    const patterns = args[(i += 1)];
    if (patterns === undefined) throw refuse(place, `Match ${criterion} needs a value`);
    const matches = matchesOne(criterion, patterns, question, hostNameOf(search), found.user as string | undefined);
    if (matches === null || matches === negated) result = false;
  }
  return result;
}

/** Null for what is never asked: then the block does not apply, negated or not. */
function matchesOne(
  criterion: string,
  patterns: string,
  { host, user, defaultUser }: HostQuestion,
  hostName: string,
  foundUser: string | undefined,
): boolean | null {
  switch (criterion) {
    case 'host':
      return matchPatterns(patterns.toLowerCase(), hostName.toLowerCase());
    case 'originalhost':
      return matchPatterns(patterns.toLowerCase(), host.toLowerCase());
    case 'user':
      return matchPatterns(patterns, user ?? foundUser ?? defaultUser);
    case 'localuser':
      return matchPatterns(patterns, userInfo().username);
    default:
      return null;
  }
}

function set({ keyword, args, place }: Line, found: Search['found']): void {
  const first = args[0] as string;
  switch (keyword) {
    case 'hostname':
      found.hostName ??= first;
      break;
    case 'port': {
      const port = /^\d{1,5}$/.test(first) ? Number(first) : 0;
      if (port < 1 || port > 65_535) throw refuse(place, `${first} is no port`);
      found.port ??= port;
      break;
    }
    case 'user':
      found.user ??= first;
      break;
    case 'identityfile': {
      const files = (found.identityFiles ??= []) as string[];
      if (!files.includes(first)) files.push(first);
      break;
    }
    case 'identitiesonly':
      if (!/^(yes|no|true|false)$/.test(first)) throw refuse(place, `IdentitiesOnly is yes or no`);
      found.identitiesOnly ??= first === 'yes' || first === 'true';
      break;
    case 'userknownhostsfile':
      found.knownHostsFiles ??= args;
      break;
    case 'hostkeyalias':
      found.hostKeyAlias ??= first;
      break;
    case 'proxyjump':
      found.proxyJump ??= first;
      break;
    case 'proxycommand':
      found.proxyJump ??= 'none'; // where it comes first ssh takes no ProxyJump either
      break;
    case 'connecttimeout':
      found.connectTimeoutMs ??= timeoutOf(first, place);
      break;
    default:
      break;
  }
}

/** Seconds, or `1m30s`; `none` and 0 are no deadline, and say nothing here. */
function timeoutOf(text: string, place: string): number | null {
  if (text.toLowerCase() === 'none') return null;
  const ms = parseDuration(text.toLowerCase().replace(/\d+$/, '$&s'));
  if (ms === null) throw refuse(place, `${text} is no time`);
  return ms === 0 ? null : ms;
}

// -------------------------------------------------------------------------------------------- tokens

/** `%h` and the like → their values; `%%` → `%`. @throws CONFIG_INVALID for a token that has none */
export function expandTokens(text: string, tokens: Record<string, string>, what: string): string {
  return text.replace(/%(.?)/g, (token, letter: string) => {
    const value = letter === '%' ? '%' : tokens[letter];
    if (value === undefined) throw refuse(`the ssh config`, `${token} in ${what} ${text} is not supported`);
    return value;
  });
}

/** What the tokens of paths stand for. */
export function tokensOf(
  host: { original: string; name: string; port: number; user: string; alias: string | null },
  home: string,
): Record<string, string> {
  const local = userInfo();
  return {
    h: host.name,
    n: host.original,
    p: String(host.port),
    r: host.user,
    k: host.alias ?? host.original,
    d: home,
    u: local.username,
    i: String(local.uid),
    l: hostname(),
    L: hostname().split('.')[0] as string,
  };
}

/** A path of the file → absolute, tokens and `~` expanded. A relative one begins where its file lies. */
export function expandPath(path: string, tokens: Record<string, string>, home: string, file: string): string {
  const text = expandTokens(path, tokens, 'the path');
  if (text.startsWith('~/')) return join(home, text.slice(2));
  return text.startsWith('/') ? text : join(dirname(file), text);
}
