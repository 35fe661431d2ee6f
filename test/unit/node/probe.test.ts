/** The probe: what its answer means, that no answer can do harm, and what the script reads from a real directory. */
import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterAll, beforeEach, describe, expect, test } from 'vitest';
import type { Connection } from '../../../src/ssh/exec.ts';
import { FIRST_SCOPE, readNode } from '../../../src/node/read.ts';
import { createAnswerReader } from '../../../src/node/answer/stream.ts';
import { ReconcileError } from '../../../src/core/errors.ts';
import { judgeImages } from '../../support/judging.ts';
import { shellQuote } from '../../../src/core/text.ts';
import { isDigest } from '../../../src/core/reference.ts';
import type { Node } from '../../../src/core/model/node.ts';
import type { BlobFact, Observed } from '../../../src/core/model/observed.ts';
import {
  blob,
  blobPath,
  blobs,
  entry,
  node,
  observation,
  QCOW2,
  ROOT,
  served,
  sha,
  WIN11,
} from '../../support/facts.ts';
import { localConnection } from '../../support/fakes.ts';
import { bytesOf, head, NONCE, parse as parseFor, qcow2, understood } from '../../support/probe.ts';
import { mutate, random } from '../../support/random.ts';
import { treeOf } from '../../support/tree.ts';

const HEX = { a1: 'a1'.repeat(32), e2: 'e2'.repeat(32), d4: 'd4'.repeat(32), e5: 'e5'.repeat(32) };
const ID = 'MFRGGZDFMZTWQ2LKNNWG23TPOA';
const DATA = `${ROOT}/snapshot/localfile/${ID}`;
const OVERLAY = `${DATA}/./overlay.qcow2`;
const CLOUD = 'cloudimg/db/images.json';
const OCI = 'oci/db/images.json';
const SNAPSHOTS = 'snapshot/db/snapshots.json';

/** One thing that the probe prints: a line, or a file with its text. */
type Said = string | { file: string; text: string };

function file(name: string, content: unknown): Said {
  return { file: name, text: typeof content === 'string' ? content : `${JSON.stringify(content)}\n` };
}

/** An answer in the format of `probe.sh`, with the beginnings of files that are said. */
function answer(...said: Said[]): string {
  const isHead = (one: Said): one is string => typeof one === 'string' && one.startsWith('==>');
  const lines = said
    .filter((one) => !isHead(one))
    .map((one) =>
      typeof one === 'string' ? `${one}\n` : `file\n${one.file}\n${bytesOf(one.text).replace(/^(?=.|\n.)/gm, '|')}\n`,
    );
  const heads = said.some(isHead) ? `heads\n${said.filter(isHead).join('\n')}\n` : '';
  return `cocoon-probe 1 ${NONCE}\n${lines.join('')}${heads}cocoon-probe end ${NONCE}\n`;
}

const MACHINE = ['machine x86_64', 'version v0.3.8'];
const FREE = 'free 500000000000';
const cloudimg = (images: Record<string, unknown>): Said => file(CLOUD, { images });
const stale = cloudimg({
  [WIN11]: { ref: WIN11, content_sum: sha('a1'), size: 5, created_at: '2026-04-27T19:44:01Z' },
});

const record = {
  id: ID,
  name: 'simular/win11-hot:v1',
  image: WIN11,
  image_digest: sha('e2'),
  image_type: 'cloudimg',
  image_blob_ids: { [HEX.e2]: {} },
  hypervisor: 'cloud-hypervisor',
  created_at: '2026-04-27T20:01:02.000000003+08:00',
  data_dir: DATA,
};
const snapshots = (...records: object[]): Said =>
  file(SNAPSHOTS, {
    snapshots: Object.fromEntries(records.map((r) => [(r as { id?: string }).id ?? ID, r])),
    names: { 'simular/win11-hot:v1': ID },
  });
const COW = '/run/cocoon/overlay.qcow2';
const SIDECAR = { storage_configs: [{ path: COW, ro: false, serial: '', role: 'cow' }] };
const CONFIG = { payload: { firmware: `${ROOT}/firmware/CLOUDHV.fd` }, disks: [{ path: COW, readonly: false }] };
const directory: Said[] = [
  `snapshot ${DATA}/.`,
  `has 300 ${DATA}/./cocoon.json`,
  `has 900 ${DATA}/./config.json`,
  `has 9 ${DATA}/./state.json`,
  `has 8 ${DATA}/./memory-ranges`,
  `has 7 ${OVERLAY}`,
  file(`${DATA}/./cocoon.json`, SIDECAR),
  file(`${DATA}/./config.json`, CONFIG),
  `path file ${ROOT}/firmware/CLOUDHV.fd`,
  head(OVERLAY, qcow2(blobPath('e2'))),
];
const GOOD = answer(
  ...MACHINE,
  stale,
  snapshots(record),
  `blob f 5 77 1.5 ${HEX.a1}.qcow2`,
  head(`cloudimg/blobs/${HEX.a1}.qcow2`, QCOW2),
  ...directory,
  FREE,
);

function parse(text: string, of: Node = node()): Observed {
  return parseFor(text, of);
}

function errorOf(text: string, stderr = '', of: Node = node()): ReconcileError {
  try {
    understood(text, of, { stderr });
  } catch (error) {
    if (error instanceof ReconcileError) return error;
    throw error;
  }
  throw new Error('the answer was accepted');
}

