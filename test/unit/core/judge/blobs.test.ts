/** What a blob is worth at each depth, who uses it, and who keeps it alive. */
import { describe, expect, test } from 'vitest';
import { blobState, isInUse, keepersOf, ociState } from '../../../../src/core/judge/blobs.ts';
import type { DesiredImage } from '../../../../src/core/model/desired.ts';
import type { BlobFact, Observed } from '../../../../src/core/model/observed.ts';
import type { BlobDepth } from '../../../../src/core/model/verdict.ts';
import {
  blob,
  blobPath,
  blobs,
  container,
  desired,
  entry,
  node,
  observed,
  OCI,
  ociFiles,
  QCOW2,
  QCOW2_V2,
  RAW,
  sha,
  snapshot,
  vm,
} from '../../../support/facts.ts';

const E2 = sha('e2');
const QCOW2_BACKED = '514649fb00000003000000000000020000000040';
const DEPTHS: BlobDepth[] = ['presence', 'size', 'sha256'];

describe('a blob', () => {
  /** What is there, what is known of its image, and its state at the depths presence, size and sha256. */
  test.each<[string, BlobFact | null, DesiredImage | null, string]>([
    ['not there', null, desired(), 'absent absent absent'],
    ['empty', blob({ sizeBytes: 0, header: null }), desired(), 'absent absent absent'],
    ['a directory', blob({ regular: false }), desired(), 'absent absent absent'],
    ['whole, as far as one sees', blob(), desired(), 'sound sound unproven'],
    ['whole, by its bytes', blob({ sha256: E2 }), desired(), 'sound sound sound'],
    ['whole, by its bytes, of nobody knows what', blob({ sha256: E2, sizeBytes: 9 }), null, 'sound sound sound'],
    [
      'of other bytes, stored as downloaded',
      blob({ sha256: sha('b7') }),
      desired({ stored: 'as-is' }),
      'sound sound corrupt',
    ],
    ['of other bytes, converted', blob({ sha256: sha('b7') }), desired({ stored: 'converted' }), 'sound sound sound'],
    ['of other bytes, and who knows', blob({ sha256: sha('b7') }), desired(), 'sound sound unproven'],
    ['of other bytes, of nobody knows what', blob({ sha256: sha('b7') }), null, 'sound sound unproven'],
    ['short, stored as downloaded', blob({ sizeBytes: 9 }), desired({ stored: 'as-is' }), 'sound corrupt corrupt'],
    ['short, converted', blob({ sizeBytes: 9 }), desired({ stored: 'converted' }), 'sound sound sound'],
    ['short, and who knows', blob({ sizeBytes: 9 }), desired(), 'sound unproven unproven'],
    ['no qcow2, stored as downloaded', blob({ header: RAW }), desired({ stored: 'as-is' }), 'sound corrupt corrupt'],
    ['no qcow2, converted', blob({ header: RAW }), desired({ stored: 'converted' }), 'sound unproven unproven'],
    ['qcow2 of version 2', blob({ header: QCOW2_V2 }), desired({ stored: 'as-is' }), 'sound corrupt corrupt'],
    ['of no header', blob({ header: null }), desired({ stored: 'as-is' }), 'sound corrupt corrupt'],
    [
      'not hashed, stored as downloaded: no proof of damage',
      blob(),
      desired({ stored: 'as-is' }),
      'sound sound unproven',
    ],
    [
      'of an image whose size is not known',
      blob({ sizeBytes: 9 }),
      desired({ sizeBytes: null }),
      'sound sound unproven',
    ],
  ])('%s', (_name, fact, image, expected) => {
    const on = observed({ blobs: fact === null ? {} : blobs({ e2: fact }) });
    const states = DEPTHS.map((depth) => blobState(on, E2, image, depth));
    expect(states.map(({ state }) => state).join(' ')).toBe(expected);
    for (const { state, why } of states) expect(/^checked: |converted/.test(why) || state !== 'sound', why).toBe(true);
  });

  test('is never greener by a deeper look', () => {
    const green = ['absent', 'corrupt', 'unproven', 'sound'];
    for (const header of [QCOW2, QCOW2_V2, QCOW2_BACKED, RAW, null]) {
      for (const sizeBytes of [blob().sizeBytes, 9, 0]) {
        for (const sha256 of [E2, sha('b7'), null]) {
          for (const stored of ['as-is', 'converted', null] as const) {
            for (const image of [desired({ stored }), desired({ stored, sizeBytes: null }), null]) {
              // By size nobody has hashed; the deeper look has, or could not.
              const at = (depth: BlobDepth, hash: string | null): number => {
                const on = observed({ blobs: blobs({ e2: blob({ header, sizeBytes, sha256: hash }) }) });
                return green.indexOf(blobState(on, E2, image, depth).state);
              };
              const what = JSON.stringify({ header, sizeBytes, sha256, image });
              // A size is held against a manifest, which the bytes themselves outweigh.
              const isCounted = image?.sizeBytes === sizeBytes || image?.sizeBytes == null || sha256 !== E2;
              expect(at('size', null), what).toBeLessThanOrEqual(at('presence', null));
              if (isCounted) expect(at('sha256', sha256), what).toBeLessThanOrEqual(at('size', null));
            }
          }
        }
      }
    }
  });

  test('that is sound says how closely it was looked at', () => {
    const at = (depth: BlobDepth, fact: BlobFact, image = desired()): string =>
      blobState(observed({ blobs: blobs({ e2: fact }) }), E2, image, depth).why;
    expect(at('presence', blob())).toBe('checked: present, and no more than that');
    expect(at('size', blob())).toBe('checked: present, size as the manifest says; --deep hashes the bytes');
    expect(at('size', blob(), desired({ sizeBytes: null }))).toMatch(/its size at epoch is not known$/);
    expect(at('sha256', blob({ sha256: E2 }))).toBe('checked: sha256 of every byte');
    expect(at('sha256', blob({ sha256: sha('b7') }), desired({ stored: 'converted' }))).toMatch(
      /only presence and header/,
    );
  });
});

