// The test fleet itself: what tests of the program rely on.
import { spawn } from 'node:child_process';
import { access, mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir, userInfo } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest';
import { parse } from 'yaml';
import {
  answer,
  dieAfter,
  flood,
  garbage,
  never,
  silent,
  startSshServer,
  startTcpServer,
} from '../doubles/ssh-server.ts';
import { marked, pause, type NodeServer } from './sshd.ts';
import {
  breakAsInTheIncident,
  startFleet,
  type CommandResult,
  type Fleet,
  type Incident,
  type Transport,
} from './world.ts';

vi.setConfig({ testTimeout: 60_000, hookTimeout: 60_000 });

const isRoot = process.getuid?.() === 0;
const dist = fileURLToPath(new URL('../dist/fleet.js', import.meta.url));

function run(file: string, args: string[], stdin = ''): Promise<CommandResult> {
  const child = spawn(file, args, { timeout: 60_000 });
  let [stdout, stderr] = ['', ''];
  child.stdout.on('data', (chunk: Buffer) => (stdout += chunk.toString()));
  child.stderr.on('data', (chunk: Buffer) => (stderr += chunk.toString()));
  child.stdin.on('error', () => child.stdin.destroy());
  child.stdin.end(stdin);
  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code) => resolve({ code: code ?? -1, stdout, stderr }));
  });
}

interface Login {
  identityFile: string;
  knownHostsFile: string;
  user?: string;
}

/** The system's own client, with nothing of this machine's configuration. */
function sshArgs(server: Pick<NodeServer, 'host' | 'port'>, login: Login, command: string): string[] {
  const options = [
    'BatchMode=yes',
    'IdentitiesOnly=yes',
    'StrictHostKeyChecking=yes',
    'GlobalKnownHostsFile=/dev/null',
    `UserKnownHostsFile="${login.knownHostsFile}"`,
    'ConnectTimeout=2',
  ].flatMap((option) => ['-o', option]);
  const target = `${login.user ?? userInfo().username}@${server.host}`;
  return ['-F', 'none', ...options, '-i', login.identityFile, '-p', String(server.port), target, command];
}

const ssh = (server: Pick<NodeServer, 'host' | 'port'>, login: Login, command: string, stdin = '') =>
  run('ssh', sshArgs(server, login, command), stdin);

async function until(holds: () => Promise<boolean>): Promise<void> {
  for (const end = Date.now() + 10_000; !(await holds()); await pause(20)) {
    if (Date.now() > end) throw new Error(`not within ten seconds: ${holds.toString()}`);
  }
}

const gone = (path: string) =>
  access(path).then(
    () => false,
    () => true,
  );

