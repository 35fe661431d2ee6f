/** The config: what it becomes, which file and which source wins, and the exact words for everything that is wrong. */
import { execFileSync } from 'node:child_process';
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Ajv2020 } from 'ajv/dist/2020.js';
import { afterAll, describe, expect, test } from 'vitest';
import { parse } from 'yaml';
import type { Env } from '../../../src/config/document.ts';
import { findConfig, loadConfig, loadNodeList, parseNodeList } from '../../../src/config/load.ts';
import { ReconcileError } from '../../../src/core/errors.ts';
import type { Settings } from '../../../src/core/model/settings.ts';

const root = join(import.meta.dirname, '../../..');
const dir = mkdtempSync(join(tmpdir(), 'reconcile-config-'));
afterAll(() => rmSync(dir, { recursive: true, force: true }));

const MINIMAL = 'epoch: {url: https://epoch.example}\n';
const ENV: Env = { HOME: '/home/op' };

let files = 0;
function write(text: string | Uint8Array, name = `${(files += 1)}.yaml`): string {
  const file = join(dir, name);
  writeFileSync(file, text);
  return file;
}

function load(text: string | Uint8Array, env: Env = {}): Promise<Settings> {
  return loadConfig(write(text), { ...ENV, ...env });
}

/** The message of the error, with the names of temporary files and their directory shortened. */
async function problemOf(promise: Promise<unknown>): Promise<string> {
  const error: unknown = await promise.then(
    () => expect.unreachable('no error was thrown'),
    (thrown: unknown) => thrown,
  );
  if (!(error instanceof ReconcileError)) throw error;
  expect(error.info.message).not.toContain('\n');
  return error.info.message.replaceAll(/[^\s"]*\/\d+\.yaml/g, 'FILE').replaceAll(dir, 'DIR');
}

describe('a config that is sound', () => {
  test('has a default for all but the address of epoch', async () => {
    expect(await load(MINIMAL)).toEqual({
      epoch: {
        url: 'https://epoch.example',
        aliases: [],
        token: null,
        ca: null,
        timeoutMs: 10_000,
        retries: 3,
        waitForMs: 0,
      },
      nodes: [],
      inventory: { file: null, command: null },
      ssh: { acceptNewHostKey: false, configFile: '/home/op/.ssh/config', home: '/home/op', concurrency: 128 },
      cocoon: { binary: 'cocoon', rootDir: '/var/lib/cocoon', runDir: null, logDir: null, sudo: 'auto' },
      images: { discover: true, track: [], ignore: [], stream: true },
      snapshots: { discover: true, track: [], ignore: [] },
      verify: {
        blob: 'size',
        clone: 'files',
        vm: { snapshot: null, timeoutMs: 180_000, nodes: 'canary', extraArgs: [] },
      },
      rollout: {
        canary: 1,
        maxPulls: 4,
        maxFailures: { value: 10, percent: true },
        pullTimeoutMs: 2_100_000,
        pullRetries: 1,
        minFreeBytes: 5 * 2 ** 30,
        bandwidth: null,
        lockTimeoutMs: 0,
        minAgeMs: 0,
        graceMs: 30_000,
      },
      repair: { corruptBlobs: 'report', restoreBases: 'report' },
      gate: { minReady: { value: 100, percent: true }, require: 'start' },
      run: { timeoutMs: 7_200_000, stateDir: null, sharedDir: null },
    } satisfies Settings);
  });

  test('says what is alike once: aliases as often as wanted, merge keys, and anchors under keys x-…', async () => {
    const nodes = Array.from({ length: 3000 }, (_, i) => `  - {name: n${i}, pool: *pool}`).join('\n');
    const many = await load(`${MINIMAL}x-pool: &pool gpu\nnodes:\n${nodes}\n`);
    expect(many.nodes).toHaveLength(3000);
    expect(many.nodes.at(-1)).toEqual({ name: 'n2999', pool: 'gpu' });

    const merged = `
x-common: &common {user: op, port: 2222, pool: gpu}
x-other: &other
  <<: *common
  pool: other
nodes:
  - &first {name: a1, pool: gpu, port: 2222}
  - {<<: *first, name: a2}
  - {name: a3, port: 1, <<: *common}
  - <<: [{pool: mine}, *other]
    name: a4
`;
    expect((await load(`${MINIMAL}${merged}`)).nodes).toEqual([
      { name: 'a1', pool: 'gpu', port: 2222 },
      { name: 'a2', pool: 'gpu', port: 2222 },
      { name: 'a3', user: 'op', port: 1, pool: 'gpu' },
      { name: 'a4', user: 'op', port: 2222, pool: 'mine' },
    ]);
    const list = write('- &common {name: b1, pool: gpu}\n- {<<: *common, name: b2}\n', 'merged.yaml');
    expect(await loadNodeList(list, ENV)).toEqual([
      { name: 'b1', pool: 'gpu' },
      { name: 'b2', pool: 'gpu' },
    ]);
  });

  test('names the ssh config and jump hosts, or none', async () => {
    const named = await load(`${MINIMAL}ssh: {configFile: none, proxyJump: none, strictHostKeyChecking: accept-new}\n`);
    expect(named.ssh).toEqual({
      configFile: null,
      home: '/home/op',
      proxyJump: [],
      acceptNewHostKey: true,
      concurrency: 128,
    });
    const file = write('');
    const { ssh } = await load(`${MINIMAL}ssh: {configFile: ${file}, proxyJump: "b1,op@[::1]:22,op@b-2.example"}\n`);
    expect(ssh).toMatchObject({ configFile: file, proxyJump: ['b1', 'op@[::1]:22', 'op@b-2.example'] });
  });

  test('may be JSON, indented by tabs, and begin with a byte order mark', async () => {
    const settings = await load('\ufeff{\n\t"epoch": {"url": "https://e.example"},\n\t"nodes": ["n[1-2]"]\n}\n');
    expect(settings.nodes).toEqual([{ name: 'n[1-2]' }]);
  });

  test('gives a node any key of ssh and cocoon, with absolute paths', async () => {
    const { nodes } = await load(`${MINIMAL}nodes:
  - name: n[1-2]
    host: 10.0.0.[1-2]
    pool: gpu
    user: op
    port: 2222
    identityFile: keys/id
    knownHostsFile: [~/kh, /etc/kh]
    strictHostKeyChecking: accept-new
    proxyJump: op@b1:2222,b2
    connectTimeout: 1m30s
    binary: /opt/cocoon
    rootDir: //data//cocoon/
    runDir: /run/cocoon
    logDir: /log
    sudo: false
`);
    expect(nodes).toEqual([
      {
        name: 'n[1-2]',
        host: '10.0.0.[1-2]',
        pool: 'gpu',
        user: 'op',
        port: 2222,
        identityFiles: [`${dir}/keys/id`],
        knownHostsFiles: ['/home/op/kh', '/etc/kh'],
        acceptNewHostKey: true,
        proxyJump: ['op@b1:2222', 'b2'],
        connectTimeoutMs: 90_000,
        binary: '/opt/cocoon',
        rootDir: '/data/cocoon',
        runDir: '/run/cocoon',
        logDir: '/log',
        sudo: false,
      },
    ]);
  });

  test.each([
    ['image: a/b', { image: 'a/b', tag: 'latest', registry: null, reference: 'https://epoch.example/dl/a/b' }],
    ['image: "a/b:v1"', { image: 'a/b', tag: 'v1', registry: null, reference: 'https://epoch.example/dl/a/b/v1' }],
    ['image: a/b, tag: v1', { image: 'a/b', tag: 'v1', registry: null, reference: 'https://epoch.example/dl/a/b/v1' }],
    ['image: a/b, reference: x', { image: 'a/b', tag: 'latest', registry: null, reference: 'x' }],
    ['image: ghcr.io/a/b', { image: 'a/b', tag: 'latest', registry: 'ghcr.io', reference: 'ghcr.io/a/b' }],
    ['image: "ghcr.io/a/b:24"', { image: 'a/b', tag: '24', registry: 'ghcr.io', reference: 'ghcr.io/a/b:24' }],
    [
      'image: localhost:5000/b, tag: "24.04"',
      { image: 'b', tag: '24.04', registry: 'localhost:5000', reference: 'localhost:5000/b:24.04' },
    ],
  ])('tracks {%s}', async (item, expected) => {
    const { images } = await load(`${MINIMAL}images: {track: [{${item}}]}\n`);
    expect(images.track).toEqual([{ presence: 'if-present', pools: null, ...expected }]);
  });

  test('tracks one image differently in two pools, and a snapshot under its full name', async () => {
    const { images, snapshots } = await load(`${MINIMAL}images:
  track:
    - {image: a/b, pools: [x], presence: required}
    - {image: 'a/b:latest', pools: [y]}
snapshots: {track: [{snapshot: a/s}, {snapshot: 'a/s:v1'}]}
`);
    expect(images.track.map(({ presence, pools }) => [presence, pools])).toEqual([
      ['required', ['x']],
      ['if-present', ['y']],
    ]);
    expect(snapshots.track.map(({ snapshot }) => snapshot)).toEqual(['a/s:latest', 'a/s:v1']);
  });

  test.each([
    ['maxFailures: 3', { maxFailures: { value: 3, percent: false } }],
    ['maxFailures: 100%', { maxFailures: { value: 100, percent: true } }],
    ['minFreeBytes: 0', { minFreeBytes: 0 }],
    ['bandwidth: 100MB', { bandwidth: 1e8 }],
    ['minFreeBytes: 1.5 GB', { minFreeBytes: 1.5e9 }],
    ['pullTimeout: 500ms', { pullTimeoutMs: 500 }],
  ])('reads rollout {%s}', async (item, expected) => {
    expect((await load(`${MINIMAL}rollout: {${item}}\n`)).rollout).toMatchObject(expected);
  });

  test('names a program beside the config by a relative path, and one in PATH by its name', async () => {
    const command = async (text: string): Promise<string[] | null> =>
      (await load(`${MINIMAL}inventory: {command: [${text}]}\n`)).inventory.command;
    expect(await command('./list, ./x')).toEqual([`${dir}/list`, './x']);
    expect(await command('~/bin/list')).toEqual(['/home/op/bin/list']);
    expect(await command('kubectl, get')).toEqual(['kubectl', 'get']);
  });

  test('may allow more than looking and pulling, and keep its state beside the file', async () => {
    const text = 'images: {stream: false}\nverify: {blob: sha256}\nrun: {stateDir: state, sharedDir: /shared}\n';
    const settings = await load(`${MINIMAL}${text}repair: {corruptBlobs: replace, restoreBases: restore}\n`);
    expect(settings).toMatchObject({
      images: { stream: false },
      verify: { blob: 'sha256' },
      run: { stateDir: `${dir}/state`, sharedDir: '/shared' },
      repair: { corruptBlobs: 'replace', restoreBases: 'restore' },
    });
  });

  test('keeps the path of epoch, without trailing slashes', async () => {
    expect((await load('epoch: {url: "http://e.example:8080/x//"}\n')).epoch.url).toBe('http://e.example:8080/x');
  });

  test('may use anchors', async () => {
    const { nodes } = await load(`${MINIMAL}nodes: [{name: a, rootDir: &r /data}, {name: b, rootDir: *r}]\n`);
    expect(nodes.map(({ rootDir }) => rootDir)).toEqual(['/data', '/data']);
  });
});

describe('the environment', () => {
  test('is expanded in texts, and $${ is a plain ${', async () => {
    const { epoch, images } = await load(
      'epoch: {url: "https://${HOST}/${EMPTY}"}\nimages: {ignore: ["a$${X}b", $X]}\n',
      {
        HOST: 'e.example',
        EMPTY: '',
      },
    );
    expect(epoch.url).toBe('https://e.example');
    expect(images.ignore).toEqual(['a${X}b', '$X']);
  });

  test('gives what the file does not', async () => {
    const env = { EPOCH_URL: 'https://env.example/', EPOCH_TOKEN: ' t1\n', EPOCH_REGISTRY_TOKEN: 't2' };
    expect((await load('', env)).epoch).toMatchObject({ url: 'https://env.example', token: 't1' });
    expect((await load('', { ...env, EPOCH_TOKEN: '' })).epoch.token).toBe('t2');
    write('of-file\n', 'token');
    const written = await load('epoch: {url: https://file.example, tokenFile: token}\n', env);
    expect(written.epoch).toMatchObject({ url: 'https://file.example', token: 'of-file' });
  });

  test('a malformed EPOCH_URL does not matter where the file has one', async () => {
    expect((await load(MINIMAL, { EPOCH_URL: 'nonsense' })).epoch.url).toBe('https://epoch.example');
  });

  test('a CA is read from the file, or from where EPOCH_CA_CERT says', async () => {
    const pem = execFileSync(
      'openssl',
      'req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout /dev/null -subj /CN=t'.split(' '),
      { stdio: ['ignore', 'pipe', 'ignore'], encoding: 'utf8' },
    );
    const file = write(pem, 'ca.pem');
    expect((await load('epoch: {url: https://e.example, caFile: ca.pem}\n')).epoch.ca).toBe(pem);
    expect((await load(MINIMAL, { EPOCH_CA_CERT: file })).epoch.ca).toBe(pem);
  });
});

describe('the file that is read', () => {
  const home = join(dir, 'home');
  const usual = join(home, '.config/cocoon/reconcile.yaml');

  test('is the named one, which must exist', async () => {
    const file = write(MINIMAL);
    expect(await findConfig(file, { RECONCILE_CONFIG: '/other' }, home)).toBe(file);
    expect(await findConfig(undefined, { RECONCILE_CONFIG: file }, home)).toBe(file);
    expect(await problemOf(findConfig('/no/such', {}, home))).toBe('--config: the file "/no/such" does not exist');
    expect(await problemOf(findConfig('', {}, home))).toBe('--config: the file "" does not exist');
    expect(await problemOf(findConfig(undefined, { RECONCILE_CONFIG: `${file}/x` }, home))).toBe(
      '$RECONCILE_CONFIG: the file "FILE/x" does not exist',
    );
  });

  test('is else the one in the home directory, and none of the working directory', async () => {
    const none = `no config file: neither DIR/home/.config/cocoon/reconcile.yaml nor /etc/cocoon/reconcile.yaml exists`;
    expect(await problemOf(findConfig(undefined, { RECONCILE_CONFIG: '' }, home))).toBe(none);
    mkdirSync(join(home, '.config/cocoon'), { recursive: true });
    writeFileSync(usual, MINIMAL);
    expect(await findConfig(undefined, {}, home)).toBe(usual);
  });

  test.each([
    ['a directory', (): string => dir, 'DIR is not a regular file'],
    ['nothing', (): string => join(dir, 'nothing'), 'DIR/nothing does not exist'],
    ['too large', (): string => write('#'.repeat(2 ** 24 + 1)), 'FILE is larger than 16384 KiB'],
    ['Latin-1', (): string => write(Buffer.from('# \xe9', 'latin1')), 'FILE is not UTF-8 text'],
  ])('cannot be %s', async (_, file, expected) => {
    expect(await problemOf(loadConfig(file(), ENV))).toBe(expected);
  });

  test('cannot be a pipe that nobody writes to', async () => {
    const pipe = join(dir, 'pipe');
    execFileSync('mkfifo', [pipe]);
    expect(await problemOf(loadConfig(pipe, ENV))).toBe('DIR/pipe is not a regular file');
  });

  test.skipIf(process.getuid?.() === 0)('cannot be one that this user may not read', async () => {
    const file = write(MINIMAL);
    chmodSync(file, 0);
    expect(await problemOf(loadConfig(file, ENV))).toBe('FILE cannot be read: permission denied');
  });
});

/** Each begins at line 2: line 1 is a sound `epoch`. */
const BAD: [string, string | RegExp][] = [
  // the text
  [
    'a: [1',
    'FILE:3:1: no valid YAML: Flow sequence in block collection must be sufficiently indented and end with a ]',
  ],
  ['ssh:\n\tport: 1', 'FILE:3:1: no valid YAML: Tabs are not allowed as indentation'],
  ['ssh: {}\nssh: {}', 'FILE:3:1: the key ssh is given twice'],
  ['---\nssh: {}', 'FILE:2:1: a second YAML document begins here; one file holds one'],
  ['ssh: {user: !secret x}', 'FILE:2:13: no valid YAML: Unresolved tag: !secret'],
  ['ssh: *nope', 'FILE:2:6: the alias *nope has no anchor before it'],
  ['x-a: &a [*a]', 'FILE:2:10: the alias *a stands for what it is part of'],
  [
    `x-a: [&a0 [y], ${Array.from({ length: 9 }, (_, i) => `&a${i + 1} [${Array(9).fill(`*a${i}`).join()}]`).join()}]`,
    /^FILE:2:\d+: what begins here is more than 1000000 values, aliases and merges included$/,
  ],
  [
    `x-a: &a {${Array.from({ length: 20_000 }, (_, i) => `k${i}: 1`).join(', ')}}\nssh: {<<: [${Array(99).fill('*a').join()}]}`,
    /^FILE:3:\d+: what begins here is more than 1000000 values, aliases and merges included$/,
  ],
  // aliases and merges: each is named where it stands, what they bring where it was written
  ['x-a: &a 22\nssh: {user: *a}', 'FILE:3:13: ssh.user: must be text: write "22" in quotes'],
  ['x-a: &a {user: 22}\nssh: *a', 'FILE:2:16: ssh.user: must be text: write "22" in quotes'],
  ['x-a: &a {user: 22}\nssh: {<<: *a}', 'FILE:2:16: ssh.user: must be text: write "22" in quotes'],
  ['x-a: &a {usr: x}\nssh: {<<: *a}', 'FILE:2:10: ssh.usr: unknown key, did you mean "user"?'],
  [
    'x-a: &a {port: x}\nx-b: &b {<<: *a}\nnodes: [{name: n, <<: [{pool: 7}, *b]}]',
    'FILE:2:16: nodes[0].port: must be a whole number; 4:31: nodes[0].pool: must be text: write "7" in quotes',
  ],
  [
    'ssh: {<<: {user: 7}, port: x}',
    'FILE:2:18: ssh.user: must be text: write "7" in quotes; 2:28: ssh.port: must be a whole number',
  ],
  ['ssh: {<<: 7}', 'FILE:2:11: << merges maps, and this is none'],
  [
    'ssh: {"<<": {user: x}}',
    'FILE:2:7: ssh.<<: unknown key; known here: user, port, identityFile, knownHostsFile, strictHostKeyChecking, configFile, proxyJump, connectTimeout, concurrency',
  ],
  [
    'ssh: {x-a: 1}',
    'FILE:2:7: ssh.x-a: unknown key; known here: user, port, identityFile, knownHostsFile, strictHostKeyChecking, configFile, proxyJump, connectTimeout, concurrency',
  ],
  // keys
  ['imagse: {}', 'FILE:2:1: imagse: unknown key, did you mean "images"?'],
  ['images:\n  discovr: true', 'FILE:3:3: images.discovr: unknown key, did you mean "discover"?'],
  ['rollout: {max_pulls: 1}', 'FILE:2:11: rollout.max_pulls: unknown key, did you mean "maxPulls"?'],
  ['concurrency: 3', 'FILE:2:1: concurrency: unknown key here, did you mean "ssh.concurrency"?'],
  ['run: {qqqqq: 1}', 'FILE:2:7: run.qqqqq: unknown key; known here: timeout, stateDir, sharedDir'],
  ['nodes: [{name: a, prot: 1}]', 'FILE:2:19: nodes[0].prot: unknown key, did you mean "port"?'],
  [
    '__proto__: {}',
    'FILE:2:1: __proto__: unknown key; known here: epoch, nodes, inventory, ssh, cocoon, images, snapshots, verify, rollout, repair, gate, run',
  ],
  ['ssh:', 'FILE:2:1: ssh: has no value: remove the key, or give it one'],
  ['ssh: []', 'FILE:2:6: ssh: must be a map of keys'],
  // not built
  ['accept: []', 'FILE:2:1: accept: is not built yet'],
  ['gate: {registries: [ghcr.io]}', 'FILE:2:8: gate.registries: is not built yet'],
  ['gate: {minReady: 0}', 'FILE:2:18: gate.minReady: must be at least 1, or 1%'],
  ['gate: {require: in_sync}', 'FILE:2:17: gate.require: must be one of start, in-sync'],
  ['images: {stream: once}', 'FILE:2:18: images.stream: must be true or false'],
  ['rollout: {gc: false}', 'FILE:2:11: rollout.gc: is not built yet'],
  ['run: {stateDir: [/x]}', 'FILE:2:17: run.stateDir: must be text'],
  ['run: {keep: {days: 90}}', 'FILE:2:7: run.keep: is not built yet'],
  ['repair: {corruptBlobs: yes}', 'FILE:2:24: repair.corruptBlobs: must be one of report, replace'],
  ['repair: {restoreBases: replace}', 'FILE:2:24: repair.restoreBases: must be one of report, restore'],
  [
    'nodes: [{name: a, proxyJump: "a b"}]',
    'FILE:2:30: nodes[0].proxyJump: must be [user@]host[:port], several of them with commas between, or none',
  ],
  ['ssh: {configFile: no-such-file}', 'FILE:2:19: ssh.configFile: DIR/no-such-file does not exist'],
  [
    'ssh: {strictHostKeyChecking: no}',
    'FILE:2:30: ssh.strictHostKeyChecking: there is no "no": host keys are always checked',
  ],
  ['ssh: {strictHostKeyChecking: 7}', 'FILE:2:30: ssh.strictHostKeyChecking: must be yes or accept-new'],
  // values
  ['verify: {blob: sha1}', 'FILE:2:16: verify.blob: must be one of presence, size, sha256'],
  ['images: {discover: yes}', 'FILE:2:20: images.discover: must be true or false'],
  ['cocoon: {sudo: yes}', 'FILE:2:16: cocoon.sudo: must be auto, true or false'],
  ['cocoon: {rootDir: data}', 'FILE:2:19: cocoon.rootDir: must be an absolute path on the node, other than /'],
  ['cocoon: {rootDir: //}', 'FILE:2:19: cocoon.rootDir: must be an absolute path on the node, other than /'],
  ['cocoon: {binary: bin/x}', 'FILE:2:18: cocoon.binary: must be the name of a program or an absolute path'],
  ['ssh: {port: 0}', 'FILE:2:13: ssh.port: must be at least 1'],
  ['ssh: {port: 65536}', 'FILE:2:13: ssh.port: must be at most 65535'],
  ['ssh: {concurrency: 1.5}', 'FILE:2:20: ssh.concurrency: must be a whole number'],
  ['ssh: {user: -oX}', 'FILE:2:13: ssh.user: must be a user name: one word that does not begin with "-"'],
  [
    'ssh: {identityFile: ~bob/id}',
    'FILE:2:21: ssh.identityFile: must be a path; of the forms with ~ only ~/… is understood',
  ],
  ['ssh: {identityFile: {}}', 'FILE:2:21: ssh.identityFile: must be a path or a list of paths'],
  ['ssh: {connectTimeout: 10}', 'FILE:2:23: ssh.connectTimeout: must be a duration with a unit, such as 10s'],
  ['ssh: {connectTimeout: soon}', 'FILE:2:23: ssh.connectTimeout: must be a duration such as 500ms, 10s or 1h30m'],
  ['ssh: {connectTimeout: 0s}', 'FILE:2:23: ssh.connectTimeout: must be longer than 0'],
  ['run: {timeout: 25d}', 'FILE:2:16: run.timeout: must be at most 24 days'],
  [`run: {timeout: ${'9'.repeat(400)}s}`, 'FILE:2:16: run.timeout: must be at most 24 days'],
  [`rollout: {minFreeBytes: ${'9'.repeat(400)}TiB}`, 'FILE:2:25: rollout.minFreeBytes: is larger than any disk'],
  [`nodes: ["${'n'.repeat(4097)}"]`, 'FILE:2:9: nodes[0]: must have at most 4096 characters'],
  ['rollout: {minFreeBytes: 5GiBs}', 'FILE:2:25: rollout.minFreeBytes: must be a size such as 500MB or 5GiB'],
  ['rollout: {maxFailures: 101%}', 'FILE:2:24: rollout.maxFailures: must be a whole number or a share up to 100%'],
  ['rollout: {maxFailures: 1.5}', 'FILE:2:24: rollout.maxFailures: must be a whole number or a share such as 10%'],
  ['rollout: {maxPulls: 0}', 'FILE:2:21: rollout.maxPulls: must be at least 1'],
  ['inventory: {command: kubectl}', 'FILE:2:22: inventory.command: must be a list'],
  ['inventory: {command: []}', 'FILE:2:22: inventory.command: must not be an empty list'],
  ['inventory: {command: ["", a]}', 'FILE:2:22: inventory.command: must begin with the name of a program'],
  // nodes
  ['nodes: a', 'FILE:2:8: nodes: must be a list'],
  ['nodes: [7]', 'FILE:2:9: nodes[0]: must be a name, or a map with a name'],
  ['nodes: [{host: a}]', 'FILE:2:9: nodes[0].name: is required'],
  ['nodes: [{name: 7}]', 'FILE:2:16: nodes[0].name: must be text: write "7" in quotes'],
  ['nodes: ["a b"]', 'FILE:2:9: nodes[0]: must not hold spaces or control characters'],
  ['nodes: ["a\\x1b"]', 'FILE:2:9: nodes[0]: must not hold spaces or control characters'],
  ['nodes: [-oProxyCommand=x]', 'FILE:2:9: nodes[0]: must not begin with "-"'],
  ['nodes: ["n*"]', 'FILE:2:9: nodes[0]: must be a name or a range such as node[1-20], no pattern'],
  ['nodes: ["a,b[1,2]"]', 'FILE:2:9: nodes[0]: must be one name or range: write each in an item of its own'],
  ['nodes: ["n[3-1]"]', 'FILE:2:9: nodes[0]: node pattern "n[3-1]": the range 3-1 runs backwards'],
  ['nodes: [{name: a, host: root@b}]', 'FILE:2:25: nodes[0].host: must not hold a user: use the key user'],
  ['nodes: [{name: a, host: "b:22"}]', 'FILE:2:25: nodes[0].host: must not hold a port: use the key port'],
  [
    'nodes: [{name: a, host: "[::1]"}]',
    'FILE:2:25: nodes[0].host: must be an IPv6 address without brackets; the port has a key of its own',
  ],
  ['nodes: [{name: "n[1-3]", host: "h[1-2]"}]', 'FILE:2:32: nodes[0].host: stands for 2 but the name for 3'],
  ['nodes: [{name: "n[1-3]", host: h}]', 'FILE:2:32: nodes[0].host: stands for 1 but the name for 3'],
  // images and snapshots
  ['images: {track: [a/b]}', 'FILE:2:18: images.track[0]: must be a map of keys'],
  [
    'images: {track: [{image: A/b}]}',
    'FILE:2:26: images.track[0].image: must be REPO, REPO:TAG or REGISTRY/REPO:TAG in lower case',
  ],
  [
    'images: {track: [{image: "https://e/dl/a"}]}',
    'FILE:2:26: images.track[0].image: must be a repository such as simular/win11, no URL',
  ],
  ['images: {track: [{image: "a:v1", tag: v1}]}', 'FILE:2:39: images.track[0].tag: the image a:v1 names a tag already'],
  [
    'images: {track: [{image: a, tag: 24.04}]}',
    'FILE:2:34: images.track[0].tag: must be text: write "24.04" in quotes',
  ],
  ['images: {track: [{image: a, reference: --help}]}', 'FILE:2:40: images.track[0].reference: must not begin with "-"'],
  ['images: {track: [{image: a, pools: []}]}', 'FILE:2:36: images.track[0].pools: must not be an empty list'],
  [
    'images: {track: [{image: a}, {image: "a:latest", pools: [x]}]}',
    'FILE:2:30: images.track[1]: a:latest is tracked by item [0] already',
  ],
  [
    'snapshots: {track: [{snapshot: a/B}]}',
    'FILE:2:32: snapshots.track[0].snapshot: must be a snapshot such as REPO:TAG',
  ],
  [
    'snapshots: {track: [{snapshot: a}, {snapshot: "a:latest"}]}',
    'FILE:2:36: snapshots.track[1]: a:latest is tracked by item [0] already',
  ],
  // the environment
  ['ssh: {user: "${NOBODY}"}', 'FILE:2:13: ssh.user: the environment has no NOBODY'],
  [
    'images:\n  ignore:\n    - ok\n    - ${constructor}',
    'FILE:5:7: images.ignore[1]: the environment has no constructor',
  ],
  [
    'cocoon: {rootDir: "${NOT SET"}',
    'FILE:2:19: cocoon.rootDir: holds a "${" that is no ${NAME}; a literal one is written $${',
  ],
];

describe('a config that is not sound', () => {
  // A title is cut, as some of these are long on purpose.
  test.each(BAD.map(([text, expected]) => [text.slice(0, 80), text, expected] as const))(
    '%s',
    async (_title, text, expected) => {
      expect(await problemOf(load(`${MINIMAL}${text}\n`))).toEqual(
        typeof expected === 'string' ? expected : expect.stringMatching(expected),
      );
    },
  );

  test.each([
    ['', {}, 'FILE:1:1: epoch.url: is required, here or as $EPOCH_URL'],
    ['ssh: {}\nepoch:\n  retries: 1\n', {}, 'FILE:3:3: epoch.url: is required, here or as $EPOCH_URL'],
    ['- a\n', { EPOCH_URL: 'https://e.example' }, 'FILE:1:1: must be a map of keys'],
    ['ssh: {}\n', { EPOCH_URL: 'e.example' }, '$EPOCH_URL must be an address that begins with https:// or http://'],
    [
      'epoch: {url: epoch.example}\n',
      {},
      'FILE:1:14: epoch.url: must be an address that begins with https:// or http://',
    ],
    [
      'epoch: {url: "HTTPS://e.example"}\n',
      {},
      'FILE:1:14: epoch.url: must be an address that begins with https:// or http://',
    ],
    [
      'epoch: {url: "https://u:p@e.example"}\n',
      {},
      'FILE:1:14: epoch.url: must not hold a user or password: use epoch.tokenFile',
    ],
    ['epoch: {url: "https://e.example/?a=b"}\n', {}, 'FILE:1:14: epoch.url: must end before any "?" or "#"'],
    ['[[[['.repeat(5000), {}, 'FILE:1:'],
  ])('%s', async (text, env, expected) => {
    expect((await problemOf(load(text, env))).startsWith(expected)).toBe(true);
  });

  test('is named by the file and line of every problem, in their order', async () => {
    const text = 'epoch:\n  timeout: 1\nssh:\n  prot: 1\n  user: ${NOBODY}\nverify: {vm: {nodes: all}}\n';
    expect(await problemOf(load(text, { EPOCH_URL: 'x' }))).toBe(
      'FILE:2:12: epoch.timeout: must be a duration with a unit, such as 1s; ' +
        '4:3: ssh.prot: unknown key, did you mean "port"?; ' +
        '5:9: ssh.user: the environment has no NOBODY; ' +
        '6:22: verify.vm.nodes: must be one of canary, healed; ' +
        '$EPOCH_URL must be an address that begins with https:// or http://',
    );
  });

  test('shows eight problems and counts the rest', async () => {
    const message = await problemOf(load(`${MINIMAL}nodes: [${Array(11).fill('-x').join()}]\n`));
    expect(message).toMatch(/nodes\[7\]: must not begin with "-" \(\+3 more\)$/);
  });

  test('names the key of a token or CA that cannot be read', async () => {
    write(' \n', 'empty');
    expect(await problemOf(load('epoch:\n  url: https://e.example\n  tokenFile: nope\n  caFile: empty\n'))).toBe(
      'FILE:3:14: epoch.tokenFile: DIR/nope does not exist; 4:11: epoch.caFile: DIR/empty holds no PEM certificate',
    );
    expect(await problemOf(load('epoch: {url: https://e.example, tokenFile: empty}\n'))).toBe(
      'FILE:1:44: epoch.tokenFile: DIR/empty holds no token: one word is expected',
    );
    expect(await problemOf(load(MINIMAL, { EPOCH_TOKEN: 'a b', EPOCH_CA_CERT: '/no/ca' }))).toBe(
      '$EPOCH_TOKEN holds no token: one word is expected; $EPOCH_CA_CERT: /no/ca does not exist',
    );
  });

  test('never shows a token or a password', async () => {
    const env = { SECRET: 'hunter2', EPOCH_TOKEN: 'hunter2 hunter2' };
    const message = await problemOf(
      load('epoch: {url: "https://u:${SECRET}@e.example"}\nssh: {port: "${SECRET}"}\n', env),
    );
    expect(message).not.toContain('hunter2');
    expect(await problemOf(load(MINIMAL, env))).not.toContain('hunter2');
  });
});

describe('a node list of its own', () => {
  test('is the same list as in the config, from its own directory', async () => {
    const file = write('- n[1-2]\n- {name: x, identityFile: id, host: "${H}"}\n');
    expect(await loadNodeList(file, { ...ENV, H: '::1' })).toEqual([
      { name: 'n[1-2]' },
      { name: 'x', host: '::1', identityFiles: [`${dir}/id`] },
    ]);
  });

  test.each([
    ['- {name: a, prot: 1}\n', 'FILE:1:13: [0].prot: unknown key, did you mean "port"?'],
    ['nodes: [a]\n', 'FILE:1:1: must be a list'],
    ['', 'FILE:1:1: must be a list'],
  ])('%s is refused', async (text, expected) => {
    expect(await problemOf(loadNodeList(write(text), ENV))).toBe(expected);
  });

  test('that does not exist is named with the key that named it', async () => {
    expect(await problemOf(loadNodeList('/no/nodes.yaml', ENV))).toBe('inventory.file: /no/nodes.yaml does not exist');
  });

  test('from a program is validated in the same way, and nothing in it is expanded', () => {
    const judge = (value: unknown): unknown => parseNodeList(value, 'the program', join(dir, 'c.yaml'), ENV);
    expect(judge(['a', { name: 'b', host: '${HOME}', knownHostsFile: 'kh' }])).toEqual([
      { name: 'a' },
      { name: 'b', host: '${HOME}', knownHostsFiles: [`${dir}/kh`] },
    ]);
    expect(() => judge([{ name: 'a', host: '-x', hots: 1 }])).toThrow(
      'the inventory from the program cannot be used: [0].host: must not begin with "-"; [0].hots: unknown key, did you mean "host"?',
    );
  });
});

describe('what an operator copies', () => {
  const example = readFileSync(join(root, 'config/reconcile.example.yaml'), 'utf8');
  const schema = JSON.parse(readFileSync(join(root, 'config/reconcile.schema.json'), 'utf8')) as object;
  const accepts = new Ajv2020({ strict: false, allErrors: true }).compile(schema);

  test('the example is sound', async () => {
    const settings = await load(example);
    expect(settings.nodes).toHaveLength(2);
    expect(settings.images.track[0]?.presence).toBe('required');
  });

  test('the example names every key of the schema', () => {
    const keysOf = (part: { properties?: object; items?: object; anyOf?: object[] }): string[] => [
      ...Object.entries(part.properties ?? {}).flatMap(([key, value]: [string, object]) => [key, ...keysOf(value)]),
      ...(part.anyOf ?? []).flatMap(keysOf),
      ...(part.items === undefined ? [] : keysOf(part.items)),
    ];
    for (const key of keysOf(schema)) expect(example).toMatch(new RegExp(`\\b${key}:`));
  });

  test('the JSON Schema is current', () => {
    execFileSync(process.execPath, [join(root, 'scripts/config-schema.js'), '--check'], { stdio: 'pipe' });
  });

  test('the JSON Schema accepts the example and the defaults, and refuses what is unknown or not built', () => {
    expect(accepts(parse(example)), JSON.stringify(accepts.errors)).toBe(true);
    expect(accepts({})).toBe(true);
    for (const bad of ['imagse: {}', 'accept: []', 'verify: {blob: sha512}', 'ssh: {port: 0}', 'nodes: [7]']) {
      expect(accepts(parse(bad)), bad).toBe(false);
    }
  });
});
