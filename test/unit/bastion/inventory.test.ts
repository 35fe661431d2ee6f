/** The inventory: config, file and command united, ranges expanded, defaults filled in; and every way to fail. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test, vi } from 'vitest';
import { resolveInventory } from '../../../src/bastion/inventory.ts';
import { loadNodeList, parseNodeList } from '../../../src/config/load.ts';
import { ReconcileError } from '../../../src/core/errors.ts';
import type { NodeDefaults, NodeSpec } from '../../../src/core/model/settings.ts';
import type { Node } from '../../../src/core/model/node.ts';

const dir = mkdtempSync(join(tmpdir(), 'reconcile-inventory-'));
afterAll(() => rmSync(dir, { recursive: true, force: true }));

const DEFAULTS: NodeDefaults = {
  ssh: { identityFiles: ['/id'], knownHostsFiles: ['/kh'], configFile: null, home: '/home/op' },
  cocoon: { binary: 'cocoon', rootDir: '/var/lib/cocoon', runDir: null, logDir: null, sudo: 'auto' },
};

interface Given {
  nodes?: NodeSpec[];
  file?: string;
  command?: string[];
  defaults?: NodeDefaults;
  timeoutMs?: number;
}

function resolve({ nodes = [], file, command, defaults = DEFAULTS, timeoutMs }: Given): Promise<Node[]> {
  const sources = {
    nodes,
    file: file ?? null,
    command: command ?? null,
    loadFile: (path: string) => loadNodeList(path, {}),
    parseList: (value: unknown, source: string) => parseNodeList(value, source, join(dir, 'reconcile.yaml'), {}),
  };
  const endGroup = (pid: number): boolean => process.kill(-pid, 'SIGKILL');
  return resolveInventory(sources, defaults, { env: {}, signal: new AbortController().signal, endGroup, timeoutMs });
}

/** A program that prints the value as JSON. */
function printing(value: unknown): string[] {
  return ['printf', '%s', JSON.stringify(value)];
}

