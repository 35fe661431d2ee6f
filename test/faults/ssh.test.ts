// The SSH adapter against real OpenSSH servers, and against servers that are none: each trouble has its own code, and
// costs only its own node.
import { execFile, spawn } from 'node:child_process';
import { access, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { connect, createServer } from 'node:net';
import type { AddressInfo, Server, Socket } from 'node:net';
import { tmpdir, userInfo } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import ssh2 from 'ssh2';
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest';
import { createSsh } from '../../src/ssh/client.ts';
import type { Connection, ExecOptions, Ssh, SshOptions } from '../../src/ssh/client.ts';
import { ReconcileError } from '../../src/core/errors.ts';
import type { ErrorInfo } from '../../src/core/model/error.ts';
import type { Node } from '../../src/core/model/node.ts';
import { pause, startSshd } from '../fleet/sshd.ts';
import type { NodeServer, SshdOptions } from '../fleet/sshd.ts';

const run = promisify(execFile);

// A guard against hanging only: no test waits for it, and none measures time.
vi.setConfig({ testTimeout: 60_000, hookTimeout: 60_000 });

let dir: string;
let server: NodeServer;
let publicKey: string;
/** What each test started, ended in reverse. */
const cleanups: (() => unknown)[] = [];

const at = (name: string): string => join(dir, name);
const never = new AbortController().signal;

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'ssh-'));
  await makeKey('key', 'ed25519');
  await makeKey('stranger', 'ed25519');
  await run('ssh-keygen', ['-q', '-t', 'ed25519', '-N', 'secret', '-f', at('encrypted')]);
  publicKey = (await readFile(at('key.pub'), 'utf8')).trim();
  server = await startNode('shared', { hostKeyTypes: ['ed25519', 'rsa', 'ecdsa'] }, 'for the whole file');
});

afterAll(async () => {
  await server.stop();
  await rm(dir, { recursive: true, force: true });
});

afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

async function makeKey(name: string, type: string): Promise<void> {
  await run('ssh-keygen', ['-q', '-t', type, '-N', '', '-f', at(name)]);
}

async function startNode(name: string, options: Partial<SshdOptions> = {}, lifetime?: string): Promise<NodeServer> {
  const keys = [publicKey, (await readFile(at('encrypted.pub'), 'utf8')).trim()];
  const started = await startSshd({ dir: at(name), authorizedKeys: keys, ...options });
  if (lifetime === undefined) cleanups.push(() => started.stop());
  await trust(name, started);
  return started;
}

/** Writes `known-NAME` with all keys of that server. */
async function trust(name: string, { host, port, hostKeys }: NodeServer): Promise<void> {
  const lines = (await hostKeys()).map((key) => `[${host}]:${port} ${key}\n`);
  await writeFile(at(`known-${name}`), lines.join(''));
}

/** A TCP server that is no SSH server. */
async function startOther(onConnection: (socket: Socket, count: number) => void): Promise<{ port: number }> {
  let count = 0;
  const sockets = new Set<Socket>();
  const other: Server = createServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => undefined).on('close', () => sockets.delete(socket));
    onConnection(socket, (count += 1));
  });
  await new Promise<void>((resolve) => other.listen(0, '127.0.0.1', resolve));
  cleanups.push(() => {
    for (const socket of sockets) socket.destroy();
    return new Promise((resolve) => other.close(resolve));
  });
  return { port: (other.address() as AddressInfo).port };
}

function node(port: number, changes: Partial<Node> = {}): Node {
  return {
    name: 'node1',
    host: '127.0.0.1',
    port,
    user: userInfo().username,
    pool: 'default',
    identityFiles: [at('key')],
    knownHostsFiles: [at('known-shared')],
    connectTimeoutMs: 20_000,
    cocoon: { binary: 'cocoon', rootDir: '/var/lib/cocoon', runDir: null, logDir: null, sudo: false },
    ...changes,
  };
}

