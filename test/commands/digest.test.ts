// `reconcile digest`: what a node will record, for every shape of artifact, as people and programs read it; and what
// nodes prove for themselves of a split image that nobody has read.
import { createCipheriv, createHash } from 'node:crypto';
import { mkdtemp, realpath, rm, utimes, writeFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { stringify } from 'yaml';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { Desired } from '../../src/core/model/desired.ts';
import { makeQcow2 } from '../doubles/cocoon/fixtures.ts';
import { startEpoch, type Epoch } from '../doubles/epoch.ts';
import { containerArtifact, rawArtifact, type Artifact, type ImageOptions } from '../doubles/registry-content.ts';
import { startFleet, type Fleet } from '../fleet/world.ts';
import { withPeak } from '../support/memory.ts';
import { imageOn, report, start, type Run } from '../support/reconcile.ts';
import { shadowed, watchHashing } from '../support/shadow.ts';

let dir: string;
let epoch: Epoch;
let configFile: string;
let seeds = 0;

beforeAll(async () => {
  dir = await realpath(await mkdtemp(join(tmpdir(), 'digest-')));
  configFile = join(dir, 'reconcile.yaml');
  epoch = await startEpoch();
});
afterAll(async () => {
  await epoch?.stop();
  await rm(dir, { recursive: true, force: true });
});
beforeEach(async () => await configure());
afterEach(() => epoch.heal());

/** Nothing learned yet, unless a test comes back to it. */
async function configure(images: Record<string, unknown> = {}, url = epoch.url): Promise<void> {
  seeds += 1;
  const run = { stateDir: join(dir, `state-${seeds}`) };
  await writeFile(configFile, stringify({ epoch: { url, timeout: '5s', retries: 0 }, nodes: [], images, run }));
}

const fresh = (): Buffer => makeQcow2({ seed: `digest ${(seeds += 1)}`, size: 96 * 1024 });

async function push(image: string, options: Partial<ImageOptions> = {}): Promise<Artifact> {
  const pushed = await epoch.pushImage(image, 'latest', { content: fresh(), ...options });
  epoch.requests.length = 0;
  return pushed;
}

async function digest(...args: string[]): Promise<Run> {
  return await start(['digest', '--config', configFile, ...args]).ended;
}

async function asked(...args: string[]): Promise<{ code: number; desired: Desired[]; stderr: string }> {
  const { code, stdout, stderr } = await digest('--output', 'json', ...args);
  const { schemaVersion, desired } = JSON.parse(stdout) as { schemaVersion: number; desired: Desired[] };
  expect(schemaVersion).toBe(1);
  return { code, desired, stderr };
}

/** How often each blob was read, by its digest. */
function reads(): Record<string, number> {
  const read = epoch.requests.filter(
    ({ method, path, headers }) => method === 'GET' && path.includes('/blobs/') && headers.range === undefined,
  );
  const digests = read.map(({ path }) => path.slice(path.lastIndexOf('/') + 1));
  return Object.fromEntries(digests.map((one) => [one, digests.filter((other) => other === one).length]));
}

describe('a cloud image', () => {
  test.each([
    ['of one layer', {}],
    ['of one raw disk', { mediaType: 'application/vnd.cocoonstack.disk.raw' }],
    [
      'in the legacy types for Windows',
      {
        mediaType: 'application/vnd.cocoonstack.windows.disk.qcow2',
        artifactType: 'application/vnd.cocoonstack.windows-image.v1+json',
      },
    ],
    ['of one layer beside its checksums', { checksums: 'parts' }],
  ] as const)('%s: the digest of its layer, and no blob is read', async (_shape, options) => {
    const { contentDigest, manifestDigest, sizeBytes } = await push('simular/one', options);
    const { code, desired } = await asked('simular/one');
    expect(code).toBe(0);
    expect(desired).toEqual([
      {
        image: 'simular/one',
        tag: 'latest',
        platform: null,
        reference: `${epoch.url}/dl/simular/one`,
        kind: 'cloud-image',
        manifestDigest,
        contentDigest,
        contentDigestSource: 'layer',
        sizeBytes,
        error: null,
      },
    ]);
    expect(reads()).toEqual({});
  });

  const header = (change: (disk: Buffer) => void, bytes = 96 * 1024): Buffer => {
    const disk = fresh();
    change(disk);
    return disk.subarray(0, bytes);
  };
  test.each([
    ['its data in an external file', header((disk) => disk.writeBigUInt64BE(4n, 72)), 'external file'],
    ['LUKS', header((disk) => disk.writeUInt32BE(2, 32)), 'encrypted (LUKS)'],
    ['the corrupt bit', header((disk) => disk.writeBigUInt64BE(2n, 72)), 'marked corrupt'],
    ['a header that is cut short', header(() => undefined, 80), 'cut short: 80 bytes and not 104'],
  ])('with %s is none that a node should have', async (_what, content, why) => {
    await push('simular/unusable', { content });
    const { code, desired } = await asked('simular/unusable');
    expect(code).toBe(3);
    const message = expect.stringContaining(why) as string;
    expect(desired[0]).toMatchObject({ contentDigest: null, error: { code: 'ARTIFACT_UNSUPPORTED', message } });
  });

  test('of a nested repository, named by its tag, whose first blob is lost', async () => {
    const may = await startEpoch({ generation: 'may' });
    try {
      const pushed = await may.pushImage('odd/nested/image', 'v1', { content: fresh() });
      may.deleteBlob(pushed.contentDigest as string);
      await configure({}, may.url);
      const { desired } = await asked(`${may.url}/dl/odd/nested/image/v1`);
      expect(desired[0]).toMatchObject({ image: 'odd/nested/image', error: { code: 'REGISTRY_BLOB_MISSING' } });
    } finally {
      await may.stop();
    }
  });

  test('may be named by its URL, in either form', async () => {
    const { contentDigest } = await push('simular/named');
    await epoch.push('simular/named', 'v2', await push('simular/named'));
    const { desired } = await asked(`${epoch.url}/dl/simular/named`, 'simular/named:v2');
    expect(desired.map(({ tag }) => tag)).toEqual(['latest', 'v2']);
    expect(desired[0]?.contentDigest).toBe(desired[1]?.contentDigest);
    expect(desired[0]?.contentDigest).not.toBe(contentDigest);
  });
});

describe('a split image', () => {
  test('whose checksums name the joined file: nothing else is read', async () => {
    const { contentDigest, layers } = await push('simular/split', { parts: 3, checksums: 'assembled' });
    const { code, desired } = await asked('simular/split');
    expect(code).toBe(0);
    expect(desired[0]).toMatchObject({ contentDigest, contentDigestSource: 'checksums', error: null });
    expect(reads()).toEqual({ [layers.at(-1)?.digest ?? '']: 1 });
  });

  test.each([
    ['no checksums', undefined],
    ['checksums of the parts alone', 'parts'],
  ] as const)('with %s is read once; the second call knows it without reading anything', async (_how, checksums) => {
    const pushed = await push('simular/split', { parts: 3, ...(checksums === undefined ? {} : { checksums }) });
    const first = await asked('simular/split');
    expect(first.code).toBe(0);
    expect(first.desired[0]).toMatchObject({
      contentDigest: pushed.contentDigest,
      contentDigestSource: 'stream',
      sizeBytes: pushed.sizeBytes,
    });
    expect(first.stderr).toContain('reading its parts to learn its content digest');
    expect(reads()).toEqual(Object.fromEntries(pushed.layers.map((layer) => [layer.digest, 1])));
    epoch.requests.length = 0;
    const second = await asked('simular/split');
    expect(second.desired[0]).toMatchObject({ contentDigest: pushed.contentDigest, contentDigestSource: 'cache' });
    expect(reads()).toEqual({});
    expect(second.stderr).toBe('');
  });

  test('in the legacy types for Windows', async () => {
    const { contentDigest } = await push('simular/split', {
      parts: 2,
      mediaType: 'application/vnd.cocoonstack.windows.disk.qcow2.part',
      artifactType: 'application/vnd.cocoonstack.windows-image.v1+json',
    });
    expect((await asked('simular/split')).desired[0]).toMatchObject({ contentDigest, contentDigestSource: 'stream' });
  });

  test('that contradicts itself is not believed, and that is said', async () => {
    const content = fresh();
    const text = `${'0'.repeat(64)}  disk.qcow2.00.qcow2.part\n${'1'.repeat(64)}  disk.qcow2\n`;
    const { contentDigest } = await push('simular/split', { content, parts: 2, checksums: { text } });
    const { code, stdout } = await digest('simular/split');
    expect(code).toBe(0);
    expect(stdout).toContain(contentDigest);
    expect(stdout).toMatch(/contradicts itself: its checksums name another digest for disk\.qcow2\.00\.qcow2\.part/);
  });

  test('whose titles are not padded is joined as epoch does, and that is said', async () => {
    const { contentDigest } = await push('simular/split', { parts: 11, title: (index) => `part.${index + 1}` });
    const { stdout } = await digest('simular/split');
    expect(stdout).toContain(contentDigest);
    expect(stdout).toContain('not padded with zeros');
  });

  test.each([
    ['--no-stream', ['--no-stream'], {}],
    ['images.stream: false', [], { stream: false }],
  ])('is not read with %s: unknown, exit 3', async (_how, args, images) => {
    const { layers } = await push('simular/split', { parts: 2, checksums: 'parts' });
    await configure(images);
    const { code, desired } = await asked('simular/split', ...args);
    expect(code).toBe(3);
    expect(desired[0]).toMatchObject({ contentDigest: null, error: { code: 'ARTIFACT_UNSUPPORTED' } });
    expect(desired[0]?.error?.message).toContain('split into 2 parts');
    expect(reads()).toEqual({ [layers.at(-1)?.digest ?? '']: 1 });
  });

  test.each(['cut', 'short', 'flip', 'reset', 500] as const)(
    'a part that comes bad once (%s) is read again, and only that part',
    async (how) => {
      const { contentDigest, layers } = await push('simular/split', { parts: 3 });
      const [first = '', second = '', third = ''] = layers.map((layer) => layer.digest);
      epoch.fail({ match: new RegExp(`^GET .*/blobs/${second}$`), how });
      const { code, desired } = await asked('simular/split');
      expect(code).toBe(0);
      expect(desired[0]?.contentDigest).toBe(contentDigest);
      expect(reads()).toEqual({ [first]: 1, [second]: 2, [third]: 1 });
    },
  );

  test('a part that always comes bad: unknown, with the part', async () => {
    const { layers } = await push('simular/split', { parts: 2 });
    const bad = layers[1]?.digest ?? '';
    epoch.fail({ match: new RegExp(`^GET .*/blobs/${bad}$`), how: 'flip', times: 100 });
    const { code, desired } = await asked('simular/split');
    expect(code).toBe(3);
    expect(desired[0]).toMatchObject({ contentDigest: null, error: { code: 'REGISTRY_BLOB_MISSING' } });
    expect(desired[0]?.error?.message).toContain(bad.slice(7, 19));
  });

  test('a part that epoch has lost: unknown, and nothing is read in vain', async () => {
    const { layers } = await push('simular/split', { parts: 2 });
    epoch.deleteBlob(layers[1]?.digest ?? '');
    const { code, desired } = await asked('simular/split');
    expect(code).toBe(3);
    expect(desired[0]?.error?.code).toBe('REGISTRY_BLOB_MISSING');
    expect(reads()).toEqual({});
  });
});

describe('what is no cloud image', () => {
  test('is unknown, each with its reason', async () => {
    const layer = { mediaType: 'application/vnd.cocoonstack.disk.qcow2', digest: `sha256:${'a'.repeat(64)}`, size: 5 };
    await epoch.push('odd/untyped', 'latest', rawArtifact({ schemaVersion: 2, layers: [layer] }));
    await epoch.pushSnapshot('odd/hot', 'latest', { image: 'x', imageDigest: `sha256:${'b'.repeat(64)}` });
    await epoch.pushContainer('odd/container', 'latest');
    await epoch.pushIndex('odd/index', 'latest', [{ architecture: 'amd64', artifact: containerArtifact() }]);
    const { code, desired } = await asked('odd/untyped', 'odd/hot', 'odd/container', 'odd/index', 'odd/none');
    expect(code).toBe(3);
    expect(desired.map(({ contentDigest }) => contentDigest)).toEqual([null, null, null, null, null]);
    const said = desired.map(({ error }) => error?.message ?? '');
    const words = [/unknown kind/, /hot snapshot/, /container image/, /image index/, /odd\/none/];
    for (const [i, word] of words.entries()) expect(said[i]).toMatch(word);
    expect(desired.at(-1)?.error?.code).toBe('TAG_NOT_FOUND');
  });

  test('a container image on epoch by its OCI reference: the manifest of each platform', async () => {
    const children = ['amd64', 'arm64'].map((architecture) => ({
      architecture,
      artifact: containerArtifact({ architecture, seed: `at epoch ${architecture}` }),
    }));
    await epoch.pushIndex('odd/platforms', 'v1', children);
    const { code, desired } = await asked(`127.0.0.1:${epoch.port}/odd/platforms:v1`);
    expect(code).toBe(0);
    expect(
      desired.map(({ platform, contentDigest, contentDigestSource }) => [platform, contentDigest, contentDigestSource]),
    ).toEqual(
      children.map(({ architecture, artifact }) => [`linux/${architecture}`, artifact.manifestDigest, 'manifest']),
    );
  });
});

describe('the table', () => {
  test('has one line per image, and says below what is wrong', async () => {
    const { contentDigest } = await push('simular/one');
    const { code, stdout } = await digest('simular/one', 'odd/none:v9');
    expect(code).toBe(3);
    const lines = stdout.split('\n');
    expect(lines[0]).toMatch(/^IMAGE\s+KIND\s+MANIFEST\s+CONTENT DIGEST\s+SIZE\s+LEARNED FROM$/);
    expect(lines[1]).toMatch(new RegExp(`^simular/one:latest\\s+cloud-image\\s+.*${contentDigest}\\s+.*layer$`));
    expect(lines[2]).toMatch(/^odd\/none:v9\s.*unknown/);
    expect(lines[3]).toMatch(/^odd\/none:v9: /);
  });

  test('an epoch that cannot be asked is exit 1', async () => {
    await configure({}, 'http://127.0.0.1:9');
    const { code, stdout } = await digest('simular/one');
    expect(code).toBe(1);
    expect(stdout).toContain('connect ECONNREFUSED');
  });

  test.each([[[]], [['Not A Reference']]])('no usable reference (%j) is exit 1 and one clear line', async (args) => {
    const { code, stdout, stderr } = await digest(...args);
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' });
    expect(stderr).toMatch(/reference|neither/);
  });
});

describe('memory', () => {
  /** MiB in each of three parts. */
  const PART = Number(process.env['SPLIT_PART_MIB'] ?? 64);
  const PIECE = 2 ** 20;
  let server: Server;

  /** The bytes of a part, made as they are asked for. */
  function* bytesOf(part: number): Generator<Buffer> {
    const cipher = createCipheriv('aes-256-ctr', Buffer.alloc(32, part), Buffer.alloc(16));
    const zeros = Buffer.alloc(PIECE);
    for (let i = 0; i < PART; i += 1) yield cipher.update(zeros);
  }

  beforeAll(async () => {
    const joined = createHash('sha256');
    const layers = [0, 1, 2].map((part) => {
      const own = createHash('sha256');
      for (const piece of bytesOf(part)) {
        own.update(piece);
        joined.update(piece);
      }
      return {
        mediaType: 'application/vnd.cocoonstack.disk.qcow2.part',
        digest: `sha256:${own.digest('hex')}`,
        size: PART * PIECE,
        annotations: { 'org.opencontainers.image.title': `huge.0${part}.qcow2.part` },
      };
    });
    expected = `sha256:${joined.digest('hex')}`;
    const manifest = JSON.stringify({
      schemaVersion: 2,
      artifactType: 'application/vnd.cocoonstack.os-image.v1+json',
      layers,
    });
    server = createServer((request, response) => {
      const part = layers.findIndex((layer) => request.url?.endsWith(layer.digest));
      if (part === -1) return response.end(manifest);
      response.writeHead(200, { 'Content-Length': PART * PIECE });
      if (request.method === 'HEAD') return response.end();
      return Readable.from(bytesOf(part)).pipe(response);
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  }, 600_000);
  afterAll(() => server.close());
  let expected: string;

  test.skipIf(process.env['SPLIT_PART_MIB'] === undefined)(
    `three parts of ${PART} MiB are read in less than 150 MB`,
    { timeout: 600_000 },
    async () => {
      await configure({}, `http://127.0.0.1:${(server.address() as AddressInfo).port}`);
      const args = ['digest', '--config', configFile, '--output', 'json', 'simular/huge'];
      const { code, stdout, stderr, peakBytes } = await withPeak(dir, args);
      expect(code, stderr).toBe(0);
      expect(stdout).toContain(expected);
      if (process.env['SPLIT_PART_MIB'] !== undefined) console.log(`peak: ${peakBytes / 1e6} MB`);
      expect(peakBytes).toBeLessThan(150e6);
    },
  );
});

describe('ten nodes hold a split image, nothing is known of it, and epoch is not to be read', () => {
  const NAMES = Array.from({ length: 10 }, (_, i) => `cocoonset-node-${i + 1}`);
  const IMAGE = 'simular/win11';
  let fleet: Fleet;
  let at: string;
  let hashed: (() => Promise<string[]>)[];

  beforeAll(async () => {
    at = await mkdtemp(join(tmpdir(), 'proof-'));
    fleet = await startFleet({ dir: at, nodes: NAMES.map((name) => shadowed(at, name)) });
    hashed = await Promise.all(NAMES.map(async (name) => await watchHashing(at, name)));
    await fleet.epoch.pushImage(IMAGE, 'latest', { content: fresh(), parts: 2, checksums: 'parts' });
    for (const node of fleet.nodes) await node.pull(`${fleet.epoch.url}/dl/${IMAGE}`);
    await fleet.writeConfig({ images: { stream: false } });
  });
  afterAll(async () => await fleet?.down());
  beforeEach(() => void (fleet.epoch.requests.length = 0));

  const hashes = async (): Promise<number[]> =>
    (await Promise.all(hashed.map(async (of) => await of()))).map((lines) => lines.length);
  /** Reads of disk parts at epoch; of checksums there may be one. */
  const partsRead = async (): Promise<string[]> => {
    const raw = await fetch(`${fleet.epoch.url}/v2/${IMAGE}/manifests/latest`);
    const { layers } = (await raw.json()) as { layers: { mediaType: string; digest: string }[] };
    const parts = layers.filter(({ mediaType }) => mediaType.includes('disk')).map((layer) => layer.digest);
    return fleet.epoch.requests
      .filter(
        ({ method, path, headers }) =>
          method === 'GET' && headers.range === undefined && parts.some((part) => path.includes(part)),
      )
      .map(({ path }) => path);
  };

  test('each node proves for itself that it holds what epoch serves, and nobody is held against that', async () => {
    const dry = await report(fleet, '--dry-run');
    expect(dry.run.exitCode).toBe(0);
    expect(dry.desired[0]).toMatchObject({ image: IMAGE, contentDigest: null, contentDigestSource: null });
    for (const name of NAMES) {
      const row = imageOn(dry, name);
      expect(row).toMatchObject({ verdict: 'in-sync', want: null, reason: 'its own hashes match the parts' });
    }
    expect(await partsRead()).toEqual([]);
    // two ranges and the whole, on each of them
    expect(await hashes()).toEqual(NAMES.map(() => 3));
  });

  test('the second run hashes nothing: what a node proved of a file is remembered for that file', async () => {
    const again = await report(fleet, '--dry-run');
    expect(again.summary.images['in-sync']).toBe(10);
    expect(imageOn(again, NAMES[0] as string).reason).toBe('its own hashes match the parts');
    expect(await partsRead()).toEqual([]);
    expect(await hashes()).toEqual(NAMES.map(() => 0));
  });

  test('a file that was touched since is hashed again, and no other one', async () => {
    const [first = ''] = NAMES;
    const blob = fleet.node(first).blobFile(imageOn(await report(fleet, '--dry-run'), first).have ?? '');
    await utimes(blob, new Date(0), new Date(0));
    expect((await report(fleet, '--dry-run')).summary.images['in-sync']).toBe(10);
    expect(await hashes()).toEqual([3, ...NAMES.slice(1).map(() => 0)]);
  });

  test('other content proves each holder stale, and what each pulls it proves for itself', async () => {
    const pushed = await fleet.epoch.pushImage(IMAGE, 'latest', { content: fresh(), parts: 2 });
    fleet.epoch.requests.length = 0;
    const dry = await report(fleet, '--dry-run');
    expect(dry.run.exitCode).toBe(2);
    expect(dry.summary.images).toMatchObject({ stale: 10, unknown: 0 });
    for (const name of NAMES) {
      const row = imageOn(dry, name);
      expect(row).toMatchObject({ plan: 'pull', want: null });
      expect(row.reason).toContain('parts prove it');
    }
    const healed = await report(fleet);
    expect(healed.run).toMatchObject({ exitCode: 0, error: null });
    expect(healed.summary.actions).toMatchObject({ planned: 10, healed: 10 });
    for (const name of NAMES) expect(imageOn(healed, name)).toMatchObject({ want: null, after: pushed.contentDigest });
    expect(await partsRead()).toEqual([]);
    await hashes();
    expect((await report(fleet, '--dry-run')).summary.images['in-sync']).toBe(10);
    expect(await hashes()).toEqual(NAMES.map(() => 0));
  });

  test('a download that is cut short by epoch is seen by the proof, and goes no further than the canary', async () => {
    await fleet.epoch.pushImage(IMAGE, 'latest', { content: fresh(), parts: 2 });
    fleet.epoch.fail({ match: /^GET \/dl\//, how: 'short', times: 100 });
    const failed = await report(fleet);
    expect(failed.run.exitCode).toBe(4);
    expect(imageOn(failed, NAMES[0] as string)).toMatchObject({
      outcome: 'failed',
      error: { code: 'VERIFY_MISMATCH' },
    });
    expect(failed.summary.actions).toMatchObject({ healed: 0, failed: 1, skipped: 9 });
    fleet.epoch.heal();
    expect((await report(fleet)).summary.actions).toMatchObject({ healed: 10 });
  });
});
