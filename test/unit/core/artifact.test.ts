/** Manifests → what a node will record: every shape of artifact, and nothing guessed. */
import { describe, expect, test } from 'vitest';
import {
  contentOf,
  hasUnpaddedTitles,
  kindOf,
  storedAs,
  withLearned,
  type Learned,
  type Manifest,
} from '../../../src/core/artifact.ts';
import { isPlainQcow2 } from '../../../src/core/qcow2.ts';
import { desired, QCOW2, QCOW2_V2, RAW, sha, split, trouble } from '../../support/facts.ts';

const OS_IMAGE = 'application/vnd.cocoonstack.os-image.v1+json';
const DISK = 'application/vnd.cocoonstack.disk.qcow2';
const PART = 'application/vnd.cocoonstack.windows.disk.qcow2.part';

function layer(pair: string, title: string | null = null, mediaType = DISK): Manifest['layers'][number] {
  return { mediaType, digest: sha(pair), sizeBytes: 10, title };
}

function manifest(over: Partial<Manifest> = {}): Manifest {
  return {
    digest: sha('99'),
    mediaType: 'application/vnd.oci.image.manifest.v1+json',
    artifactType: OS_IMAGE,
    configMediaType: 'application/vnd.oci.empty.v1+json',
    configDigest: sha('44'),
    layers: [layer('e2', 'win11.qcow2')],
    children: [],
    ...over,
  };
}

test.each<[string, Partial<Manifest>, string]>([
  ['an image', {}, 'cloud-image'],
  ['an image of the first days', { artifactType: 'application/vnd.cocoonstack.windows-image.v1+json' }, 'cloud-image'],
  ['a snapshot', { artifactType: 'application/vnd.cocoonstack.snapshot.v1+json' }, 'snapshot'],
  [
    'a container',
    { artifactType: null, configMediaType: 'application/vnd.oci.image.config.v1+json' },
    'container-image',
  ],
  [
    'a container of Docker',
    { artifactType: null, configMediaType: 'application/vnd.docker.container.image.v1+json' },
    'container-image',
  ],
  ['artifactType before config', { configMediaType: 'application/vnd.oci.image.config.v1+json' }, 'cloud-image'],
  [
    'an index',
    { artifactType: null, configMediaType: null, mediaType: 'application/vnd.oci.image.index.v1+json' },
    'index',
  ],
  ['disk layers alone make no image', { artifactType: null }, 'unknown'],
  ['a type of another program', { artifactType: 'application/vnd.example' }, 'unknown'],
])('%s', (_name, over, kind) => {
  expect(kindOf(manifest(over))).toBe(kind);
});