function client(changes: Partial<SshOptions> = {}): Ssh {
  const retry = { retries: 4, pauseMs: 10, maxPauseMs: 40 };
  const ssh = createSsh({ agentSocket: null, defaultIdentityFiles: [], log: () => undefined, retry, ...changes });
  cleanups.push(() => ssh.close());
  return ssh;
}

function limits(changes: Partial<ExecOptions> = {}): ExecOptions {
  return { maxStdoutBytes: 1_000_000, maxStderrBytes: 10_000, timeoutMs: 20_000, signal: never, ...changes };
}

async function failure(promise: Promise<unknown>): Promise<ErrorInfo> {
  const outcome = await promise.then(
    () => 'it succeeded',
    (error: unknown) => error,
  );
  if (!(outcome instanceof ReconcileError)) throw new Error(`no error of ours: ${String(outcome)}`);
  return outcome.info;
}

/** Waits for what another process does; the test's own time limit is the only one. */
async function until(condition: () => Promise<boolean> | boolean): Promise<void> {
  while (!(await condition())) await pause(10);
}

const exists = (file: string): Promise<boolean> =>
  access(file).then(
    () => true,
    () => false,
  );

describe('a command', () => {
  let connection: Connection;
  const exec = (command: string, changes: Partial<ExecOptions> = {}) => connection.exec(command, limits(changes));

  beforeAll(async () => {
    const ssh = createSsh({ agentSocket: null, defaultIdentityFiles: [], log: () => undefined });
    connection = await ssh.connect(node(server.port), never);
    return () => ssh.close();
  });

  test('has its output, error output and exit code', async () => {
    const result = await exec('echo out; echo err >&2; exit 7');
    expect(result).toEqual({ stdout: Buffer.from('out\n'), stderr: 'err\n', code: 7, signal: null });
  });

  test('reads its input to the end', async () => {
    const script = `echo "$((6 * 7))"\n# ${'x'.repeat(300_000)}\ncat\n`;
    expect((await exec('sh -s', { stdin: script })).stdout.toString()).toBe('42\n');
    expect((await exec('cat; echo end')).stdout.toString()).toBe('end\n');
  });

  test('may say much, whole or with the tail of its error output', async () => {
    const { stdout, stderr } = await exec("head -c 8000000 /dev/zero | tr '\\0' a; seq 1 200000 >&2", {
      maxStdoutBytes: 8_000_000,
      maxStderrBytes: 14,
    });
    expect(stdout.equals(Buffer.alloc(8_000_000, 'a'))).toBe(true);
    expect(stderr).toBe('199999\n200000\n');
  });

  test('that dies by a signal has no code', async () => {
    expect(await exec('kill -9 $$')).toMatchObject({ code: null, signal: 'SIGKILL' });
  });

  test('that floods its output is an error of its own, and the connection goes on', async () => {
    expect(await failure(exec('exec yes', { maxStdoutBytes: 100_000 }))).toMatchObject({
      code: 'NODE_ANSWER_INVALID',
      message: expect.stringContaining('more than 100000 bytes'),
    });
    expect((await exec('echo still here')).stdout.toString()).toBe('still here\n');
  });

  test('that floods its error output keeps only the tail', async () => {
    const { stderr } = await exec('head -c 20000000 /dev/zero >&2; echo last >&2', { maxStderrBytes: 5 });
    expect(stderr).toBe('last\n');
  });

  test('that floods its error output without end is an error too', async () => {
    expect(await failure(exec('exec yes >&2'))).toMatchObject({
      code: 'NODE_ANSWER_INVALID',
      message: expect.stringContaining('more than 32000000 bytes of error output'),
    });
  });

  test('hands on its output as it comes, and what takes it may end the command', async () => {
    let bytes = 0;
    const onStdout = (piece: Buffer): boolean => {
      bytes += piece.length;
      if (bytes > 100_000) throw new Error('that is enough');
      return false;
    };
    const { stdout } = await exec('head -c 100000 /dev/zero', { onStdout });
    expect([stdout.length, bytes]).toEqual([0, 100_000]);
    await expect(exec('exec yes', { onStdout })).rejects.toThrow('that is enough');
    expect((await exec('echo still here')).stdout.toString()).toBe('still here\n');
  });

  test('that takes too long is ended, by name', async () => {
    const error = await failure(exec('exec sleep 1000', { timeoutMs: 300, what: 'the nap' }));
    expect(error).toMatchObject({ code: 'SSH_TIMEOUT', message: expect.stringContaining('the nap took longer') });
    expect((await exec('echo still here')).stdout.toString()).toBe('still here\n');
  });

  test('ends with the reason of its signal, before and while it runs', async () => {
    const controller = new AbortController();
    const reason = new Error('the operator said so');
    const file = at('abort');
    const running = exec(`touch ${file}; exec sleep 1000`, { signal: controller.signal });
    const ended = running.catch((error: unknown) => error);
    await until(() => exists(file));
    controller.abort(reason);
    expect(await ended).toBe(reason);
    expect(await exec('true', { signal: controller.signal }).catch((error: unknown) => error)).toBe(reason);
  });

  test('is done although a child holds its output open', async () => {
    const result = await exec('sleep 1000 & echo done');
    expect(result).toMatchObject({ code: 0, stdout: Buffer.from('done\n') });
  });

  test('feels the heartbeat at once and again', async () => {
    const { stdout } = await exec('head -c3', { heartbeatMs: 20 });
    expect(stdout.toString()).toBe('xxx');
    const slow = await exec('head -c1; echo; exec sleep 0', { heartbeatMs: 1_000_000 });
    expect(slow.stdout.toString()).toBe('x\n');
  });

  test('reads its input before the heartbeat', async () => {
    const { stdout } = await exec('read line; echo "$line"; head -c2', { stdin: 'data\n', heartbeatMs: 20 });
    expect(stdout.toString()).toBe('data\nxx');
  });

  test('runs beside others', async () => {
    const results = await Promise.all([1, 2, 3].map((n) => exec(`echo ${n}`)));
    expect(results.map(({ stdout }) => stdout.toString())).toEqual(['1\n', '2\n', '3\n']);
  });

  test('that the server refuses to run is an error', async () => {
    const one = await startNode('one-session', { config: ['MaxSessions 0'] });
    const refused = await client().connect(node(one.port, { knownHostsFiles: [at('known-one-session')] }), never);
    expect(await failure(refused.exec('true', limits()))).toMatchObject({
      code: 'SSH_UNREACHABLE',
      message: expect.stringContaining('the server runs no command'),
    });
  });
});

