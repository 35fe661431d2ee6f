// How long a program takes until it speaks: from its start to its first byte at a node.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createServer, type AddressInfo, type Socket } from 'node:net';

/** A node that says nothing, and notes when it is first spoken to. */
export interface Listener {
  port: number;
  /** `performance.now()` at the next first byte. */
  firstByte: () => Promise<number>;
  stop: () => Promise<void>;
}

export async function startListener(): Promise<Listener> {
  let note: (at: number) => void = () => undefined;
  const server = createServer((socket: Socket) => {
    socket.on('error', () => socket.destroy());
    socket.once('data', () => note(performance.now()));
  });
  server.listen(0, '0.0.0.0');
  await once(server, 'listening');
  return {
    port: (server.address() as AddressInfo).port,
    firstByte: () => new Promise((resolve) => (note = resolve)),
    stop: () => new Promise((resolve) => server.close(() => resolve())),
  };
}

/** Milliseconds from the start of a program until `event`, or until it ends where there is none. It lives no longer. */
export async function timeUntil(argv: string[], env: Record<string, string>, event?: Promise<number>): Promise<number> {
  const began = performance.now();
  const child = spawn(argv[0] ?? '', argv.slice(1), { env, stdio: 'ignore' });
  const ended = once(child, 'exit').then(() => performance.now());
  const first = await Promise.race([...(event ? [event] : []), ended]);
  if (event && child.exitCode !== null) throw new Error(`${argv.join(' ')} ended before it spoke to a node`);
  child.kill('SIGKILL');
  await ended;
  return first - began;
}