describe('content', () => {
  test('of one disk: the digest of its layer', () => {
    expect(contentOf('x:latest', manifest())).toEqual({
      kind: 'cloud-image',
      contentDigest: sha('e2'),
      contentDigestSource: 'layer',
      sizeBytes: 10,
      blobs: [{ digest: sha('e2'), sizeBytes: 10 }],
      unlearned: false,
      error: null,
    });
  });

  test.each([
    'application/vnd.cocoonstack.disk.raw',
    'application/vnd.cocoonstack.disk.qcow2.part',
    'application/vnd.cocoonstack.disk.raw.part',
    'application/vnd.cocoonstack.windows.disk.qcow2',
    'application/vnd.cocoonstack.windows.disk.raw.part',
  ])('of one disk of type %s', (mediaType) => {
    expect(contentOf('x', manifest({ layers: [layer('e2', null, mediaType)] })).contentDigest).toBe(sha('e2'));
  });

  test('everything that is no disk is left out', () => {
    const layers = [layer('22', 'SHA256SUMS', 'text/plain'), layer('e2'), layer('33', 'x', `${DISK}x`)];
    expect(contentOf('x', manifest({ layers }))).toMatchObject({ contentDigest: sha('e2'), sizeBytes: 10 });
  });

  test('of several parts: not known, but their order and size are', () => {
    const layers = [layer('b2', 'p.2', PART), layer('a1', 'p.10', PART), layer('c3', null, PART)];
    expect(contentOf('x', manifest({ layers }))).toMatchObject({
      kind: 'cloud-image',
      contentDigest: null,
      contentDigestSource: null,
      sizeBytes: 30,
      blobs: [{ digest: sha('c3') }, { digest: sha('a1') }, { digest: sha('b2') }],
      unlearned: true,
      error: { code: 'ARTIFACT_UNSUPPORTED', message: expect.stringContaining('split into 3 parts') as string },
    });
  });

  test('parts of one title keep their order', () => {
    const layers = [layer('c3', 't'), layer('a1', 't'), layer('b2', 't')];
    const { blobs } = contentOf('x', manifest({ layers }));
    expect(blobs.map(({ digest }) => digest)).toEqual([sha('c3'), sha('a1'), sha('b2')]);
  });

  test.each<[string, Partial<Manifest>, string | null, RegExp]>([
    ['no disk', { layers: [] }, 'cloud-image', /holds no disk/],
    ['a snapshot', { artifactType: 'application/vnd.cocoonstack.snapshot.v1+json' }, null, /hot snapshot and no image/],
    [
      'a container',
      { artifactType: null, configMediaType: 'application/vnd.oci.image.config.v1+json' },
      'container-image',
      /container image/,
    ],
    [
      'an index',
      { artifactType: null, mediaType: 'application/vnd.oci.image.index.v1+json', configMediaType: null },
      null,
      /image index/,
    ],
    ['who knows what', { artifactType: 'application/vnd.example' }, null, /application\/vnd\.example/],
  ])('of %s: not known, and why', (_name, over, kind, why) => {
    const content = contentOf('x:v1', manifest(over));
    expect(content).toMatchObject({ kind, contentDigest: null, blobs: [], error: { code: 'ARTIFACT_UNSUPPORTED' } });
    expect(content.error?.message).toMatch(/^x:v1: /);
    expect(content.error?.message).toMatch(why);
  });
});

test.each([
  ['qcow2 of version 3 without a backing file', QCOW2, true],
  ['and longer', `${QCOW2}0000ffff`, true],
  ['version 2', QCOW2_V2, false],
  ['with a backing file', '514649fb00000003000000000000018000000010', false],
  ['cut short', QCOW2.slice(0, 38), false],
  ['raw', RAW, false],
  ['nothing', '', false],
])('%s', (_name, hex, isPlain) => {
  const head = Buffer.from(hex, 'hex');
  expect(isPlainQcow2(head)).toBe(isPlain);
  expect(storedAs(head)).toBe(isPlain ? 'as-is' : 'converted');
});

test.each([
  [['p.1', 'p.2', 'p.10'], true],
  [['p.10', 'p.2'], true],
  [['p.01', 'p.02', 'p.10'], false],
  [['p.aa', 'p.ab'], false],
  [['p.1', 'p.2'], false],
  [['disk.qcow2'], false],
  [[], false],
])('parts titled %j are likely joined in another order than their producer counted: %s', (titles, unpadded) => {
  const layers = [...titles.map((title) => layer('a1', title, PART)), layer('b2', 'x.9', 'text/plain')];
  expect(hasUnpaddedTitles(manifest({ layers }))).toBe(unpadded);
});

describe('what was learned', () => {
  const content: Learned = { digest: sha('e2'), source: 'stream' };

  test('tells the content of a split image, and how it was learned this time', () => {
    expect(withLearned(split(), content)).toMatchObject({
      contentDigest: sha('e2'),
      contentDigestSource: 'cache',
      unlearned: false,
      error: null,
    });
    expect(withLearned(split(), content, 'stream').contentDigestSource).toBe('stream');
    expect(withLearned(split(), null)).toEqual(split());
  });

  test('is not for one that something else is wrong with', () => {
    const ambiguous = split({ unlearned: false, error: trouble('REGISTRY_UNREACHABLE') });
    expect(withLearned(ambiguous, content)).toEqual(ambiguous);
  });

  test('adds nothing to an image of one part, nor to a digest that is known', () => {
    expect(withLearned(desired(), content)).toEqual(desired());
    const whole = desired({ contentDigest: null, error: null });
    expect(withLearned(whole, content)).toEqual(whole);
    const known = split({ contentDigest: sha('b7'), unlearned: false });
    expect(withLearned(known, content)).toEqual(known);
  });
});
