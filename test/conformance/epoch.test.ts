// What a client sees of epoch, one row each. Runs against the double, or against the epoch at EPOCH_URL, which
// must be one that may be written to with EPOCH_REGISTRY_TOKEN. Rows that need a fault or the May server run on the double only.
import { randomBytes } from 'node:crypto';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { digestOf, hexOf, makeQcow2, seededBytes } from '../doubles/cocoon/fixtures.ts';
import { readTar } from '../doubles/cocoon/tar.ts';
import { publisher, startEpoch, type Epoch, type Publisher } from '../doubles/epoch.ts';
import { containerArtifact, MEDIA, rawArtifact, snapshotArtifact, type Artifact } from '../doubles/registry-content.ts';

const trueUrl = process.env['EPOCH_URL']?.replace(/\/+$/, '');
const trueToken = process.env['EPOCH_REGISTRY_TOKEN'] ?? '';
const onDouble = describe.skipIf(trueUrl !== undefined);
const space = `conformance-${randomBytes(4).toString('hex')}`;
const disk = makeQcow2({ seed: space, size: 64 * 1024 });

let double: Epoch | undefined;
let url = trueUrl ?? '';
let token = trueToken;
let to: Publisher;

beforeAll(async () => {
  if (trueUrl === undefined) {
    double = await startEpoch();
    url = double.url;
    token = double.token;
  }
  to = publisher(url, token);
});

afterAll(() => double?.stop());
afterEach(() => double?.heal());

const get = (path: string, headers: Record<string, string> = {}) => fetch(url + path, { headers, redirect: 'manual' });
const head = (path: string) => fetch(url + path, { method: 'HEAD' });
const send = (method: string, path: string, body?: string | Buffer, headers: Record<string, string> = bearer()) =>
  fetch(url + path, {
    method,
    headers,
    redirect: 'manual',
    ...(body === undefined ? {} : { body: new Uint8Array(Buffer.from(body)) }),
  });
const bearer = () => ({ authorization: `Bearer ${token}` });
const bytes = async (answer: Response) => Buffer.from(await answer.arrayBuffer());

describe('in general', () => {
  test('says ok at /healthz', async () => {
    expect(await (await get('/healthz')).text()).toBe('ok');
  });

  test('sends CORS headers, and 204 to every OPTIONS', async () => {
    const answer = await fetch(`${url}/v2/`, { method: 'OPTIONS' });
    expect(answer.status).toBe(204);
    expect(answer.headers.get('access-control-allow-origin')).toBe('*');
    expect(answer.headers.get('access-control-allow-methods')).toBe('GET, HEAD, PUT, DELETE, POST, OPTIONS');
    expect(answer.headers.get('access-control-allow-headers')).toBe('Content-Type');
  });

  test('answers 404 page not found to an unknown path', async () => {
    const answer = await get('/no/such/page');
    expect([answer.status, await answer.text()]).toEqual([404, '404 page not found\n']);
  });

  test('moves to paths without doubled, dotted or trailing slashes', async () => {
    for (const [from, to] of [
      ['/v2', '/v2/'],
      [`/v2/${space}//x/tags/list`, `/v2/${space}/x/tags/list`],
      [`/v2/${space}/tags/list/`, `/v2/${space}/tags/list`],
    ] as const) {
      const answer = await get(from);
      expect([answer.status, answer.headers.get('location')]).toEqual([301, to]);
    }
  });

  test('answers an empty 405 to a wrong method', async () => {
    const answer = await send('POST', `/v2/${space}/tags/list`);
    expect([answer.status, await answer.text()]).toEqual([405, '']);
  });
});

