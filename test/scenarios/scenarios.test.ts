// Every known state of epoch and a node, by the real command: verdict, plan, exit codes, words, and whether clones work.
import { describe, expect, test } from 'vitest';
import { isRoot } from '../support/guard.ts';
import { SCENARIOS } from './all.ts';
import { isDouble, play } from './play.ts';

test('no two scenarios have one name', () => {
  const ids = SCENARIOS.map(({ id }) => id);
  expect(ids).toEqual([...new Set(ids)]);
});

describe.concurrent('scenario', () => {
  for (const scenario of SCENARIOS) {
    const cannot = (scenario.doubleOnly === true && !isDouble) || (scenario.user !== undefined && !isRoot);
    test.skipIf(cannot)(`${scenario.id}: ${scenario.state}`, async () => await play(scenario));
  }
});
