// Nodes that cannot be read, stores in transition, locks, leftovers; and what changes while the command runs.
import { spawn } from 'node:child_process';
import { chmod, readdir, readFile, rename, utimes, writeFile } from 'node:fs/promises';
import { once } from 'node:events';
import { join } from 'node:path';
import { SNAPSHOT, type Scenario } from './scenario.ts';
import type { Stage } from './scenario.ts';
import { fileUnder } from './stage.ts';

/** Holds a lock of cocoon's as a command of its own does; what it returns frees it. */
const holdLock =
  (path: string) =>
  async ({ node }: Stage): Promise<() => void> => {
    const words = ['-x', join(node.rootDir, path), 'sh', '-c', 'echo held; exec sleep 600'];
    const holder = spawn('flock', words, { detached: true });
    await once(holder.stdout, 'data');
    return () => void process.kill(-(holder.pid as number));
  };

/** Leaves what an interrupted pull leaves, two hours old. */
const leftover = async ({ node }: Stage): Promise<void> => {
  const file = await fileUnder(node, 'cloudimg/temp/pull-1234.img');
  await writeFile(file, Buffer.alloc(5000));
  const then = Date.now() / 1000 - 7200;
  await utimes(file, then, then);
};

async function vmsOn({ node }: Stage): Promise<string[]> {
  const { stdout } = await node.cocoon('vm', 'list', '-o', 'json');
  if (!stdout.startsWith('[')) return [];
  return (JSON.parse(stdout) as { config: { name: string } }[]).map(({ config }) => config.name).sort();
}

const DEAD = 'reconcile-canary-20260101T000000Z-abcdef';
const OTHERS = ['canary-by-hand', 'my-reconcile-canary-1', 'vk-default-demo-0'];
const VMS = Object.fromEntries([DEAD, ...OTHERS].map((name) => [name, SNAPSHOT]));

const onlyOthersAreLeft = async (stage: Stage): Promise<void> => {
  const left = (await vmsOn(stage)).join(' ');
  if (left !== OTHERS.join(' ')) throw new Error(`VMs left: ${left}`);
};

/** A file in place of a blob, set aside as the guard of a replacement does it. */
async function setAside({ node, digest }: Stage, letter: 'A' | 'B', content: string): Promise<string> {
  const blob = node.blobFile(digest(letter));
  await writeFile(`${blob}.bad-reconcile`, content);
  return blob;
}

const namesIn = async ({ node }: Stage, dir: string): Promise<string> =>
  (await readdir(join(node.rootDir, 'cloudimg', dir))).sort().join(' ');

/** Beside what a dead run leaves, files of others whose names are nearly those. */
const leftovers = async (stage: Stage): Promise<void> => {
  await setAside(stage, 'A', 'bad');
  for (const path of [
    'temp/reconcile-import.aB3dEf7h/content',
    'temp/reconcile-import/content',
    'blobs/golden.qcow2.bad',
  ]) {
    await writeFile(await fileUnder(stage.node, `cloudimg/${path}`), 'content');
  }
};