describe('authentication', () => {
  test('challenges GET /v2/ without a token', async () => {
    const answer = await get('/v2/');
    expect(answer.status).toBe(401);
    expect(answer.headers.get('www-authenticate')).toMatch(
      /^Bearer realm="https?:\/\/[^"]+\/v2\/token",service="epoch"$/,
    );
    expect(await answer.json()).toEqual({ errors: [{ code: 'UNAUTHORIZED', message: 'authentication required' }] });
  });

  test('answers {} to GET /v2/ with a valid token', async () => {
    const answer = await get('/v2/', bearer());
    expect([answer.status, await answer.text()]).toEqual([200, '{}']);
    expect(answer.headers.get('docker-distribution-api-version')).toBe('registry/2.0');
  });

  test('gives an empty token to nobody in particular', async () => {
    const answer = (await (await get('/v2/token')).json()) as Record<string, unknown>;
    expect(answer).toMatchObject({ token: '', access_token: '', expires_in: 3600 });
    expect(answer['issued_at']).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/);
  });

  test('echoes a valid Basic password, whoever the user', async () => {
    const basic = `Basic ${Buffer.from(`anyone:${token}`).toString('base64')}`;
    expect(await (await get('/v2/token', { authorization: basic })).json()).toMatchObject({
      token,
      access_token: token,
    });
  });

  test('takes the password from a form too', async () => {
    const form = { 'content-type': 'application/x-www-form-urlencoded' };
    const answer = await send('POST', '/v2/token', `refresh_token=${encodeURIComponent(token)}`, form);
    expect(await answer.json()).toMatchObject({ token });
  });

  test('refuses a wrong password in plain text', async () => {
    const basic = `Basic ${Buffer.from('anyone:wrong').toString('base64')}`;
    const answer = await get('/v2/token', { authorization: basic });
    expect([answer.status, await answer.text()]).toEqual([401, 'invalid credentials\n']);
    expect(answer.headers.get('content-type')).toBe('text/plain; charset=utf-8');
  });

  test('lets nobody write without a valid token', async () => {
    const path = `/v2/${space}/x/manifests/latest`;
    for (const headers of [{}, { authorization: 'Bearer wrong' }, { authorization: 'Bearer ' }]) {
      const answer = await send('PUT', path, '{}', headers);
      expect(answer.status).toBe(401);
      expect(await answer.json()).toEqual({
        errors: [{ code: 'UNAUTHORIZED', message: 'valid Bearer token required' }],
      });
    }
    expect((await head(path)).status).toBe(404);
  });

  test('does not look at the Authorization of a read', async () => {
    const answer = await get(`/v2/${space}/nothing/tags/list`, { authorization: 'Bearer wrong' });
    expect(answer.status).toBe(200);
  });
});