describe('a good answer', () => {
  test('is understood', () => {
    expect(parse(GOOD)).toEqual({
      cocoonVersion: 'v0.3.8',
      architecture: 'amd64',
      indexSource: 'json',
      freeBytes: 500_000_000_000,
      entries: [entry(sha('a1'))],
      conflicts: [],
      blobs: blobs({ a1: blob({ sizeBytes: 5, stamp: '5 77 1.5' }) }),
      files: { [`${ROOT}/firmware/CLOUDHV.fd`]: 'file' },
      snapshots: [
        {
          id: ID,
          name: 'simular/win11-hot:v1',
          hypervisor: 'cloud-hypervisor',
          base: WIN11,
          baseDigest: sha('e2'),
          baseType: 'cloudimg',
          blobIds: [HEX.e2],
          pending: false,
          createdAt: '2026-04-27T20:01:02.000000003+08:00',
          recorded: true,
          dataDir: DATA,
          files: { 'cocoon.json': 300, 'config.json': 900, 'state.json': 9, 'memory-ranges': 8, 'overlay.qcow2': 7 },
          unusable: null,
          backing: blobPath('e2'),
          bootFiles: [`${ROOT}/firmware/CLOUDHV.fd`],
          layerFiles: [],
        },
      ],
      vms: [],
      leftovers: [],
      unlistedBackings: [],
      notes: [],
    });
  });

  test.each<[string, Said[], Partial<Observed>]>([
    ['no store at all', [], { indexSource: 'none', entries: [], notes: ['cocoon has no store there yet'] }],
    ['arm64', ['machine aarch64'], { architecture: 'arm64' }],
    ['a machine of another kind', ['machine riscv64'], { architecture: 'riscv64' }],
    ['a machine named like a property of every object', ['machine constructor'], { architecture: 'constructor' }],
    ['no version of cocoon', ['machine x86_64'], { cocoonVersion: '' }],
    ['an index without entries', [file(CLOUD, {})], { indexSource: 'json', entries: [] }],
    ['null entries', [cloudimg({ x: null, y: { content_sum: sha('a1') } })], { entries: [entry(sha('a1'), 'y')] }],
    ['no table', [file(CLOUD, { images: null })], { entries: [] }],
    ['an index over many lines', [file(CLOUD, '{\n "images":\n\n {}\n}\n')], { entries: [] }],
    [
      'an OCI entry',
      [
        file(OCI, {
          images: {
            'ghcr.io/a/b:1': {
              manifest_digest: sha('c3'),
              layers: [{ digest: sha('d4') }, { digest: sha('e5') }],
              kernel_layer: sha('e5'),
              initrd_layer: '',
            },
          },
        }),
      ],
      {
        entries: [
          { ...entry(sha('c3'), 'ghcr.io/a/b:1', 'oci'), layers: [sha('d4'), sha('e5')], kernelLayer: sha('e5') },
        ],
      },
    ],
    [
      'a blob that is empty',
      [`blob f 0 77 1.5 ${HEX.a1}.qcow2`],
      { blobs: blobs({ a1: blob({ sizeBytes: 0, header: null, stamp: '0 77 1.5' }) }) },
    ],
    [
      'a blob that is a directory',
      [`blob d 4096 77 1.5 ${HEX.a1}.qcow2`],
      { blobs: blobs({ a1: blob({ regular: false, sizeBytes: 4096, header: null, stamp: '4096 77 1.5' }) }) },
    ],
    [
      'a file that is no blob',
      ['blob f 5 77 1.5 disk.qcow2', head('cloudimg/blobs/disk.qcow2', '51'), `blob f 5 77 1.5 ${HEX.a1}.qcow2.bad`],
      { blobs: {} },
    ],
    ['the header of a blob that is not there', [head(`cloudimg/blobs/${HEX.a1}.qcow2`, QCOW2)], { blobs: {} }],
    [
      'characters that end a line elsewhere, or turn it round',
      ['path file /a\u2028ours b\u202e', 'path none /z\u200b'].map(bytesOf),
      { files: { '/a\u2028ours b\u202e': 'file', '/z\u200b': 'none' }, leftovers: [] },
    ],
    ['paths', ['path none /x y', 'path file /z'], { files: { '/x y': 'none', '/z': 'file' } }],
  ])('%s', (_name, said, expected) => {
    expect(parse(answer(...said, FREE))).toMatchObject(expected);
  });

  test('what dead runs of ours left is told from what is merely named like it', () => {
    const canary = 'reconcile-canary-20260101T000000Z-abcdef';
    const names = [
      canary,
      'my-reconcile-canary-1',
      'reconcile-canar',
      'reconcile-canary-',
      'reconcile-canary-a b',
      'x',
    ];
    const vms = (all: string[]): object => ({
      vms: Object.fromEntries(all.map((name, i) => [`V${i}`, { config: { name } }])),
    });
    const paths = [`cloudimg/blobs/${HEX.a1}.qcow2.bad-reconcile`, 'cloudimg/temp/reconcile-import.aB3dEf7h'];
    const strange = [
      'cloudimg/blobs/golden.qcow2.bad-reconcile',
      `cloudimg/blobs/../${HEX.a1}.qcow2.bad-reconcile`,
      'cloudimg/temp/reconcile-import.aB3d/f7h',
      'cloudimg/temp/reconcile-import.aB3dEf7h/x',
    ];
    const said = [...paths, ...strange].map((path) => `ours ${path}`);
    const files = [
      file('cloudhypervisor/db/vms.json', vms(names)),
      file('firecracker/db/vms.json', vms(['reconcile-canary-x'])),
    ];
    const { leftovers, vms: others } = parse(answer(...files, ...said, FREE));
    expect(leftovers).toEqual([
      { kind: 'canary-vm', name: canary },
      { kind: 'canary-vm', name: 'reconcile-canary-x' },
      { kind: 'blob-aside', name: paths[0] },
      { kind: 'import', name: paths[1] },
    ]);
    expect(others.map(({ name }) => name)).toEqual(names.slice(1));
  });

  test('noise of shell start-up files before the first mark is left out', () => {
    const noise = `Welcome!\nfree 1\ncocoon-probe 1 ${'0'.repeat(16)}\nblob f 5 77 1.5 ${HEX.e2}.qcow2\n`;
    expect(parse(noise + GOOD)).toEqual(parse(GOOD));
  });

  test('a text of a file cannot pass for a line of the answer', () => {
    const text = `{"images": {}}\nfree 1\ndenied /\ncocoon-probe end ${NONCE}\n`;
    expect(errorOf(answer(file(CLOUD, text), FREE)).info.code).toBe('NODE_INDEX_CORRUPT');
    const sidecar = file(`${DATA}/./cocoon.json`, `{}\ndenied /\ncocoon-probe end ${NONCE}\n`);
    const [first] = parse(answer(snapshots(record), `snapshot ${DATA}/.`, sidecar, FREE)).snapshots;
    expect(first?.unusable).toMatch(/^its configuration cannot be used: cocoon.json is no JSON/);
  });
});

describe('a store in SQLite', () => {
  const list = [
    { id: sha('e2'), name: WIN11, type: 'cloudimg', size: 5, created_at: '2026-04-27T19:44:01Z' },
    { id: sha('c3'), name: 'ghcr.io/a/b:1', type: 'oci', size: 5, created_at: '2026-04-27T19:44:01Z' },
  ];
  const sqlite = (images: unknown, hot: unknown, code = 0, vms: unknown = 'No VMs found.\n'): Said[] => [
    'store sqlite',
    `listed image ${code}`,
    file('image-list', images),
    file('image-errors', code === 0 ? '' : 'Error: list oci: boom\n'),
    'listed snapshot 0',
    file('snapshot-list', hot),
    file('snapshot-errors', ''),
    'listed vm 0',
    file('vm-list', vms),
    file('vm-errors', ''),
  ];

  test('is what cocoon lists', () => {
    const { data_dir: _dir, ...hot } = record;
    const observed = parse(answer(...sqlite(list, [hot]), ...directory, FREE));
    expect(observed).toMatchObject({
      indexSource: 'sqlite',
      entries: [entry(sha('e2')), entry(sha('c3'), 'ghcr.io/a/b:1', 'oci')],
      notes: [],
      snapshots: [{ id: ID, dataDir: DATA, baseDigest: sha('e2'), recorded: true, files: { 'state.json': 9 } }],
    });
  });

  test('its VMs, without the blobs that it does not tell', () => {
    const vms = [{ state: 'running', config: { name: 'demo-0', image_digest: sha('e2') } }];
    expect(parse(answer(...sqlite(list, [], 0, vms), FREE)).vms).toEqual([
      { name: 'demo-0', state: 'running', blobIds: [], imageDigest: sha('e2') },
    ]);
  });

  test('a data directory that no record names may be one that is being taken', () => {
    expect(parse(answer(...sqlite(list, []), ...directory, FREE)).unlistedBackings).toEqual([blobPath('e2')]);
    expect(parse(answer(...sqlite(list, [record]), ...directory, FREE)).unlistedBackings).toEqual([]);
    expect(parse(answer(...sqlite(list, []), `snapshot ${DATA}/.`, FREE)).unlistedBackings).toEqual([]);
    expect(parse(answer(...directory, FREE)).unlistedBackings).toEqual([]);
  });

  test('may be empty, and says so in words', () => {
    const observed = parse(answer(...sqlite('No images found.\n', 'No snapshots found.\n'), FREE));
    expect(observed).toMatchObject({ indexSource: 'sqlite', entries: [], snapshots: [] });
  });

  test('wins over a JSON index beside it, which is named, and doubted where both differ', () => {
    expect(parse(answer(stale, ...sqlite(list, []), FREE))).toMatchObject({
      entries: [{ digest: sha('e2') }, {}],
      conflicts: [WIN11],
      notes: ['a JSON index lies beside meta.db, which is the one that counts'],
    });
    const same = cloudimg({ [WIN11]: { content_sum: sha('e2') } });
    expect(parse(answer(same, ...sqlite(list, []), FREE))).toMatchObject({ conflicts: [] });
  });

  test.each<[string, Said[], RegExp]>([
    ['cocoon fails', sqlite(list, [], 1), /cocoon image list failed: Error: list oci: boom/],
    ['cocoon is ended', sqlite('', [], 124), /failed/],
    ['it prints no JSON', sqlite('oops', []), /is no JSON/],
    ['a type that is not known', sqlite([{ ...list[0], type: 'iso' }], []), /type is unknown/],
    ['no list', sqlite({}, []), /is no list/],
    ['VMs that are no list', sqlite(list, [], 0, {}), /cocoon vm list is no list/],
    ['it says nothing of images', ['store sqlite'], /cocoon image list failed/],
  ])('%s', (_name, said, what) => {
    const { info } = errorOf(answer(...said, FREE));
    expect(info.code).toBe('NODE_INDEX_CORRUPT');
    expect(info.message).toMatch(what);
  });
});

