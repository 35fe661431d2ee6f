/** The README's tables of options and of exit codes are those of the program. */
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { COMMANDS } from '../../src/cli/args/commands.ts';
import { EXIT_CODES } from '../../src/core/model/exit-codes.ts';

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