describe('manifests', () => {
  const repo = `${space}/a/b`;
  let image: Artifact;
  beforeAll(async () => {
    image = await to.pushImage(repo, 'latest', { content: disk });
  });

  test('serves the stored bytes by tag, whatever Accept says', async () => {
    const answer = await get(`/v2/${repo}/manifests/latest`, { accept: MEDIA.dockerIndex });
    expect(answer.status).toBe(200);
    expect(answer.headers.get('content-type')).toBe(MEDIA.manifest);
    expect(answer.headers.get('docker-content-digest')).toBe(image.manifestDigest);
    expect(answer.headers.get('content-length')).toBe(String(image.manifest.length));
    for (const absent of ['etag', 'last-modified', 'accept-ranges', 'cache-control']) {
      expect(answer.headers.get(absent)).toBeNull();
    }
    expect((await bytes(answer)).equals(image.manifest)).toBe(true);
  });

  test('answers HEAD with the same headers', async () => {
    const answer = await head(`/v2/${repo}/manifests/latest`);
    expect(answer.headers.get('docker-content-digest')).toBe(image.manifestDigest);
    expect(answer.headers.get('content-length')).toBe(String(image.manifest.length));
  });

  test('serves by digest', async () => {
    const answer = await get(`/v2/${repo}/manifests/${image.manifestDigest}`);
    expect(digestOf(await bytes(answer))).toBe(image.manifestDigest);
  });

  test('says MANIFEST_UNKNOWN, and nothing to HEAD', async () => {
    const answer = await get(`/v2/${repo}/manifests/nope`);
    expect(answer.status).toBe(404);
    const message = `manifest ${repo}:nope not found`;
    expect(await answer.json()).toEqual({ errors: [{ code: 'MANIFEST_UNKNOWN', message }] });
    const bare = await head(`/v2/${repo}/manifests/nope`);
    expect([bare.status, await bare.text()]).toEqual([404, '']);
  });

  test('keeps the old copy by digest when a tag is pushed again', async () => {
    const path = `${space}/moving`;
    const first = await to.pushImage(path, 'latest', { content: disk });
    const second = await to.pushImage(path, 'latest', { content: makeQcow2({ seed: `${space}/2` }) });
    expect((await head(`/v2/${path}/manifests/latest`)).headers.get('docker-content-digest')).toBe(
      second.manifestDigest,
    );
    expect((await head(`/v2/${path}/manifests/${first.manifestDigest}`)).status).toBe(200);
  });

  test('takes the media type from the document, and the OCI one where it says none', async () => {
    const docker = 'application/vnd.docker.distribution.manifest.v2+json';
    await to.push(`${space}/typed`, 'docker', rawArtifact({ schemaVersion: 2, mediaType: docker }));
    await to.push(`${space}/typed`, 'bare', rawArtifact({ schemaVersion: 2 }));
    const typeOf = async (tag: string) =>
      (await head(`/v2/${space}/typed/manifests/${tag}`)).headers.get('content-type');
    expect([await typeOf('docker'), await typeOf('bare')]).toEqual([docker, MEDIA.manifest]);
  });

  test('returns an index as an index, and its children by digest', async () => {
    const child = containerArtifact({ seed: space });
    const index = await to.pushIndex(`${space}/multi`, 'latest', [{ architecture: 'amd64', artifact: child }]);
    const answer = await get(`/v2/${space}/multi/manifests/latest`, { accept: MEDIA.manifest });
    expect(answer.headers.get('content-type')).toBe(MEDIA.index);
    expect(answer.headers.get('docker-content-digest')).toBe(index.manifestDigest);
    expect((await head(`/v2/${space}/multi/manifests/${child.manifestDigest}`)).status).toBe(200);
    expect(await (await get(`/v2/${space}/multi/tags/list`)).json()).toMatchObject({ tags: ['latest'] });
  });

  test('stores any JSON, whether or not its blobs exist, and says where', async () => {
    const body = JSON.stringify({ layers: [{ digest: `sha256:${'0'.repeat(64)}` }] });
    const answer = await send('PUT', `/v2/${space}/any/manifests/t`, body);
    expect(answer.status).toBe(201);
    expect(answer.headers.get('location')).toBe(`/v2/${space}/any/manifests/t`);
    expect(answer.headers.get('docker-content-digest')).toBe(digestOf(body));
  });

  test('refuses what is no JSON, and a digest that does not fit', async () => {
    const torn = await send('PUT', `/v2/${repo}/manifests/torn`, '{');
    expect(torn.status).toBe(400);
    expect(await torn.json()).toEqual({ errors: [{ code: 'MANIFEST_INVALID', message: 'invalid JSON' }] });
    const other = await send('PUT', `/v2/${repo}/manifests/sha256:${'0'.repeat(64)}`, '{}');
    expect(other.status).toBe(400);
    expect(await other.json()).toMatchObject({ errors: [{ code: 'DIGEST_INVALID' }] });
  });

  test('deletes a tag, and leaves the copy by digest', async () => {
    const gone = await to.pushImage(`${space}/gone`, 'latest', { content: disk });
    expect((await send('DELETE', `/v2/${space}/gone/manifests/latest`)).status).toBe(202);
    expect((await head(`/v2/${space}/gone/manifests/latest`)).status).toBe(404);
    expect((await head(`/v2/${space}/gone/manifests/${gone.manifestDigest}`)).status).toBe(200);
  });

  test('unlinks the tags of a digest that is deleted', async () => {
    const both = await to.pushImage(`${space}/both`, 'one', { content: disk });
    await to.push(`${space}/both`, 'two', both);
    const path = `/v2/${space}/both/manifests/${both.manifestDigest}`;
    expect((await send('DELETE', path)).status).toBe(202);
    expect(await (await get(`/v2/${space}/both/tags/list`)).json()).toEqual({ name: `${space}/both`, tags: [] });
    expect((await send('DELETE', path)).status).toBe(404);
  });
});

