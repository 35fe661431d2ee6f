/** The help, from the tables of commands and options. */
import { COMMANDS, type CommandName } from './commands.ts';
import type { Option, Options } from './kinds.ts';

const WIDTH = 100;
const INDENT = 31;

const EXIT_CODES = `Exit codes: 0 in sync or healed, the gate passes; 1 the run could not be done; 2 drift is left, the
gate says no; 3 the picture is incomplete; 4 a pull or a verification failed; 129, 130, 143 interrupted.`;

const ALWAYS = [
  ['-h, --help', 'show this help, of one command behind its name'],
  ['    --version', 'show the version'],
] as const;

/** The help for one command, or for all: then an option that several take is explained with the first. */
export function helpText(only: CommandName | null): string {
  const names = (Object.keys(COMMANDS) as CommandName[]).filter((name) => only === null || name === only);
  const usages = names.map((name) => `reconcile ${COMMANDS[name].usage} [options]`);
  const told = new Set<string>();
  const sections = names.map((name) => {
    const all = Object.values<Option<unknown>>(COMMANDS[name].options satisfies Options);
    const lines = all.map((option) => line(spelling(option), option.about)).filter((text) => !told.has(text));
    for (const text of lines) told.add(text);
    return [`${name}: ${COMMANDS[name].about}`, ...lines].join('\n');
  });
  const always = ALWAYS.map(([option, about]) => line(option, about)).join('\n');
  return `Usage: ${usages.join('\n       ')}\n\n${[...sections, always, EXIT_CODES].join('\n\n')}\n`;
}

/** `-o, --output table|json`. */
function spelling({ short, long, takes, negatable }: Option<unknown>): string {
  const letter = short === null ? '    ' : `-${short}, `;
  return `${letter}--${negatable ? '[no-]' : ''}${long}${takes === null ? '' : ` ${takes}`}`;
}

function line(option: string, about: string): string {
  const lines = [''];
  for (const word of about.split(' ')) {
    const last = lines.at(-1) as string;
    if (last !== '' && last.length + word.length >= WIDTH - INDENT) lines.push(word);
    else lines[lines.length - 1] = last === '' ? word : `${last} ${word}`;
  }
  const begin = `  ${option}`;
  const first = begin.length < INDENT ? begin.padEnd(INDENT) : `${begin}\n${' '.repeat(INDENT)}`;
  return `${first}${lines.join(`\n${' '.repeat(INDENT)}`)}`;
}
