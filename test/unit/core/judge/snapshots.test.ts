/** Snapshot verdicts: the ordered table, as named worlds. The overlay's own backing path is the judge, not the index. */
import { describe, expect, test } from 'vitest';
import { pinnedKey } from '../../../../src/core/judge/catalog.ts';
import { pinnedQuestions } from '../../../../src/core/judge/pinned.ts';
import { blobHex, pinnedBy } from '../../../../src/core/judge/snapshot-files.ts';
import type { PinnedContent } from '../../../../src/core/model/catalog.ts';
import type { DesiredSnapshot } from '../../../../src/core/model/desired.ts';
import type { Node } from '../../../../src/core/model/node.ts';
import type { Observed } from '../../../../src/core/model/observed.ts';
import type { SnapshotRow } from '../../../../src/core/model/report.ts';
import {
  blob,
  blobPath,
  blobs,
  container,
  desired,
  entry,
  EPOCH,
  HOT,
  hot,
  node,
  NOW,
  observation,
  OCI,
  ociFiles,
  RAW,
  ROOT,
  served,
  sha,
  snapshot,
  split,
  tracked,
  trouble,
  unreachable,
  vm,
  wantedSnapshot,
  WIN11,
  catalogOf,
  scopeOf,
  type Given,
  type Hot,
} from '../../../support/facts.ts';
import { judgeSnapshots } from '../../../support/judging.ts';

interface World {
  on: Partial<Observed>;
  at?: Given;
  hot?: Hot;
  node?: Node;
  says: Partial<SnapshotRow>;
  reason?: string | RegExp | null;
  code?: string;
  commands?: string[];
}

const lost = desired({ missingBlob: sha('e2'), error: trouble('REGISTRY_BLOB_MISSING', 'epoch cannot serve e2e2') });
const unanswered = desired({ contentDigest: null, error: trouble('REGISTRY_UNREACHABLE', 'epoch is down') });
const asIs = served([desired({ stored: 'as-is' })]);
const short = blobs({ e2: blob({ sizeBytes: 5 }) });
const replace = [`mv ${blobPath('e2')} ${blobPath('e2')}.bad`, `cocoon --root-dir ${ROOT} image pull --force ${WIN11}`];
const HOURS = 3_600_000;
const ago = (ms: number): string => new Date(NOW - ms).toISOString();
const FIRMWARE = `${ROOT}/firmware/CLOUDHV.fd`;

const LAYER = `${ROOT}/oci/blobs/${'d4'.repeat(32)}.erofs`;
const KERNEL = `${ROOT}/oci/boot/${'e5'.repeat(32)}/vmlinuz`;
const INITRD = `${ROOT}/oci/boot/${'d4'.repeat(32)}/initrd.img`;
const onOci = snapshot('c3', {
  base: 'ghcr.io/a/b:1',
  baseType: 'oci',
  blobIds: ['d4'.repeat(32), 'e5'.repeat(32)],
  files: { 'config.json': 9, 'state.json': 9, 'memory-ranges': 8, 'cow.raw': 7, 'cocoon.json': 6 },
  backing: null,
  bootFiles: [],
  layerFiles: [LAYER, KERNEL],
});

/** A snapshot as a version of cocoon before v0.3.8 left it. */
const { 'cocoon.json': _sidecar, ...filesOfOld } = snapshot('e2').files as Record<string, number>;
const broken = (
  over: Parameters<typeof snapshot>[1],
  files: Observed['files'] = { [FIRMWARE]: 'file' },
): World['on'] => ({
  snapshots: [snapshot('e2', over)],
  files,
});

/** A snapshot on `a1`, which is gone, while the tag serves `e2`. */
const gone = { snapshots: [snapshot('a1')], blobs: blobs({ e2: blob() }) };
const BLOB_URL = `${EPOCH}/v2/simular/win11/blobs/${sha('a1')}`;
const lookups = (said: PinnedContent): Record<string, PinnedContent> => ({
  [pinnedKey({ base: WIN11, digest: sha('a1') })]: said,
});
/** The blob of `a1` is there, while the tag serves `e2`; epoch still has it. */
const oldBase = (over: Parameters<typeof blob>[0]): Partial<Observed> => ({
  snapshots: [snapshot('a1')],
  blobs: blobs({ a1: blob(over), e2: blob() }),
});
const OLD: PinnedContent = { state: 'there', reference: BLOB_URL, sizeBytes: 777, stored: 'as-is' };
const OCI_PINNED = `ghcr.io/a/b@${sha('c3')}`;
const onFirecracker = {
  ...onOci,
  hypervisor: 'firecracker',
  files: { vmstate: 1, mem: 1, 'cow.raw': 1 },
  layerFiles: [],
};
/** The overlay opens `a1`, while the record names `b7`. */
const atRisk = { snapshots: [snapshot('b7', { backing: blobPath('a1') })], blobs: blobs({ a1: blob() }) };
const REPLACE = { repair: { corruptBlobs: 'replace', restoreBases: 'report' } } as const;

const SIZE_CHECKED = 'checked: present, size as the manifest says; --deep hashes the bytes';
/** Of the files of the snapshot itself, where epoch has none to hold them against. */
const FILES = 'of its own files, checked: files present';
const HEADER_CHECKED = 'checked: present, with the header of a qcow2 base image; its size at epoch is not known';

