/** Who we are to a registry: what it asks for, what it hands out, and what `docker login` left. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { basic, mayKnow, parseChallenge, parseToken, registryUrl, tokenUrl } from '../../../src/registry/auth.ts';
import { findLogin, loginFiles } from '../../../src/registry/logins.ts';
import { ShapeError } from '../../../src/core/json.ts';

test.each([
  ['ghcr.io', 'https://ghcr.io'],
  ['docker.io', 'https://registry-1.docker.io'],
  ['index.docker.io', 'https://registry-1.docker.io'],
  ['registry.example:5000', 'https://registry.example:5000'],
  ['localhost', 'http://localhost'],
  ['localhost:5000', 'http://localhost:5000'],
  ['127.0.0.1:5000', 'http://127.0.0.1:5000'],
  ['10.1.2.3', 'http://10.1.2.3'],
  ['192.168.1.2:80', 'http://192.168.1.2:80'],
  ['172.16.0.1', 'http://172.16.0.1'],
  ['172.31.0.1', 'http://172.31.0.1'],
  ['172.32.0.1', 'https://172.32.0.1'],
  ['8.8.8.8', 'https://8.8.8.8'],
  ['registry.local', 'http://registry.local'],
  ['registry.local.example', 'https://registry.local.example'],
  ['10.1.2.3.example', 'https://10.1.2.3.example'],
  ['localhost.example', 'https://localhost.example'],
])('the registry %s is at %s', (host, url) => {
  expect(registryUrl(host)).toBe(url);
});

describe('a challenge', () => {
  const bearer = (realm: string, service: string | null = null, scope: string | null = null): object => ({
    scheme: 'bearer',
    realm,
    service,
    scope,
  });

  test.each<[string, object | null]>([
    ['Basic realm="x"', { scheme: 'basic' }],
    ['basic', { scheme: 'basic' }],
    [
      'Bearer realm="https://auth.example/token",service="reg",scope="repository:a/b:pull"',
      bearer('https://auth.example/token', 'reg', 'repository:a/b:pull'),
    ],
    [' bearer  Realm="https://auth.example/t" , Service=reg', bearer('https://auth.example/t', 'reg')],
    ['Bearer realm="https://a.example/t?service=evil&x=1"', bearer('https://a.example/t?service=evil&x=1')],
    [
      'Bearer realm="https://a.example/t",scope="repository:a/b:pull,push"',
      bearer('https://a.example/t', null, 'repository:a/b:pull,push'),
    ],
    ['Bearer realm=https://a.example/t', bearer('https://a.example/t')],
    ['Bearer realm="/token"', null],
    ['Bearer realm="file:///etc/passwd"', null],
    ['Bearer realm="javascript:x"', null],
    ['Bearer', null],
    ['Negotiate abc', null],
    ['', null],
    ['undefined', null],
  ])('%s', (header, challenge) => {
    expect(parseChallenge(header)).toEqual(challenge);
  });

  test.each<[string | null, string | null, string]>([
    ['reg', 'repository:a/b:pull', 'https://auth.example/t?service=reg&scope=repository%3Aa%2Fb%3Apull'],
    [null, null, 'https://auth.example/t?scope=repository%3Amine%3Apull'],
    ['a&b=c', null, 'https://auth.example/t?service=a%26b%3Dc&scope=repository%3Amine%3Apull'],
  ])('of service %s and scope %s is answered at', (service, scope, url) => {
    const challenge = { scheme: 'bearer', realm: 'https://auth.example/t', service, scope } as const;
    expect(tokenUrl(challenge, 'mine')).toBe(url);
  });
});

describe('a token', () => {
  test.each([
    ['{"token": "t1"}', 't1'],
    ['{"access_token": "t2"}', 't2'],
    ['{"token": "", "access_token": "t2"}', 't2'],
    ['{"token": "t1", "access_token": "t2"}', 't1'],
    ['{"token": ""}', null],
    ['{}', null],
  ])('%s', (body, token) => {
    expect(parseToken(body)).toBe(token);
  });

  test.each([
    '',
    'token',
    '[]',
    'null',
    '{"token": 5}',
    '{"token": "a\\r\\nX: y"}',
    `{"token": "${'x'.repeat(70_000)}"}`,
  ])('%s is none', (body) => {
    expect(() => parseToken(body)).toThrow(ShapeError);
  });
});

test('basic credentials', () => {
  expect(basic({ username: 'op', password: 'pä:ß' })).toBe(`Basic ${Buffer.from('op:pä:ß').toString('base64')}`);
});

test.each([
  ['http://r.example:5000', 'http://r.example:5001/token', true],
  ['http://r.example', 'https://r.example/token', true],
  ['http://r.example', 'https://auth.example/token', false],
  ['http://r.example', 'http://auth.example/token', false],
  ['https://r.example', 'https://auth.example/token', true],
  ['https://r.example', 'http://r.example/token', false],
])('who a person is at %s may be told to %s: %s', (registry, realm, expected) => {
  expect(mayKnow(realm, registry)).toBe(expected);
});

describe('what docker login left', () => {
  const dir = mkdtempSync(join(tmpdir(), 'reconcile-docker-'));
  afterAll(() => rmSync(dir, { recursive: true, force: true }));
  const file = join(dir, 'config.json');
  const auth = (text: string): { auth: string } => ({ auth: Buffer.from(text).toString('base64') });
  const of = async (host: string, config: unknown): Promise<unknown> => {
    writeFileSync(file, typeof config === 'string' ? config : JSON.stringify(config));
    return (await findLogin([file], host)).credentials;
  };
  const auths = {
    'ghcr.io': auth('op:secret'),
    'https://quay.io': auth('q:with:colons'),
    'https://index.docker.io/v1/': auth('hub:h'),
    'plain.example': { username: 'u', password: 'p' },
    'helper.example': {},
    'empty.example': { auth: '' },
  };

  test.each([
    ['ghcr.io', { username: 'op', password: 'secret' }],
    ['quay.io', { username: 'q', password: 'with:colons' }],
    ['docker.io', { username: 'hub', password: 'h' }],
    ['plain.example', { username: 'u', password: 'p' }],
    ['helper.example', null],
    ['empty.example', null],
    ['other.example', null],
  ])('for %s', async (host, credentials) => {
    expect(await of(host, { auths })).toEqual(credentials);
  });

  test('is nothing where there is no file, or it says nothing', async () => {
    expect(await findLogin([join(dir, 'none'), dir], 'ghcr.io')).toEqual({
      credentials: null,
      looked: `${join(dir, 'none')} (does not exist), ${dir} (is not a regular file)`,
    });
    expect(await of('ghcr.io', {})).toBeNull();
    expect(await of('ghcr.io', { auths: {}, credsStore: 'desktop' })).toBeNull();
  });

  test('is that of the first file that names the registry, and a helper is said not to be run', async () => {
    const podman = join(dir, 'auth.json');
    writeFileSync(podman, JSON.stringify({ auths: { 'ghcr.io': auth('op:pod') } }));
    writeFileSync(file, JSON.stringify({ credHelpers: { 'ghcr.io': 'pass' } }));
    const credentials = { username: 'op', password: 'pod' };
    expect(await findLogin([file, podman], 'ghcr.io')).toEqual({ credentials, looked: podman });
    expect((await findLogin([file], 'ghcr.io')).looked).toContain('the helper pass, and helpers are not run');
  });

  test('is looked for where the environment says, and where the programs keep it', () => {
    expect(loginFiles({}, '/home/op')).toEqual([
      '/home/op/.docker/config.json',
      '/home/op/.config/containers/auth.json',
    ]);
    const env = { REGISTRY_AUTH_FILE: '/auth', DOCKER_CONFIG: '/docker', XDG_RUNTIME_DIR: '/run/user/7' };
    expect(loginFiles({ ...env, XDG_CONFIG_HOME: '/etc/op' }, '/home/op')).toEqual([
      '/auth',
      '/docker/config.json',
      '/run/user/7/containers/auth.json',
      '/etc/op/containers/auth.json',
    ]);
  });

  test.each([
    ['no JSON', '{'],
    ['a list', []],
    ['auths that are no object', { auths: [] }],
    ['an entry that is no object', { auths: { 'ghcr.io': 'x' } }],
    ['an auth without a colon', { auths: { 'ghcr.io': auth('nobody') } }],
    ['an auth that is no text', { auths: { 'ghcr.io': { auth: 5 } } }],
    ['a name without a password', { auths: { 'ghcr.io': { username: 'u' } } }],
  ])('%s is refused', async (_name, config) => {
    await expect(of('ghcr.io', config)).rejects.toThrow(ShapeError);
  });
});
