/** Sets of node names, written as clustershell writes them: `node[1-20,30]`, `gpu-*`, `@pool`, `!x`; Ansible's `[1:20]` too. */
import picomatch from 'picomatch';
import { fault, type ReconcileError } from './errors.ts';

const MAX_NAMES = 100_000;
const BRACKET = /\[([^[\]]*)\]/;

/**
 * `a[1-3,05-06]` → `a1 a2 a3 a05 a06`. Zero padding is kept as written; several brackets multiply; commas outside of
 * brackets separate, so that what `fold` gives can be typed back in.
 * @throws ReconcileError CONFIG_INVALID for a broken bracket, an empty, reversed or unevenly padded range, or more than
 * 100,000 names
 */
export function expand(text: string): string[] {
  const names = text.split(/,(?![^[]*\])/).flatMap((part) => expandPart(part, text));
  if (names.length > MAX_NAMES) throw broken(text, `names more than ${MAX_NAMES} nodes`);
  return names;
}

function expandPart(part: string, text: string): string[] {
  const match = BRACKET.exec(part);
  if (match === null) {
    if (/[[\]]/.test(part)) throw broken(text, 'has an unpaired bracket');
    return [part];
  }
  const head = part.slice(0, match.index);
  const tails = expandPart(part.slice(match.index + match[0].length), text);
  const numbers = (match[1] as string).split(',').flatMap((range) => expandRange(range.trim(), text));
  if (numbers.length * tails.length > MAX_NAMES) throw broken(text, `names more than ${MAX_NAMES} nodes`);
  return numbers.flatMap((number) => tails.map((tail) => `${head}${number}${tail}`));
}

function expandRange(range: string, text: string): string[] {
  const match = /^(\d+)(?:[-:](\d+))?$/.exec(range);
  if (match === null) throw broken(text, `: "${range}" is no number or range`);
  const first = match[1] as string;
  const last = match[2];
  if (last === undefined) return [first];
  if (last.length > 15 || ((isPadded(first) || isPadded(last)) && first.length !== last.length)) {
    throw broken(text, `: the ends of the range ${range} differ in padding, or are too long`);
  }
  const from = Number(first);
  const to = Number(last);
  if (to < from) throw broken(text, `: the range ${range} runs backwards`);
  if (to - from >= MAX_NAMES) throw broken(text, `names more than ${MAX_NAMES} nodes`);
  return Array.from({ length: to - from + 1 }, (_, i) =>
    String(from + i).padStart(isPadded(first) ? first.length : 0, '0'),
  );
}

function isPadded(digits: string): boolean {
  return digits.length > 1 && digits.startsWith('0');
}

function broken(text: string, why: string): ReconcileError {
  return fault('CONFIG_INVALID', { problem: `node pattern "${text}"${why.startsWith(':') ? '' : ' '}${why}` });
}

/** A name and the pool that `@pool` asks for. */
export interface Member {
  name: string;
  pool: string;
}

/**
 * The members that the patterns select, in the members' order. Patterns are OR; those with a leading `!` remove, last;
 * only `!` patterns start from all.
 * @returns the selection, and the first pattern (no exclusion) that matched no member at all
 */
export function select<T extends Member>(
  members: T[],
  patterns: string[],
): { selected: T[]; unmatched: string | null } {
  const wanted = patterns.filter((pattern) => !pattern.startsWith('!'));
  const unwanted = patterns.filter((pattern) => pattern.startsWith('!')).map((pattern) => matcher(pattern.slice(1)));
  const wantedMatchers = wanted.map(matcher);
  const unmatched = wanted.find((_, i) => !members.some((member) => wantedMatchers[i]?.(member))) ?? null;
  const selected = members.filter(
    (member) =>
      (wanted.length === 0 || wantedMatchers.some((matches) => matches(member))) &&
      !unwanted.some((matches) => matches(member)),
  );
  return { selected, unmatched };
}

function matcher(pattern: string): (member: Member) => boolean {
  if (pattern.startsWith('@')) return (member) => member.pool === pattern.slice(1);
  const names = expand(pattern);
  const exact = new Set(names);
  const globs = names.filter((name) => /[*?]/.test(name)).map((name) => picomatch(name, { dot: true }));
  return (member) => exact.has(member.name) || globs.some((matches) => matches(member.name));
}

/** Names → the shortest text that `expand` turns back into them: `node-[1-3,7] other`. Order is not kept. */
export function fold(names: string[]): string {
  const groups = new Map<string, { head: string; tail: string; digits: string[] }>();
  const plainNames: string[] = [];
  for (const name of new Set(names)) {
    const match = /^(.*?)(\d+)(\D*)$/.exec(name);
    if (match === null) {
      plainNames.push(name);
      continue;
    }
    const [, head, digits, tail] = match as unknown as [string, string, string, string];
    const group = groups.get(`${head}\0${tail}`) ?? { head, tail, digits: [] };
    group.digits.push(digits);
    groups.set(`${head}\0${tail}`, group);
  }
  const folded = [...groups.values()].map(({ head, tail, digits }) => {
    const ranges = foldDigits(digits);
    return digits.length === 1 ? `${head}${digits[0]}${tail}` : `${head}[${ranges}]${tail}`;
  });
  return [...folded, ...plainNames].sort().join(',');
}

/** `1 2 3 7 01 02` → `1-3,7,01-02`; a range that begins with a zero keeps its width. */
function foldDigits(digits: string[]): string {
  const sorted = [...new Set(digits)].sort((a, b) => a.length - b.length || (a < b ? -1 : 1));
  const ranges: { first: string; last: string }[] = [];
  for (const text of sorted) {
    const open = ranges.at(-1);
    if (open !== undefined && goesOn(open, text)) open.last = text;
    else ranges.push({ first: text, last: text });
  }
  return ranges.map(({ first, last }) => (first === last ? first : `${first}-${last}`)).join(',');
}

/** True where counting on from `last` gives `next`, in the width of a padded range: 08 → 09 → 10, 9 → 10, not 99 → 100. */
function goesOn({ first, last }: { first: string; last: string }, next: string): boolean {
  if (next.length > 15 || Number(next) !== Number(last) + 1) return false;
  return isPadded(first) ? next.length === first.length : !isPadded(next);
}
