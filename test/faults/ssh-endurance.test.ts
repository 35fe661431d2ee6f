// A fleet in which something is wrong with many nodes in as many ways: each costs only itself, and ends in time.
import { spawn } from 'node:child_process';
import { EventEmitter } from 'node:events';
import { mkdtemp, readFile, writeFile } from 'node:fs/promises';
import { connect, type Socket } from 'node:net';
import { tmpdir, userInfo } from 'node:os';
import { join } from 'node:path';
import { PassThrough, type Duplex } from 'node:stream';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { createTransports } from '../../src/ssh/connect/jump.ts';
import type { LoggedIn } from '../../src/ssh/connect/disconnect.ts';
import { createSsh, type Ssh, type SshOptions } from '../../src/ssh/client.ts';
import { createLimiter } from '../../src/ssh/connect/limiter.ts';
import { ReconcileError } from '../../src/core/errors.ts';
import type { ErrorInfo } from '../../src/core/model/error.ts';
import type { Node } from '../../src/core/model/node.ts';
import { observeNode } from '../../src/pipeline/observe.ts';
import {
  dieAfter,
  flood,
  garbage,
  never as neverAnswers,
  silent,
  startSshServer,
  startTcpServer,
} from '../doubles/ssh-server.ts';
import { MARK, startSshd, type NodeServer } from '../fleet/sshd.ts';
import { startFleet, type Fleet } from '../fleet/world.ts';
import { until } from '../support/guard.ts';
import { nodeOf, program, reconcile, report } from '../support/reconcile.ts';

const me = userInfo().username;
const never = new AbortController().signal;

let dir: string;
let fleet: Fleet;
/** What the entries of all nodes have in common. */
let cocoon: { binary: string; rootDir: string };
/** What each test started, ended in reverse. */
const cleanups: (() => unknown)[] = [];

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'endurance-'));
  fleet = await startFleet({ dir, nodes: 2 });
  const binary = join(dir, 'quick-cocoon');
  await writeFile(binary, "#!/bin/sh\necho 'Version: v0.3.8'\n", { mode: 0o755 });
  cocoon = { binary, rootDir: (fleet.nodes[0] as Fleet['nodes'][0]).rootDir };
});
afterAll(() => fleet.down());
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

type Server = Pick<NodeServer, 'host' | 'port' | 'hostKeys'>;

/** Adds the keys of servers to known_hosts. */
async function trust(...servers: Server[]): Promise<void> {
  const lines = await Promise.all(
    servers.map(async ({ host, port, hostKeys }) => (await hostKeys()).map((key) => `[${host}]:${port} ${key}\n`)),
  );
  const known = await readFile(fleet.knownHostsFile, 'utf8');
  await writeFile(fleet.knownHostsFile, known + lines.flat().join(''));
}

async function startNode(name: string, config: string[] = []): Promise<NodeServer> {
  const at = join(dir, name);
  const first = `SetEnv ${MARK}=${at} SHLVL=1`; // bash then takes no start-up file, slow as that may be
  const server = await startSshd({ dir: at, authorizedKeys: [fleet.publicKey], config: [first, ...config] });
  cleanups.push(() => server.stop());
  await trust(server);
  return server;
}

async function startFake(onExec: Parameters<typeof startSshServer>[0]['onExec']): Promise<Server> {
  const server = await startSshServer({ authorizedKeys: [fleet.publicKey], mark: dir, ...(onExec ? { onExec } : {}) });
  cleanups.push(() => server.stop());
  await trust(server);
  return server;
}

async function startOther(speak: (socket: Socket) => void): Promise<{ host: string; port: number }> {
  const server = await startTcpServer(speak);
  cleanups.push(() => server.stop());
  return server;
}

/** A port whose queue of connections is full: further ones are not answered at all. */
async function startDeaf(): Promise<{ host: string; port: number }> {
  const code =
    "const s = require('net').createServer().listen({ port: 0, host: '127.0.0.1', backlog: 1 }, () => console.log(s.address().port))";
  const child = spawn(process.execPath, ['-e', code], { stdio: ['ignore', 'pipe', 'inherit'] });
  cleanups.push(() => child.kill('SIGKILL'));
  const port = Number(await new Promise<Buffer>((resolve) => child.stdout.once('data', resolve)));
  child.kill('SIGSTOP');
  const sockets = Array.from({ length: 8 }, () => connect(port, '127.0.0.1').on('error', () => undefined));
  cleanups.push(() => sockets.forEach((socket) => socket.destroy()));
  await Promise.all(sockets.slice(0, 2).map((socket) => new Promise((resolve) => socket.once('connect', resolve))));
  return { host: '127.0.0.1', port };
}

