/**
 * What nodes and registries may send, changed at random: nothing crashes or hangs, every error is one of ours, and nothing
 * comes out in sync that the changed text itself does not prove. RECONCILE_FUZZ says how many texts; each has its seed.
 */
import { createHash } from 'node:crypto';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { hashBlobs } from '../../src/node/hash.ts';
import { createRegistry, type Registry } from '../../src/registry/client.ts';
import type { State } from '../../src/bastion/state.ts';
import { needsStoredForm } from '../../src/core/judge/blobs.ts';
import { ERROR_CODES, ReconcileError } from '../../src/core/errors.ts';
import { judgeImages, judgeSnapshots, plan } from '../support/judging.ts';
import { proofOf } from '../../src/core/judge/proofs.ts';
import type { ErrorInfo } from '../../src/core/model/error.ts';
import type { IndexEntry, Observation, Observed } from '../../src/core/model/observed.ts';
import { resolveAll } from '../../src/pipeline/resolve/catalog.ts';
import { withStoredForm } from '../../src/pipeline/resolve/cloud-image.ts';
import { startInquiry } from '../../src/pipeline/resolve/inquiry.ts';
import type { Asking } from '../../src/pipeline/resolve/references.ts';
import {
  blobPath,
  entry,
  HOT,
  hot,
  node,
  observation,
  ociFiles,
  QCOW2,
  ROOT,
  served,
  sha,
  SIZE,
  split,
  tracked,
  wantedSnapshot,
  WIN11,
} from '../support/facts.ts';
import { answering } from '../support/fakes.ts';
import { bytesOf, head, NONCE, parse, qcow2 } from '../support/probe.ts';
import { mutate, pick, random } from '../support/random.ts';
import { memoryState } from '../support/state.ts';

const KINDS = 6;
const COUNT = Math.ceil(Number(process.env['RECONCILE_FUZZ'] ?? 1000) / KINDS);
const TIMEOUT_MS = 15 * 60_000;
type Next = () => number;

/** Runs one kind of case for each seed; how many of the texts were still understood must be neither none nor all. */
async function each(one: (next: Next) => Promise<boolean> | boolean): Promise<void> {
  let understood = 0;
  for (let seed = 1; seed <= COUNT; seed += 1) {
    try {
      if (await one(random(seed))) understood += 1;
    } catch (error) {
      throw new Error(`seed ${seed}: ${(error as Error).message}`, { cause: error });
    }
  }
  if (COUNT < 100) return;
  expect(understood).toBeGreaterThan(COUNT / 50);
  expect(understood).toBeLessThan(COUNT);
}

/** The error of what is called, which must be one of ours and no bug; null where there is none. */
async function trouble<T>(call: () => Promise<T> | T): Promise<{ value: T } | { code: string }> {
  try {
    return { value: await call() };
  } catch (error) {
    if (!(error instanceof ReconcileError)) throw error;
    expectTyped(error.info);
    return { code: error.info.code };
  }
}

function expectTyped(info: ErrorInfo | null): void {
  if (info === null) return;
  expect(ERROR_CODES).toContain(info.code);
  expect(info.code).not.toBe('INTERNAL');
  // oxlint-disable-next-line no-control-regex -- finding control characters is the point
  expect(`${info.message}${info.hint}`).not.toMatch(/[\x00-\x1f\x7f-\x9f\u202e]/);
}

/** Another digit where there is one. */
function flipped(text: string, at: number, next: Next): string {
  return `${text.slice(0, at)}${text.slice(at, at + 1).replace(/[0-9a-f]/, () => pick('0123456789abcdef'.split(''), next))}${text.slice(at + 1)}`;
}

const E2 = 'e2'.repeat(32);

// ------------------------------------------------------------------------------------------------------ nodes

const CONTAINER = 'ghcr.io/a/b:1';
const inFile = (name: string, text: string): string[] => [
  'file',
  name,
  ...bytesOf(text)
    .split('\n')
    .map((line) => `|${line}`),
];
const answer = (...lines: string[]): string =>
  [`cocoon-probe 1 ${NONCE}`, ...lines, `cocoon-probe end ${NONCE}`, ''].join('\n');