describe('tags and catalog', () => {
  test('lists the tags of a repository, and none of an unknown one', async () => {
    const image = await to.pushImage(`${space}/tags`, 'win11-25h2', { content: disk });
    await to.push(`${space}/tags`, 'latest', image);
    const answer = await get(`/v2/${space}/tags/tags/list`);
    expect(await answer.json()).toEqual({ name: `${space}/tags`, tags: ['latest', 'win11-25h2'] });
    expect(await (await get(`/v2/${space}/unknown/tags/list`)).json()).toEqual({ name: `${space}/unknown`, tags: [] });
  });

  test('answers HEAD of a tag list with 405', async () => {
    expect((await head(`/v2/${space}/tags/tags/list`)).status).toBe(405);
  });

  test('lists the repositories in order', async () => {
    await to.pushImage(`${space}/z`, 'latest', { content: disk });
    await to.pushImage(`${space}/c`, 'latest', { content: disk });
    const { repositories } = (await (await get('/v2/_catalog')).json()) as { repositories: string[] };
    expect(repositories).toEqual(expect.arrayContaining([`${space}/c`, `${space}/z`]));
    expect(repositories).toEqual([...repositories].sort());
  });
});

describe('blobs', () => {
  const blob = seededBytes(`${space}/blob`, 5000);
  const digest = digestOf(blob);
  const uploads = `/v2/${space}/up/blobs/uploads/`;

  test('takes a blob by POST, PATCH and PUT', async () => {
    const started = await send('POST', uploads);
    expect(started.status).toBe(202);
    expect(started.headers.get('range')).toBe('0-0');
    const location = started.headers.get('location') ?? '';
    expect(location).toBe(`${uploads}${started.headers.get('docker-upload-uuid')}`);
    const patched = await send('PATCH', location, blob.subarray(0, 2000));
    expect([patched.status, patched.headers.get('range')]).toEqual([202, '0-1999']);
    const put = await send('PUT', `${location}?digest=${digest}`, blob.subarray(2000));
    expect(put.status).toBe(201);
    expect(put.headers.get('location')).toBe(`/v2/${space}/up/blobs/${digest}`);
    expect(put.headers.get('docker-content-digest')).toBe(digest);
  });

  test('serves it from any repository, with its length and without ranges', async () => {
    const answer = await get(`/v2/${space}/elsewhere/blobs/${digest}`, { range: 'bytes=0-7' });
    expect(answer.status).toBe(200);
    expect(answer.headers.get('content-type')).toBe('application/octet-stream');
    expect(answer.headers.get('docker-content-digest')).toBe(digest);
    expect(answer.headers.get('content-length')).toBe('5000');
    expect((await bytes(answer)).equals(blob)).toBe(true);
  });

  test('answers HEAD with the length', async () => {
    const answer = await head(`/v2/${space}/up/blobs/${digest}`);
    expect([answer.status, answer.headers.get('content-length')]).toEqual([200, '5000']);
  });

  test('takes a blob in one POST, and in one PUT', async () => {
    const posted = Buffer.from(`${space} posted`);
    expect((await send('POST', `${uploads}?digest=${digestOf(posted)}`, posted)).status).toBe(201);
    const put = Buffer.from(`${space} put`);
    expect((await send('PUT', `/v2/${space}/up/blobs/${digestOf(put)}`, put)).status).toBe(201);
    expect(await (await get(`/v2/${space}/up/blobs/${digestOf(put)}`)).text()).toBe(`${space} put`);
  });

  test('refuses bytes of another digest', async () => {
    const answer = await send('POST', `${uploads}?digest=${digest}`, 'other');
    expect(answer.status).toBe(400);
    const message = `digest mismatch: got ${digestOf('other')}, expected ${digest}`;
    expect(await answer.json()).toEqual({ errors: [{ code: 'DIGEST_INVALID', message }] });
  });

  test('refuses a PUT without digest, and an unknown upload', async () => {
    const location = (await send('POST', uploads)).headers.get('location') ?? '';
    const bare = await send('PUT', location, 'x');
    expect([bare.status, await bare.json()]).toEqual([
      400,
      { errors: [{ code: 'DIGEST_INVALID', message: 'digest query parameter required' }] },
    ]);
    const unknown = await send('PATCH', `${uploads}00000000-0000-0000-0000-000000000000`, 'x');
    expect([unknown.status, await unknown.json()]).toEqual([
      404,
      { errors: [{ code: 'BLOB_UPLOAD_UNKNOWN', message: 'upload session not found' }] },
    ]);
  });

  test('says BLOB_UNKNOWN, and nothing to HEAD', async () => {
    const path = `/v2/${space}/up/blobs/sha256:${'0'.repeat(64)}`;
    const answer = await get(path);
    expect([answer.status, await answer.json()]).toEqual([
      404,
      { errors: [{ code: 'BLOB_UNKNOWN', message: 'blob not found' }] },
    ]);
    const bare = await head(path);
    expect([bare.status, await bare.text()]).toEqual([404, '']);
  });
});

