// Registries that are slow, sly or strange, on the real command: small servers of our own, and the double of epoch.
import { mkdir, mkdtemp, realpath, rm, writeFile } from 'node:fs/promises';
import { createServer, type RequestListener, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { stringify } from 'yaml';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
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
  test('is given up after the deadline of a request', async () => {
    const url = await serve(drip);
    const { code, stdout } = await digest({ url, timeout: '1s', retries: 1 }, ['a/b'], { node: await collecting() });
    expect({ code, stdout }).toEqual({
      code: 1,
      stdout: expect.stringContaining('no answer within 1000 ms') as string,
    });
  });

  test('is given up after the deadline of the run', async () => {
    const url = await serve(drip);
    const args = ['a/b', '--timeout', '8s']; // a busy machine takes some of it to start
    const { code, stdout } = await digest({ url, timeout: '60s' }, args, { node: await collecting() });
    expect({ code, stdout }).toEqual({ code: 3, stdout: expect.stringContaining('deadline') as string });
  });
});

describe('a login', () => {
  const encoded = Buffer.from('op:s3cret-pass').toString('base64');
  const BASIC = `Basic ${encoded}`;

  async function digestWith(image: string, auths: Record<string, unknown>, more: Record<string, unknown> = {}) {
    const home = await mkdtemp(join(dir, 'home-'));
    await mkdir(join(home, 'docker'));
    await writeFile(join(home, 'docker/config.json'), JSON.stringify({ auths, ...more }));
    const env = { HOME: home, DOCKER_CONFIG: join(home, 'docker'), XDG_RUNTIME_DIR: join(home, 'run') };
    const found = await digest({ url: 'http://127.0.0.1:9' }, [image, '-o', 'json'], { env });
    return { ...found, home, said: found.stdout + found.stderr };
  }
  const hostOf = (url: string): string => new URL(url).host;

  test('is sent to nobody that its registry redirects to, nor to a realm that is named there', async () => {
    const seen: string[] = [];
    const other = await serve((request, response) => {
      seen.push(String(request.headers.authorization));
      const realm = `Bearer realm="http://${request.headers.host}/token"`;
      response.writeHead(401, { 'WWW-Authenticate': realm }).end();
    });
    const registry = await serve((_request, response) => response.writeHead(302, { Location: `${other}/x` }).end());
    const { code, said } = await digestWith(`${hostOf(registry)}/a/b:v1`, { [hostOf(registry)]: { auth: encoded } });
    expect(code).toBe(3);
    expect(said).toContain('REGISTRY_LOGIN_NEEDED');
    expect(said).toContain(`${other} wants it`);
    expect(new Set(seen)).toEqual(new Set(['undefined']));
  });

  test('is sent to no token server on another host that was named over http', async () => {
    const seen: string[] = [];
    const tokens = await serve((request, response) => {
      seen.push(String(request.headers.authorization));
      response.writeHead(401).end();
    });
    const realm = `${tokens.replace('127.0.0.1', 'localhost')}/token`;
    const registry = await serve((_request, response) =>
      response.writeHead(401, { 'WWW-Authenticate': `Bearer realm="${realm}"` }).end(),
    );
    const { said } = await digestWith(`${hostOf(registry)}/a/b:v1`, { [hostOf(registry)]: { auth: encoded } });
    expect(said).toContain('was not sent the one for the registry itself');
    expect(seen.every((header) => header === 'undefined')).toBe(true);
  });

  test('is not shown where an answer echoes it, as it is or encoded', async () => {
    const seen: string[] = [];
    const registry = await serve((request, response) => {
      const { authorization = '' } = request.headers;
      seen.push(authorization);
      if (authorization === '') return response.writeHead(401, { 'WWW-Authenticate': 'Basic realm="r"' }).end();
      return response.writeHead(400).end(`you sent ${authorization}, that is op:s3cret-pass, s3cret%2Dpass`);
    });
    const { said } = await digestWith(`${hostOf(registry)}/a/b:v1`, { [hostOf(registry)]: { auth: encoded } });
    expect(seen).toContain(BASIC);
    expect(said).toContain('you sent Basic [redacted]');
    expect(said).not.toContain('s3cret-pass');
    expect(said).not.toContain(encoded);
  });

  test('that is wanted is said, with the files that were looked at and the helper that is not run', async () => {
    const registry = await serve((_request, response) =>
      response.writeHead(401).end('{"errors":[{"code":"UNAUTHORIZED"}]}'),
    );
    const host = hostOf(registry);
    const { code, said, home } = await digestWith(`${host}/a/b:v1`, {}, { credHelpers: { [host]: 'fake' } });
    expect(code).toBe(3);
    expect(said).toContain('REGISTRY_LOGIN_NEEDED');
    expect(said).toContain(`${home}/docker/config.json (it names the helper fake, and helpers are not run)`);
    expect(said).toContain(`${home}/run/containers/auth.json (does not exist)`);
    expect(said).toContain('docker login');
  });
});

test('a proxy of the environment leads to registries, but to those that NO_PROXY names', async () => {
  const seen: string[] = [];
  const proxy = await serve((request, response) => {
    seen.push(String(request.url));
    response.writeHead(404).end('{"errors":[{"code":"MANIFEST_UNKNOWN"}]}');
  });
  const env = { HTTP_PROXY: proxy, NO_PROXY: 'direct.invalid' };
  const { stdout } = await digest({ url: 'http://epoch.invalid' }, ['a/b'], { env });
  expect(seen[0]).toBe('http://epoch.invalid/v2/a/b/manifests/latest');
  expect(stdout).toContain('epoch has no tag latest of a/b');
  seen.length = 0;
  await digest({ url: 'http://direct.invalid' }, ['a/b'], { env });
  expect(seen).toEqual([]);
});
