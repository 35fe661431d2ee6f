// Nodes that have epoch under another address than the config.
import type { Scenario } from './scenario.ts';
import type { Stage } from './scenario.ts';

const KEY = 'http://ALIAS/dl/simular/win11';
const HOT = 'simular/win11-hot:v1';
const NAMED = { epoch: { aliases: ['http://ALIAS/'] } };
const ON_ALIAS = { [HOT]: { pins: 'A', base: KEY } } as const;
const ADD = 'if that is the same epoch, add to the config: epoch: {aliases: [http://localhost:';

/** The pull was of the key that the node has, and brought no other. */
const keysAreAsTheyWere = async ({ node, spell }: Stage): Promise<void> => {
  const { stdout } = await node.cocoon('image', 'list', '-o', 'json');
  const keys = (JSON.parse(stdout) as { name: string }[]).map(({ name }) => name);
  if (keys.join(' ') !== spell(KEY)) throw new Error(`keys: ${keys.join(' ')}`);
};

export const UNDER_ALIASES: Scenario[] = [
  {
    id: '+alias',
    state: 'the node has epoch under an address that the config names as an alias, and the tag was pushed again',
    epoch: { serves: 'B' },
    node: { index: { [KEY]: 'A' } },
    config: NAMED,
    expect: { image: { [KEY]: 'stale' }, plan: 'pull', dry: 2, run: 0 },
    afterwards: keysAreAsTheyWere,
  },
  {
    id: '+alias-base',
    state: 'the same, and the base of a snapshot is what the tag serves',
    epoch: { serves: 'A' },
    node: { index: { [KEY]: 'A' }, snapshots: ON_ALIAS, damage: { A: 'gone' } },
    config: NAMED,
    expect: { image: { [KEY]: 'blob-missing' }, snapshot: 'base-drifted', plan: 'pull', dry: 2, run: 0 },
    afterwards: keysAreAsTheyWere,
  },
  {
    id: '+alias-restore',
    state: 'the same, but the tag has moved on: the base is restored from the address that the node uses',
    epoch: { serves: 'B', keeps: ['A'] },
    node: { index: { [KEY]: 'B' }, snapshots: ON_ALIAS },
    config: NAMED,
    args: ['--repair', 'restore'],
    expect: { image: { [KEY]: 'in-sync' }, snapshot: 'base-restorable', plan: 'restore', dry: 2, run: 0 },
    afterwards: async ({ node, spell }) => {
      const pulled = (await node.commands()).flat().filter((word) => word.startsWith('http'));
      const from = spell('http://ALIAS/v2/');
      if (pulled.length === 0 || pulled.some((url) => !url.startsWith(from))) throw new Error(pulled.join(' '));
    },
  },
  {
    id: '+alias-unknown',
    state: 'the node has epoch under an address that the config does not know',
    epoch: { serves: 'B' },
    node: { index: { [KEY]: 'A' } },
    expect: {
      image: { [KEY]: 'unmanaged' },
      dry: 3,
      run: 3,
      codes: ['EPOCH_ALIAS_SUSPECTED', 'NOTHING_JUDGED'],
      said: [ADD, 'they hold only http://localhost:'],
    },
  },
  {
    id: '+alias-unknown-beside',
    state: 'the same beside an image at the known address',
    epoch: { serves: { 'simular/win11:latest': 'B', 'simular/ubuntu:latest': 'C' } },
    node: { index: { [KEY]: 'A', '/dl/simular/ubuntu': 'C' } },
    expect: {
      image: { [KEY]: 'unmanaged', '/dl/simular/ubuntu': 'in-sync' },
      dry: 3,
      run: 3,
      codes: ['EPOCH_ALIAS_SUSPECTED'],
      said: [ADD],
    },
  },
  {
    id: '+alias-unknown-required',
    state: 'the same, and the image must be there: it may be, so it is not pulled',
    epoch: { serves: 'B' },
    node: { index: { [KEY]: 'A' } },
    config: { images: { discover: false, track: [{ image: 'simular/win11', presence: 'required' }] } },
    expect: { image: { [KEY]: 'unmanaged' }, dry: 3, run: 3, codes: ['EPOCH_ALIAS_SUSPECTED'] },
  },
  {
    id: '+alias-unknown-ignored',
    state: 'the same beside an image at the known address, and the config ignores what is at the other',
    epoch: { serves: { 'simular/win11:latest': 'B', 'simular/ubuntu:latest': 'C' } },
    node: { index: { [KEY]: 'A', '/dl/simular/ubuntu': 'C' } },
    config: { images: { ignore: ['http://ALIAS/dl/simular/*'] } },
    expect: { image: { '/dl/simular/ubuntu': 'in-sync' }, dry: 0, run: 0 },
  },
  {
    id: '+alias-unknown-base',
    state: 'a base that is gone is at an address of epoch that the config does not know: it is not called lost',
    epoch: { serves: 'A' },
    node: { index: { [KEY]: 'A' }, snapshots: ON_ALIAS, damage: { A: 'gone' } },
    expect: {
      image: { [KEY]: 'unmanaged' },
      snapshot: 'base-missing',
      dry: 2,
      run: 2,
      codes: ['EPOCH_ALIAS_SUSPECTED'],
      said: [ADD],
    },
  },
];