describe('/dl', () => {
  // One path segment, so that both generations mean the same repository.
  const repo = `${space}-win11`;

  test('streams a disk of one layer: chunked, without length, digest or ranges', async () => {
    await to.pushImage(repo, 'latest', { content: disk });
    const answer = await get(`/dl/${repo}`, { range: 'bytes=0-7' });
    expect(answer.status).toBe(200);
    expect(answer.headers.get('content-type')).toBe('application/octet-stream');
    for (const absent of ['content-length', 'docker-content-digest', 'etag', 'accept-ranges', 'deprecation']) {
      expect(answer.headers.get(absent)).toBeNull();
    }
    expect((await bytes(answer)).equals(disk)).toBe(true);
  });

  test('joins parts in bytewise order of their titles', async () => {
    const title = (index: number) => `part.${index + 1}`;
    const image = await to.pushImage(`${repo}-parts`, 'latest', {
      content: disk,
      parts: 11,
      title,
      checksums: 'parts',
    });
    const body = await bytes(await get(`/dl/${repo}-parts`));
    expect(digestOf(body)).toBe(image.contentDigest);
    expect(image.contentDigest).not.toBe(digestOf(disk));
    const padded = await to.pushImage(`${repo}-parts`, 'latest', { content: disk, parts: 11, checksums: 'assembled' });
    expect(padded.contentDigest).toBe(digestOf(disk));
    expect((await bytes(await get(`/dl/${repo}-parts`))).equals(disk)).toBe(true);
  });

  test('takes the legacy media types', async () => {
    const mediaType = 'application/vnd.cocoonstack.windows.disk.qcow2.part';
    const legacy = { content: disk, parts: 2, mediaType, artifactType: MEDIA.windowsImage };
    await to.pushImage(`${repo}-legacy`, 'latest', legacy);
    expect((await bytes(await get(`/dl/${repo}-legacy`))).equals(disk)).toBe(true);
  });

  test('streams a snapshot as an archive for snapshot import', async () => {
    const image = 'https://epoch.example/dl/simular/win11';
    await to.pushSnapshot(`${repo}-hot`, 'latest', { image, imageDigest: digestOf(disk), nics: 1 });
    const answer = await get(`/dl/${repo}-hot`);
    expect(answer.headers.get('content-type')).toBe('application/x-tar');
    const members = readTar(await bytes(answer));
    const files = snapshotArtifact().layers.map((layer) => layer.annotations?.['org.opencontainers.image.title']);
    expect(members.map((member) => member.name)).toEqual(['snapshot.json', ...files]);
    expect(JSON.parse(String(members[0]?.data))).toMatchObject({
      version: 1,
      config: {
        name: `${repo}-hot`,
        image,
        image_digest: digestOf(disk),
        image_type: 'cloudimg',
        image_blob_ids: { [hexOf(digestOf(disk))]: {} },
        hypervisor: 'cloud-hypervisor',
        cpu: 1,
        nics: 1,
        windows: true,
      },
    });
  });

  test('refuses container images and what it does not know', async () => {
    await to.pushContainer(`${repo}-oci`, 'latest');
    await to.pushIndex(`${repo}-index`, 'latest', [{ architecture: 'amd64', artifact: containerArtifact() }]);
    await to.pushImage(`${repo}-odd`, 'latest', { content: disk, artifactType: 'application/x-odd' });
    const refused = async (name: string) => [
      (await get(`/dl/${name}`)).status,
      await (await get(`/dl/${name}`)).text(),
    ];
    expect(await refused(`${repo}-oci`)).toEqual([
      405,
      'container image — pull via OCI client (oras / crane / docker)\n',
    ]);
    expect(await refused(`${repo}-index`)).toEqual([405, 'unknown artifact kind\n']);
    expect(await refused(`${repo}-odd`)).toEqual([405, 'unknown artifact kind\n']);
  });

  test('says artifact not found where there is no latest', async () => {
    await to.pushImage(`${repo}-dated`, 'win11-25h2', { content: disk });
    const answer = await get(`/dl/${repo}-dated`);
    expect([answer.status, await answer.text()]).toEqual([404, 'artifact not found\n']);
  });

  test('answers HEAD with 405', async () => {
    expect((await head(`/dl/${repo}`)).status).toBe(405);
  });
});

