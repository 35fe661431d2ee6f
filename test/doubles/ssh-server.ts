// SSH servers in this process: one that runs commands as sshd does, for machines without sshd, and ones that misbehave.
import { spawn, type ChildProcess } from 'node:child_process';
import { timingSafeEqual } from 'node:crypto';
import { createServer, type AddressInfo, type Server as TcpServer, type Socket } from 'node:net';
import ssh2, { type AuthContext, type Connection, type ServerChannel, type Session } from 'ssh2';
import { endAll, MARK, type NodeServer } from '../fleet/sshd.ts';

const { Server, utils } = ssh2;

/** What to do with one command instead of running it. */
export type ExecHook = (channel: ServerChannel, command: string) => void;

export interface SshServerOptions {
  /** Public key lines that may log in; none: nobody may. */
  authorizedKeys: string[];
  host?: string;
  /** Default: one that is free. */
  port?: number;
  /** Private host key; default a fresh ed25519 key. */
  hostKey?: string;
  /** Directory of the node; its commands carry it as MARK. */
  mark: string;
  /** Takes over commands: return a hook, or undefined to run the command. */
  onExec?: (command: string) => ExecHook | undefined;
}

/** Starts a server that runs each command with `/bin/sh -c`. As with sshd, a closed channel ends pipes, not processes. */
export async function startSshServer(options: SshServerOptions): Promise<NodeServer> {
  const { host = '127.0.0.1' } = options;
  let hostKey = options.hostKey ?? freshKeyPair().private;
  let frozen = false;
  let port = options.port ?? 0;
  const sockets = new Set<Socket>();
  let tcp: TcpServer;

  const accept = (socket: Socket) => {
    sockets.add(socket);
    socket.on('error', () => socket.destroy()).on('close', () => sockets.delete(socket));
    if (frozen) socket.pause();
    else speakSsh(socket, hostKey, options);
  };
  const start = async () => {
    tcp = createServer({ noDelay: true }, accept);
    port = await listen(tcp, port, host);
  };
  const stop = async () => {
    const closed = new Promise((resolve) => tcp.close(resolve));
    for (const socket of sockets) socket.destroy();
    await closed;
    await endAll([], options.mark);
  };
  await start();
  return {
    host,
    port,
    hostKeys: () => Promise.resolve([publicOf(hostKey)]),
    pids: () => [],
    stop,
    start,
    freeze: () => {
      frozen = true;
      for (const socket of sockets) socket.pause();
      return Promise.resolve();
    },
    thaw: () => {
      frozen = false;
      for (const socket of sockets) socket.resume();
      return Promise.resolve();
    },
    changeHostKey: async () => {
      await stop();
      hostKey = freshKeyPair().private;
      await start();
    },
  };
}

export interface TcpServerHandle {
  host: string;
  port: number;
  stop: () => Promise<void>;
}

/** A port on which something else than SSH is spoken; `speak` gets each connection. */
export async function startTcpServer(speak: (socket: Socket) => void, host = '127.0.0.1'): Promise<TcpServerHandle> {
  const sockets = new Set<Socket>();
  const tcp = createServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => socket.destroy()).on('close', () => sockets.delete(socket));
    speak(socket);
  });
  const port = await listen(tcp, 0, host);
  const stop = async () => {
    const closed = new Promise((resolve) => tcp.close(resolve));
    for (const socket of sockets) socket.destroy();
    await closed;
  };
  return { host, port, stop };
}

/** Accepts, and says nothing. */
export const silent = (socket: Socket): void => void socket.resume();

/** Answers like a web server. */
export const garbage = (socket: Socket): void =>
  void socket.end('HTTP/1.1 400 Bad Request\r\n\r\n<html>no ssh here</html>\r\n');

/** Hook: writes to stdout without end, until the channel closes. */
export const flood: ExecHook = (channel) => {
  const block = Buffer.alloc(32 * 1024, 'x');
  const pour = () => {
    while (channel.writable && channel.write(block)) {
      // until the window is full
    }
  };
  channel.on('drain', pour);
  pour();
};

/** Hook: says this much, then the connection drops without exit status. */
export function dieAfter(output: string): ExecHook {
  return (channel) => {
    const transport = (channel as unknown as { _client: { _sock: Socket } })._client;
    channel.write(output, () => transport._sock.destroy());
  };
}

