/** Image verdicts: the ordered table, as named worlds. Where two rows hold, the world says which one wins. */
import { describe, expect, test } from 'vitest';
import { needsStoredForm } from '../../../../src/core/judge/blobs.ts';
import { judgeImages } from '../../../support/judging.ts';
import type { Node } from '../../../../src/core/model/node.ts';
import type { Observed, Proof } from '../../../../src/core/model/observed.ts';
import type { ImageRow } from '../../../../src/core/model/report.ts';
import {
  blob,
  blobs,
  container,
  desired,
  entry,
  EPOCH,
  node,
  observation,
  OCI,
  ociFiles,
  QCOW2_V2,
  RAW,
  ROOT,
  served,
  sha,
  SIZE,
  split,
  tracked,
  trouble,
  unreachable,
  vm,
  WIN11,
  type Given,
} from '../../../support/facts.ts';

interface World {
  /** What lies on the node; by default the newest content, healthy. */
  on?: Partial<Observed>;
  /** What epoch serves; by default `simular/win11:latest` with the content `e2`. */
  at?: Given;
  node?: Node;
  says: Partial<ImageRow>;
  reason?: string | RegExp | null;
  code?: string;
  commands?: string[];
}

const unknownAtEpoch = desired({ contentDigest: null, error: trouble('TAG_NOT_FOUND', 'epoch has no such tag') });
const lost = desired({
  missingBlob: sha('e2'),
  error: trouble('REGISTRY_BLOB_MISSING', 'epoch cannot serve blob e2e2'),
});
const stale = { entries: [entry(sha('a1'))], blobs: blobs({ a1: blob() }) };
/** The same, and the node's own hashes say that about the split image. */
const proven = (proof: Proof): Partial<Observed> => ({
  ...stale,
  blobs: blobs({ a1: blob({ proofs: { [sha('99')]: proof } }) }),
});
const replace = (pair: string): string[] => {
  const path = `/var/lib/cocoon/cloudimg/blobs/${pair.repeat(32)}.qcow2`;
  return [`mv ${path} ${path}.bad`, `cocoon --root-dir /var/lib/cocoon image pull --force ${WIN11}`];
};

const NAME = 'win11-25h2';
const tied = served(undefined, { covers: { [WIN11]: [0], [NAME]: [0] } });
const REPLACE = { repair: { corruptBlobs: 'replace', restoreBases: 'report' } } as const;
const ociEntry = {
  ...entry(sha('c3'), OCI, 'oci'),
  layers: [sha('d4'), sha('e5')],
  kernelLayer: sha('e5'),
  initrdLayer: sha('e5'),
};
const without = (files: Observed['files'], name: string): Observed['files'] =>
  Object.fromEntries(Object.entries(files).filter(([path]) => !path.endsWith(name)));

const COPY = `/var/tmp/${'e2'.repeat(32)}.qcow2`;

