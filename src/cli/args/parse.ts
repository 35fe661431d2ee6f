/**
 * The command line → the command and what it is told. What was not exactly understood is refused here, before anything is contacted; what
 * is not built is refused by name.
 */
import { parseArgs as tokenize } from 'node:util';
import { distance } from 'fastest-levenshtein';
import type { Format } from '../../reports/formats.ts';
import { COMMANDS, isCommandName, LATER_COMMANDS, type CommandName, type Invocation } from './commands.ts';
import { helpText, longHelpText } from './help.ts';
import { usage, type Given, type Option } from './kinds.ts';
import { LATER_OPTIONS } from './options.ts';

/** Every option by its name; one that several commands take is spelled alike in all. */
const ALL = new Map(
  Object.values(COMMANDS).flatMap(({ options }) =>
    Object.values(options).map((option) => [option.long, option] as const),
  ),
);

/** A command, or a text that was asked for: the help or the version. */
export type Parsed = { kind: 'command'; invocation: Invocation } | { kind: 'text'; text: string };

/**
 * Parses the words after the program's name.
 * @throws ReconcileError CONFIG_INVALID with one clear sentence
 */
export function parseArgs(argv: string[], version: string): Parsed {
  const tokens = tokensOf(argv);
  const { word, operands } = wordsOf(tokens);
  const asks = (name: string): boolean =>
    tokens.some((token) => token.kind === 'option' && token.name === name && token.value === undefined);
  if (asks('help')) {
    const of = word !== null && isCommandName(word) ? word : null;
    return { kind: 'text', text: asks('verbose') ? longHelpText(of) : helpText(of) };
  }
  if (asks('version')) return { kind: 'text', text: `${version}\n` };

  const name = word ?? 'run';
  if (LATER_COMMANDS.includes(name)) throw usage(`command "${name}" is not built yet`);
  refuseMisplaced(tokens, argv);
  const given = tokens.flatMap((token) => (token.kind === 'option' ? [givenBy(token, argv)] : []));
  if (!isCommandName(name)) throw usage(`unknown command "${name}"${nearest(name, Object.keys(COMMANDS), '')}`);
  const { options, understand } = COMMANDS[name];
  const taken = new Set(Object.values(options).map(({ long }) => long));
  const stray = given.find(({ long }) => !taken.has(long));
  if (stray !== undefined) throw usage(`option ${stray.spelling} makes no sense with "${name}"`);
  return { kind: 'command', invocation: understand(given, operands) };
}

/** What can be told of a command line that was refused: how it wanted to be answered. */
export function intentOf(argv: string[]): { command: CommandName; dryRun: boolean; output: Format } {
  const tokens = tokensOf(argv);
  const options = tokens.flatMap((token) => (token.kind === 'option' ? [token] : []));
  const formats = options.filter(({ name }) => name === 'output').map((token) => valueOf(token));
  const { word } = wordsOf(tokens);
  return {
    command: word !== null && isCommandName(word) ? word : 'run',
    dryRun: options.some(({ name }) => name === 'dry-run'),
    output: (['json', 'junit', 'markdown'] as const).find((format) => formats.includes(format)) ?? 'table',
  };
}

// ------------------------------------------------------------------------------------------------ words → tokens

type Token = NonNullable<ReturnType<typeof tokensOf>>[number];
type OptionToken = Extract<Token, { kind: 'option' }>;

function tokensOf(argv: string[]) {
  const known = [...ALL.values()].map(({ long, short, takes }) => [
    long,
    { type: takes === null ? 'boolean' : 'string', ...(short === null ? {} : { short }) } as const,
  ]);
  const options = { ...Object.fromEntries(known), help: { type: 'boolean', short: 'h' }, version: { type: 'boolean' } };
  const config = { args: argv, options, strict: false, allowPositionals: true, tokens: true } as const;
  return tokenize(config).tokens;
}