describe('the host key', () => {
  const connectWith = async (name: string, lines: string): Promise<ErrorInfo> => {
    await writeFile(at(name), lines);
    return failure(client().connect(node(server.port, { knownHostsFiles: [at(name)] }), never));
  };

  test('that nobody knows', async () => {
    const { code, message, hint } = await connectWith('unknown', '# nothing\n');
    expect(code).toBe('SSH_HOST_KEY_UNKNOWN');
    expect(message).toMatch(/it offers ED25519 SHA256:\S{43}\)/);
    expect(hint).toContain(`ssh-keyscan -p ${server.port} 127.0.0.1 >> ${at('unknown')}`);
  });

  test('that only a certificate authority would vouch for', async () => {
    const [key] = await server.hostKeys();
    const { code, hint } = await connectWith('authority', `\n@cert-authority * ${key}\n`);
    expect(code).toBe('SSH_HOST_KEY_UNKNOWN');
    expect(hint).toMatch(/@cert-authority of \S+\/authority:2 does not count.*ssh-keyscan -p/);
  });

  test('that is another than known', async () => {
    const stranger = (await readFile(at('stranger.pub'), 'utf8')).trim();
    const { code, message } = await connectWith('changed', `# old\n[127.0.0.1]:${server.port} ${stranger}\n`);
    expect(code).toBe('SSH_HOST_KEY_MISMATCH');
    expect(message).toMatch(/\[127\.0\.0\.1\]:\d+ \(ED25519 SHA256:\S{43}\)/);
    expect(message).toContain(`${at('changed')}:2`);
  });

  test('that is revoked', async () => {
    const [key] = await server.hostKeys();
    const { code, message } = await connectWith('revoked', `127.0.0.1 ${key}\n@revoked * ${key}\n`);
    expect(code).toBe('SSH_HOST_KEY_REVOKED');
    expect(message).toContain(`${at('revoked')}:2`);
  });

  test('is asked for in the type that is known', async () => {
    const keys = await server.hostKeys();
    for (const type of ['ssh-rsa', 'ecdsa-sha2-nistp256']) {
      await writeFile(at(type), `[127.0.0.1]:${server.port} ${keys.find((key) => key.startsWith(type))}\n`);
      const connection = await client().connect(node(server.port, { knownHostsFiles: [at(type)] }), never);
      expect((await connection.exec('echo ok', limits())).code).toBe(0);
    }
  });

  test('cannot be judged without a readable file', async () => {
    const error = await failure(client().connect(node(server.port, { knownHostsFiles: [dir] }), never));
    expect(error).toMatchObject({ code: 'CONFIG_INVALID', message: expect.stringContaining(dir) });
  });
});

