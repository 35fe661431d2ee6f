// A small world: one epoch, some nodes with SSH servers and a cocoon each, and the config file that knows them all.
import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync, readdirSync } from 'node:fs';
import { access, chmod, mkdir, mkdtemp, readFile, realpath, rm, writeFile } from 'node:fs/promises';
import { tmpdir, userInfo } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import PQueue from 'p-queue';
import { stringify } from 'yaml';
import { makeQcow2, makeSnapshotArchive, type SnapshotOptions } from '../doubles/cocoon/fixtures.ts';
import { startEpoch, type Epoch, type EpochOptions } from '../doubles/epoch.ts';
import type { Artifact } from '../doubles/registry-content.ts';
import { freshKeyPair, startSshServer, type SshServerOptions } from '../doubles/ssh-server.ts';
import { endAll, ensureCommand, ensureSshd, MARK, startSshd, type NodeServer, type SshdOptions } from './sshd.ts';

export type Transport = 'sshd' | 'in-process';

export interface NodeSpec {
  name?: string;
  pool?: string;
  /** Which metadata store its cocoon keeps; `sqlite` makes it one of the newer generation. */
  store?: 'json' | 'sqlite';
  /** Keys laid over this node's entry in the config. */
  config?: Record<string, unknown>;
  /** Environment of its cocoon. */
  env?: Record<string, string>;
  sshd?: Pick<SshdOptions, 'host' | 'port' | 'hostKeyTypes' | 'maxStartups' | 'config' | 'env'>;
  /** For in-process nodes. */
  onExec?: NonNullable<SshServerOptions['onExec']>;
}

export interface FleetOptions {
  /** Where everything lies; created where it is missing, and removed by `down`. Default: a fresh temporary directory. */
  dir?: string;
  nodes: number | NodeSpec[];
  epoch?: EpochOptions;
  transport?: Transport;
  /** Default `cocoonset-node-`; numbers from 1 follow. */
  prefix?: string;
}

export interface CommandResult {
  /** Exit code; -1 after a signal. */
  code: number;
  stdout: string;
  stderr: string;
}

export interface FleetNode extends Omit<NodeServer, 'pids'> {
  readonly name: string;
  readonly dir: string;
  readonly rootDir: string;
  readonly runDir: string;
  readonly logDir: string;
  readonly binary: string;
  /** Runs this node's cocoon here, under its directories. */
  cocoon(...args: string[]): Promise<CommandResult>;
  /** The same with something on its stdin. */
  cocoonWith(stdin: Buffer, ...args: string[]): Promise<CommandResult>;
  /** The arguments of every call of its cocoon since the log was cleared, whoever called. */
  commands(): Promise<string[][]>;
  clearLog(): Promise<void>;
  /** Sets variables for every later call of its cocoon; undefined unsets one. */
  setEnv(changes: Record<string, string | undefined>): Promise<void>;
  /** `image pull [--force]`, which must succeed. */
  pull(reference: string, force?: boolean): Promise<void>;
  /** `snapshot import` of an archive as taken on this node; it must succeed. */
  addSnapshot(options: SnapshotOptions & { name: string }): Promise<void>;
  blobFile(digest: string): string;
}

/** A system user who may log in to every node, and may become root for sh and each node's cocoon. */
export interface Operator {
  name: string;
  remove(): Promise<void>;
}

export interface Fleet {
  readonly dir: string;
  readonly epoch: Epoch;
  readonly nodes: FleetNode[];
  node(name: string): FleetNode;
  readonly configFile: string;
  readonly identityFile: string;
  readonly publicKey: string;
  readonly knownHostsFile: string;
  /** Writes the config anew: its first state with these keys laid over (undefined removes one). Returns the file. */
  writeConfig(overrides?: Record<string, unknown>): Promise<string>;
  /** Writes known_hosts anew from the keys that the nodes show now. */
  trust(): Promise<void>;
  /** Root only. `sudo: false`: one who may become nobody else. */
  createOperator(options?: { sudo?: boolean }): Promise<Operator>;
  /** First processes of everything that runs outside this one. */
  pids(): number[];
  /** Ends every process and removes every file. */
  down(): Promise<void>;
}