describe('snapshots', () => {
  const first = (...said: Said[]): Observed['snapshots'][number] | undefined =>
    parse(answer(...said, FREE)).snapshots[0];

  test.each<[string, Said[], object]>([
    ['a record of an older cocoon', [snapshots({ ...record, image_digest: undefined })], { baseDigest: null }],
    ['an empty digest', [snapshots({ ...record, image_digest: '' })], { baseDigest: null }],
    ['no data directory', [snapshots(record)], { dataDir: DATA, files: null, backing: null }],
    ['none recorded', [snapshots({ ...record, data_dir: '' })], { dataDir: null, files: null }],
    ['pending', [snapshots({ ...record, pending: true })], { pending: true }],
    ['pending, but not quite', [snapshots({ ...record, pending: 'yes' })], { pending: false }],
    ['without a name', [snapshots({ ...record, name: '' })], { name: '' }],
    [
      'a data directory named like a property of every object',
      [snapshots({ ...record, data_dir: '__proto__' }), 'snapshot __proto__/.', 'has 1 __proto__/./__proto__'],
      { files: null, unusable: null },
    ],
    ['the same without one', [snapshots({ ...record, data_dir: 'constructor' })], { files: null, unusable: null }],
    [
      'a kernel of its own',
      [
        snapshots(record),
        `snapshot ${DATA}/.`,
        file(`${DATA}/./config.json`, { payload: { kernel: '/boot/k', initramfs: '/i' } }),
      ],
      { bootFiles: ['/boot/k', '/i'], layerFiles: [] },
    ],
    [
      'layers and kernel of an OCI base',
      [
        snapshots({ ...record, image_type: 'oci' }),
        `snapshot ${DATA}/.`,
        file(`${DATA}/./config.json`, { payload: { kernel: `${ROOT}/oci/boot/x/vmlinuz` } }),
        file(`${DATA}/./cocoon.json`, {
          storage_configs: [
            { path: `${ROOT}/oci/blobs/d.erofs`, ro: true, role: 'layer' },
            { path: '/run/cow.raw', role: 'cow' },
          ],
        }),
      ],
      { baseType: 'oci', bootFiles: [], layerFiles: [`${ROOT}/oci/blobs/d.erofs`, `${ROOT}/oci/boot/x/vmlinuz`] },
    ],
    [
      'a configuration of the wrong shape',
      [snapshots(record), `snapshot ${DATA}/.`, file(`${DATA}/./config.json`, { payload: [] })],
      { unusable: 'its configuration cannot be used: payload is no object' },
    ],
    [
      'a configuration cut short',
      [snapshots(record), `snapshot ${DATA}/.`, file(`${DATA}/./config.json`, '{"payload": ')],
      { unusable: expect.stringMatching(/^its configuration cannot be used: config.json is no JSON/) as string },
    ],
    [
      'a backing path that is no text',
      [
        snapshots(record),
        `snapshot ${DATA}/.`,
        head(OVERLAY, Buffer.concat([qcow2('xxxx').subarray(0, 512), Buffer.from('fffe0a41', 'hex')])),
      ],
      { backing: '\ufffd\ufffd\ufffdA' },
    ],
  ])('%s', (_name, said, expected) => {
    expect(first(...said)).toMatchObject(expected);
  });

  test('a name without a record', () => {
    const names = file(SNAPSHOTS, { snapshots: {}, names: { ghost: 'GONE' } });
    expect(first(names)).toMatchObject({ id: 'GONE', name: 'ghost', recorded: false, base: null, files: null });
  });
});

describe('virtual machines', () => {
  const vms = (...all: object[]): Said =>
    file('cloudhypervisor/db/vms.json', { vms: Object.fromEntries(all.map((one, i) => [`VM${i}`, one])), names: {} });
  const demo = {
    state: 'running',
    config: { name: 'demo-0', image_digest: sha('e2') },
    image_blob_ids: { [HEX.e2]: {} },
  };

  test('of both hypervisors, pending ones too', () => {
    const said = [
      vms(demo, { state: 'creating' }),
      file('firecracker/db/vms.json', { vms: { X: { ...demo, state: 'stopped' } } }),
    ];
    expect(parse(answer(...said, FREE)).vms).toEqual([
      { name: 'demo-0', state: 'running', blobIds: [HEX.e2], imageDigest: sha('e2') },
      { name: '', state: 'creating', blobIds: [], imageDigest: null },
      { name: 'demo-0', state: 'stopped', blobIds: [HEX.e2], imageDigest: sha('e2') },
    ]);
  });

  test('none, and none known', () => {
    expect(parse(answer(FREE)).vms).toEqual([]);
    expect(parse(answer(vms(), FREE)).vms).toEqual([]);
  });

  test.each<[string, object]>([
    ['a record that is none', { vms: { X: 5 } }],
    ['a config that is none', { vms: { X: { config: [] } } }],
    ['blobs that are a list', { vms: { X: { image_blob_ids: [] } } }],
    ['a name that is no text', { vms: { X: { config: { name: 5 } } } }],
  ])('%s', (_name, content) => {
    expect(errorOf(answer(file('cloudhypervisor/db/vms.json', content), FREE)).info.code).toBe('NODE_INDEX_CORRUPT');
  });
});

