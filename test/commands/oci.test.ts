// Container images from a registry that is not ours: Debian's docker-registry on loopback ports, plain, with Basic
// authentication, and with tokens. Nodes of two platforms in one fleet.
import { spawn, type ChildProcess } from 'node:child_process';
import { createHash, createSign, generateKeyPairSync, randomInt, randomUUID, type KeyObject } from 'node:crypto';
import { mkdir, mkdtemp, readFile, realpath, rm, writeFile } from 'node:fs/promises';
import { createServer, type IncomingMessage, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { stringify } from 'yaml';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { ImageRow, Report } from '../../src/core/model/report.ts';
import { hexOf } from '../doubles/cocoon/fixtures.ts';
import { containerArtifact, indexArtifact, MEDIA, type Artifact, type Manifest } from '../doubles/registry-content.ts';
import { ensureCommand } from '../fleet/sshd.ts';
import { startFleet, type Fleet, type FleetNode } from '../fleet/world.ts';
import { until } from '../support/guard.ts';
import { parseReport, start } from '../support/reconcile.ts';
import { shadow, shadowed } from '../support/shadow.ts';

const AMD64 = 'cocoonset-node-1';
const ARM64 = 'cocoonset-node-2';
const USER = 'deploy';
/** bcrypt of `s3cret`: what htpasswd -B writes. */
const HTPASSWD = `${USER}:$2b$05$abcdefghijklmnopqrstuuLK7U1u6pVRmL7L1BBM2aS35PSZnDXlK\n`;
const BASIC = `Basic ${Buffer.from(`${USER}:s3cret`).toString('base64')}`;

let dir: string;
let fleet: Fleet;
let amd64: FleetNode;
const registries: ChildProcess[] = [];

beforeAll(async () => {
  dir = await realpath(await mkdtemp(join(tmpdir(), 'oci-')));
  fleet = await startFleet({ dir, nodes: [shadowed(dir, AMD64), shadowed(dir, ARM64)] });
  amd64 = fleet.node(AMD64);
  await shadow(dir, AMD64, 'uname', 'echo x86_64');
  await shadow(dir, ARM64, 'uname', 'echo aarch64');
});
afterAll(async () => {
  for (const registry of registries) registry.kill('SIGKILL');
  await fleet?.down();
});

// --- Registries -----------------------------------------------------------------------------------------------------

interface Registry {
  host: string;
  push(repo: string, tag: string, artifact: Artifact, headers?: Record<string, string>): Promise<void>;
}

/** Starts Debian's registry; resolved when it answers. */
async function startRegistry(name: string, auth: Record<string, unknown> = {}): Promise<Registry> {
  const program = await ensureCommand('docker-registry');
  for (let tries = 0; tries < 20; tries += 1) {
    const host = `127.0.0.1:${randomInt(12000, 32000)}`;
    const storage = { filesystem: { rootdirectory: join(dir, name) }, delete: { enabled: true } };
    const file = join(dir, `${name}.yml`);
    await mkdir(join(dir, name), { recursive: true });
    await writeFile(file, stringify({ version: 0.1, storage, http: { addr: host }, log: { level: 'error' }, ...auth }));
    const child = spawn(program, ['serve', file], { stdio: 'ignore', env: {} });
    registries.push(child);
    const answers = async (): Promise<boolean> =>
      child.exitCode !== null ||
      (await fetch(`http://${host}/v2/`).then(
        () => true,
        () => false,
      ));
    await until(`${program} on ${host}`, answers);
    if (child.exitCode === null) return { host, push: async (...args) => await pushTo(`http://${host}`, ...args) };
  }
  throw new Error('no free port for a registry');
}

/** The upload in two requests, which every registry takes. */
async function pushTo(
  url: string,
  repo: string,
  tag: string | null,
  artifact: Artifact,
  headers: Record<string, string> = {},
): Promise<void> {
  const send = async (path: string, init: RequestInit): Promise<Response> => {
    const answer = await fetch(path, { ...init, headers: { ...headers, ...(init.headers as Record<string, string>) } });
    if (!answer.ok) throw new Error(`${init.method} ${path}: ${answer.status} ${await answer.text()}`);
    return answer;
  };
  for (const blob of artifact.blobs) {
    const begun = await send(`${url}/v2/${repo}/blobs/uploads/`, { method: 'POST' });
    const place = new URL(begun.headers.get('location') ?? '', url);
    place.searchParams.set('digest', `sha256:${createHash('sha256').update(blob).digest('hex')}`);
    const type = { 'content-type': 'application/octet-stream' };
    await send(place.href, { method: 'PUT', body: new Uint8Array(blob), headers: type });
  }
  for (const child of artifact.children) await pushTo(url, repo, null, child, headers);
  await send(`${url}/v2/${repo}/manifests/${tag ?? artifact.manifestDigest}`, {
    method: 'PUT',
    body: new Uint8Array(artifact.manifest),
    headers: { 'content-type': artifact.mediaType },
  });
}

/** One image for both platforms. */
function both(seed: string, mediaType?: string): Artifact & { child(architecture: string): Artifact } {
  const children = ['amd64', 'arm64'].map((architecture) => ({
    architecture,
    ...(architecture === 'arm64' ? { variant: 'v8' } : {}),
    artifact: containerArtifact({ architecture, seed }),
  }));
  return {
    ...indexArtifact(children, mediaType),
    child: (wanted) => children.find(({ architecture }) => architecture === wanted)?.artifact as Artifact,
  };
}

/** As `docker push` writes it: the same image in Docker's own media types. */
function inDockerTypes(seed: string): Artifact {
  const oci = containerArtifact({ seed });
  const manifest = JSON.parse(oci.manifest.toString()) as Manifest;
  const [config, layers] = [manifest.config, manifest.layers ?? []];
  const docker = {
    ...manifest,
    mediaType: 'application/vnd.docker.distribution.manifest.v2+json',
    config: { ...config, mediaType: MEDIA.dockerConfig },
    layers: layers.map((layer) => ({ ...layer, mediaType: 'application/vnd.docker.image.rootfs.diff.tar' })),
  };
  const text = Buffer.from(JSON.stringify(docker));
  const digest = `sha256:${createHash('sha256').update(text).digest('hex')}`;
  return { ...oci, manifest: text, mediaType: docker.mediaType, manifestDigest: digest, contentDigest: digest };
}

// --- Runs -----------------------------------------------------------------------------------------------------------

async function track(image: string, more: Record<string, unknown> = {}): Promise<void> {
  await fleet.writeConfig({ images: { track: [{ image, presence: 'required', ...more }] } });
}

async function report(args: string[] = ['--dry-run'], home?: string): Promise<Report> {
  const env = home === undefined ? {} : { HOME: home };
  const argv = ['--config', fleet.configFile, ...args, '--output', 'json'];
  const { stdout, stderr } = await start(argv, { env }).ended;
  return parseReport(stdout, stderr);
}

function rowOn(of: Report, name: string, reference: string): ImageRow {
  const row = of.nodes.find((node) => node.name === name)?.images.find((image) => image.reference === reference);
  if (row === undefined) throw new Error(`no row for ${reference} on ${name}`);
  return row;
}

describe('a registry that anybody may read', () => {
  let registry: Registry;
  let image: string;
  let repo: string;
  let repos = 0;

  beforeAll(async () => (registry = await startRegistry('open')));
  beforeEach(() => {
    repo = `cocoon/ubuntu-${(repos += 1)}`;
    image = `${registry.host}/${repo}:24.04`;
  });
  afterEach(async () => {
    for (const node of fleet.nodes) await node.cocoon('image', 'rm', image);
  });

  const seen = async (...args: string[]): Promise<ImageRow> =>
    rowOn(await report([...args, '-w', AMD64]), AMD64, image);

  test.each([
    ['OCI', MEDIA.index],
    ['Docker', MEDIA.dockerIndex],
  ])("an index (%s) is the manifest of each node's own platform", async (_whose, mediaType) => {
    const index = both(`${mediaType} index`, mediaType);
    await registry.push(repo, '24.04', index);
    await track(image);
    const seen = await report();
    expect(seen.run.exitCode).toBe(2);
    expect(rowOn(seen, AMD64, image)).toMatchObject({ verdict: 'missing', plan: 'pull', type: 'oci' });
    expect(rowOn(seen, AMD64, image).want).toBe(index.child('amd64').manifestDigest);
    expect(rowOn(seen, ARM64, image).want).toBe(index.child('arm64').manifestDigest);
    expect(seen.desired.map(({ platform, contentDigestSource }) => [platform, contentDigestSource])).toEqual([
      ['linux/amd64', 'manifest'],
      ['linux/arm64', 'manifest'],
    ]);
  });

  test('an index that does not say what it is, as OCI allows', async () => {
    const index = both('untyped');
    const { mediaType: _type, ...untyped } = JSON.parse(index.manifest.toString()) as Manifest;
    await registry.push(repo, '24.04', { ...index, manifest: Buffer.from(JSON.stringify(untyped)) });
    await track(image);
    const seen = await report();
    expect(rowOn(seen, AMD64, image).want).toBe(index.child('amd64').manifestDigest);
  });

  test('a platform that the index lacks is unknown there, and only there', async () => {
    const artifact = containerArtifact({ seed: 'amd64 only' });
    await registry.push(repo, '24.04', indexArtifact([{ architecture: 'amd64', artifact }]));
    await track(image);
    const seen = await report();
    expect(seen.run.exitCode).toBe(2);
    expect(rowOn(seen, AMD64, image)).toMatchObject({ verdict: 'missing', want: artifact.manifestDigest });
    expect(rowOn(seen, ARM64, image)).toMatchObject({ verdict: 'unknown', error: { code: 'ARTIFACT_UNSUPPORTED' } });
    expect(rowOn(seen, ARM64, image).reason).toContain('linux/arm64');
  });

  test.each([
    ['OCI types', (seed: string) => containerArtifact({ seed })],
    ['Docker types', inDockerTypes],
    ['an index of two platforms', (seed: string) => both(seed)],
  ])('in sync, stale, and healed: %s', async (what, make) => {
    const wanted = (artifact: Artifact): string | null =>
      'child' in artifact
        ? (artifact as ReturnType<typeof both>).child('amd64').manifestDigest
        : artifact.manifestDigest;
    const first = make(`${what} 1`);
    await registry.push(repo, '24.04', first);
    await amd64.pull(image);
    await track(image, { presence: 'if-present' });
    expect(await seen('--dry-run')).toMatchObject({ verdict: 'in-sync', have: wanted(first), want: wanted(first) });

    const second = make(`${what} 2`);
    await registry.push(repo, '24.04', second);
    expect(await seen('--dry-run')).toMatchObject({ verdict: 'stale', plan: 'pull', want: wanted(second) });
    expect(await seen()).toMatchObject({ outcome: 'healed', after: wanted(second) });
    expect(await seen('--dry-run')).toMatchObject({ verdict: 'in-sync' });
  });

  test('a layer, a kernel or an initrd that is gone is pulled again, and so is a layer that is empty', async () => {
    const pushed = containerArtifact({ seed: 'incomplete' });
    await registry.push(repo, '24.04', pushed);
    await amd64.pull(image);
    await track(image, { presence: 'if-present' });
    const layer = hexOf(pushed.layers[0]?.digest ?? '');
    // the first that is missing is named
    for (const file of [`boot/${layer}/initrd.img`, `boot/${layer}/vmlinuz`, `blobs/${layer}.erofs`]) {
      await rm(join(amd64.rootDir, 'oci', file));
      const row = await seen('--dry-run');
      expect(row).toMatchObject({ verdict: 'blob-missing', plan: 'pull' });
      expect(row.reason).toContain(`${file} is not there`);
    }
    expect(await seen()).toMatchObject({ outcome: 'healed' });
    await writeFile(join(amd64.rootDir, 'oci', `blobs/${layer}.erofs`), '');
    expect(await seen('--dry-run')).toMatchObject({ verdict: 'blob-missing' });
    expect(await seen()).toMatchObject({ outcome: 'healed' });
    expect((await report(['--dry-run', '-w', AMD64])).run.exitCode).toBe(0);
  });

  test('a tag that is not there, and a registry that is not there, are each said', async () => {
    await registry.push(repo, 'other', containerArtifact({ seed: 'other' }));
    await track(image);
    const row = rowOn(await report(), AMD64, image);
    expect(row).toMatchObject({ verdict: 'unknown', error: { code: 'TAG_NOT_FOUND' } });
    expect(`${row.error?.message} ${row.error?.hint}`).toContain('other');
    await track('127.0.0.1:9/cocoon/ubuntu:24.04');
    const gone = rowOn(await report(), AMD64, '127.0.0.1:9/cocoon/ubuntu:24.04');
    expect(gone).toMatchObject({ verdict: 'unknown', error: { code: 'REGISTRY_UNREACHABLE' } });
  });

  test('is what `reconcile digest` prints for each platform', async () => {
    const index = both('digest');
    await registry.push(repo, '24.04', index);
    const { code, stdout } = await start(['digest', '--config', fleet.configFile, image]).ended;
    expect(code).toBe(0);
    for (const architecture of ['amd64', 'arm64']) {
      const { manifestDigest } = index.child(architecture);
      expect(stdout).toMatch(new RegExp(`\\(linux/${architecture}\\) .*${manifestDigest} .*manifest`));
    }
  });
});

describe.each([
  ['Basic', 'by a password file', startBasic],
  ['Bearer', 'by a token server', startBearer],
])('a registry that asks who we are (%s)', (scheme, _how, begin) => {
  let registry: Registry;
  let asked: string[];
  let stop: () => void;
  let artifact: Artifact;
  let image: string;

  beforeAll(async () => {
    ({ registry, asked, stop } = await begin());
    artifact = containerArtifact({ seed: scheme });
    const authorization = scheme === 'Basic' ? BASIC : `Bearer ${mintToken(['pull', 'push'])}`;
    await registry.push('private/ubuntu', 'v1', artifact, { authorization });
    image = `${registry.host}/private/ubuntu:v1`;
    await track(image);
  });
  afterAll(() => stop?.());
  beforeEach(() => void (asked.length = 0));

  /** A home with what `docker login` leaves there. */
  async function homeWith(name: string, auth: string): Promise<string> {
    const home = join(dir, `${scheme}-${name}`);
    await mkdir(join(home, '.docker'), { recursive: true });
    await writeFile(join(home, '.docker/config.json'), JSON.stringify({ auths: { [registry.host]: { auth } } }));
    return home;
  }

  test('is read with what docker login left', async () => {
    const home = await homeWith('login', BASIC.slice('Basic '.length));
    const row = rowOn(await report(['--dry-run'], home), AMD64, image);
    expect(row).toMatchObject({ verdict: 'missing', plan: 'pull', want: artifact.manifestDigest });
    if (scheme === 'Bearer') {
      // one token for all requests of that repository
      expect(new Set(asked)).toEqual(new Set([`${BASIC} repository:private/ubuntu:pull`]));
    }
  });

  test.each([
    ['with a wrong password', Buffer.from(`${USER}:wrong`).toString('base64')],
    ['with nothing', null],
  ])('%s it is unknown, and says so', async (how, auth) => {
    const home = auth === null ? join(dir, 'nowhere') : await homeWith(how.replaceAll(' ', '-'), auth);
    const seen = await report(['--dry-run'], home);
    expect(seen.run.exitCode).toBe(3);
    const row = rowOn(seen, AMD64, image);
    expect(row).toMatchObject({ verdict: 'unknown', plan: null, error: { code: 'REGISTRY_LOGIN_NEEDED' } });
    expect(row.error?.message).toContain('status 401');
    expect(row.error?.message).toContain(join(home, '.docker/config.json'));
    expect(JSON.stringify(seen)).not.toContain('s3cret');
  });

  test('a damaged file of docker is said, by its name', async () => {
    const home = await homeWith('damaged', '');
    await writeFile(join(home, '.docker/config.json'), '{"auths": {');
    const row = rowOn(await report(['--dry-run'], home), AMD64, image);
    expect(row.verdict).toBe('unknown');
    expect(row.error?.message).toContain('.docker/config.json');
  });
});

test('tokens that are good for one request are asked for again', async () => {
  const { registry, asked, stop } = await startBearer(1);
  const artifact = both('short-lived');
  const authorization = `Bearer ${mintToken(['pull', 'push'])}`;
  await registry.push('private/ubuntu', 'v1', artifact, { authorization });
  const image = `${registry.host}/private/ubuntu:v1`;
  await track(image);
  const home = join(dir, 'short-lived');
  await mkdir(join(home, '.docker'), { recursive: true });
  const auths = { [registry.host]: { username: USER, password: 's3cret' } };
  await writeFile(join(home, '.docker/config.json'), JSON.stringify({ auths }));
  const row = rowOn(await report(['--dry-run'], home), AMD64, image);
  expect(row).toMatchObject({ verdict: 'missing', want: artifact.child('amd64').manifestDigest });
  expect(asked.length).toBeGreaterThan(1);
  stop();
});

test("an image on epoch's own host is judged, and not planned: cocoon cannot pull it", async () => {
  const host = `127.0.0.1:${fleet.epoch.port}`;
  const image = `${host}/cocoon/ubuntu:v1`;
  const registry = await startRegistry('elsewhere');
  const old = containerArtifact({ seed: 'old' });
  // cocoon itself got it somewhere else; its index is made to name epoch
  await registry.push('cocoon/ubuntu', 'v1', old);
  const other = `${registry.host}/cocoon/ubuntu:v1`;
  await amd64.pull(other);
  const file = join(amd64.rootDir, 'oci', 'db', 'images.json');
  await writeFile(file, (await readFile(file, 'utf8')).replaceAll(other, image));
  await fleet.writeConfig();

  await fleet.epoch.push('cocoon/ubuntu', 'v1', old);
  expect(rowOn(await report(), AMD64, image)).toMatchObject({ verdict: 'in-sync', have: old.manifestDigest });

  const fresh = await fleet.epoch.pushContainer('cocoon/ubuntu', 'v1', { seed: 'fresh' });
  const seen = await report([]);
  expect(seen.run.exitCode).toBe(2);
  const row = rowOn(seen, AMD64, image);
  expect(row).toMatchObject({ verdict: 'stale', plan: null, want: fresh.manifestDigest, outcome: null });
  expect(row.reason).toContain('cocoon cannot pull it from epoch without a credential');
});

// --- Authentication -------------------------------------------------------------------------------------------------

interface Guarded {
  registry: Registry;
  /** The authorization and scope of each question to the token server. */
  asked: string[];
  stop: () => void;
}

async function startBasic(): Promise<Guarded> {
  const file = join(dir, 'htpasswd');
  await writeFile(file, HTPASSWD);
  const registry = await startRegistry('basic', { auth: { htpasswd: { realm: 'registry', path: file } } });
  return { registry, asked: [], stop: () => undefined };
}

const ISSUER = 'test token server';
let signing: { key: KeyObject; kid: string } | null = null;

/** A token that docker-registry believes: a JWT, signed by the key that its bundle names. */
function mintToken(actions: string[], seconds = 300): string {
  if (signing === null) throw new Error('no token server yet');
  const now = Math.floor(Date.now() / 1000);
  const part = (value: unknown): string => Buffer.from(JSON.stringify(value)).toString('base64url');
  const access = [{ type: 'repository', name: 'private/ubuntu', actions }];
  const claims = {
    iss: ISSUER,
    sub: USER,
    aud: 'registry',
    exp: now + seconds,
    nbf: now - 60,
    iat: now,
    jti: randomUUID(),
    access,
  };
  const signed = `${part({ typ: 'JWT', alg: 'RS256', kid: signing.kid })}.${part(claims)}`;
  return `${signed}.${createSign('sha256').update(signed).sign(signing.key, 'base64url')}`;
}

/** @param uses after how many requests a token is refused; 0: never */
async function startBearer(uses = 0): Promise<Guarded> {
  const asked: string[] = [];
  const bundle = join(dir, 'bundle.pem');
  signing ??= await makeKey(bundle);
  const tokens: Server = createServer((request, response) => {
    const { authorization = '' } = request.headers;
    const scope = new URL(request.url ?? '', 'http://x').searchParams.get('scope') ?? '';
    asked.push(`${authorization} ${scope}`);
    if (authorization !== BASIC) return response.writeHead(401).end('who are you?');
    return response.end(JSON.stringify({ token: mintToken(['pull']) }));
  });
  await new Promise<void>((resolve) => tokens.listen(0, '127.0.0.1', resolve));
  const realm = `http://127.0.0.1:${(tokens.address() as AddressInfo).port}/token`;
  const auth = { auth: { token: { realm, service: 'registry', issuer: ISSUER, rootcertbundle: bundle } } };
  const registry = await startRegistry(`bearer-${uses}`, auth);
  if (uses === 0) return { registry, asked, stop: () => tokens.close() };
  const front = await startFront(registry, uses);
  const stop = (): void => {
    tokens.close();
    front.stop();
  };
  return { registry: { ...registry, host: front.host }, asked, stop };
}

/** Stands before a registry, and lets each token pass so many times only. */
async function startFront(registry: Registry, uses: number): Promise<{ host: string; stop: () => void }> {
  const used = new Map<string, number>();
  const pass = async (request: IncomingMessage): Promise<Response> => {
    const { authorization } = request.headers;
    const times = (used.get(authorization ?? '') ?? 0) + 1;
    used.set(authorization ?? '', times);
    const headers = authorization === undefined || times > uses ? {} : { authorization };
    const accept = { accept: request.headers.accept ?? '*/*' };
    return await fetch(`http://${registry.host}${request.url}`, {
      method: request.method ?? 'GET',
      headers: { ...headers, ...accept },
    });
  };
  const front = createServer((request, response) => {
    pass(request)
      .then(async (answer) => {
        const kept = ['content-type', 'docker-content-digest', 'www-authenticate', 'content-length'];
        for (const name of kept) if (answer.headers.has(name)) response.setHeader(name, answer.headers.get(name) ?? '');
        response.writeHead(answer.status).end(Buffer.from(await answer.arrayBuffer()));
      })
      .catch(() => response.destroy());
  });
  await new Promise<void>((resolve) => front.listen(0, '127.0.0.1', resolve));
  return { host: `127.0.0.1:${(front.address() as AddressInfo).port}`, stop: () => void front.close() };
}

/** A key and a certificate for it; the key's name is as docker-registry computes it. */
async function makeKey(bundle: string): Promise<{ key: KeyObject; kid: string }> {
  const { privateKey, publicKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
  const file = join(dir, 'token.key');
  await writeFile(file, privateKey.export({ type: 'pkcs8', format: 'pem' }));
  const argv = ['req', '-x509', '-key', file, '-out', bundle, '-days', '2', '-subj', '/CN=tokens'];
  const openssl = spawn(await ensureCommand('openssl'), argv, { stdio: 'ignore' });
  await until('a certificate', () => openssl.exitCode !== null);
  const der = publicKey.export({ type: 'spki', format: 'der' });
  const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567';
  const bits = [...createHash('sha256').update(der).digest().subarray(0, 30)].map((byte) =>
    byte.toString(2).padStart(8, '0'),
  );
  const base32 = (bits.join('').match(/.{5}/g) ?? []).map((five) => alphabet[parseInt(five, 2)]).join('');
  return { key: privateKey, kid: (base32.match(/.{4}/g) ?? []).join(':') };
}
