// strictHostKeyChecking accept-new: a key that nobody knows is added once and for all, under a lock; a changed one never.
import { execFile, spawn } from 'node:child_process';
import { mkdtemp, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir, userInfo } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { createSsh, type Connection, type Ssh } from '../../src/ssh/client.ts';
import { ReconcileError } from '../../src/core/errors.ts';
import type { Node } from '../../src/core/model/node.ts';
import { startSshd, type NodeServer } from '../fleet/sshd.ts';

const run = promisify(execFile);

let dir: string;
let server: NodeServer;
let key: string;
const clients: Ssh[] = [];
const at = (name: string): string => join(dir, name);
const never = new AbortController().signal;

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'ssh-trust-'));
  for (const name of ['key', 'stranger'])
    await run('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-C', '', '-f', at(name)]);
  const authorizedKeys = [(await readFile(at('key.pub'), 'utf8')).trim()];
  server = await startSshd({ dir: at('server'), host: '0.0.0.0', authorizedKeys });
  key = (await server.hostKeys())[0] as string;
});
afterEach(() => clients.splice(0).forEach((ssh) => ssh.close()));
afterAll(async () => {
  await server.stop();
  await rm(dir, { recursive: true, force: true });
});

function client(): Ssh {
  const ssh = createSsh({ agentSocket: null, defaultIdentityFiles: [], log: () => undefined });
  clients.push(ssh);
  return ssh;
}

function node(file: string, changes: Partial<Node> = {}): Node {
  const host = changes.host ?? '127.0.0.1';
  return {
    name: host,
    host,
    port: server.port,
    user: userInfo().username,
    pool: 'default',
    identityFiles: [at('key')],
    knownHostsFiles: [at(file)],
    acceptNewHostKey: true,
    connectTimeoutMs: 20_000,
    cocoon: { binary: 'cocoon', rootDir: '/var/lib/cocoon', runDir: null, logDir: null, sudo: false },
    ...changes,
  };
}

const connect = (of: Node, ssh = client()): Promise<Connection> => ssh.connect(of, never);
const linesOf = async (file: string): Promise<string[]> => (await readFile(at(file), 'utf8')).split('\n').slice(0, -1);
const failure = async (of: Node): Promise<unknown> => {
  const error: unknown = await connect(of).catch((thrown: unknown) => thrown);
  return error instanceof ReconcileError ? error.info : error;
};

test('is added in the form that ssh reads, and trusted from then on', async () => {
  await connect(node('new/known_hosts'));
  expect(await linesOf('new/known_hosts')).toEqual([`[127.0.0.1]:${server.port} ${key}`]);
  expect((await stat(at('new/known_hosts'))).mode & 0o077).toBe(0);
  await connect(node('new/known_hosts', { acceptNewHostKey: false }));
  await connect(node('new/known_hosts'));
  expect(await linesOf('new/known_hosts')).toHaveLength(1);
  const asSsh = ['-F', 'none', '-o', 'StrictHostKeyChecking=yes', '-o', `UserKnownHostsFile=${at('new/known_hosts')}`];
  await run('ssh', [...asSsh, '-i', at('key'), '-p', String(server.port), '127.0.0.1', 'true']);
});

test('is added to the first file, by its alias, on a line of its own', async () => {
  await writeFile(at('torn'), '# no newline at the end');
  await writeFile(at('other'), '');
  await connect(node('torn', { hostKeyAlias: 'Alias', knownHostsFiles: [at('torn'), at('other')] }));
  expect(await readFile(at('torn'), 'utf8')).toBe(`# no newline at the end\nalias ${key}\n`);
  expect(await readFile(at('other'), 'utf8')).toBe('');
});

test('is refused when it has changed or is revoked, and the file stays as it is', async () => {
  const stranger = (await readFile(at('stranger.pub'), 'utf8')).trim();
  for (const [line, code] of [
    [`[127.0.0.1]:${server.port} ${stranger}\n`, 'SSH_HOST_KEY_MISMATCH'],
    [`@revoked * ${key}\n`, 'SSH_HOST_KEY_REVOKED'],
  ] as const) {
    await writeFile(at('changed'), line);
    expect(await failure(node('changed'))).toMatchObject({ code });
    expect(await readFile(at('changed'), 'utf8')).toBe(line);
  }
});

test('is added once by two runs at the same time, for each of many nodes, and no line is torn', async () => {
  await writeFile(at('many'), '');
  const hosts = Array.from({ length: 30 }, (_, i) => `127.0.2.${i + 1}`);
  const runs = [client(), client()];
  await Promise.all(runs.flatMap((ssh) => hosts.map((host) => connect(node('many', { host }), ssh))));
  const expected = hosts.map((host) => `[${host}]:${server.port} ${key}`);
  expect((await linesOf('many')).sort()).toEqual(expected.sort());
});

/** Another process that holds the lock of a file; `free` ends it. */
async function holdLock(file: string): Promise<{ free: () => Promise<unknown> }> {
  const holder = spawn('flock', [at(file), 'sh', '-c', 'echo locked; exec cat'], { stdio: ['pipe', 'pipe', 'ignore'] });
  const ended = new Promise((resolve) => holder.once('close', resolve));
  await new Promise((resolve) => holder.stdout.once('data', resolve));
  return {
    free: () => {
      holder.stdin.end();
      return ended;
    },
  };
}

test('waits for a lock that another run holds, and then sees what that one has written', async () => {
  const stranger = (await readFile(at('stranger.pub'), 'utf8')).trim();
  await writeFile(at('locked'), '');
  const holder = await holdLock('locked');
  const ended = failure(node('locked'));
  const accepted = connect(node('locked', { host: '127.0.2.1' }));
  await writeFile(at('locked'), `# theirs\n[127.0.0.1]:${server.port} ${stranger}\n`);
  await holder.free();
  expect(await ended).toMatchObject({
    code: 'SSH_HOST_KEY_MISMATCH',
    message: expect.stringContaining(`${at('locked')}:2`),
  });
  await accepted;
  expect((await linesOf('locked')).slice(2)).toEqual([`[127.0.2.1]:${server.port} ${key}`]);
});

test('waits for a lock no longer than the connection may take', async () => {
  await writeFile(at('stuck'), '');
  const holder = await holdLock('stuck');
  const error = await failure(node('stuck', { connectTimeoutMs: 1_500 }));
  expect(error).toMatchObject({ code: 'SSH_TIMEOUT' });
  await holder.free();
  expect(await linesOf('stuck')).toEqual([]);
});

test('is not lost when another file takes the name meanwhile', async () => {
  await writeFile(at('renamed'), '');
  const holder = await holdLock('renamed');
  const accepted = connect(node('renamed'));
  await writeFile(at('renamed.new'), '# by ssh-keygen -R\n');
  await rename(at('renamed.new'), at('renamed'));
  await holder.free();
  await accepted;
  expect(await linesOf('renamed')).toEqual(['# by ssh-keygen -R', `[127.0.0.1]:${server.port} ${key}`]);
});

test('cannot be added where the file cannot be written', async () => {
  const error = await failure(node('any', { knownHostsFiles: ['/proc/known_hosts'] }));
  expect(error).toMatchObject({
    code: 'CONFIG_INVALID',
    message: 'known_hosts file /proc/known_hosts cannot be written (ENOENT)',
  });
});