describe('/api', () => {
  const repo = `${space}/api`;
  let image: Artifact;
  beforeAll(async () => {
    image = await to.pushImage(repo, 'latest', {
      content: disk,
      annotations: { 'org.opencontainers.image.created': '2026-04-24T01:02:03Z' },
    });
  });

  test('lags behind a push until it is synced', async () => {
    expect((await get(`/api/repositories/${repo}/tags/latest`)).status).toBe(404);
    const synced = await send('POST', '/api/catalog/sync');
    expect([synced.status, await synced.json()]).toEqual([200, { status: 'synced' }]);
    expect((await get(`/api/repositories/${repo}/tags/latest`)).status).toBe(200);
  });

  test('names the manifest digest in bare hex', async () => {
    expect(await (await get(`/api/repositories/${repo}/tags/latest`)).json()).toMatchObject({
      repoName: repo,
      tag: 'latest',
      digest: hexOf(image.manifestDigest),
      artifactType: MEDIA.osImage,
      kind: 'cloud-image',
      totalSize: disk.length + 2,
      layerCount: 1,
      pushedAt: '2026-04-24T01:02:03Z',
      manifest: { schemaVersion: 2 },
    });
  });

  test('lists tags and repositories', async () => {
    const tags = (await (await get(`/api/repositories/${repo}/tags`)).json()) as unknown[];
    expect(tags).toEqual([
      expect.objectContaining({ repoName: repo, name: 'latest', digest: hexOf(image.manifestDigest) }),
    ]);
    expect(await (await get(`/api/repositories/${repo}`)).json()).toMatchObject({
      name: repo,
      tagCount: 1,
      kind: 'cloud-image',
    });
    const all = (await (await get('/api/repositories')).json()) as { name: string }[];
    expect(all.map((row) => row.name)).toContain(repo);
    expect(await (await get('/api/stats')).json()).toHaveProperty('repositoryCount');
  });

  test('answers 404 with its own error body', async () => {
    const repository = await get(`/api/repositories/${space}/none`);
    expect([repository.status, await repository.json()]).toEqual([404, { error: 'repository not found' }]);
    const tag = await get(`/api/repositories/${repo}/tags/none`);
    expect([tag.status, await tag.json()]).toEqual([404, { error: 'tag not found' }]);
    expect(await (await get(`/api/repositories/${space}/none/tags`)).json()).toEqual([]);
  });
});

