/** Text for people and for shells: what may not reach a terminal, durations, sizes, and quoting that a real sh undoes. */
import { spawnSync } from 'node:child_process';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  clip,
  count,
  formatBytes,
  formatDuration,
  parseDuration,
  parseSize,
  plain,
  shellQuote,
  shortDigest,
} from '../../../src/core/text.ts';
import { sha } from '../../support/facts.ts';

describe('plain', () => {
  test.each([
    ['plain text, ümläuts and 漢字 stay', 'plain text, ümläuts and 漢字 stay'],
    ['one\ntwo\r\nthree\tfour', 'one two three four'],
    ['\x1b[31mred\x1b[0m', 'red'],
    ['\x1b[2J\x1b[1;1Hcleared', 'cleared'],
    ['\x1b]0;title\x07rest', ']0;titlerest'],
    ['\x9b31mC1', '31mC1'],
    ['bell\x07, backspace\x08, null\x00, delete\x7f', 'bell, backspace, null, delete'],
    ['\u202egnp.exe\u202c', 'gnp.exe'],
    ['\u2066isolated\u2069 \u200emarks\u200f\u061c', 'isolated marks'],
    ['a\u2028b\u2029c\x85d', 'a b c d'],
    ['no\u200bde\ufeff-\u20661\u2069\u{e0041}\u2060', 'node-1'],
  ])('%j', (text, clean) => {
    expect(plain(text)).toBe(clean);
  });

  test('leaves nothing that a terminal acts on, and is the same a second time', () => {
    const hostile = fc.string({
      unit: fc.constantFrom('\x1b', '[', '3', 'm', '\x07', '\n', '\r', '\u202e', '\u2066', '\x9b', 'x', ' ', '😀'),
    });
    fc.assert(
      fc.property(fc.oneof(hostile, fc.string({ unit: 'binary' })), (text) => {
        const clean = plain(text);
        // oxlint-disable-next-line no-control-regex -- finding control characters is the point
        expect(clean).not.toMatch(/[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/);
        expect(plain(clean)).toBe(clean);
      }),
    );
  });
});

describe('clip', () => {
  test.each([
    ['short', 5, 'short'],
    ['longer', 5, 'long…'],
    ['a\nb', 3, 'a b'],
    ['\x1b[1mbold\x1b[0m', 4, 'bold'],
    ['ab😀cd', 4, 'ab…'],
    ['ab😀cd', 5, 'ab😀…'],
  ])('%j to %i', (text, max, clipped) => {
    expect(clip(text, max)).toBe(clipped);
  });

  test('never exceeds its measure, and cuts no character in half', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'grapheme' }), fc.integer({ min: 1, max: 20 }), (text, max) => {
        const clipped = clip(text, max);
        expect(clipped.length).toBeLessThanOrEqual(max);
        expect(() => encodeURIComponent(clipped)).not.toThrow();
      }),
    );
  });
});

test.each([
  [sha('a1'), 'a1a1a1a1a1a1'],
  ['a1a1', 'a1a1'],
  [null, '—'],
])('the short form of %s', (digest, short) => {
  expect(shortDigest(digest)).toBe(short);
});

describe('durations', () => {
  test.each([
    ['500ms', 500],
    ['10s', 10_000],
    ['15m', 900_000],
    ['2h', 7_200_000],
    ['1d', 86_400_000],
    ['1h30m', 5_400_000],
    ['1.5h', 5_400_000],
    ['1.1s', 1100],
    ['0s', 0],
  ])('%s', (text, ms) => {
    expect(parseDuration(text)).toBe(ms);
  });

  test.each(['', '10', '-1s', '1 s', 's', '1x', '10S', '.5s', '1e3s', '∞s', '1s\n'])('%j is none', (text) => {
    expect(parseDuration(text)).toBeNull();
  });

  test.each([
    [0, '0.0 s'],
    [340, '0.3 s'],
    [9_940, '9.9 s'],
    [9_999, '10 s'],
    [12_400, '12 s'],
    [59_700, '1 min 0 s'],
    [185_000, '3 min 5 s'],
    [3_599_700, '1 h 0 min'],
    [7_800_000, '2 h 10 min'],
  ])('%i ms are %s', (ms, text) => {
    expect(formatDuration(ms)).toBe(text);
  });
});

describe('sizes', () => {
  test.each([
    ['0', 0],
    ['4096', 4096],
    ['5GiB', 5 * 2 ** 30],
    ['500MB', 500e6],
    ['500 MB', 500e6],
    ['1.5KiB', 1536],
    ['2TiB', 2 * 2 ** 40],
    ['1kB', 1000],
    ['7B', 7],
  ])('%s', (text, bytes) => {
    expect(parseSize(text)).toBe(bytes);
  });

  test.each(['', '-1', '5gib', '5Gi', '5kiB', 'GiB', '1e9', '0x10', '5GiB '])('%j is none', (text) => {
    expect(parseSize(text)).toBeNull();
  });

  test.each([
    [0, '0 B'],
    [999, '999 B'],
    [1000, '1.00 kB'],
    [5_798_205_849, '5.80 GB'],
    [10_798_205_849, '10.8 GB'],
    [999_499, '999 kB'],
    [999_500, '1.00 MB'],
    [500e12, '500 TB'],
    [Number.MAX_SAFE_INTEGER, '9.01 PB'],
  ])('%i bytes are %s', (bytes, text) => {
    expect(formatBytes(bytes)).toBe(text);
  });
});

test.each([
  [0, '0 nodes'],
  [1, '1 node'],
  [2, '2 nodes'],
])('%i of a noun', (n, text) => {
  expect(count(n, 'node')).toBe(text);
});

describe('shellQuote', () => {
  test.each([
    ['https://epoch.example/dl/simular/win11', 'https://epoch.example/dl/simular/win11'],
    ['', "''"],
    ['two words', "'two words'"],
    ["it's", "'it'\\''s'"],
    ['$(reboot)', "'$(reboot)'"],
    ['~root', "'~root'"],
  ])('%j', (word, quoted) => {
    expect(shellQuote(word)).toBe(quoted);
  });

  test('a real sh reads each word as it was, however hostile', () => {
    const nasty = fc.string({
      unit: fc.constantFrom("'", '"', '\\', '$', '`', '(', ')', '\n', ' ', '*', '?', '~', '!', '#', ';', '&', '|', 'é'),
    });
    const word = fc.oneof(nasty, fc.string({ unit: 'grapheme' })).map((text) => text.replaceAll('\0', ''));
    fc.assert(
      fc.property(fc.array(word, { minLength: 1, maxLength: 40 }), (words) => {
        const line = `printf '%s\\0' ${words.map(shellQuote).join(' ')}`;
        const { stdout, status } = spawnSync('sh', ['-c', line], { encoding: 'utf8' });
        expect(status).toBe(0);
        expect(stdout).toBe(words.map((text) => `${text}\0`).join(''));
      }),
      { numRuns: 25 },
    );
  });
});
