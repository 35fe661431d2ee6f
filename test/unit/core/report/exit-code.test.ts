/** The exit code: of all that holds, the first of signal, not done, failed, drift, incomplete. */
import { expect, test } from 'vitest';
import { errorInfo } from '../../../../src/core/errors.ts';
import { EXIT_CODES, exitCodeRows, wordOfExit } from '../../../../src/core/model/exit-codes.ts';
import { exitCode } from '../../../../src/core/report/exit-code.ts';
import type { LeftoverRow, NodeReport } from '../../../../src/core/model/report.ts';
import { imageRow } from '../../../support/facts.ts';

const nodeWith = (fields: Partial<NodeReport>): NodeReport => ({
  name: 'n1',
  host: 'n1',
  pool: 'default',
  status: 'observed',
  error: null,
  cocoonVersion: null,
  indexSource: 'json',
  freeBytes: null,
  durationMs: 0,
  notes: [],
  leftovers: [],
  images: [],
  snapshots: [],
  ...fields,
});

const sound = nodeWith({ images: [imageRow('in-sync')] });
const drifted = nodeWith({ images: [imageRow('stale')] });
const healed = nodeWith({ images: [imageRow('stale', { outcome: 'healed' })] });
const failed = nodeWith({ images: [imageRow('stale', { outcome: 'failed' })] });
const unknown = nodeWith({ images: [imageRow('unknown')] });
const down = nodeWith({ status: 'unreachable' });
const untidy = nodeWith({ leftovers: [{ outcome: 'failed' } as LeftoverRow] });
const undone = errorInfo('CONFIG_INVALID', { problem: 'x' });
const unjudged = errorInfo('NOTHING_JUDGED', { nodes: 1, held: [], more: 0, aliases: [] });

test.each<[string, number, Parameters<typeof exitCode>]>([
  ['all in sync', 0, [null, null, [sound], null]],
  ['healed is not drift any more', 0, [null, null, [sound, healed], null]],
  ['drift comes before an incomplete picture', 2, [null, null, [drifted, unknown, down], null]],
  ['a verdict that is not known', 3, [null, null, [sound, unknown], null]],
  ['a node that was not read', 3, [null, null, [sound, down], null]],
  ['nothing was judged', 3, [null, unjudged, [], null]],
  ['a failure comes before drift', 4, [null, null, [drifted, failed], null]],
  ['a leftover that could not be removed', 4, [null, null, [sound, untidy], null]],
  ['what could not be done comes before a failure', 1, [null, undone, [failed], null]],
  ['a signal comes before all', 130, ['SIGINT', undone, [failed], null]],
])('%s: %i', (_, code, args) => {
  expect(exitCode(...args)).toBe(code);
});

test('every code has its own name and number; those of signals are one row', () => {
  const codes = Object.values(EXIT_CODES).map(({ code }) => code);
  expect(new Set(codes).size).toBe(codes.length);
  expect(exitCodeRows().map((row) => row.codes)).toEqual(['0', '1', '2', '3', '4', '75', '129, 130, 143']);
  expect(codes.map(wordOfExit)).toEqual([
    'OK',
    'ERROR',
    'DRIFT',
    'INCOMPLETE',
    'FAILED',
    'LOCKED',
    'INTERRUPTED',
    'INTERRUPTED',
    'INTERRUPTED',
  ]);
});