/** The letter of a process in the kernel's list; empty where it is gone. */
function stateOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/stat`, 'utf8').replace(/^.*\) (\S).*$/s, '$1');
  } catch {
    return '';
  }
}

async function errorOf(given: Given): Promise<string> {
  const error: unknown = await resolve(given).catch((thrown: unknown) => thrown);
  if (!(error instanceof ReconcileError)) throw error;
  return `${error.info.code}: ${error.info.message}`;
}

const names = (nodes: Node[]): string[] => nodes.map(({ name }) => name);
const hosts = (nodes: Node[]): string[] => nodes.map(({ host }) => host);

describe('a node', () => {
  test('has the defaults of ssh and cocoon, and its name as its address', async () => {
    expect(await resolve({ nodes: [{ name: 'a' }] })).toEqual([
      {
        name: 'a',
        host: 'a',
        port: 22,
        user: 'root',
        pool: 'default',
        identityFiles: ['/id'],
        knownHostsFiles: ['/kh'],
        globalKnownHostsFiles: ['/etc/ssh/ssh_known_hosts', '/etc/ssh/ssh_known_hosts2'],
        connectTimeoutMs: 10_000,
        cocoon: { binary: 'cocoon', rootDir: '/var/lib/cocoon', runDir: null, logDir: null, sudo: false },
      },
    ]);
  });

  test('may differ from them in everything', async () => {
    const own = {
      host: 'h',
      port: 2222,
      user: 'op',
      pool: 'gpu',
      identityFiles: ['/own'],
      knownHostsFiles: [],
      connectTimeoutMs: 1,
    };
    const cocoon = { binary: '/c', rootDir: '/r', runDir: '/run', logDir: '/log', sudo: false };
    const [only] = await resolve({ nodes: [{ name: 'a', ...own, ...cocoon }] });
    expect(only).toMatchObject({ name: 'a', ...own, cocoon });
  });

  test.each([
    ['root', undefined, 'auto', false],
    ['op', undefined, 'auto', true],
    ['op', undefined, false, false],
    ['op', 'auto', false, true],
    ['root', true, 'auto', true],
  ] as const)('of user %s with sudo %s and default %s uses sudo: %s', async (user, own, byDefault, expected) => {
    const defaults = { ...DEFAULTS, cocoon: { ...DEFAULTS.cocoon, sudo: byDefault } };
    const [node] = await resolve({
      nodes: [{ name: 'a', user, ...(own === undefined ? {} : { sudo: own }) }],
      defaults,
    });
    expect(node?.cocoon.sudo).toBe(expected);
  });
});

describe('an ssh config', () => {
  test('says what neither the node nor the config does', async () => {
    const configFile = join(dir, 'ssh_config');
    writeFileSync(configFile, 'Host a\n HostName 10.0.0.1\n User op\n ProxyJump op@b:2222\nHost *\n Port 2200\n');
    const defaults = { ...DEFAULTS, ssh: { ...DEFAULTS.ssh, configFile } };
    const [a, b, c] = await resolve({
      nodes: [{ name: 'a' }, { name: 'b', user: 'me' }, { name: 'c', port: 1 }],
      defaults,
    });
    expect(a).toMatchObject({ name: 'a', host: '10.0.0.1', port: 2200, user: 'op', cocoon: { sudo: true } });
    expect(a?.jumps).toMatchObject([{ host: 'b', port: 2222, user: 'op', identityFiles: ['/id'] }]);
    expect(b).toMatchObject({ host: 'b', port: 2200, user: 'me' });
    expect(c).toMatchObject({ host: 'c', port: 1, user: 'root', cocoon: { sudo: false } });
    expect(b?.jumps).toBeUndefined();
  });
});

describe('ranges', () => {
  test('of names and addresses go side by side', async () => {
    const nodes = await resolve({ nodes: [{ name: 'n[01-03]', host: '10.0.0.[7,9-10]' }, { name: 'x[1-2]' }] });
    expect(names(nodes)).toEqual(['n01', 'n02', 'n03', 'x1', 'x2']);
    expect(hosts(nodes)).toEqual(['10.0.0.7', '10.0.0.9', '10.0.0.10', 'x1', 'x2']);
  });

  test('of unequal length are refused', async () => {
    expect(await errorOf({ nodes: [{ name: 'n[1-3]', host: 'h' }] })).toBe(
      'CONFIG_INVALID: item [0] of the config (nodes): 3 names but 1 hosts',
    );
  });
});

describe('sources', () => {
  const file = join(dir, 'nodes.yaml');
  writeFileSync(file, '- f[1-2]\n- {name: g, pool: gpu}\n');

  test('are united, in their order', async () => {
    const nodes = await resolve({ nodes: [{ name: 'z' }], file, command: printing(['a', { name: 'b', port: 23 }]) });
    expect(names(nodes)).toEqual(['z', 'f1', 'f2', 'g', 'a', 'b']);
    expect(nodes[3]?.pool).toBe('gpu');
    expect(nodes[5]?.port).toBe(23);
  });

  test('that all name no node are an error', async () => {
    expect(await errorOf({})).toBe('INVENTORY_EMPTY: the inventory holds no node');
    expect(await errorOf({ command: printing([]) })).toBe('INVENTORY_EMPTY: the inventory holds no node');
  });

  test('that name a node twice are both named', async () => {
    expect(await errorOf({ nodes: [{ name: 'f[2-3]' }], file })).toBe(
      `CONFIG_INVALID: the node f2 is named twice: in item [0] of the config (nodes) and in item [0] of ${file}`,
    );
    expect(await errorOf({ file, command: printing(['q', 'g']) })).toBe(
      `CONFIG_INVALID: the node g is named twice: in item [1] of ${file} and in item [1] of inventory.command (printf)`,
    );
    expect(await errorOf({ nodes: [{ name: 'n[1-3,2]' }] })).toBe(
      'CONFIG_INVALID: the node n2 is named twice: in item [0] of the config (nodes)',
    );
  });

  test('a file that is not there', async () => {
    expect(await errorOf({ file: '/no/nodes.yaml' })).toBe(
      'CONFIG_INVALID: inventory.file: /no/nodes.yaml does not exist',
    );
  });
});

describe('one machine under two names', () => {
  test.each<[string, NodeSpec, NodeSpec]>([
    ['the same host', { name: 'a', host: 'h' }, { name: 'b', host: 'h' }],
    ['upper case', { name: 'node-a' }, { name: 'NODE-A' }],
    ['a dot at the end', { name: 'node-a.example' }, { name: 'Node-a.example.' }],
    ['the name of one as the address of another', { name: 'a' }, { name: 'b', host: 'a' }],
    ['IPv6, compressed', { name: 'a', host: 'fd00::1' }, { name: 'b', host: 'FD00:0:0::0001' }],
    ['IPv4 in IPv6', { name: 'a', host: '10.0.0.1' }, { name: 'b', host: '::ffff:10.0.0.1' }],
    ['the same in hexadecimal', { name: 'a', host: '10.0.0.1' }, { name: 'b', host: '0:0:0:0:0:ffff:a00:1' }],
    ['a zone', { name: 'a', host: 'fe80::1%eth0' }, { name: 'b', host: 'fe80:0::1%eth0' }],
    ['another user', { name: 'a', host: 'h', user: 'op' }, { name: 'b', host: 'h' }],
    ['another binary', { name: 'a', host: 'h', binary: '/c' }, { name: 'b', host: 'h' }],
    [
      'the same root, otherwise written',
      { name: 'a', host: 'h', rootDir: '/r' },
      { name: 'b', host: 'h', rootDir: '/x/../r/.' },
    ],
    [
      'the same jump host',
      { name: 'a', host: 'h', proxyJump: ['j'] },
      { name: 'b', host: 'h', proxyJump: ['op@J:22'] },
    ],
  ])('is refused: %s', async (_, one, two) => {
    expect(await errorOf({ nodes: [{ name: 'other' }, one, two] })).toMatch(
      new RegExp(
        `^CONFIG_INVALID: the nodes ${one.name} and ${two.name} are one machine \\(.*\\): ` +
          String.raw`in item \[1\] of the config \(nodes\) and in item \[2\] of the config \(nodes\)$`,
      ),
    );
  });

  test('the places of both are named, and the hint says how two are told apart', async () => {
    const error = await resolve({ nodes: [{ name: 'a[1-2]' }], command: printing([{ name: 'b', host: 'A2' }]) }).catch(
      (thrown: unknown) => thrown,
    );
    expect((error as ReconcileError).info).toEqual({
      code: 'CONFIG_INVALID',
      message:
        'the nodes a2 and b are one machine (A2 port 22, /var/lib/cocoon): in item [0] of the config (nodes) and in item [0] of inventory.command (printf)',
      hint: 'keep one of the two; machines behind one address differ in port or proxyJump, stores on one machine in rootDir',
    });
  });

  test.each<[string, NodeSpec, NodeSpec]>([
    ['ports', { name: 'a', host: 'h', port: 2201 }, { name: 'b', host: 'h', port: 2202 }],
    ['root directories', { name: 'a', host: 'h', rootDir: '/r' }, { name: 'b', host: 'h', rootDir: '/s' }],
    [
      'jump hosts',
      { name: 'a', host: '10.0.0.1', proxyJump: ['j1'] },
      { name: 'b', host: '10.0.0.1', proxyJump: ['j2'] },
    ],
    [
      'ports of a jump host',
      { name: 'a', host: 'h', proxyJump: ['j:1'] },
      { name: 'b', host: 'h', proxyJump: ['j:2'] },
    ],
    ['ways, one of them direct', { name: 'a', host: '10.0.0.1' }, { name: 'b', host: '10.0.0.1', proxyJump: ['j'] }],
    ['zones', { name: 'a', host: 'fe80::1%eth0' }, { name: 'b', host: 'fe80::1%eth1' }],
  ])('two of different %s are two', async (_, one, two) => {
    expect(names(await resolve({ nodes: [one, two] }))).toEqual(['a', 'b']);
  });

  test.each(['010.0.0.1', '10.0.0.01', '10.1', '0x0a000001', '167772161', '10.0.0.256', '10.0.0.1.'])(
    'an address that is all numbers is an IPv4 address as all programs read it, and %s is not',
    async (host) => {
      expect(await errorOf({ nodes: [{ name: 'a', host }] })).toBe(
        `CONFIG_INVALID: item [0] of the config (nodes): node a: "${host}" is no IPv4 address: four numbers up to 255, without leading zeros`,
      );
    },
  );
});

describe('a Kubernetes list', () => {
  const kubernetesNode = (name: string, addresses: [string, string][], labels?: Record<string, string>): object => ({
    metadata: { name, ...(labels === undefined ? {} : { labels }) },
    status: { addresses: addresses.map(([type, address]) => ({ type, address })) },
  });

  test('gives name, address and pool', async () => {
    const items = [
      kubernetesNode(
        'n1',
        [
          ['Hostname', 'h1'],
          ['InternalIP', '10.0.0.1'],
          ['InternalIP', 'fd00::1'],
        ],
        { 'cocoonstack.io/pool': 'gpu' },
      ),
      kubernetesNode('n2', [['Hostname', 'h2']], {}),
      kubernetesNode('n3', []),
      { kind: 'Node', metadata: { name: 'n4' } },
    ];
    const nodes = await resolve({ command: printing({ kind: 'NodeList', items }) });
    const withMark = `\ufeff${JSON.stringify({ kind: 'NodeList', items })}`;
    expect(await resolve({ command: ['printf', '%s', withMark] })).toEqual(nodes);
    expect(nodes.map(({ name, host, pool }) => [name, host, pool])).toEqual([
      ['n1', '10.0.0.1', 'gpu'],
      ['n2', 'h2', 'default'],
      ['n3', 'n3', 'default'],
      ['n4', 'n4', 'default'],
    ]);
    expect(await resolve({ command: printing({ kind: 'List', items }) })).toEqual(nodes);
  });

  test.each([
    [
      { kind: 'PodList', items: [] },
      'its output is neither a list of nodes, a Kubernetes NodeList nor an Ansible inventory',
    ],
    [{ kind: 'List', items: [{ kind: 'Pod', metadata: { name: 'p' } }] }, 'items[0] is no Kubernetes node'],
    [{ kind: 'NodeList' }, 'items is no list'],
    [{ kind: 'NodeList', items: [{}] }, 'items[0].metadata is no object'],
    [{ kind: 'NodeList', items: [{ metadata: { name: 7 } }] }, 'items[0].metadata.name is no string'],
    [
      { kind: 'NodeList', items: [kubernetesNode('n', [['InternalIP', '-oProxyCommand=x']])] },
      '[0].host: must not begin with "-"',
    ],
    [
      { kind: 'NodeList', items: [kubernetesNode('n*', [])] },
      '[0].name: must be a name or a range such as node[1-20], no pattern',
    ],
  ])('%j is refused', async (value, problem) => {
    const expected = `INVENTORY_FAILED: the inventory from inventory.command (printf) cannot be used: ${problem}`;
    expect(await errorOf({ command: printing(value) })).toBe(expected);
  });
});

describe('an Ansible inventory', () => {
  const inventory = {
    _meta: {
      hostvars: {
        a1: { ansible_host: '10.0.0.1', ansible_port: '2222', ansible_user: 'op' },
        c1: { cocoon_pool: 'gpu', ansible_host: '', other: { deep: ['${x}', '{{ y }}'] } },
      },
    },
    all: { children: ['ungrouped', 'site'], vars: { ansible_user: 'everybody', ansible_port: 22 } },
    ungrouped: { hosts: ['u1'] },
    site: { children: ['cpu', 'gpu'], vars: { ansible_user: 'of-site' } },
    cpu: { hosts: ['a1', 'b[1:2]', 'c1'], vars: { ansible_ssh_private_key_file: '/keys/cpu' } },
    gpu: ['c1'],
  };

  test('gives the nodes with their groups as pools, and what the variables of host and groups say', async () => {
    const nodes = await resolve({ command: printing(inventory) });
    expect(nodes.map(({ name, host, port, user, pool }) => [name, host, port, user, pool])).toEqual([
      ['u1', 'u1', 22, 'everybody', 'default'],
      ['a1', '10.0.0.1', 2222, 'op', 'cpu'],
      ['b1', 'b1', 22, 'of-site', 'cpu'],
      ['b2', 'b2', 22, 'of-site', 'cpu'],
      ['c1', 'c1', 22, 'of-site', 'gpu'],
    ]);
    expect(nodes.map(({ identityFiles }) => identityFiles[0])).toEqual([
      '/id',
      '/keys/cpu',
      '/keys/cpu',
      '/keys/cpu',
      '/keys/cpu',
    ]);
  });

  test('may lie in a file, where it gives the same', async () => {
    const file = join(dir, 'ansible.json');
    writeFileSync(file, JSON.stringify(inventory));
    expect(await resolve({ file })).toEqual(await resolve({ command: printing(inventory) }));
  });

  test.each([
    [
      { a: { hosts: ['x'] }, b: ['x'] },
      'x is in several groups (a, b): its variable cocoon_pool has to say which is its pool',
    ],
    [{ a: { hosts: 'x' } }, 'a.hosts is no list'],
    [{ a: { hosts: [7] } }, 'a.hosts[0] is no string'],
    [{ a: { children: ['b'] }, b: { children: ['a'] } }, 'the group a is in itself'],
    [{ _meta: { hostvars: [] } }, '_meta.hostvars is no object'],
    [
      { _meta: { hostvars: { x: { ansible_host: '-oProxyCommand=y' } } }, a: ['x'] },
      '[0].host: must not begin with "-"',
    ],
    [{ _meta: { hostvars: { x: { ansible_port: 'y' } } }, a: ['x'] }, '[0].port: must be a whole number'],
    [{ a: { hosts: ['x[a:c]'] } }, '[0].name: node pattern "x[a:c]": "a:c" is no number or range'],
  ])('%j is refused', async (value, problem) => {
    const expected = `INVENTORY_FAILED: the inventory from inventory.command (printf) cannot be used: ${problem}`;
    expect(await errorOf({ command: printing(value) })).toBe(expected);
    const file = join(dir, 'refused.json');
    writeFileSync(file, JSON.stringify(value));
    expect(await errorOf({ file })).toBe(`INVENTORY_FAILED: the inventory from ${file} cannot be used: ${problem}`);
  });
});

describe('an inventory command', () => {
  const sh = (script: string): string[] => ['sh', '-c', script];
  const failed = (program: string, problem: string): string =>
    `INVENTORY_FAILED: the inventory from inventory.command (${program}) cannot be used: ${problem}`;

  test('is run without a shell and without standard input', async () => {
    expect(names(await resolve({ command: ['printf', '["%s"]', '$HOME;x'] }))).toEqual(['$HOME;x']);
    expect(names(await resolve({ command: sh('cat; echo \'["a"]\'') }))).toEqual(['a']);
  });

  test('may print a byte order mark first, as many programs of Windows do', async () => {
    expect(names(await resolve({ command: ['printf', '\ufeff["a"]'] }))).toEqual(['a']);
  });

  test.each([
    ['fails', sh('echo "no such cluster" >&2; exit 3'), 'sh', 'it ended with exit code 3: no such cluster'],
    ['fails without a word', sh('exit 1'), 'sh', 'it ended with exit code 1'],
    ['is killed', sh('kill -TERM $$'), 'sh', 'SIGTERM'],
    ['is not there', ['/no/such/program'], '/no/such/program', 'there is no such program'],
    ['is no program', [dir], dir, 'the program cannot be executed'],
    ['prints too much', sh('head -c 17000000 /dev/zero'), 'sh', 'it printed more than 16 MiB'],
    ['prints an item that is none', printing(['a', 7]), 'printf', '[1]: must be a name, or a map with a name'],
  ])('that %s is an error', async (_, command, program, problem) => {
    expect(await errorOf({ command })).toBe(failed(program, problem));
  });

  test('that prints no JSON is an error', async () => {
    expect(await errorOf({ command: sh('echo hello; echo ignored >&2') })).toContain(
      failed('sh', 'its output is no JSON'),
    );
    expect(await errorOf({ command: ['true'] })).toContain(failed('true', 'its output is no JSON'));
  });

  test('that hangs is killed at its deadline with its children', async () => {
    const command = sh('echo waiting >&2; sleep 1000 & echo $! > ' + join(dir, 'child') + '; wait');
    const problem = failed('sh', 'it took longer than 0.2 s and was killed: waiting');
    expect(await errorOf({ command, timeoutMs: 200 })).toBe(problem);
    const child = Number(readFileSync(join(dir, 'child'), 'utf8'));
    await vi.waitFor(() => expect(stateOf(child)).toMatch(/^$|Z/));
  });

  test('has ended though a child of its own goes on and holds its output', async () => {
    const nodes = JSON.stringify(Array.from({ length: 20_000 }, (_, i) => `node${i}`));
    writeFileSync(join(dir, 'long.json'), nodes);
    const command = sh(`sleep 1000 & echo $! > ${join(dir, 'goes-on')}; cat ${join(dir, 'long.json')}`);
    expect(await resolve({ command })).toHaveLength(20_000);
    const child = Number(readFileSync(join(dir, 'goes-on'), 'utf8'));
    expect(stateOf(child)).toMatch(/[RS]/);
    process.kill(child, 'SIGKILL');
  });

  test('never has its arguments in an error: they may be secrets', async () => {
    expect(await errorOf({ command: sh('exit 1 # hunter2') })).not.toContain('hunter2');
  });
});
