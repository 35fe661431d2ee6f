/**
 * The lines of an ssh config as OpenSSH splits them (its readconf.c and misc.c), those of included files in their place.
 * What ssh would not take is refused, in blocks that do not apply too.
 */
import { readdir, stat } from 'node:fs/promises';
import { getegid, geteuid } from 'node:process';
import { join } from 'node:path';
import { fault, type ReconcileError } from '../../core/errors.ts';
import { readRegularFile } from '../../system/file.ts';
import { expandEnv } from './tokens.ts';
import type { Surroundings } from './tokens.ts';

/** One line; the files of an Include are in its place. */
export interface Line {
  keyword: string;
  args: string[];
  place: string;
  included: Line[][];
}

/** Includes within includes; ssh gives up at the same depth. */
const MAX_DEPTH = 16;
const MAX_FILES = 1000;
const MAX_BYTES = 2 ** 20;
/** As many as ssh takes. */
const MAX_KNOWN_HOSTS_FILES = 32;
const SERVICES = '/etc/services';

/** The error of a line that ssh would not take. @param place `FILE:LINE` */
export function refuse(place: string, problem: string): ReconcileError {
  return fault('CONFIG_INVALID', { problem: `${place}: ${problem}`, hint: 'see ssh.configFile' });
}

/**
 * Every line of the file and of all that it includes, in order; none where it does not exist.
 * @throws CONFIG_INVALID for a file that cannot be read or that ssh would not take
 */
export async function loadLines(file: string, around: Surroundings): Promise<Line[]> {
  const reading: Reading = { around, filesAllowed: MAX_FILES };
  const isUsual = file === join(around.home, '.ssh/config');
  return (await readLines(file, reading, { depth: 0, isGuarded: isUsual })) ?? [];
}

interface Reading {
  around: Surroundings;
  filesAllowed: number;
}

async function readLines(
  file: string,
  reading: Reading,
  { depth, isGuarded }: { depth: number; isGuarded: boolean },
): Promise<Line[] | null> {
  if (depth > MAX_DEPTH || (reading.filesAllowed -= 1) < 0) throw refuse(file, 'too many files are included');
  const read = await readRegularFile(file, MAX_BYTES);
  if ('problem' in read) {
    if (read.cause === 'absent') return null;
    if (depth > 0 && (await stat(file)).isDirectory()) return null; // one that a pattern found; ssh reads nothing in it
    throw refuse(file, read.problem);
  }
  if (isGuarded) await refuseWhereOthersWrite(file);
  const lines: Line[] = [];
  for (const [index, raw] of read.bytes.toString('utf8').split('\n').entries()) {
    const place = `${file}:${index + 1}`;
    const parsed = parseLine(raw, place);
    if (parsed === null) continue;
    const line: Line = { ...parsed, place, included: [] };
    await checkLine(line);
    lines.push(line);
    if (line.keyword !== 'include') continue;
    for (const pattern of line.args) {
      for (const found of await expandGlob(includePath(pattern, place, reading.around))) {
        const within = await readLines(found, reading, { depth: depth + 1, isGuarded: true });
        if (within !== null) line.included.push(within);
      }
    }
  }
  return lines;
}

/** ssh takes its usual file, and what is included, only where none but we, our own group and root can write them. */
async function refuseWhereOthersWrite(file: string): Promise<void> {
  const { uid, gid, mode } = await stat(file);
  const isOurs = uid === 0 || uid === geteuid?.();
  const writers = gid === getegid?.() ? 0o002 : 0o022;
  if (!isOurs || (mode & writers) !== 0) throw refuse(file, 'bad owner or permissions: others may write it');
}

