// Container images of other registries, and of epoch's own host.
import type { Scenario } from './scenario.ts';
import type { Stage } from './scenario.ts';

const UBUNTU = 'OTHER/simular/ubuntu:24.04';
const TRACKED = { images: { track: [{ image: UBUNTU }] } };
const ONE = { container: ['amd64'] };
const BOTH = { container: ['amd64', 'arm64'] };
const HOT = { 'simular/ubuntu-hot:v1': { pins: 'A' as const, base: UBUNTU } };
const ON_EPOCH = 'EPOCH/simular/ubuntu:24.04';

/** A disk is imported under the name of a container image. */
const intoBothBackends = async ({ node, artifact, spell }: Stage): Promise<void> => {
  const disk = artifact('B').blobs[1] as Buffer;
  const { code, stderr } = await node.cocoonWith(disk, 'image', 'import', spell(UBUNTU));
  if (code !== 0) throw new Error(stderr);
};

export const ON_CONTAINERS: Scenario[] = [
  {
    id: '24',
    state: 'the tag is an image index for two platforms, and the node holds the manifest of its own',
    contents: { A: BOTH },
    epoch: { serves: { [UBUNTU]: 'A' } },
    node: { index: { [UBUNTU]: 'A' }, snapshots: HOT },
    config: TRACKED,
    expect: {
      image: { [UBUNTU]: 'in-sync' },
      snapshot: { 'simular/ubuntu-hot:v1': 'clonable' },
      dry: 0,
      run: 0,
      source: 'manifest',
    },
  },
  {
    id: '24a',
    state: 'the index was pushed again',
    contents: { A: BOTH, B: BOTH },
    epoch: { serves: { [UBUNTU]: 'B' } },
    node: { index: { [UBUNTU]: 'A' }, snapshots: HOT },
    config: TRACKED,
    expect: {
      image: { [UBUNTU]: 'stale' },
      snapshot: { 'simular/ubuntu-hot:v1': 'clonable' },
      plan: 'pull',
      dry: 2,
      run: 0,
    },
  },
  {
    id: '24b',
    state: 'the index has nothing for the platform of the node any more',
    contents: { A: BOTH, B: { container: ['arm64', 's390x'] } },
    epoch: { serves: { [UBUNTU]: 'B' } },
    node: { index: { [UBUNTU]: 'A' } },
    config: TRACKED,
    expect: { image: { [UBUNTU]: 'unknown' }, dry: 3, run: 3, said: ['its index has no linux/amd64'] },
  },
  {
    id: '24c',
    state: 'the tag is a single manifest, and must be on the node',
    contents: { A: ONE },
    epoch: { serves: { [UBUNTU]: 'A' } },
    config: { images: { track: [{ image: UBUNTU, presence: 'required' }] } },
    expect: { image: { [UBUNTU]: 'missing' }, plan: 'pull', dry: 2, run: 0 },
  },
  {
    id: '25',
    state: 'two spellings of one image are two entries, and one of them is tracked',
    contents: { A: ONE, B: ONE },
    epoch: { serves: { 'OTHER/simular/ubuntu:latest': 'B' } },
    node: { index: { 'OTHER/simular/ubuntu': 'A', 'OTHER/simular/ubuntu:latest': 'B' } },
    config: { images: { track: [{ image: 'OTHER/simular/ubuntu:latest' }] } },
    expect: {
      image: { 'OTHER/simular/ubuntu': 'unmanaged', 'OTHER/simular/ubuntu:latest': 'in-sync' },
      dry: 0,
      run: 0,
    },
  },
  {
    id: '26',
    state: 'a layer of a container image is gone, and a snapshot needs it',
    contents: { A: ONE },
    epoch: { serves: { [UBUNTU]: 'A' } },
    node: { index: { [UBUNTU]: 'A' }, snapshots: HOT, damage: { A: 'gone' } },
    config: TRACKED,
    expect: {
      image: { [UBUNTU]: 'blob-missing' },
      snapshot: { 'simular/ubuntu-hot:v1': 'base-drifted' },
      plan: 'pull',
      dry: 2,
      run: 0,
      said: ['.erofs is not there'],
    },
  },
  {
    id: '26a',
    state: 'the initrd of a container image is gone',
    contents: { A: ONE },
    epoch: { serves: { [UBUNTU]: 'A' } },
    node: { index: { [UBUNTU]: 'A' }, damage: { A: 'no initrd' } },
    config: TRACKED,
    expect: {
      image: { [UBUNTU]: 'blob-missing' },
      plan: 'pull',
      dry: 2,
      run: 0,
      said: ['initrd.img is not there'],
    },
  },
  {
    id: '26b',
    state: 'the initrd of a container image is empty: cocoon looks only whether it is there',
    contents: { A: ONE },
    epoch: { serves: { [UBUNTU]: 'A' } },
    node: { index: { [UBUNTU]: 'A' }, snapshots: HOT, damage: { A: 'empty initrd' } },
    config: TRACKED,
    clonesAnyway: true,
    expect: {
      image: { [UBUNTU]: 'blob-missing' },
      snapshot: { 'simular/ubuntu-hot:v1': 'base-drifted' },
      plan: 'pull',
      dry: 2,
      run: 0,
    },
  },
  {
    id: '26c',
    state: 'a layer is gone, the tag has moved on, and the registry still has the manifest; restoring allowed',
    contents: { A: ONE, B: ONE },
    epoch: { serves: { [UBUNTU]: 'B', 'OTHER/simular/ubuntu:old': 'A' } },
    node: { index: { [UBUNTU]: 'A' }, snapshots: HOT, damage: { A: 'gone' } },
    config: TRACKED,
    args: ['--repair', 'restore'],
    expect: {
      image: { [UBUNTU]: 'stale' },
      snapshot: { 'simular/ubuntu-hot:v1': 'base-restorable' },
      plan: 'pull, restore',
      dry: 2,
      run: 0,
    },
  },
  {
    id: '42',
    state: 'a container image of epoch’s own host is stale: cocoon cannot pull it anonymously',
    contents: { A: ONE, B: ONE },
    epoch: { serves: { [ON_EPOCH]: 'B' } },
    node: { index: { [ON_EPOCH]: 'A' } },
    expect: {
      image: { [ON_EPOCH]: 'stale' },
      dry: 2,
      run: 2,
      said: ['cocoon cannot pull it from epoch without a credential', '/dl/simular/ubuntu'],
    },
  },
  {
    id: '42a',
    state: 'a container image of epoch’s own host is current',
    contents: { A: BOTH },
    epoch: { serves: { [ON_EPOCH]: 'A' } },
    node: { index: { [ON_EPOCH]: 'A' } },
    expect: { image: { [ON_EPOCH]: 'in-sync' }, dry: 0, run: 0 },
  },
  {
    id: '27',
    state: 'a tracked name is in both backends',
    contents: { A: ONE },
    epoch: { serves: { [UBUNTU]: 'A' } },
    node: { index: { [UBUNTU]: 'A' } },
    config: TRACKED,
    then: intoBothBackends,
    expect: { image: { [UBUNTU]: 'unknown' }, dry: 3, run: 3, said: ['the name is in both backends'] },
  },
  {
    id: '27a',
    state: 'a name that nothing tracks is in both backends',
    contents: { A: ONE },
    epoch: { serves: { [UBUNTU]: 'A' } },
    node: { index: { [UBUNTU]: 'A' } },
    then: intoBothBackends,
    expect: { image: { [UBUNTU]: 'unmanaged' }, dry: 3, run: 3, codes: ['NOTHING_JUDGED'] },
  },
];