describe('a fleet after the incident', () => {
  let fleet: Fleet;
  let incident: Incident;
  beforeAll(async () => {
    fleet = await startFleet({ nodes: [{}, {}, { store: 'sqlite' }, { store: 'sqlite', pool: 'gpu' }] });
    incident = await breakAsInTheIncident(fleet, ['cocoonset-node-2', 'cocoonset-node-3']);
  });
  afterAll(() => fleet?.down());

  test('has a config that names epoch and every node', async () => {
    const config = parse(await readFile(fleet.configFile, 'utf8')) as Record<string, unknown>;
    expect(config).toMatchObject({
      epoch: { url: fleet.epoch.url },
      ssh: { user: userInfo().username, identityFile: fleet.identityFile, knownHostsFile: fleet.knownHostsFile },
    });
    expect(config['nodes']).toHaveLength(4);
    const { name, host, port, binary, rootDir, runDir, logDir } = fleet.node('cocoonset-node-4');
    expect(config['nodes']).toContainEqual({ name, host, port, pool: 'gpu', binary, rootDir, runDir, logDir });
  });

  test('writes the config anew with other keys, from the same beginning each time', async () => {
    const read = async () => parse(await readFile(fleet.configFile, 'utf8')) as Record<string, unknown>;
    await fleet.writeConfig({ ssh: { user: 'someone' }, verify: { clone: 'vm' }, nodes: ['n[1-2]'] });
    expect(await read()).toMatchObject({
      ssh: { user: 'someone', identityFile: fleet.identityFile },
      verify: { clone: 'vm' },
    });
    await fleet.writeConfig({ epoch: undefined });
    expect(Object.keys(await read())).not.toContain('epoch');
    await fleet.writeConfig();
    expect((await read())['nodes']).toHaveLength(4);
  });

  test('can be reached with the ssh of this system', async () => {
    const node = fleet.node('cocoonset-node-1');
    const said = await ssh(node, fleet, 'cat; echo oops >&2; exit 7', 'through stdin');
    expect(said).toEqual({ code: 7, stdout: 'through stdin', stderr: 'oops\n' });
  });

  test.each(['cocoonset-node-1', 'cocoonset-node-4'])('clones on %s, which has what epoch serves', async (name) => {
    const node = fleet.node(name);
    const { code, stdout, stderr } = await node.cocoon('image', 'inspect', incident.reference);
    expect([code, stderr]).toEqual([0, '']);
    expect(JSON.parse(stdout)).toMatchObject({ id: incident.after.contentDigest });
    if (process.env['COCOON_BIN']) return;
    expect(await node.cocoon('vm', 'clone', '--name', 'test', incident.snapshot)).toMatchObject({ code: 0 });
    expect(await node.cocoon('vm', 'rm', '--force', 'test')).toMatchObject({ code: 0 });
  });

  test.each(['cocoonset-node-2', 'cocoonset-node-3'])(
    'fails to clone on %s, in the words of the incident',
    async (name) => {
      const node = fleet.node(name);
      const { stdout } = await node.cocoon('image', 'inspect', incident.reference);
      expect(JSON.parse(stdout)).toMatchObject({ id: incident.before.contentDigest });
      expect(await gone(node.blobFile(incident.after.contentDigest ?? ''))).toBe(true);
      if (process.env['COCOON_BIN']) return;
      const { code, stderr } = await node.cocoon('vm', 'clone', '--name', 'test', incident.snapshot);
      expect(code).toBe(1);
      const missing =
        /Error: clone VM: vm\.restore: PUT \S+ → 500: .*Backing file I\/O error: (\S+\.qcow2).*No such file/s;
      expect(missing.exec(stderr)?.[1]).toBe(node.blobFile(incident.after.contentDigest ?? ''));
    },
  );

  test('serves the snapshot with the digest of its base', async () => {
    const [repo, tag] = incident.snapshot.split(':');
    const manifest = (await (await fetch(`${fleet.epoch.url}/v2/${repo}/manifests/${tag}`)).json()) as {
      config: { digest: string };
    };
    const config = await (await fetch(`${fleet.epoch.url}/v2/${repo}/blobs/${manifest.config.digest}`)).json();
    expect(config).toMatchObject({ image: incident.reference, imageDigest: incident.after.contentDigest });
  });

  test('logs every call of cocoon, argument by argument', async () => {
    const node = fleet.node('cocoonset-node-1');
    await node.clearLog();
    const odd = ['no"\\such', "it's\n\t\u001b[1m", '', 'a,b', '$(id) *', '漢'];
    await run(node.binary, odd);
    await run(node.binary, []);
    await ssh(node, fleet, `'${node.binary}' version`);
    expect(await node.commands()).toEqual([odd, [], ['version']]);
  });

  test('hands its environment to cocoon and no other node', async () => {
    if (process.env['COCOON_BIN']) return;
    const [one, two] = [fleet.node('cocoonset-node-1'), fleet.node('cocoonset-node-2')];
    await one.setEnv({ COCOON_DOUBLE_VERSION: "v9'9" });
    expect((await one.cocoon('version')).stdout).toContain("v9'9");
    expect((await two.cocoon('version')).stdout).not.toContain("v9'9");
    await one.setEnv({ COCOON_DOUBLE_VERSION: undefined });
    expect((await one.cocoon('version')).stdout).not.toContain("v9'9");
  });

  test.runIf(isRoot)('lets an operator in, who becomes root by sudo, and one who cannot', async () => {
    const node = fleet.node('cocoonset-node-1');
    const operator = await fleet.createOperator();
    const login = { ...fleet, user: operator.name };
    expect(await ssh(node, login, `id -un; sudo -n sh -c 'id -un'; sudo -n '${node.binary}' version`)).toMatchObject({
      code: 0,
      stdout: expect.stringMatching(new RegExp(`^${operator.name}\nroot\nVersion: `)) as string,
      stderr: '',
    });
    expect((await ssh(node, login, 'sudo -n id')).code).not.toBe(0);
    await operator.remove();
    expect((await run('id', [operator.name])).code).not.toBe(0);

    const plain = await fleet.createOperator({ sudo: false });
    expect((await ssh(node, { ...fleet, user: plain.name }, 'sudo -n sh -c id')).stderr).toMatch(
      /password is required/,
    );
  });
});

