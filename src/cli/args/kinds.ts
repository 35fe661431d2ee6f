/** The kinds of options. Each is declared once: how it is spelled, what it takes, what the help says, and how it is read. */
import { fault, type ReconcileError } from '../../core/errors.ts';
import { parseDuration } from '../../core/text.ts';
import type { Limit } from '../../core/model/plan.ts';
import { parseShard, type Shard } from '../../core/shard/shard.ts';

/** One time that an option was typed. */
export interface Given {
  /** The option's name without the leading dashes. */
  long: string;
  /** As typed, without the value: `-i`, `--no-stream`. */
  spelling: string;
  /** Null for an option that takes none. */
  value: string | null;
}

export interface Option<T> {
  /** Without the leading dashes. */
  long: string;
  short: string | null;
  /** What the help calls its value; null where it takes none. */
  takes: string | null;
  /** `--no-LONG` is understood too. */
  negatable: boolean;
  about: string;
  /** What was typed, in its order, → the value. @throws ReconcileError CONFIG_INVALID */
  read: (given: Given[]) => T;
}

export type Options = Record<string, Option<unknown>>;

/** The values that a table of options gives, under the same names. */
export type OptionsOf<O extends Options> = { [K in keyof O]: O[K] extends Option<infer T> ? T : never };

/**
 * What was typed → the value of every option of a table; one that was not typed has its default.
 * @throws ReconcileError CONFIG_INVALID
 */
export function readOptions<O extends Options>(options: O, given: Given[]): OptionsOf<O> {
  const values = Object.entries(options).map(([key, { long, read }]) => [
    key,
    read(given.filter((each) => each.long === long)),
  ]);
  return Object.fromEntries(values) as OptionsOf<O>; // `fromEntries` forgets which value belongs to which key
}

/** What was typed is not understood, or makes no sense. */
export function usage(problem: string): ReconcileError {
  return fault('CONFIG_INVALID', { problem, hint: 'reconcile --help lists what there is' });
}

type Spelled = Pick<Option<unknown>, 'long' | 'short' | 'about'>;

/** `long` or `short,long`. */
function spelled(name: string, about: string): Spelled {
  const [long = '', short = null] = name.split(',').reverse();
  return { long, short, about };
}

/** Off unless given. Given twice it means the same as once. */
export function flag(name: string, about: string): Option<boolean> {
  return { ...spelled(name, about), takes: null, negatable: false, read: (given) => given.length > 0 };
}

/** A flag that is to mean more when it is given twice, which is not built yet. */
export function levelFlag(name: string, about: string): Option<boolean> {
  const option = spelled(name, about);
  const read = (given: Given[]): boolean => {
    if (given.length > 1) throw usage(`option -${option.short}${option.short} is not built yet`);
    return given.length > 0;
  };
  return { ...option, takes: null, negatable: false, read };
}

/** On by `--LONG`, off by `--no-LONG`, else undefined. */
export function toggle(name: string, about: string): Option<boolean | undefined> {
  const option = spelled(name, about);
  const read = (given: Given[]): boolean | undefined => {
    const said = [...new Set(given.map(({ spelling }) => spelling))];
    if (said.length > 1) throw usage(`${said.join(' and ')} exclude each other`);
    return said[0] === undefined ? undefined : !said[0].startsWith('--no-');
  };
  return { ...option, takes: null, negatable: true, read };
}

/** Takes one value, of which `parse` makes something or says what is wrong. */
function one<T>(
  name: string,
  takes: string,
  about: string,
  parse: (text: string, said: string) => T,
): Option<T | undefined> {
  const option = spelled(name, about);
  const read = (given: Given[]): T | undefined => {
    const [first, second] = given;
    if (second !== undefined) throw usage(`--${option.long} is given twice`);
    if (first === undefined) return undefined;
    return parse(first.value ?? '', `--${option.long} "${first.value}"`);
  };
  return { ...option, takes, negatable: false, read };
}

