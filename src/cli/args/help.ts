/** The help, from the tables of commands and options. */
import { exitCodeRows } from '../../core/model/exit-codes.ts';
import { COMMANDS, isCommandName, type CommandName } from './commands.ts';
import type { Option } from './kinds.ts';

const WIDTH = 100;
const INDENT = 31;

const ALWAYS = [
  ['-h, --help', 'show this help, of one command behind its name'],
  ['    --version', 'show the version'],
] as const;

/** The help for one command, or for all: then an option that several take is explained with the first. */
export function helpText(only: CommandName | null): string {
  const names = Object.keys(COMMANDS).filter(isCommandName);
  const commands = names.filter((name) => only === null || name === only).map((name) => ({ name, ...COMMANDS[name] }));
  const usages = commands.map(({ usage }) => `reconcile ${usage} [options]`);
  const told = new Set<string>();
  const sections = commands.map(({ name, about, options }) => {
    const all = Object.values(options).map((option) => line(spelling(option), option.about));
    const lines = all.filter((text) => !told.has(text));
    for (const text of lines) told.add(text);
    return [`${name}: ${about}`, ...lines].join('\n');
  });
  const always = ALWAYS.map(([option, about]) => line(option, about)).join('\n');
  const codes = exitCodeRows().map(({ codes, about }) => `${codes} ${about}`);
  const exit = wrap(`Exit codes: ${codes.join('; ')}.`, WIDTH).join('\n');
  return `Usage: ${usages.join('\n       ')}\n\n${[...sections, always, exit].join('\n\n')}\n`;
}

/** `-o, --output table|json`. */
function spelling({ short, long, takes, negatable }: Option<unknown>): string {
  const letter = short === null ? '    ' : `-${short}, `;
  return `${letter}--${negatable ? '[no-]' : ''}${long}${takes === null ? '' : ` ${takes}`}`;
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