describe.each<Transport>(['sshd', 'in-process'])('nodes by %s', (transport) => {
  let fleet: Fleet;
  beforeAll(async () => {
    fleet = await startFleet({ nodes: 2, transport, prefix: 'n' });
  });
  afterAll(() => fleet?.down());

  test('run commands with stdin, both outputs and an exit code', async () => {
    const said = await ssh(fleet.node('n1'), fleet, 'cat; echo oops >&2; exit 7', 'in');
    expect(said).toEqual({ code: 7, stdout: 'in', stderr: 'oops\n' });
  });

  test('refuse a stranger', async () => {
    const other = await startFleet({ nodes: 0 });
    const login = { ...fleet, identityFile: other.identityFile };
    expect((await ssh(fleet.node('n1'), login, 'true')).stderr).toMatch(/Permission denied/);
    await other.down();
  });

  test('let a command live on when its client goes away', async () => {
    const node = fleet.node('n1');
    const file = join(node.dir, 'lived-on');
    const client = spawn('ssh', sshArgs(node, fleet, `echo began; cat >/dev/null; sleep 0.2; touch '${file}'`), {
      stdio: ['pipe', 'pipe', 'ignore'],
    });
    await new Promise((resolve) => client.stdout?.once('data', resolve));
    client.kill('SIGKILL');
    await until(async () => !(await gone(file)));
  });

  test('end what ran in their sessions when they stop, and come back', async () => {
    const node = fleet.node('n1');
    await ssh(node, fleet, 'setsid sleep 1000 >/dev/null 2>&1 </dev/null & exit 0');
    await until(async () => (await marked(node.dir)).length > 0);
    await node.stop();
    expect(await marked(node.dir)).toEqual([]);
    expect((await ssh(node, fleet, 'true')).stderr).toMatch(/Connection refused/);
    expect((await ssh(fleet.node('n2'), fleet, 'true')).code).toBe(0);
    await node.start();
    expect((await ssh(node, fleet, 'true')).code).toBe(0);
  });

  test('accept and keep silent while frozen', async () => {
    const node = fleet.node('n1');
    await node.freeze();
    expect((await ssh(node, fleet, 'true')).stderr).toMatch(/timed out during banner exchange/);
    await node.thaw();
    expect((await ssh(node, fleet, 'true')).code).toBe(0);
  });

  test('show another host key after a change', async () => {
    const node = fleet.node('n1');
    await node.changeHostKey();
    expect((await ssh(node, fleet, 'true')).stderr).toMatch(/REMOTE HOST IDENTIFICATION HAS CHANGED/);
    await fleet.trust();
    expect((await ssh(node, fleet, 'true')).code).toBe(0);
  });

  test('leave no process and no file', async () => {
    await ssh(fleet.node('n2'), fleet, 'setsid sleep 1000 >/dev/null 2>&1 </dev/null & exit 0');
    const pids = fleet.pids();
    await fleet.down();
    expect(await gone(fleet.dir)).toBe(true);
    expect(await marked(fleet.dir)).toEqual([]);
    expect(pids.filter((pid) => isThere(pid))).toEqual([]);
  });
});

function isThere(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
}

describe('servers that misbehave', () => {
  let fleet: Fleet;
  const ends: (() => Promise<void>)[] = [];
  beforeAll(async () => {
    fleet = await startFleet({ nodes: 0 });
  });
  afterEach(async () => {
    for (const end of ends.splice(0)) await end();
  });
  afterAll(() => fleet?.down());

  const hooks = { fine: answer('out', 3, 'err'), dead: dieAfter('half'), flood, never };
  const hooked = async () => {
    const server = await startSshServer({
      authorizedKeys: [fleet.publicKey],
      mark: fleet.dir,
      onExec: (command) => (hooks as Record<string, (typeof hooks)['never']>)[command],
    });
    ends.push(server.stop);
    return server;
  };
  const anyHost = (server: Pick<NodeServer, 'host' | 'port'>, command: string) =>
    sshArgs(server, fleet, command).map((argument) =>
      argument.replace(/^StrictHostKeyChecking=yes$/, 'StrictHostKeyChecking=no'),
    );

  test('answer what a test wants, or run the command', async () => {
    const server = await hooked();
    expect(await run('ssh', anyHost(server, 'fine'))).toMatchObject({ code: 3, stdout: 'out' });
    expect(await run('ssh', anyHost(server, 'echo real'))).toMatchObject({ code: 0, stdout: 'real\n' });
  });

  test('die in the middle of a command', async () => {
    const server = await hooked();
    expect(await run('ssh', anyHost(server, 'dead'))).toMatchObject({ code: 255, stdout: 'half' });
  });

  test('flood, or never answer, until the client goes away', async () => {
    const server = await hooked();
    const flooded = spawn('sh', ['-c', 'ssh "$@" | head -c 3000000 | wc -c', 'sh', ...anyHost(server, 'flood')]);
    const count = await new Promise((resolve) =>
      flooded.stdout.once('data', (chunk: Buffer) => resolve(Number(String(chunk)))),
    );
    expect(count).toBe(3_000_000);
    const waiting = spawn('ssh', anyHost(server, 'never'), { stdio: 'ignore' });
    expect(await Promise.race([new Promise((resolve) => waiting.once('close', resolve)), pause(300)])).toBeUndefined();
    waiting.kill();
  });

  test('talk something else than SSH, or nothing', async () => {
    const web = await startTcpServer(garbage);
    const mute = await startTcpServer(silent);
    ends.push(web.stop, mute.stop);
    expect((await run('ssh', anyHost(web, 'true'))).stderr).toMatch(/banner|Connection (closed|reset)/);
    expect((await run('ssh', anyHost(mute, 'true'))).stderr).toMatch(/timed out during banner exchange/);
  });
});