export const ON_NODES: Scenario[] = [
  {
    id: '35',
    state: 'a long pull holds cocoon’s lock: reading takes none',
    epoch: { serves: 'A' },
    node: { index: 'A', snapshots: 'A' },
    meanwhile: holdLock('oci/db/images.lock'),
    expect: { image: 'in-sync', snapshot: 'clonable', dry: 0, run: 0 },
  },
  {
    id: '35a',
    state: 'cocoon’s lock is held for good, and the image is stale: our pull waits and is ended',
    epoch: { serves: 'B' },
    node: { index: 'A' },
    config: { rollout: { pullTimeout: '2s' } },
    meanwhile: holdLock('cloudimg/db/images.lock'),
    expect: { image: 'stale', plan: 'pull', dry: 2, run: 4, runCodes: ['PULL_TIMEOUT'], pulls: 1 },
  },
  {
    id: '36',
    state: 'the index is cut off',
    epoch: { serves: 'A' },
    node: { index: 'A' },
    then: async ({ node }) => await writeFile(await fileUnder(node, 'cloudimg/db/images.json'), '{"images":{"http'),
    expect: { node: 'unreadable', dry: 3, run: 3, codes: ['NODE_INDEX_CORRUPT'] },
  },
  {
    id: '36a',
    state: 'the index is cut off, and a tracked image is unknown because of it',
    epoch: { serves: 'A' },
    node: { index: 'A' },
    config: { images: { track: [{ image: 'simular/win11' }] } },
    then: async ({ node }) => await writeFile(await fileUnder(node, 'cloudimg/db/images.json'), '{"images":{"http'),
    expect: { node: 'unreadable', image: 'unknown', dry: 3, run: 3, codes: ['NODE_INDEX_CORRUPT'] },
  },
  {
    id: '37',
    state: 'the user may not read cocoon’s directories',
    epoch: { serves: 'A' },
    node: { index: 'A' },
    user: 'unprivileged',
    expect: { node: 'unreadable', dry: 3, run: 3, codes: ['NODE_PERMISSION_DENIED'], said: ['ALL=(root) NOPASSWD'] },
  },
  {
    id: '39',
    state: 'the store was converted to SQLite, and an older cocoon left a JSON index beside it',
    epoch: { serves: 'A' },
    node: { store: 'sqlite', index: 'A', snapshots: 'A' },
    then: async ({ node, digest }) =>
      await writeFile(
        await fileUnder(node, 'cloudimg/db/images.json'),
        JSON.stringify({ images: { stray: { ref: 'stray', content_sum: digest('B'), size: 1 } } }),
      ),
    doubleOnly: true,
    expect: {
      image: 'in-sync',
      snapshot: 'clonable',
      dry: 0,
      run: 0,
      said: ['a JSON index lies beside meta.db, which is the one that counts'],
    },
  },
  {
    id: '39a',
    state: 'the same, and the two name different content for one key',
    epoch: { serves: 'A' },
    node: { store: 'sqlite', index: 'A' },
    then: async ({ node, digest, spell }) => {
      const key = spell('/dl/simular/win11');
      await writeFile(
        await fileUnder(node, 'cloudimg/db/images.json'),
        JSON.stringify({ images: { [key]: { ref: key, content_sum: digest('B'), size: 1 } } }),
      );
    },
    doubleOnly: true,
    expect: { image: 'unknown', dry: 3, run: 3, said: ['both live and name different digests'] },
  },
  {
    id: '40',
    state: 'a conversion of the store is in flight',
    epoch: { serves: 'A' },
    node: { store: 'sqlite', index: 'A' },
    then: async ({ node }) => await writeFile(await fileUnder(node, 'meta/meta-convert.manifest'), '{}'),
    doubleOnly: true,
    expect: { node: 'unreadable', dry: 3, run: 3, codes: ['NODE_BUSY'] },
  },
  {
    id: '43',
    state: 'a dead run left its canary VM, and others have VMs of theirs',
    epoch: { serves: 'B' },
    node: { index: 'A', snapshots: 'A', vms: VMS },
    expect: { image: 'stale', snapshot: 'clonable', plan: 'pull', leftovers: ['canary-vm'], dry: 2, run: 0 },
    afterwards: onlyOthersAreLeft,
  },
  {
    id: '43a',
    state: 'the same where nothing else is to do, and it had set a blob aside and was importing another',
    epoch: { serves: 'A' },
    node: { index: 'A', snapshots: 'A', vms: VMS },
    then: leftovers,
    expect: {
      image: 'in-sync',
      snapshot: 'clonable',
      leftovers: ['canary-vm', 'blob-aside', 'import'],
      dry: 0,
      run: 0,
      said: [
        `the canary VM of an earlier run is there (${DEAD})`,
        'a run would tidy up after an earlier run on node-1',
      ],
      runSaid: ['tidied up after an earlier run on node-1'],
    },
    afterwards: async (stage) => {
      await onlyOthersAreLeft(stage);
      const files = `${await namesIn(stage, 'blobs')} ${await namesIn(stage, 'temp')}`;
      const hex = stage.digest('A').slice(7);
      if (files !== `${hex}.qcow2 golden.qcow2.bad reconcile-import`) throw new Error(`files left: ${files}`);
    },
  },
  {
    id: '43b',
    state: 'a dead run left its canary VM on a node with a SQLite store',
    epoch: { serves: 'A' },
    node: { store: 'sqlite', index: 'A', snapshots: 'A', vms: { [DEAD]: SNAPSHOT } },
    doubleOnly: true,
    expect: { image: 'in-sync', snapshot: 'clonable', leftovers: ['canary-vm'], dry: 0, run: 0 },
  },
  {
    id: '43c',
    state: 'a dead run had set a blob aside that epoch does not have any more: it is put back',
    epoch: { serves: 'B' },
    node: { index: 'B', snapshots: 'A' },
    then: async (stage) => void (await setAside(stage, 'A', 'bad')),
    expect: { image: 'in-sync', snapshot: 'base-lost', leftovers: ['blob-aside'], dry: 2, run: 2 },
    afterwards: async ({ node, digest }) => {
      const content = await readFile(node.blobFile(digest('A')), 'utf8');
      if (content !== 'bad') throw new Error(`put back was: ${content}`);
    },
  },
  {
    id: '43d',
    state: 'a dead run had set a blob aside that a pull brings anew: it is not put back before',
    epoch: { serves: 'A' },
    node: { index: 'A', snapshots: 'A', damage: { A: 'gone' } },
    then: async (stage) => void (await setAside(stage, 'A', 'bad')),
    expect: {
      image: 'blob-missing',
      snapshot: 'base-drifted',
      plan: 'pull',
      leftovers: ['blob-aside'],
      dry: 2,
      run: 0,
    },
  },
  {
    id: '44',
    state: 'somebody removes each canary VM before it can be looked at',
    epoch: { serves: 'B' },
    node: { index: 'A', snapshots: 'B' },
    config: { verify: { clone: 'vm' } },
    then: async ({ node }) => await removeCanariesOn(node.binary, 2),
    doubleOnly: true,
    expect: {
      image: 'stale',
      snapshot: 'base-drifted',
      plan: 'pull',
      dry: 2,
      run: 4,
      runCodes: ['CLONE_FAILED'],
      runSaid: ['VK_ORPHAN_POLICY'],
    },
  },
  {
    id: '44a',
    state: 'somebody removes the first canary VM, and leaves the second alone',
    epoch: { serves: 'B' },
    node: { index: 'A', snapshots: 'B' },
    config: { verify: { clone: 'vm' } },
    then: async ({ node }) => await removeCanariesOn(node.binary, 1),
    doubleOnly: true,
    expect: { image: 'stale', snapshot: 'base-drifted', plan: 'pull', dry: 2, run: 0 },
  },
  {
    id: '45',
    state: 'somebody else heals the node between the plan and its turn',
    epoch: { serves: 'B' },
    node: { index: 'A', snapshots: 'B' },
    during: {
      match: /^HEAD \/v2\/simular\/win11\/blobs\//,
      action: async ({ node, spell }) => await node.pull(spell('/dl/simular/win11'), true),
    },
    expect: {
      image: 'stale',
      snapshot: 'base-drifted',
      plan: 'pull',
      dry: 2,
      run: 0,
      runSaid: ['it was in sync already when its turn came: nothing was changed'],
    },
  },
  {
    id: '45a',
    state: 'the tag moves while the node pulls',
    epoch: { serves: 'B', keeps: ['C'] },
    node: { index: 'A' },
    during: { match: /^GET \/dl\/simular\/win11/, action: async ({ serve }) => await serve('C') },
    expect: {
      image: 'stale',
      plan: 'pull',
      dry: 2,
      run: 0,
      outcome: 'superseded',
      runSaid: ['the tag moved during the run'],
    },
  },
  {
    id: '46',
    state: 'an interrupted pull left its file',
    epoch: { serves: 'A' },
    node: { index: 'A' },
    then: leftover,
    expect: { image: 'in-sync', dry: 0, run: 0, said: ['interrupted pulls left 5.00 kB in 1 file'] },
  },
];

/** Lets the first canary VMs vanish after they were cloned, as vk-cocoon does with VMs that are no pod's. */
async function removeCanariesOn(binary: string, times: number): Promise<void> {
  const real = `${binary}.real`;
  await rename(binary, real);
  const script = `#!/bin/sh
case " $* " in
  *" vm clone --output json --name reconcile-canary-"*) printf x >>'${binary}.clones' ;;
  *" vm inspect reconcile-canary-"*)
    if [ "$(wc -c <'${binary}.clones')" -le ${times} ]; then
      for name; do :; done
      '${real}' "$1" "$2" "$3" "$4" "$5" "$6" vm rm --force "$name" >/dev/null 2>&1
    fi ;;
esac
exec '${real}' "$@"
`;
  await writeFile(binary, script);
  await chmod(binary, 0o755);
}
