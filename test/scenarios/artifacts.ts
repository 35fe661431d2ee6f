// What epoch serves: artifacts of every shape, broken stores, moved and missing tags, answers that are none.
import type { LoggedRequest } from '../doubles/epoch.ts';
import type { Scenario } from './scenario.ts';

const SPLIT = { parts: 2 };
const REQUIRED = { images: { track: [{ image: 'simular/win11', presence: 'required' }] } };

/** Blobs that were asked for whole. The length of a blob and its header may be asked for wherever streaming is forbidden. */
const ofBlobs = (requests: Pick<LoggedRequest, 'method' | 'path' | 'headers'>[]): string[] =>
  requests
    .filter(({ method, path, headers }) => method === 'GET' && path.includes('/blobs/') && headers.range === undefined)
    .map(({ path }) => path);

export const ON_ARTIFACTS: Scenario[] = [
  {
    id: '13',
    state: 'epoch lost a part, and the node took the short download for the image',
    contents: { A: SPLIT },
    epoch: { serves: 'A', lost: { A: 1 } },
    node: {},
    then: async (stage) => await stage.node.pull(stage.spell('/dl/simular/win11')),
    expect: {
      image: 'stale',
      dry: 2,
      run: 2,
      codes: ['REGISTRY_BLOB_MISSING'],
      said: ['epoch cannot serve blob', 'it is not there'],
    },
  },
  {
    id: '13a',
    state: 'the same, and the part is back',
    contents: { A: SPLIT },
    epoch: { serves: 'A', lost: { A: 1 } },
    node: {},
    then: async (stage) => {
      await stage.node.pull(stage.spell('/dl/simular/win11'));
      await stage.serve('A');
    },
    expect: { image: 'stale', plan: 'pull', dry: 2, run: 0 },
  },
  {
    id: '13b',
    state: 'epoch lost the only blob of what it serves',
    epoch: { serves: 'B', lost: { B: 0 } },
    node: { index: 'A' },
    expect: { image: 'stale', dry: 2, run: 2, codes: ['REGISTRY_BLOB_MISSING'] },
  },
  {
    id: '13c',
    state: 'epoch ends one download too early, and the next one not',
    epoch: { serves: 'B' },
    node: { index: 'A' },
    faults: [{ match: /^GET \/dl\//, how: 'short' }],
    expect: { image: 'stale', plan: 'pull', dry: 2, run: 0, pulls: 2, runCodes: [], runSaid: ['verify failed'] },
  },
  {
    id: '14',
    state: 'what epoch serves has rotted in its store, three nodes are behind',
    epoch: { serves: 'B', rotten: ['B'] },
    node: { index: 'A' },
    nodes: 3,
    config: { rollout: { canary: 0, maxPulls: 1, maxFailures: '100%' } },
    expect: {
      image: 'stale',
      plan: 'pull',
      dry: 2,
      run: 4,
      outcome: 'failed',
      runCodes: ['VERIFY_MISMATCH', 'NOT_STARTED'],
      runSaid: ['received the same wrong digest', 'pushing it again does not mend it'],
      pulls: 3,
    },
  },
  {
    id: '14a',
    state: 'the node holds such rotten content, and it has been mended at epoch',
    epoch: { serves: 'A' },
    node: {},
    then: async (stage) => {
      const [layer] = stage.artifact('A').layers;
      const digest = layer?.digest ?? '';
      stage.fleet.epoch.damageBlob(digest, (bytes) => Buffer.concat([bytes.subarray(0, -1), Buffer.from([7])]));
      await stage.node.pull(stage.spell('/dl/simular/win11'));
      stage.fleet.epoch.deleteBlob(digest);
      await stage.serve('A');
    },
    expect: { image: 'stale', plan: 'pull', dry: 2, run: 0 },
  },
  {
    id: '15',
    state: 'epoch lost what it serves, and the node has it',
    epoch: { serves: 'A', lost: { A: 0 } },
    node: { index: 'A', snapshots: 'A' },
    expect: { image: 'in-sync', snapshot: 'clonable', dry: 0, run: 0, codes: ['REGISTRY_BLOB_MISSING'] },
  },
  {
    id: '15a',
    state: 'epoch lost what it serves, and the node has lost it too',
    epoch: { serves: 'A', lost: { A: 0 } },
    node: { index: 'A', snapshots: 'A', damage: { A: 'gone' } },
    expect: {
      image: 'blob-missing',
      snapshot: 'base-drifted',
      dry: 2,
      run: 2,
      codes: ['REGISTRY_BLOB_MISSING'],
    },
  },
  {
    id: '16',
    state: 'a login page is in front of the downloads',
    epoch: { serves: 'B' },
    node: { index: 'A' },
    faults: [{ match: /^GET \/dl\//, how: 'html', times: Infinity }],
    expect: {
      image: 'stale',
      plan: 'pull',
      dry: 2,
      run: 4,
      runCodes: ['PULL_FAILED'],
      runSaid: ['content looks like HTML'],
      pulls: 2,
    },
  },
  {
    id: '16a',
    state: 'a login page is in front of one image, and another answers',
    epoch: { serves: { 'simular/win11:latest': 'A', 'simular/ubuntu:latest': 'B' } },
    node: { index: { '/dl/simular/win11': 'A', '/dl/simular/ubuntu': 'B' }, snapshots: 'A' },
    faults: [{ match: /^\w+ \/v2\/simular\/win11\//, how: 'html', times: Infinity }],
    expect: {
      image: { '/dl/simular/win11': 'unknown', '/dl/simular/ubuntu': 'in-sync' },
      snapshot: 'clonable',
      dry: 3,
      run: 3,
      codes: ['REGISTRY_ANSWER_INVALID'],
      said: ['look for a proxy or a login page in between'],
    },
  },
  {
    id: '16b',
    state: 'a login page is in front of everything',
    epoch: { serves: 'B' },
    node: { index: 'A' },
    faults: [{ match: /./, how: 'html', times: Infinity }],
    expect: { image: 'unknown', dry: 1, run: 1, codes: ['REGISTRY_ANSWER_INVALID'] },
  },
  {
    id: '18',
    state: 'the repository has tags, but none is latest',
    epoch: { serves: { 'simular/win11:v1': 'A', 'simular/win11:win11-25h2': 'B' } },
    node: { index: 'A', snapshots: 'A' },
    expect: {
      image: 'unknown',
      snapshot: 'clonable',
      dry: 3,
      run: 3,
      codes: ['TAG_NOT_FOUND'],
      said: ['v1, win11-25h2'],
    },
  },
  {
    id: '19',
    state: 'a newer epoch serves repository simular, tag win11, under the URL of simular/win11',
    epoch: { generation: 'may', serves: { 'simular:win11': 'A', 'simular/win11:latest': 'B' } },
    node: { index: 'A' },
    expect: {
      image: 'in-sync',
      dry: 0,
      run: 0,
      said: ['/dl/simular/win11 is ambiguous', 'whose URL is /dl/simular/win11/latest'],
    },
  },
  {
    id: '19a',
    state: 'the same, and the node has what it takes for the image',
    epoch: { generation: 'may', serves: { 'simular:win11': 'A', 'simular/win11:latest': 'B' } },
    node: { index: 'B' },
    expect: { image: 'stale', plan: 'pull', dry: 2, run: 0, said: ['/dl/simular/win11 is ambiguous'] },
  },
  {
    id: '19b',
    state: 'an older epoch holds both repositories, and serves the one that was meant',
    epoch: { serves: { 'simular:win11': 'A', 'simular/win11:latest': 'B' } },
    node: { index: 'B' },
    expect: { image: 'in-sync', dry: 0, run: 0 },
  },
  {
    id: '20',
    state: 'a newer epoch calls the URL deprecated',
    epoch: { generation: 'may', serves: 'A' },
    node: { index: 'A', snapshots: 'A' },
    expect: { image: 'in-sync', snapshot: 'clonable', dry: 0, run: 0 },
  },
  {
    id: '20a',
    state: 'a newer epoch serves a tag by its own URL',
    epoch: { generation: 'may', serves: { 'simular/win11:v2': 'B' } },
    node: { index: { '/dl/simular/win11/v2': 'A' } },
    expect: { image: { '/dl/simular/win11/v2': 'stale' }, plan: 'pull', dry: 2, run: 0 },
  },
  {
    id: '20b',
    state: 'two keys of one tag, one of them behind',
    epoch: { generation: 'may', serves: 'B' },
    node: { index: { '/dl/simular/win11': 'A', '/dl/simular/win11/latest': 'B' } },
    expect: {
      image: { '/dl/simular/win11': 'stale', '/dl/simular/win11/latest': 'in-sync' },
      plan: 'pull',
      dry: 2,
      run: 0,
    },
  },
  {
    id: '20c',
    state: 'keys that name content by its digest never go stale',
    epoch: { generation: 'may', serves: 'B', keeps: ['A'] },
    node: { index: { '/dl/simular/win11/sha256:A': 'A', '/v2/simular/win11/blobs/sha256:A': 'A' } },
    expect: {
      image: { '/dl/simular/win11/sha256:A': 'unmanaged', '/v2/simular/win11/blobs/sha256:A': 'unmanaged' },
      dry: 3,
      run: 3,
      codes: ['NOTHING_JUDGED'],
      said: ['it names content by its digest, which never goes stale'],
    },
  },
  {
    id: '20d',
    state: 'a key with a query, which epoch ignores',
    epoch: { serves: 'B' },
    node: { index: { '/dl/simular/win11?x=1': 'A' } },
    expect: { image: { '/dl/simular/win11?x=1': 'stale' }, plan: 'pull', dry: 2, run: 0 },
  },
  {
    id: '20e',
    state: 'a key with a slash at its end, which epoch takes for another repository',
    epoch: { serves: 'B' },
    node: { index: 'B' },
    then: async (stage) => {
      const content = stage.artifact('A').blobs[1] as Buffer;
      await stage.node.cocoonWith(content, 'image', 'import', stage.spell('/dl/simular/win11/'));
    },
    expect: {
      image: { '/dl/simular/win11': 'in-sync', '/dl/simular/win11/': 'unmanaged' },
      dry: 0,
      run: 0,
      said: ['no tracked tag covers it'],
    },
  },
  {
    id: '21',
    state: 'eleven parts whose titles are not padded with zeros',
    contents: { A: { parts: 11, titles: 'unpadded', size: 256 * 1024 } },
    epoch: { serves: 'A' },
    node: { index: 'A' },
    expect: {
      image: 'in-sync',
      dry: 0,
      run: 0,
      said: ['are not padded with zeros', 'likely garbled'],
      source: 'stream',
    },
  },
  {
    id: '22',
    state: 'a split image whose checksums list the parts only, streaming forbidden: the node proves it for itself',
    contents: { A: { ...SPLIT, checksums: 'parts' } },
    epoch: { serves: 'A' },
    node: { index: 'A', snapshots: 'A' },
    config: { images: { stream: false } },
    expect: {
      image: 'in-sync',
      snapshot: 'clonable',
      dry: 0,
      run: 0,
      said: ['its own hashes match the parts'],
    },
  },
  {
    id: '22a',
    state: 'a split image whose checksums contradict its parts',
    contents: { A: { ...SPLIT, checksums: 'contradicting' } },
    epoch: { serves: 'A' },
    node: { index: 'A' },
    expect: {
      image: 'in-sync',
      dry: 0,
      run: 0,
      source: 'stream',
      said: ['the artifact contradicts itself', 'disk.qcow2.00.qcow2.part'],
    },
  },
  {
    id: '22b',
    state: 'a split image whose checksums name the joined file',
    contents: { A: { ...SPLIT, checksums: 'assembled' } },
    epoch: { serves: 'A' },
    node: { index: 'A' },
    expect: { image: 'in-sync', dry: 0, run: 0, source: 'checksums' },
  },
  {
    id: '22c',
    state: 'a split image, and the node holds content of another length: what it pulls it proves for itself',
    contents: { B: SPLIT, A: { size: 128 * 1024 } },
    epoch: { serves: 'B' },
    node: { index: 'A' },
    config: { images: { stream: false } },
    expect: { image: 'stale', plan: 'pull', dry: 2, run: 0, said: ['the digests of its parts prove it'] },
  },
  {
    id: '22d',
    state: 'a split image, and the node holds other content of the same length',
    contents: { A: SPLIT, B: SPLIT },
    epoch: { serves: 'B' },
    node: { index: 'A', snapshots: 'A' },
    config: { images: { stream: false } },
    expect: { image: 'stale', snapshot: 'clonable', plan: 'pull', dry: 2, run: 0 },
  },
  {
    id: '22e',
    state: 'a split image that must be there and is nowhere: streaming tells its digest',
    contents: { A: SPLIT },
    epoch: { serves: 'A' },
    config: REQUIRED,
    expect: { image: 'missing', plan: 'pull', dry: 2, run: 0, source: 'stream' },
  },
  {
    id: '22f',
    state: 'the same, streaming forbidden',
    contents: { A: SPLIT },
    epoch: { serves: 'A' },
    config: REQUIRED,
    args: ['--no-stream'],
    expect: { image: 'unknown', dry: 3, run: 3, codes: ['ARTIFACT_UNSUPPORTED'], said: ['split into 2 parts'] },
    afterwards: ({ fleet }) => {
      const read = ofBlobs(fleet.epoch.requests);
      if (read.length > 0) throw new Error(`blobs were read: ${read.join(' ')}`);
    },
  },
  {
    id: '22g',
    state: 'a split image whose blob was cut short on the node, so that it proves nothing; streaming forbidden',
    contents: { A: SPLIT },
    epoch: { serves: 'A' },
    node: { index: 'A', snapshots: 'A', damage: { A: 'short' } },
    config: { images: { stream: false } },
    expect: {
      image: 'unknown',
      snapshot: 'clonable',
      dry: 3,
      run: 3,
      said: ['their digests do not tell the digest of the joined file', 'its own hashes prove nothing'],
    },
  },
  {
    id: '22h',
    state: 'the same, and streaming tells the digest',
    contents: { A: SPLIT },
    epoch: { serves: 'A' },
    node: { index: 'A', snapshots: 'A', damage: { A: 'short' } },
    expect: { image: 'blob-corrupt', snapshot: 'base-corrupt', dry: 2, run: 2, source: 'stream' },
  },
  {
    id: '22i',
    state: 'a split image on three nodes, streaming forbidden: each proves it for itself',
    contents: { A: SPLIT },
    epoch: { serves: 'A' },
    node: { index: 'A' },
    nodes: 3,
    config: { images: { stream: false } },
    expect: { image: 'in-sync', dry: 0, run: 0, said: ['its own hashes match the parts'] },
    afterwards: ({ fleet }) => {
      const read = ofBlobs(fleet.epoch.requests);
      if (read.length > 0) throw new Error(`blobs were read: ${read.join(' ')}`);
    },
  },
  {
    id: '22j',
    state: 'the base of a snapshot is gone, and whether the tag of its split image is that nobody can say',
    contents: { A: SPLIT },
    epoch: { serves: 'A' },
    node: { index: 'A', snapshots: 'A', damage: { A: 'gone' } },
    config: { images: { stream: false } },
    expect: {
      image: 'unknown',
      snapshot: 'base-missing',
      dry: 2,
      run: 2,
      said: ['what its tag serves now is not known'],
    },
  },
  {
    id: '41',
    state: 'the catalogue of epoch lags behind a push',
    epoch: { serves: 'A' },
    node: { index: 'A' },
    then: async ({ fleet: { epoch }, serve }) => {
      await fetch(`${epoch.url}/api/catalog/sync`, { method: 'POST' });
      await serve('B');
      epoch.requests.length = 0;
    },
    expect: { image: 'stale', plan: 'pull', dry: 2, run: 0 },
    afterwards: ({ fleet }) => {
      const asked = fleet.epoch.requests.filter(({ path }) => path.startsWith('/api'));
      if (asked.length > 0) throw new Error('the catalogue was asked');
    },
  },
  {
    id: '47',
    state: 'a download does not end',
    epoch: { serves: 'B' },
    node: { index: 'A' },
    config: { rollout: { pullTimeout: '2s' } },
    faults: [{ match: /^GET \/dl\//, how: 'stall', times: Infinity }],
    expect: { image: 'stale', plan: 'pull', dry: 2, run: 4, runCodes: ['PULL_TIMEOUT'], pulls: 1 },
  },
  {
    id: '48',
    state: 'the tag was deleted',
    epoch: {},
    node: { index: 'A', snapshots: 'A' },
    expect: {
      image: 'unknown',
      snapshot: 'clonable',
      dry: 3,
      run: 3,
      codes: ['TAG_NOT_FOUND'],
      said: ['the local copy is kept'],
    },
  },
  {
    id: '49',
    state: 'epoch is out of order for one image',
    epoch: { serves: { 'simular/win11:latest': 'A', 'simular/ubuntu:latest': 'B' } },
    node: { index: { '/dl/simular/win11': 'A', '/dl/simular/ubuntu': 'B' }, snapshots: 'A' },
    config: { epoch: { retries: 0 } },
    faults: [{ match: /^\w+ \/v2\/simular\/win11\//, how: 503, times: Infinity }],
    expect: {
      image: { '/dl/simular/win11': 'unknown', '/dl/simular/ubuntu': 'in-sync' },
      snapshot: 'clonable',
      dry: 3,
      run: 3,
      codes: ['REGISTRY_UNREACHABLE'],
    },
  },
  {
    id: '49a',
    state: 'the same, and the base of a snapshot is gone',
    epoch: { serves: { 'simular/win11:latest': 'A', 'simular/ubuntu:latest': 'B' } },
    node: {
      index: { '/dl/simular/win11': 'A', '/dl/simular/ubuntu': 'B' },
      snapshots: 'A',
      damage: { A: 'gone' },
    },
    config: { epoch: { retries: 0 } },
    faults: [{ match: /^\w+ \/v2\/simular\/win11\//, how: 503, times: Infinity }],
    expect: {
      image: { '/dl/simular/win11': 'unknown', '/dl/simular/ubuntu': 'in-sync' },
      snapshot: 'base-missing',
      dry: 2,
      run: 2,
    },
  },
  {
    id: '49b',
    state: 'epoch gives no answer at all',
    epoch: { serves: 'B' },
    node: { index: 'A', snapshots: 'A' },
    config: { epoch: { retries: 0 } },
    faults: [{ match: /./, how: 503, times: Infinity }],
    expect: { image: 'unknown', snapshot: 'clonable', dry: 1, run: 1, codes: ['REGISTRY_UNREACHABLE'] },
  },
  {
    id: '+windows',
    state: 'an artifact of the legacy windows types, split',
    contents: {
      A: {
        ...SPLIT,
        artifactType: 'application/vnd.cocoonstack.windows-image.v1+json',
        mediaType: 'application/vnd.cocoonstack.windows.disk.qcow2.part',
      },
    },
    epoch: { serves: 'A' },
    node: { index: 'A' },
    expect: { image: 'in-sync', dry: 0, run: 0, source: 'stream' },
  },
  {
    id: '+untyped',
    state: 'a disk without artifactType',
    contents: { B: { as: 'untyped' } },
    epoch: { serves: 'B' },
    node: { index: 'A' },
    expect: { image: 'unknown', dry: 3, run: 3, codes: ['ARTIFACT_UNSUPPORTED'], said: ['of unknown kind'] },
  },
  {
    id: '+snapshot-as-image',
    state: 'a hot snapshot under the tag of an image',
    contents: { B: { as: 'snapshot' } },
    epoch: { serves: 'B' },
    node: { index: 'A' },
    expect: {
      image: 'unknown',
      dry: 3,
      run: 3,
      codes: ['ARTIFACT_UNSUPPORTED'],
      said: ['this is a hot snapshot and no image'],
    },
  },
  {
    id: '+container-as-image',
    state: 'a container image under the tag of an image',
    contents: { B: { container: ['amd64'] } },
    epoch: { serves: 'B' },
    node: { index: 'A' },
    expect: { image: 'unknown', dry: 3, run: 3, codes: ['ARTIFACT_UNSUPPORTED'], said: ['this is a container image'] },
  },
];
