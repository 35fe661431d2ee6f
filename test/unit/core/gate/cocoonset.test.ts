/** Manifests as strangers write them → questions; and every file that must not be read, in one clear line. */
import { mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { loadManifests } from '../../../../src/config/manifests.ts';
import { readManifests, type Manifests } from '../../../../src/core/gate/cocoonset.ts';
import { askedByOption, placeQuestions, snapshotAsked, type Question } from '../../../../src/core/gate/questions.ts';
import { localSnapshotName } from '../../../../src/core/reference.ts';

let dir: string;
beforeAll(async () => (dir = await mkdtemp(join(tmpdir(), 'manifests-'))));
afterAll(async () => await rm(dir, { recursive: true, force: true }));

const never = new AbortController().signal;

function stdinOf(text: string | Buffer): () => AsyncIterable<Uint8Array> {
  return async function* () {
    const bytes = Buffer.from(text as string);
    for (let i = 0; i < bytes.length; i += 50_000) yield await Promise.resolve(bytes.subarray(i, i + 50_000));
  };
}

async function read(text: string | Buffer, ...names: string[]): Promise<Manifests> {
  const { documents, refused } = await loadManifests([...names, '-'], stdinOf(text), never);
  const manifests = readManifests(documents);
  return { ...manifests, refused: [...refused, ...manifests.refused] };
}

async function load(...names: string[]): Promise<Manifests> {
  const { documents, refused } = await loadManifests(names, stdinOf(''), never);
  const manifests = readManifests(documents);
  return { ...manifests, refused: [...refused, ...manifests.refused] };
}

/** The one line that is said, with the directory of the test as DIR. */
async function problemOf(loading: Promise<Manifests>): Promise<string> {
  const message = await loading.then(
    ({ refused }) => refused.map(({ error }) => error.message).join(' and ') || 'nothing was wrong',
    (error: Error) => error.message,
  );
  expect(message).not.toContain('\n');
  return message.replaceAll(dir, 'DIR');
}

const HEAD = 'apiVersion: cocoonset.cocoonstack.io/v1\nkind: CocoonSet\nmetadata: {name: demo}\n';
const AGENT = 'agent: {image: "a/b:v1"}';
const SET = `${HEAD}spec: {${AGENT}}\n`;

const short = ({ source, set, role, toolbox, mode, image, pools, nodeName }: Question): unknown[] => [
  source,
  set,
  toolbox === null ? role : `${role} ${toolbox}`,
  mode,
  image,
  nodeName ?? pools?.join(),
];

describe('what a CocoonSet asks', () => {
  test('agent and toolboxes with the defaults of the resource, each with the line of its image', async () => {
    const { questions, sets, otherKinds } = await read(`# a comment
apiVersion: v1
kind: Service
---
${HEAD}spec:
  agent:
    replicas: 3
    image: simular/win11-hot:v1
    os: windows
  toolboxes:
    - name: db
      image: ghcr.io/cocoonstack/cocoon/ubuntu:24.04
    - name: again
      mode: clone
      image: simular/win11-hot
    - { name: legacy, mode: static, staticIP: 10.1.9.9, staticVMID: ext-1 }
`);
    expect(questions.map(short)).toEqual([
      ['stdin:11', 'default/demo', 'agent', 'clone', 'simular/win11-hot:v1', 'default'],
      ['stdin:15', 'default/demo', 'toolbox db', 'run', 'ghcr.io/cocoonstack/cocoon/ubuntu:24.04', 'default'],
      ['stdin:18', 'default/demo', 'toolbox again', 'clone', 'simular/win11-hot', 'default'],
    ]);
    expect({ sets, otherKinds }).toEqual({ sets: 1, otherKinds: ['Service'] });
  });

  test('pool, namespace and node; what is empty or null counts as left out', async () => {
    const of = async (metadata: string, spec: string): Promise<unknown> =>
      short((await read(SET.replace('{name: demo}', metadata).replace(AGENT, spec))).questions[0] as Question).slice(1);
    const agent = ['agent', 'clone', 'a/b:v1'];
    expect(await of('{name: x, namespace: prod}', `nodePool: gpu, ${AGENT}`)).toEqual(['prod/x', ...agent, 'gpu']);
    expect(await of('{name: x}', `nodePool: gpu, nodeName: n7, ${AGENT}`)).toEqual(['default/x', ...agent, 'n7']);
    expect(await of('{name: x}', `nodePool: "", nodeName: "", toolboxes: null, ${AGENT}`)).toEqual([
      'default/x',
      ...agent,
      'default',
    ]);
    expect(await of('{name: x}', 'agent: {mode: run, image: "https://e/dl/x"}')).toEqual([
      'default/x',
      'agent',
      'run',
      'https://e/dl/x',
      'default',
    ]);
  });

  test('forcePull matters for a run alone: a clone ignores it', async () => {
    const forced = async (agent: string): Promise<unknown> =>
      (await read(SET.replace(AGENT, `agent: {${agent}}`))).questions[0]?.forcePull;
    expect(await forced('image: x, forcePull: true')).toBe(false);
    expect(await forced('image: x, mode: run, forcePull: true')).toBe(true);
    expect(await forced('image: x, mode: run')).toBe(false);
  });

  test('lists are looked into, typed ones too, and JSON is YAML', async () => {
    const item = { metadata: { name: 'in' }, spec: { agent: { image: 'a/b' } } };
    const whole = { apiVersion: 'cocoonset.cocoonstack.io/v1', kind: 'CocoonSet', ...item };
    const inner = { apiVersion: 'v1', kind: 'List', items: [whole, { kind: 'Pod' }] };
    const typed = { apiVersion: whole.apiVersion, kind: 'CocoonSetList', items: [item] };
    for (const list of [inner, typed, { kind: 'List', items: [inner] }]) {
      const { questions } = await read(JSON.stringify(list, null, '\t'));
      expect(questions.map(({ image }) => image)).toEqual(['a/b']);
      expect(questions[0]?.source).toMatch(/^stdin:\d+$/);
    }
    const { questions } = await read(`kind: List\nitems:\n- ${SET.replaceAll('\n', '\n  ')}`);
    expect(questions[0]?.source).toBe('stdin:6');
  });

  test('anchors and merge keys, as kubectl takes them', async () => {
    const text = `${HEAD}x: &box {image: "a/tool", mode: clone}\nspec:\n  ${AGENT}\n  toolboxes:\n  - {name: t, <<: *box}\n`;
    expect((await read(text)).questions.map(short)).toEqual([
      ['stdin:6', 'default/demo', 'agent', 'clone', 'a/b:v1', 'default'],
      ['stdin:8', 'default/demo', 'toolbox t', 'clone', 'a/tool', 'default'],
    ]);
  });

  test('what is wrong in a merged map is said by the line that merges it, and of an anchor by its own', async () => {
    const box = `${HEAD}x: &box {image: 7}\nspec:\n  ${AGENT}\n  toolboxes:\n`;
    expect(await problemOf(read(`${box}  - {name: t, <<: *box}\n`))).toMatch(/^stdin:8: spec\.toolboxes\[0\]\.image: /);
    expect(await problemOf(read(`${box}  - *box\n`))).toMatch(/^stdin:8: spec\.toolboxes\[0\]\.image: /);
    expect(await problemOf(read(`${box}  - <<: 7\n`))).toBe('stdin:8: << merges maps, and this is none');
    expect(await problemOf(read(`${box}  - <<: [*box, *bax]\n`))).toBe(
      'stdin:8: the alias *bax has no anchor before it',
    );
  });

  test.each([
    ['a/b', 'a/b:latest', 'a/b'],
    ['a/b:', 'a/b:latest', 'a/b'],
    ['a/b:latest', 'a/b:latest', 'a/b'],
    ['a/b:v1', 'a/b:v1', 'a/b:v1'],
    ['host:5000/x:v1', 'host:5000/x:v1', 'host:5000/x:v1'],
    ['repo@sha256:ab', 'repo@sha256:ab', 'repo@sha256:ab'],
  ])('a clone of %s asks epoch for %s, and the node for %s', (image, asked, local) => {
    expect(snapshotAsked(image)).toBe(asked);
    expect(localSnapshotName(asked)).toBe(local);
  });
});

describe('a manifest that is not understood is refused by file and line', () => {
  test.each([
    ['a: [1\nb: 2\n', /^stdin:2: no valid YAML: Flow sequence/],
    ['{{ template }}\n', /^stdin:1: no valid YAML/],
    ['a: 1\na: 2\n', 'stdin:2: the key a is given twice'],
    ['a:\n\t- b\n', /^stdin:2: no valid YAML: Tabs/],
    ['hello\n', 'stdin:1: no Kubernetes object: it is no map'],
    ['- 1\n', 'stdin:1: no Kubernetes object: it is no map'],
    ['---\na: 1\n', 'stdin:2: no Kubernetes object: it has no kind'],
    ['kind: 7\n', 'stdin:1: no Kubernetes object: it has no kind'],
    [SET.replace('cocoonset.', 'other.'), /^stdin:1: apiVersion: a CocoonSet of "other\..*" is not known/],
    [
      SET.replace(/^.*\n/, ''),
      'stdin:1: apiVersion: a CocoonSet of null is not known, only of cocoonset.cocoonstack.io/v1',
    ],
    [SET.replace('{name: demo}', '{}'), 'stdin:3: metadata.name: is required'],
    [HEAD, 'stdin:1: spec: is required'],
    [`${HEAD}spec: {}\n`, 'stdin:4: spec.agent: is required'],
    [`${HEAD}spec:\n  agent: []\n`, 'stdin:5: spec.agent: agent is no object'],
    [`${HEAD}spec:\n  agent:\n    mode: run\n`, 'stdin:5: spec.agent.image: is required'],
    [`${HEAD}spec:\n  agent:\n    image: ""\n`, 'stdin:6: spec.agent.image: is required'],
    [`${HEAD}spec:\n  agent:\n    image: 7\n`, 'stdin:6: spec.agent.image: image is no string'],
    [SET.replace('v1"}', 'v1", mode: static}'), 'stdin:4: spec.agent.mode: "static" is none of clone, run'],
    [
      SET.replace('v1"}', 'v1"}, toolboxes: [{mode: fork, image: x}]'),
      /toolboxes\[0\]\.mode: "fork" is none of run, clone/,
    ],
    [SET.replace('v1"}', 'v1"}, toolboxes: [{name: x}]'), 'stdin:4: spec.toolboxes[0].image: is required'],
    [SET.replace('v1"}', 'v1"}, toolboxes: {a: b}'), 'stdin:4: spec.toolboxes: toolboxes is no list'],
    [SET.replace('v1"}', 'v1"}, nodePool: 7'), 'stdin:4: spec.nodePool: nodePool is no string'],
    [SET.replace('a/b', 'a\\u0007b'), /spec\.agent\.image: image is too long or holds control characters$/],
    [`${SET}---\nkind: List\nitems: 7\n`, 'stdin:7: items: items is no list'],
    [Buffer.from([0x6b, 0xff, 0xfe]), 'stdin: is not UTF-8 text'],
  ])('%#', async (text, expected) => {
    const said = await problemOf(read(text));
    if (typeof expected === 'string') expect(said).toBe(expected);
    else expect(said).toMatch(expected);
  });

  test('and hides nothing beside it: not in its list, its file or its directory', async () => {
    await mkdir(join(dir, 'mixed'), { recursive: true });
    await writeFile(join(dir, 'mixed/a.yaml'), 'kind: [\n');
    await writeFile(join(dir, 'mixed/b.yaml'), SET.replace('demo', 'in-b'));
    const items = JSON.stringify([{ kind: 7 }, JSON.parse('{"kind": "Pod"}')]);
    const text = `${SET}---\na: 1\na: 2\n---\nkind: List\nitems: ${items}\n---\n${SET.replace('demo', 'last')}`;
    const { questions, refused, otherKinds } = await read(text, join(dir, 'gone.yaml'), join(dir, 'mixed'));
    expect(questions.map(({ set }) => set)).toEqual(['default/in-b', 'default/demo', 'default/last']);
    expect(otherKinds).toEqual(['Pod']);
    expect(refused.map(({ source }) => source.replace(dir, 'DIR'))).toEqual([
      'DIR/gone.yaml',
      'DIR/mixed/a.yaml:2',
      'stdin:7',
      'stdin:10',
    ]);
  });

  test.each([
    ['an alias bomb', bomb(), /^stdin:\d+: what begins here is more than 1000000 values, aliases and merges included$/],
    ['one in a resource that nobody asks for', bomb('kind: Other'), /what begins here is more than 1000000 values/],
    [
      'a wide map merged often',
      `a: &a {${Array.from({ length: 40_000 }, (_, i) => `k${i}: 1`).join(', ')}}\nb: {<<: [${'*a, '.repeat(99)}]}\nkind: X\n`,
      /^stdin:2: what begins here is more than 1000000 values, aliases and merges included$/,
    ],
    ['a tower of aliases', tower(), /^stdin:\d+: what begins here is nested more than 200 deep, aliases included$/],
    ['a ring of aliases', 'a: &a [*a]\n', 'stdin:1: the alias *a stands for what it is part of'],
    [
      'a document of very many words',
      `[${'1,'.repeat(1_600_000)}]`,
      'stdin:1: a document of more than 3000000 tokens of YAML',
    ],
    ['deep flow', '['.repeat(1_000_000), 'stdin:1: nested more than 200 deep'],
    ['deep maps', '{a: '.repeat(250_000), 'stdin:1: nested more than 200 deep'],
    ['deep blocks on one line', `${'- '.repeat(500_000)}x`, 'stdin:1: nested more than 200 deep'],
    [
      'lists of lists',
      `${'{kind: List, items: ['.repeat(5)}{kind: Pod}${']}'.repeat(5)}`,
      /lists are nested more than 3 deep/,
    ],
    ['many documents', '---\nkind: Pod\n'.repeat(10_001), 'there are more than 10000 documents'],
    ['a flood', Buffer.alloc(16 * 2 ** 20 + 1, 0x20), 'stdin: is larger than 16 MiB'],
  ])('%s', async (_, text, expected) => {
    const said = await problemOf(read(text));
    if (typeof expected === 'string') expect(said).toBe(expected);
    else expect(said).toMatch(expected);
  });

  test('many keys in one map are read', async () => {
    const keys = Array.from({ length: 60_000 }, (_, i) => `  k${i}: v`).join('\n');
    expect((await read(`kind: ConfigMap\ndata:\n${keys}\n`)).otherKinds).toEqual(['ConfigMap']);
  });
});

function bomb(head = 'apiVersion: cocoonset.cocoonstack.io/v1\nkind: CocoonSet'): string {
  const levels = 'bcdefgh'.split('').map((name, i) => `${name}: &${name} [${`*${'abcdefg'[i]},`.repeat(10)}]`);
  return `${head}\na: &a [${'x,'.repeat(10)}]\n${levels.join('\n')}\n`;
}

function tower(): string {
  return `a0: &a0 [x]\n${Array.from({ length: 300 }, (_, i) => `a${i + 1}: &a${i + 1} [*a${i}]`).join('\n')}\n`;
}

test('reading is done in slices: what ends the command ends it too', async () => {
  const controller = new AbortController();
  const reason = new Error('the time is over');
  const large = `kind: X\ndata: [${'1, '.repeat(400_000)}]\n`;
  const reading = loadManifests(['-'], stdinOf(large), controller.signal).catch((error: unknown) => error);
  setTimeout(() => controller.abort(reason), 0);
  expect(await reading).toBe(reason);
});

test('a scalar alias cannot explode, and may stand often', async () => {
  const sets = Array.from({ length: 300 }, (_, i) => `  - {name: t${i}, image: *image}`).join('\n');
  const text = `${HEAD}x: &image "a/tool"\nspec:\n  ${AGENT}\n  toolboxes:\n${sets}\n`;
  expect((await read(text)).questions).toHaveLength(301);
});

describe('files and directories', () => {
  beforeAll(async () => {
    await mkdir(join(dir, 'sets/below'), { recursive: true });
    await mkdir(join(dir, 'none'));
    await writeFile(join(dir, 'sets/b.yml'), SET);
    await writeFile(join(dir, 'sets/a.yaml'), SET.replace('demo', 'first'));
    await writeFile(join(dir, 'sets/c.json'), JSON.stringify({ kind: 'Pod' }));
    await writeFile(join(dir, 'sets/notes.txt'), 'no: [yaml');
    await writeFile(join(dir, 'sets/below/d.yaml'), 'no: [yaml');
    await writeFile(join(dir, 'outside.yaml'), SET);
    await writeFile(join(dir, 'large.yaml'), Buffer.alloc(2 ** 20 + 1, 0x23));
    await writeFile(join(dir, 'empty.yaml'), '');
  });

  test('a directory gives its own manifests by name, and nothing below', async () => {
    const { questions, otherKinds } = await load(join(dir, 'sets'));
    expect(questions.map(({ source, set }) => [source.replace(dir, 'DIR'), set])).toEqual([
      ['DIR/sets/a.yaml:4', 'default/first'],
      ['DIR/sets/b.yml:4', 'default/demo'],
    ]);
    expect(otherKinds).toEqual(['Pod']);
  });

  test('files and stdin together', async () => {
    const { questions } = await read(SET, join(dir, 'outside.yaml'));
    expect(questions.map(({ source }) => source.replace(dir, 'DIR'))).toEqual(['DIR/outside.yaml:4', 'stdin:4']);
  });

  test('what is empty asks nothing', async () => {
    expect(await load(join(dir, 'empty.yaml'))).toEqual({ questions: [], refused: [], sets: 0, otherKinds: [] });
    expect(await read('# nothing\n---\n---\n')).toEqual({ questions: [], refused: [], sets: 0, otherKinds: [] });
  });

  test('a symbolic link may lead anywhere in the directory, but not out of it', async () => {
    const links = join(dir, 'links');
    await mkdir(join(links, '..data'), { recursive: true });
    await writeFile(join(links, '..data/set.yaml'), SET);
    await symlink('..data/set.yaml', join(links, 'set.yaml'));
    expect((await load(links)).sets).toBe(1);
    expect((await load(join(links, 'set.yaml'))).sets).toBe(1);

    await symlink('../outside.yaml', join(links, 'escape.yaml'));
    const out = /^DIR\/links\/escape\.yaml: a symbolic link leads out of DIR\/links, to DIR\/outside\.yaml/;
    expect(await problemOf(load(links))).toMatch(out);
    expect(await problemOf(load(join(links, 'escape.yaml')))).toMatch(out);
  });

  test('nor may a directory that is itself a link out of the working directory', async () => {
    const work = join(dir, 'checkout');
    await mkdir(work);
    await symlink('../sets', join(work, 'deploy'));
    await symlink('gone', join(work, 'dangling.yaml'));
    await symlink('loop.yaml', join(work, 'loop.yaml'));
    const before = process.cwd();
    process.chdir(work);
    try {
      expect(await problemOf(load('deploy'))).toMatch(/^deploy: a symbolic link leads out of DIR\/checkout/);
      expect(await problemOf(load('deploy/a.yaml'))).toMatch(/^deploy\/a\.yaml: a symbolic link leads out/);
      expect(await problemOf(load('dangling.yaml'))).toBe('dangling.yaml: is a symbolic link to nothing');
      expect(await problemOf(load('loop.yaml'))).toBe('loop.yaml: is a symbolic link to itself');
      expect((await load('../sets/a.yaml')).sets).toBe(1);
    } finally {
      process.chdir(before);
    }
  });

  test.each([
    [['DIR/gone.yaml'], 'DIR/gone.yaml: does not exist'],
    [['DIR/none'], 'DIR/none: the directory holds no .yaml, .yml or .json file'],
    [['DIR/large.yaml'], 'DIR/large.yaml: is larger than 1024 KiB'],
    [['/dev/zero'], '/dev/zero: is not a regular file'],
    [['-', '-'], 'stdin can be read only once'],
  ])('%s', async (names, expected) => {
    expect(await problemOf(load(...names.map((name) => name.replace('DIR', dir))))).toBe(expected);
  });
});

describe('the nodes of a question', () => {
  const inventory = [
    { name: 'n1', pool: 'default' },
    { name: 'n2', pool: 'default' },
    { name: 'g1', pool: 'gpu' },
  ];
  const ask = (over: Partial<Question>): Question => ({
    ...askedByOption('--snapshot', 'a/b', null),
    source: 'x.yaml:4',
    ...over,
  });
  const place = (over: Partial<Question>, selected = inventory): unknown => {
    const { placed, refused } = placeQuestions([ask(over)], inventory, selected);
    return [...placed.map(({ pool, nodes }) => [pool, ...nodes]), ...refused.map(({ error }) => error.message)];
  };

  test('those of its pool; of every pool one by one where it names none; the one node that it names', () => {
    expect(place({ pools: ['default'] })).toEqual([['default', 'n1', 'n2']]);
    expect(place({ pools: null })).toEqual([
      ['default', 'n1', 'n2'],
      ['gpu', 'g1'],
    ]);
    expect(place({ pools: ['default'], nodeName: 'g1' })).toEqual([['gpu', 'g1']]);
    expect(place({ pools: ['default'] }, inventory.slice(1))).toEqual([['default', 'n2']]);
  });

  test('a question that would be asked of nobody is refused', () => {
    expect(place({ pools: ['gpus'] })).toEqual(['x.yaml:4: no node is in pool "gpus" (pools: default, gpu)']);
    expect(place({ nodeName: 'n9' })).toEqual(['x.yaml:4: nodeName "n9" is none of 3 nodes']);
    expect(place({ pools: ['gpu'] }, inventory.slice(0, 2))).toEqual([
      'the gate has nothing to ask: x.yaml:4: no node of pool "gpu" is left after the --node filters',
    ]);
    expect(place({ nodeName: 'g1' }, inventory.slice(0, 2))).toEqual([
      'the gate has nothing to ask: x.yaml:4: node "g1", which it names, is left after the --node filters',
    ]);
    // and hides none beside it
    expect(place({ pools: ['gpus', 'gpu'] })).toEqual([['gpu', 'g1'], expect.stringContaining('pool "gpus"')]);
  });
});