describe('scripts/fleet', () => {
  let parent: string;
  let dir: string;
  beforeAll(async () => {
    parent = await mkdtemp(join(tmpdir(), 'scripts-fleet-'));
    dir = join(parent, 'a fleet');
  });
  afterAll(async () => {
    await fleetCommand('down', '--dir', dir);
    await rm(parent, { recursive: true, force: true });
  });
  const fleetCommand = (...args: string[]) => run(process.execPath, [dist, ...args]);
  const digestAt = async (url: string) =>
    ((await (await fetch(`${url}/v2/simular/win11/manifests/latest`)).json()) as { layers: { digest: string }[] })
      .layers[0]?.digest;

  test('starts a fleet that outlives the command, and prints its config only', async () => {
    const up = await fleetCommand('up', '--nodes', '3', '--drift', '1', '--sqlite', '1', '--dir', dir);
    expect(up).toEqual({ code: 0, stdout: `${join(dir, 'reconcile.yaml')}\n`, stderr: '' });
    const config = await writtenConfig();
    const knownHostsFile = config.ssh.knownHostsFile;
    for (const node of config.nodes) {
      expect((await ssh(node, { identityFile: config.ssh.identityFile, knownHostsFile }, 'true')).code).toBe(0);
    }
    const counts = await Promise.all(
      config.nodes.map(async ({ rootDir }) => (await readdir(join(rootDir, 'cloudimg/blobs'))).length),
    );
    expect(counts.filter((count) => count === 1)).toHaveLength(1); // the drifted one never fetched the second
  });

  test('pushes to it', async () => {
    const { epoch } = await writtenConfig();
    const pushed = await fleetCommand('push', '--dir', dir, 'simular/win11:latest', '--seed', 'x');
    expect(pushed).toMatchObject({ code: 0, stdout: `simular/win11:latest ${await digestAt(epoch.url)}\n` });
  });

  test('refuses a directory that is taken, and bad sizes', async () => {
    const lines = async (...args: string[]) => {
      const { code, stderr } = await fleetCommand(...args);
      return [code, stderr.trimEnd().split('\n').length];
    };
    expect(await lines('up', '--dir', dir)).toEqual([1, 1]);
    expect(await lines('up', '--dir', parent)).toEqual([1, 1]);
    expect(await lines('down', '--dir', parent)).toEqual([1, 1]);
    expect(await lines('up', '--dir', join(parent, 'b'), '--nodes', '1', '--drift', '2')).toEqual([1, 1]);
    expect(await lines('up')).toEqual([1, 1]);
  });

  test('takes it down without a trace, however often', async () => {
    const state = JSON.parse(await readFile(join(dir, 'fleet.json'), 'utf8')) as { server: string };
    const { nodes, epoch } = await writtenConfig();
    expect(await fleetCommand('down', '--dir', dir)).toMatchObject({ code: 0 });
    expect(await readdir(parent)).toEqual([]);
    expect(await marked(dir)).toEqual([]);
    await expect(fetch(epoch.url)).rejects.toThrow();
    for (const node of nodes) await expect(refused(node.port)).resolves.toBe(true);
    expect(await fleetCommand('down', '--dir', dir)).toMatchObject({ code: 0, stdout: '', stderr: '' });
    expect(state.server).toMatch(/^\d+@\d+$/);
  });

  test('takes down what a killed background process left', async () => {
    await fleetCommand('up', '--nodes', '1', '--drift', '0', '--dir', dir);
    const { nodes } = await writtenConfig();
    const { server } = JSON.parse(await readFile(join(dir, 'fleet.json'), 'utf8')) as { server: string };
    process.kill(Number(server.split('@')[0]), 'SIGKILL');
    await fleetCommand('down', '--dir', dir);
    expect(await readdir(parent)).toEqual([]);
    expect(await refused(nodes[0]?.port ?? 0)).toBe(true);
  });

  interface WrittenConfig {
    epoch: { url: string };
    ssh: { identityFile: string; knownHostsFile: string };
    nodes: { host: string; port: number; rootDir: string }[];
  }
  async function writtenConfig(): Promise<WrittenConfig> {
    return parse(await readFile(join(dir, 'reconcile.yaml'), 'utf8')) as WrittenConfig;
  }
  async function refused(port: number): Promise<boolean> {
    const said = await run('ssh', ['-F', 'none', '-o', 'BatchMode=yes', '-p', String(port), '127.0.0.1', 'true']);
    return said.stderr.includes('Connection refused');
  }
});