function client(changes: Partial<SshOptions> = {}): Ssh {
  const retry = { retries: 6, pauseMs: 10, maxPauseMs: 200 };
  const ssh = createSsh({ agentSocket: null, defaultIdentityFiles: [], log: () => undefined, retry, ...changes });
  cleanups.push(() => ssh.close());
  return ssh;
}

function node({ host, port }: { host: string; port: number }, changes: Partial<Node> = {}): Node {
  return {
    name: `node-${port}`,
    host,
    port,
    user: me,
    pool: 'default',
    identityFiles: [fleet.identityFile],
    knownHostsFiles: [fleet.knownHostsFile],
    connectTimeoutMs: 20_000,
    cocoon: { ...cocoon, runDir: null, logDir: null, sudo: false },
    ...changes,
  };
}

const limits = { maxStdoutBytes: 1000, maxStderrBytes: 1000, timeoutMs: 20_000, signal: never };

async function failure(promise: Promise<unknown>): Promise<ErrorInfo> {
  const error: unknown = await promise.then(
    () => 'it succeeded',
    (thrown: unknown) => thrown,
  );
  if (!(error instanceof ReconcileError)) throw new Error(`no error of ours: ${String(error)}`);
  return error.info;
}

describe('one run', () => {
  test('with every trouble at once says each by its name, and reads all other nodes', async () => {
    const frozen = await startNode('frozen');
    await frozen.freeze();
    cleanups.push(() => frozen.thaw());
    const gone = await startNode('gone');
    await gone.stop();
    const troubles: Record<string, { host: string; port: number }> = {
      frozen,
      gone,
      silent: await startOther(silent),
      web: await startOther(garbage),
      deaf: await startDeaf(),
      flooding: await startFake(() => flood),
      dying: await startFake(() => dieAfter('cocoon-probe 1')),
      whole: await startNode('whole'),
    };
    await fleet.writeConfig({
      nodes: [
        ...Object.entries(troubles).map(([name, { host, port }]) => ({ name, host, port, ...cocoon })),
        ...fleet.nodes.map(({ name, host, port }) => ({ name, host, port, ...cocoon })),
      ],
      ssh: { connectTimeout: '2s' },
    });
    const observed = await report(fleet, '--dry-run');
    const found = Object.fromEntries(observed.nodes.map(({ name, error, status }) => [name, error?.code ?? status]));
    expect(found).toEqual({
      frozen: 'SSH_TIMEOUT',
      gone: 'SSH_UNREACHABLE',
      silent: 'SSH_TIMEOUT',
      web: 'SSH_UNREACHABLE',
      deaf: 'SSH_TIMEOUT',
      flooding: 'NODE_ANSWER_INVALID',
      dying: 'SSH_UNREACHABLE',
      whole: 'observed',
      'cocoonset-node-1': 'observed',
      'cocoonset-node-2': 'observed',
    });
    expect(nodeOf(observed, 'deaf').error?.message).toContain('opening a TCP connection took longer than 2.0 s');
    expect(nodeOf(observed, 'silent').error?.message).toContain('the SSH handshake took longer than 2.0 s');
    expect(nodeOf(observed, 'dying').error?.message).toContain('connection lost');
  });

  test('ends before its deadline, with the other nodes read', async () => {
    const mute = await startFake(() => neverAnswers);
    const good = fleet.nodes.map(({ name, host, port }) => ({ name, host, port, ...cocoon }));
    await fleet.writeConfig({ nodes: [...good, { name: 'mute', host: mute.host, port: mute.port, ...cocoon }] });
    const observed = await report(fleet, '--dry-run', '--timeout', '6s');
    expect(observed.nodes.map(({ status }) => status)).toEqual(['observed', 'observed', 'unreachable']);
    expect(nodeOf(observed, 'mute').error?.code).toBe('SSH_TIMEOUT');
  });

  test('connects to no more nodes at once than files may be open, and says so', async () => {
    await fleet.writeConfig({ nodes: fleet.nodes.map(({ name, host, port }) => ({ name, host, port, ...cocoon })) });
    const child = spawn(
      'sh',
      ['-c', 'ulimit -n 100; exec "$0" "$@"', process.execPath, program, '-c', fleet.configFile, '-n'],
      {
        stdio: ['ignore', 'ignore', 'pipe'],
      },
    );
    let stderr = '';
    child.stderr.on('data', (chunk: Buffer) => (stderr += chunk.toString()));
    expect(await new Promise((resolve) => child.once('close', resolve))).toBe(0);
    expect(stderr).toContain('only 36 nodes at once and not 128: no more than 100 files may be open (ulimit -n)');
    const { stderr: quiet } = await reconcile(fleet, '--dry-run');
    expect(quiet).toBe('');
  });
});