describe('the files of a container image', () => {
  const inIndex = {
    ...entry(sha('c3'), OCI, 'oci'),
    layers: [sha('d4'), sha('e5')],
    kernelLayer: sha('e5'),
    initrdLayer: sha('e5'),
  };
  const bare = entry(sha('c3'), OCI, 'oci');

  test.each<[string, Observed['files'], typeof bare, DesiredImage | null, string]>([
    ['all there', ociFiles(['d4', 'e5']), inIndex, null, 'sound'],
    ['all there, told by the registry alone', ociFiles(['d4', 'e5']), bare, container(), 'sound'],
    [
      'the registry knows a layer more than the index',
      ociFiles(['d4', 'e5']),
      inIndex,
      container({ layers: [sha('d4'), sha('f6'), sha('e5')] }),
      'absent',
    ],
    ['nothing there', {}, inIndex, null, 'absent'],
    ['nobody tells the layers', ociFiles(['d4', 'e5']), bare, container({ layers: [] }), 'unproven'],
    ['under another root', ociFiles(['d4', 'e5'], '/data'), inIndex, null, 'absent'],
  ])('%s', (_name, files, index, image, state) => {
    expect(ociState(node(), observed({ files }), image, index).state).toBe(state);
  });
});

test.each<[string, Observed['vms'], boolean]>([
  ['no VM', [], false],
  ['a running one', [vm('e2')], true],
  ['one that is being made', [vm('e2', 'creating')], true],
  ['a stopped one', [vm('e2', 'stopped')], false],
  ['one in error', [vm('e2', 'error')], false],
  ['a running one on another blob', [vm('a1')], false],
  ['one whose record names the blob alone', [{ ...vm('e2'), imageDigest: null }], true],
  ['one whose record names the digest alone (SQLite)', [{ ...vm('e2'), blobIds: [] }], true],
])('in use by %s: %s', (_name, vms, isUsed) => {
  expect(isInUse(observed({ vms }), E2)).toBe(isUsed);
});

test.each<[string, Partial<Observed>, string[]]>([
  ['nothing', {}, []],
  ['entries', { entries: [entry(E2, 'a'), entry(sha('a1'), 'b'), entry(E2, 'c')] }, ['a', 'c']],
  ['a VM, whatever its state', { vms: [vm('e2', 'stopped'), vm('a1')] }, ['VM demo-0']],
  ['a snapshot record', { snapshots: [snapshot('e2')] }, ['snapshot simular/win11-hot:v1']],
  [
    'one that is being written',
    { snapshots: [snapshot('e2', { pending: true, name: '', baseDigest: null })] },
    ['snapshot MFRGGZDFMZTWQ2LKNNWG23TPOA'],
  ],
  ['a name without a record keeps nothing', { snapshots: [snapshot('e2', { recorded: false })] }, []],
  ['an overlay alone keeps nothing', { snapshots: [snapshot('a1', { backing: blobPath('e2') })] }, []],
  [
    'a data directory that no record names',
    { unlistedBackings: [blobPath('e2'), blobPath('a1')] },
    ['a snapshot that is being taken'],
  ],
])('kept by %s', (_name, on, keepers) => {
  expect(keepersOf(observed({ entries: [], ...on }), E2)).toEqual(keepers);
});