const ID = 'MFRGGZDFMZTWQ2LKNNWG23TPOA';
const DATA = `${ROOT}/snapshot/localfile/${ID}`;
const OVERLAY = `${DATA}/./overlay.qcow2`;
const CLOUD = 'cloudimg/db/images.json';
const FIRMWARE = `${ROOT}/firmware/CLOUDHV.fd`;

const INDEX = JSON.stringify({
  images: {
    [WIN11]: { ref: WIN11, content_sum: sha('e2'), size: SIZE, created_at: '2026-04-27T19:44:01Z' },
    'https://elsewhere.example/x': { ref: 'x', content_sum: sha('a1'), size: 5 },
  },
});
const OCI_INDEX = JSON.stringify({
  images: {
    [CONTAINER]: {
      ref: CONTAINER,
      manifest_digest: sha('c3'),
      layers: [{ digest: sha('d4') }, { digest: sha('e5') }],
      kernel_layer: sha('e5'),
      initrd_layer: sha('e5'),
    },
  },
});
const SNAPSHOTS = JSON.stringify({
  snapshots: {
    [ID]: { id: ID, name: HOT, image: WIN11, image_digest: sha('e2'), image_type: 'cloudimg', data_dir: DATA },
  },
  names: { [HOT]: ID },
});
const VMS = JSON.stringify({ vms: { X: { state: 'running', config: { name: 'demo', image_digest: sha('a1') } } } });
const rest = [
  `blob f ${SIZE} 77 1.5 ${E2}.qcow2`,
  ...Object.keys(ociFiles(['d4', 'e5'])).map((path) => `path file ${path}`),
  `snapshot ${DATA}/.`,
  ...['900 config.json', '9 state.json', '8 memory-ranges', '7 overlay.qcow2', '6 cocoon.json'].map(
    (has) => `has ${has.replace(' ', ` ${DATA}/./`)}`,
  ),
  ...inFile(`${DATA}/./cocoon.json`, JSON.stringify({ storage_configs: [{ path: '/o/overlay.qcow2', role: 'cow' }] })),
  ...inFile(
    `${DATA}/./config.json`,
    JSON.stringify({ payload: { firmware: FIRMWARE }, disks: [{ path: '/o/overlay.qcow2' }] }),
  ),
  `path file ${FIRMWARE}`,
  'left 7000',
  'free 500000000000',
  'heads',
  head(OVERLAY, qcow2(blobPath('e2'))),
  head(`cloudimg/blobs/${E2}.qcow2`, QCOW2),
];
const store = [
  ...inFile(CLOUD, INDEX),
  ...inFile('oci/db/images.json', OCI_INDEX),
  ...inFile('snapshot/db/snapshots.json', SNAPSHOTS),
  ...inFile('cloudhypervisor/db/vms.json', VMS),
];
const sqlite = [
  'store sqlite',
  'listed image 0',
  ...inFile('image-list', JSON.stringify([{ id: sha('e2'), name: WIN11, type: 'cloudimg', size: SIZE }])),
  'listed snapshot 0',
  ...inFile('snapshot-list', JSON.stringify([{ id: ID, name: HOT, image: WIN11, image_digest: sha('e2') }])),
  'listed vm 0',
  ...inFile('vm-list', 'No VMs found.'),
];
const LINES = [
  'free 5',
  'store sqlite',
  'file',
  'snapshot/db/snapshots.json',
  'snapshot /x/.',
  'denied /',
  'has',
  `blob f 5 7 1.5 ${E2}.qcow2`,
];

/** What is served in these worlds: exactly what the unchanged node holds. */
const at = served(undefined, {
  tracked: [tracked(), tracked({ image: 'a/b', tag: '1', registry: 'ghcr.io', reference: CONTAINER })],
});
const of = hot({ tracked: [{ snapshot: HOT, pools: null }], snapshots: [wantedSnapshot()] });