const WORLDS: Record<string, World> = {
  // unmanaged
  'a URL of another host': {
    on: { entries: [entry(sha('e2'), 'https://cloud-images.example/noble.img')] },
    at: served(undefined, { tracked: [] }),
    says: { verdict: 'unmanaged', image: null, tag: null, have: sha('e2'), want: null, plan: null },
    reason: 'the URL is not of this epoch',
  },
  'a tag that nothing tracks': {
    on: { entries: [entry(sha('e2'), `${EPOCH}/dl/other`)] },
    at: served(undefined, { tracked: [] }),
    says: { verdict: 'unmanaged' },
    reason: 'no tracked tag covers it',
  },
  'a digest URL at epoch': {
    on: { entries: [entry(sha('e2'), `${EPOCH}/v2/simular/win11/blobs/${sha('e2')}`)] },
    at: served(undefined, { tracked: [] }),
    says: { verdict: 'unmanaged' },
    reason: 'it names content by its digest, which never goes stale',
  },
  'a name given by import': {
    on: { entries: [entry(sha('e2'), 'win11-25h2')] },
    at: served(undefined, { tracked: [] }),
    says: { verdict: 'unmanaged' },
    reason: 'it was imported under a name that nothing ties to an artifact',
  },
  'an OCI reference that nothing tracks': {
    on: { entries: [entry(sha('c3'), 'ghcr.io/a/b:1', 'oci')] },
    at: served(undefined, { tracked: [] }),
    says: { verdict: 'unmanaged', type: 'oci' },
    reason: 'no tracked tag covers it',
  },
  'unmanaged, and its blob is gone': {
    on: { entries: [entry(sha('d4'), 'win11-25h2')] },
    at: served(undefined, { tracked: [] }),
    says: { verdict: 'unmanaged', plan: null },
    reason: 'it was imported under a name that nothing ties to an artifact; its blob is missing',
  },
  'unmanaged wins over a name in both backends': {
    on: { entries: [entry(sha('e2'), 'x'), entry(sha('c3'), 'x', 'oci')] },
    at: served(undefined, { tracked: [] }),
    says: { verdict: 'unmanaged' },
  },
  'a reference named like a property of every object': {
    on: { entries: [entry(sha('e2'), 'constructor')] },
    at: served(undefined, { tracked: [] }),
    says: { verdict: 'unmanaged' },
  },

  // unknown
  'the key is in both backends': {
    on: { entries: [entry(sha('a1')), entry(sha('c3'), WIN11, 'oci')] },
    says: { verdict: 'unknown', plan: null, have: sha('a1'), want: sha('e2') },
    reason: /both backends/,
  },
  'two live stores differ, though one of them is in sync': {
    on: { conflicts: [WIN11] },
    says: { verdict: 'unknown', plan: null },
    reason: 'meta.db and the JSON index are both live and name different digests',
  },
  'epoch has no such tag, whatever the blob is like': {
    on: { blobs: {} },
    at: served([unknownAtEpoch]),
    says: { verdict: 'unknown', plan: null, want: null },
    reason: 'epoch has no such tag; the local copy is kept',
    code: 'TAG_NOT_FOUND',
  },
  'a container image under the URL of a cloud image: a pull would put the name into both backends': {
    on: { entries: [entry(sha('c3'), WIN11, 'oci')] },
    says: { verdict: 'unknown', plan: null, type: 'oci' },
    reason: /container image/,
  },

  'a cloud image under the name of a container image: a pull would put it into both backends': {
    on: { entries: [entry(sha('a1'), OCI)] },
    at: served([container()], { tracked: [] }),
    says: { verdict: 'unknown', plan: null, type: 'cloudimg' },
    reason: /^a cloud image has the name of this container image/,
  },
  'a split image whose content nothing has told': {
    on: stale,
    at: served([split()]),
    says: { verdict: 'unknown', plan: null, want: null },
    code: 'ARTIFACT_UNSUPPORTED',
  },
  'a split image, and the node proved something of another blob, or against another manifest': {
    on: {
      ...stale,
      blobs: blobs({ a1: blob({ proofs: { [sha('98')]: 'same' } }), b7: blob({ proofs: { [sha('99')]: 'same' } }) }),
    },
    at: served([split()]),
    says: { verdict: 'unknown', plan: null },
    code: 'ARTIFACT_UNSUPPORTED',
  },
  'a split image, and its blob is not what its name says': {
    on: proven('nothing'),
    at: served([split()]),
    says: { verdict: 'unknown', plan: null, want: null },
    reason: /its own hashes prove nothing$/,
    code: 'ARTIFACT_UNSUPPORTED',
  },
  'a split image, and its blob could not be hashed': {
    on: { ...stale, blobs: blobs({ a1: blob({ unhashed: 'it was gone by then' }) }) },
    at: served([split()]),
    says: { verdict: 'unknown', plan: null },
    reason: /; the bytes of the blob could not be hashed: it was gone by then$/,
    code: 'ARTIFACT_UNSUPPORTED',
  },
  'a split image that the node proved, but something else is wrong with it at epoch': {
    on: proven('same'),
    at: served([split({ unlearned: false, error: trouble('REGISTRY_UNREACHABLE') })]),
    says: { verdict: 'unknown', plan: null },
    code: 'REGISTRY_UNREACHABLE',
  },
  'a split image that the node proved, and its file begins as no disk does': {
    on: { ...stale, blobs: blobs({ a1: blob({ header: RAW, proofs: { [sha('99')]: 'same' } }) }) },
    at: served([split({ stored: 'as-is' })]),
    says: { verdict: 'unknown', plan: null },
    reason: 'the blob does not begin as a qcow2 base image does',
  },
  'the bytes of the blob could not be hashed': {
    at: served([desired({ stored: 'as-is' })], { depth: 'sha256' }),
    says: { verdict: 'unknown', plan: null },
    reason: 'the bytes of the blob could not be hashed',
  },
  'OCI: neither the registry nor the index tells the layers': {
    on: { entries: [entry(sha('c3'), OCI, 'oci')], files: ociFiles(['d4', 'e5']) },
    at: served([container({ layers: [] })], { tracked: [] }),
    says: { verdict: 'unknown', plan: null },
  },

  // missing, absent
  'required and not there': {
    on: { entries: [] },
    at: served(undefined, { tracked: [tracked({ presence: 'required' })] }),
    says: { verdict: 'missing', plan: 'pull', reference: WIN11, have: null, want: sha('e2') },
    reason: 'it must be on this node',
  },
  'not there, and need not be': {
    on: { entries: [] },
    says: { verdict: 'absent', plan: null, reference: WIN11 },
    reason: 'not on this node, and it need not be',
  },
  'required and not there, and epoch lacks a blob of it': {
    on: { entries: [] },
    at: served([lost], { tracked: [tracked({ presence: 'required' })] }),
    says: { verdict: 'missing', plan: null },
    reason: /epoch cannot serve blob/,
    code: 'REGISTRY_BLOB_MISSING',
  },
  'required and not there, and the file of its digest is there and bad: a pull would keep it': {
    on: { entries: [], blobs: blobs({ e2: blob({ sizeBytes: 5 }) }) },
    at: served([desired({ stored: 'as-is' })], { tracked: [tracked({ presence: 'required' })] }),
    says: { verdict: 'missing', plan: null },
    reason: /a forced pull would keep/,
    commands: replace('e2'),
  },
  'not there, and epoch has no such tag': {
    on: { entries: [] },
    at: served([unknownAtEpoch], { tracked: [tracked({ presence: 'required' })] }),
    says: { verdict: 'unknown', plan: null },
    code: 'TAG_NOT_FOUND',
  },
  'there under another key that means the same tag': {
    on: { entries: [entry(sha('e2'), `${WIN11}/latest`)] },
    at: served(undefined, {
      covers: { [WIN11]: [0], [`${WIN11}/latest`]: [0] },
      tracked: [tracked({ presence: 'required' })],
    }),
    says: { verdict: 'in-sync', reference: `${WIN11}/latest`, image: 'simular/win11', tag: 'latest' },
  },

  'required, but epoch serves another image under its reference (scenario 19)': {
    on: { entries: [] },
    at: served([desired(), desired({ image: 'simular', tag: 'win11', contentDigest: sha('b7') })], {
      covers: { [WIN11]: [1] },
      tracked: [tracked({ presence: 'required' })],
    }),
    says: { verdict: 'missing', plan: null, image: 'simular/win11', tag: 'latest', want: sha('e2') },
    reason: /epoch serves another image under .*unambiguous reference/,
  },

  // stale
  'the index names older content': {
    on: stale,
    says: { verdict: 'stale', plan: 'pull', have: sha('a1'), want: sha('e2') },
    reason: null,
  },
  'stale wins over its blob being gone': { on: { ...stale, blobs: {} }, says: { verdict: 'stale', plan: 'pull' } },
  'stale, and the wanted blob is there and sound': {
    on: { ...stale, blobs: blobs({ e2: blob() }) },
    says: { verdict: 'stale', plan: 'pull' },
  },
  'stale, and the wanted blob is there and empty: a pull replaces it': {
    on: { ...stale, blobs: blobs({ e2: blob({ sizeBytes: 0, header: null }) }) },
    says: { verdict: 'stale', plan: 'pull' },
  },
  'stale, and the wanted blob is there and short': {
    on: { ...stale, blobs: blobs({ e2: blob({ sizeBytes: 5 }) }) },
    at: served([desired({ stored: 'as-is' })]),
    says: { verdict: 'stale', plan: null },
    reason: /^a forced pull would keep the file of the wanted digest, which is there and unsound: the blob has 5 bytes/,
    commands: replace('e2'),
  },
  'stale, and whether the wanted blob is sound is not known': {
    on: { ...stale, blobs: blobs({ e2: blob({ header: RAW }) }) },
    says: { verdict: 'stale', plan: null },
    reason: /not known/,
  },
  'stale, and epoch lacks a blob': {
    on: stale,
    at: served([lost]),
    says: { verdict: 'stale', plan: null },
    reason: 'epoch cannot serve blob e2e2',
    code: 'REGISTRY_BLOB_MISSING',
  },

  'the parts of a split image prove that the content is another: the pull will tell which': {
    on: proven('other'),
    at: served([split()]),
    says: { verdict: 'stale', plan: 'pull', have: sha('a1'), want: null },
    reason: 'epoch serves other content: the digests of its parts prove it',
  },
  'the same, and epoch lacks a part': {
    on: proven('other'),
    at: served([
      split({
        missingBlob: sha('31'),
        error: trouble('REGISTRY_BLOB_MISSING', 'epoch cannot serve blob 3131'),
      }),
    ]),
    says: { verdict: 'stale', plan: null, want: null },
    reason: /epoch cannot serve blob 3131$/,
    code: 'REGISTRY_BLOB_MISSING',
  },
  'the same under a name: an import could not be compared with anything': {
    on: { ...proven('other'), entries: [entry(sha('a1'), NAME)] },
    at: served([split()], { covers: { [WIN11]: [0], [NAME]: [0] } }),
    says: { verdict: 'stale', plan: null, want: null },
    reason: /which is not known$/,
  },
  'a name that is tied to a tag, with other content (scenario 28)': {
    on: { entries: [entry(sha('a1'), NAME)], blobs: blobs({ a1: blob() }) },
    at: tied,
    says: { verdict: 'stale', plan: 'import', reference: NAME, image: 'simular/win11', tag: 'latest', want: sha('e2') },
  },
  'stale, and cocoon cannot pull it whatever the registry serves': {
    on: stale,
    at: served([desired({ unpullable: 'this epoch serves only latest' })]),
    says: { verdict: 'stale', plan: null },
    reason: 'this epoch serves only latest',
  },
  'stale, the wanted blob is there and short, and replacing is allowed': {
    on: { ...stale, blobs: blobs({ e2: blob({ sizeBytes: 5 }) }) },
    at: served([desired({ stored: 'as-is' })], REPLACE),
    says: { verdict: 'stale', plan: 'replace' },
    reason: /^a forced pull would keep the file of the wanted digest/,
  },
  'OCI: the tag serves another manifest (scenario 42 where unpullable)': {
    on: { entries: [entry(sha('f6'), OCI, 'oci')], files: ociFiles(['d4', 'e5']) },
    at: served([container()], { tracked: [] }),
    says: { verdict: 'stale', plan: 'pull', have: sha('f6'), want: sha('c3'), type: 'oci' },
  },
  'OCI: the same at epoch, without a credential': {
    on: { entries: [entry(sha('f6'), OCI, 'oci')], files: ociFiles(['d4', 'e5']) },
    at: served([container({ unpullable: 'it asks for a credential' })], { tracked: [] }),
    says: { verdict: 'stale', plan: null },
    reason: 'it asks for a credential',
  },

  // blob-missing
  'the blob of a tied name is not there': {
    on: { entries: [entry(sha('e2'), NAME)], blobs: {} },
    at: tied,
    says: { verdict: 'blob-missing', plan: 'import' },
  },
  'OCI: a layer is not there (scenario 26)': {
    on: { entries: [ociEntry], files: ociFiles(['e5']) },
    at: served([container()], { tracked: [] }),
    says: { verdict: 'blob-missing', plan: 'pull' },
    reason: `/var/lib/cocoon/oci/blobs/${'d4'.repeat(32)}.erofs is not there`,
  },
  'OCI: the kernel is not there': {
    on: { entries: [ociEntry], files: without(ociFiles(['d4', 'e5']), 'vmlinuz') },
    at: served([container()], { tracked: [] }),
    says: { verdict: 'blob-missing', plan: 'pull' },
    reason: /e5\/vmlinuz is not there$/,
  },
  'OCI: the initrd is not there': {
    on: { entries: [ociEntry], files: without(ociFiles(['d4', 'e5']), 'initrd.img') },
    at: served([container()], { tracked: [] }),
    says: { verdict: 'blob-missing', plan: 'pull' },
    reason: /e5\/initrd\.img is not there$/,
  },
  'OCI: the kernel is in another layer than the index says': {
    on: { entries: [{ ...ociEntry, kernelLayer: sha('d4') }], files: ociFiles(['d4', 'e5']) },
    at: served([container()], { tracked: [] }),
    says: { verdict: 'blob-missing', plan: 'pull' },
    reason: /d4\/vmlinuz is not there$/,
  },
  'OCI: a layer is gone, and the registry lacks one': {
    on: { entries: [ociEntry], files: ociFiles(['e5']) },
    at: served([container({ missingBlob: sha('d4'), error: trouble('REGISTRY_BLOB_MISSING', 'd4 is gone') })], {
      tracked: [],
    }),
    says: { verdict: 'blob-missing', plan: null },
    code: 'REGISTRY_BLOB_MISSING',
  },
  'the blob is not there': { on: { blobs: {} }, says: { verdict: 'blob-missing', plan: 'pull' }, reason: /not there/ },
  'the blob is empty': {
    on: { blobs: blobs({ e2: blob({ sizeBytes: 0, header: null }) }) },
    says: { verdict: 'blob-missing', plan: 'pull' },
    reason: 'the blob is empty',
  },
  'the blob is a directory': {
    on: { blobs: blobs({ e2: blob({ regular: false }) }) },
    says: { verdict: 'blob-missing', plan: 'pull' },
    reason: 'the blob is no regular file',
  },
  'the blob is not there, at depth presence': {
    on: { blobs: {} },
    at: served(undefined, { depth: 'presence' }),
    says: { verdict: 'blob-missing', plan: 'pull' },
  },
  'the blob is not there, and epoch lacks it too': {
    on: { blobs: {} },
    at: served([lost]),
    says: { verdict: 'blob-missing', plan: null },
    reason: 'the blob is not there; epoch cannot serve blob e2e2',
    code: 'REGISTRY_BLOB_MISSING',
  },

  // blob-corrupt
  'the bytes have another digest, at depth sha256 (scenario 10)': {
    on: { blobs: blobs({ e2: blob({ sha256: sha('b7') }) }) },
    at: served([desired({ stored: 'as-is' })], { depth: 'sha256' }),
    says: { verdict: 'blob-corrupt', plan: null },
    reason: 'the bytes of the blob do not have its digest; a forced pull alone would keep it',
    commands: replace('e2'),
  },
  'corrupt, and replacing is allowed': {
    on: { blobs: blobs({ e2: blob({ sizeBytes: 5 }) }), vms: [vm('e2', 'stopped'), vm('a1')] },
    at: served([desired({ stored: 'as-is' })], REPLACE),
    says: { verdict: 'blob-corrupt', plan: 'replace' },
    reason: `the blob has 5 bytes and not ${SIZE}`,
  },
  'corrupt, and a VM is running on it': {
    on: { blobs: blobs({ e2: blob({ sizeBytes: 5 }) }), vms: [vm('e2')] },
    at: served([desired({ stored: 'as-is' })], REPLACE),
    says: { verdict: 'blob-corrupt', plan: null },
    reason: /; a VM is running on it, so it is not replaced$/,
    commands: replace('e2'),
  },
  'corrupt, and cocoon cannot pull it whatever the registry serves': {
    on: { blobs: blobs({ e2: blob({ sizeBytes: 5 }) }) },
    at: served([desired({ stored: 'as-is', unpullable: 'this epoch serves only latest' })], REPLACE),
    says: { verdict: 'blob-corrupt', plan: null },
    reason: /; this epoch serves only latest$/,
  },
  'corrupt under a tied name, where replacing is allowed': {
    on: { entries: [entry(sha('e2'), NAME)], blobs: blobs({ e2: blob({ sizeBytes: 5 }) }) },
    at: served([desired({ stored: 'as-is' })], { ...REPLACE, covers: { [NAME]: [0] } }),
    says: { verdict: 'blob-corrupt', plan: 'replace' },
    reason: /^the blob has 5 bytes/,
  },
  'corrupt under a tied name, where it is not: each part by its digest, and the name in quotes': {
    on: { entries: [entry(sha('e2'), "it's")], blobs: blobs({ e2: blob({ sizeBytes: 5 }) }) },
    at: served([split({ stored: 'as-is', contentDigest: sha('e2'), error: null })], { covers: { "it's": [0] } }),
    says: { verdict: 'blob-corrupt', plan: null },
    reason: /another import alone would keep it$/,
    commands: [
      `curl -fsS --fail-early ${['31', '32'].map((part) => `${EPOCH}/v2/simular/win11/blobs/${sha(part)}`).join(' ')} >${COPY}`,
      `echo '${'e2'.repeat(32)}  ${COPY}' | sha256sum -c`,
      ...replace('e2').slice(0, 1),
      `cocoon --root-dir ${ROOT} image import 'it'\\''s' ${COPY}`,
      `rm ${COPY}`,
    ],
  },
  'the blob is short, and is stored as downloaded': {
    on: { blobs: blobs({ e2: blob({ sizeBytes: 5 }) }) },
    at: served([desired({ stored: 'as-is' })]),
    says: { verdict: 'blob-corrupt', plan: null },
    reason: `the blob has 5 bytes and not ${SIZE}; a forced pull alone would keep it`,
    commands: replace('e2'),
  },
  'the blob is no qcow2, and is stored as downloaded': {
    on: { blobs: blobs({ e2: blob({ header: RAW }) }) },
    at: served([desired({ stored: 'as-is' })]),
    says: { verdict: 'blob-corrupt', plan: null },
    reason: /does not begin as a qcow2 base image does/,
    commands: replace('e2'),
  },
  'the blob is qcow2 of version 2, which cocoon never stores': {
    on: { blobs: blobs({ e2: blob({ header: QCOW2_V2 }) }) },
    at: served([desired({ stored: 'converted' })]),
    says: { verdict: 'unknown', plan: null },
    reason: /does not begin as a qcow2/,
  },
  'the blob is short, and how it is stored is not known': {
    on: { blobs: blobs({ e2: blob({ sizeBytes: 5 }) }) },
    says: { verdict: 'unknown', plan: null },
    reason: `the blob has 5 bytes and not ${SIZE}, and whether cocoon converted the download is not known`,
  },
  'corrupt, and epoch lacks the blob: no command would help': {
    on: { blobs: blobs({ e2: blob({ sizeBytes: 5 }) }) },
    at: served([{ ...lost, stored: 'as-is' }]),
    says: { verdict: 'blob-corrupt', plan: null },
    reason: /epoch cannot serve blob e2e2/,
    code: 'REGISTRY_BLOB_MISSING',
    commands: [],
  },

  // in-sync
  'a split image, by what was learned': {
    at: served([split({ contentDigest: sha('e2'), contentDigestSource: 'cache', unlearned: false, error: null })]),
    says: { verdict: 'in-sync', want: sha('e2') },
  },
  'a split image, by what the node proved of its own blob: nobody else is held against that': {
    on: proven('same'),
    at: served([split()]),
    says: { verdict: 'in-sync', have: sha('a1'), want: null, error: null },
    reason: 'its own hashes match the parts',
  },
  'the same, and epoch has lost a part since': {
    on: proven('same'),
    at: served([split({ missingBlob: sha('31'), error: trouble('REGISTRY_BLOB_MISSING') })]),
    says: { verdict: 'in-sync', want: null },
    code: 'REGISTRY_BLOB_MISSING',
  },
  'the bytes have the digest, whatever else is known of their number': {
    on: { blobs: blobs({ e2: blob({ sha256: sha('e2'), sizeBytes: 5 }) }) },
    at: served(undefined, { depth: 'sha256' }),
    says: { verdict: 'in-sync' },
    reason: 'checked: sha256 of every byte',
  },
  'the bytes have the digest, and are no base image': {
    on: { blobs: blobs({ e2: blob({ sha256: sha('e2'), header: RAW }) }) },
    at: served(undefined, { depth: 'sha256' }),
    says: { verdict: 'unknown' },
    reason: /^the blob does not begin as a qcow2 base image does/,
  },
  'a converted blob at depth sha256': {
    on: { blobs: blobs({ e2: blob({ sizeBytes: 5, sha256: sha('b7') }) }) },
    at: served([desired({ stored: 'converted' })], { depth: 'sha256' }),
    says: { verdict: 'in-sync' },
    reason: /only presence and header/,
  },
  'a tied name': { on: { entries: [entry(sha('e2'), NAME)] }, at: tied, says: { verdict: 'in-sync', reference: NAME } },
  'OCI: all its files are there': {
    on: { entries: [ociEntry], files: ociFiles(['d4', 'e5']) },
    at: served([container()], { tracked: [] }),
    says: { verdict: 'in-sync', type: 'oci', want: sha('c3') },
  },
  'OCI on SQLite, which does not tell the layers: those of the registry count': {
    on: { entries: [entry(sha('c3'), OCI, 'oci')], files: ociFiles(['d4', 'e5']) },
    at: served([container()], { tracked: [] }),
    says: { verdict: 'in-sync' },
  },
  'all is well': {
    says: { verdict: 'in-sync', plan: null, have: sha('e2'), want: sha('e2') },
    reason: /^checked: present, size /,
  },
  'cocoon converted the download: size proves nothing': {
    on: { blobs: blobs({ e2: blob({ sizeBytes: 5 }) }) },
    at: served([desired({ stored: 'converted' })]),
    says: { verdict: 'in-sync' },
    reason: 'cocoon converted the download: only presence and header can be verified',
  },
  'a short blob at depth presence': {
    on: { blobs: blobs({ e2: blob({ sizeBytes: 5, header: RAW }) }) },
    at: served([desired({ stored: 'as-is' })], { depth: 'presence' }),
    says: { verdict: 'in-sync' },
  },
  'in sync, and epoch lacks a blob: a warning': {
    at: served([lost]),
    says: { verdict: 'in-sync', plan: null },
    code: 'REGISTRY_BLOB_MISSING',
  },
  'what is to be said of the image is said in every row of it': {
    at: served([desired({ notes: ['its URL is ambiguous'] })]),
    says: { verdict: 'in-sync' },
    reason: /^checked: .*; its URL is ambiguous$/,
  },
  'and beside the reason of the row': {
    on: { blobs: {} },
    at: served([desired({ notes: ['its URL is ambiguous', 'titles'] })]),
    says: { verdict: 'blob-missing' },
    reason: 'the blob is not there; its URL is ambiguous; titles',
  },
};

