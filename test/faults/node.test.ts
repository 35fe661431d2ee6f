// A node's trouble is an error of that node alone: a stable code, a hint, and all other nodes are read and judged.
import { appendFile, chmod, mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { parse } from 'yaml';
import type { NodeReport, Report } from '../../src/core/model/report.ts';
import { makeQcow2 } from '../doubles/cocoon/fixtures.ts';
import type { Artifact } from '../doubles/registry-content.ts';
import {
  answer,
  dieAfter,
  flood,
  freshKeyPair,
  garbage,
  silent,
  startTcpServer,
  type ExecHook,
  type TcpServerHandle,
} from '../doubles/ssh-server.ts';
import { startFleet, type Fleet, type NodeSpec, type Operator } from '../fleet/world.ts';
import { imageOn, nodeOf, reconcile, report, snapshotOn } from '../support/reconcile.ts';
import { treeOf } from '../support/tree.ts';

const isRoot = process.getuid?.() === 0;

/** What no terminal must get to see: every control character but the line end, and what turns the writing around. */
// oxlint-disable-next-line no-control-regex -- finding control characters is the point
const HOSTILE = /[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]/;

/** Lays keys over the entries of some nodes in the config. */
async function changeNodes(fleet: Fleet, changes: Record<string, Record<string, unknown>>): Promise<void> {
  const { nodes } = parse(await readFile(fleet.configFile, 'utf8')) as { nodes: { name: string }[] };
  await fleet.writeConfig({ nodes: nodes.map((node) => ({ ...node, ...changes[node.name] })) });
}

/** Changes the JSON index of a node's cloud images as text. */
async function changeIndex(fleet: Fleet, name: string, change: (text: string) => string): Promise<void> {
  const file = join(fleet.node(name).rootDir, 'cloudimg', 'db', 'images.json');
  await writeFile(file, change(await readFile(file, 'utf8')));
}

describe('real nodes', () => {
  const JSON_NODES = [
    'fine',
    'truncated',
    'empty-index',
    'wrong-digest',
    'wrong-table',
    'null-entry',
    'ansi-reference',
    'bidi-reference',
    'ansi-snapshot',
    'newline-file',
    'relative-backing',
    'binary-config',
    'refuses',
    'frozen',
    'stranger',
    'changed',
    'no-key',
    'no-cocoon',
    'no-root',
    'other-root',
    'needs-root',
    'sudo-refused',
    'converting',
    'closed-directory',
  ];
  const SQLITE_NODES = ['fine-sqlite', 'stray-equal', 'stray-differs', 'stray-corrupt', 'corrupt-db'];
  const OTHERS = ['no-store', 'silent', 'garbage'];

  const snapshot = 'simular/win11-hot-testing:v1-20260509';
  let fleet: Fleet;
  let image: Artifact;
  let older: Artifact;
  let reference: string;
  const others: TcpServerHandle[] = [];
  let operator: Operator | null = null;
  let dry: Report;

  const rootOf = (name: string): string => fleet.node(name).rootDir;
  const node = (name: string): NodeReport => nodeOf(dry, name);

  beforeAll(async () => {
    const specs: NodeSpec[] = [
      ...[...JSON_NODES, ...OTHERS].map((name) => ({ name })),
      ...SQLITE_NODES.map((name) => ({ name, store: 'sqlite' as const })),
    ];
    fleet = await startFleet({ nodes: specs });
    reference = `${fleet.epoch.url}/dl/simular/win11`;
    older = await fleet.epoch.pushImage('simular/win11', 'latest', { content: makeQcow2({ seed: 'April' }) });
    await fleet.node('stray-differs').pull(reference);
    image = await fleet.epoch.pushImage('simular/win11', 'latest', { content: makeQcow2({ seed: 'May' }) });
    const imageDigest = image.contentDigest ?? '';
    for (const name of [...JSON_NODES, ...SQLITE_NODES]) await fleet.node(name).pull(reference, true);
    for (const name of ['fine', 'fine-sqlite', 'ansi-snapshot', 'binary-config']) {
      await fleet.node(name).addSnapshot({ name: snapshot, image: reference, imageDigest });
    }
    await fleet.node('relative-backing').addSnapshot({
      name: snapshot,
      image: reference,
      imageDigest,
      backing: 'base.qcow2',
    });

    // The network and SSH.
    for (const speak of [silent, garbage]) others.push(await startTcpServer(speak));
    await fleet.node('refuses').stop();
    await fleet.node('frozen').freeze();
    await fleet.node('changed').changeHostKey();
    const strangersKey = join(fleet.dir, 'strangers-key');
    await writeFile(strangersKey, freshKeyPair().private, { mode: 0o600 });
    const noKnownHosts = join(fleet.dir, 'no_known_hosts');
    await writeFile(noKnownHosts, '');
    if (isRoot) operator = await fleet.createOperator({ sudo: false });
    await changeNodes(fleet, {
      silent: { port: others[0]?.port, connectTimeout: '1s' },
      garbage: { port: others[1]?.port },
      frozen: { connectTimeout: '1s' },
      stranger: { knownHostsFile: noKnownHosts },
      'no-key': { identityFile: strangersKey },
      'no-cocoon': { binary: '/nowhere/cocoon' },
      'no-root': { rootDir: '/nowhere/cocoon' },
      'other-root': { rootDir: fleet.node('other-root').runDir },
      ...(operator === null
        ? {}
        : {
            'needs-root': { user: operator.name, sudo: false },
            'closed-directory': { user: operator.name, sudo: false },
            'sudo-refused': { user: operator.name },
          }),
    });

    // The store.
    await changeIndex(fleet, 'truncated', (text) => text.slice(0, text.length / 2));
    await changeIndex(fleet, 'empty-index', () => '');
    await changeIndex(fleet, 'wrong-digest', (text) => text.replace(/"content_sum":\s*"[^"]*"/, '"content_sum":17'));
    await changeIndex(fleet, 'wrong-table', () => '{"images":[]}');
    await changeIndex(fleet, 'null-entry', (text) => text.replace('"images":{', '"images":{"gone":null,'));
    await changeIndex(fleet, 'ansi-reference', (text) =>
      text.replaceAll(reference, 'evil\\u001b[2J\\u001b]0;owned\\u0007'),
    );
    await changeIndex(fleet, 'bidi-reference', (text) => text.replaceAll(reference, 'evil\\u202egpj.exe'));
    const records = join(rootOf('ansi-snapshot'), 'snapshot', 'db', 'snapshots.json');
    await writeFile(records, (await readFile(records, 'utf8')).replaceAll(snapshot, '\\u001b[31mred\\u001b[0m'));
    await writeFile(join(rootOf('newline-file'), 'cloudimg', 'blobs', 'x\nstore converting\nfailed y.qcow2'), 'z');
    await mkdir(join(rootOf('converting'), 'meta'), { recursive: true });
    await writeFile(join(rootOf('converting'), 'meta', 'meta-convert.manifest'), '{}');
    for (const directory of ['', 'snapshot', 'cloudimg/db', 'oci', 'oci/db', 'snapshot/db', 'snapshot/localfile']) {
      await chmod(join(rootOf('closed-directory'), directory), 0o755).catch(() => undefined);
    }
    const snapshotDirs = join(rootOf('binary-config'), 'snapshot', 'localfile');
    const [id = ''] = await readdir(snapshotDirs);
    await appendFile(join(snapshotDirs, id, 'config.json'), Buffer.from([0, 0xff, 10]));
    const stray = async (name: string, text: string): Promise<void> => {
      await mkdir(join(rootOf(name), 'cloudimg', 'db'), { recursive: true });
      await writeFile(join(rootOf(name), 'cloudimg', 'db', 'images.json'), text);
    };
    const indexOf = (digest: string): string =>
      JSON.stringify({ images: { [reference]: { ref: reference, content_sum: digest, size: 1, created_at: '' } } });
    await stray('stray-equal', indexOf(imageDigest));
    await stray('stray-differs', indexOf(older.contentDigest ?? ''));
    await stray('stray-corrupt', '{"images":');
    await rm(join(rootOf('corrupt-db'), 'meta', 'meta.db-wal'), { force: true });
    await writeFile(
      join(rootOf('corrupt-db'), 'meta', 'meta.db'),
      'this is no database, and longer than its header is',
    );

    dry = await report(fleet, '--dry-run');
  });
  afterAll(async () => {
    for (const other of others) await other.stop();
    await fleet?.down();
  });

  test.each(['fine', 'fine-sqlite'])('leave the others alone: %s is in sync, and its snapshot clonable', (name) => {
    expect(node(name)).toMatchObject({ status: 'observed', error: null });
    expect(imageOn(dry, name)).toMatchObject({ verdict: 'in-sync', have: image.contentDigest });
    expect(snapshotOn(dry, name).verdict).toBe('clonable');
  });

  describe('that cannot be reached', () => {
    test.each([
      ['refuses', 'SSH_UNREACHABLE', /connection refused/, /sshd running/],
      ['silent', 'SSH_TIMEOUT', /the SSH handshake took longer than 1.0 s/, /ssh\.connectTimeout/],
      ['frozen', 'SSH_TIMEOUT', /took longer than 1.0 s/, /ssh\.connectTimeout/],
      ['garbage', 'SSH_UNREACHABLE', /cannot be reached/, /sshd running/],
      ['no-key', 'SSH_AUTH_FAILED', /accepted none of the identities \(.*strangers-key\)/, /authorized_keys/],
      ['changed', 'SSH_HOST_KEY_MISMATCH', /known_hosts:\d+/, /remove line \d+ of/],
    ])('%s: %s', (name, code, message, hint) => {
      expect(node(name)).toMatchObject({ status: 'unreachable', error: { code } });
      expect(node(name).error?.message).toMatch(message);
      expect(node(name).error?.hint).toMatch(hint);
      expect(node(name)).toMatchObject({ images: [], snapshots: [], cocoonVersion: null, indexSource: null });
    });

    test('because its host key is unknown are told the ssh-keyscan line that adds it', () => {
      const { port } = fleet.node('stranger');
      expect(node('stranger')).toMatchObject({ status: 'unreachable', error: { code: 'SSH_HOST_KEY_UNKNOWN' } });
      expect(node('stranger').error?.hint).toMatch(
        `ssh-keyscan -p ${port} 127.0.0.1 >> ${join(fleet.dir, 'no_known_hosts')}`,
      );
    });
  });

  describe('that cannot be read', () => {
    test.each([
      ['no-cocoon', 'NODE_COCOON_MISSING', /there is no cocoon \(\/nowhere\/cocoon\)/],
      ['no-root', 'NODE_STORE_MISSING', /there is no store of cocoon under \/nowhere\/cocoon/],
      ['other-root', 'NODE_STORE_MISSING', /there is no store of cocoon under .*\/nodes\/other-root\/run/],
      ['truncated', 'NODE_INDEX_CORRUPT', /cloudimg\/db\/images\.json is no JSON/],
      ['empty-index', 'NODE_INDEX_CORRUPT', /cloudimg\/db\/images\.json is no JSON/],
      ['wrong-digest', 'NODE_INDEX_CORRUPT', /content_sum is no sha256 digest/],
      ['wrong-table', 'NODE_INDEX_CORRUPT', /images\.json: images is no object/],
      ['corrupt-db', 'NODE_INDEX_CORRUPT', /cocoon image list failed/],
      ['ansi-reference', 'NODE_INDEX_CORRUPT', /control characters/],
      ['ansi-snapshot', 'NODE_INDEX_CORRUPT', /control characters/],
      ['converting', 'NODE_BUSY', /conversion of the metadata store is in flight/],
    ])('%s: %s', (name, code, message) => {
      expect(node(name)).toMatchObject({ status: 'unreadable', error: { code } });
      expect(node(name).error?.message).toMatch(message);
      expect(node(name).error?.hint).not.toBeNull();
      expect(node(name)).toMatchObject({ images: [], snapshots: [], indexSource: null });
    });

    test.skipIf(!isRoot).each([
      ['needs-root', /permission denied: .*\/nodes\/needs-root\/root/],
      ['closed-directory', /permission denied: .*\/nodes\/closed-directory\/root\/cloudimg/],
      ['sudo-refused', /permission denied: sudo: a password is required/],
    ])('%s by a user who is not root: NODE_PERMISSION_DENIED, with the line for sudoers', (name, message) => {
      expect(node(name)).toMatchObject({ status: 'unreadable', error: { code: 'NODE_PERMISSION_DENIED' } });
      expect(node(name).error?.message).toMatch(message);
      expect(node(name).error?.hint).toContain(`${operator?.name} ALL=(root) NOPASSWD: ALL`);
    });
  });

  describe('whose store is odd but can be read', () => {
    test('an entry that is null is none', () => {
      expect(node('null-entry').status).toBe('observed');
      expect(node('null-entry').images).toHaveLength(1);
      expect(imageOn(dry, 'null-entry').verdict).toBe('in-sync');
    });

    test('a JSON index beside meta.db does not count, and that is said', () => {
      expect(node('stray-equal')).toMatchObject({ status: 'observed', indexSource: 'sqlite' });
      expect(node('stray-equal').notes).toEqual([expect.stringContaining('meta.db, which is the one that counts')]);
      expect(imageOn(dry, 'stray-equal').verdict).toBe('in-sync');
    });

    test('a JSON index beside meta.db that names another digest leaves that image unknown', () => {
      expect(node('stray-differs').status).toBe('observed');
      const row = imageOn(dry, 'stray-differs');
      expect(row).toMatchObject({ verdict: 'unknown', plan: null, have: image.contentDigest });
      expect(row.reason).toContain('name different digests');
    });

    test('a damaged JSON index beside meta.db does not count either', () => {
      expect(node('stray-corrupt')).toMatchObject({ status: 'observed', indexSource: 'sqlite', error: null });
      expect(node('stray-corrupt').notes).toEqual([expect.stringContaining('which is the one that counts')]);
      expect(imageOn(dry, 'stray-corrupt').verdict).toBe('in-sync');
    });

    test('a store that holds nothing yet is an empty node, and that is said', () => {
      expect(node('no-store')).toMatchObject({ status: 'observed', indexSource: 'none', error: null, images: [] });
      expect(node('no-store').notes).toEqual(['cocoon has no store there yet']);
    });

    test('a file name with line ends cannot pass for lines of the answer', () => {
      expect(node('newline-file')).toMatchObject({ status: 'observed', error: null });
      expect(imageOn(dry, 'newline-file').verdict).toBe('in-sync');
    });

    test('an overlay on a relative path breaks its snapshot and nothing else', () => {
      expect(node('relative-backing')).toMatchObject({ status: 'observed', error: null });
      expect(imageOn(dry, 'relative-backing').verdict).toBe('in-sync');
      expect(snapshotOn(dry, 'relative-backing')).toMatchObject({
        verdict: 'broken',
        plan: null,
        reason: expect.stringContaining('base.qcow2'),
      });
    });

    test('a configuration with bytes that are no text breaks its snapshot and nothing else', () => {
      expect(node('binary-config')).toMatchObject({ status: 'observed', error: null });
      expect(snapshotOn(dry, 'binary-config')).toMatchObject({
        verdict: 'broken',
        reason: expect.stringContaining('config.json'),
      });
    });
  });

  test('an incomplete picture beside a broken snapshot is 2, and without it 3', async () => {
    expect(dry.run.exitCode).toBe(2);
    const part = await report(fleet, '--dry-run', '-w', 'fine', '-w', 'truncated', '-w', 'refuses');
    expect(part.run.exitCode).toBe(3);
    expect(part.summary.nodes).toEqual({ total: 3, observed: 1, unreachable: 1, unreadable: 1 });
  });

  test('hostile names never reach the terminal', async () => {
    expect(node('bidi-reference').images[0]).toMatchObject({ verdict: 'unmanaged', reference: 'evil\u202egpj.exe' });
    const only = ['ansi-reference', 'bidi-reference', 'ansi-snapshot', 'newline-file', 'binary-config'];
    const { stdout, stderr } = await reconcile(
      fleet,
      '--dry-run',
      '--verbose',
      '--no-color',
      ...only.flatMap((name) => ['-w', name]),
    );
    for (const name of only) expect(stdout).toContain(name);
    expect(stdout).toContain('evilgpj.exe');
    expect(stdout).not.toMatch(HOSTILE);
    expect(stderr).not.toMatch(HOSTILE);
  });

  test('a run writes nothing to a node that it could not read', async () => {
    const trees = async (): Promise<unknown> =>
      await Promise.all(['truncated', 'converting', 'wrong-table'].map((name) => treeOf(rootOf(name))));
    const before = await trees();
    const ran = await report(fleet, '-w', 'truncated', '-w', 'converting', '-w', 'wrong-table', '-w', 'fine');
    expect(ran.run).toMatchObject({ mode: 'run', exitCode: 3 });
    expect(await trees()).toEqual(before);
  });
});

describe('nodes whose answers are not what the probe says', () => {
  /** The words of the probe's command: what a machine in the hands of a stranger could make of them. */
  const nonceOf = (command: string): string => / ([0-9a-f]{16}) \S+ \S+ \d+$/.exec(command)?.[1] ?? '';
  const forged =
    (lines: (nonce: string) => string): ((command: string) => ExecHook) =>
    (command) =>
      answer(lines(nonceOf(command)));
  const framed = (body: string): ((command: string) => ExecHook) =>
    forged((nonce) => `cocoon-probe 1 ${nonce}\n${body}\ncocoon-probe end ${nonce}\n`);
  const index = JSON.stringify({ images: { x: { content_sum: `sha256:${'a'.repeat(64)}` } } });

  const HOOKS: Record<string, (command: string) => ExecHook> = {
    chatty: forged(
      (nonce) =>
        `Welcome!\ncocoon-probe 1 ${nonce}\nmachine x86_64\nversion v0.3.8\nfree 1\ncocoon-probe end ${nonce}\n`,
    ),
    'talks-after-it': (command) => (channel, words) => {
      const nonce = nonceOf(words);
      channel.write(`cocoon-probe 1 ${nonce}\nmachine x86_64\nversion v0.3.8\nfree 1\ncocoon-probe end ${nonce}\n`);
      flood(channel, command);
    },
    closed: () => answer('\nThis account is currently not available.\nGood bye.\n', 1),
    talks: () => answer('Welcome to this machine\n'),
    'sudo-missing': () => answer('', 127, 'sh: 1: sudo: not found\n'),
    torn: forged((nonce) => `cocoon-probe 1 ${nonce}\nmachine x86_64\nversion v0.3.8\nfree 1000\n`),
    'torn-in-a-file': forged(
      (nonce) =>
        `cocoon-probe 1 ${nonce}\nversion v0.3.8\nfile\ncloudimg/db/images.json\n|${index}\n|cocoon-probe end ${nonce}\n`,
    ),
    replayed: forged(() => 'cocoon-probe 1 0000000000000000\nfree 1000\ncocoon-probe end 0000000000000000\n'),
    floods: () => flood,
    dies: () => dieAfter('cocoon-probe 1 '),
    'strange-line': framed('machine x86_64\nversion v0.3.8\n\u001b[2Jowned 17\nfree 1000'),
    'no-free-space': framed('machine x86_64\nversion v0.3.8'),
    'free-space-in-words': framed('machine x86_64\nversion v0.3.8\nfree plenty'),
    'ansi-version': framed('machine x86_64\nversion v0.3.8\u001b[2J\nfree 1000'),
    'ansi-denied': framed('denied /var/\u001b[2Jlib\nfree 1000'),
    deep: framed(`machine x86_64\nversion v0.3.8\nfile\ncloudimg/db/images.json\n|${'['.repeat(200_000)}\nfree 1000`),
    prototype: framed(
      `machine x86_64\nversion v0.3.8\nfile\ncloudimg/db/images.json\n|${index.replace('"x"', '"__proto__"')}\nfree 1000`,
    ),
  };
  let fleet: Fleet;
  let dry: Report;

  beforeAll(async () => {
    const hooked = Object.entries(HOOKS).map(([name, hook]): NodeSpec => ({ name, onExec: hook }));
    fleet = await startFleet({ transport: 'in-process', nodes: [{ name: 'fine' }, ...hooked] });
    await fleet.epoch.pushImage('simular/win11', 'latest', { content: makeQcow2({ seed: 'May' }) });
    await fleet.node('fine').pull(`${fleet.epoch.url}/dl/simular/win11`);
    await changeNodes(fleet, { 'sudo-missing': { sudo: true } });
    dry = await report(fleet, '--dry-run');
  });
  afterAll(async () => await fleet?.down());

  test('leave the others alone', () => {
    expect(imageOn(dry, 'fine').verdict).toBe('in-sync');
    expect(dry.run.exitCode).toBe(3);
  });

  test('what a login shell says before the answer does no harm', () => {
    expect(nodeOf(dry, 'chatty')).toMatchObject({ status: 'observed', cocoonVersion: 'v0.3.8', freeBytes: 1 });
  });

  test('what comes after it is not waited for, and is no part of it', () => {
    expect(nodeOf(dry, 'talks-after-it')).toMatchObject({ status: 'observed', freeBytes: 1 });
  });

  test.each([
    ['closed', /torn: its end mark is missing; it said: This account is currently not available\.$/],
    ['talks', /torn: its end mark is missing; it said: Welcome to this machine$/],
    ['torn', /torn: its end mark is missing/],
    ['torn-in-a-file', /torn: its end mark is missing/],
    ['replayed', /torn: its end mark is missing/],
    ['floods', /more than \d+ bytes of output/],
    ['strange-line', /line 3: owned 17/],
    ['no-free-space', /free space/],
    ['free-space-in-words', /line 3: free plenty/],
    ['ansi-version', /line 2: version v0\.3\.8/],
  ])('%s: NODE_ANSWER_INVALID', (name, message) => {
    expect(nodeOf(dry, name)).toMatchObject({ status: 'unreadable', error: { code: 'NODE_ANSWER_INVALID' } });
    expect(nodeOf(dry, name).error?.message).toMatch(message);
    expect(nodeOf(dry, name).error?.message).not.toMatch(HOSTILE);
  });

  test('an index nested without end is corrupt and nothing worse', () => {
    expect(nodeOf(dry, 'deep')).toMatchObject({ status: 'unreadable', error: { code: 'NODE_INDEX_CORRUPT' } });
  });

  test('a key that means something to JavaScript is a key like any other', () => {
    expect(nodeOf(dry, 'prototype').images).toMatchObject([{ reference: '__proto__', verdict: 'unmanaged' }]);
  });

  test('a directory with control characters in its name is denied without them', () => {
    expect(nodeOf(dry, 'ansi-denied')).toMatchObject({ error: { code: 'NODE_PERMISSION_DENIED' } });
    expect(nodeOf(dry, 'ansi-denied').error?.message).not.toMatch(HOSTILE);
  });

  test('a command that dies with its connection is no answer', () => {
    expect(nodeOf(dry, 'dies')).toMatchObject({ status: 'unreachable', error: { code: 'SSH_UNREACHABLE' } });
    expect(nodeOf(dry, 'dies').error?.message).toContain('connection lost');
  });

  test('where sudo is not installed, permission is denied, in the words of the shell', () => {
    expect(nodeOf(dry, 'sudo-missing')).toMatchObject({ error: { code: 'NODE_PERMISSION_DENIED' } });
    expect(nodeOf(dry, 'sudo-missing').error?.message).toContain('sudo: not found');
  });
});