/** Judges and plans, which must not throw; the references in sync, and the bases of snapshots that clone. */
function judged(seen: Observation): { inSync: string[]; clonable: (string | null)[] } {
  const images = judgeImages(at, seen);
  const snapshots = judgeSnapshots(at, of, seen);
  for (const { error } of [...images, ...snapshots]) expectTyped(error);
  const actions = plan(at, of, [seen]);
  expect(actions.every(({ want, kind }) => want === sha('e2') && kind === 'pull')).toBe(true);
  return {
    inSync: images.filter(({ verdict }) => verdict === 'in-sync').map(({ reference }) => reference),
    clonable: snapshots.filter(({ verdict, id }) => verdict === 'clonable' && id !== null).map((row) => row.baseDigest),
  };
}

describe('a node', () => {
  test('unchanged is in sync', () => {
    for (const whole of [store, sqlite]) {
      const seen = observation(parse(answer('machine x86_64', 'version v0.3.8', ...whole, ...rest), node()));
      expect(judged(seen)).toEqual({ inSync: [WIN11], clonable: [sha('e2')] });
    }
  });

  test(
    'with other images.json',
    async () => {
      await each(async (next) => {
        const index = mutate(INDEX, next);
        const oci = next() < 0.3 ? mutate(OCI_INDEX, next) : OCI_INDEX;
        const text = answer('version v0.3.8', ...inFile(CLOUD, index), ...inFile('oci/db/images.json', oci), ...rest);
        const read = await trouble(() => parse(text, node()));
        if ('code' in read) {
          expect(['NODE_INDEX_CORRUPT', 'NODE_ANSWER_INVALID']).toContain(read.code);
          return false;
        }
        expect(JSON.parse(JSON.stringify(read.value))).toEqual(read.value);
        const { images } = JSON.parse(index) as { images?: Record<string, { content_sum: string }> };
        for (const reference of judged(observation(read.value)).inSync) {
          expect(images?.[reference]?.content_sum, reference).toBe(sha('e2'));
        }
        return true;
      });
    },
    TIMEOUT_MS,
  );

  test(
    'with another answer of the probe',
    async () => {
      await each(async (next) => {
        const whole = ['machine x86_64', 'version v0.3.8', ...pick([store, store, sqlite], next), ...rest].join('\n');
        const isMarked = next() < 0.9;
        const text = isMarked ? answer(mutate(whole, next, LINES)) : mutate(answer(whole), next, LINES);
        const read = await trouble(() => parse(text, node()));
        if ('code' in read) {
          expect(read.code).toMatch(/^NODE_/);
          return false;
        }
        const { inSync, clonable } = judged(observation(read.value));
        const has = (line: RegExp): void => expect(text).toMatch(line);
        if (inSync.length > 0) {
          expect(inSync).toEqual([WIN11]);
          has(new RegExp(`^blob f ${SIZE} \\d+ [\\d.]+ ${E2}\\.qcow2$`, 'm'));
          has(new RegExp(`^==> cloudimg/blobs/${E2}\\.qcow2 <==\nQFI\xfb\0\0\0\x03\0{8}`, 'm'));
          has(new RegExp(`^\\|.*"${WIN11.replaceAll('.', '\\.')}".*${sha('e2')}|^\\|.*${sha('e2')}.*"${WIN11}"`, 'm'));
        }
        for (const digest of clonable) {
          if (digest === null || digest === sha('c3')) continue;
          has(new RegExp(`^blob f [1-9]\\d* \\d+ [\\d.]+ ${digest.slice(7)}\\.qcow2$`, 'm'));
          has(/^==> .+\/overlay\.qcow2 <==\nQFI\xfb/m);
          for (const name of ['config.json', 'state.json', 'memory-range\\S*', 'overlay.qcow2']) {
            has(new RegExp(`^has [1-9]\\d* .*/\\./${name}`, 'm'));
          }
        }
        return true;
      });
    },
    TIMEOUT_MS,
  );

  test(
    'that hashes otherwise',
    async () => {
      const lines = [
        `range ${E2} ${'31'.repeat(32)}`,
        `range ${E2} ${'32'.repeat(32)}`,
        `whole ${E2} ${E2} ${SIZE} 77 1.5`,
      ];
      const signal = new AbortController().signal;
      await each(async (next) => {
        const at = Math.floor(next() * lines.join('\n').length);
        const said = next() < 0.5 ? mutate(lines.join('\n'), next, lines) : flipped(lines.join('\n'), at, next);
        const connection = answering((command) => {
          const nonce = / hash (\S+) /.exec(command)?.[1] ?? '';
          return `cocoon-hash 1 ${nonce}\n${said}\ncocoon-hash end ${nonce}\n`;
        });
        const read = await trouble(
          async () => await hashBlobs({ connection, node: node(), signal }, [{ hex: E2, ranges: [1, 2] }], 1000),
        );
        if ('code' in read) {
          expect(read.code).toBe('NODE_ANSWER_INVALID');
          return false;
        }
        const [hashed] = read.value;
        const proof = typeof hashed === 'object' ? proofOf(hashed, split()) : null;
        if (proof === 'same') for (const line of lines) expect(said).toContain(line.replace(/ \d+ [\d.]+$/, ' '));
        return true;
      });
    },
    TIMEOUT_MS,
  );
});