export interface Incident {
  /** The key under which nodes hold the image. */
  reference: string;
  image: string;
  snapshot: string;
  /** What the drifted nodes have, and what epoch serves and the snapshot pins. */
  before: Artifact;
  after: Artifact;
  snapshotArtifact: Artifact;
  drifted: string[];
}

/** Starts everything; what was started is ended again where something fails. */
export async function startFleet(options: FleetOptions): Promise<Fleet> {
  const { transport = 'sshd', prefix = 'cocoonset-node-' } = options;
  const specs = typeof options.nodes === 'number' ? Array.from({ length: options.nodes }, () => ({})) : options.nodes;
  const named = specs.map((spec: NodeSpec, index) => ({ ...spec, name: spec.name ?? `${prefix}${index + 1}` }));
  if (transport === 'sshd') await ensureSshd();
  if (named.some((spec) => spec.store === 'sqlite')) await ensureCommand('sqlite3');

  const dir = await makeDir(options.dir);
  const identityFile = join(dir, 'id_ed25519');
  const knownHostsFile = join(dir, 'known_hosts');
  const configFile = join(dir, 'reconcile.yaml');
  const identity = freshKeyPair();
  await writeFile(identityFile, identity.private, { mode: 0o600 });
  const epoch = await startEpoch(options.epoch);
  const servers: NodeServer[] = [];
  const operators: Operator[] = [];

  const pids = () => servers.flatMap((server) => server.pids());
  const down = async () => {
    await endAll(pids(), join(dir, 'nodes'));
    await Promise.all([epoch.stop(), ...servers.map((server) => server.stop())]);
    for (const operator of operators) await operator.remove();
    await rm(dir, { recursive: true, force: true });
    await Promise.all(locksUnder(dir).map((file) => rm(file, { force: true })));
  };
  const startOne = async (spec: (typeof named)[number]) => {
    const started = await startNode(dir, spec, transport, identity.public);
    servers.push(started.server);
    return started;
  };
  const nodes = await inParallel(named, startOne).catch(async (error: unknown) => {
    await down();
    throw error;
  });

  const base = baseConfig(epoch.url, identityFile, knownHostsFile, nodes);
  const writeConfig = async (overrides: Record<string, unknown> = {}) => {
    await writeFile(configFile, stringify(laidOver(base, overrides)));
    return configFile;
  };
  const trust = async () => {
    const lines = await Promise.all(nodes.map(({ server }) => knownHostLines(server)));
    await writeFile(knownHostsFile, `${lines.flat().join('\n')}\n`);
  };
  await trust();
  await writeConfig();
  return {
    dir,
    epoch,
    nodes: nodes.map((node) => node.node),
    node: (name) => {
      const found = nodes.find(({ node }) => node.name === name);
      if (!found) throw new Error(`no node ${name} in this fleet`);
      return found.node;
    },
    configFile,
    identityFile,
    publicKey: identity.public,
    knownHostsFile,
    writeConfig,
    trust,
    createOperator: async ({ sudo = true } = {}) => {
      const operator = await createOperator(dir, sudo);
      operators.push(operator);
      return operator;
    },
    pids,
    down,
  };
}

/**
 * The incident: the tag was pushed again, most nodes refreshed their copy, the drifted ones did not, and a
 * snapshot baked on the new content came to all of them.
 */