describe('a connection', () => {
  /** Passes connections on to a server, and counts them. */
  async function startRelay(
    to: { port: number },
    onConnection: (count: number, socket: Socket) => boolean = () => true,
  ) {
    const relay = { host: '127.0.0.1', port: 0, count: 0 };
    const { port } = await startOther((socket) => {
      relay.count += 1;
      if (!onConnection(relay.count, socket)) return;
      const upstream = connect(to.port, '127.0.0.1');
      upstream.on('error', () => undefined).on('close', () => socket.destroy());
      socket.on('close', () => upstream.destroy());
      socket.pipe(upstream).pipe(socket);
    });
    relay.port = port;
    return relay;
  }

  test('has sshd prove no other host keys: nobody would use them', async () => {
    const server = await startNode('terse', ['LogLevel DEBUG1']);
    const connection = await client().connect(node(server), never);
    await connection.exec('true', limits);
    connection.close();
    const log = join(dir, 'terse', 'sshd.log');
    await until('the end of the session', async () => (await readFile(log, 'utf8')).includes('Disconnected from user'));
    expect(await readFile(log, 'utf8')).not.toContain('hostkeys-prove');
  });

  test('is never tried again where the identity or the host key is refused', async () => {
    const server = await startNode('strict');
    const relay = await startRelay(server);
    await trust({ ...relay, hostKeys: server.hostKeys });
    const stranger = node(relay, { user: 'no-such-user' });
    expect((await failure(client().connect(stranger, never))).code).toBe('SSH_AUTH_FAILED');
    const unknown = node(relay, { knownHostsFiles: [] });
    expect((await failure(client().connect(unknown, never))).code).toBe('SSH_HOST_KEY_UNKNOWN');
    expect(relay.count).toBe(2);
  });

  test('that is reset or closed before its handshake is tried again until it stands', async () => {
    const server = await startNode('flaky');
    const relay = await startRelay(server, (count, socket) => {
      if (count === 1) socket.resetAndDestroy();
      else if (count < 5) socket.end('Exceeded MaxStartups\r\n');
      return count >= 5;
    });
    await trust({ ...relay, hostKeys: server.hostKeys });
    const connection = await client().connect(node(relay), never);
    expect((await connection.exec('echo ok', limits)).stdout.toString()).toBe('ok\n');
  });

  test('whose TCP connection is not answered is tried once more in half of its time', async () => {
    const deaf = await startDeaf();
    const error = await failure(client().connect(node(deaf, { connectTimeoutMs: 400 }), never));
    expect(error).toMatchObject({ code: 'SSH_TIMEOUT', message: expect.stringContaining('took longer than 0.4 s') });
  });

  test('is the only one to its node: an older one is closed', async () => {
    const server = await startNode('single');
    const ssh = client();
    const first = await ssh.connect(node(server), never);
    const running = failure(first.exec('exec sleep 1000', limits));
    const second = await ssh.connect(node(server), never);
    expect((await running).message).toContain('the connection was closed');
    expect((await second.exec('echo ok', limits)).stdout.toString()).toBe('ok\n');
  });

  test('that breaks while a node is read is made once more, and no more', async () => {
    for (const [deaths, status] of [
      [1, 'observed'],
      [2, 'unreachable'],
    ] as const) {
      let commands = 0;
      const server = await startFake(() => ((commands += 1) <= deaths ? dieAfter('cocoon-probe 1') : undefined));
      expect((await observeNode(client(), node(server), never, 60_000)).status).toBe(status);
      expect(commands).toBe(2);
    }
  });

  test('through a jump host that was started anew goes through it again', async () => {
    const [jump, inner] = [await startNode('jump'), await startNode('inner')];
    const ssh = client();
    const through = node(inner, { jumps: [node(jump)] });
    const first = await ssh.connect(through, never);
    const running = failure(first.exec('exec sleep 1000', limits));
    await jump.stop();
    expect(await running).toMatchObject({
      code: 'SSH_UNREACHABLE',
      message: expect.stringContaining('connection lost'),
    });
    await jump.start();
    const second = await ssh.connect(through, never);
    expect((await second.exec('echo ok', limits)).stdout.toString()).toBe('ok\n');
  });

  test('through a jump host that forwards nothing says so, and costs no other node anything', async () => {
    const [jump, inner] = [await startNode('closed-jump', ['AllowTcpForwarding no']), await startNode('inner-2')];
    const ssh = client();
    const [error, direct] = await Promise.all([
      failure(ssh.connect(node(inner, { name: 'behind', jumps: [node(jump)] }), never)),
      ssh.connect(node(inner), never),
    ]);
    expect(error).toMatchObject({
      code: 'SSH_UNREACHABLE',
      message: expect.stringContaining('the jump host 127.0.0.1 forwards no connection there'),
    });
    expect((await direct.exec('echo ok', limits)).stdout.toString()).toBe('ok\n');
  });

  test('through a frozen jump host ends in time, and a jump host that refuses us is asked once for all nodes', async () => {
    const frozen = await startNode('frozen-jump');
    await frozen.freeze();
    cleanups.push(() => frozen.thaw());
    const behind = node({ host: '127.0.0.1', port: 1 }, { jumps: [node(frozen, { connectTimeoutMs: 500 })] });
    expect((await failure(client().connect(behind, never))).code).toBe('SSH_TIMEOUT');

    const server = await startNode('refusing-jump');
    const relay = await startRelay(server);
    await trust({ ...relay, hostKeys: server.hostKeys });
    const ssh = client();
    const jumps = [node(relay, { user: 'no-such-user' })];
    const errors = await Promise.all(
      [1, 2, 3].map((port) => failure(ssh.connect(node({ host: '127.0.0.1', port }, { jumps }), never))),
    );
    errors.push(await failure(ssh.connect(node({ host: '127.0.0.1', port: 4 }, { jumps }), never)));
    expect(errors.map(({ code }) => code)).toEqual(Array(4).fill('SSH_AUTH_FAILED'));
    expect(relay.count).toBe(1);
  });
});