describe('trouble has a code of its own', () => {
  test.each<[string, string, string, RegExp]>([
    ['no cocoon', answer(...MACHINE, 'missing cocoon'), 'NODE_COCOON_MISSING', /there is no cocoon \(cocoon\)/],
    ['a closed directory', answer(...MACHINE, `denied ${ROOT}`, FREE), 'NODE_PERMISSION_DENIED', /\/var\/lib\/cocoon/],
    ['a conversion', answer(...MACHINE, 'store converting', FREE), 'NODE_BUSY', /conversion/],
    [
      'no store',
      answer(...MACHINE, 'store missing', FREE),
      'NODE_STORE_MISSING',
      /no store of cocoon under \/var\/lib/,
    ],
    [
      'a store that does not hold still',
      answer('store sqlite', 'scratch /tmp', 'unsettled', FREE),
      'NODE_BUSY',
      /written to as often as it was copied/,
    ],
    [
      'a store that cannot be read',
      answer('store sqlite', 'scratch /tmp', "unmade cp: error reading '/x/meta.db': Input/output error", FREE),
      'NODE_INDEX_CORRUPT',
      /error reading '\/x\/meta\.db'/,
    ],
    ['an index cut short', answer(file(CLOUD, '{"images": {'), FREE), 'NODE_INDEX_CORRUPT', /no JSON/],
    ['an empty index', answer(file(CLOUD, ''), FREE), 'NODE_INDEX_CORRUPT', /no JSON/],
    ['an index that is a list', answer(file(CLOUD, '[]'), FREE), 'NODE_INDEX_CORRUPT', /no object/],
    [
      'an entry without a digest',
      answer(cloudimg({ x: {} }), FREE),
      'NODE_INDEX_CORRUPT',
      /"x".content_sum is no sha256/,
    ],
    [
      'a digest in capitals',
      answer(cloudimg({ x: { content_sum: sha('AB') } }), FREE),
      'NODE_INDEX_CORRUPT',
      /is no sha256 digest/,
    ],
    ['a hostile key', answer(cloudimg({ '\u001b[2J': {} }), FREE), 'NODE_INDEX_CORRUPT', /control characters/],
    ['a key without end', answer(cloudimg({ ['x'.repeat(3000)]: {} }), FREE), 'NODE_INDEX_CORRUPT', /too long/],
    [
      'too many entries',
      answer(cloudimg(Object.fromEntries(Array.from({ length: 2_001 }, (_, i) => [`k${i}`, {}]))), FREE),
      'NODE_INDEX_CORRUPT',
      /more than 2000 entries/,
    ],
    ['a snapshot without an object', answer(file(SNAPSHOTS, { snapshots: { x: 1 } }), FREE), 'NODE_INDEX_CORRUPT', /./],
    ['no free space told', answer(...MACHINE), 'NODE_ANSWER_INVALID', /free space/],
    [
      'nothing between the marks',
      `cocoon-probe 1 ${NONCE}\ncocoon-probe end ${NONCE}\n`,
      'NODE_ANSWER_INVALID',
      /free/,
    ],
    ['free space that is no number', answer('free lots'), 'NODE_ANSWER_INVALID', /line 1: free lots/],
    ['more free space than there is', answer('free 99999999999999999999'), 'NODE_ANSWER_INVALID', /line 1/],
    ['negative free space', answer('free -1'), 'NODE_ANSWER_INVALID', /line 1/],
    ['a line of an unknown kind', answer(FREE, 'rm -rf /'), 'NODE_ANSWER_INVALID', /line 2: rm -rf/],
    ['a path of no name', answer('path file ', FREE), 'NODE_ANSWER_INVALID', /line 1/],
    ['a state of an unknown kind', answer('path maybe /x', FREE), 'NODE_ANSWER_INVALID', /line 1/],
    ['a file of no snapshot', answer(`has 5 ${DATA}/./x`, FREE), 'NODE_ANSWER_INVALID', /line 1/],
    [
      'a file that begins in another one',
      answer(...directory, FREE, head(OVERLAY, QCOW2)),
      'NODE_ANSWER_INVALID',
      /overlay.qcow2 seems to begin twice/,
    ],
    ['a snapshot that is no directory', answer('snapshot /x', FREE), 'NODE_ANSWER_INVALID', /line 1/],
    [
      'a file without a name',
      `cocoon-probe 1 ${NONCE}\nfile\ncocoon-probe end ${NONCE}\n`,
      'NODE_ANSWER_INVALID',
      /line 1/,
    ],
    ['an index of a size that is told', answer(`index 4000001 ${CLOUD}`, FREE), 'NODE_ANSWER_INVALID', /4.00 MB/],
    ['an index without text', answer(`index 5 ${CLOUD}`, FREE), 'NODE_INDEX_CORRUPT', /no JSON/],
    ['a version in colour', answer('version \u001b[31mred', FREE), 'NODE_ANSWER_INVALID', /line 1/],
    ['an index that is too large', answer(file(CLOUD, 'x'.repeat(4_000_001)), FREE), 'NODE_ANSWER_INVALID', /4.00 MB/],
  ])('%s', (_name, text, code, message) => {
    const { info } = errorOf(text);
    expect(info.code).toBe(code);
    expect(info.message).toMatch(/^node-1: /);
    expect(info.message).toMatch(message);
  });

  test.each([
    ['nothing at all', ''],
    ['no end', GOOD.slice(0, -1)],
    ['no end mark', GOOD.slice(0, GOOD.lastIndexOf('cocoon-probe'))],
    ['no beginning', GOOD.slice(5)],
    ['the mark of another run', GOOD.replaceAll(NONCE, '0123456789abcdef')],
  ])('torn: %s', (_name, text) => {
    const { info } = errorOf(text, 'sh: 1: Syntax error\n');
    expect(info).toMatchObject({ code: 'NODE_ANSWER_INVALID' });
    expect(info.message).toMatch(/the answer is torn: its end mark is missing; it said: (.*; )?sh: 1: Syntax error$/);
  });
});

test('what a login prints after the answer is not part of it', () => {
  expect(parse(`${GOOD}logout\ncocoon-probe 1 ${NONCE}\nfree 1\n`)).toEqual(parse(GOOD));
});

// --------------------------------------------------------------------------------------------------------- bounds