export async function breakAsInTheIncident(fleet: Fleet, drifted: string[]): Promise<Incident> {
  const image = 'simular/win11';
  const snapshot = 'simular/win11-hot-testing:v1-20260509';
  const reference = `${fleet.epoch.url}/dl/${image}`;
  const pushed = (seed: string) =>
    fleet.epoch.pushImage(image, 'latest', { content: makeQcow2({ seed, size: 256 * 1024 }) });

  const before = await pushed('win11 of April');
  await inParallel(fleet.nodes, (node) => node.pull(reference));
  const after = await pushed('win11 of May');
  const imageDigest = after.contentDigest ?? '';
  await inParallel(fleet.nodes, async (node) => {
    if (!drifted.includes(node.name)) await node.pull(reference, true);
    await node.addSnapshot({ name: snapshot, image: reference, imageDigest });
    await node.clearLog();
  });
  const [repo = '', tag = ''] = snapshot.split(':');
  const snapshotArtifact = await fleet.epoch.pushSnapshot(repo, tag, { image: reference, imageDigest });
  return { reference, image, snapshot, before, after, snapshotArtifact, drifted };
}

/** What reconcile leaves on a node for ever: the lock files of the root directories under `dir`. */
function locksUnder(dir: string): string[] {
  const uid = process.getuid?.() ?? 0;
  return ['/run/cocoon-reconcile', `/tmp/cocoon-reconcile-${uid}`].flatMap((place) =>
    existsSync(place)
      ? readdirSync(place)
          .filter((name) => name.startsWith(`${dir.replaceAll('/', '_')}_nodes_`))
          .map((name) => join(place, name))
      : [],
  );
}

// --- One node -------------------------------------------------------------------------------------------------------

interface StartedNode {
  node: FleetNode;
  server: NodeServer;
  spec: NodeSpec;
}

async function startNode(
  fleetDir: string,
  spec: NodeSpec & { name: string },
  transport: Transport,
  publicKey: string,
): Promise<StartedNode> {
  const dir = join(fleetDir, 'nodes', spec.name);
  const at = { dir, rootDir: join(dir, 'root'), runDir: join(dir, 'run'), logDir: join(dir, 'log') };
  const binary = join(dir, 'bin', 'cocoon');
  await mkdir(join(dir, 'bin'), { recursive: true });
  for (const made of [at.rootDir, join(at.rootDir, 'firmware'), at.runDir, at.logDir])
    await mkdir(made, { mode: 0o750 });
  await writeFile(join(at.rootDir, 'firmware', 'CLOUDHV.fd'), 'firmware\n');
  await writeFile(binary, await wrapperText(dir), { mode: 0o755 });
  await writeFile(logFile(dir), '');
  await chmod(logFile(dir), 0o666); // a user who is not root may call cocoon too

  const authorizedKeys = [publicKey];
  const server =
    transport === 'sshd'
      ? await startSshd({ ...spec.sshd, dir: join(dir, 'sshd'), authorizedKeys, mark: dir })
      : await startSshServer({ authorizedKeys, mark: dir, ...(spec.onExec ? { onExec: spec.onExec } : {}) });
  const node = nodeOf(spec.name, at, binary, server);
  const hypervisor = process.env['COCOON_CH_BINARY']; // of a true cocoon
  await node.setEnv({
    ...(hypervisor === undefined ? {} : { COCOON_CH_BINARY: hypervisor }),
    ...(spec.store === 'sqlite' ? { COCOON_DOUBLE_GENERATION: 'N' } : {}),
    ...spec.env,
  });
  return { node, server, spec };
}