// -------------------------------------------------------------------------------------------------- registries

interface Sent {
  status?: number;
  headers?: Record<string, string>;
  body?: string | Buffer;
  /** Ends the connection before the promised length. */
  isCut?: boolean;
}

const digestOf = (text: string): string => `sha256:${createHash('sha256').update(text).digest('hex')}`;
const PART = 'application/vnd.cocoonstack.disk.qcow2.part';
const DISK = /^application\/vnd\.cocoonstack\.(windows\.)?disk\.(qcow2|raw)(\.part)?$/;
const IMAGE = 'application/vnd.cocoonstack.os-image.v1+json';
const titled = (title: string): object => ({ annotations: { 'org.opencontainers.image.title': title } });
const config = { mediaType: 'application/vnd.oci.empty.v1+json', digest: digestOf('{}'), size: 2 };
const MANIFEST = 'application/vnd.oci.image.manifest.v1+json';
const base = { schemaVersion: 2, mediaType: MANIFEST, artifactType: IMAGE, config };
const ONE = JSON.stringify({
  ...base,
  layers: [
    { mediaType: 'application/vnd.cocoonstack.disk.qcow2', digest: sha('e2'), size: SIZE, ...titled('win11.qcow2') },
  ],
});
const parts = [
  { mediaType: PART, digest: sha('31'), size: 3_000_000_000, ...titled('win11.qcow2.00') },
  { mediaType: PART, digest: sha('32'), size: SIZE - 3_000_000_000, ...titled('win11.qcow2.01') },
];
const SPLIT = JSON.stringify({ ...base, layers: parts });
const summed = (sums: string): string =>
  JSON.stringify({
    ...base,
    layers: [...parts, { mediaType: 'text/plain', digest: digestOf(sums), size: sums.length, ...titled('SHA256SUMS') }],
  });
const layers = [sha('d4'), sha('e5')].map((digest) => ({
  mediaType: 'application/vnd.oci.image.layer.v1.tar+gzip',
  digest,
  size: 9,
}));
const CHILD = JSON.stringify({
  schemaVersion: 2,
  mediaType: MANIFEST,
  config: { ...config, mediaType: 'application/vnd.oci.image.config.v1+json' },
  layers,
});
const PLATFORMS = JSON.stringify({
  schemaVersion: 2,
  mediaType: 'application/vnd.oci.image.index.v1+json',
  manifests: [
    { mediaType: MANIFEST, digest: sha('f6'), size: 9, platform: { os: 'linux', architecture: 'arm64' } },
    {
      mediaType: MANIFEST,
      digest: digestOf(CHILD),
      size: CHILD.length,
      platform: { os: 'linux', architecture: 'amd64' },
    },
  ],
});
const CONFIG = JSON.stringify({
  image: WIN11,
  imageDigest: sha('e2'),
  imageType: 'cloudimg',
  imageBlobIds: { [E2]: {} },
});
const SNAPSHOT = JSON.stringify({
  ...base,
  artifactType: 'application/vnd.cocoonstack.snapshot.v1+json',
  config: {
    mediaType: 'application/vnd.cocoonstack.snapshot.config.v1+json',
    digest: digestOf(CONFIG),
    size: CONFIG.length,
  },
  layers: [],
});
const TAGS = JSON.stringify({ name: 'simular/win11', tags: ['v1', 'v2', '2026-05-09'] });
const UNKNOWN = JSON.stringify({ errors: [{ code: 'MANIFEST_UNKNOWN', message: 'no such manifest' }] });
const SIZES: Record<string, number> = {
  [sha('e2')]: SIZE,
  [sha('31')]: 3_000_000_000,
  [sha('32')]: SIZE - 3_000_000_000,
  [sha('d4')]: 9,
  [sha('e5')]: 9,
};

