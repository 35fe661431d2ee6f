/** Which rows a run is about: ignore lists, `--image` and `--snapshot`. */
import { describe, expect, test } from 'vitest';
import { ReconcileError } from '../../../../src/core/errors.ts';
import { findings } from '../../../support/judging.ts';
import { selectFindings, type Filters, type Selection } from '../../../../src/core/plan/select.ts';
import {
  blob,
  blobs,
  desired,
  entry,
  EPOCH,
  hot,
  node,
  observation,
  served,
  sha,
  snapshot,
  unreachable,
  wantedSnapshot,
  WIN11,
} from '../../../support/facts.ts';

const V1 = `${WIN11}/v1`;
const UBUNTU = `${EPOCH}/dl/base/ubuntu`;
const images = [
  desired(),
  desired({ tag: 'v1', reference: V1, contentDigest: sha('b7') }),
  desired({ image: 'base/ubuntu', reference: UBUNTU, contentDigest: sha('c5') }),
];
const at = served(images, { tracked: [] });
const seen = observation({
  entries: [entry(sha('e2')), entry(sha('b7'), V1), entry(sha('c5'), UBUNTU), entry(sha('d4'), 'scratch-1')],
  blobs: blobs({ e2: blob(), b7: blob(), c5: blob(), d4: blob() }),
  snapshots: [
    snapshot('e2', { name: 'simular/hot:a' }),
    snapshot('b7', { name: 'simular/hot:b', base: V1 }),
    snapshot('c5', { name: 'ubuntu-hot', base: UBUNTU }),
    snapshot('d4', { name: 'vk-1', base: 'scratch-1' }),
  ],
});
const tracked = hot({
  tracked: [{ snapshot: 'far/away:v1', pools: null }],
  snapshots: [wantedSnapshot({ snapshot: 'far/away:v1', base: UBUNTU, baseDigest: sha('c5') })],
});
const all: Selection = {
  findings: findings(at, tracked, [seen, unreachable(node('node-2'))]),
  desired: images,
  snapshots: tracked.snapshots,
};

const NONE: Filters = { images: [], snapshots: [], ignoreImages: [], ignoreSnapshots: [] };

function select(filters: Partial<Filters>): { images: string[]; snapshots: string[]; desired: string[] } {
  const { findings: kept, desired: wanted } = selectFindings(all, { ...NONE, ...filters });
  const [first] = kept;
  return {
    images: first?.images.map((row) => row.reference) ?? [],
    snapshots: first?.snapshots.map((row) => row.snapshot) ?? [],
    desired: wanted.map(({ image, tag }) => `${image}:${tag}`),
  };
}

const HOT = ['simular/hot:a', 'simular/hot:b'];

describe('--image', () => {
  test.each<[string[], string[], string[]]>([
    [[], [WIN11, V1, UBUNTU, 'scratch-1'], [...HOT, 'ubuntu-hot', 'vk-1', 'far/away:v1']],
    [['simular/win11'], [WIN11, V1], HOT],
    [['simular/win11:latest'], [WIN11], ['simular/hot:a']],
    [[V1], [V1], ['simular/hot:b']],
    [['simular/*'], [WIN11, V1], HOT],
    [['simular/win11:{latest,v?}'], [WIN11, V1], HOT],
    [['scratch-*'], ['scratch-1'], ['vk-1']],
    [['base/ubuntu'], [UBUNTU], ['ubuntu-hot', 'far/away:v1']],
    [
      ['base/ubuntu', 'simular/win11:v1'],
      [V1, UBUNTU],
      ['simular/hot:b', 'ubuntu-hot', 'far/away:v1'],
    ],
    [['!simular/win11'], [UBUNTU, 'scratch-1'], ['ubuntu-hot', 'vk-1', 'far/away:v1']],
    [['!simular/win11:v1', 'simular/*'], [WIN11], ['simular/hot:a']],
    [['simular/win11', '!simular/*'], [], []],
    [['!no/such'], [WIN11, V1, UBUNTU, 'scratch-1'], [...HOT, 'ubuntu-hot', 'vk-1', 'far/away:v1']],
  ])('%j', (patterns, references, snapshots) => {
    expect(select({ images: patterns })).toMatchObject({ images: references, snapshots });
  });

  test('desired images are kept alike', () => {
    expect(select({ images: ['simular/win11:v1'] }).desired).toEqual(['simular/win11:v1']);
  });
});