function includePath(pattern: string, place: string, around: Surroundings): string {
  const path = expandEnv(pattern, around.env, place);
  if (path.startsWith('~/')) return join(around.home, path.slice(2));
  if (path.startsWith('~')) throw refuse(place, `${path}: of the forms with ~ only ~/… is understood`);
  return path.startsWith('/') ? path : join(around.home, '.ssh', path);
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

// -------------------------------------------------------------------------------------------- one line

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

// ------------------------------------------------------------------------------------ what ssh would take

const ONE_VALUE = new Set([
  'hostname',
  'port',
  'user',
  'identityfile',
  'identityfile2',
  'identitiesonly',
  'hostkeyalias',
  'connecttimeout',
  'proxyjump',
  'ignoreunknown',
]);

/** Refuses values that ssh refuses; the name of a port becomes its number. */
async function checkLine({ keyword, args, place }: Line): Promise<void> {
  const [first = ''] = args;
  if (ONE_VALUE.has(keyword)) {
    if (args.length > 1) throw refuse(place, `${keyword} has one value, and more stand there`);
    if (first === '') throw refuse(place, `${keyword} has no value`);
  }
  switch (keyword) {
    case 'port': {
      const port = await portOf(first);
      if (port === null) throw refuse(place, `${first} is no port`);
      args[0] = String(port);
      break;
    }
    case 'identitiesonly':
      if (flagOf(first) === null) throw refuse(place, 'IdentitiesOnly is yes or no');
      break;
    case 'connecttimeout':
      if (secondsOf(first) === null) throw refuse(place, `${first} is no time`);
      break;
    case 'userknownhostsfile':
    case 'globalknownhostsfile':
      if (args.length > MAX_KNOWN_HOSTS_FILES)
        throw refuse(place, `${keyword}: more than ${MAX_KNOWN_HOSTS_FILES} files`);
      if (args.length > 1 && args.some(isNone)) throw refuse(place, `${keyword}: none stands alone`);
      if (args.includes('')) throw refuse(place, `${keyword} has an empty value`);
      break;
    case 'proxyjump': {
      const wrong = isNone(first) ? undefined : first.split(',').find((hop) => parseHop(hop) === null);
      if (wrong !== undefined) throw refuse(place, `ProxyJump: ${wrong} is not [user@]host[:port]`);
      break;
    }
    case 'host':
    case 'include':
      if (args.includes('')) throw refuse(place, `${keyword} has an empty value`);
      break;
    default:
      break;
  }
}

/** One machine of ProxyJump, as written. */
export interface Hop {
  host: string;
  port?: number;
  user?: string;
}

/** `[user@]host[:port]`, also as `ssh://…`; null for what is none. */
export function parseHop(text: string): Hop | null {
  const match = /^(?:ssh:\/\/)?(?:(.+)@)?(?:\[([^\]]+)\]|([^:/@[\]]+))(?::(\d{1,5}))?\/?$/.exec(text.trim());
  const host = match?.[2] ?? match?.[3];
  const [, user, , , port] = match ?? [];
  if (host === undefined || host.startsWith('-')) return null;
  if (port !== undefined && (Number(port) < 1 || Number(port) > 65_535)) return null;
  return { host, ...(port === undefined ? {} : { port: Number(port) }), ...(user === undefined ? {} : { user }) };
}

/** Whether the value is the word that takes a setting back, in any case. */
export function isNone(text: string): boolean {
  return text.toLowerCase() === 'none';
}

/** A number, or a name that `/etc/services` knows. */
async function portOf(text: string): Promise<number | null> {
  if (/^\+?\d+$/.test(text)) return Number(text) >= 1 && Number(text) <= 65_535 ? Number(text) : null;
  const read = await readRegularFile(SERVICES, MAX_BYTES);
  if ('problem' in read) return null;
  for (const line of read.bytes.toString('utf8').split('\n')) {
    const [name, number = '', ...aliases] = (line.split('#')[0] as string).trim().split(/\s+/);
    const port = /^(\d+)\/tcp$/.exec(number)?.[1];
    if (port !== undefined && (name === text || aliases.includes(text))) return Number(port);
  }
  return null;
}

/** `yes` and `true`, `no` and `false` as ssh takes them; null for anything else. */
export function flagOf(text: string): boolean | null {
  const word = text.toLowerCase();
  if (word === 'yes' || word === 'true') return true;
  return word === 'no' || word === 'false' ? false : null;
}

const SECONDS: Record<string, number> = { '': 1, s: 1, m: 60, h: 3_600, d: 86_400, w: 604_800 };

/** `90`, `1m30`, `2H`; `none` is 0. Null for what is no time to ssh. */
export function secondsOf(text: string): number | null {
  if (text === 'none') return 0;
  if (!/^(\d+[smhdw]?)+$/i.test(text)) return null;
  let total = 0;
  for (const [, value, unit = ''] of text.matchAll(/(\d+)([smhdw]?)/gi)) {
    total += Number(value) * (SECONDS[unit.toLowerCase()] as number);
  }
  return total <= 0x7fff_ffff ? total : null;
}
