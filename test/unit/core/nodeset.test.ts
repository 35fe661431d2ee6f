/** Node sets: what a pattern stands for, what it selects, and that folding loses nothing. */
import { spawnSync } from 'node:child_process';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { expand, fold, select } from '../../../src/core/nodeset.ts';

describe('expand', () => {
  test.each([
    ['node', ['node']],
    ['', ['']],
    ['n[1-3]', ['n1', 'n2', 'n3']],
    ['n[7]', ['n7']],
    ['n[1-2,5]x', ['n1x', 'n2x', 'n5x']],
    ['n[1-2,02-03]', ['n1', 'n2', 'n02', 'n03']],
    ['n[08-11]', ['n08', 'n09', 'n10', 'n11']],
    ['n[0-2]', ['n0', 'n1', 'n2']],
    ['n[9-11]', ['n9', 'n10', 'n11']],
    ['n[ 1 , 3-4 ]', ['n1', 'n3', 'n4']],
    ['n[3,1]', ['n3', 'n1']],
    ['n[1:3]', ['n1', 'n2', 'n3']],
    ['n[08:10,12]', ['n08', 'n09', 'n10', 'n12']],
    ['r[1-2]n[01-02]', ['r1n01', 'r1n02', 'r2n01', 'r2n02']],
    ['fe80::1%eth0', ['fe80::1%eth0']],
  ])('%s', (pattern, names) => {
    expect(expand(pattern)).toEqual(names);
  });

  test.each([
    ['n[1-3', 'node pattern "n[1-3" has an unpaired bracket'],
    ['n1]', 'node pattern "n1]" has an unpaired bracket'],
    ['n[1]]', 'has an unpaired bracket'],
    ['n[]', 'node pattern "n[]": "" is no number or range'],
    ['n[1,]', 'node pattern "n[1,]": "" is no number or range'],
    ['n[a-b]', 'node pattern "n[a-b]": "a-b" is no number or range'],
    ['n[-1]', 'node pattern "n[-1]": "-1" is no number or range'],
    ['n[a:f]', 'node pattern "n[a:f]": "a:f" is no number or range'],
    ['n[1:9:2]', 'node pattern "n[1:9:2]": "1:9:2" is no number or range'],
    ['n[3-1]', 'node pattern "n[3-1]": the range 3-1 runs backwards'],
    ['n[1-100001]', 'node pattern "n[1-100001]" names more than 100000 nodes'],
    ['n[1-1000][1-1000]', 'node pattern "n[1-1000][1-1000]" names more than 100000 nodes'],
  ])('%s is refused', (pattern, message) => {
    expect(() => expand(pattern)).toThrow(message);
  });

  test('gives 100,000 names at most, and those quickly', () => {
    expect(expand('n[1-100000]')).toHaveLength(100_000);
    expect(expand('n[1-1000][1-100]')).toHaveLength(100_000);
  });
});

describe('select', () => {
  const members = ['n1', 'n2', 'n10', 'gpu-1', 'gpu-2'].map((name) => ({
    name,
    pool: name.startsWith('gpu') ? 'gpu' : 'default',
  }));

  test.each([
    [[], ['n1', 'n2', 'n10', 'gpu-1', 'gpu-2']],
    [['n1'], ['n1']],
    [['n[1-10]'], ['n1', 'n2', 'n10']],
    [['n*'], ['n1', 'n2', 'n10']],
    [['n?'], ['n1', 'n2']],
    [
      ['gpu-[1-2]', 'n1'],
      ['n1', 'gpu-1', 'gpu-2'],
    ],
    [['@gpu'], ['gpu-1', 'gpu-2']],
    [['!n1'], ['n2', 'n10', 'gpu-1', 'gpu-2']],
    [['!@gpu', '!n[1-2]'], ['n10']],
    [
      ['!n1', 'n*'],
      ['n2', 'n10'],
    ],
    [['@gpu', '!*-1'], ['gpu-2']],
    [['gpu-1', '!gpu-1'], []],
    [['*'], ['n1', 'n2', 'n10', 'gpu-1', 'gpu-2']],
  ])('%j', (patterns, names) => {
    const { selected, unmatched } = select(members, patterns);
    expect(selected.map(({ name }) => name)).toEqual(names);
    expect(unmatched).toBeNull();
  });

  test.each([
    [['n1', 'm1', 'm2'], 'm1'],
    [['@none'], '@none'],
    [['N1'], 'N1'],
    [['x*'], 'x*'],
    [['!x', 'n[3-9]'], 'n[3-9]'],
  ])('%j matches nothing: it is named', (patterns, unmatched) => {
    expect(select(members, patterns).unmatched).toBe(unmatched);
  });

  test('an exclusion that matches nothing is no error', () => {
    expect(select(members, ['!x'])).toEqual({ selected: members, unmatched: null });
  });
});

