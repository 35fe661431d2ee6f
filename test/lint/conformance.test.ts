/** What comments and `test/conformance/README.md` say of cocoon and epoch are rows that were run: UPDATE_README=1 writes the list. */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { format, resolveConfig } from 'prettier';
import { expect, test } from 'vitest';

const root = new URL('../../', import.meta.url).pathname;
const README = `${root}test/conformance/README.md`;
const [BEGIN, END] = ['<!-- rows: generated, see test/lint/conformance.test.ts -->', '<!-- end of rows -->'];

/** A group or a row, as the tests are written: `describe('…', …)`, `it('…', …)`, `])('…', …)` of a table. */
const NAMED = /^ *(?:(describe|onDouble)|it\b.*?|test\b.*?|\]\))\(\s*(['"`])(.+?)\2,/gm;

/** Files below a directory with one of these endings, but for what is built. */
function filesOf(dir: string, endings: RegExp): string[] {
  return readdirSync(`${root}${dir}`, { recursive: true, encoding: 'utf8' })
    .filter((file) => endings.test(file) && !/(^|\/)dist\//.test(file))
    .map((file) => `${dir}/${file}`)
    .sort((a, b) => (a < b ? -1 : 1));
}

function namesOf(file: string): { isGroup: boolean; name: string }[] {
  const text = readFileSync(`${root}${file}`, 'utf8');
  return [...text.matchAll(NAMED)].map(([, group, , name = '']) => ({
    isGroup: group !== undefined,
    name: name.replaceAll(/%[sji]/g, '…'),
  }));
}

const files = filesOf('test/conformance', /\.test\.ts$/);

test('the list in test/conformance/README.md is what the rows are called', async () => {
  const list = files.map((file) => {
    const rows = namesOf(file).map(({ isGroup, name }) => (isGroup ? `\n**${name}**\n` : `- ${name}`));
    return `### ${file.replace('test/conformance/', '')}\n\n${rows.join('\n')}`;
  });
  const readme = readFileSync(README, 'utf8');
  const [before = '', rest = ''] = readme.split(BEGIN);
  const [, after = ''] = rest.split(END);
  const text = `${before}${BEGIN}\n\n${list.join('\n\n')}\n\n${END}${after}`;
  const fresh = await format(text, { ...(await resolveConfig(README)), parser: 'markdown' });
  if (process.env['UPDATE_README']) writeFileSync(README, fresh);
  else expect(readme, 'run it with UPDATE_README=1').toBe(fresh);
});

test('a row that a comment names exists', () => {
  const rows = new Set(files.flatMap(namesOf).map(({ name }) => name));
  const cited = ['src', 'test']
    .flatMap((dir) => filesOf(dir, /\.ts$/))
    .filter((file) => file !== 'test/lint/conformance.test.ts')
    .flatMap((file) => {
      const text = readFileSync(`${root}${file}`, 'utf8').replaceAll(/\n *(?:\*|\/\/) /g, ' ');
      return [...text.matchAll(/\(conformance: ([^)]+)\)/g)].map(([, name = '']) => ({ file, name }));
    });
  expect(cited.length).toBeGreaterThan(0);
  expect(cited.filter(({ name }) => !rows.has(name))).toEqual([]);
});

test('no comment leads to a document that is not here', () => {
  const lost = ['src', 'test', 'scripts']
    .flatMap((dir) => filesOf(dir, /\.(ts|js|sh|md)$/))
    .filter((file) => /\bcontract ([A-Z]\.\d|§)/i.test(readFileSync(`${root}${file}`, 'utf8')));
  expect(lost).toEqual([]);
});