describe('one row', () => {
  test.each(Object.entries(WORLDS))('%s', (_name, { on, at = served(), node: of, says, reason, code, commands }) => {
    const [row, ...more] = judgeImages(at, observation(on, of));
    expect(row).toMatchObject(says);
    if (typeof reason === 'string' || reason === null) expect(row?.reason).toBe(reason);
    else if (reason !== undefined) expect(row?.reason).toMatch(reason);
    expect(row?.error?.code).toBe(code);
    if (says.plan === 'pull') expect(row?.commands).toEqual([]);
    else expect(row?.commands).toEqual(commands ?? []);
    expect(more.every((other) => on?.entries !== undefined && other.verdict === row?.verdict)).toBe(true);
  });
});

describe('the rows of a node', () => {
  const wanted = [tracked(), tracked({ image: 'gpu/base', reference: `${EPOCH}/dl/gpu/base`, pools: ['gpu'] })];
  const at = served([desired(), desired({ image: 'gpu/base', reference: `${EPOCH}/dl/gpu/base` })], {
    tracked: wanted,
  });
  const verdicts = (rows: ImageRow[]): string[] => rows.map((row) => `${row.image}: ${row.verdict}`);

  test('a tracked image concerns the nodes of its pools', () => {
    expect(verdicts(judgeImages(at, observation()))).toEqual(['simular/win11: in-sync']);
    expect(verdicts(judgeImages(at, observation({}, node('gpu-1', { pool: 'gpu' }))))).toEqual([
      'simular/win11: in-sync',
      'gpu/base: absent',
    ]);
  });

  test('but an entry for it is judged wherever it is found', () => {
    const rows = judgeImages(at, observation({ entries: [entry(sha('a1'), `${EPOCH}/dl/gpu/base`)] }));
    expect(verdicts(rows)).toEqual(['gpu/base: stale', 'simular/win11: absent']);
  });

  test('an image of several platforms is judged by that of the node', () => {
    const images = [container(), container({ platform: 'linux/arm64', contentDigest: sha('c4'), layers: [sha('f1')] })];
    const both = served(images, { covers: { [OCI]: [0, 1] }, tracked: [] });
    const said = (digest: string, architecture: string): unknown[] =>
      judgeImages(
        both,
        observation({ entries: [entry(digest, OCI, 'oci')], files: ociFiles(['d4', 'e5']), architecture }),
      ).map(({ verdict, want }) => [verdict, want]);
    expect(said(sha('c3'), 'amd64')).toEqual([['in-sync', sha('c3')]]);
    expect(said(sha('c3'), 'arm64')).toEqual([['stale', sha('c4')]]);
    expect(said(sha('c4'), 'arm64')).toEqual([['blob-missing', sha('c4')]]);
    expect(said(sha('c3'), 'riscv64')).toEqual([['unmanaged', null]]);
  });

  test('a tracked image of another registry is asked for on each platform alone', () => {
    const images = [container({ platform: 'linux/arm64', contentDigest: sha('c4') }), container()];
    const wanted2 = tracked({ image: 'a/b', tag: '1', registry: 'ghcr.io', reference: OCI, presence: 'required' });
    const both = served(images, { covers: { [OCI]: [0, 1] }, tracked: [wanted2] });
    const missing = { verdict: 'missing', plan: 'pull', type: 'oci', reference: OCI };
    expect(judgeImages(both, observation({ entries: [] }))).toMatchObject([{ ...missing, want: sha('c3') }]);
    expect(judgeImages(both, observation({ entries: [], architecture: 'arm64' }))).toMatchObject([
      { ...missing, want: sha('c4') },
    ]);
    expect(judgeImages(both, observation({ entries: [], architecture: 'riscv64' }))).toMatchObject([
      { verdict: 'unknown', plan: null, want: null },
    ]);
  });

  test('each key of one tag has a row of its own', () => {
    const keys = [WIN11, `${WIN11}/latest`];
    const rows = judgeImages(
      served(undefined, { covers: Object.fromEntries(keys.map((key) => [key, [0]])) }),
      observation({ entries: [entry(sha('a1'), keys[0]), entry(sha('e2'), keys[1])] }),
    );
    expect(rows.map((row) => [row.reference, row.verdict])).toEqual([
      [keys[0], 'stale'],
      [keys[1], 'in-sync'],
    ]);
  });

  test('an image of another registry with the same name is another image', () => {
    const reference = 'ghcr.io/simular/win11';
    const other = desired({ image: reference, reference, contentDigest: null, error: trouble('ARTIFACT_UNSUPPORTED') });
    const rows = judgeImages(
      served([other, desired()], { tracked: [tracked({ presence: 'required' })] }),
      observation({ entries: [entry(sha('c3'), reference, 'oci')] }),
    );
    expect(rows.map((row) => [row.reference, row.verdict, row.plan])).toEqual([
      [reference, 'unknown', null],
      [WIN11, 'missing', 'pull'],
    ]);
  });

  test('a node that was not read has an unknown row for each tracked image of its pool', () => {
    const rows = judgeImages(at, unreachable(node('gpu-1', { pool: 'gpu' })));
    expect(verdicts(rows)).toEqual(['simular/win11: unknown', 'gpu/base: unknown']);
    expect(rows[0]).toMatchObject({ reason: 'the node could not be read', error: { code: 'SSH_TIMEOUT' }, have: null });
    expect(judgeImages(served(undefined, { tracked: [] }), unreachable())).toEqual([]);
  });

  test('commands name the directories and the sudo of the node', () => {
    const cocoon = { binary: '/opt/co coon', rootDir: '/data/cocoon', runDir: '/run/c', logDir: null, sudo: true };
    const short = { blobs: blobs({ e2: blob({ sizeBytes: 5 }) }) };
    const rows = judgeImages(served([desired({ stored: 'as-is' })]), observation(short, node('n', { cocoon })));
    const path = `/data/cocoon/cloudimg/blobs/${'e2'.repeat(32)}.qcow2`;
    expect(rows[0]?.commands).toEqual([
      `sudo mv ${path} ${path}.bad`,
      `sudo '/opt/co coon' --root-dir /data/cocoon --run-dir /run/c image pull --force ${WIN11}`,
    ]);
  });
});

describe('needsStoredForm', () => {
  const short = { blobs: blobs({ e2: blob({ sizeBytes: 5 }) }) };

  test.each<[string, Given, Partial<Observed>, boolean]>([
    ['a healthy blob: no', served(), {}, false],
    ['a blob of another size: yes', served(), short, true],
    ['already known: no', served([desired({ stored: 'converted' })]), short, false],
    ['no digest: no', served([unknownAtEpoch]), short, false],
    ['at depth presence too, for a pull would keep a bad file', served(undefined, { depth: 'presence' }), short, true],
  ])('%s', (_name, at, on, isNeeded) => {
    expect(needsStoredForm(at.desired, [unreachable(), observation(on), observation(on)], at.depth)).toEqual(
      isNeeded ? at.desired : [],
    );
  });
});