describe('the identity', () => {
  const connectWith = (identityFiles: string[], options: Partial<SshOptions> = {}) =>
    client(options).connect(node(server.port, { identityFiles }), never);
  const works = async (connection: Promise<Connection>): Promise<void> => {
    expect((await (await connection).exec('true', limits())).code).toBe(0);
  };

  async function startAgent(...keyFiles: string[]): Promise<string> {
    const agentSocket = at(`agent-${cleanups.length}-${keyFiles.length}`);
    const agent = spawn('ssh-agent', ['-D', '-a', agentSocket], { stdio: 'ignore' });
    cleanups.push(async () => {
      agent.kill();
      await rm(agentSocket, { force: true });
    });
    await until(() => exists(agentSocket));
    if (keyFiles.length > 0) await run('ssh-add', keyFiles, { env: { ...process.env, SSH_AUTH_SOCK: agentSocket } });
    return agentSocket;
  }

  test('that the server rejects is named', async () => {
    const error = await failure(connectWith([at('stranger'), at('encrypted')]));
    expect(error.code).toBe('SSH_AUTH_FAILED');
    expect(error.message).toContain(`${at('stranger')}, ${at('encrypted')}: it needs a passphrase`);
  });

  test('that is encrypted is no use alone, and no harm beside another', async () => {
    const error = await failure(connectWith([at('encrypted')]));
    expect(error).toMatchObject({ code: 'SSH_IDENTITY_UNUSABLE', message: expect.stringContaining(at('encrypted')) });
    expect(error.message).toContain('passphrase');
    await works(connectWith([at('encrypted'), at('key')]));
  });

  test('that is no key, or only its public half', async () => {
    await writeFile(at('rubbish'), 'hello\n');
    for (const [file, problem] of [
      ['rubbish', 'Unsupported key format'],
      ['key.pub', 'it holds no private key, and the agent has none'],
    ] as const) {
      const error = await failure(connectWith([at(file)]));
      expect(error).toMatchObject({ code: 'SSH_IDENTITY_UNUSABLE', message: expect.stringContaining(problem) });
    }
  });

  test('that the config names must be there, a default one need not', async () => {
    const error = await failure(connectWith([at('absent'), at('key')]));
    expect(error).toMatchObject({ code: 'SSH_IDENTITY_UNUSABLE', message: expect.stringContaining(at('absent')) });
    await works(connectWith([], { defaultIdentityFiles: [at('absent'), at('key')] }));
  });

  test('comes as Ed25519, RSA and ECDSA, and signs without being asked for it first', async () => {
    await makeKey('rsa', 'rsa');
    await makeKey('ecdsa', 'ecdsa');
    for (const name of ['key', 'rsa', 'ecdsa']) {
      const authorizedKeys = [(await readFile(at(`${name}.pub`), 'utf8')).trim()];
      const { port } = await startNode(`with-${name}`, { authorizedKeys, config: ['LogLevel VERBOSE'] });
      const knownHostsFiles = [at(`known-with-${name}`)];
      await works(client().connect(node(port, { identityFiles: [at(name)], knownHostsFiles }), never));
      const said = await readFile(join(at(`with-${name}`), 'sshd.log'), 'utf8');
      expect(said).toContain('Accepted publickey');
      expect(said).not.toContain('Postponed publickey'); // a question first
      const agentSocket = await startAgent(at(name));
      await works(client({ agentSocket }).connect(node(port, { knownHostsFiles, identityFiles: [] }), never));
    }
  });

  test('is offered before the server says that it may be, where it signs in one way only', async () => {
    const NEWKEYS = Buffer.from('0000000c0a15', 'hex');
    const SERVICE_REQUEST_BYTES = 100; // more than it takes, and less than with an offer
    const relay = await startOther((near) => {
      const far = connect(server.port, '127.0.0.1');
      cleanups.push(() => far.destroy());
      let after: number | null = null; // bytes of the client since its keys are new
      far.on('error', () => near.destroy()).on('data', (data) => near.write(data));
      near
        .on('close', () => far.destroy())
        .on('data', (data) => {
          const begin = data.indexOf(NEWKEYS);
          if (begin !== -1) {
            after = -begin;
            far.pause();
          }
          if (after !== null && (after += data.length) > SERVICE_REQUEST_BYTES) far.resume();
          far.write(data);
        });
    });
    await trust('relay', { ...server, port: relay.port });
    const way = { connectTimeoutMs: 10_000, knownHostsFiles: [at('known-relay')] };
    await works(client().connect(node(relay.port, way), never));
  });

  test('comes from the agent, where its file is encrypted too', async () => {
    const agentSocket = await startAgent(at('key'));
    await works(connectWith([at('encrypted')], { agentSocket }));
    await works(connectWith([at('stranger')], { agentSocket }));
  });

  test('is offered in the order of ssh: named keys of the agent, its others, then the files', async () => {
    for (const name of ['order-1', 'order-2', 'order-3']) await makeKey(name, 'ed25519');
    const agentSocket = await startAgent(at('order-1'), at('order-2'));
    const files = [at('stranger'), at('order-2')];
    const error = await failure(connectWith(files, { agentSocket }));
    const other = (await run('ssh-keygen', ['-lf', at('order-1.pub')])).stdout.split(' ')[1];
    const tried = [at('order-2'), `agent ED25519 ${other}`, at('stranger')];
    expect(error.message).toContain(`(${tried.join(', ')})`);

    const alone = client({ agentSocket }).connect(
      node(server.port, { identityFiles: files, identitiesOnly: true }),
      never,
    );
    expect((await failure(alone)).message).toContain(`(${[at('order-2'), at('stranger')].join(', ')})`);

    // ssh itself, on the same server
    const options = ['BatchMode=yes', `UserKnownHostsFile=${at('known-shared')}`, `IdentityAgent=${agentSocket}`];
    const { stderr } = await run('ssh', [
      '-v',
      '-F',
      'none',
      '-p',
      String(server.port),
      ...options.flatMap((option) => ['-o', option]),
      ...files.flatMap((file) => ['-i', file]),
      '127.0.0.1',
      'true',
    ]).catch((thrown: unknown) => thrown as { stderr: string });
    const offered = [...stderr.matchAll(/Offering public key: .*(SHA256:\S+)/g)].map(([, hash]) => hash);
    const hashes = await Promise.all(
      ['order-2', 'order-1', 'stranger'].map(
        async (name) => (await run('ssh-keygen', ['-lf', at(`${name}.pub`)])).stdout.split(' ')[1],
      ),
    );
    expect(offered).toEqual(hashes);
  });

  test('that is encrypted is opened with the passphrase, or that of a file, once and quietly', async () => {
    const said: string[] = [];
    const log: SshOptions['log'] = (...line) => said.push(JSON.stringify(line));
    await writeFile(at('passphrase'), 'secret\n');
    await works(connectWith([at('encrypted')], { log, passphrase: { text: 'secret', file: null } }));
    await works(connectWith([at('encrypted')], { log, passphrase: { text: null, file: at('passphrase') } }));
    for (const [passphrase, problem] of [
      [{ text: 'sesame-sesame', file: null }, 'the passphrase does not open it'],
      [{ text: null, file: at('no-such-file') }, `its passphrase file ${at('no-such-file')} does not exist`],
    ] as const) {
      const error = await failure(connectWith([at('encrypted')], { log, passphrase }));
      expect(error).toMatchObject({ code: 'SSH_IDENTITY_UNUSABLE', message: expect.stringContaining(problem) });
      said.push(JSON.stringify(error));
    }
    expect(said.join('\n')).not.toMatch(/secret|sesame/);
  });

  test('is opened once for all nodes', async () => {
    const parse = vi.spyOn(ssh2.utils, 'parseKey');
    cleanups.push(() => parse.mockRestore());
    const ssh = client({ passphrase: { text: 'secret', file: null } });
    const ports = await Promise.all([startNode('once-1'), startNode('once-2')]);
    for (const [i, { port }] of ports.entries()) {
      const known = { identityFiles: [at('encrypted')], knownHostsFiles: [at(`known-once-${i + 1}`)] };
      await works(ssh.connect(node(port, known), never));
    }
    expect(parse.mock.calls.filter(([, passphrase]) => passphrase !== undefined)).toHaveLength(1);
  });

  test('that the agent holds needs no passphrase, and no private file', async () => {
    await run('cp', [at('encrypted'), at('to-agent')]);
    await run('ssh-keygen', ['-q', '-p', '-P', 'secret', '-N', '', '-f', at('to-agent')]);
    const agentSocket = await startAgent(at('to-agent'));
    const only = (file: string) =>
      client({ agentSocket }).connect(node(server.port, { identityFiles: [at(file)], identitiesOnly: true }), never);
    await works(only('encrypted'));
    await works(only('encrypted.pub'));
  });

  test('has a certificate, which is not supported', async () => {
    await makeKey('certified', 'ed25519');
    await makeKey('authority-key', 'ed25519');
    const sign = ['-q', '-s', at('authority-key'), '-I', 'someone', '-n', userInfo().username, at('certified.pub')];
    await run('ssh-keygen', sign);
    const { hint } = await failure(connectWith([at('certified')]));
    expect(hint).toContain(`user certificates (${at('certified-cert.pub')}) are not supported`);
  });

  test('of an ssh config may lack its file', async () => {
    const lenient = { identityFiles: [at('absent'), at('key')], mayLackIdentityFiles: true };
    await works(client().connect(node(server.port, lenient), never));
  });

  test('is not looked for in an agent that is gone', async () => {
    await works(connectWith([at('key')], { agentSocket: at('no-agent') }));
    const error = await failure(connectWith([at('stranger')], { agentSocket: at('no-agent') }));
    expect(error).toMatchObject({
      code: 'SSH_AUTH_FAILED',
      message: expect.stringContaining('the agent (SSH_AUTH_SOCK='),
    });
    expect(await failure(connectWith([], { agentSocket: at('no-agent') }))).toMatchObject({ code: 'SSH_AUTH_FAILED' });
  });

  test('is offered no more often than servers bear', async () => {
    const names = Array.from({ length: 7 }, (_, i) => `many-${i}`);
    await Promise.all(names.map((name) => makeKey(name, 'ed25519')));
    const agentSocket = await startAgent(...names.map(at));
    const error = await failure(connectWith([at('stranger')], { agentSocket }));
    expect(error.message.match(/agent SHA256|agent ED25519 SHA256/g)).toHaveLength(4);
    expect(error.message).toContain('3 more not offered');
  });

  test('is missing altogether', async () => {
    expect(await failure(connectWith([]))).toMatchObject({
      code: 'SSH_AUTH_FAILED',
      message: expect.stringContaining('none to offer'),
    });
  });

  test('is cut off by a server with little patience', async () => {
    const names = ['few-1', 'few-2', 'few-3'];
    await Promise.all(names.map((name) => makeKey(name, 'ed25519')));
    const { port } = await startNode('impatient', { config: ['MaxAuthTries 2'] });
    const impatient = node(port, { identityFiles: names.map(at), knownHostsFiles: [at('known-impatient')] });
    expect(await failure(client().connect(impatient, never))).toMatchObject({ code: 'SSH_AUTH_FAILED' });
  });
});

