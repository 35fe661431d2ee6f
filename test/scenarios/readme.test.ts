// The table of scenarios in test/README.md is made of the same data: UPDATE_README=1 writes it anew.
import { readFile, writeFile } from 'node:fs/promises';
import { format, resolveConfig } from 'prettier';
import { expect, test } from 'vitest';
import { SCENARIOS } from './all.ts';
import { KEY, SNAPSHOT, type Scenario } from './scenario.ts';

const README = new URL('../README.md', import.meta.url).pathname;
const [BEGIN, END] = ['<!-- scenarios: generated, see scenarios/readme.test.ts -->', '<!-- end of scenarios -->'];

/** Verdicts of one kind; a name stands beside each where there are several. */
function verdicts(value: string | Record<string, string> | undefined, usual: string): string {
  if (value === undefined) return '–';
  if (typeof value === 'string') return value;
  const all = Object.entries(value);
  const [first] = all;
  if (all.length === 1 && first !== undefined) return first[1];
  return all.map(([name, verdict]) => (name === usual ? verdict : `${verdict} (${name})`)).join(', ');
}

function rowOf({ id, state, config, args = [], expect: expected }: Scenario): string {
  const { image, snapshot, baseVerdict, plan = 'none', leftovers, dry, run } = expected;
  const under = [...args, ...(config === undefined ? [] : [JSON.stringify(config)])].join(' ');
  const base = baseVerdict === undefined ? '' : `: ${baseVerdict ?? 'none'}`;
  const codes = [...new Set([...(expected.codes ?? []), ...(expected.runCodes ?? [])])];
  const said = [...codes, ...(expected.said ?? []), ...(expected.runSaid ?? [])].map((text) => `\`${text}\``);
  const cells = [
    id,
    under === '' ? state : `${state}; \`${under}\``,
    expected.node === undefined ? verdicts(image, KEY) : `node ${expected.node}`,
    `${verdicts(snapshot, SNAPSHOT)}${base}`,
    leftovers === undefined ? plan : `${plan === 'none' ? '' : `${plan}, `}tidy`,
    String(dry),
    String(run),
    said.join(', '),
  ];
  return `| ${cells.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |`;
}

test('the table in test/README.md is what the scenarios say', async () => {
  const readme = await readFile(README, 'utf8');
  const [before = '', rest = ''] = readme.split(BEGIN);
  const [, after = ''] = rest.split(END);
  const head = '| # | state | image | snapshot | plan | dry | run | said |\n| - | - | - | - | - | - | - | - |';
  const text = `${before}${BEGIN}\n\n${head}\n${SCENARIOS.map(rowOf).join('\n')}\n\n${END}${after}`;
  const fresh = await format(text, { ...(await resolveConfig(README)), parser: 'markdown' });
  if (process.env['UPDATE_README']) await writeFile(README, fresh);
  else expect(readme, 'run it with UPDATE_README=1').toBe(fresh);
});
