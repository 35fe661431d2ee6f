/**
 * The ssh config (`~/.ssh/config`) as OpenSSH reads it: ssh_config(5) and its readconf.c. Of what it can say we honour
 * what leads to a node and proves who is there; the rest is named, so that it can be said. A test compares the answers
 * with those of `ssh -G`, key by key. `Match exec` is never run: such a block does not apply.
 */
import { looksLikeAddress, sshAddress } from '../address.ts';
import { matchPattern, matchPatterns } from '../trust/host-patterns.ts';
import { flagOf, isNone, loadLines, refuse, secondsOf } from './file.ts';
import type { Line } from './file.ts';
import { isKeyword } from './keywords.ts';
import { expandTokens } from './tokens.ts';
import type { Surroundings } from './tokens.ts';
import { userName } from '../../system/user.ts';

/** What the file says about a host, as `ssh -G` prints it: paths and names are not expanded. Null: nothing. */
export interface HostConfig {
  /** The host asked for where the file names no other; an IP address in its canonical form. */
  hostName: string;
  port: number | null;
  user: string | null;
  identityFiles: string[] | null;
  identitiesOnly: boolean | null;
  knownHostsFiles: string[] | null;
  globalKnownHostsFiles: string[] | null;
  hostKeyAlias: string | null;
  /** `[user@]host[:port]`, several with commas between. */
  proxyJump: string | null;
  /** Where the file names a command that leads to the host, as `FILE:LINE`. It is never run. */
  proxyCommand: string | null;
  connectTimeoutMs: number | null;
}

/** What is asked of an ssh config. */
export interface HostQuestion {
  /** As one would type it after `ssh`. */
  host: string;
  /** What is said elsewhere, and wins over the file. */
  user?: string | undefined;
  /** Who logs in where nothing says it, for `Match user`. */
  defaultUser: string;
}

/** An ssh config that was read. */
export interface SshConfig {
  /** @throws CONFIG_INVALID where a line says what ssh would not take */
  find(question: HostQuestion): HostConfig;
  /** What the files hold that is not honoured, as `Keyword (FILE:LINE)`, each keyword once. */
  ignored: string[];
}

const HONOURED = new Set([
  'host',
  'match',
  'include',
  'hostname',
  'port',
  'user',
  'identityfile',
  'identityfile2',
  'identitiesonly',
  'userknownhostsfile',
  'globalknownhostsfile',
  'hostkeyalias',
  'proxyjump',
  'connecttimeout',
  'ignoreunknown',
]);

/** What `Match` can ask that is never looked into: such a block does not apply. */
const UNASKED = new Set(['exec', 'localnetwork', 'tagged', 'command', 'version', 'sessiontype']);

/**
 * Reads the file and all that it includes; one that does not exist says nothing.
 * @throws CONFIG_INVALID for a file that cannot be read or that ssh would not take
 */
export async function loadSshConfig(file: string, around: Surroundings): Promise<SshConfig> {
  const lines = await loadLines(file, around);
  return { find: (question) => findHost(lines, question), ignored: listIgnored(lines) };
}