describe('a server', () => {
  test('that refuses the connection', async () => {
    const gone = await startNode('gone');
    await gone.stop();
    const error = await failure(client().connect(node(gone.port), never));
    expect(error).toMatchObject({ code: 'SSH_UNREACHABLE', message: expect.stringContaining('connection refused') });
  });

  test('that is found by a name, and refuses by that name', async () => {
    const keys = (await server.hostKeys()).map((key) => `localhost ${key}\n`);
    await writeFile(at('known-by-name'), keys.join(''));
    const named = node(server.port, { host: 'localhost', knownHostsFiles: [at('known-by-name')] });
    expect((await (await client().connect(named, never)).exec('true', limits())).code).toBe(0);
    const gone = await startNode('gone-by-name');
    await gone.stop();
    const error = await failure(client().connect({ ...named, port: gone.port }, never));
    expect(error).toMatchObject({ code: 'SSH_UNREACHABLE', message: expect.stringContaining('connection refused') });
  });

  test('whose name nobody knows', async () => {
    const error = await failure(client().connect(node(22, { host: 'no-such-node.invalid' }), never));
    expect(error.code).toBe('SSH_UNREACHABLE');
  });

  test('that accepts the connection and says nothing', async () => {
    const { port } = await startOther(() => undefined);
    const error = await failure(client().connect(node(port, { connectTimeoutMs: 300 }), never));
    expect(error).toMatchObject({ code: 'SSH_TIMEOUT', message: expect.stringContaining('the SSH handshake') });
  });

  test('that is frozen before the connection', async () => {
    const frozen = await startNode('frozen');
    await frozen.freeze();
    const error = await failure(client().connect(node(frozen.port, { connectTimeoutMs: 300 }), never));
    expect(error.code).toBe('SSH_TIMEOUT');
  });

  test('that speaks something else', async () => {
    const { port } = await startOther((socket) => socket.end('HTTP/1.1 400 Bad Request\r\n\r\n'));
    expect((await failure(client().connect(node(port), never))).code).toBe('SSH_UNREACHABLE');
    const endless = await startOther((socket) => {
      const chunk = Buffer.alloc(65_536, 'a');
      const pour = (): boolean => socket.write(chunk) && pour();
      socket.on('drain', pour);
      pour();
    });
    expect((await failure(client().connect(node(endless.port), never))).code).toBe('SSH_UNREACHABLE');
  });

  test('that hangs up before the handshake is asked again', async () => {
    let connections = 0;
    const { port } = await startOther((socket, count) => {
      connections = count;
      socket.destroy();
    });
    const error = await failure(client().connect(node(port), never));
    expect(error).toMatchObject({ code: 'SSH_UNREACHABLE' });
    expect(connections).toBe(5);
  });

  test('that throttles is reached at the third try', async () => {
    const { port } = await startOther((socket, count) => {
      if (count === 1) return socket.end('Exceeded MaxStartups\r\n');
      if (count === 2) return socket.resetAndDestroy();
      const upstream = connect(server.port, '127.0.0.1');
      upstream.on('error', () => undefined).on('close', () => socket.destroy());
      socket.on('close', () => upstream.destroy());
      return socket.pipe(upstream).pipe(socket);
    });
    const keys = (await server.hostKeys()).map((key) => `[127.0.0.1]:${port} ${key}\n`);
    await writeFile(at('known-throttling'), keys.join(''));
    const connection = await client().connect(node(port, { knownHostsFiles: [at('known-throttling')] }), never);
    expect((await connection.exec('echo ok', limits())).stdout.toString()).toBe('ok\n');
  });

  test('that throttles for good says so', async () => {
    const full = await startNode('full', { maxStartups: '1:100:1' });
    const holder = connect(full.port, '127.0.0.1');
    cleanups.push(() => holder.destroy());
    await new Promise((resolve) => holder.once('data', resolve));
    const error = await failure(client().connect(node(full.port), never));
    expect(error).toMatchObject({
      code: 'SSH_UNREACHABLE',
      message: expect.stringContaining('before the SSH handshake'),
    });
  });

  test('is left alone when the run is over', async () => {
    const { port } = await startOther(() => undefined);
    const controller = new AbortController();
    const reason = new Error('over');
    const ended = client()
      .connect(node(port), controller.signal)
      .catch((error: unknown) => error);
    controller.abort(reason);
    expect(await ended).toBe(reason);
    const ssh = client();
    const closed = ssh.connect(node(port), never).catch((error: unknown) => String(error));
    ssh.close();
    expect(await closed).toContain('closed');
  });
});