/** Hook: a finished command with this outcome. */
export function answer(stdout: string | Buffer, code = 0, stderr = ''): ExecHook {
  return (channel) => {
    channel.stderr.write(stderr);
    channel.write(stdout);
    channel.exit(code);
    channel.end();
  };
}

/** Hook: takes the command, and never says anything. */
export const never: ExecHook = (channel) => void channel.resume();

/** An ed25519 pair without ssh-keygen. ssh2 spoils about one in 256 (a leading zero byte), so each is tried. */
export function freshKeyPair(): { private: string; public: string } {
  for (;;) {
    const pair = utils.generateKeyPairSync('ed25519');
    const [own, known] = [utils.parseKey(pair.private), utils.parseKey(pair.public)];
    if (own instanceof Error || known instanceof Error || !sameBytes(own.getPublicSSH(), known.getPublicSSH()))
      continue;
    const probe = Buffer.from('probe');
    const signature = own.sign(probe);
    // oxlint-disable-next-line typescript/no-unnecessary-boolean-literal-compare -- ssh2 gives back an error, whatever its types say
    if (!(signature instanceof Error) && known.verify(probe, signature) === true) return pair;
  }
}

function publicOf(privateKey: string): string {
  const key = utils.parseKey(privateKey);
  if (key instanceof Error) throw key;
  return `${key.type} ${key.getPublicSSH().toString('base64')}`;
}

function speakSsh(socket: Socket, hostKey: string, options: SshServerOptions): void {
  const server = new Server({ hostKeys: [hostKey] }, (client: Connection) => {
    client.on('error', () => socket.destroy());
    client.on('authentication', (context) => authenticate(context, options.authorizedKeys));
    client.on('session', (accept) => serveSession(accept(), options));
  });
  server.injectSocket(socket);
}

function authenticate(context: AuthContext, authorizedKeys: string[]): void {
  if (context.method !== 'publickey') return context.reject(['publickey']);
  for (const line of authorizedKeys) {
    const key = utils.parseKey(line);
    if (key instanceof Error || !sameBytes(key.getPublicSSH(), context.key.data)) continue;
    const { blob, signature, hashAlgo } = context;
    // oxlint-disable-next-line typescript/no-unnecessary-boolean-literal-compare -- ssh2 gives back an error, whatever its types say
    if (!signature || !blob || key.verify(blob, signature, hashAlgo) === true) return context.accept();
  }
  context.reject(['publickey']);
}

function sameBytes(a: Buffer, b: Buffer): boolean {
  return a.length === b.length && timingSafeEqual(a, b);
}

function serveSession(session: Session, options: SshServerOptions): void {
  let child: ChildProcess | undefined;
  session.on('signal', (accept, _reject, info) => {
    if (child?.pid && child.exitCode === null) process.kill(-child.pid, `SIG${info.name}`);
    accept?.();
  });
  session.on('exec', (accept, _reject, info) => {
    const channel = accept();
    const hook = options.onExec?.(info.command);
    if (hook) hook(channel, info.command);
    else child = runCommand(channel, info.command, options.mark);
  });
}

function runCommand(channel: ServerChannel, command: string, mark: string): ChildProcess {
  const env = { ...process.env, [MARK]: mark };
  const child = spawn('/bin/sh', ['-c', command], { env, stdio: 'pipe', detached: true });
  child.stdin.on('error', () => child.stdin.destroy());
  channel.pipe(child.stdin);
  child.stdout.pipe(channel, { end: false });
  child.stderr.pipe(channel.stderr, { end: false });
  child.on('close', (code, signal) => {
    if (!channel.writable) return;
    if (signal) channel.exit(signal.replace(/^SIG/, ''), false, '');
    else channel.exit(code ?? 255);
    channel.end();
  });
  channel.on('close', () => {
    child.stdin.destroy();
    child.stdout.destroy();
    child.stderr.destroy();
  });
  return child;
}

function listen(server: TcpServer, port: number, host: string): Promise<number> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(port, host, () => {
      server.off('error', reject);
      resolve((server.address() as AddressInfo).port);
    });
  });
}
