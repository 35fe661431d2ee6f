// Connections and registries that answer from memory or from this machine.
import { spawn } from 'node:child_process';
import type { Registry } from '../../src/registry/client.ts';
import type { Connection, Ssh } from '../../src/ssh/client.ts';
import type { Node } from '../../src/core/model/node.ts';

/** A connection whose commands a shell of this machine runs. */
export function localConnection(shell = '/bin/sh', env: NodeJS.ProcessEnv = process.env): Connection {
  return {
    exec: async (command, { stdin, heartbeatMs, onStdout }) => {
      const child = spawn(shell, ['-c', command], { env });
      const [stdout, stderr]: [Buffer[], Buffer[]] = [[], []];
      child.stdout.on('data', (chunk: Buffer) => stdout.push(chunk));
      child.stderr.on('data', (chunk: Buffer) => stderr.push(chunk));
      child.stdin.on('error', () => undefined); // it need not read all of it
      child.stdin.write(stdin ?? '');
      if (heartbeatMs === undefined) child.stdin.end();
      return await new Promise((resolve, reject) => {
        child.on('error', reject);
        child.on('exit', () => child.stdin.end());
        child.on('close', (code, signal) => {
          onStdout?.(Buffer.concat(stdout));
          resolve({ stdout: Buffer.concat(stdout), stderr: Buffer.concat(stderr).toString('utf8'), code, signal });
        });
      });
    },
    close: () => {},
  };
}

/** A connection that answers each command in the same words. */
export function answering(answer: (command: string) => string, stderr = ''): Connection {
  return {
    exec: async (command) =>
      await Promise.resolve({ stdout: Buffer.from(answer(command)), stderr, code: 0, signal: null }),
    close: () => {},
  };
}

/** Connects by the function, and keeps the names of the nodes. */
export function fakeSsh(connect: (node: Node) => Connection): Ssh & { connected: string[] } {
  const connected: string[] = [];
  return {
    connected,
    connect: async (node) => {
      connected.push(node.name);
      return await Promise.resolve(connect(node));
    },
    affordable: async (wanted) => await Promise.resolve(wanted),
    close: () => {},
  };
}

/** A registry of which only what a test names is ever asked. */
export function fakeRegistry(asked: Partial<Registry>): Registry {
  const refuse = (): never => {
    throw new Error('the registry was asked for something else');
  };
  return {
    manifest: refuse,
    tags: refuse,
    blobSize: refuse,
    blobHead: refuse,
    blobJson: refuse,
    blobText: refuse,
    blobStream: refuse,
    servesTagPath: refuse,
    ping: refuse,
    hasAnswered: () => true,
    warmUp: async () => await Promise.resolve(),
    close: async () => await Promise.resolve(),
    ...asked,
  };
}