describe('a connection', () => {
  async function begun(name: string, options: Partial<SshOptions> = {}) {
    const own = await startNode(name);
    const ssh = client(options);
    const connection = await ssh.connect(node(own.port, { knownHostsFiles: [at(`known-${name}`)] }), never);
    const file = at(`begun-${name}`);
    const running = failure(connection.exec(`touch ${file}; exec sleep 1000`, limits({ heartbeatMs: 5 })));
    await until(() => exists(file));
    return { own, ssh, connection, running };
  }

  test('that is lost ends its command, and no exit code is made up', async () => {
    const { own, connection, running } = await begun('killed');
    await own.stop();
    expect(await running).toMatchObject({
      code: 'SSH_UNREACHABLE',
      message: expect.stringContaining('connection lost'),
    });
    expect(await failure(connection.exec('true', limits()))).toMatchObject({ code: 'SSH_UNREACHABLE' });
    connection.close();
  });

  test('to a frozen server ends its command after three questions without answer', async () => {
    const { own, running } = await begun('stopped', { keepaliveMs: 100 });
    await own.freeze();
    expect(await running).toMatchObject({
      code: 'SSH_UNREACHABLE',
      message: expect.stringContaining('no sign of life'),
    });
  });

  test('that is closed ends its command, also one to a frozen server', async () => {
    const { own, ssh, connection, running } = await begun('closed');
    await own.freeze();
    connection.close();
    expect(await running).toMatchObject({ code: 'SSH_UNREACHABLE', message: expect.stringContaining('was closed') });
    connection.close();
    ssh.close();
    await until(() => !process.getActiveResourcesInfo().includes('TCPSocketWrap'));
  });

  test('that fails costs no other node anything', async () => {
    const silent = await startOther(() => undefined);
    const ssh = client();
    const ask = async (port: number): Promise<string> => {
      const connection = await ssh.connect(node(port, { connectTimeoutMs: 5_000 }), never);
      return (await connection.exec('echo fine', limits())).stdout.toString();
    };
    const good = ask(server.port);
    const bad = failure(ask(silent.port));
    expect(await good).toBe('fine\n');
    expect((await bad).code).toBe('SSH_TIMEOUT');
  });
});
