/** The help, from the tables of commands and options: a screen of 24 lines for each command, and the long help of them all. */
import { exitCodeRows } from '../../core/model/exit-codes.ts';
import { COMMANDS, isCommandName, type Command, type CommandName } from './commands.ts';
import { DEFAULTS, EXAMPLES, GROUPS } from './help-words.ts';
import type { Option } from './kinds.ts';

const SCREEN_WIDTH = 80;
const WIDTH = 100;
const INDENT = 31;
/** Where the options of a group begin. */
const GROUP_INDENT = 8;
/** A list of words that is longer than this is in the long help. */
const MAX_WORDS = 24;

const ALWAYS = [
  ['-h, --help', 'show the help on one screen, of a command behind its name; with -v the long help'],
  ['    --version', 'show the version'],
] as const;

/** The help on one screen; that of `run` where no command is named, with the names of the others. */
export function helpText(only: CommandName | null): string {
  const name = only ?? 'run';
  const { usage, about, options } = COMMANDS[name];
  const others = Object.keys(COMMANDS).join(', ');
  const codes = exitCodeRows().map(({ codes, about: meaning }) => `${codes} ${meaning}`);
  return `${[
    `Usage: reconcile ${usage} [options]`,
    `  ${about}`,
    ...(only === null ? wrap(`Commands: ${others}; \`reconcile COMMAND --help\``, SCREEN_WIDTH) : []),
    ...groupsOf(options).flatMap(([title, shown]) => groupLines(title, shown)),
    'Examples:',
    ...(EXAMPLES[name] ?? []).map((example) => `  ${example}`),
    ...wrap(`Exit codes: ${codes.join('; ')}.`, SCREEN_WIDTH),
    'More on each option: --help -v',
  ].join('\n')}\n`;
}

/** The help that says what each option means, of one command or of all: then one that several take is explained with the first. */
export function longHelpText(only: CommandName | null): string {
  const names = Object.keys(COMMANDS).filter(isCommandName);
  const commands = names.filter((name) => only === null || name === only).map((name) => ({ name, ...COMMANDS[name] }));
  const usages = commands.map(({ usage }) => `reconcile ${usage} [options]`);
  const told = new Set<string>();
  const sections = commands.map(({ name, about, options }) => {
    const all = Object.values(options).map((option) =>
      line(`${letterOf(option)}${spelling(option)}`, meaningOf(option)),
    );
    const lines = all.filter((text) => !told.has(text));
    for (const text of lines) told.add(text);
    return [`${name}: ${about}`, ...lines].join('\n');
  });
  const always = ALWAYS.map(([option, about]) => line(option, about)).join('\n');
  const codes = exitCodeRows().map(({ codes, about }) => `${codes} ${about}`);
  const exit = wrap(`Exit codes: ${codes.join('; ')}.`, WIDTH).join('\n');
  return `Usage: ${usages.join('\n       ')}\n\n${[...sections, always, exit].join('\n\n')}\n`;
}

function groupsOf(options: Command['options']): [string, Option<unknown>[]][] {
  const all = Object.values(options);
  const named = new Set(GROUPS.flatMap(([, names]) => names));
  return GROUPS.map(([title, names], i): [string, Option<unknown>[]] => [
    title,
    [
      ...names.flatMap((name) => all.filter(({ long }) => long === name)),
      ...(i === GROUPS.length - 1 ? all.filter(({ long }) => !named.has(long)) : []),
    ],
  ]).filter(([, shown]) => shown.length > 0);
}

function groupLines(title: string, options: Option<unknown>[]): string[] {
  const words = options.map((option) => `${letterOf(option).trimStart()}${briefly(option)}`);
  const lines: string[] = [];
  for (const word of words) {
    const last = lines.at(-1);
    if (last !== undefined && GROUP_INDENT + last.length + 2 + word.length <= SCREEN_WIDTH)
      lines[lines.length - 1] = `${last}  ${word}`;
    else lines.push(word);
  }
  return lines.map((text, i) => `${(i === 0 ? `  ${title}` : '').padEnd(GROUP_INDENT)} ${text}`.trimEnd());
}

function letterOf({ short }: Option<unknown>): string {
  return short === null ? '    ' : `-${short}, `;
}

/** `--output table|json`. */
function spelling({ long, takes, negatable }: Option<unknown>): string {
  return `--${negatable ? '[no-]' : ''}${long}${takes === null ? '' : ` ${takes}`}`;
}

/** The same with its default, and without words that are too many. */
function briefly(option: Option<unknown>): string {
  const { takes, long } = option;
  const shown = takes !== null && takes.length > MAX_WORDS ? { ...option, takes: 'WORD' } : option;
  const otherwise = DEFAULTS[long];
  return `${spelling(shown)}${otherwise === undefined ? '' : ` (${otherwise})`}`;
}

function meaningOf({ long, about }: Option<unknown>): string {
  const otherwise = DEFAULTS[long];
  return otherwise === undefined ? about : `${about}; default ${otherwise}`;
}

function line(option: string, about: string): string {
  const indent = `\n${' '.repeat(INDENT)}`;
  const begin = `  ${option}`;
  const first = begin.length < INDENT ? begin.padEnd(INDENT) : `${begin}${indent}`;
  return `${first}${wrap(about, WIDTH - INDENT).join(indent)}`;
}

/** Breaks a text at spaces into lines of at most `width` characters; a longer word has a line of its own. */
function wrap(text: string, width: number): string[] {
  const lines: string[] = [];
  let line = '';
  for (const word of text.split(' ')) {
    if (line !== '' && line.length + word.length >= width) {
      lines.push(line);
      line = word;
    } else line = line === '' ? word : `${line} ${word}`;
  }
  return [...lines, line];
}
