/** The README's tables of options, exit codes, verdicts and outcomes are those of the program; so are the words of the schema. */
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { COMMANDS } from '../../src/cli/args/commands.ts';
import { EXIT_CODES } from '../../src/core/model/exit-codes.ts';
import { OUTCOMES } from '../../src/core/model/result.ts';
import { IMAGE_VERDICTS, SNAPSHOT_VERDICTS } from '../../src/core/model/verdict.ts';

const root = new URL('../../', import.meta.url).pathname;

test('the tables are as scripts/readme.js writes them', () => {
  const { stderr, status } = spawnSync(process.execPath, ['scripts/readme.js', '--check'], { cwd: root });
  expect({ status, stderr: stderr.toString() }).toEqual({ status: 0, stderr: '' });
});

test('they have every option and every exit code', () => {
  const readme = readFileSync(`${root}README.md`, 'utf8');
  const options = Object.values(COMMANDS).flatMap((command) => Object.values(command.options));
  for (const { long, negatable } of options) {
    expect(readme).toMatch(new RegExp(`^\\| \`.*--${negatable ? '\\[no-\\]' : ''}${long}\\b`, 'm'));
  }
  for (const { code, meaning } of Object.values(EXIT_CODES)) {
    expect(readme).toMatch(new RegExp(`^\\| ([\\d, ]*, )?${code}\\b.*\\| ${meaning} +\\|$`, 'm'));
  }
});

test.each([
  ['image verdicts', IMAGE_VERDICTS],
  ['snapshot verdicts', SNAPSHOT_VERDICTS],
  ['outcomes', OUTCOMES],
])('the table of %s has a full row for each word, and no other', (name, words) => {
  const readme = readFileSync(`${root}README.md`, 'utf8');
  const [, table = ''] = readme.split(`<!-- ${name} -->`);
  const [head = '', , ...rows] = table.split(`<!-- end of ${name} -->`)[0]?.trim().split('\n') ?? [];
  const cells = (row: string): string[] =>
    row
      .split('|')
      .slice(1, -1)
      .map((cell) => cell.trim());
  expect(rows).toHaveLength(words.length);
  expect(new Set(rows.map((row) => cells(row)[0]))).toEqual(new Set(words.map((word) => `\`${word}\``)));
  for (const row of rows) {
    expect(cells(row)).toHaveLength(cells(head).length);
    expect(cells(row)).not.toContain('');
  }
});

test('the schema of the report knows the same verdicts and outcomes', () => {
  const { $defs } = JSON.parse(readFileSync(`${root}config/report.schema.json`, 'utf8')) as {
    $defs: {
      image: { properties: { verdict: { enum: string[] } } };
      snapshotVerdict: { enum: string[] };
      outcome: { enum: (string | null)[] };
      summary: { properties: Record<'images' | 'snapshots', { required: string[] }> };
    };
  };
  const { images, snapshots } = $defs.summary.properties;
  expect([$defs.image.properties.verdict.enum, images.required]).toEqual([IMAGE_VERDICTS, IMAGE_VERDICTS]);
  expect([$defs.snapshotVerdict.enum, snapshots.required]).toEqual([SNAPSHOT_VERDICTS, SNAPSHOT_VERDICTS]);
  expect(new Set($defs.outcome.enum)).toEqual(new Set([...OUTCOMES, null]));
});

test('the page on cost has the numbers that were measured', () => {
  const read = (file: string): string => readFileSync(`${root}${file}`, 'utf8');
  const page = read('src/README.md').split('## Cost')[1]?.split('\n## ')[0] ?? '';
  const rows = [
    ...read('test/bench/measured/simulated.txt').matchAll(/^ +(\d+) +([\d.]+) +[\d.]+ +(\d+) +\d+ +(\d+)$/gm),
  ];
  expect(rows).toHaveLength(3);
  for (const [, nodes, seconds, megabytes, requests] of rows) {
    const count = Number(nodes).toLocaleString('en');
    expect(page).toMatch(new RegExp(`${seconds} s for ${count}\\b`));
    expect(page).toMatch(new RegExp(`${megabytes} MB at ${count}\\b`));
    expect(page).toContain(`${requests} for one image and one snapshot`);
  }
  const [, seconds, megabytes] =
    /^reconcile --dry-run +[\d.]+ +([\d.]+) +(\d+)/m.exec(read('test/bench/measured/fleet.txt')) ?? [];
  expect(page).toContain(`${seconds} s for 200 nodes`);
  expect(page).toContain(`${megabytes} MB at 200`);
});