describe('an answer', () => {
  const hex = (n: number): string => n.toString(16).padStart(64, '0');
  const many = <T>(count: number, make: (n: number) => T): T[] => Array.from({ length: count }, (_, n) => make(n));
  const lines = (count: number, line: (n: number) => string): string => answer(FREE, many(count, line).join('\n'));

  test.each([1, 7, 1000])('in pieces of %d bytes is the same', (pieceBytes) => {
    const whole = answer(
      ...directory,
      stale,
      snapshots(record),
      `blob f 5 77 1.5 ${HEX.a1}.qcow2`,
      FREE,
      head(`cloudimg/blobs/${HEX.a1}.qcow2`, QCOW2),
    );
    expect(understood(whole, node(), { pieceBytes })).toEqual(understood(whole, node()));
  });

  test('of a node with a thousand images of each kind, a thousand snapshots and a thousand VMs is understood', () => {
    const id = (n: number): string => `S${n}`.padEnd(26, 'A');
    const place = (n: number): string => `snapshot/localfile/${id(n)}`;
    const layers = (n: number): { digest: string }[] => many(8, (i) => ({ digest: `sha256:${hex(8 * n + i)}` }));
    const overlay = qcow2(`${ROOT}/cloudimg/blobs/${hex(1)}.qcow2`);
    const members = ['state.json', 'memory-ranges', 'overlay.qcow2', 'cidata.img', 'cocoon.json', 'config.json'];
    const said = understood(
      answer(
        ...MACHINE,
        cloudimg(Object.fromEntries(many(1000, (n) => [`${WIN11}/${n}`, { content_sum: `sha256:${hex(n)}` }]))),
        file(OCI, {
          images: Object.fromEntries(
            many(1000, (n) => [`ghcr.io/a/b:${n}`, { manifest_digest: sha('c3'), layers: layers(n) }]),
          ),
        }),
        snapshots(...many(1000, (n) => ({ ...record, id: id(n), name: `hot:${n}`, data_dir: `${ROOT}/${place(n)}` }))),
        file('cloudhypervisor/db/vms.json', {
          vms: Object.fromEntries(
            many(1000, (n) => [n, { state: 'running', config: { name: `vm-${n}` }, notes: 'x'.repeat(1500) }]),
          ),
        }),
        ...many(1000, (n) => `blob f 512 77 1.5 ${hex(n)}.qcow2`),
        ...many(8000, (n) => `path file oci/blobs/${hex(n)}.erofs`),
        ...many(2000, (n) => `path file oci/boot/${hex(n)}/vmlinuz`),
        ...many(1000, (n): Said[] => [
          `snapshot ${place(n)}/.`,
          ...members.map((member) => `has 512 ${place(n)}/./${member}`),
          file(`${place(n)}/./cocoon.json`, { ...SIDECAR, notes: 'x'.repeat(2000) }),
          file(`${place(n)}/./config.json`, { ...CONFIG, notes: 'x'.repeat(4000) }),
        ]).flat(),
        `path file ${ROOT}/firmware/CLOUDHV.fd`,
        FREE,
        ...many(1000, (n) => head(`cloudimg/blobs/${hex(n)}.qcow2`, qcow2())),
        ...many(1000, (n) => head(`${place(n)}/./overlay.qcow2`, overlay)),
      ),
      node(),
      { pieceBytes: 32_768 },
    );
    expect(said.wider).toBeNull();
    expect(said.observed.entries).toHaveLength(2000);
    expect(said.observed.vms).toHaveLength(1000);
    expect(said.observed.snapshots.filter(({ backing }) => backing !== null)).toHaveLength(1000);
  });

  test.each([
    ['of output before it', 'x'.repeat(64_001), 'more than 64000 bytes of output came before it'],
    ['of lines of one kind', lines(2001, (n) => `denied /${n}`), 'more than 2000 lines of the kind denied'],
    ['of files', lines(12_001, (n) => `path file /${n}`), 'more than 12000 lines of the kind path'],
    ['of texts', lines(6001, (n) => `file\n${n}`), 'more than 6000 lines of the kind file'],
    ['of empty lines', lines(200_001, () => ''), 'more than 200000 lines'],
    ['of lines of a file', answer(file(CLOUD, '\n'.repeat(200_001))), 'more than 200000 lines'],
    ['of one line', `cocoon-probe 1 ${NONCE}\n${'x'.repeat(4_050_000)}`, 'a line of it is longer than 4.00 MB'],
    [
      'of the beginnings of files',
      answer(`blob f 5 77 1.5 ${HEX.a1}.qcow2`, FREE, head(HEX.a1, Buffer.alloc(1_100_000))),
      'the beginnings of its files are more than 1.05 MB',
    ],
  ])('with too much %s is given up before its end', (_what, text, why) => {
    const reader = createAnswerReader(NONCE, node(), FIRST_SCOPE.headBytes);
    const bytes = Buffer.from(text, 'latin1');
    const pieces = many(Math.ceil(bytes.length / 32_768), (n) => bytes.subarray(n * 32_768, (n + 1) * 32_768));
    expect(() => pieces.forEach((piece) => reader.push(piece))).toThrow(why);
  });

  test('with an index of too many values is no index', () => {
    const { info } = errorOf(answer(file(CLOUD, `{"images": [${'[],'.repeat(250_001)}0]}`), FREE));
    expect(info.code).toBe('NODE_INDEX_CORRUPT');
    expect(info.message).toContain('images.json has more than 250000 values');
  });
});

// ------------------------------------------------------------------------------------------------------ mutations

const LINES = [
  'free 5',
  'store sqlite',
  'store converting',
  'file',
  SNAPSHOTS,
  'snapshot /x/.',
  'denied /',
  'missing x',
  'has',
];

test.each([
  ['a blob', [`blob f 5 77 1.5 ${HEX.a1}.qcow2`], `cloudimg/blobs/${HEX.a1}.qcow2`, '5146'],
  ['an overlay', directory.slice(0, -1), OVERLAY, '514649fb0000'],
])('%s that cannot be read begins with less than it has: it is asked for again', (_what, said, name, hex) => {
  const wider = (bytes: string): unknown => understood(answer(...said, FREE, head(name, bytes)), node()).wider;
  expect(wider('')).toEqual(FIRST_SCOPE);
  expect(wider(hex)).toEqual(FIRST_SCOPE);
  expect(wider(QCOW2)).toBeNull();
});

describe('mutations', () => {
  const begin = GOOD.indexOf('\n') + 1;
  const end = GOOD.lastIndexOf('cocoon-probe end');
  const inAnswer = (next: () => number): string =>
    GOOD.slice(0, begin) + mutate(GOOD.slice(begin, end), next, LINES) + GOOD.slice(end);
  const index = JSON.stringify({ images: { [WIN11]: { ref: WIN11, content_sum: sha('a1'), size: 5 } } });
  const inIndex = (next: () => number): string =>
    answer(...MACHINE, file(CLOUD, mutate(index, next, LINES)), `blob f 5 77 1.5 ${HEX.e2}.qcow2`, FREE);
  const anywhere = (next: () => number): string => mutate(GOOD, next, LINES);

  test.each([
    ['of the answer', inAnswer],
    ['of images.json', inIndex],
    ['of the marks too', anywhere],
  ])('%s are an error of the node or valid facts, and never bring a stale node in sync', (_name, mutated) => {
    let understood = 0;
    for (let seed = 1; seed <= 1000; seed += 1) {
      const text = mutated(random(seed));
      let observed: Observed;
      try {
        observed = parse(text);
      } catch (error) {
        if (!(error instanceof ReconcileError) || !error.info.code.startsWith('NODE_')) {
          throw new Error(`seed ${seed}: ${JSON.stringify(text)}`, { cause: error });
        }
        continue;
      }
      understood += 1;
      expect(JSON.parse(JSON.stringify(observed))).toEqual(observed);
      expect(observed.entries.filter(({ digest }) => !isDigest(digest))).toEqual([]);
      expect(Object.keys(observed.blobs).filter((hex) => !/^[0-9a-f]{64}$/.test(hex))).toEqual([]);
      const rows = judgeImages(served(), observation(observed));
      expect(
        rows.filter((row) => row.verdict === 'in-sync'),
        `seed ${seed}`,
      ).toEqual([]);
    }
    expect(understood).toBeGreaterThan(30);
  });
});

