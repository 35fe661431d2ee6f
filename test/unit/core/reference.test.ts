/** References and digests: what is one, what it means to an epoch, and how people may write it. */
import { describe, expect, test } from 'vitest';
import {
  epochReference,
  hexOf,
  isDigest,
  isRepository,
  isTag,
  localSnapshotName,
  meaningOf,
  parseImageName,
  parseSnapshotName,
  readingsOf,
} from '../../../src/core/reference.ts';
import { EPOCH, sha } from '../../support/facts.ts';

const A1 = sha('a1');

test.each([
  [A1, true],
  [A1.toUpperCase(), false],
  [A1.slice(0, -1), false],
  [`${A1}0`, false],
  [`${A1}\n`, false],
  [`sha512:${'a1'.repeat(64)}`, false],
  ['a1'.repeat(32), false],
  ['', false],
])('%j is a digest: %s', (text, is) => {
  expect(isDigest(text)).toBe(is);
});

test('the hex of a digest', () => {
  expect(hexOf(A1)).toBe('a1'.repeat(32));
});

test.each([
  ['win11', true],
  ['simular/win11', true],
  ['a.b_c-d/e__f--g', true],
  ['a/b/c/d', true],
  ['Simular/win11', false],
  ['a//b', false],
  ['/a', false],
  ['a/', false],
  ['a..b', false],
  ['a___b', false],
  ['-a', false],
  ['', false],
  ['a b', false],
  ['a'.repeat(256), false],
])('%s is a repository: %s', (text, is) => {
  expect(isRepository(text)).toBe(is);
});

test.each([
  ['latest', true],
  ['V1.2_3-x', true],
  ['_x', true],
  ['.x', false],
  ['-x', false],
  ['', false],
  ['a/b', false],
  ['a'.repeat(128), true],
  ['a'.repeat(129), false],
])('%s is a tag: %s', (text, is) => {
  expect(isTag(text)).toBe(is);
});

test.each([
  ['[2001:db8::1]:5000/a/b:v1', '[2001:db8::1]:5000', 'a/b', 'v1'],
  ['simular/win11', null, 'simular/win11', null],
  ['win11', null, 'win11', null],
  ['win11:v1', null, 'win11', 'v1'],
  ['simular/win11:v1-20260509', null, 'simular/win11', 'v1-20260509'],
  ['ghcr.io/cocoonstack/cocoon/ubuntu:24.04', 'ghcr.io', 'cocoonstack/cocoon/ubuntu', '24.04'],
  ['localhost/x', 'localhost', 'x', null],
  ['localhost:5000/x:y', 'localhost:5000', 'x', 'y'],
  ['registry:5000/x', 'registry:5000', 'x', null],
])('%s names an image', (text, registry, repository, tag) => {
  expect(parseImageName(text)).toEqual({ registry, repository, tag });
});

test.each([
  '',
  ':v1',
  'a:',
  'A/b',
  'https://epoch.example/dl/x',
  'a/b@sha256:abc',
  `a/b@${A1}`,
  'ghcr.io/',
  'ghcr.io:x/y',
  'a b',
  'a:b:c',
  '-docker.io/a',
  'do..cker/a',
  'docker.io-:5000/a',
  '[::1/a',
  '[:::1]/a',
  'a'.repeat(64),
])('%j names no image', (text) => {
  expect(parseImageName(text)).toBeNull();
});

test.each([
  ['simular/win11-hot:v1', { repository: 'simular/win11-hot', tag: 'v1' }, 'simular/win11-hot:v1'],
  ['simular/win11-hot', { repository: 'simular/win11-hot', tag: 'latest' }, 'simular/win11-hot'],
  ['simular/win11-hot:', { repository: 'simular/win11-hot', tag: 'latest' }, 'simular/win11-hot:'],
  ['simular/win11-hot:latest', { repository: 'simular/win11-hot', tag: 'latest' }, 'simular/win11-hot'],
  ['host:5000/x:v1', null, 'host:5000/x:v1'],
  [`repo@${A1}`, null, `repo@${A1}`],
])('snapshot %s', (text, parsed, local) => {
  expect(parseSnapshotName(text)).toEqual(parsed);
  expect(localSnapshotName(text)).toBe(local);
});