/** The same option with a value for when it is not given. */
export function or<T, const D>(option: Option<T | undefined>, otherwise: D): Option<T | D> {
  return { ...option, read: (given) => option.read(given) ?? otherwise };
}

export function value(name: string, takes: string, about: string): Option<string | undefined> {
  return one(name, takes, about, (text) => text);
}

/** May be given several times. */
export function values(name: string, takes: string, about: string): Option<string[]> {
  const read = (given: Given[]): string[] => given.map((each) => each.value ?? '');
  return { ...spelled(name, about), takes, negatable: false, read };
}

const NUMBER = /^(0|[1-9]\d{0,5})$/;

/** A whole number from `least` on, of at most six digits and in no other spelling. */
export function whole(name: string, least: number, about: string): Option<number | undefined> {
  return one(name, 'N', about, (text, said) => {
    if (!NUMBER.test(text) || Number(text) < least) throw usage(`${said} is no whole number from ${least} up`);
    return Number(text);
  });
}

/** A whole number or a percentage. */
export function limit(name: string, about: string): Option<Limit | undefined> {
  return one(name, 'N|P%', about, (text, said) => {
    const percent = text.endsWith('%');
    const digits = percent ? text.slice(0, -1) : text;
    if (!NUMBER.test(digits) || (percent && Number(digits) > 100)) {
      throw usage(`${said} is no number and no percentage`);
    }
    return { value: Number(digits), percent };
  });
}

/** The longest time that a timer of Node.js can wait is a little more. */
const MAX_DURATION_MS = 24 * 86_400_000;

/** In milliseconds, more than none unless `least` is 0. */
export function duration(name: string, about: string, least: 0 | 1 = 1): Option<number | undefined> {
  return one(name, 'DURATION', about, (text, said) => {
    const ms = parseDuration(text);
    if (ms === null || ms < least) throw usage(`${said} is no duration (90s, 15m, 2h)`);
    if (ms > MAX_DURATION_MS) throw usage(`${said} is longer than 24 days`);
    return ms;
  });
}

/** `I/N`: a part of the fleet. */
export function shard(name: string, about: string): Option<Shard | undefined> {
  return one(name, 'I/N', about, (text, said) => {
    const parsed = parseShard(text);
    if (parsed === null) throw usage(`${said} is no part of a whole: write I/N, with I from 0 to N-1, as 0/4`);
    return parsed;
  });
}

/** A time of the day, in minutes since midnight. */
export function clock(name: string, about: string): Option<number | undefined> {
  return one(name, 'HH:MM', about, (text, said) => {
    const [, hours, minutes] = /^([01]?\d|2[0-3]):([0-5]\d)$/.exec(text) ?? [];
    if (hours === undefined) throw usage(`${said} is no time of the day (06:00)`);
    return Number(hours) * 60 + Number(minutes);
  });
}

/** One of a few words. @param refused words that are known and no choice here, with what is wrong with them */
export function choice<const C extends string>(
  name: string,
  choices: readonly C[],
  about: string,
  refused: Record<string, string> = {},
): Option<C | undefined> {
  return one(name, choices.join('|'), about, (text, said) => choiceOf(choices, text, said, refused));
}

/** Several of a few words, with commas between them. */
export function choices<const C extends string>(
  name: string,
  choices: readonly C[],
  about: string,
): Option<C[] | undefined> {
  const { long } = spelled(name, about);
  const takes = choices.join(',');
  return one(name, takes, about, (text) =>
    text.split(',').map((word) => choiceOf(choices, word, `--${long} "${word}"`)),
  );
}

function choiceOf<C extends string>(
  choices: readonly C[],
  text: string,
  said: string,
  refused: Record<string, string> = {},
): C {
  const found = choices.find((each) => each === text);
  if (found !== undefined) return found;
  const why = Object.hasOwn(refused, text) ? refused[text] : `is none of ${choices.join(', ')}`;
  throw usage(`${said} ${why}`);
}