describe('--snapshot brings its base, and only that', () => {
  test.each<[string[], string[], string[]]>([
    [['simular/hot:a'], [WIN11], ['simular/hot:a']],
    [['simular/hot:b'], [V1], ['simular/hot:b']],
    [['simular/hot'], [WIN11, V1], HOT],
    [['ubuntu-hot'], [UBUNTU], ['ubuntu-hot']],
    [['ubuntu-hot:latest'], [UBUNTU], ['ubuntu-hot']],
    [['vk-*'], ['scratch-1'], ['vk-1']],
    [['far/away:v1'], [UBUNTU], ['far/away:v1']],
    [['!simular/*'], [UBUNTU, 'scratch-1'], ['ubuntu-hot', 'vk-1', 'far/away:v1']],
  ])('%j', (patterns, references, snapshots) => {
    expect(select({ snapshots: patterns })).toMatchObject({ images: references, snapshots });
  });

  test('with --image both must hold', () => {
    expect(select({ snapshots: ['simular/hot'], images: ['simular/win11:v1'] })).toEqual({
      images: [V1],
      snapshots: ['simular/hot:b'],
      desired: ['simular/win11:v1'],
    });
  });
});

describe('what is ignored is nowhere', () => {
  test.each<[Partial<Filters>, string[], string[]]>([
    [{ ignoreImages: ['scratch-*'] }, [WIN11, V1, UBUNTU], [...HOT, 'ubuntu-hot', 'vk-1', 'far/away:v1']],
    [
      { ignoreImages: ['simular/win11:v*'] },
      [WIN11, UBUNTU, 'scratch-1'],
      [...HOT, 'ubuntu-hot', 'vk-1', 'far/away:v1'],
    ],
    [{ ignoreSnapshots: ['simular/**', 'far/away:v1'] }, [WIN11, V1, UBUNTU, 'scratch-1'], ['ubuntu-hot', 'vk-1']],
  ])('%j', (filters, references, snapshots) => {
    expect(select(filters)).toMatchObject({ images: references, snapshots });
  });

  test('and a filter cannot name it', () => {
    expect(() => select({ ignoreImages: ['scratch-*'], images: ['scratch-1'] })).toThrow(/--image scratch-1 matches/);
  });
});

describe('a filter that matches nothing is an error', () => {
  test.each<[Partial<Filters>, string, RegExp]>([
    [{ images: ['simular/win12'] }, '--image simular/win12', /^known: base\/ubuntu:latest, scratch-1/],
    [{ images: ['simular/win11', 'x*'] }, '--image x*', /./],
    [{ images: ['win11'] }, '--image win11', /./],
    [{ snapshots: ['simular/hot:c'] }, '--snapshot simular/hot:c', /simular/],
    [{ snapshots: ['!x', 'simular'] }, '--snapshot simular', /./],
  ])('%j', (filters, named, hint) => {
    const error = ((): unknown => {
      try {
        return select(filters);
      } catch (thrown) {
        return thrown;
      }
    })() as ReconcileError;
    expect(error).toBeInstanceOf(ReconcileError);
    expect(error.info.code).toBe('FILTER_EMPTY');
    expect(error.info.message).toBe(`${named} matches nothing in the config or on any node that was read`);
    expect(error.info.hint).toMatch(hint);
  });
});

test('nodes and their order stay, though nothing of them is left', () => {
  const { findings: kept } = selectFindings(all, { ...NONE, images: ['scratch-1'] });
  expect(kept.map(({ node: name, images: rows }) => [name, rows.length])).toEqual([
    ['node-1', 1],
    ['node-2', 0],
  ]);
});