function nodeOf(
  name: string,
  at: Pick<FleetNode, 'dir' | 'rootDir' | 'runDir' | 'logDir'>,
  binary: string,
  server: NodeServer,
): FleetNode {
  const dirs = ['--root-dir', at.rootDir, '--run-dir', at.runDir, '--log-dir', at.logDir];
  const cocoonWith = (stdin: Buffer, ...args: string[]) => execute(binary, [...dirs, ...args], stdin);
  const mustSucceed = async (stdin: Buffer, ...args: string[]) => {
    const { code, stderr } = await cocoonWith(stdin, ...args);
    if (code !== 0) throw new Error(`cocoon ${args.join(' ')} on ${name}: exit code ${code}: ${stderr.trim()}`);
  };
  let env: Record<string, string | undefined> = {};
  const { pids: _pids, ...ssh } = server;
  return {
    ...ssh,
    ...at,
    name,
    binary,
    cocoon: (...args) => cocoonWith(Buffer.alloc(0), ...args),
    cocoonWith,
    commands: async () => {
      const lines = (await readFile(logFile(at.dir), 'utf8')).split('\n');
      return lines.filter((line) => line !== '').map((line) => JSON.parse(line) as string[]);
    },
    clearLog: () => writeFile(logFile(at.dir), ''),
    setEnv: async (changes) => {
      env = { ...env, ...changes };
      const set = Object.entries(env).filter((entry): entry is [string, string] => entry[1] !== undefined);
      await writeFile(join(at.dir, 'env'), set.map(([key, value]) => `export ${key}=${shellQuote(value)}\n`).join(''));
    },
    pull: (reference, force = false) =>
      mustSucceed(Buffer.alloc(0), 'image', 'pull', ...(force ? ['--force'] : []), reference),
    addSnapshot: (options) => {
      const archive = makeSnapshotArchive({ rootDir: at.rootDir, runDir: at.runDir, ...options });
      return mustSucceed(archive, 'snapshot', 'import', '--name', options.name);
    },
    blobFile: (digest) => join(at.rootDir, 'cloudimg', 'blobs', `${digest.replace(/^sha256:/, '')}.qcow2`),
  };
}

function logFile(nodeDir: string): string {
  return join(nodeDir, 'commands.log');
}

/** The program that a node calls cocoon: it appends its arguments to the log as one line of JSON, and becomes cocoon. */
async function wrapperText(nodeDir: string): Promise<string> {
  const program = process.env['COCOON_BIN']
    ? shellQuote(await realpath(process.env['COCOON_BIN']))
    : `${shellQuote(process.execPath)} ${shellQuote(await cocoonDouble())}`;
  // Backslashes and quotes, then every control character by its number, then quotes around.
  const controls = Array.from({ length: 31 }, (_, index) => (index + 1).toString(16).padStart(2, '0'));
  const edits = ['s/["\\\\]/\\\\&/g', ...controls.map((hex) => `s/\\x${hex}/\\\\u00${hex}/g`), 's/.*/"&"/'];
  return `#!/bin/sh
dir=${shellQuote(nodeDir)}
line=
if [ $# -gt 0 ]; then
  line=$(printf '%s\\0' "$@" | LC_ALL=C sed -z -e ${shellQuote(edits.join(';'))} | tr '\\0' ',')
fi
printf '[%s]\\n' "\${line%,}" >>"$dir/commands.log"
. "$dir/env"
export ${MARK}="$dir"
exec ${program} "$@"
`;
}

/** The built double. */
async function cocoonDouble(): Promise<string> {
  let dir = dirname(fileURLToPath(import.meta.url));
  while (!(await exists(join(dir, 'package.json')))) {
    if (dirname(dir) === dir) throw new Error('no package.json above this file');
    dir = dirname(dir);
  }
  const file = join(dir, 'test', 'dist', 'cocoon.js');
  if (!(await exists(file))) throw new Error(`${file} is missing: run \`npm run build\` first`);
  return file;
}

// --- Config ---------------------------------------------------------------------------------------------------------

function baseConfig(url: string, identityFile: string, knownHostsFile: string, nodes: StartedNode[]) {
  const user = userInfo().username;
  return {
    epoch: { url },
    nodes: nodes.map(({ node, spec }) => ({
      name: node.name,
      host: node.host,
      port: node.port,
      ...(spec.pool === undefined ? {} : { pool: spec.pool }),
      binary: node.binary,
      rootDir: node.rootDir,
      runDir: node.runDir,
      logDir: node.logDir,
      ...spec.config,
    })),
    ssh: { user, identityFile, knownHostsFile, configFile: 'none' },
    rollout: { grace: '0s' }, // what a test interrupts, it waits for
    run: { stateDir: join(dirname(identityFile), 'state') },
    // Everything here belongs to the user who started it.
    ...(process.getuid?.() === 0 ? {} : { cocoon: { sudo: false } }),
  };
}