const WORLDS: Record<string, World> = {
  // clonable
  'the base is there': {
    on: { snapshots: [snapshot('e2')] },
    says: { verdict: 'clonable', id: 'MFRGGZDFMZTWQ2LKNNWG23TPOA', base: WIN11, baseDigest: sha('e2'), plan: null },
    reason: `${SIZE_CHECKED}; ${FILES}`,
  },
  'the base is there, though the index maps its name to other content (scenario 3)': {
    on: { snapshots: [snapshot('a1')], blobs: blobs({ a1: blob(), e2: blob() }) },
    says: { verdict: 'clonable', baseDigest: sha('a1'), plan: null },
    reason:
      /^its tag has moved on to e2e2e2e2e2e2; clones keep using a1a1a1a1a1a1; no index entry names its base, and none needs to; checked: /,
  },
  'the base is there and in no index entry at all (scenario 4)': {
    on: { snapshots: [snapshot('a1')], entries: [], blobs: blobs({ a1: blob() }) },
    says: { verdict: 'clonable' },
  },
  'the base is there and nothing at epoch is known of it': {
    on: { snapshots: [snapshot('a1', { base: 'win11-25h2' })], blobs: blobs({ a1: blob() }) },
    says: { verdict: 'clonable' },
    reason: `no index entry names its base, and none needs to; ${HEADER_CHECKED}; ${FILES}`,
  },
  'the base lies outside the root directory': {
    on: broken({ backing: '/mnt/base.qcow2' }, { [FIRMWARE]: 'file', '/mnt/base.qcow2': 'file' }),
    says: { verdict: 'clonable' },
    reason:
      "its base lies outside this node's root directory, at /mnt/base.qcow2; checked: present; of its own files, checked: files present",
  },
  'a short base at depth presence': {
    on: { snapshots: [snapshot('e2')], blobs: short },
    at: served([desired({ stored: 'as-is' })], { depth: 'presence' }),
    says: { verdict: 'clonable' },
  },
  'a record of an older cocoon without image_digest': {
    on: { snapshots: [snapshot('e2', { baseDigest: null })] },
    says: { verdict: 'clonable', baseDigest: sha('e2') },
  },
  'OCI: layers, kernel and initrd are there': {
    on: { snapshots: [onOci], files: { [LAYER]: 'file', [KERNEL]: 'file' } },
    says: { verdict: 'clonable', base: 'ghcr.io/a/b:1' },
  },
  'firecracker needs other files and no sidecar': {
    on: {
      snapshots: [{ ...onOci, hypervisor: 'firecracker', files: { vmstate: 1, mem: 1, 'cow.raw': 1 } }],
      files: { [LAYER]: 'file', [KERNEL]: 'file' },
    },
    says: { verdict: 'clonable' },
  },
  'without cocoon.json, on a cocoon that asks for none': {
    on: { ...broken({ files: filesOfOld }), cocoonVersion: 'v0.3.7' },
    says: { verdict: 'clonable' },
  },

  // the overlay says otherwise than the record
  'the overlay opens another digest than the record pins: the overlay counts': {
    on: { snapshots: [snapshot('a1', { backing: blobPath('e2') })] },
    says: { verdict: 'clonable', baseDigest: sha('e2') },
  },
  'and its base is what is missing': {
    on: { snapshots: [snapshot('a1', { backing: blobPath('e2') })], entries: [], blobs: blobs({ a1: blob() }) },
    says: { verdict: 'base-drifted', baseDigest: sha('e2'), plan: 'pull' },
  },

  // base-drifted
  'the incident': {
    on: { snapshots: [snapshot('e2')], entries: [entry(sha('a1'))], blobs: blobs({ a1: blob() }) },
    says: { verdict: 'base-drifted', base: WIN11, baseDigest: sha('e2'), plan: 'pull' },
    reason:
      "its base e2e2e2e2e2e2: the blob is not there, but epoch's tag serves exactly that, so a forced pull heals it",
  },
  'the base is empty (scenario 8)': {
    on: { snapshots: [snapshot('e2')], blobs: blobs({ e2: blob({ sizeBytes: 0 }) }) },
    says: { verdict: 'base-drifted', plan: 'pull' },
    reason: /the blob is empty/,
  },
  'a record without image_digest': {
    on: { snapshots: [snapshot('e2', { baseDigest: null })], blobs: {} },
    says: { verdict: 'base-drifted', baseDigest: sha('e2'), plan: 'pull' },
  },
  'the incident, and epoch lacks the blob: a pull would not help': {
    on: { snapshots: [snapshot('e2')], blobs: {} },
    at: served([lost]),
    says: { verdict: 'base-drifted', plan: null },
    reason: 'its base e2e2e2e2e2e2: the blob is not there; epoch cannot serve e2e2',
    code: 'REGISTRY_BLOB_MISSING',
  },

  'the incident, and its reference is in both backends: nothing is pulled under it': {
    on: {
      snapshots: [snapshot('e2')],
      entries: [entry(sha('a1')), entry(sha('c3'), WIN11, 'oci')],
      blobs: {},
    },
    says: { verdict: 'base-drifted', plan: null },
    reason: /both backends/,
  },

  // base-missing
  'the tag has moved on': {
    on: { snapshots: [snapshot('a1')], blobs: blobs({ e2: blob() }) },
    says: { verdict: 'base-missing', baseDigest: sha('a1'), plan: null },
    reason:
      /its tag has moved on to e2e2e2e2e2e2, so pulling that does not bring it back, and no registry could be asked for it$/,
  },
  'epoch gave no answer': {
    on: { snapshots: [snapshot('e2')], blobs: {} },
    at: served([unanswered]),
    says: { verdict: 'base-missing', plan: null },
    reason: /what its tag serves now is not known/,
  },
  'nothing covers its base': {
    on: { snapshots: [snapshot('e2', { base: 'win11-25h2' })], blobs: {} },
    says: { verdict: 'base-missing', plan: null },
  },
  'another tag yields that digest, its own does not: a pull of its own would not help': {
    on: { snapshots: [snapshot('a1')], blobs: blobs({ e2: blob() }) },
    at: served([desired(), desired({ tag: 'v1', reference: `${WIN11}/v1`, contentDigest: sha('a1') })]),
    says: { verdict: 'base-missing', plan: null },
  },
  'OCI: a layer is not there': {
    on: { snapshots: [onOci], files: { [LAYER]: 'none', [KERNEL]: 'file' } },
    says: { verdict: 'base-missing', plan: null },
    reason: `1 of the 2 files of its base are not there, as ${LAYER}; what its tag serves now is not known, and no registry could be asked for it`,
  },

  // base-restorable, base-lost
  'the registry still gives exactly that content': {
    on: gone,
    hot: hot({ lookups: lookups({ state: 'there', reference: BLOB_URL, sizeBytes: 5, stored: null }) }),
    says: { verdict: 'base-restorable', baseDigest: sha('a1'), plan: null, source: null },
    reason:
      /^its base a1a1a1a1a1a1: the blob is not there; its tag has moved on to e2e2.*, but the registry still gives/,
    commands: [`cocoon --root-dir ${ROOT} image pull --force ${BLOB_URL}`],
  },
  'the same, where restoring is allowed': {
    on: gone,
    at: served(undefined, { repair: { corruptBlobs: 'report', restoreBases: 'restore' } }),
    hot: hot({ lookups: lookups({ state: 'there', reference: BLOB_URL, sizeBytes: 5, stored: null }) }),
    says: { verdict: 'base-restorable', plan: 'restore', source: BLOB_URL, commands: [] },
  },
  'the registry still has it, but nothing that cocoon can pull names it': {
    on: gone,
    at: served(undefined, { repair: { corruptBlobs: 'report', restoreBases: 'restore' } }),
    hot: hot({ lookups: lookups({ state: 'there-unpullable', why: 'tag it' }) }),
    says: { verdict: 'base-restorable', plan: null, source: null },
    reason: /; tag it$/,
  },
  'no registry gives it any more': {
    on: gone,
    hot: hot({ lookups: lookups({ state: 'gone', why: 'epoch does not give it any more' }) }),
    says: { verdict: 'base-lost', plan: null },
    reason: /and epoch does not give it any more: bake the snapshot again, or push the old base back$/,
  },
  'the registry could not be asked': {
    on: gone,
    hot: hot({ lookups: lookups({ state: 'unasked', error: trouble('REGISTRY_UNREACHABLE', 'epoch is down') }) }),
    says: { verdict: 'base-missing', plan: null },
    reason: /, and epoch is down$/,
    code: 'REGISTRY_UNREACHABLE',
  },
  'what was looked up for another base says nothing': {
    on: gone,
    hot: hot({ lookups: { [pinnedKey({ base: `${WIN11}/v1`, digest: sha('a1') })]: { state: 'gone', why: 'no' } } }),
    says: { verdict: 'base-missing' },
  },
  'the tag serves exactly that: no lookup counts': {
    on: { snapshots: [snapshot('e2')], entries: [], blobs: {} },
    hot: hot({ lookups: { [pinnedKey({ base: WIN11, digest: sha('e2') })]: { state: 'gone', why: 'no' } } }),
    says: { verdict: 'base-drifted', plan: 'pull', source: WIN11 },
  },
  'OCI: a layer is gone, and the registry gives the manifest that it pins': {
    on: { snapshots: [onOci], files: { [KERNEL]: 'file' } },
    at: served([container({ contentDigest: sha('f6') })]),
    hot: hot({
      lookups: {
        [pinnedKey({ base: OCI, digest: sha('c3') })]: {
          state: 'there',
          reference: OCI_PINNED,
          sizeBytes: 9,
          stored: null,
        },
      },
    }),
    says: { verdict: 'base-restorable', baseDigest: sha('c3') },
    reason: /^1 of the 2 files of its base are not there.*its tag has moved on to f6f6/,
    commands: [`cocoon --root-dir ${ROOT} image pull ${OCI_PINNED}`],
  },
  'OCI: a layer is gone, and the tag serves exactly that': {
    on: { snapshots: [onOci], files: { [KERNEL]: 'file' } },
    at: served([container()]),
    says: { verdict: 'base-drifted', plan: 'pull', source: OCI },
  },
  'OCI: the same, but cocoon cannot pull it': {
    on: { snapshots: [onOci], files: { [KERNEL]: 'file' } },
    at: served([container({ unpullable: 'it asks for a credential' })]),
    says: { verdict: 'base-drifted', plan: null, source: null },
    reason: /, and though the tag of its image is exactly that, it asks for a credential$/,
  },
  'OCI: the tag serves that to another platform': {
    on: { snapshots: [onOci], files: { [KERNEL]: 'file' }, architecture: 'arm64' },
    at: served([container()]),
    says: { verdict: 'base-missing', plan: null },
  },
  'OCI: neither its files nor its record tell the layers': {
    on: { snapshots: [{ ...onOci, layerFiles: [], blobIds: [] }] },
    says: { verdict: 'unknown', plan: null },
  },
  'firecracker: the layers that its record names': {
    on: { snapshots: [onFirecracker], files: ociFiles(['d4', 'e5']) },
    says: { verdict: 'clonable' },
  },
  'firecracker: one of them is gone': {
    on: { snapshots: [onFirecracker], files: ociFiles(['e5']) },
    says: { verdict: 'base-missing' },
    reason: /^1 of the 2 files of its base are not there, as .*\/d4d4/,
  },

  // a base under a name
  'the incident, under a name that is tied to the tag: an import heals it': {
    on: { snapshots: [snapshot('e2', { base: 'win11-25h2' })], entries: [], blobs: {} },
    at: served(undefined, { covers: { [WIN11]: [0], 'win11-25h2': [0] } }),
    says: { verdict: 'base-drifted', plan: 'pull', source: 'win11-25h2' },
    reason: /but epoch's tag serves exactly that, so importing it again as win11-25h2 heals it$/,
  },

  // base-at-risk
  'its record lacks the blob that its overlay opens, and nothing else keeps it': {
    on: atRisk,
    says: { verdict: 'base-at-risk', baseDigest: sha('a1'), plan: null },
    reason: /no index entry, VM or snapshot record keeps it: the next garbage collection may take it$/,
  },
  'a VM keeps it': { on: { ...atRisk, vms: [vm('a1', 'stopped')] }, says: { verdict: 'clonable' } },
  'an index entry keeps it': {
    on: { ...atRisk, entries: [entry(sha('a1'), 'https://elsewhere.example/x')] },
    says: { verdict: 'clonable' },
  },
  'a snapshot that is being taken keeps it (SQLite)': {
    on: { ...atRisk, unlistedBackings: [blobPath('a1')] },
    says: { verdict: 'clonable' },
  },

  // base-corrupt, unknown
  'the base is short, and replacing is allowed': {
    on: { snapshots: [snapshot('e2')], blobs: short },
    at: served([desired({ stored: 'as-is' })], REPLACE),
    says: { verdict: 'base-corrupt', plan: 'replace', source: WIN11 },
    reason: 'its base: the blob has 5 bytes and not 5798205849',
  },
  'the same under a running VM': {
    on: { snapshots: [snapshot('e2')], blobs: short, vms: [vm('e2')] },
    at: served([desired({ stored: 'as-is' })], REPLACE),
    says: { verdict: 'base-corrupt', plan: null, source: null },
    reason: /a VM is running on it/,
    commands: replace,
  },
  'the same, and its reference is in both backends: nothing is done under it': {
    on: {
      snapshots: [snapshot('e2')],
      blobs: short,
      entries: [entry(sha('e2')), entry(sha('c3'), WIN11, 'oci')],
    },
    at: served([desired({ stored: 'as-is' })], REPLACE),
    says: { verdict: 'base-corrupt', plan: null },
    reason: /both backends/,
  },
  'the same, where the only reference that yields it is a name': {
    on: {
      snapshots: [snapshot('e2', { base: 'win11-25h2' })],
      blobs: short,
      entries: [entry(sha('e2'), 'win11-25h2')],
    },
    at: served([desired({ stored: 'as-is', reference: 'win11-25h2' })], REPLACE),
    says: { verdict: 'base-corrupt', plan: 'replace', source: 'win11-25h2' },
  },
  'an old base has the length that the registry tells': {
    on: oldBase({ sizeBytes: 777 }),
    hot: hot({ lookups: lookups({ ...OLD, stored: null }) }),
    says: { verdict: 'clonable' },
    reason: /checked: present, size as the manifest says/,
  },
  'an old base is short: the commands': {
    on: oldBase({ sizeBytes: 5 }),
    hot: hot({ lookups: lookups(OLD) }),
    says: { verdict: 'base-corrupt', plan: null, source: null },
    reason: 'its base: the blob has 5 bytes and not 777; a forced pull alone would keep it',
    commands: [
      `mv ${blobPath('a1')} ${blobPath('a1')}.bad`,
      `cocoon --root-dir ${ROOT} image pull --force ${BLOB_URL}`,
    ],
  },
  'an old base is short, where replacing is allowed: by its own digest': {
    on: oldBase({ sizeBytes: 5 }),
    at: served(undefined, REPLACE),
    hot: hot({ lookups: lookups(OLD) }),
    says: { verdict: 'base-corrupt', plan: 'replace', source: BLOB_URL, commands: [] },
  },
  'the same, and a VM runs on it': {
    on: { ...oldBase({ sizeBytes: 5 }), vms: [vm('a1')] },
    at: served(undefined, REPLACE),
    hot: hot({ lookups: lookups(OLD) }),
    says: { verdict: 'base-corrupt', plan: null, source: null },
    reason: /a VM is running on it/,
    commands: [
      `mv ${blobPath('a1')} ${blobPath('a1')}.bad`,
      `cocoon --root-dir ${ROOT} image pull --force ${BLOB_URL}`,
    ],
  },
  'an old base has another length, because cocoon converted it': {
    on: oldBase({ sizeBytes: 5 }),
    hot: hot({ lookups: lookups({ ...OLD, stored: 'converted' }) }),
    says: { verdict: 'clonable' },
    reason: /only presence and header/,
  },
  'an old base has another length, and nothing tells whether cocoon converted it': {
    on: oldBase({ sizeBytes: 5 }),
    hot: hot({ lookups: lookups({ ...OLD, stored: null }) }),
    says: { verdict: 'unknown', plan: null },
  },
  'an old base is short, and the registry has it no more: nothing tells': {
    on: oldBase({ sizeBytes: 5 }),
    hot: hot({ lookups: lookups({ state: 'gone', why: '' }) }),
    says: { verdict: 'clonable' },
    reason: /its size at epoch is not known; of its own files/,
  },
  'the bytes of the base have another digest, at depth sha256': {
    on: { snapshots: [snapshot('e2')], blobs: blobs({ e2: blob({ sha256: sha('b7') }) }) },
    at: served([desired({ stored: 'as-is' })], { depth: 'sha256' }),
    says: { verdict: 'base-corrupt' },
    commands: replace,
  },
  'the base is short': {
    on: { snapshots: [snapshot('e2')], blobs: short },
    at: asIs,
    says: { verdict: 'base-corrupt', baseDigest: sha('e2'), plan: null },
    reason: 'its base: the blob has 5 bytes and not 5798205849; a forced pull alone would keep it',
    commands: replace,
  },
  'the base is short, and another tag than its own yields it: the command names that one': {
    on: { snapshots: [snapshot('a1')], blobs: blobs({ a1: blob({ sizeBytes: 5 }) }) },
    at: served([
      desired(),
      desired({ tag: 'v1', reference: `${WIN11}/v1`, contentDigest: sha('a1'), stored: 'as-is' }),
    ]),
    says: { verdict: 'base-corrupt' },
    commands: [
      `mv ${blobPath('a1')} ${blobPath('a1')}.bad`,
      `cocoon --root-dir ${ROOT} image pull --force ${WIN11}/v1`,
    ],
  },
  'the base is short, and epoch lacks it': {
    on: { snapshots: [snapshot('e2')], blobs: short },
    at: served([{ ...lost, stored: 'as-is' }]),
    says: { verdict: 'base-corrupt' },
    code: 'REGISTRY_BLOB_MISSING',
  },
  'the base looks wrong, and how it is stored is not known': {
    on: { snapshots: [snapshot('e2')], blobs: short },
    says: { verdict: 'unknown', plan: null },
    reason: /^its base: .*not known$/,
  },
  'the base looks wrong, and nothing at epoch is known of it': {
    on: { snapshots: [snapshot('a1', { base: 'win11-25h2' })], blobs: blobs({ a1: blob({ header: RAW }) }) },
    says: { verdict: 'unknown' },
  },

  // pending
  'its record is being written, though nothing of it is there yet': {
    on: broken({ pending: true, createdAt: ago(23.9 * HOURS), files: null, baseDigest: null, blobIds: [] }),
    says: { verdict: 'pending', plan: null, baseDigest: null },
    reason: 'its record is being written',
  },
  'its record was begun on a clock ahead of ours': {
    on: broken({ pending: true, createdAt: ago(-HOURS) }),
    says: { verdict: 'pending' },
  },
  'its record was begun a day ago': {
    on: broken({ pending: true, createdAt: ago(24 * HOURS) }),
    says: { verdict: 'broken', plan: null },
    reason: /more than 24 hours ago/,
  },

  // broken
  'without cocoon.json (scenario 31)': {
    on: broken({ files: filesOfOld }),
    says: { verdict: 'broken', plan: null },
    reason: 'it was made before cocoon v0.3.8 and has no cocoon.json: bake it again: pulling images does not help',
  },
  'without cocoon.json, where the version of cocoon cannot be read': {
    on: { ...broken({ files: filesOfOld }), cocoonVersion: 'unknown' },
    says: { verdict: 'broken' },
  },
  'a name without a record (scenario 32)': {
    on: broken({ recorded: false, files: null, dataDir: null, backing: null, baseDigest: null, blobIds: [] }),
    says: { verdict: 'broken' },
    reason: 'its name points at a record that is not there: pulling images does not help',
  },
  'a record without its directory (scenario 32)': {
    on: broken({ files: null }),
    says: { verdict: 'broken' },
    reason: /^its data directory is not there \(\/var\/lib\/cocoon\/snapshot\/localfile\/MFR/,
  },
  'no firmware (scenario 33)': {
    on: broken({}, {}),
    says: { verdict: 'broken' },
    reason: `${FIRMWARE} is missing: pulling images does not help`,
  },
  'empty firmware': { on: broken({}, { [FIRMWARE]: 'none' }), says: { verdict: 'broken' } },
  'the overlay names another root, though the blob is here (scenario 34)': {
    on: broken({ backing: blobPath('e2', '/data/cocoon') }),
    says: { verdict: 'broken' },
    reason: /which is not there and under another root directory: pulling images does not help$/,
  },
  'the overlay names a path that is no text': {
    on: broken({ backing: '/data/b\ufffdse.qcow2' }),
    says: { verdict: 'unknown' },
    reason: 'its overlay opens /data/b\ufffdse.qcow2, which cannot be looked for',
  },
  'the overlay names a relative path': {
    on: broken({ backing: 'base.qcow2' }),
    says: { verdict: 'broken' },
  },
  'the overlay names no base': { on: broken({ backing: null }), says: { verdict: 'broken' }, reason: /names no base/ },
  'no state.json': {
    on: broken({ files: { ...filesOfOld, 'cocoon.json': 6, 'state.json': 0 } }),
    says: { verdict: 'broken' },
    reason: 'its file state.json is missing or empty: pulling images does not help',
  },
  'no memory': {
    on: broken({ files: { 'config.json': 1, 'state.json': 1, 'overlay.qcow2': 1, 'cocoon.json': 1 } }),
    says: { verdict: 'broken' },
    reason: /memory-ranges/,
  },
  'its configuration cannot be read': {
    on: broken({ unusable: 'its configuration cannot be used: config.json is no JSON' }),
    says: { verdict: 'broken' },
  },
  'broken wins over a drifted base': {
    on: { ...broken({ files: filesOfOld }), blobs: {}, entries: [entry(sha('a1'))] },
    says: { verdict: 'broken', plan: null },
  },

  // not-on-node
  'not fetched yet, and its base is there': {
    on: {},
    hot: hot({ tracked: [{ snapshot: HOT, pools: null }], snapshots: [wantedSnapshot()] }),
    says: { verdict: 'not-on-node', id: null, baseVerdict: 'clonable', base: WIN11, baseDigest: sha('e2'), plan: null },
    reason: `not fetched yet; its base is there; ${SIZE_CHECKED}`,
  },
  'not fetched yet, and its base has drifted': {
    on: { entries: [entry(sha('a1'))], blobs: {} },
    hot: hot({ tracked: [{ snapshot: HOT, pools: null }], snapshots: [wantedSnapshot()] }),
    says: { verdict: 'not-on-node', baseVerdict: 'base-drifted', plan: 'pull' },
  },
  'not fetched yet, and its base is one that the tag no longer serves': {
    on: { blobs: blobs({ e2: blob() }) },
    hot: hot({ tracked: [{ snapshot: HOT, pools: null }], snapshots: [wantedSnapshot({ baseDigest: sha('a1') })] }),
    says: { verdict: 'not-on-node', baseVerdict: 'base-missing', plan: null },
  },
  'not fetched yet, and what the tag serves is there and bad: replacing it leaves the first clone nothing to pull': {
    on: { entries: [], blobs: short },
    at: served([desired({ stored: 'as-is' })], { tracked: [tracked({ presence: 'required' })] }),
    hot: hot({ tracked: [{ snapshot: HOT, pools: null }], snapshots: [wantedSnapshot({ baseDigest: sha('a1') })] }),
    says: { verdict: 'not-on-node', baseVerdict: 'base-missing' },
  },
  'not fetched yet, and neither is its base: a cold start': {
    on: { entries: [], blobs: {} },
    hot: hot({ tracked: [{ snapshot: HOT, pools: null }], snapshots: [wantedSnapshot()] }),
    says: { verdict: 'not-on-node', baseVerdict: null, plan: null },
    reason: 'not fetched yet; the first clone pulls its base too (a cold start)',
  },
  'not fetched yet, and its base is at risk': {
    on: { blobs: blobs({ a1: blob() }) },
    hot: hot({ tracked: [{ snapshot: HOT, pools: null }], snapshots: [wantedSnapshot({ baseDigest: sha('a1') })] }),
    says: { verdict: 'not-on-node', baseVerdict: 'base-at-risk', plan: null },
  },
  'not fetched yet, and a pull of the tag takes the last keeper of its base: announced': {
    on: { entries: [entry(sha('a1'))], blobs: blobs({ a1: blob() }) },
    hot: hot({ tracked: [{ snapshot: HOT, pools: null }], snapshots: [wantedSnapshot({ baseDigest: sha('a1') })] }),
    says: { verdict: 'not-on-node', baseVerdict: 'clonable', plan: null },
    reason: /clones keep using a1.*; once the tag is pulled again nothing keeps its base on this node$/,
  },
  'the same, where a split image is known to be other content': {
    on: { entries: [entry(sha('a1'))], blobs: blobs({ a1: blob({ proofs: { [sha('99')]: 'other' } }) }) },
    at: served([split()]),
    hot: hot({ tracked: [{ snapshot: HOT, pools: null }], snapshots: [wantedSnapshot({ baseDigest: sha('a1') })] }),
    says: { verdict: 'not-on-node', baseVerdict: 'clonable' },
    reason: `not fetched yet; its base is there; ${HEADER_CHECKED}; once the tag is pulled again nothing keeps its base on this node`,
  },
  'the same, where another entry keeps it': {
    on: { entries: [entry(sha('a1')), entry(sha('a1'), 'other')], blobs: blobs({ a1: blob() }) },
    hot: hot({ tracked: [{ snapshot: HOT, pools: null }], snapshots: [wantedSnapshot({ baseDigest: sha('a1') })] }),
    says: { verdict: 'not-on-node', baseVerdict: 'clonable' },
    reason: /clones keep using a1a1a1a1a1a1; checked: [^;]*; [^;]*$/,
  },
  'not fetched yet, and the registry still gives its base': {
    on: { entries: [entry(sha('e2'))], blobs: blobs({ e2: blob() }) },
    hot: hot({
      tracked: [{ snapshot: HOT, pools: null }],
      snapshots: [wantedSnapshot({ baseDigest: sha('a1') })],
      lookups: lookups({ state: 'there', reference: BLOB_URL, sizeBytes: 5, stored: null }),
    }),
    says: { verdict: 'not-on-node', baseVerdict: 'base-restorable', plan: null },
    commands: [`cocoon --root-dir ${ROOT} image pull --force ${BLOB_URL}`],
  },
  'not fetched yet, and its base is corrupt': {
    on: { blobs: short },
    at: asIs,
    hot: hot({ tracked: [{ snapshot: HOT, pools: null }], snapshots: [wantedSnapshot()] }),
    says: { verdict: 'not-on-node', baseVerdict: 'base-corrupt', plan: null },
    commands: replace,
  },
  'not fetched yet, and its base looks wrong': {
    on: { blobs: short },
    hot: hot({ tracked: [{ snapshot: HOT, pools: null }], snapshots: [wantedSnapshot()] }),
    says: { verdict: 'not-on-node', baseVerdict: 'unknown', plan: null },
  },
  'not fetched yet, and epoch does not have it': {
    on: {},
    hot: hot({
      tracked: [{ snapshot: HOT, pools: null }],
      snapshots: [wantedSnapshot({ base: null, baseDigest: null, error: trouble('TAG_NOT_FOUND', 'no such tag') })],
    }),
    says: { verdict: 'not-on-node', baseVerdict: 'unknown', plan: null, base: null },
    reason: 'not fetched yet; no such tag',
    code: 'TAG_NOT_FOUND',
  },
  'not fetched yet, and its manifest does not say what it needs': {
    on: {},
    hot: hot({
      tracked: [{ snapshot: HOT, pools: null }],
      snapshots: [wantedSnapshot({ base: null, baseDigest: null })],
    }),
    says: { verdict: 'not-on-node', baseVerdict: 'unknown' },
    reason: 'not fetched yet; what it needs is not known',
  },
};

const onNode = (over: Partial<Observed>): Partial<Observed> => ({ blobs: {}, ...over });
const ociEntry = { ...entry(sha('c3'), 'ghcr.io/a/b:1', 'oci'), layers: [sha('d4')], kernelLayer: sha('e5') };
const onOciBase = hot({
  tracked: [{ snapshot: HOT, pools: null }],
  snapshots: [wantedSnapshot({ base: 'ghcr.io/a/b:1', baseDigest: sha('c3') })],
});

const OCI_BASES: Record<string, World> = {
  'its layers are there': {
    on: onNode({ entries: [ociEntry], files: { [LAYER]: 'file', [KERNEL]: 'file', [INITRD]: 'file' } }),
    says: { baseVerdict: 'clonable' },
    reason: /^not fetched yet; its base is there; checked: each of its files is present; /,
  },
  'the initrd is not there': {
    on: onNode({ entries: [ociEntry], files: { [LAYER]: 'file', [KERNEL]: 'file' } }),
    says: { baseVerdict: 'base-missing', plan: null },
    reason: /initrd\.img is not there/,
  },
  'the kernel is empty': {
    on: onNode({ entries: [ociEntry], files: { [LAYER]: 'file', [KERNEL]: 'none', [INITRD]: 'file' } }),
    says: { baseVerdict: 'base-missing', plan: null },
    reason: /vmlinuz is not there/,
  },
  'a layer is not there, and cocoon would not look': {
    on: onNode({ entries: [ociEntry], files: { [KERNEL]: 'file', [INITRD]: 'file' } }),
    says: { baseVerdict: 'base-missing', plan: null },
  },
  'the kernel is not there': {
    on: onNode({ entries: [ociEntry], files: { [LAYER]: 'file', [INITRD]: 'file' } }),
    says: { baseVerdict: 'base-missing', plan: null },
  },
  'an entry whose layers cannot be told (SQLite)': {
    on: onNode({ entries: [{ ...ociEntry, layers: [], kernelLayer: null }] }),
    says: { baseVerdict: 'unknown' },
  },
  'an entry of other content: the first clone pulls by digest': {
    on: onNode({ entries: [{ ...ociEntry, digest: sha('f6') }] }),
    says: { baseVerdict: null },
  },
  'no entry': { on: onNode({ entries: [] }), says: { baseVerdict: null } },
};

function check({ on, at = served(), hot: of = hot(), node: where, says, reason, code, commands = [] }: World): void {
  const rows = judgeSnapshots(at, of, observation(on, where));
  expect(rows).toHaveLength(1);
  const [row] = rows;
  expect(row).toMatchObject({ snapshot: HOT, ...says });
  if (typeof reason === 'string' || reason === null) expect(row?.reason).toBe(reason);
  else if (reason !== undefined) expect(row?.reason).toMatch(reason);
  expect(row?.error?.code).toBe(code);
  expect(row?.commands).toEqual(commands);
}

describe('one row', () => {
  test.each(Object.entries(WORLDS))('%s', (_name, world) => check(world));
});

describe('not fetched yet, on an OCI base', () => {
  test.each(Object.entries(OCI_BASES))('%s', (_name, world) =>
    check({ ...world, hot: onOciBase, says: { verdict: 'not-on-node', ...world.says } }),
  );
});

describe('the rows of a node', () => {
  const wanted = [
    { snapshot: 'simular/win11-hot:latest', pools: null },
    { snapshot: HOT, pools: ['gpu'] },
  ];
  const rows = (over: Partial<Hot>, on: Partial<Observed>, where = node()): string[] =>
    judgeSnapshots(served(), hot({ tracked: wanted, ...over }), observation(on, where)).map(
      (row) => `${row.snapshot}: ${row.verdict}`,
    );

  test('latest is left out of the name on the node', () => {
    expect(rows({}, { snapshots: [snapshot('e2', { name: 'simular/win11-hot' })] })).toEqual([
      'simular/win11-hot:latest: clonable',
    ]);
  });

  test('a tracked snapshot concerns the nodes of its pools, and is judged wherever it is found', () => {
    const latest = 'simular/win11-hot:latest: not-on-node';
    expect(rows({}, {})).toEqual([latest]);
    expect(rows({}, {}, node('g', { pool: 'gpu' }))).toEqual([latest, `${HOT}: not-on-node`]);
    expect(rows({}, { snapshots: [snapshot('e2')] })).toEqual([`${HOT}: clonable`, latest]);
  });

  test('without discovery only what is tracked has rows', () => {
    const on = { snapshots: [snapshot('e2', { name: 'vk-fork-1' }), snapshot('e2')] };
    const latest = 'simular/win11-hot:latest: not-on-node';
    expect(rows({ discover: false }, on)).toEqual([latest]);
    expect(rows({ discover: false }, on, node('g', { pool: 'gpu' }))).toEqual([`${HOT}: clonable`, latest]);
    expect(rows({ discover: true }, on)).toEqual(['vk-fork-1: clonable', `${HOT}: clonable`, latest]);
  });

  test('one without a name goes by its id', () => {
    expect(rows({ tracked: [] }, { snapshots: [snapshot('e2', { name: '' })] })).toEqual([
      'MFRGGZDFMZTWQ2LKNNWG23TPOA: clonable',
    ]);
  });

  test('a node that was not read has an unknown row for each tracked snapshot of its pool', () => {
    const unread = judgeSnapshots(served(), hot({ tracked: wanted }), unreachable());
    expect(unread).toMatchObject([
      { snapshot: 'simular/win11-hot:latest', verdict: 'unknown', error: { code: 'SSH_TIMEOUT' }, plan: null },
    ]);
    expect(judgeSnapshots(served(), hot(), unreachable())).toEqual([]);
  });

  test('what an image row says of a tag is judged for its snapshot too', () => {
    const at = served([desired({ reference: `${EPOCH}/dl/x` })], { tracked: [tracked()] });
    const on = { snapshots: [snapshot('e2', { base: `${EPOCH}/dl/x` })], blobs: {} };
    expect(judgeSnapshots(at, hot(), observation(on))).toMatchObject([{ verdict: 'base-drifted', plan: 'pull' }]);
  });
});

describe('a snapshot whose tag at epoch has another one by now stays as it is, and that is said', () => {
  const OLDER = '2026-05-08T00:00:00Z';
  const NEWER = '2026-05-09T00:00:00Z'; // the copy on the node is of 2026-05-08T19:00:00Z
  const newer = 'the tag at epoch is newer than the local copy, which stays until somebody removes it';
  const other = 'the tag at epoch is another snapshot than the local copy, which stays until somebody removes it';

  test.each<[string, Partial<DesiredSnapshot>, Parameters<typeof snapshot>[1], string | null]>([
    ['made later', { createdAt: NEWER }, {}, newer],
    ['made before', { createdAt: OLDER }, {}, null],
    ['made nobody knows when', { createdAt: null }, {}, null],
    ['made at no time', { createdAt: 'yesterday' }, {}, null],
    ['on another base', { baseDigest: sha('a1') }, {}, other],
    ['on another base, made later', { baseDigest: sha('a1'), createdAt: NEWER }, {}, newer],
    ['on a base that is not known', { baseDigest: null }, {}, null],
    ['of another name', { baseDigest: sha('a1') }, { name: 'other' }, null],
    ['under latest', { snapshot: 'simular/hot:latest', baseDigest: sha('a1') }, { name: 'simular/hot' }, other],
  ])('%s', (_name, wanted, local, reason) => {
    const at = hot({ snapshots: [wantedSnapshot(wanted)] });
    expect(judgeSnapshots(served(), at, observation({ snapshots: [snapshot('e2', local)] }))).toMatchObject([
      { verdict: 'clonable', reason: [SIZE_CHECKED, FILES, reason].filter((said) => said !== null).join('; ') },
    ]);
  });

  test('beside what else there is to say, but not of one that is being written', () => {
    const at = hot({ snapshots: [wantedSnapshot({ createdAt: NEWER })] });
    const [drifted] = judgeSnapshots(served(), at, observation({ snapshots: [snapshot('e2')], blobs: {} }));
    expect(drifted).toMatchObject({ verdict: 'base-drifted', plan: 'pull' });
    expect(drifted?.reason).toMatch(/heals it; the tag at epoch is newer than the local copy/);
    const writing = snapshot('e2', { pending: true });
    expect(judgeSnapshots(served(), at, observation({ snapshots: [writing] }))).toMatchObject([
      { verdict: 'pending', reason: 'its record is being written' },
    ]);
  });
});

describe('the files of a snapshot are held against those of the same one at epoch', () => {
  const there = { 'config.json': 900, 'state.json': 9, 'cocoon.json': 6, 'memory-ranges': 8, 'overlay.qcow2': 7 };
  test.each<[string, Record<string, number>, Record<string, number>, string, RegExp]>([
    ['all alike', {}, there, 'clonable', /checked: files present, sizes as at epoch$/],
    [
      'memory of one byte',
      { 'memory-ranges': 1 },
      there,
      'broken',
      /^its file memory-ranges has 1 byte, and 8 at epoch/,
    ],
    ['an overlay that was cut', { 'overlay.qcow2': 5 }, there, 'broken', /^its file overlay.qcow2 has 5 bytes/],
    [
      'another snapshot of that name',
      { 'state.json': 8, 'memory-ranges': 1 },
      there,
      'clonable',
      /checked: files present$/,
    ],
    ['nothing at epoch', { 'memory-ranges': 1 }, {}, 'clonable', /checked: files present$/],
    [
      'a description alone at epoch',
      { 'memory-ranges': 1 },
      { 'cocoon.json': 6 },
      'clonable',
      /checked: files present$/,
    ],
  ])('%s', (_name, over, files, verdict, reason) => {
    const local = snapshot('e2');
    const fact = { ...local, files: { ...local.files, ...over } };
    const at = hot({ snapshots: [wantedSnapshot({ files })] });
    const [judged] = judgeSnapshots(served(), at, observation({ snapshots: [fact] }));
    expect(judged?.verdict).toBe(verdict);
    expect(judged?.reason).toMatch(reason);
  });
});

describe('cocoon.json is needed since v0.3.8', () => {
  test.each([
    ['v0.3.7', 'clonable'],
    ['0.2.99', 'clonable'],
    ['v0.3.8', 'broken'],
    ['v0.3.10-rc1', 'broken'],
    ['v0.4.0', 'broken'],
    ['v1.0.0', 'broken'],
    ['', 'broken'],
  ])('%s: %s', (cocoonVersion, verdict) => {
    const on = { ...broken({ files: filesOfOld }), cocoonVersion };
    expect(judgeSnapshots(served(), hot(), observation(on))[0]?.verdict).toBe(verdict);
  });
});

test.each([
  [blobPath('a1'), 'a1'.repeat(32)],
  [`${blobPath('a1')}.bad`, null],
  [blobPath('a1', '/data/cocoon'), null],
  [blobPath('A1'), null],
  [`${ROOT}/cloudimg/blobs/../blobs/${'a1'.repeat(32)}.qcow2`, null],
])('the blob of %s', (path, hex) => {
  expect(blobHex(node(), path)).toBe(hex);
});

test.each([
  [sha('a1'), ['b2'.repeat(32)], sha('a1')],
  [null, ['b2'.repeat(32)], sha('b2')],
  [null, ['b2'.repeat(32), 'c3'.repeat(32)], null],
  [null, ['nonsense'], null],
  [null, [], null],
])('a record with the digest %s and the blobs %j pins %s', (baseDigest, blobIds, pinned) => {
  expect(pinnedBy(snapshot('a1', { baseDigest, blobIds }))).toBe(pinned);
});

describe('what a registry is asked about pinned bases', () => {
  const asked = (on: Partial<Observed>[], at: Given = served(), of: Partial<Hot> = {}): string[] =>
    pinnedQuestions(
      catalogOf(at, hot(of)),
      scopeOf(at, hot(of)),
      on.map((facts, i) => observation(facts, node(`n${i}`))),
    ).map(pinnedKey);
  const absent = { snapshots: [snapshot('a1')], blobs: blobs({ e2: blob() }) };

  test.each<[string, Partial<Observed>[], Given, Partial<Hot>, string[]]>([
    [
      'a base that is gone, its tag moved on: once for all nodes',
      [absent, absent],
      served(),
      {},
      [`${sha('a1')} ${WIN11}`],
    ],
    [
      'what an earlier answer said does not matter',
      [absent],
      served(),
      { lookups: lookups({ state: 'gone', why: '' }) },
      [`${sha('a1')} ${WIN11}`],
    ],
    ['the incident: nothing', [{ snapshots: [snapshot('e2')], blobs: {} }], served(), {}, []],
    ['a base that is there, and that a tag yields: nothing', [{ snapshots: [snapshot('e2')] }], served(), {}, []],
    [
      'one that no tag yields any more: what length it should have',
      [{ snapshots: [snapshot('a1')], blobs: blobs({ a1: blob() }) }],
      served(),
      {},
      [`${sha('a1')} ${WIN11}`],
    ],
    [
      'the same, and its bytes prove it: nothing',
      [{ snapshots: [snapshot('a1')], blobs: blobs({ a1: blob({ sha256: sha('a1') }) }) }],
      served(),
      {},
      [],
    ],
    [
      'the same, where only presence counts: nothing',
      [{ snapshots: [snapshot('a1')], blobs: blobs({ a1: blob() }) }],
      served(undefined, { depth: 'presence' }),
      {},
      [],
    ],
    [
      'a base without a reference: nothing',
      [{ snapshots: [snapshot('a1', { base: null })], blobs: {} }],
      served(),
      {},
      [],
    ],
    [
      'one that is not fetched, and whose reference is on the node',
      [{}],
      served(),
      { tracked: [{ snapshot: HOT, pools: null }], snapshots: [wantedSnapshot({ baseDigest: sha('a1') })] },
      [`${sha('a1')} ${WIN11}`],
    ],
    [
      'the same without an entry: a cold start, nothing',
      [{ entries: [], blobs: {} }],
      served(),
      { tracked: [{ snapshot: HOT, pools: null }], snapshots: [wantedSnapshot({ baseDigest: sha('a1') })] },
      [],
    ],
    ['OCI', [{ snapshots: [onOci] }], served([container({ contentDigest: sha('f6') })]), {}, [`${sha('c3')} ${OCI}`]],
  ])('%s', (_name, on, at, of, keys) => {
    expect(asked(on, at, of)).toEqual(keys);
  });

  test('of a node that was not read: nothing', () => {
    const tracking = hot({ tracked: [{ snapshot: HOT, pools: null }], snapshots: [wantedSnapshot()] });
    expect(pinnedQuestions(catalogOf(served(), tracking), scopeOf(served(), tracking), [unreachable()])).toEqual([]);
  });
});
