// Registries that are slow, sly or strange, on the real command: small servers of our own, and the double of epoch.
import { mkdtemp, realpath, rm, writeFile } from 'node:fs/promises';
import { createServer, type RequestListener, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { stringify } from 'yaml';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { start, type RunOptions, type Run } from '../support/reconcile.ts';

let dir: string;
const servers: Server[] = [];

beforeAll(async () => {
  dir = await realpath(await mkdtemp(join(tmpdir(), 'registry-')));
});
afterEach(() => {
  for (const server of servers.splice(0)) {
    server.close();
    server.closeAllConnections();
  }
});
afterAll(async () => await rm(dir, { recursive: true, force: true }));

/** Serves on a port of its own until the test is over. */
async function serve(listener: RequestListener): Promise<string> {
  const server = createServer(listener);
  servers.push(server);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

async function digest(epoch: Record<string, unknown>, args: string[], options: RunOptions = {}): Promise<Run> {
  const configFile = join(dir, 'reconcile.yaml');
  const run = { stateDir: join(dir, 'state') };
  await writeFile(configFile, stringify({ epoch: { retries: 0, ...epoch }, nodes: [], run }));
  return await start(['digest', '--config', configFile, ...args], options).ended;
}

/** A byte at a time, for ever. */
const drip: RequestListener = (_request, response) => {
  response.writeHead(200, { 'Content-Type': 'application/json' });
  const timer = setInterval(() => response.write(' '), 20);
  response.on('close', () => clearInterval(timer));
};

/** Node.js that collects all garbage again and again: `--gc-interval` alone does nothing in a release of it. */
async function collecting(): Promise<string[]> {
  const file = join(dir, 'collect.cjs');
  await writeFile(file, 'setInterval(globalThis.gc, 10).unref();');
  return [process.execPath, '--expose-gc', '--require', file];
}

describe('a registry that drips, under forced garbage collection', () => {
  it('is given up after the deadline of a request', async () => {
    const url = await serve(drip);
    const { code, stdout } = await digest({ url, timeout: '1s', retries: 1 }, ['a/b'], { node: await collecting() });
    expect({ code, stdout }).toEqual({
      code: 1,
      stdout: expect.stringContaining('no answer within 1000 ms') as string,
    });
  });

  it('is given up after the deadline of the run', async () => {
    const url = await serve(drip);
    const args = ['a/b', '--timeout', '1s'];
    const { code, stdout } = await digest({ url, timeout: '60s' }, args, { node: await collecting() });
    expect({ code, stdout }).toEqual({ code: 3, stdout: expect.stringContaining('deadline') as string });
  });
});