describe('a registry', () => {
  let url: string;
  let epoch: Registry;
  /** What is sent for a path; null for what nothing here names. */
  let say: (method: string, path: string) => Sent | null;
  const server = createServer((request: IncomingMessage, response: ServerResponse) => {
    const [path = ''] = (request.url ?? '').split('?');
    const {
      status = 200,
      headers = {},
      body = '',
      isCut = false,
    } = say(request.method ?? '', path) ?? byDefault(request.method ?? '', path) ?? { status: 404, body: UNKNOWN };
    response.writeHead(status, isCut ? { ...headers, 'content-length': String(body.length + 9) } : headers);
    if (!isCut) return void response.end(request.method === 'HEAD' ? undefined : body);
    response.write(body);
    return void setImmediate(() => response.destroy());
  });
  const byDefault = (method: string, path: string): Sent | null => {
    const blob = /\/blobs\/(sha256:.*)$/.exec(path)?.[1];
    const size = blob === undefined ? undefined : SIZES[blob];
    if (method === 'HEAD' && size !== undefined) return { headers: { 'content-length': String(size) } };
    if (size !== undefined) return { body: Buffer.from(QCOW2.padEnd(208, '0'), 'hex') };
    return blob === digestOf(CONFIG) ? { body: CONFIG } : null;
  };

  beforeAll(async () => {
    await new Promise<void>((resolve) => {
      server.listen(0, '127.0.0.1', resolve);
    });
    url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    epoch = createRegistry({ url, token: null, login: null, proxy: null, ca: null, timeoutMs: 5000, retries: 0 });
  });
  afterAll(async () => {
    await epoch.close();
    server.close();
  });

  interface Found {
    inSync: string[];
    codes: string[];
  }

  /** A run's way from the registry to verdicts on a node that holds these entries, whole. */
  const judge = async (entries: IndexEntry[], state: State = memoryState()): Promise<Found> => {
    const signal = new AbortController().signal;
    const registries = { epoch, registryOf: async () => await Promise.resolve(epoch), state };
    const asking: Asking = { ...startInquiry(registries, signal), addresses: [url] };
    const images = [tracked({ reference: `${url}/dl/simular/win11` })];
    const snapshots = [{ snapshot: HOT, pools: null }];
    const references = entries.map(({ reference }) => reference);
    const held = { references, bases: [], snapshots: [], architectures: ['amd64'] };
    const resolved = await resolveAll(asking, { images, snapshots }, held, true);
    const found = Object.values(resolved.images);
    const places = Object.fromEntries(Object.keys(resolved.images).map((key, i) => [key, i]));
    const covers = Object.fromEntries(
      Object.entries(resolved.references).map(([key, one]) => [key, one.images.map((of) => places[of] as number)]),
    );
    const facts: Partial<Observed> = { entries, files: { ...ociFiles(['d4', 'e5']), [FIRMWARE]: 'file' } };
    const seen = observation(facts);
    const unclear = needsStoredForm(found, [seen], 'size');
    const desired = await Promise.all(
      found.map(async (image) => (unclear.includes(image) ? await withStoredForm(asking, image) : image)),
    );
    const world = served(desired, { addresses: [url], covers, tracked: images });
    const rows = judgeImages(world, seen);
    const tracking = hot({ tracked: snapshots, snapshots: resolved.snapshots });
    const on = judgeSnapshots(world, tracking, seen);
    plan(world, tracking, [seen]);
    const errors = [...found, ...resolved.snapshots, ...rows, ...on].map(({ error }) => error);
    for (const error of errors) expectTyped(error);
    return {
      inSync: rows.filter(({ verdict }) => verdict === 'in-sync').map(({ reference }) => reference),
      codes: errors.flatMap((error) => error?.code ?? []),
    };
  };

  const dl = (): string => `${url}/dl/simular/win11`;
  const oci = (): string => `${url.slice('http://'.length)}/a/b:1`;
  const cloud = (): IndexEntry => entry(sha('e2'), dl());
  const onEpoch = (): IndexEntry => ({
    ...entry(digestOf(CHILD), oci(), 'oci'),
    layers: [sha('d4'), sha('e5')],
    kernelLayer: sha('e5'),
    initrdLayer: sha('e5'),
  });
  const WIN = '/v2/simular/win11/manifests/latest';
  const sends =
    (bodies: Record<string, Sent>): typeof say =>
    (_method, path) =>
      bodies[path] ?? null;
  const childPath = `/v2/a/b/manifests/${digestOf(CHILD)}`;
  const hotPath = `/v2/simular/win11-hot/manifests/v1`;

  /** One disk of the wanted digest and size, and nothing else that could be one. */
  const isOne = (body: string): boolean => {
    const { artifactType, layers: all = [] } = JSON.parse(body) as Record<string, never> as {
      artifactType?: string;
      layers?: { mediaType: string; digest: string; size: number }[];
    };
    const disks = all.filter(({ mediaType }) => DISK.test(mediaType));
    return artifactType === IMAGE && disks.length === 1 && disks[0]?.digest === sha('e2') && disks[0].size === SIZE;
  };

  test('unchanged is in sync', async () => {
    say = sends({
      [WIN]: { body: ONE },
      '/v2/a/b/manifests/1': { body: PLATFORMS },
      [childPath]: { body: CHILD },
      [hotPath]: { body: SNAPSHOT },
    });
    expect(await judge([cloud(), onEpoch()])).toEqual({ inSync: [dl(), oci()], codes: [] });
    const state = memoryState();
    state.learn(digestOf(SPLIT), { digest: sha('e2'), source: 'stream' });
    say = sends({ [WIN]: { body: SPLIT } });
    expect((await judge([cloud()], state)).inSync).toEqual([dl()]);
    const sums = `${E2}  win11.qcow2\n`;
    say = (_method, path) =>
      path === WIN ? { body: summed(sums) } : path.endsWith(digestOf(sums)) ? { body: sums } : null;
    expect((await judge([cloud()])).inSync).toEqual([dl()]);
  });

  test(
    'with other manifests',
    async () => {
      await each(async (next) => {
        const state = memoryState();
        state.learn(digestOf(SPLIT), { digest: sha('e2'), source: 'stream' });
        const isSplit = next() < 0.3;
        const body = mutate(isSplit ? SPLIT : ONE, next);
        const index = next() < 0.5 ? mutate(PLATFORMS, next) : PLATFORMS;
        const child = next() < 0.3 ? mutate(CHILD, next) : CHILD;
        const fixed: Sent = next() < 0.1 ? { headers: { 'docker-content-digest': sha('e2') } } : {};
        say = sends({
          [WIN]: { ...fixed, body, isCut: next() < 0.05 },
          '/v2/a/b/manifests/1': { body: pick([index, index, index, child], next) },
          [childPath]: { body: child },
          [hotPath]: { body: mutate(SNAPSHOT, next) },
        });
        const sent = String(say('GET', '/v2/a/b/manifests/1')?.body ?? '');
        const { inSync } = await judge([cloud(), onEpoch()], state);
        if (inSync.includes(dl())) expect(body === SPLIT || isOne(body), body).toBe(true);
        if (inSync.includes(oci()) && sent !== CHILD) {
          expect(child).toBe(CHILD);
          const { manifests } = JSON.parse(sent) as { manifests: { digest: string; platform: object }[] };
          expect(manifests.find(({ digest }) => digest === digestOf(CHILD))?.platform).toMatchObject({
            os: 'linux',
            architecture: 'amd64',
          });
        }
        return inSync.length > 0;
      });
    },
    TIMEOUT_MS,
  );

  test(
    'with other checksums',
    async () => {
      const lines = [`${'31'.repeat(32)}  win11.qcow2.00`, `${'32'.repeat(32)}  win11.qcow2.01`, `${E2}  win11.qcow2`];
      await each(async (next) => {
        const sums = mutate(`${lines.join('\n')}\n`, next, [...lines, `${'a1'.repeat(32)}  win11.qcow2`]);
        const isHonest = next() < 0.95;
        say = (_method, path) => {
          if (path === WIN) return { body: summed(sums) };
          return path.endsWith(digestOf(sums)) ? { body: isHonest ? sums : `${sums} ` } : null;
        };
        const { inSync } = await judge([cloud()]);
        if (inSync.length === 0) return false;
        expect(isHonest).toBe(true);
        const named = sums.split(/\r?\n/).flatMap((line) => {
          const [, hex, name] = /^([0-9a-f]{64}) [ *](.+)$/i.exec(line) ?? [];
          return hex === undefined || name === undefined ? [] : [[hex.toLowerCase(), name] as const];
        });
        const joined = named.filter(([, name]) => !/^win11\.qcow2\.0[01]$/.test(name));
        expect(joined.map(([hex]) => hex)).toEqual([E2]);
        for (const [hex, name] of named) if (name === 'win11.qcow2.00') expect(hex).toBe('31'.repeat(32));
        for (const [hex, name] of named) if (name === 'win11.qcow2.01') expect(hex).toBe('32'.repeat(32));
        return true;
      });
    },
    TIMEOUT_MS,
  );

  test(
    'that answers otherwise, about tags and everything else',
    async () => {
      const challenge = `Bearer realm="${url}/token",service="epoch",scope="repository:simular/win11:pull"`;
      await each(async (next) => {
        const odd = (): Sent => ({
          status: pick([200, 200, 200, 204, 301, 307, 400, 401, 401, 403, 404, 404, 429, 500, 503], next),
          headers: {
            ...(next() < 0.3
              ? { location: pick(['/v2/x', 'file:///etc/passwd', 'http://[', '', `${url}/v2/`], next) }
              : {}),
            ...(next() < 0.5 ? { 'www-authenticate': mutate(challenge, next).replaceAll(/[^\x20-\x7e]/g, '') } : {}),
            ...(next() < 0.1 ? { 'docker-content-digest': 'x' } : {}),
            ...(next() < 0.2 ? { 'content-type': 'text/html' } : {}),
          },
          body: pick([mutate(TAGS, next), mutate(UNKNOWN, next), UNKNOWN, '<html>', '', ONE], next),
          isCut: next() < 0.05,
        });
        const known: Record<string, Sent> = {
          '/v2/simular/win11/tags/list': next() < 0.8 ? { body: mutate(TAGS, next) } : odd(),
          '/token': { body: mutate('{"token": "t1", "access_token": "t2"}', next) },
        };
        const isMissing = next() < 0.5;
        say = (method, path) => {
          if (isMissing && path === WIN) return { status: 404, body: UNKNOWN };
          return known[path] ?? (method === 'HEAD' && next() < 0.5 ? null : odd());
        };
        const answers: string[] = [];
        const said = say;
        say = (method, path) => {
          const sent = said(method, path);
          answers.push(String(sent?.body ?? '')); // redirects lead anywhere
          return sent;
        };
        const { inSync, codes } = await judge([cloud()]);
        if (isMissing) expect(codes).toContain('TAG_NOT_FOUND');
        if (inSync.length > 0) expect(answers).toContain(ONE);
        return isMissing || inSync.length > 0;
      });
    },
    TIMEOUT_MS,
  );
});