/** `a,b[1,2]` → `a`, `b[1,2]`: the parts that `fold` joins. */
function partsOf(folded: string): string[] {
  return folded.split(/,(?![^[]*\])/);
}

function unfold(folded: string): string[] {
  return partsOf(folded).flatMap(expand);
}

describe('fold', () => {
  test.each([
    [['node'], 'node'],
    [['n1'], 'n1'],
    [['n1', 'n2', 'n3', 'n7'], 'n[1-3,7]'],
    [['n3', 'n1', 'n2'], 'n[1-3]'],
    [['n9', 'n10', 'n11'], 'n[9-11]'],
    [['n1', 'n2', 'n02', 'n03'], 'n[1-2,02-03]'],
    [['n00', 'n0', 'n1'], 'n[0-1,00]'],
    [['a1', 'b1', 'x'], 'a1,b1,x'],
    [['n1-eth0', 'n1-eth1'], 'n1-eth[0-1]'],
    [['r1-n2', 'r1-n3', 'r2-n2'], 'r1-n[2-3],r2-n2'],
  ])('%j', (names, folded) => {
    expect(fold(names)).toBe(folded);
  });

  const names = fc.uniqueArray(
    fc
      .tuple(fc.constantFrom('n', 'gpu-', 'r1-n', ''), fc.stringMatching(/^\d{1,4}$/), fc.constantFrom('', '.dc', '-x'))
      .map((parts) => parts.join('')),
    { minLength: 1, maxLength: 60 },
  );

  test('loses no name and adds none', () => {
    fc.assert(
      fc.property(names, (given) => {
        expect(unfold(fold(given)).toSorted()).toEqual(given.toSorted());
      }),
    );
  });

  test('does not depend on the order', () => {
    fc.assert(
      fc.property(names, (given) => {
        expect(fold(given.toReversed())).toBe(fold(given));
      }),
    );
  });
});

const hasNodeset = spawnSync('nodeset', ['--version']).status === 0;

/** clustershell's `nodeset`, where it is installed. */
describe('clustershell', () => {
  const clustershell = (option: string, text: string): string[] => {
    const { status, stdout, stderr } = spawnSync('nodeset', [option, text], { encoding: 'utf8' });
    if (status !== 0) throw new Error(stderr);
    return stdout.trim().split(/\s+/);
  };

  test.skipIf(!hasNodeset).each(['n[1-2,02-03]', 'n[08-11]', 'n[9-11,1]', 'r[1-2]n[01-03]x', 'n[0-2,00-01]'])(
    'expands %s to the same names',
    (pattern) => {
      expect(expand(pattern).toSorted()).toEqual(clustershell('-e', pattern).toSorted());
    },
  );

  test.skipIf(!hasNodeset)('reads what is folded here as the same names', { timeout: 60_000 }, () => {
    const names = fc.uniqueArray(fc.stringMatching(/^(n|gpu-)\d{1,3}$/), { minLength: 1, maxLength: 20 });
    fc.assert(
      fc.property(names, (given) => {
        expect(clustershell('-e', fold(given)).toSorted()).toEqual(given.toSorted());
      }),
      { numRuns: 20 },
    );
  });
});