function listIgnored(lines: Line[]): string[] {
  const found = new Map<string, string>();
  const visit = (list: Line[]): void => {
    for (const { keyword, args, place, included } of list) {
      const asks = keyword === 'match' ? wordsOf(args).map((word) => word.toLowerCase().replace(/^!/, '')) : [];
      const unasked = asks.find((word) => UNASKED.has(word));
      const name = unasked === undefined ? (HONOURED.has(keyword) ? null : keyword) : `match ${unasked}`;
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
  /** What HostName was in the first pass: the final pass has no say in it. Null until then. */
  finalName: string | null;
  wantsFinal: boolean;
  found: Partial<HostConfig> & { ignoreUnknown?: string };
}

function findHost(lines: Line[], question: HostQuestion): HostConfig {
  const search: Search = { host: question.host, question, finalName: null, wantsFinal: false, found: {} };
  apply(lines, search, true);
  const name = hostNameOf(search);
  const hostName = looksLikeAddress(name) ? sshAddress(name) : name.toLowerCase();
  if (search.wantsFinal) {
    search.host = hostName;
    search.finalName = hostName;
    apply(lines, search, true);
  }
  const { found } = search;
  return {
    hostName,
    port: found.port ?? null,
    user: found.user ?? null,
    identityFiles: found.identityFiles ?? null,
    identitiesOnly: found.identitiesOnly ?? null,
    knownHostsFiles: found.knownHostsFiles ?? null,
    globalKnownHostsFiles: found.globalKnownHostsFiles ?? null,
    hostKeyAlias: found.hostKeyAlias?.toLowerCase() ?? null,
    proxyJump: found.proxyJump ?? null,
    proxyCommand: found.proxyCommand ?? null,
    connectTimeoutMs: found.connectTimeoutMs || null, // 0: for ever, as with ssh where nothing says it
  };
}

/** Of HostName only `%h` and `%%` are known. */
function hostNameOf({ found, question, finalName }: Search): string {
  if (finalName !== null) return finalName;
  return found.hostName === undefined ? question.host : expandTokens(found.hostName, { h: question.host }, 'HostName');
}

/** Lets the lines say what has not been said yet. `enclosing`: whether the block around an Include applies. */
function apply(lines: Line[], search: Search, enclosing: boolean): void {
  let active = enclosing;
  for (const line of lines) {
    const { keyword, place } = line;
    if (!isKeyword(keyword) && !matchPatterns(search.found.ignoreUnknown ?? '', keyword)) {
      throw refuse(
        place,
        `ssh knows no ${keyword}; where a newer one does: IgnoreUnknown ${keyword}, before that line`,
      );
    }
    if (keyword === 'host') active = enclosing && matchesHost(line.args, search.host);
    else if (keyword === 'match') active = matchesCriteria(line, search) && enclosing;
    else if (keyword === 'include') for (const file of line.included) apply(file, search, active);
    else if (active) setValue(line, search.found);
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

/** The words of a Match line; `user=op` is two. */
function wordsOf(args: string[]): string[] {
  return args.flatMap((arg) => /^(!?\w+)=(.*)$/s.exec(arg)?.slice(1) ?? [arg]);
}

function matchesCriteria({ args, place }: Line, search: Search): boolean {
  const words = wordsOf(args);
  const isFinal = search.finalName !== null;
  let result = true;
  let before = 0;
  for (let i = 0; i < words.length; i += 1, before += 1) {
    const word = (words[i] as string).toLowerCase();
    const negated = word.startsWith('!');
    const criterion = word.replace(/^!/, '');
    if (criterion === 'all') {
      if (words.length > i + 1 || before > 1) throw refuse(place, 'Match all stands alone');
      result &&= !negated;
    } else if (criterion === 'final' || criterion === 'canonical') {
      search.wantsFinal ||= criterion === 'final';
      if (isFinal === negated) result = false;
    } else {
      const patterns = words[(i += 1)];
      if (patterns === undefined || patterns === '') throw refuse(place, `Match ${criterion} needs a value`);
      const matches = matchesOne(criterion, patterns, search, place);
      if (matches === null || matches === negated) result = false;
    }
  }
  return result;
}

/** Null for what is never asked: then the block does not apply, negated or not. */
function matchesOne(criterion: string, patterns: string, search: Search, place: string): boolean | null {
  const { host, user, defaultUser } = search.question;
  switch (criterion) {
    case 'host':
      return matchPatterns(patterns.toLowerCase(), hostNameOf(search).toLowerCase());
    case 'originalhost':
      return matchPatterns(patterns.toLowerCase(), host.toLowerCase());
    case 'user':
      return matchPatterns(patterns, user ?? search.found.user ?? defaultUser);
    case 'localuser':
      return matchPatterns(patterns, userName());
    default:
      if (UNASKED.has(criterion)) return null;
      throw refuse(place, `Match has no ${criterion}`);
  }
}

/** `args` are as ssh takes them: the file was checked when it was read. */
function setValue({ keyword, args, place }: Line, found: Search['found']): void {
  const first = args[0] as string;
  switch (keyword) {
    case 'hostname':
      found.hostName ??= first;
      break;
    case 'port':
      found.port ??= Number(first);
      break;
    case 'user':
      found.user ??= first;
      break;
    case 'identityfile':
    case 'identityfile2': {
      const files = (found.identityFiles ??= []);
      if (!files.includes(first)) files.push(first);
      break;
    }
    case 'identitiesonly':
      found.identitiesOnly ??= flagOf(first);
      break;
    case 'userknownhostsfile':
      found.knownHostsFiles ??= args;
      break;
    case 'globalknownhostsfile':
      found.globalKnownHostsFiles ??= args;
      break;
    case 'hostkeyalias':
      found.hostKeyAlias ??= first;
      break;
    case 'proxyjump':
      found.proxyJump ??= isNone(first) ? 'none' : first;
      break;
    case 'proxycommand':
      if (found.proxyJump !== undefined) break;
      found.proxyJump = 'none'; // where it comes first ssh takes no ProxyJump either
      if (!isNone(args.join(' '))) found.proxyCommand = place;
      break;
    case 'connecttimeout':
      if (first !== 'none') found.connectTimeoutMs ??= (secondsOf(first) ?? 0) * 1000;
      break;
    case 'ignoreunknown':
      found.ignoreUnknown ??= first;
      break;
    default:
      break;
  }
}
