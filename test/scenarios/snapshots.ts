// What becomes of hot snapshots: whether their base is there, whether anything can bring it back, and their own files.
import { readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { FleetNode } from '../fleet/world.ts';
import { report } from '../support/reconcile.ts';
import { SNAPSHOT, type Scenario } from './scenario.ts';
import type { Stage } from './scenario.ts';

const RESTORE = ['--repair', 'restore'];
const REPLACE = ['--repair', 'replace'];
const TRACKED = { snapshots: { track: [{ snapshot: SNAPSHOT }] } };

interface SnapshotRecord {
  name: string;
  pending?: boolean;
  created_at: string;
  data_dir: string;
}
interface Index {
  snapshots: Record<string, SnapshotRecord>;
  names: Record<string, string>;
}

/** Changes the node's index of snapshots as no command does. */
async function edit(node: FleetNode, change: (index: Index, id: string) => void): Promise<void> {
  const file = join(node.rootDir, 'snapshot', 'db', 'snapshots.json');
  const index = JSON.parse(await readFile(file, 'utf8')) as Index;
  change(index, index.names[SNAPSHOT] as string);
  await writeFile(file, `${JSON.stringify(index)}\n`);
}

const pendingSince =
  (hours: number) =>
  async ({ node }: Stage): Promise<void> =>
    await edit(node, (index, id) => {
      const record = index.snapshots[id] as SnapshotRecord;
      record.pending = true;
      record.created_at = new Date(Date.now() - hours * 3_600_000).toISOString();
    });

export const ON_SNAPSHOTS: Scenario[] = [
  {
    id: '3',
    state: 'the tag was pushed again, and a snapshot stands on the old content',
    epoch: { serves: 'B' },
    node: { index: 'A', snapshots: 'A' },
    expect: {
      image: 'stale',
      snapshot: 'clonable',
      plan: 'pull',
      dry: 2,
      run: 0,
      said: ['clones keep using'],
    },
  },
  {
    id: '4',
    state: 'the base of a snapshot is in no index entry any more, and its blob is there',
    epoch: { serves: 'B' },
    node: { index: 'B', blobs: ['A'], snapshots: 'A' },
    expect: {
      image: 'in-sync',
      snapshot: 'clonable',
      dry: 0,
      run: 0,
      said: ['no index entry names its base, and none needs to'],
    },
  },
  {
    id: '4a',
    state: 'the same, and that blob was cut short: epoch still has it, and knows its length',
    epoch: { serves: 'B', keeps: ['A'] },
    node: { index: 'B', blobs: ['A'], snapshots: 'A', damage: { A: 'short' } },
    expect: {
      image: 'in-sync',
      snapshot: 'base-corrupt',
      dry: 2,
      run: 2,
      said: ['a forced pull alone would keep it', '/v2/simular/win11/blobs/sha256:'],
    },
  },
  {
    id: '4b',
    state: 'the same, replacing allowed',
    epoch: { serves: 'B', keeps: ['A'] },
    node: { index: 'B', blobs: ['A'], snapshots: 'A', damage: { A: 'short' } },
    args: REPLACE,
    expect: { image: 'in-sync', snapshot: 'base-corrupt', plan: 'replace', dry: 2, run: 0 },
  },
  {
    id: '4c',
    state: 'the base of a snapshot is in no index entry any more, a bit of it has changed; --deep, replacing allowed',
    epoch: { serves: 'B', keeps: ['A'] },
    node: { index: 'B', blobs: ['A'], snapshots: 'A', damage: { A: 'flipped' } },
    args: ['--deep', ...REPLACE],
    expect: { image: 'in-sync', snapshot: 'base-corrupt', plan: 'replace', dry: 2, run: 0 },
  },
  {
    id: '5a',
    state: 'the incident: a snapshot pins what the tag serves, and the node has what it served before',
    epoch: { serves: 'B' },
    node: { index: 'A', snapshots: 'B' },
    expect: {
      image: 'stale',
      snapshot: 'base-drifted',
      plan: 'pull',
      dry: 2,
      run: 0,
      said: ['so a forced pull heals it'],
    },
  },
  {
    id: '5a-sqlite',
    state: 'the incident on a node with a SQLite store',
    epoch: { serves: 'B' },
    node: { store: 'sqlite', index: 'A', snapshots: 'B' },
    doubleOnly: true,
    expect: { image: 'stale', snapshot: 'base-drifted', plan: 'pull', dry: 2, run: 0 },
  },
  {
    id: '5a-forks',
    state: 'the incident, for the forks and hibernations of a VM',
    epoch: { serves: 'B' },
    node: {
      index: 'A',
      snapshots: { 'fork-vk-default-demo-0': { pins: 'B' }, 'vk-default-demo-0-hibernate-import': { pins: 'B' } },
    },
    expect: {
      image: 'stale',
      snapshot: { 'fork-vk-default-demo-0': 'base-drifted', 'vk-default-demo-0-hibernate-import': 'base-drifted' },
      plan: 'pull',
      dry: 2,
      run: 0,
    },
  },
  {
    id: '5a-split',
    state: 'the incident with a split image: a verdict depends on its digest, so it is learned',
    contents: { A: { parts: 2 }, B: { parts: 2 } },
    epoch: { serves: 'B' },
    node: { index: 'A', snapshots: 'B' },
    expect: { image: 'stale', snapshot: 'base-drifted', plan: 'pull', dry: 2, run: 0, source: 'stream' },
  },
  {
    id: '5',
    state: 'a snapshot pins what is gone from the node, the tag has moved on, and epoch still has it',
    epoch: { serves: 'C', keeps: ['A'] },
    node: { index: 'B', snapshots: 'A' },
    expect: {
      image: 'stale',
      snapshot: 'base-restorable',
      plan: 'pull',
      dry: 2,
      run: 2,
      said: ['its tag has moved on to', 'so pulling that does not bring it back', '/v2/simular/win11/blobs/sha256:'],
    },
  },
  {
    id: '5b',
    state: 'the same, restoring allowed',
    epoch: { serves: 'C', keeps: ['A'] },
    node: { index: 'B', snapshots: 'A' },
    args: RESTORE,
    expect: { image: 'stale', snapshot: 'base-restorable', plan: 'pull, restore', dry: 2, run: 0 },
  },
  {
    id: '5c',
    state: 'the same with an entry that is in sync, restoring allowed by the config',
    epoch: { serves: 'B', keeps: ['A'] },
    node: { index: 'B', snapshots: 'A' },
    config: { repair: { restoreBases: 'restore' } },
    expect: { image: 'in-sync', snapshot: 'base-restorable', plan: 'restore', dry: 2, run: 0 },
  },
  {
    id: '5d',
    state: 'what was restored once is gone from epoch and safe on the node',
    epoch: { serves: 'B' },
    node: { index: { '/dl/simular/win11': 'B', '/v2/simular/win11/blobs/sha256:A': 'A' }, snapshots: 'A' },
    expect: {
      image: { '/dl/simular/win11': 'in-sync', '/v2/simular/win11/blobs/sha256:A': 'unmanaged' },
      snapshot: 'clonable',
      dry: 0,
      run: 0,
    },
  },
  {
    id: '5e',
    state: 'a split base that an earlier run had learned, on a newer epoch, restoring allowed',
    contents: { A: { parts: 2 } },
    epoch: { generation: 'may', serves: 'B', keeps: ['A'] },
    node: { index: 'A' },
    args: RESTORE,
    then: async (stage) => await learnThenLose(stage),
    expect: { image: 'in-sync', snapshot: 'base-restorable', plan: 'restore', dry: 2, run: 0 },
  },
  {
    id: '5f',
    state: 'the same on an older epoch, which serves no download by digest',
    contents: { A: { parts: 2 } },
    epoch: { serves: 'B', keeps: ['A'] },
    node: { index: 'A' },
    args: RESTORE,
    then: async (stage) => await learnThenLose(stage),
    expect: { image: 'in-sync', snapshot: 'base-restorable', dry: 2, run: 2, said: ['tag it'] },
  },
  {
    id: '6',
    state: 'a snapshot pins what is gone from the node and from epoch',
    epoch: { serves: 'C' },
    node: { index: 'B', snapshots: 'A' },
    expect: {
      image: 'stale',
      snapshot: 'base-lost',
      plan: 'pull',
      dry: 2,
      run: 2,
      said: ['bake the snapshot again, or push the old base back'],
    },
  },
  {
    id: '6a',
    state: 'the same, and epoch cannot be asked for it',
    epoch: { serves: 'C', keeps: ['A'] },
    node: { index: 'B', snapshots: 'A' },
    config: { epoch: { retries: 0 } },
    args: ['-i', 'simular/win11'],
    faults: [{ match: /^HEAD \/v2\/simular\/win11\/blobs\//, how: 503, times: Infinity }],
    expect: { image: 'stale', snapshot: 'base-missing', dry: 2, run: 2, codes: ['REGISTRY_UNREACHABLE'] },
  },
  {
    id: '29',
    state: 'a snapshot is being taken',
    epoch: { serves: 'A' },
    node: { index: 'A', snapshots: 'A' },
    then: pendingSince(1),
    expect: { image: 'in-sync', snapshot: 'pending', dry: 0, run: 0 },
  },
  {
    id: '29a',
    state: 'taking a snapshot was begun two days ago and never ended',
    epoch: { serves: 'A' },
    node: { index: 'A', snapshots: 'A' },
    then: pendingSince(48),
    expect: { image: 'in-sync', snapshot: 'broken', dry: 2, run: 2, said: ['more than 24 hours ago'] },
  },
  {
    id: '30',
    state: 'the snapshot was pushed again, on another base, after the node fetched it',
    epoch: { serves: 'B', keeps: ['A'], snapshots: { 'simular/win11-hot:v1': 'B' } },
    node: { index: 'B', blobs: ['A'], snapshots: 'A' },
    expect: {
      image: 'in-sync',
      snapshot: 'clonable',
      dry: 0,
      run: 0,
      said: ['the tag at epoch is another snapshot than the local copy'],
    },
  },
  {
    id: '30a',
    state: 'the snapshot was pushed again, on the same base, after the node fetched it',
    epoch: { serves: 'A', snapshots: { 'simular/win11-hot:v1': { pins: 'A', createdAt: '2199-01-01T00:00:00Z' } } },
    node: { index: 'A', snapshots: 'A' },
    config: TRACKED,
    expect: {
      image: 'in-sync',
      snapshot: 'clonable',
      dry: 0,
      run: 0,
      said: ['the tag at epoch is newer than the local copy'],
    },
  },
  {
    id: '31',
    state: 'a snapshot from before v0.3.8, without cocoon.json',
    epoch: { serves: 'A' },
    node: { index: 'A', snapshots: { [SNAPSHOT]: { pins: 'A', omit: ['cocoon.json'] } } },
    expect: {
      image: 'in-sync',
      snapshot: 'broken',
      dry: 2,
      run: 2,
      said: ['has no cocoon.json: bake it again: pulling images does not help'],
    },
  },
  {
    id: '32',
    state: 'a name points at a record that is not there',
    epoch: { serves: 'A' },
    node: { index: 'A', snapshots: 'A' },
    then: async ({ node }) => await edit(node, (index, id) => void delete index.snapshots[id]),
    expect: {
      image: 'in-sync',
      snapshot: 'broken',
      dry: 2,
      run: 2,
      said: ['its name points at a record that is not there: pulling images does not help'],
    },
  },
  {
    id: '32a',
    state: 'the data directory of a snapshot is gone',
    epoch: { serves: 'A' },
    node: { index: 'A', snapshots: 'A' },
    then: async ({ node }) => await rm(join(node.rootDir, 'snapshot', 'localfile'), { recursive: true }),
    expect: {
      image: 'in-sync',
      snapshot: 'broken',
      dry: 2,
      run: 2,
      said: ['its data directory is not there'],
    },
  },
  {
    id: '32b',
    state: 'the memory of a snapshot is gone, and its image is stale',
    epoch: { serves: 'B' },
    node: { index: 'A', snapshots: { [SNAPSHOT]: { pins: 'B', omit: ['memory-ranges'] } } },
    expect: {
      image: 'stale',
      snapshot: 'broken',
      plan: 'pull',
      dry: 2,
      run: 2,
      said: ['its memory is missing'],
    },
  },
  {
    id: '33',
    state: 'the firmware is gone',
    epoch: { serves: 'A' },
    node: { index: 'A', snapshots: 'A' },
    then: async ({ node }) => await rm(join(node.rootDir, 'firmware', 'CLOUDHV.fd')),
    expect: {
      image: 'in-sync',
      snapshot: 'broken',
      dry: 2,
      run: 2,
      said: ['firmware/CLOUDHV.fd is missing: pulling images does not help'],
    },
  },
  {
    id: '34',
    state: 'the snapshot was taken on a node with another root directory',
    epoch: { serves: 'A' },
    node: { index: 'A', snapshots: { [SNAPSHOT]: { pins: 'A', takenUnder: '/data/cocoon' } } },
    expect: {
      image: 'in-sync',
      snapshot: 'broken',
      dry: 2,
      run: 2,
      said: ['its overlay opens /data/cocoon/cloudimg/blobs/', 'pulling images does not help'],
    },
  },
  {
    id: '50',
    state: 'a clone with --pull let a newer cocoon repoint the key, and the pinned blob stayed',
    epoch: { serves: 'B' },
    node: { store: 'sqlite', index: 'A', snapshots: 'A' },
    then: async ({ cocoon, spell }) => {
      await cocoon('image', 'rm', spell('/dl/simular/win11'));
      await cocoon('vm', 'clone', '--pull', '--name', 'vk-default-demo-0', SNAPSHOT);
    },
    doubleOnly: true,
    expect: { image: 'in-sync', snapshot: 'clonable', dry: 0, run: 0 },
  },
  {
    id: '50a',
    state: 'the same, and the pinned blob is gone: the pull of a clone did not bring it',
    epoch: { serves: 'B' },
    node: { index: 'B', snapshots: 'A' },
    expect: { image: 'in-sync', snapshot: 'base-lost', dry: 2, run: 2 },
  },
  {
    id: '+at-risk',
    state: 'the record of a snapshot names another content than its overlay opens, and nothing else keeps that',
    epoch: { serves: 'B' },
    node: { index: 'B', blobs: ['A'], snapshots: { [SNAPSHOT]: { pins: 'A', records: 'B' } } },
    expect: {
      image: 'in-sync',
      snapshot: 'base-at-risk',
      dry: 0,
      run: 0,
      said: ['the next garbage collection may take it'],
    },
  },
  {
    id: '+cold-start',
    state: 'a tracked snapshot that the node has not fetched, nor its base',
    epoch: { serves: 'A', snapshots: { [SNAPSHOT]: 'A' } },
    config: TRACKED,
    expect: {
      snapshot: 'not-on-node',
      baseVerdict: null,
      dry: 3,
      run: 3,
      codes: ['NOTHING_JUDGED'],
      said: ['a cold start'],
    },
  },
  {
    id: '+cold-start-beside',
    state: 'the same beside an image of epoch',
    epoch: { serves: { 'simular/win11:latest': 'A', 'simular/ubuntu:latest': 'B' }, snapshots: { [SNAPSHOT]: 'A' } },
    node: { index: { '/dl/simular/ubuntu': 'B' } },
    config: TRACKED,
    expect: {
      image: { '/dl/simular/ubuntu': 'in-sync' },
      snapshot: 'not-on-node',
      baseVerdict: null,
      dry: 0,
      run: 0,
      said: ['a cold start'],
    },
  },
  {
    id: '+cold-start-moved',
    state: 'the same, but the image must be there and its tag has moved on: the base comes with the same run',
    epoch: { serves: 'B', keeps: ['A'], snapshots: { [SNAPSHOT]: 'A' } },
    config: {
      images: { track: [{ image: 'simular/win11', presence: 'required' }] },
      snapshots: { track: [{ snapshot: SNAPSHOT }] },
    },
    args: ['--repair', 'restore'],
    expect: {
      image: 'missing',
      snapshot: 'not-on-node',
      baseVerdict: 'base-restorable',
      plan: 'pull, restore',
      dry: 2,
      run: 0,
    },
  },
  {
    id: '+not-fetched',
    state: 'a tracked snapshot that the node has not fetched, and its base is there',
    epoch: { serves: 'A', snapshots: { [SNAPSHOT]: 'A' } },
    node: { index: 'A' },
    config: TRACKED,
    expect: { image: 'in-sync', snapshot: 'not-on-node', baseVerdict: 'clonable', dry: 0, run: 0 },
  },
  {
    id: '+not-fetched-drifted',
    state: 'a tracked snapshot that the node has not fetched, and its base has drifted',
    epoch: { serves: 'B', snapshots: { [SNAPSHOT]: 'B' } },
    node: { index: 'A' },
    config: TRACKED,
    expect: { image: 'stale', snapshot: 'not-on-node', baseVerdict: 'base-drifted', plan: 'pull', dry: 2, run: 0 },
  },
  {
    id: '+not-fetched-at-risk',
    state: 'a tracked snapshot that the node has not fetched, and nothing keeps its base there',
    epoch: { serves: 'B', snapshots: { [SNAPSHOT]: 'A' } },
    node: { index: 'B', blobs: ['A'] },
    config: TRACKED,
    expect: { image: 'in-sync', snapshot: 'not-on-node', baseVerdict: 'base-at-risk', dry: 0, run: 0 },
  },
  {
    id: '+not-fetched-leaves',
    state: 'a tracked snapshot that the node has not fetched, whose base a pull of the tag leaves without a keeper',
    epoch: { serves: 'B', keeps: ['A'], snapshots: { [SNAPSHOT]: 'A' } },
    node: { index: 'A' },
    config: TRACKED,
    expect: {
      image: 'stale',
      snapshot: 'not-on-node',
      baseVerdict: 'clonable',
      plan: 'pull',
      dry: 2,
      run: 0,
      said: ['once the tag is pulled again nothing keeps its base on this node'],
    },
  },
  {
    id: '+not-fetched-lost',
    state: 'a tracked snapshot that the node has not fetched, on a base that is nowhere any more',
    epoch: { serves: 'B', snapshots: { [SNAPSHOT]: 'A' } },
    node: { index: 'B' },
    config: TRACKED,
    expect: { image: 'in-sync', snapshot: 'not-on-node', baseVerdict: 'base-lost', dry: 2, run: 2 },
  },
];

/** A run learns the digest of a split image; then the tag moves on, and the node loses the blob under a snapshot. */
async function learnThenLose(stage: Stage): Promise<void> {
  await stage.serve('A');
  await report(stage.fleet, '--dry-run');
  await stage.serve('B');
  await stage.node.pull(stage.spell('/dl/simular/win11'), true);
  await stage.addSnapshot(SNAPSHOT, { pins: 'A' });
  await rm(stage.node.blobFile(stage.digest('A')));
}