/** The word that names the command, and those that are for it; what comes after `--` is never a command. */
function wordsOf(tokens: Token[]): { word: string | null; operands: string[] } {
  const words = tokens.flatMap((token) => (token.kind === 'positional' ? [token] : []));
  const end = tokens.find(({ kind }) => kind === 'option-terminator')?.index ?? Infinity;
  const isCommand = words[0] !== undefined && words[0].index < end;
  const [word = null, ...rest] = words.map(({ value }) => value);
  return isCommand ? { word, operands: rest } : { word: null, operands: words.map(({ value }) => value) };
}

/** `-o=json` is `-o json`. Null where there is none. */
function valueOf({ value, inlineValue, rawName }: OptionToken): string | null {
  if (value === undefined) return null;
  return inlineValue && !rawName.startsWith('--') ? value.replace(/^=/, '') : value;
}

const VALUE_OF_FLAG = /^(true|false|yes|no|on|off|always|never|auto|[01])$/i;

/** What a text editor makes of `--`. */
const DASH = /^(?!-)[\p{Pd}\u2212]/u;

/**
 * Words that would be taken for a manifest or a reference of that name, and were meant for something else: `--deep true`,
 * `—deep`. After `--` they are taken as they are.
 */
function refuseMisplaced(tokens: Token[], argv: string[]): void {
  for (const [i, token] of tokens.entries()) {
    if (token.kind === 'option-terminator') {
      const word = argv[token.index] ?? '';
      if (word !== '--') throw usage(`unknown option - in "${word}"`); // `-n-` is read as `-n --`
      return;
    }
    if (token.kind !== 'positional') continue;
    const before = tokens[i - 1];
    if (before?.kind === 'option' && before.value === undefined && VALUE_OF_FLAG.test(token.value)) {
      throw usage(`${before.rawName} takes no value ("${token.value}")`);
    }
    if (DASH.test(token.value)) throw usage(`"${token.value}" begins with a dash that is no hyphen`);
  }
}

// ---------------------------------------------------------------------------------------------- tokens → options

function givenBy(token: OptionToken, argv: string[]): Given {
  const option = optionOf(token, argv);
  return { long: option.long, spelling: token.rawName, value: checkedValue(token, option) };
}

function optionOf({ name, rawName, index }: OptionToken, argv: string[]): Option<unknown> {
  const known = ALL.get(name);
  if (known !== undefined) return known;
  if (LATER_OPTIONS.has(name)) throw usage(`option ${rawName} is not built yet`);
  const word = argv[index] ?? '';
  if (!rawName.startsWith('--')) {
    // In a group of letters `=` is a letter as any other.
    if (/^-[^-=]+=/.test(word)) throw usage(`${word.slice(0, word.indexOf('='))} takes no value ("${word}")`);
    throw usage(`unknown option ${rawName}${word === rawName ? '' : ` in "${word}"`}`);
  }
  const positive = name.startsWith('no-') ? ALL.get(name.slice('no-'.length)) : undefined;
  if (positive?.negatable === true) return positive;
  if (positive !== undefined) throw usage(`option ${rawName} does not exist: leave --${positive.long} out`);
  throw usage(`unknown option ${rawName}${nearest(name, [...ALL.keys()], '--')}`);
}

/** An option that begins so, or one that is spelled nearly so. */
function nearest(word: string, known: string[], dashes: string): string {
  const longer = word.length < 2 ? undefined : known.find((name) => name.startsWith(word));
  const [near] = known.toSorted((a, b) => distance(word, a) - distance(word, b));
  const found =
    longer ?? (near !== undefined && distance(word, near) <= Math.min(3, word.length - 1) ? near : undefined);
  return found === undefined ? '' : `; did you mean ${dashes}${found}?`;
}

function checkedValue(token: OptionToken, { takes }: Option<unknown>): string | null {
  const text = valueOf(token);
  if (takes === null) {
    if (text !== null) throw usage(`${token.rawName} takes no value ("${text}")`);
    return null;
  }
  if (text === null || text === '') throw usage(`${token.rawName} needs a value (${takes})`);
  if (token.inlineValue === false && /^-./.test(text)) {
    throw usage(`${token.rawName} needs a value, and "${text}" looks like an option`);
  }
  return text;
}