describe('a jump host', () => {
  test('gets another connection only when the first one carries as much as it can', async () => {
    let logins = 0;
    const transports = createTransports(
      () => {
        logins += 1;
        const client = Object.assign(new EventEmitter(), {
          forwardOut: (
            _from: string,
            _port: number,
            _host: string,
            _to: number,
            opened: (error: undefined, s: Duplex) => void,
          ) => setImmediate(() => opened(undefined, new PassThrough())),
          end: () => undefined,
        });
        return Promise.resolve({ client, stream: new PassThrough() } as unknown as LoggedIn);
      },
      () => undefined,
    );
    const target = node({ host: '127.0.0.1', port: 1 });
    const transport = transports.through([target]);
    expect(transports.through([{ ...target }])).toBe(transport);
    const streams = await Promise.all(Array.from({ length: 500 }, () => transport.open(target, never)));
    expect(logins).toBe(1);
    await transport.open(target, never);
    expect(logins).toBe(2);
    streams[0]?.destroy();
    await new Promise((resolve) => streams[0]?.once('close', resolve));
    await transport.open(target, never);
    expect(logins).toBe(2);
    transports.close();
  });
});

describe('the limiter', () => {
  test('lets everything through until something is dropped, then less, and then more again', async () => {
    let said = 0;
    const limiter = createLimiter(() => (said += 1));
    const enter = (): ReturnType<typeof limiter.enter> => limiter.enter(never);
    const permits = await Promise.all(Array.from({ length: 100 }, enter));
    expect(limiter.limit()).toBe(Infinity);
    for (const permit of permits) permit.dropped();
    expect(limiter.limit()).toBe(1);
    let grown = 0;
    while (limiter.limit() < 100) {
      (await enter()).succeeded();
      grown += 1;
    }
    expect(grown).toBeLessThan(1000);
    expect(said).toBe(1);
    while (limiter.limit() < Infinity) (await enter()).succeeded();
  });

  test('halves with each drop, and keeps those beyond waiting in order', async () => {
    const limiter = createLimiter();
    const permits = await Promise.all(Array.from({ length: 8 }, () => limiter.enter(never)));
    permits[0]?.dropped();
    expect(limiter.limit()).toBe(4);
    const order: number[] = [];
    const waiting = [1, 2, 3].map((n) => limiter.enter(never).then((permit) => (order.push(n), permit)));
    for (const permit of permits.slice(1, 4)) permit.leave();
    await Promise.resolve();
    expect(order).toEqual([]);
    for (const permit of permits.slice(4)) permit.succeeded();
    await Promise.all(waiting);
    expect(order).toEqual([1, 2, 3]);
    permits[5]?.dropped(); // it has ended already
    expect(limiter.limit()).toBeGreaterThan(4);
  });

  test('forgets who gives up waiting', async () => {
    const limiter = createLimiter();
    (await limiter.enter(never)).dropped();
    const first = await limiter.enter(never);
    const controller = new AbortController();
    const given = limiter.enter(controller.signal).catch((error: unknown) => error);
    const next = limiter.enter(never);
    controller.abort('enough');
    expect(await given).toBe('enough');
    first.leave();
    (await next).leave();
  });
});
