/** Checksums layers: only a line that can be nothing but the joined file's counts. */
import { describe, expect, test } from 'vitest';
import { readChecksums, type Checksums } from '../../../src/core/checksums.ts';
import { sha } from '../../support/facts.ts';

const PARTS = [
  { title: 'win11.qcow2.00', digest: sha('31') },
  { title: 'win11.qcow2.01', digest: sha('32') },
];
const line = (pair: string, name: string, mark = ' '): string => `${pair.repeat(32)} ${mark}${name}`;
const parts = [line('31', 'win11.qcow2.00'), line('32', 'win11.qcow2.01')];

describe('a checksums file', () => {
  test.each<[string, string[], Checksums]>([
    ['of the parts alone says nothing new', parts, { joined: null, contradicted: [] }],
    [
      'of the parts and the joined file',
      [...parts, line('e2', 'win11.qcow2')],
      { joined: sha('e2'), contradicted: [] },
    ],
    ['of the joined file alone', [line('e2', 'win11.qcow2')], { joined: sha('e2'), contradicted: [] }],
    ['in binary mode, in capitals', [line('E2', 'win11.qcow2', '*')], { joined: sha('e2'), contradicted: [] }],
    [
      'of two other files: which of them is it?',
      [line('e2', 'win11.qcow2'), line('b7', 'README')],
      { joined: null, contradicted: [] },
    ],
    [
      'that contradicts a part is not believed',
      [line('77', 'win11.qcow2.00'), line('e2', 'win11.qcow2')],
      { joined: null, contradicted: ['win11.qcow2.00'] },
    ],
    [
      'that names a part twice, once wrongly',
      [...parts, line('77', 'win11.qcow2.01'), line('e2', 'win11.qcow2')],
      { joined: null, contradicted: ['win11.qcow2.01'] },
    ],
    ['of one line that is no checksum', ['hello', '', `${'e2'.repeat(31)}  x`], { joined: null, contradicted: [] }],
    ['with a name and no blanks', [`${'e2'.repeat(32)}x`, `${'e2'.repeat(32)}  `], { joined: null, contradicted: [] }],
    ['that is empty', [], { joined: null, contradicted: [] }],
  ])('%s', (_name, lines, expected) => {
    expect(readChecksums(lines.join('\n'), PARTS)).toEqual(expected);
    expect(readChecksums(`${lines.join('\r\n')}\r\n`, PARTS)).toEqual(expected);
  });

  test('a part without a title is no part of any line', () => {
    expect(readChecksums(line('e2', 'x'), [{ title: '', digest: sha('31') }]).joined).toBe(sha('e2'));
  });
});
