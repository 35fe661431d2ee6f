/** Errors: every code has words for people, on one line, and the README knows every code. */
import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { ERROR_CODES, errorInfo, fault, infoOf, ReconcileError } from '../../../src/core/errors.ts';

/** Answers every argument that a code may ask for with something hostile. */
const hostile = new Proxy(
  {},
  {
    get: (_target, name) => {
      if (name === 'line' || name === 'port' || String(name).endsWith('Ms') || String(name).endsWith('Bytes')) return 7;
      if (['known', 'near', 'tried', 'certificates', 'wanted', 'held', 'aliases'].includes(String(name)))
        return ['one\ntwo', '\x1b[31mthree'];
      if (name === 'filtered') return false;
      if (name === 'holder') return { user: 'a\nb', host: '\x1b[31mc', pid: 7, run: 'x'.repeat(5000), since: '\u202e' };
      if (name === 'kept') return [{ by: 'login', dir: '/a\nb\x1b[31m' }];
      return `${String(name)} \x1b[31mred\x1b[0m\nnext\r\nline\u202e ${'x'.repeat(5000)}`;
    },
  },
) as never;

/** Answers with as little as there may be: nothing near, no reason known, no hint of its own. */
const bare = new Proxy(
  {},
  {
    get: (_target, name) => {
      if (['known', 'near', 'tried', 'certificates', 'wanted', 'held', 'aliases', 'kept'].includes(String(name)))
        return [];
      if (['hint', 'first', 'holder', 'alias', 'accepted', 'via', 'authority', 'have', 'want'].includes(String(name)))
        return null;
      return name === 'filtered'
        ? false
        : name === 'line' || /(port|Ms|Bytes|nodes|more)$/.test(String(name))
          ? 7
          : 'x';
    },
  },
) as never;

describe.each(ERROR_CODES)('%s', (code) => {
  const info = errorInfo(code, hostile);

  test('is one line of bounded length for people', () => {
    expect(info.code).toBe(code);
    for (const text of [info.message, info.hint]) {
      // oxlint-disable-next-line no-control-regex -- finding control characters is the point
      expect(text).not.toMatch(/[\x00-\x1f\x7f-\x9f\u202e]/);
      expect(text.length).toBeLessThanOrEqual(1500);
    }
    expect(info.message.trim()).not.toBe('');
  });

  test.each([
    ['with', hostile],
    ['without', bare],
  ])('says what to do, %s all that it may be told', (_, args) => {
    expect(errorInfo(code, args).hint.trim()).not.toBe('');
  });

  test('is thrown with the same words', () => {
    const error = fault(code, hostile, new Error('cause'));
    expect(error).toBeInstanceOf(ReconcileError);
    expect(error.info).toEqual(info);
    expect(error.message).toBe(info.message);
    expect(error.cause).toEqual(new Error('cause'));
  });
});

test('codes are words in capitals', () => {
  expect(ERROR_CODES.filter((code) => !/^[A-Z]+(_[A-Z]+)*$/.test(code))).toEqual([]);
});

describe('what was caught', () => {
  test('of ours is told as it is', () => {
    expect(infoOf(fault('NOT_STARTED', { why: 'later' }))).toEqual({
      code: 'NOT_STARTED',
      message: 'later',
      hint: 'mend what failed before it, then run again',
    });
  });

  test.each([
    ['a bug', new TypeError('x is not a function'), /^internal error: TypeError: x is not a function/],
    ['no error at all', 'a string', /^internal error: a string$/],
    ['nothing', undefined, /^internal error: undefined$/],
  ])('%s is an INTERNAL error on one line', (_name, thrown, message) => {
    const info = infoOf(thrown);
    expect(info.code).toBe('INTERNAL');
    expect(info.message).toMatch(message);
    expect(info.message).not.toContain('\n');
  });
});

test('the README lists every code, and no other', () => {
  const readme = readFileSync(new URL('../../../README.md', import.meta.url), 'utf8');
  const section = /^#+ Error codes\n([\s\S]*?)(?=^#+ |(?![\s\S]))/m.exec(readme)?.[1] ?? '';
  const rows = section.split('\n').filter((line) => line.startsWith('|'));
  const listed = rows.flatMap((row) => [...(row.split('|')[1] ?? '').matchAll(/`([A-Z_]+)`/g)].map(([, code]) => code));
  expect(new Set(listed)).toEqual(new Set(ERROR_CODES));
  expect(new Set(listed).size).toBe(listed.length);
});