test('the reference of a tracked image leaves latest out', () => {
  expect(epochReference(EPOCH, 'simular/win11', 'latest')).toBe(`${EPOCH}/dl/simular/win11`);
  expect(epochReference(EPOCH, 'simular/win11', 'v1')).toBe(`${EPOCH}/dl/simular/win11/v1`);
});

describe('what a key means', () => {
  const download = (path: string): object => ({ kind: 'download', path });
  const foreign = { kind: 'foreign-url' };
  const immutable = { kind: 'immutable' };
  const name = { kind: 'name' };
  const atEpoch = (repository: string, tag: string): object => ({ kind: 'epoch-oci', repository, tag });

  test.each<[string, object]>([
    [`${EPOCH}/dl/simular/win11`, download('simular/win11')],
    ['https://EPOCH.example/dl/simular/win11', download('simular/win11')],
    ['https://epoch.example:443/dl/x', download('x')],
    [`${EPOCH}/dl/x?token=1`, download('x')],
    [`${EPOCH}/dl/x/`, download('x/')],
    [`${EPOCH}/dl/x%2Fy`, download('x%2Fy')],
    [`${EPOCH}/dl/X`, download('X')],
    [`${EPOCH}/dl/`, foreign],
    [`${EPOCH}/dl`, foreign],
    [`${EPOCH}/`, foreign],
    [`${EPOCH}/dlx/y`, foreign],
    [`${EPOCH}:8443/dl/x`, foreign],
    ['http://epoch.example/dl/x', foreign],
    ['https://epoch.example.evil/dl/x', foreign],
    ['https://user:pw@epoch.example/dl/x', foreign],
    ['https://cloud-images.example/noble.img', foreign],
    ['https://', foreign],
    [`${EPOCH}/dl/simular/win11/${A1}`, immutable],
    [`${EPOCH}/dl/${A1}`, immutable],
    [`${EPOCH}/v2/simular/win11/blobs/${A1}`, immutable],
    [`${EPOCH}/v2/simular/win11/manifests/latest`, foreign],
    [`${EPOCH}/dl/x/sha256:short`, download('x/sha256:short')],
    ['HTTPS://epoch.example/dl/x', name],
    ['ghcr.io/a/b:1', name],
    ['win11-25h2', name],
    ['epoch.example/dl/x', atEpoch('dl/x', 'latest')],
    ['epoch.example/a/b:v1', atEpoch('a/b', 'v1')],
    ['epoch.example:443/a', atEpoch('a', 'latest')],
    [`epoch.example/a/b@${A1}`, immutable],
    ['epoch.example:5000/a', name],
    ['EPOCH.example/a', name],
    ['epoch.example.evil/a', name],
    ['epoch.example/A', name],
    ['epoch.example/', name],
    ['epoch.example', name],
    [`ghcr.io/a@${A1}`, name],
    ['', name],
  ])('%s', (reference, meaning) => {
    expect(meaningOf(reference, [EPOCH])).toEqual(meaning);
  });

  test('an epoch may live under a path', () => {
    const under = 'https://example.org/epoch';
    expect(meaningOf(`${under}/dl/x`, [under])).toEqual(download('x'));
    expect(meaningOf('https://example.org/dl/x', [under])).toEqual(foreign);
    expect(meaningOf('https://example.org/epoch2/dl/x', [under])).toEqual(foreign);
  });
});

test.each([
  ['win11', { repository: 'win11', tag: 'latest' }, null],
  ['simular/win11', { repository: 'simular/win11', tag: 'latest' }, { repository: 'simular', tag: 'win11' }],
  ['a/b/V1', null, { repository: 'a/b', tag: 'V1' }],
  ['simular/win11:v1', null, null],
  ['x/', null, null],
  ['x%2Fy', null, null],
  ['../x', null, null],
])('/dl/%s can be read as', (path, whole, split) => {
  expect(readingsOf(path)).toEqual({ whole, split });
});