/** Objects are merged key by key; anything else replaces. */
function laidOver(base: Record<string, unknown>, overrides: Record<string, unknown>): Record<string, unknown> {
  const merged = { ...base };
  for (const [key, value] of Object.entries(overrides)) {
    const under = merged[key];
    if (value === undefined) delete merged[key];
    else merged[key] = isPlain(under) && isPlain(value) ? laidOver(under, value) : value;
  }
  return merged;
}

function isPlain(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

async function knownHostLines(server: NodeServer): Promise<string[]> {
  return (await server.hostKeys()).map((key) => `[${server.host}]:${server.port} ${key}`);
}

// --- Another user ---------------------------------------------------------------------------------------------------

async function createOperator(fleetDir: string, sudo: boolean): Promise<Operator> {
  if (process.getuid?.() !== 0) throw new Error('only root can create a user');
  await ensureCommand('sudo');
  const name = `fleet-op-${randomBytes(4).toString('hex')}`;
  const sudoers = `/etc/sudoers.d/${name}`;
  // `*` as password: no login by password, but not locked, which sshd without PAM would refuse.
  const argv = ['--system', '--no-create-home', '--home-dir', fleetDir, '--shell', '/bin/sh', '--password', '*', name];
  await must('/usr/sbin/useradd', argv);
  const remove = async () => {
    await rm(sudoers, { force: true });
    await execute('/usr/sbin/userdel', ['--force', name]);
  };
  if (sudo) {
    const commands = ['/bin/sh', '/usr/bin/sh', `${fleetDir}/nodes/*/bin/cocoon`].join(', ');
    const lines = [`Defaults:${name} env_keep += "${MARK}"`, `${name} ALL=(root) NOPASSWD: ${commands}`];
    await writeFile(sudoers, `${lines.join('\n')}\n`, { mode: 0o440 });
  }
  return { name, remove };
}

// --- Small things ---------------------------------------------------------------------------------------------------

/** A directory that other users may pass through. */
async function makeDir(wanted: string | undefined): Promise<string> {
  if (wanted) await mkdir(wanted, { recursive: true });
  const dir = await realpath(wanted ?? (await mkdtemp(join(tmpdir(), 'fleet-'))));
  await chmod(dir, 0o755);
  return dir;
}

/** At most four at a time: a start of Node.js each, on few cores. Settled when all are, also where one fails. */
async function inParallel<T, R>(items: readonly T[], work: (item: T) => Promise<R>): Promise<R[]> {
  const queue = new PQueue({ concurrency: 4 });
  const settled = await Promise.allSettled(items.map((item) => queue.add(() => work(item))));
  return settled.map((result) => {
    if (result.status === 'rejected') throw result.reason;
    return result.value;
  });
}

function execute(file: string, args: string[], stdin: Buffer = Buffer.alloc(0)): Promise<CommandResult> {
  return new Promise((resolve, reject) => {
    const child = spawn(file, args, { env: { ...process.env, NO_COLOR: '1' } });
    const said: Record<'stdout' | 'stderr', Buffer[]> = { stdout: [], stderr: [] };
    child.stdout.on('data', (chunk: Buffer) => said.stdout.push(chunk));
    child.stderr.on('data', (chunk: Buffer) => said.stderr.push(chunk));
    child.stdin.on('error', () => child.stdin.destroy());
    child.stdin.end(stdin);
    child.on('error', reject);
    child.on('close', (code) => {
      const text = (chunks: Buffer[]) => Buffer.concat(chunks).toString();
      resolve({ code: code ?? -1, stdout: text(said.stdout), stderr: text(said.stderr) });
    });
  });
}

async function must(file: string, args: string[]): Promise<void> {
  const { code, stderr } = await execute(file, args);
  if (code !== 0) throw new Error(`${file}: ${stderr.trim()}`);
}

function shellQuote(value: string): string {
  return `'${value.replaceAll("'", `'\\''`)}'`;
}

async function exists(file: string): Promise<boolean> {
  return access(file).then(
    () => true,
    () => false,
  );
}
