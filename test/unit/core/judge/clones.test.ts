/** Which snapshots stand on a content that was just brought, and would clone: told from the node alone. */
import { expect, test } from 'vitest';
import { clonesOn, type BroughtContent } from '../../../../src/core/judge/clones.ts';
import type { Observed } from '../../../../src/core/model/observed.ts';
import { blob, blobPath, blobs, HOT, node, observed, sha, SIZE, snapshot } from '../../../support/facts.ts';

const CONTENT: BroughtContent = { digest: sha('e2'), form: { sizeBytes: SIZE, stored: 'as-is' }, depth: 'size' };
const onLayers = snapshot('e2', {
  baseType: 'oci',
  files: { 'config.json': 9, 'state.json': 9, 'memory-ranges': 8, 'cow.raw': 7, 'cocoon.json': 6 },
  backing: null,
  bootFiles: [],
  layerFiles: ['/layers/a', '/layers/b'],
});

test.each<[string, Partial<Observed>, (string | null)[]]>([
  ['one whose base is sound', { snapshots: [snapshot('e2')] }, [null]],
  ['one on other content does not count', { snapshots: [snapshot('a1')] }, []],
  [
    'what its overlay opens counts, and not its record',
    { snapshots: [snapshot('a1', { backing: blobPath('e2') })] },
    [null],
  ],
  ['one that is being written does not count', { snapshots: [snapshot('e2', { pending: true })] }, []],
  ['nor one that is broken itself', { snapshots: [snapshot('e2', { files: {} })] }, []],
  [
    'one whose base is cut short',
    { snapshots: [snapshot('e2')], blobs: blobs({ e2: blob({ sizeBytes: 5 }) }) },
    [`its base: the blob has 5 bytes and not ${SIZE}`],
  ],
  [
    'one whose base is elsewhere and there',
    { snapshots: [snapshot('e2', { backing: '/mnt/x' })], files: { ...observed().files, '/mnt/x': 'file' } },
    [null],
  ],
  ['one whose base is elsewhere and gone is broken', { snapshots: [snapshot('e2', { backing: '/mnt/x' })] }, []],
  [
    'one on layers that are there',
    { snapshots: [onLayers], files: { '/layers/a': 'file', '/layers/b': 'file' } },
    [null],
  ],
  [
    'one on layers of which one is gone',
    { snapshots: [onLayers], files: { '/layers/a': 'file' } },
    ['1 of the 2 files of its base are not there, as /layers/b'],
  ],
])('%s', (_name, on, problems) => {
  const found = clonesOn(node(), observed(on), CONTENT);
  expect(found.map(({ problem }) => problem)).toEqual(problems);
  expect(found.every(({ fact }) => fact.name === HOT)).toBe(true);
});
