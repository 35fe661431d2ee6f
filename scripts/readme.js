// Writes the README's tables of options and exit codes from the tables of the program; with --check it only compares, and
// fails where they differ. Each stands between two comments: <!-- options --> and <!-- end of options -->.
import { readFile } from 'node:fs/promises';
import { format } from 'prettier';
import { load, root, settle } from './lib/generated.js';

const { COMMANDS, exitCodeRows } = await load(
  `export { COMMANDS } from './src/cli/args/commands.ts';
  export { exitCodeRows } from './src/core/model/exit-codes.ts';`,
  ['../commands/*'],
);

const cell = (text) => text.replaceAll('|', '\\|');
const table = (head, rows) =>
  [head, head.map(() => '---'), ...rows.map((row) => row.map(cell))].map((row) => `| ${row.join(' | ')} |`).join('\n');

function optionRows() {
  const commands = Object.entries(COMMANDS);
  const found = new Map();
  for (const [name, { options }] of commands) {
    for (const { short, long, takes, negatable, about } of Object.values(options)) {
      const known = found.get(long) ?? { words: new Set(), meaning: about, first: about, names: [], short, negatable };
      if (about !== known.first) known.meaning += `; ${name}: ${about}`;
      // One option may know more words in one command than in another: `table|json` and `table|json|junit`.
      for (const word of takes?.split('|') ?? []) known.words.add(word);
      known.names.push(name);
      found.set(long, known);
    }
  }
  return [...found].map(([long, { words, meaning, names, short, negatable }]) => {
    const letter = short === null ? '' : `-${short}, `;
    const value = words.size === 0 ? '' : ` ${[...words].join('|')}`;
    const everywhere = names.length === commands.length;
    return [
      `\`${letter}--${negatable ? '[no-]' : ''}${long}${value}\``,
      everywhere ? 'all' : names.join(', '),
      meaning,
    ];
  });
}

const tables = {
  options: table(['option', 'commands', 'meaning'], optionRows()),
  'exit codes': table(
    ['code', 'meaning'],
    exitCodeRows().map(({ codes, meaning }) => [codes, meaning]),
  ),
};

let wanted = await readFile(`${root}README.md`, 'utf8');
for (const [name, text] of Object.entries(tables)) {
  const [begin, end] = [`<!-- ${name} -->`, `<!-- end of ${name} -->`];
  const [from, to] = [wanted.indexOf(begin), wanted.indexOf(end)];
  if (from < 0 || to < from) throw new Error(`README.md lacks ${begin} … ${end}`);
  wanted = `${wanted.slice(0, from + begin.length)}\n\n${text}\n\n${wanted.slice(to)}`;
}
wanted = await format(wanted, { parser: 'markdown', printWidth: 120 });
await settle('README.md', wanted, 'readme.js');