// ------------------------------------------------------------------------------------------------- the real script

const base = mkdtempSync(join(tmpdir(), 'reconcile-probe-'));
chmodSync(base, 0o755);
afterAll(() => rmSync(base, { recursive: true, force: true }));

/** All that a minimal Debian has and the script may use. */
const TOOLS = 'cp df env find head ls mkdir mktemp rm sed stat tail timeout uname'.split(' ');
const bin = join(base, 'bin');
mkdirSync(bin);
for (const tool of TOOLS) symlinkSync(`/usr/bin/${tool}`, join(bin, tool));
const cocoon = join(base, 'cocoon');
writeFileSync(cocoon, '#!/bin/sh\necho "Version:        v0.3.8"\n', { mode: 0o755 });

const script = readFileSync(new URL('../../../src/node/probe.sh', import.meta.url), 'utf8');
const asNobody = ['/usr/bin/setpriv', '--reuid=65534', '--regid=65534', '--clear-groups'];
const canDrop = process.getuid?.() === 0 && existsSync('/usr/bin/setpriv');
const shells = [
  ['dash', '/usr/bin/dash'],
  ['bash', '/usr/bin/bash'],
].filter(([, path]) => existsSync(path as string)) as [string, string][];

/** Standard input stays open: the script ends with it. */
const OPEN = {
  heartbeatMs: 1000,
  maxStdoutBytes: 2 ** 26,
  maxStderrBytes: 4096,
  timeoutMs: 20_000,
  signal: new AbortController().signal,
};

for (const [name, shell] of shells) {
  mkdirSync(join(base, 'as', name), { recursive: true });
  symlinkSync(shell, join(base, 'as', name, 'sh'));
}