onDouble('what broken storage looks like', () => {
  const parts = () => double?.pushImage('broken', 'latest', { content: disk, parts: 3 }) as Promise<Artifact>;
  const part = (image: Artifact, index: number) => image.layers[index]?.digest ?? '';

  test('ends cleanly before a part that is missing', async () => {
    const image = await parts();
    double?.deleteBlob(part(image, 1));
    const answer = await get('/dl/broken');
    expect([answer.status, (await bytes(answer)).equals(disk.subarray(0, image.layers[0]?.size))]).toEqual([200, true]);
  });

  test('is empty where the first is missing', async () => {
    const image = await parts();
    double?.deleteBlob(part(image, 0));
    const answer = await get('/dl/broken');
    expect([answer.status, answer.headers.get('content-length'), await answer.text()]).toEqual([200, '0', '']);
  });

  test('mends a missing blob, but no damaged one, when it is pushed again', async () => {
    const image = await parts();
    double?.damageBlob(part(image, 2), (good) => Buffer.from(good.map((byte) => byte ^ 1)));
    await parts();
    const body = await bytes(await get('/dl/broken'));
    expect([body.length, body.equals(disk)]).toEqual([disk.length, false]);
    double?.deleteBlob(part(image, 2));
    await parts();
    expect((await bytes(await get('/dl/broken'))).equals(disk)).toBe(true);
  });

  test('ends a snapshot that lacks a file at the last full 256 KiB', async () => {
    const small = await double?.pushSnapshot('hot', 'latest');
    double?.deleteBlob(small?.layers.at(-1)?.digest ?? '');
    expect(await bytes(await get('/dl/hot'))).toHaveLength(0);
    const big = await double?.pushSnapshot('hot', 'latest', { memoryBytes: 700 * 1024 });
    double?.deleteBlob(big?.layers.at(-1)?.digest ?? '');
    expect(await bytes(await get('/dl/hot'))).toHaveLength(512 * 1024);
  });

  test('drops what comes after a short part', async () => {
    const image = await parts();
    double?.damageBlob(part(image, 0), (good) => good.subarray(0, 100));
    expect(await bytes(await get('/dl/broken'))).toHaveLength(100);
  });
});

