/** The quick way to read a plain list gives what the YAML library gives, or nothing. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { parse } from 'yaml';
import { parsePlainList } from '../../../src/config/plain-list.ts';

const word = fc.oneof(
  fc.stringMatching(/^[A-Za-z0-9./[\]_,:#~ -]{1,12}$/),
  fc.constantFrom(
    'no',
    'Yes',
    'null',
    '0x1f',
    '1e3',
    '007',
    '10.0.0.1',
    'node[1-3]',
    'a.b',
    '12',
    '-',
    '---',
    '<<',
    'n',
  ),
);
const line = fc.oneof(
  fc.tuple(fc.constantFrom('- ', '  ', ''), word).map(([indent, text]) => `${indent}${text}`),
  fc
    .tuple(fc.constantFrom('- ', '  '), fc.constantFrom('name', 'host', 'rootDir', 'port', 'y'), word)
    .map(([indent, key, value]) => `${indent}${key}: ${value}`),
);

test('whatever the text', () => {
  fc.assert(
    fc.property(fc.array(line, { minLength: 1, maxLength: 6 }), fc.boolean(), (lines, isEnded) => {
      const text = `${lines.join('\n')}${isEnded ? '\n' : ''}`;
      const quick = parsePlainList(text);
      if (quick !== null) expect(quick).toEqual(parse(text, { stringKeys: true }));
    }),
    { numRuns: 3000 },
  );
});

test('names and maps are read the quick way, and what is more is not', () => {
  expect(parsePlainList('- a\n- name: b[1-2]\n  host: 10.0.0.[1-2]\n')).toBeNull();
  expect(parsePlainList('- a\n- name: b\n  host: 10.0.0.1\n  port: 22\n  rootDir: /data/x\n- n[1-20,30]')).toEqual([
    'a',
    { name: 'b', host: '10.0.0.1', port: 22, rootDir: '/data/x' },
    'n[1-20,30]',
  ]);
  for (const text of [
    '',
    '# x\n- a\n',
    '- a # x\n',
    '- "a"\n',
    '- ${A}\n',
    '- a: b: c\n',
    '  name: a\n',
    '- no\n',
    '- name: a\n  name: b\n',
  ])
    expect(parsePlainList(text), text).toBeNull();
});