test('the script means the same between the single quotes of fish, which knows two escapes there', () => {
  expect(script).not.toMatch(/\\[\\']/);
});

describe.each(shells)('the script in %s', (name, shell) => {
  let root: string;
  beforeEach(() => {
    root = mkdtempSync(join(base, 'root '));
    chmodSync(root, 0o755);
    put('cloudimg/db/images.json', JSON.stringify({ images: { [WIN11]: { content_sum: sha('a1') } } }));
    mkdirSync(join(root, 'cloudimg/blobs'), { recursive: true });
  });

  const put = (path: string, content: string | Buffer, mode = 0o644): string => {
    const full = join(root, path);
    mkdirSync(dirname(full), { recursive: true });
    writeFileSync(full, content, { mode });
    return full;
  };
  const run = async (words: string[] = [], binary = cocoon): Promise<string> => {
    const probe = [shell, '-c', script, 'sh', NONCE, binary, root, `${FIRST_SCOPE.headBytes}`];
    const argv = ['exec', '/usr/bin/timeout', '-s', 'USR1', '-k', '20', '10', 'env', ...words, ...probe];
    const own = localConnection('/bin/sh', { PATH: bin, TMPDIR: base });
    const { stdout } = await own.exec(argv.map(shellQuote).join(' '), OPEN);
    return stdout.toString('latin1');
  };
  const here = (binary = cocoon): Node => node('node-1', { cocoon: { ...node().cocoon, rootDir: root, binary } });
  let commands = 0;
  /** Runs commands here, as the user's login shell would there. */
  const connection: Connection = {
    async exec(command, options) {
      commands += 1;
      const env = { PATH: `${join(base, 'as', name)}:${bin}`, TMPDIR: base };
      const result = await localConnection('/bin/sh', env).exec(command, options);
      expect(result.stderr).toBe('');
      return result;
    },
    close: () => undefined,
  };
  const observe = (): Promise<Observed> => readNode(connection, here(), 20_000, OPEN.signal);

  /** A blob whose size, inode and mtime the probe tells. */
  const stamped = (over: Partial<BlobFact>): BlobFact =>
    blob({ ...over, stamp: expect.stringMatching(/^\d+ \d+ \d+\.\d+$/) as string });

  const hot = (over: object = {}, overlay = qcow2(join(root, `cloudimg/blobs/${HEX.e2}.qcow2`))): string => {
    const dir = join(root, 'snapshot/localfile', ID);
    const files = { 'state.json': '{}', 'memory-ranges': 'm', 'cocoon.json': JSON.stringify(SIDECAR) };
    for (const [name, content] of Object.entries(files)) put(`snapshot/localfile/${ID}/${name}`, content);
    const payload = { firmware: join(root, 'firmware/CLOUDHV.fd') };
    put(`snapshot/localfile/${ID}/config.json`, JSON.stringify({ ...CONFIG, payload }, null, 2));
    put(`snapshot/localfile/${ID}/overlay.qcow2`, overlay);
    put('firmware/CLOUDHV.fd', 'fw');
    const known = { snapshots: { [ID]: { ...record, data_dir: dir, ...over } }, names: {} };
    put('snapshot/db/snapshots.json', JSON.stringify(known));
    return dir;
  };

  test('reads a store, and changes nothing of it', async () => {
    put(`cloudimg/blobs/${HEX.a1}.qcow2`, qcow2());
    const dir = hot();
    const before = await treeOf(root);
    const soFar = commands;
    const observed = await observe();
    expect(await treeOf(root)).toEqual(before);
    expect(observed).toMatchObject({
      cocoonVersion: 'v0.3.8',
      indexSource: 'json',
      entries: [entry(sha('a1'))],
      blobs: { [HEX.a1]: { regular: true, sizeBytes: 512, header: QCOW2 } },
      snapshots: [
        {
          dataDir: dir,
          files: { 'state.json': 2, 'overlay.qcow2': 512 + blobPath('e2', root).length },
          backing: blobPath('e2', root),
          bootFiles: [join(root, 'firmware/CLOUDHV.fd')],
          unusable: null,
        },
      ],
      files: { [join(root, 'firmware/CLOUDHV.fd')]: 'file' },
    });
    expect(commands - soFar).toBe(1);
    expect(observed.freeBytes).toBeGreaterThan(0);
  });

  test.each(['cloudimg/db/images.lock', 'oci/db/images.lock', 'cloudhypervisor/db/vms.lock', 'firmware/CLOUDHV.fd'])(
    'an empty store, of which there is only %s',
    async (path) => {
      rmSync(join(root, 'cloudimg'), { recursive: true });
      put(path, '');
      expect(await observe()).toMatchObject({ indexSource: 'none', entries: [], blobs: {}, snapshots: [] });
    },
  );

  test('no store: the root is not there, or holds none; nothing is made', async () => {
    const hintOf = async (as: string[] = []): Promise<string | null> => {
      const { info } = errorOf(await run(as), '', here());
      expect(info).toMatchObject({ code: 'NODE_STORE_MISSING', message: expect.stringContaining(root) as string });
      return info.hint;
    };
    rmSync(join(root, 'cloudimg'), { recursive: true });
    put('firmware/other.bin', '');
    put('cloudhypervisor/VMID/api.sock', ''); // as in a run directory
    expect(await hintOf()).toContain(
      'set cocoon.rootDir, or rootDir of this node, to the directory that cocoon uses there',
    );
    rmSync(root, { recursive: true });
    expect(await hintOf(['COCOON_ROOT_DIR=/data/cocoon'])).toBe(
      'COCOON_ROOT_DIR of the login is /data/cocoon: set cocoon.rootDir, or rootDir of this node, to that',
    );
    expect(existsSync(root)).toBe(false);
  });

  test('a find that knows no -printf: an error, and never an empty store', async () => {
    const odd = mkdtempSync(join(base, 'odd-'));
    writeFileSync(join(odd, 'find'), '#!/bin/sh\nexit 1\n', { mode: 0o755 });
    const { info } = errorOf(await run([`PATH=${odd}:${bin}`]), '', here());
    expect(info).toMatchObject({
      code: 'NODE_ANSWER_INVALID',
      message: expect.stringContaining('findutils') as string,
    });
  });

  test('a head that shows nothing: an error, and never a blob that is corrupt', async () => {
    put(`cloudimg/blobs/${HEX.a1}.qcow2`, qcow2());
    const odd = join(base, 'as', name, 'head');
    writeFileSync(odd, '#!/bin/sh\nexit 1\n', { mode: 0o755 });
    const error = await observe().catch((reason: unknown) => reason);
    rmSync(odd);
    expect(error).toMatchObject({ info: { code: 'NODE_ANSWER_INVALID', message: expect.stringContaining('`head`') } });
  });

  test('a blob that goes away while it is read: all is read once more', async () => {
    put(`cloudimg/blobs/${HEX.a1}.qcow2`, qcow2());
    const path = put(`cloudimg/blobs/${HEX.e2}.qcow2`, qcow2());
    const odd = join(base, 'as', name, 'head');
    writeFileSync(odd, `#!/bin/sh\nrm -f '${path}'\nexec /usr/bin/head "$@"\n`, { mode: 0o755 });
    const observed = await observe();
    rmSync(odd);
    expect(Object.keys(observed.blobs)).toEqual([HEX.a1]);
  });

  test('no cocoon', async () => {
    expect(errorOf(await run([], '/no/such/cocoon')).info.code).toBe('NODE_COCOON_MISSING');
  });

  test('a conversion in flight', async () => {
    put('meta/meta-convert.manifest', '');
    expect(errorOf(await run()).info.code).toBe('NODE_BUSY');
  });

  test('what lies among the blobs', async () => {
    const elsewhere = put('elsewhere', qcow2());
    symlinkSync(elsewhere, join(root, `cloudimg/blobs/${HEX.e2}.qcow2`));
    symlinkSync('/no/such', join(root, `cloudimg/blobs/${HEX.d4}.qcow2`));
    mkdirSync(join(root, `cloudimg/blobs/${HEX.e5}.qcow2`));
    put(`cloudimg/blobs/${HEX.a1}.qcow2`, '');
    for (const odd of [
      '.qcow2',
      '-n.qcow2',
      'a b.qcow2',
      '*.qcow2',
      `x\nblob f 5 ${HEX.a1}.qcow2`,
      `${HEX.a1}.qcow2.bad`,
    ]) {
      put(`cloudimg/blobs/${odd}`, qcow2());
    }
    expect((await observe()).blobs).toEqual({
      [HEX.e2]: stamped({ sizeBytes: 512 }),
      [HEX.d4]: stamped({ regular: false, sizeBytes: 8, header: null }),
      [HEX.e5]: stamped({ regular: false, sizeBytes: expect.any(Number) as number, header: null }),
      [HEX.a1]: stamped({ sizeBytes: 0, header: null }),
    });
  });

  test('a blob shorter than a header', async () => {
    put(`cloudimg/blobs/${HEX.a1}.qcow2`, 'QFI');
    expect((await observe()).blobs[HEX.a1]).toEqual(stamped({ sizeBytes: 3, header: '514649' }));
  });

  test('the stamp of a blob changes with its bytes, and the hashing script tells the same', async () => {
    const path = put(`cloudimg/blobs/${HEX.a1}.qcow2`, qcow2());
    const stampOf = async (): Promise<string> => (await observe()).blobs[HEX.a1]?.stamp ?? '';
    const before = await stampOf();
    expect(await stampOf()).toBe(before);
    const hashing = readFileSync(new URL('../../../src/node/hash.sh', import.meta.url), 'utf8');
    const { stdout } = spawnSync(shell, ['-c', hashing, 'hash-work', root, '20', HEX.a1], { encoding: 'utf8' });
    expect(stdout).toMatch(new RegExp(`^whole ${HEX.a1} [0-9a-f]{64} ${before.replaceAll('.', '\\.')}$`, 'm'));
    writeFileSync(path, qcow2('/x'));
    expect(await stampOf()).not.toBe(before);
  });

  test('OCI files of any name', async () => {
    put(`oci/blobs/${HEX.d4}.erofs`, 'x');
    put(`oci/blobs/${HEX.a1}.erofs`, '');
    put(`oci/blobs/odd\npath file /etc/shadow.erofs`, 'x');
    put(`oci/boot/${HEX.e5}/vmlinuz`, 'x');
    put('oci/boot/odd\nfree 0/vmlinuz', 'x');
    expect((await observe()).files).toEqual({
      [join(root, `oci/blobs/${HEX.d4}.erofs`)]: 'file',
      [join(root, `oci/boot/${HEX.e5}/vmlinuz`)]: 'file',
    });
  });

  test('a snapshot with files of odd names', async () => {
    hot();
    for (const odd of ['a b', '-rf', '*', 'x\nfree 0', "it's", '$(reboot)'])
      put(`snapshot/localfile/${ID}/${odd}`, 'x');
    put('snapshot/localfile/odd\nsnapshot /etc/state.json', 'x');
    const [first, ...more] = (await observe()).snapshots;
    expect(more).toEqual([]);
    expect(Object.keys(first?.files ?? {})).toEqual(expect.arrayContaining(['a b', '-rf', '*', "it's", '$(reboot)']));
    expect(Object.keys(first?.files ?? {}).some((name) => name.startsWith('x'))).toBe(false);
  });

  test('a snapshot whose configuration is too large to be read is unusable, and never one that needs nothing', async () => {
    hot();
    put(`snapshot/localfile/${ID}/config.json`, JSON.stringify({ filler: 'x'.repeat(300_000) }));
    expect((await observe()).snapshots[0]?.unusable).toMatch(
      /^its configuration cannot be used: config.json is no JSON/,
    );
  });

  test('a snapshot kept elsewhere, with firmware in yet another place: all is asked for again, until nothing is unknown', async () => {
    const elsewhere = mkdtempSync(join(base, "it's elsewhere "));
    const dir = join(elsewhere, root, 'snapshot/localfile', ID); // a copy, say
    const at = (file: string): string => join(elsewhere, file);
    mkdirSync(dir, { recursive: true });
    writeFileSync(join(dir, 'state.json'), '{}');
    writeFileSync(
      join(dir, 'config.json'),
      JSON.stringify({ payload: { firmware: at('fw.fd'), kernel: at('vmlinuz') } }),
    );
    writeFileSync(join(dir, 'overlay.qcow2'), qcow2(at('base.qcow2')));
    writeFileSync(at('fw.fd'), 'fw');
    writeFileSync(at('base.qcow2'), 'disk');
    hot({ data_dir: dir });
    const before = commands;
    expect(await observe()).toMatchObject({
      snapshots: [{ dataDir: dir, files: { 'state.json': 2 }, backing: at('base.qcow2') }],
      files: { [at('fw.fd')]: 'file', [at('vmlinuz')]: 'none', [at('base.qcow2')]: 'file' },
    });
    expect(commands - before).toBe(3);
  });

  test('a login shell that takes no words of several lines gets the script on standard input', async () => {
    const asCsh: Connection = {
      ...connection,
      exec: async (command, options) => {
        const unmatched = { stdout: Buffer.alloc(0), stderr: "Unmatched '.", code: 1, signal: null };
        if (!command.includes('\n')) return await connection.exec(command, options);
        expect(command.split('\n')[1]).toContain('$shell'); // csh goes on with the second line, and that ends it
        return unmatched;
      },
    };
    expect((await readNode(asCsh, here(), 0, new AbortController().signal)).entries).toEqual([entry(sha('a1'))]);
  });

  test('a path of a base that is no text, or lies where qemu never writes it, is not known', async () => {
    const odd = qcow2('/data/bxse.qcow2');
    odd.writeUInt8(0xe9, odd.indexOf('xse'));
    hot({}, odd);
    expect((await observe()).snapshots[0]?.backing).toBe('/data/b\ufffdse.qcow2');
    const far = Buffer.alloc(2 ** 21 + 20);
    far.set(qcow2('/x').subarray(0, 20));
    far.writeBigUInt64BE(2n ** 21n, 8);
    hot({}, far);
    const before = commands;
    expect((await observe()).snapshots[0]?.backing).toBe('\ufffd');
    expect(commands - before).toBe(1);
  });

  test('so many snapshots that their files are read in batches', async () => {
    for (let n = 0; n < 400; n += 1) {
      const id = `S${'x'.repeat(200)}${n}`;
      const texts = { 'cocoon.json': JSON.stringify(SIDECAR), 'config.json': JSON.stringify({ disks: CONFIG.disks }) };
      for (const [file, text] of Object.entries({ ...texts, 'state.json': '{}' }))
        put(`snapshot/localfile/${id}/${file}`, text);
      put(`snapshot/localfile/${id}/overlay.qcow2`, qcow2('/x'));
    }
    const records = readdirSync(join(root, 'snapshot/localfile')).map((id) => [
      id,
      { ...record, id, name: '', data_dir: join(root, 'snapshot/localfile', id) },
    ]);
    put('snapshot/db/snapshots.json', JSON.stringify({ snapshots: Object.fromEntries(records) as object }));
    const { snapshots } = await observe();
    expect(snapshots.length).toBe(400);
    const damaged = snapshots.filter(({ unusable, files }) => unusable !== null || files?.['state.json'] !== 2);
    expect(damaged).toEqual([]);
  });

  test('the path of a base far behind the beginning of its overlay', async () => {
    const overlay = Buffer.alloc(70_000);
    overlay.set(qcow2(blobPath('e2', root)).subarray(0, 20));
    overlay.writeBigUInt64BE(32_768n, 8);
    overlay.write(blobPath('e2', root), 32_768);
    hot({}, overlay);
    const before = commands;
    expect((await observe()).snapshots[0]?.backing).toBe(blobPath('e2', root));
    expect(commands - before).toBe(2);
  });

  test.each([
    ['relative', 'base.qcow2'],
    ['with blanks', '/mnt/my disks/base.qcow2'],
    ['with a line end', '/mnt/a\nfree 0'],
    ['hostile', '/$(reboot)/`id`/\u001b[2J'],
  ])('an overlay on a base whose path is %s', async (_kind, backing) => {
    hot({}, qcow2(backing));
    const observed = await observe();
    expect(observed.snapshots[0]?.backing).toBe(backing.replace(/\p{Cc}/gu, '\ufffd'));
    expect(Object.values(observed.files)).not.toContain(undefined);
  });

  test.each([
    ['no qcow2', Buffer.from('not a disk at all, but long enough')],
    ['short', qcow2().subarray(0, 10)],
    ['without a base', qcow2()],
    ['empty', Buffer.alloc(0)],
    [
      'with a base beyond its end',
      (() => {
        const head = qcow2('/x');
        head.writeBigUInt64BE(1n << 62n, 8);
        return head;
      })(),
    ],
    [
      'with a base of no end',
      (() => {
        const head = qcow2('/x');
        head.writeUInt32BE(0xffffffff, 16);
        return head;
      })(),
    ],
  ])('an overlay that is %s', async (_kind, overlay) => {
    hot({}, overlay);
    expect((await observe()).snapshots[0]).toMatchObject({ backing: null, unusable: null });
  });

  test('an index without its line end, with line ends, with marks', async () => {
    const text = `{\n"images": {\n"a|b": {"content_sum":\n\n"${sha('a1')}"}}}`;
    put('cloudimg/db/images.json', text);
    expect((await observe()).entries).toEqual([entry(sha('a1'), 'a|b')]);
    put('cloudimg/db/images.json', `{"images": {}}\ncocoon-probe end ${NONCE}\nfree 5\n`);
    expect(errorOf(await run()).info.code).toBe('NODE_INDEX_CORRUPT');
  });

  test('an index larger than 4 MB', async () => {
    put('cloudimg/db/images.json', Buffer.alloc(4_005_000, ' '));
    expect(errorOf(await run()).info).toMatchObject({ code: 'NODE_ANSWER_INVALID' });
  });

  test.skipIf(!canDrop).each([
    ['the root', ''],
    ['a store', 'cloudimg/db'],
    ['the blobs', 'cloudimg/blobs'],
    ['a blob', `cloudimg/blobs/${HEX.a1}.qcow2`],
    ['an index', 'cloudimg/db/images.json'],
    ['the snapshots', 'snapshot/localfile'],
    ['a snapshot', `snapshot/localfile/${ID}`],
    ['an overlay', `snapshot/localfile/${ID}/overlay.qcow2`],
    ['the firmware', 'firmware'],
  ])('%s closed to a user who is not root: denied, and never missing', async (_what, path) => {
    put(`cloudimg/blobs/${HEX.a1}.qcow2`, qcow2());
    hot();
    const closed = join(root, path);
    chownSync(closed, 0, 0);
    chmodSync(closed, 0);
    const { info } = errorOf(await run(asNobody), '', here());
    chmodSync(closed, 0o755);
    expect(info.code).toBe('NODE_PERMISSION_DENIED');
    expect(info.message).toContain(closed.replace(/\/$/, ''));
  });

  test.skipIf(!canDrop)('what is closed below the firmware concerns nobody', async () => {
    hot();
    mkdirSync(join(root, 'firmware/private'), { mode: 0 });
    expect(parse(await run(asNobody), here()).files[join(root, 'firmware/CLOUDHV.fd')]).toBe('file');
  });

  test.skipIf(!canDrop)('a store that is open to others is read without root', async () => {
    put(`cloudimg/blobs/${HEX.a1}.qcow2`, qcow2());
    expect(parse(await run(asNobody)).entries).toEqual([entry(sha('a1'))]);
  });
});