onDouble('faults on demand', () => {
  const path = '/v2/faulty/manifests/latest';
  beforeAll(() => double?.pushImage('faulty', 'latest', { content: disk }));

  test('answers a status with Retry-After so many times, then well', async () => {
    double?.fail({ match: /manifests/, times: 2, how: 503, retryAfter: 1 });
    const first = await get(path);
    expect([first.status, first.headers.get('retry-after')]).toEqual([503, '1']);
    expect([(await get(path)).status, (await get(path)).status]).toEqual([503, 200]);
  });

  test('resets, cuts, shortens, flips and shows a login page', async () => {
    double?.fail({ match: /manifests/, how: 'reset' });
    await expect(get(path)).rejects.toThrow();
    double?.fail({ match: /dl/, how: 'cut' });
    await expect(get('/dl/faulty').then(bytes)).rejects.toThrow();
    double?.fail({ match: /dl/, how: 'short' });
    expect(await bytes(await get('/dl/faulty'))).toHaveLength(disk.length / 2);
    double?.fail({ match: /dl/, how: 'flip' });
    const flipped = await bytes(await get('/dl/faulty'));
    expect([flipped.length, flipped.equals(disk)]).toEqual([disk.length, false]);
    double?.fail({ match: /dl/, how: 'html' });
    expect(await (await get('/dl/faulty')).text()).toMatch(/^<!DOCTYPE html>/);
  });

  test('shows an outage of the object store as epoch does', async () => {
    double?.fail({ match: /./, times: 3, how: 'outage' });
    expect(await (await get(path)).json()).toMatchObject({ errors: [{ code: 'INTERNAL_ERROR' }] });
    const tags = await get('/v2/faulty/tags/list');
    expect([tags.status, await tags.json()]).toEqual([
      404,
      { errors: [{ code: 'NAME_UNKNOWN', message: 'repository "faulty" not found' }] },
    ]);
    const download = await get('/dl/faulty');
    expect([download.status, await download.text()]).toEqual([500, 'internal server error\n']);
  });

  test('hangs without an answer, and stalls in the middle of one', async () => {
    double?.fail({ match: /manifests/, how: 'hang' });
    await expect(fetch(url + path, { signal: AbortSignal.timeout(50) })).rejects.toThrow();
    double?.fail({ match: /dl/, how: 'stall' });
    const stalled = await fetch(`${url}/dl/faulty`, { signal: AbortSignal.timeout(200) });
    await expect(stalled.arrayBuffer()).rejects.toThrow();
  });

  test('logs requests, runs an action before an answer, and comes back on its port', async () => {
    if (!double) return;
    double.requests.length = 0;
    double.during(/HEAD/, async () => void (await double?.pushImage('faulty', 'moved', { content: disk })));
    await head(path);
    expect((await head('/v2/faulty/manifests/moved')).status).toBe(200);
    expect(double.requests.at(-1)).toMatchObject({ method: 'HEAD', path: '/v2/faulty/manifests/moved', status: 200 });
    await double.stop();
    await expect(get('/healthz')).rejects.toThrow();
    await double.start();
    expect((await get(path)).status).toBe(200);
  });
});

onDouble('the May server', () => {
  let may: Epoch;
  beforeAll(async () => {
    may = await startEpoch({ generation: 'may', publicUrl: 'https://epoch.example/' });
    await may.pushImage('simular/win11', 'latest', { content: disk });
    await may.pushImage('simular/win11', 'v1', { content: makeQcow2({ seed: 'v1' }) });
  });
  afterAll(() => may.stop());
  const dl = (path: string) => fetch(`${may.url}/dl/${path}`);

  test('serves /dl/NAME/REF by tag and by manifest digest', async () => {
    expect(digestOf(await bytes(await dl('simular/win11/v1')))).toBe(digestOf(makeQcow2({ seed: 'v1' })));
    const digest = (await fetch(`${may.url}/v2/simular/win11/manifests/latest`)).headers.get('docker-content-digest');
    const answer = await dl(`simular/win11/${digest}`);
    expect(answer.headers.get('deprecation')).toBeNull();
    expect((await bytes(answer)).equals(disk)).toBe(true);
  });

  test('falls back to /dl/NAME with a Deprecation header', async () => {
    const answer = await dl('simular/win11');
    expect(answer.headers.get('deprecation')).toBe('true');
    expect(answer.headers.get('link')).toBe('</dl/simular/win11/latest>; rel="successor-version"');
    expect((await bytes(answer)).equals(disk)).toBe(true);
  });

  test('lets repository a with tag b shadow a/b:latest', async () => {
    const shadow = await may.pushImage('shadow', 'win11', { content: makeQcow2({ seed: 'shadow' }) });
    await may.pushImage('shadow/win11', 'latest', { content: disk });
    expect(digestOf(await bytes(await dl('shadow/win11')))).toBe(shadow.contentDigest);
  });

  test('answers 500 where the first blob is missing', async () => {
    const image = await may.pushImage('lost', 'latest', { content: makeQcow2({ seed: 'lost' }) });
    may.deleteBlob(image.contentDigest ?? '');
    const answer = await dl('lost');
    expect([answer.status, await answer.text()]).toEqual([500, 'internal server error\n']);
  });

  test('names its public address in the challenge', async () => {
    const challenge = (await fetch(`${may.url}/v2/`)).headers.get('www-authenticate');
    expect(challenge).toBe('Bearer realm="https://epoch.example/v2/token",service="epoch"');
  });
});
