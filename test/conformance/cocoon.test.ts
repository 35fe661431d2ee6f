// Every behaviour of cocoon that this project relies on, one row each. The rows run against the double in
// test/fleet/cocoon.ts, and with COCOON_BIN=/path/to/cocoon against a true v0.3.8. There COCOON_CH_BINARY may name a
// hypervisor; without it the stand-in beside this file is used. Rows that need mkfs.erofs 1.8 or a newer generation
// are skipped where the program under test cannot run them.
import { execFileSync, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import {
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  statSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest';
import {
  digestOf,
  makeBootLayer,
  makeOverlay,
  makeQcow2,
  makeSnapshotArchive,
  makeTar,
  readQcow2Header,
} from '../doubles/cocoon/fixtures.ts';
import {
  buildPrograms,
  newNode,
  removePrograms,
  runProgram,
  sampleImage,
  startServer,
  trueBinary,
  until,
  type CocoonNode,
  type TestServer,
} from './cocoon-harness.ts';

vi.setConfig({ testTimeout: 60_000, hookTimeout: 60_000 });

let node: CocoonNode;
let server: TestServer;

beforeAll(buildPrograms);
afterAll(removePrograms);
beforeEach(async () => {
  node = newNode();
  server = await startServer();
});
afterEach(async () => {
  server.close();
  await node.dispose();
});

const onlyDouble = { skip: trueBinary !== undefined };
const needsErofs = { skip: trueBinary !== undefined && !hasErofs() };
const needsHypervisor = { skip: trueBinary !== undefined && process.env['COCOON_CH_BINARY'] !== undefined };

function hasErofs(): boolean {
  try {
    const version = /(\d+)\.(\d+)/.exec(execFileSync('mkfs.erofs', ['-V'], { encoding: 'utf8', stdio: 'pipe' }));
    return Number(version?.[1]) > 1 || Number(version?.[2]) >= 8;
  } catch {
    return false;
  }
}

/** Pulls an image that is served at /dl/win. */
async function pullSample(seed: string | number = 1) {
  const image = sampleImage(seed);
  server.serve('/dl/win', image.bytes);
  expect(await node.cocoon(['image', 'pull', server.url('/dl/win')])).toMatchObject({ code: 0 });
  return { ...image, url: server.url('/dl/win') };
}

/** An empty image of a format that qemu-img knows and cocoon does not take. */
function qedImage(): Buffer {
  const cluster = 4096;
  const image = Buffer.alloc(4 * cluster);
  image.write('QED\0', 0, 'latin1');
  image.writeUInt32LE(cluster, 4);
  image.writeUInt32LE(2, 8);
  image.writeUInt32LE(1, 12);
  image.writeBigUInt64LE(BigInt(cluster), 40);
  image.writeBigUInt64LE(2n ** 20n, 48);
  return image;
}

/** The last line of stderr. */
function lastLine(stderr: string): string {
  return stderr.trimEnd().split('\n').at(-1) ?? '';
}

function index(backend: 'cloudimg' | 'oci'): Record<string, Record<string, unknown>> {
  return (node.json(`${backend}/db/images.json`) as { images: Record<string, Record<string, unknown>> }).images;
}

describe('the command line', () => {
  test('`version` prints five labelled lines on stdout', async () => {
    const { code, stdout, stderr } = await node.cocoon(['version']);
    expect(code).toBe(0);
    expect(stdout).toMatch(
      /^Version: {8}\S+\nGit hash: {7}\S+\nBuilt: {10}.+\nGolang version: \S+\nOS\/Arch: {8}\S+\n$/,
    );
    expect(stderr).toBe('');
  });

  test('`version` creates no directories', async () => {
    await node.cocoon(['version']);
    expect(node.tree()).toEqual([]);
  });

  test('an unknown command is refused with a pointer to the help', async () => {
    const { code, stdout, stderr } = await node.cocoon(['bogus']);
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' });
    expect(stderr).toBe('Error: unknown command "bogus" for "cocoon"\nRun \'cocoon --help\' for usage.\n');
  });

  test('an unknown word of a group prints help on stdout and succeeds', async () => {
    const { code, stdout, stderr } = await node.cocoon(['image', 'bogus']);
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    expect(stdout).toContain('cocoon image [command]');
  });

  test.each([
    [['image', 'pull'], 'requires at least 1 arg(s), only received 0'],
    [['image', 'inspect'], 'accepts 1 arg(s), received 0'],
    [['vm', 'clone', 'a', 'b'], 'accepts 1 arg(s), received 2'],
    [['image', 'list', '--nope'], 'unknown flag: --nope'],
    [['image', 'list', '-z'], "unknown shorthand flag: 'z' in -z"],
    [
      ['vm', 'clone', '--cpu', 'x', 's'],
      'invalid argument "x" for "--cpu" flag: strconv.ParseInt: parsing "x": invalid syntax',
    ],
  ])('bad usage %j ends in one line on stderr and exit code 1', async (args, message) => {
    expect(await node.cocoon(args)).toMatchObject({ code: 1, stdout: '', stderr: `Error: ${message}\n` });
  });

  test.each([
    [['image', 'pull', '--help'], '--force'],
    [['vm', 'clone', '--help'], '--cpu'],
    [['vm', 'rm', '--help'], '--output'],
    [['image', 'list', '--help'], '--format'],
  ])('the help of %j, by which generations are told apart, lists %s', async (args, name) => {
    const { code, stdout } = await node.cocoon(args);
    expect(code).toBe(0);
    expect(stdout).toContain(name);
  });

  test('a configuration file that is not there is an error', async () => {
    const { code, stderr } = await node.cocoon(['image', 'list', '--config', node.at('nope.json')]);
    expect(code).toBe(1);
    expect(stderr).toBe(`Error: read config: open ${node.at('nope.json')}: no such file or directory\n`);
  });

  test('directories come from the environment where no flag says otherwise', async () => {
    const env = { COCOON_ROOT_DIR: node.at('a'), COCOON_RUN_DIR: node.at('b'), COCOON_LOG_DIR: node.at('c') };
    expect(await runProgram(['vm', 'list'], { env })).toMatchObject({ code: 0 });
    expect(node.list('.')).toEqual(['a', 'b', 'c']);
  });

  test('global flags may stand before the command', async () => {
    const { code, stdout } = await runProgram([
      '--root-dir',
      node.at('a'),
      '--run-dir',
      node.at('b'),
      'image',
      'ls',
      '-ojson',
    ]);
    expect({ code, stdout }).toEqual({ code: 0, stdout: 'No images found.\n' });
    expect(node.list('.')).toEqual(['a']);
  });

  test('log lines carry colours unless NO_COLOR is set', async () => {
    const { stderr } = await node.cocoon(['gc'], { env: { NO_COLOR: '' } });
    const text = JSON.stringify(stderr).replaceAll(String.raw`\u001b`, '^');
    expect(text).toMatch(/^"\^\[90m.+\^\[0m \^\[32mINF\^\[0m \^\[1mGC completed\^\[0m \^\[36mfunc=\^\[0mcmd\.gc\\n"$/);
  });
});

describe('an empty node', () => {
  test('`image list -o json` says "No images found." and succeeds', async () => {
    expect(await node.cocoon(['image', 'list', '-o', 'json'])).toMatchObject({
      code: 0,
      stdout: 'No images found.\n',
      stderr: '',
    });
  });

  test('`image list` creates the directories of both backends with mode 0750, and lock files with 0600', async () => {
    await node.cocoon(['image', 'list']);
    expect(node.tree()).toEqual([
      'cloudimg/',
      'cloudimg/blobs/',
      'cloudimg/db/',
      'cloudimg/db/images.lock',
      'cloudimg/temp/',
      'oci/',
      'oci/blobs/',
      'oci/boot/',
      'oci/db/',
      'oci/db/images.lock',
      'oci/temp/',
    ]);
    for (const path of node.tree()) expect([path, node.mode(path)]).toEqual([path, path.endsWith('/') ? '750' : '600']);
  });

  test.each([
    [['snapshot', 'list', '-o', 'json'], 'No snapshots found.\n'],
    [['vm', 'list', '-o', 'json'], 'No VMs found.\n'],
  ])('%j says so in words, also as JSON', async (args, stdout) => {
    expect(await node.cocoon(args)).toMatchObject({ code: 0, stdout, stderr: '' });
  });
});

describe('a user without rights', () => {
  // A root user is refused nothing, so one path stands in: a file where a directory should be.
  test('a directory that cannot be made is named with the one where it failed', async () => {
    node.write('oci', '');
    const { code, stdout, stderr } = await node.cocoon(['image', 'list']);
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' });
    expect(stderr).toBe(
      `Error: init oci backend: ensure dirs: create directory ${node.at('oci/db')}: mkdir ${node.at('oci')}: not a directory\n`,
    );
  });

  test('an index that cannot be read is an error, not an empty node', async () => {
    await node.cocoon(['image', 'list']);
    mkdirSync(node.at('oci/db/images.json'));
    const path = node.at('oci/db/images.json');
    expect(await node.cocoon(['image', 'list', '-o', 'json'])).toMatchObject({
      code: 1,
      stdout: '',
      stderr: `Error: list oci: read ${path}: read ${path}: is a directory\n`,
    });
  });
});

describe('pulling a cloud image', () => {
  test('a qcow2 v3 image is stored unchanged under its digest, read-only', async () => {
    const image = await pullSample();
    expect(node.list('cloudimg/blobs')).toEqual([`${image.hex}.qcow2`]);
    expect(readFileSync(node.at(image.blob)).equals(image.bytes)).toBe(true);
    expect(node.mode(image.blob)).toBe('444');
  });

  test('the log on stderr names the steps in order', async () => {
    const { bytes, digest } = sampleImage(1);
    server.serve('/dl/win', bytes);
    const { log, stdout } = await node.cocoon(['image', 'pull', server.url('/dl/win')]);
    expect(stdout).toBe('');
    expect(log).toEqual([
      `INF downloading cloud image ${server.url('/dl/win')}`,
      'INF committing...',
      `INF done: ${server.url('/dl/win')}`,
      `INF pull complete: ${server.url('/dl/win')} -> ${digest}`,
    ]);
  });

  test('a known length is logged in decimal units', async () => {
    const { bytes } = sampleImage(1, 40_960);
    server.on('/dl/win', (response) => response.writeHead(200, { 'content-length': bytes.length }).end(bytes));
    const { log } = await node.cocoon(['image', 'pull', server.url('/dl/win')]);
    expect(log[0]).toBe(`INF downloading cloud image ${server.url('/dl/win')} (40.96kB)`);
  });

  test('progress goes to stdout, about once a MiB', async () => {
    const { bytes } = sampleImage(1, 3 * 2 ** 20);
    server.on('/dl/win', (response) => response.writeHead(200, { 'content-length': bytes.length }).end(bytes));
    const { stdout } = await node.cocoon(['image', 'pull', server.url('/dl/win')]);
    expect(stdout).toMatch(/^(\r {2}[\d.]+MB \/ 3\.146MB \([\d.]+%\)){2,3}$/);
  });

  test('the index is one line of JSON with these fields, mode 0644', async () => {
    const { url, digest, bytes } = await pullSample();
    const text = node.read('cloudimg/db/images.json');
    expect(text).toMatch(/^\{"images":\{.*\}\}\n$/);
    expect(index('cloudimg')).toEqual({
      [url]: {
        ref: url,
        content_sum: digest,
        size: bytes.length,
        created_at: expect.stringMatching(/^\d{4}-\d\d-\d\dT/) as string,
      },
    });
    expect(node.mode('cloudimg/db/images.json')).toBe('644');
  });

  test('no temporary file is left', async () => {
    await pullSample();
    expect(node.list('cloudimg/temp')).toEqual([]);
    expect(node.list('cloudimg/db')).toEqual(['images.json', 'images.lock']);
  });

  test('a known URL is not asked again: no request, no output, nothing rewritten', async () => {
    const { url } = await pullSample();
    const before = node.stat('cloudimg/db/images.json').ino;
    server.requests.length = 0;
    server.serve('/dl/win', sampleImage(2).bytes);
    expect(await node.cocoon(['image', 'pull', url])).toMatchObject({ code: 0, stdout: '', stderr: '' });
    expect(server.requests).toEqual([]);
    expect(node.stat('cloudimg/db/images.json').ino).toBe(before);
  });

  test('--force follows the URL to new content and leaves the old blob', async () => {
    const old = await pullSample(1);
    const fresh = sampleImage(2);
    server.serve('/dl/win', fresh.bytes);
    expect(await node.cocoon(['image', 'pull', '--force', old.url])).toMatchObject({ code: 0 });
    expect(index('cloudimg')[old.url]).toMatchObject({ content_sum: fresh.digest });
    expect(node.list('cloudimg/blobs')).toEqual([`${old.hex}.qcow2`, `${fresh.hex}.qcow2`].sort());
  });

  test('--force keeps a damaged blob of the same digest, and records its size', async () => {
    const { url, blob, digest } = await pullSample();
    truncateSync(node.at(blob), 4096);
    expect(await node.cocoon(['image', 'pull', '--force', url])).toMatchObject({ code: 0 });
    expect(node.stat(blob).size).toBe(4096);
    expect(index('cloudimg')[url]).toMatchObject({ content_sum: digest, size: 4096 });
  });

  test('a damaged blob is not noticed by a plain pull', async () => {
    const { url, blob } = await pullSample();
    truncateSync(node.at(blob), 4096);
    expect(await node.cocoon(['image', 'pull', url])).toMatchObject({ code: 0, stderr: '' });
    expect(node.stat(blob).size).toBe(4096);
  });

  test('an empty blob is fetched again by a plain pull', async () => {
    const { url, blob, bytes } = await pullSample();
    truncateSync(node.at(blob), 0);
    expect(await node.cocoon(['image', 'pull', url])).toMatchObject({ code: 0 });
    expect(node.stat(blob).size).toBe(bytes.length);
  });

  test('a missing blob is fetched again by a plain pull', async () => {
    const { url, blob, bytes } = await pullSample();
    node.remove(blob);
    expect(await node.cocoon(['image', 'pull', url])).toMatchObject({ code: 0 });
    expect(node.stat(blob).size).toBe(bytes.length);
  });

  test('two URLs of one content are two entries and one blob', async () => {
    const { bytes } = await pullSample();
    server.serve('/dl/other', bytes);
    await node.cocoon(['image', 'pull', server.url('/dl/other')]);
    expect(Object.keys(index('cloudimg'))).toEqual([server.url('/dl/other'), server.url('/dl/win')]);
    expect(node.list('cloudimg/blobs')).toHaveLength(1);
  });

  test('redirects are followed, and the key is the URL as typed', async () => {
    const { bytes, digest } = sampleImage(1);
    server.on('/dl/win', (response) => response.writeHead(302, { location: '/real' }).end());
    server.serve('/real', bytes);
    expect(await node.cocoon(['image', 'pull', server.url('/dl/win')])).toMatchObject({ code: 0 });
    expect(index('cloudimg')).toMatchObject({ [server.url('/dl/win')]: { content_sum: digest } });
  });

  test('several arguments are pulled in order, and the first failure stops the rest', async () => {
    server.serve('/a', sampleImage(1).bytes);
    server.serve('/c', sampleImage(3).bytes);
    const { code } = await node.cocoon(['image', 'pull', server.url('/a'), server.url('/b'), server.url('/c')]);
    expect(code).toBe(1);
    expect(server.requests).toEqual(['GET /a', 'GET /b']);
    expect(Object.keys(index('cloudimg'))).toEqual([server.url('/a')]);
  });

  test('a blob URL of a registry restores exactly that digest under its own key', async () => {
    const { bytes, digest, blob } = sampleImage(1);
    const path = `/v2/simular/win11/blobs/${digest}`;
    server.on(path, (response) => response.writeHead(200, { 'content-length': bytes.length }).end(bytes));
    expect(await node.cocoon(['image', 'pull', server.url(path)])).toMatchObject({ code: 0 });
    expect(node.exists(blob)).toBe(true);
    expect(index('cloudimg')[server.url(path)]).toMatchObject({ content_sum: digest });
  });

  test.each([
    ['a qcow2 v2 image', () => makeQcow2({ version: 2, seed: 1 })],
    ['a raw image', () => randomBytes(65_536)],
    ['a short text that is no HTML', () => Buffer.from('Hello')],
  ])('%s is converted: recorded by the digest of the download, stored with other bytes', async (_name, make) => {
    const bytes = make();
    const digest = digestOf(bytes);
    server.serve('/dl/x', bytes);
    const { code, log } = await node.cocoon(['image', 'pull', server.url('/dl/x')]);
    expect(code).toBe(0);
    expect(log).toContain('INF converting to qcow2...');
    expect(index('cloudimg')[server.url('/dl/x')]).toMatchObject({ content_sum: digest });
    const stored = readFileSync(node.at(`cloudimg/blobs/${digest.slice(7)}.qcow2`));
    expect(digestOf(stored)).not.toBe(digest);
    expect(readQcow2Header(stored)).toMatchObject({ version: 3, backing: null });
  });

  test('an image with a backing file is converted too', async () => {
    writeFileSync(node.at('base.qcow2'), makeQcow2({ seed: 'base' }));
    const bytes = makeOverlay(node.at('base.qcow2'), 2 ** 20);
    server.serve('/dl/x', bytes);
    expect(await node.cocoon(['image', 'pull', server.url('/dl/x')])).toMatchObject({ code: 0 });
    expect(
      readQcow2Header(readFileSync(node.at(`cloudimg/blobs/${digestOf(bytes).slice(7)}.qcow2`)))?.backing,
    ).toBeNull();
  });

  test('a conversion leaves its lock file', async () => {
    const bytes = makeQcow2({ version: 2, seed: 1 });
    server.serve('/dl/x', bytes);
    await node.cocoon(['image', 'pull', server.url('/dl/x')]);
    expect(node.list('cloudimg/temp')).toEqual([`.tmp-${digestOf(bytes).slice(7)}.qcow2.lock`]);
  });

  test('SIGTERM ends a download with exit code 1 and removes the temporary file', async () => {
    server.on('/dl/slow', (response) => response.writeHead(200).write(makeQcow2({ seed: 1 })));
    const { code, stderr } = await node.cocoon(['image', 'pull', server.url('/dl/slow')], {
      running: (child) =>
        void until(() => node.exists('cloudimg/temp') && node.list('cloudimg/temp').length > 0).then(() =>
          child.kill('SIGTERM'),
        ),
    });
    expect(code).toBe(1);
    expect(lastLine(stderr)).toMatch(
      /^Error: pull \S+: (download|http get) .*(context canceled|terminated signal received)$/,
    );
    expect(node.list('cloudimg/temp')).toEqual([]);
  });

  test('SIGKILL leaves the temporary file', async () => {
    server.on('/dl/slow', (response) => response.writeHead(200).write(makeQcow2({ seed: 1 })));
    await node.cocoon(['image', 'pull', server.url('/dl/slow')], {
      running: (child) =>
        void until(() => node.exists('cloudimg/temp') && node.list('cloudimg/temp').length > 0).then(() =>
          child.kill('SIGKILL'),
        ),
    });
    expect(node.list('cloudimg/temp')).toEqual([expect.stringMatching(/^pull-\d+\.img$/)]);
  });
});

describe('pulls beside each other, and cut off', () => {
  test('two pulls of one URL at once both succeed and leave one blob', async () => {
    const { bytes, hex, digest } = sampleImage(1);
    server.serve('/dl/win', bytes);
    const pull = () => node.cocoon(['image', 'pull', '--force', server.url('/dl/win')]);
    const results = await Promise.all([pull(), pull()]);
    expect(results.map(({ code }) => code)).toEqual([0, 0]);
    expect(node.list('cloudimg/blobs')).toEqual([`${hex}.qcow2`]);
    expect(index('cloudimg')).toMatchObject({ [server.url('/dl/win')]: { content_sum: digest } });
  });

  test('a pull whose stdout is closed dies of its next progress text, leaving its temporary file', async () => {
    const { bytes } = sampleImage(1, 2 ** 21);
    let go = () => {};
    server.on('/dl/win', (response) => {
      response.writeHead(200).write(bytes.subarray(0, 1000));
      go = () => void response.write(bytes.subarray(1000));
    });
    const { code, signal } = await node.cocoon(['image', 'pull', server.url('/dl/win')], {
      running: (child) => {
        child.stdout?.destroy();
        void until(() => server.requests.length > 0).then(() => go());
      },
    });
    expect([signal, code]).toEqual(trueBinary ? ['SIGPIPE', null] : [null, 141]);
    expect(node.list('cloudimg/temp')).toEqual([expect.stringMatching(/^pull-\d+\.img$/)]);
    expect(node.exists('cloudimg/db/images.json')).toBe(false);
  });
});

describe('what a pull refuses', () => {
  const body =
    (bytes: Buffer | string, headers = {}) =>
    () =>
      server.on('/dl/x', (response) => response.writeHead(200, headers).end(bytes));
  const qcow2 = makeQcow2({ seed: 1 });
  const cases: [string, () => void, string][] = [
    ['404', () => {}, 'http get URL: status 404 404 Not Found'],
    [
      '206',
      () => server.on('/dl/x', (r) => r.writeHead(206).end(qcow2)),
      'http get URL: status 206 206 Partial Content',
    ],
    [
      '500',
      () => server.on('/dl/x', (r) => r.writeHead(500).end()),
      'http get URL: status 500 500 Internal Server Error',
    ],
    ['an empty body', body(''), 'download URL: content too small to be a disk image (0 bytes)'],
    ['three bytes', body('abc'), 'download URL: content too small to be a disk image (3 bytes)'],
    ['a doctype', body('<!DOCTYPE html>'), 'download URL: content looks like HTML/XML, not a disk image'],
    ['XML', body('<?xml version="1.0"?>'), 'download URL: content looks like HTML/XML, not a disk image'],
    ['HTML', body('<html></html>'), 'download URL: content looks like HTML, not a disk image'],
    ['gzip', body(gzipSync(qcow2)), 'download URL: content is gzip-compressed (cloudimg does not auto-decompress)'],
    [
      'xz',
      body(Buffer.from('\xfd7zXZ\0abcdef', 'latin1')),
      'download URL: content is xz-compressed (cloudimg does not auto-decompress)',
    ],
    ['bzip2', body('BZh91AY'), 'download URL: content is bzip2-compressed (cloudimg does not auto-decompress)'],
    ['zip', body('PK\x03\x04abcd'), 'download URL: content is a zip archive, not a disk image'],
    [
      'a body shorter than its Content-Length',
      () =>
        server.on('/dl/x', (response) => {
          response.writeHead(200, { 'content-length': qcow2.length + 10 });
          response.write(qcow2, () => response.destroy());
        }),
      'download URL: unexpected EOF',
    ],
    [
      'a chunked body that is cut',
      () =>
        server.on('/dl/x', (response) => {
          response.writeHead(200);
          response.write(qcow2, () => response.destroy());
        }),
      'download URL: unexpected EOF',
    ],
    ['qcow2 version 1', body(makeQcow2({ version: 1 })), 'inspect image: unsupported qcow2 version 1'],
    ['a QED image', body(qedImage()), 'inspect image: unsupported source format "qed" (expected qcow2 or raw)'],
  ];
  test.each(cases)('%s: the sentence, exit code 1, and nothing stored', async (_name, prepare, message) => {
    prepare();
    const url = server.url('/dl/x');
    const { code, stderr } = await node.cocoon(['image', 'pull', url]);
    expect(code).toBe(1);
    expect(lastLine(stderr)).toBe(`Error: pull ${url}: ${message.replace('URL', url)}`);
    expect(node.list('cloudimg/blobs')).toEqual([]);
    expect(node.list('cloudimg/temp')).toEqual([]);
    expect(node.exists('cloudimg/db/images.json')).toBe(false);
  });

  test('a chunked body that is short but ends properly is accepted: only the digest tells', async () => {
    const { bytes, digest } = sampleImage(1);
    const short = bytes.subarray(0, bytes.length - 5000);
    server.serve('/dl/x', short);
    expect(await node.cocoon(['image', 'pull', server.url('/dl/x')])).toMatchObject({ code: 0 });
    const entry = index('cloudimg')[server.url('/dl/x')];
    expect(entry).toMatchObject({ content_sum: digestOf(short), size: short.length });
    expect(entry?.['content_sum']).not.toBe(digest);
  });

  test('a server that is not there', async () => {
    const url = 'http://127.0.0.1:1/dl/x';
    const { code, stderr } = await node.cocoon(['image', 'pull', url]);
    expect(code).toBe(1);
    const cause = `Get "${url}": dial tcp 127.0.0.1:1: connect: connection refused`;
    expect(stderr).toBe(`Error: pull ${url}: http get ${url}: ${cause}\n`);
  });

  test('a failed forced pull leaves index and blob as they were', async () => {
    const { url, digest, blob } = await pullSample();
    server.serve('/dl/win', '<html>');
    expect(await node.cocoon(['image', 'pull', '--force', url])).toMatchObject({ code: 1 });
    expect(index('cloudimg')[url]).toMatchObject({ content_sum: digest });
    expect(node.exists(blob)).toBe(true);
  });
});

describe('listing and inspecting images', () => {
  test('`image list -o json` is an array of five fields on stdout alone', async () => {
    const { url, digest, bytes } = await pullSample();
    const { stdout, stderr } = await node.cocoon(['image', 'list', '-o', 'json']);
    expect(stderr).toBe('');
    expect(JSON.parse(stdout)).toEqual([
      { id: digest, name: url, type: 'cloudimg', size: bytes.length, created_at: expect.any(String) as string },
    ]);
    expect(stdout).toMatch(/^\[\n {2}\{\n {4}"id": .*\n\]\n$/s);
  });

  test('ampersands in URLs are escaped in JSON', async () => {
    server.serve('/dl/a', sampleImage(1).bytes);
    await node.cocoon(['image', 'pull', server.url('/dl/a?x=1&y=2')]);
    const { stdout } = await node.cocoon(['image', 'list', '-o', 'json']);
    expect(stdout).toContain(String.raw`/dl/a?x=1\u0026y=2`);
  });

  test('the table shows 19 characters of the digest and a decimal size', async () => {
    const { url, digest } = await pullSample();
    const { stdout } = await node.cocoon(['image', 'ls']);
    const [header, row] = stdout.split('\n');
    expect(header).toMatch(/^TYPE {6}NAME +DIGEST +SIZE +CREATED$/);
    expect(row).toMatch(/^cloudimg {2}\S+ {2}sha256:[0-9a-f]{12} {2}\S+kB +\d{4}-\d\d-\d\d \d\d:\d\d:\d\d$/);
    expect(row).toContain(`${url}  ${digest.slice(0, 19)}`);
  });

  test('a missing blob is neither dropped nor flagged', async () => {
    const { blob, digest } = await pullSample();
    node.remove(blob);
    const { stdout } = await node.cocoon(['image', 'list', '-o', 'json']);
    expect(JSON.parse(stdout)).toMatchObject([{ id: digest }]);
  });

  test.each([
    ['its key', (i: { url: string }) => i.url],
    ['its digest', (i: { digest: string }) => i.digest],
    ['64 hex digits', (i: { hex: string }) => i.hex],
    ['12 hex digits', (i: { hex: string }) => i.hex.slice(0, 12)],
    ['a prefix with its algorithm', (i: { digest: string }) => i.digest.slice(0, 20)],
  ])('`image inspect` finds an image by %s', async (_name, ref) => {
    const image = await pullSample();
    const { code, stdout } = await node.cocoon(['image', 'inspect', ref(image)]);
    expect(code).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({ id: image.digest, name: image.url, type: 'cloudimg' });
  });

  test('a prefix of less than 12 digits finds nothing', async () => {
    const { hex } = await pullSample();
    const ref = hex.slice(0, 11);
    const { code, stdout, stderr } = await node.cocoon(['image', 'inspect', ref]);
    expect({ code, stdout, stderr }).toEqual({
      code: 1,
      stdout: '',
      stderr: `Error: image "${ref}": not found in any backend\n`,
    });
  });

  test('an index that does not parse fails every command, and is left alone', async () => {
    await pullSample();
    node.write('oci/db/images.json', 'xxx');
    const { code, stdout, stderr } = await node.cocoon(['image', 'list', '-o', 'json']);
    const path = node.at('oci/db/images.json');
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' });
    expect(stderr).toBe(`Error: list oci: parse ${path}: invalid character 'x' looking for beginning of value\n`);
    expect(node.read('oci/db/images.json')).toBe('xxx');
  });

  test('null entries of an index are skipped', async () => {
    const { url } = await pullSample();
    node.write('cloudimg/db/images.json', JSON.stringify({ images: { ...index('cloudimg'), gone: null } }));
    const { stdout } = await node.cocoon(['image', 'list', '-o', 'json']);
    expect(JSON.parse(stdout)).toMatchObject([{ name: url }]);
  });

  test('a name in both backends is refused by every command that takes a reference', async () => {
    const { digest, url, hex } = await pullSample();
    const oci = {
      ref: url,
      manifest_digest: digest,
      layers: [],
      kernel_layer: `sha256:${hex}`,
      initrd_layer: `sha256:${hex}`,
    };
    node.write(
      'oci/db/images.json',
      JSON.stringify({ images: { [url]: { ...oci, size: 1, created_at: '2026-01-01T00:00:00Z' } } }),
    );
    const { code, stderr } = await node.cocoon(['image', 'inspect', url]);
    expect(code).toBe(1);
    expect(stderr).toBe(`Error: image ${url}: image ref resolves to multiple backends (backends: oci, cloudimg)\n`);
    expect((await node.cocoon(['image', 'rm', url])).stderr).toBe(stderr);
  });
});

describe('removing images', () => {
  test('removes the key only; the blob stays', async () => {
    const { url, blob } = await pullSample();
    const { code, stdout, log } = await node.cocoon(['image', 'rm', url]);
    expect({ code, stdout, log }).toEqual({ code: 0, stdout: '', log: [`INF deleted: ${url}`] });
    expect(index('cloudimg')).toEqual({});
    expect(node.exists(blob)).toBe(true);
  });

  test('by digest removes every key that has it', async () => {
    const { digest, bytes } = await pullSample();
    server.serve('/dl/other', bytes);
    await node.cocoon(['image', 'pull', server.url('/dl/other')]);
    const { log } = await node.cocoon(['image', 'rm', digest]);
    expect(log.sort()).toEqual([`INF deleted: ${server.url('/dl/other')}`, `INF deleted: ${server.url('/dl/win')}`]);
  });

  test('one unknown argument refuses all', async () => {
    const { url } = await pullSample();
    const { code, stderr } = await node.cocoon(['image', 'rm', url, 'nope']);
    expect({ code, stderr }).toEqual({ code: 1, stderr: 'Error: image "nope": not found in any backend\n' });
    expect(Object.keys(index('cloudimg'))).toEqual([url]);
  });
});

describe('importing images', () => {
  test('a qcow2 from stdin becomes a cloud image under its name', async () => {
    const { bytes, digest, blob } = sampleImage(1);
    const { code, stdout, log } = await node.cocoon(['image', 'import', 'win11'], { input: bytes });
    expect({ code, stdout }).toEqual({ code: 0, stdout: '' });
    expect(log.at(-1)).toBe(`INF import complete: win11 -> ${digest}`);
    expect(index('cloudimg')).toMatchObject({ win11: { ref: 'win11', content_sum: digest } });
    expect(node.mode(blob)).toBe('444');
  });

  test('gzip is unwrapped, and the digest is that of the content', async () => {
    const { bytes, digest } = sampleImage(1);
    await node.cocoon(['image', 'import', 'win11'], { input: gzipSync(bytes) });
    expect(index('cloudimg')).toMatchObject({ win11: { content_sum: digest } });
  });

  test('several files are joined in the order of the arguments', async () => {
    const { bytes, digest } = sampleImage(1);
    node.write('b', bytes.subarray(0, 9000));
    node.write('a', bytes.subarray(9000));
    const { code } = await node.cocoon(['image', 'import', 'win11', node.at('b'), node.at('a')]);
    expect(code).toBe(0);
    expect(index('cloudimg')).toMatchObject({ win11: { content_sum: digest } });
  });

  test('a file whose blob is there is only entered', async () => {
    const { bytes, digest } = await pullSample();
    node.write('f.qcow2', bytes);
    const { log } = await node.cocoon(['image', 'import', 'win11', node.at('f.qcow2')]);
    expect(log.at(-1)).toBe(`INF import complete (cached): win11 -> ${digest}`);
  });

  test.each(['a file', 'standard input'])(
    'from %s keeps a blob of that digest that is there, however bad',
    async (from) => {
      const { bytes, digest } = sampleImage(1);
      node.write('f.qcow2', bytes);
      const [args, options] = from === 'a file' ? [[node.at('f.qcow2')], {}] : [[], { input: bytes }];
      await node.cocoon(['image', 'import', 'win11', ...args], options);
      truncateSync(node.at(`cloudimg/blobs/${digest.slice(7)}.qcow2`), 1000);
      const { code } = await node.cocoon(['image', 'import', 'win11', ...args], options);
      expect(code).toBe(0);
      expect(statSync(node.at(`cloudimg/blobs/${digest.slice(7)}.qcow2`)).size).toBe(1000);
      expect(index('cloudimg')).toMatchObject({ win11: { content_sum: digest, size: 1000 } });
    },
  );

  test('a file that is neither qcow2 nor tar is refused', async () => {
    node.write('f', 'nonsense');
    const { code, stderr } = await node.cocoon(['image', 'import', 'x', node.at('f')]);
    expect(code).toBe(1);
    expect(stderr).toBe(`Error: cannot detect file type for ${node.at('f')} (expected qcow2 or tar)\n`);
  });

  test('gzip with a second file is refused', async () => {
    node.write('f', gzipSync(sampleImage(1).bytes));
    const { stderr } = await node.cocoon(['image', 'import', 'x', node.at('f'), node.at('f')]);
    expect(stderr).toBe('Error: stream imports accept exactly one file, got 2\n');
  });

  test('empty standard input is refused', async () => {
    const { code, stderr } = await node.cocoon(['image', 'import', 'x']);
    expect(code).toBe(1);
    expect(lastLine(stderr)).toBe('Error: detect image type: peek: EOF');
  });

  test('SIGTERM while it waits for standard input takes effect when that ends: nothing is recorded', async () => {
    const { bytes } = sampleImage(1);
    const { code, stderr } = await node.cocoon(['image', 'import', 'win11'], {
      input: null,
      running: (child) => {
        child.stdin?.write(bytes);
        child.stderr?.once('data', () => {
          child.kill('SIGTERM');
          void node.cocoon(['snapshot', 'list']).then(() => {
            expect(child.exitCode).toBeNull();
            child.stdin?.end();
          });
        });
      },
    });
    expect(code).toBe(1);
    expect(lastLine(stderr)).toMatch(/^Error: import win11: .*(context canceled|terminated signal received)$/);
    expect(node.exists('cloudimg/db/images.json')).toBe(false);
    expect(node.list('cloudimg/temp')).toEqual([]);
  });

  test('garbage from standard input counts as a tar, and fails as one', needsErofs, async () => {
    const { code, stderr } = await node.cocoon(['image', 'import', 'x'], { input: randomBytes(4096) });
    expect(code).toBe(1);
    expect(stderr).toContain('Error: import x: process layer: mkfs.erofs failed: exit status 1 (output: ');
  });

  test('a tar without a kernel is refused', needsErofs, async () => {
    node.write('l.tar', makeTar([{ name: 'etc/hostname', data: Buffer.from('x\n') }]));
    const { code, stderr } = await node.cocoon(['image', 'import', 'x', node.at('l.tar')]);
    expect(code).toBe(1);
    expect(lastLine(stderr)).toBe('Error: import x: image x missing boot files (vmlinuz/initrd.img)');
  });

  test('a tar with a kernel makes v0.3.8 panic: exit code 2, nothing recorded', needsErofs, async () => {
    node.write('l.tar', makeBootLayer());
    const { code, stderr } = await node.cocoon(['image', 'import', 'x', node.at('l.tar')]);
    expect(code).toBe(2);
    expect(stderr).toContain('panic: runtime error: slice bounds out of range');
    expect(node.exists('oci/db/images.json')).toBe(false);
  });
});

describe('OCI images', () => {
  /** Serves an image of one layer; without `open` the registry asks for a token and gives an empty one. */
  function serveOci(options: { repo?: string; seed?: string; open?: boolean; indexed?: boolean; layer?: Buffer } = {}) {
    const { repo = 'a/ubuntu', seed = 'boot', open = true, indexed = false, layer = makeBootLayer(seed) } = options;
    const layerDigest = digestOf(layer);
    const layerHex = layerDigest.slice(7);
    const config = Buffer.from('{}');
    const manifest = JSON.stringify({
      schemaVersion: 2,
      mediaType: 'application/vnd.oci.image.manifest.v1+json',
      config: { mediaType: 'application/vnd.oci.image.config.v1+json', digest: digestOf(config), size: config.length },
      layers: [{ mediaType: 'application/vnd.oci.image.layer.v1.tar', digest: layerDigest, size: layer.length }],
    });
    const digest = digestOf(manifest);
    const list = JSON.stringify({
      schemaVersion: 2,
      mediaType: 'application/vnd.oci.image.index.v1+json',
      manifests: [
        {
          mediaType: 'application/vnd.oci.image.manifest.v1+json',
          digest: digestOf('arm'),
          size: 1,
          platform: { os: 'linux', architecture: 'arm64' },
        },
        {
          mediaType: 'application/vnd.oci.image.manifest.v1+json',
          digest,
          size: manifest.length,
          platform: { os: 'linux', architecture: 'amd64' },
        },
      ],
    });
    const document = (path: string, text: string, type: string) =>
      server.on(path, (response) =>
        response
          .writeHead(200, {
            'content-type': type,
            'docker-content-digest': digestOf(text),
            'content-length': Buffer.byteLength(text),
          })
          .end(text),
      );
    const challenge = `Bearer realm="${server.url('/v2/token')}",service="epoch"`;
    server.on('/v2/', (response) =>
      open ? response.writeHead(200).end('{}') : response.writeHead(401, { 'www-authenticate': challenge }).end(),
    );
    server.serve('/v2/token', '{"token":"","access_token":"","expires_in":3600}');
    const manifestType = 'application/vnd.oci.image.manifest.v1+json';
    if (indexed) document(`/v2/${repo}/manifests/latest`, list, 'application/vnd.oci.image.index.v1+json');
    else document(`/v2/${repo}/manifests/latest`, manifest, manifestType);
    document(`/v2/${repo}/manifests/${digest}`, manifest, manifestType);
    server.on(`/v2/${repo}/blobs/${layerDigest}`, (response) =>
      response.writeHead(200, { 'content-length': layer.length }).end(layer),
    );
    server.serve(`/v2/${repo}/blobs/${digestOf(config)}`, config);
    return { ref: `${server.host}/${repo}`, digest, layerHex };
  }

  test(
    'a layer becomes an EROFS file, its kernel and initrd boot files; the manifest digest is recorded',
    needsErofs,
    async () => {
      const { ref, digest, layerHex } = serveOci();
      const { code, stdout, log } = await node.cocoon(['image', 'pull', ref]);
      expect({ code, stdout }).toEqual({ code: 0, stdout: '' });
      expect(log).toEqual([
        `INF pulling OCI image ${ref} (1 layers)`,
        `INF [1/1] ${layerHex.slice(0, 12)} done`,
        'INF committing...',
        `INF done: ${ref}`,
        `INF Pulled: ${ref} (digest: ${digest}, layers: 1)`,
      ]);
      expect(index('oci')[ref]).toEqual({
        ref,
        manifest_digest: digest,
        layers: [{ digest: `sha256:${layerHex}` }],
        kernel_layer: `sha256:${layerHex}`,
        initrd_layer: `sha256:${layerHex}`,
        size: expect.any(Number) as number,
        created_at: expect.any(String) as string,
      });
      expect(node.list('oci/blobs')).toEqual([`${layerHex}.erofs`]);
      expect(node.list(`oci/boot/${layerHex}`)).toEqual(['initrd.img', 'vmlinuz']);
      expect(node.list('oci/temp')).toEqual([]);
    },
  );

  test('of an index the child for this platform is recorded', needsErofs, async () => {
    const { ref, digest } = serveOci({ indexed: true });
    expect(await node.cocoon(['image', 'pull', ref])).toMatchObject({ code: 0 });
    expect(index('oci')[ref]).toMatchObject({ manifest_digest: digest });
  });

  test('the key is the reference as typed: with a tag it is another one', needsErofs, async () => {
    const { ref } = serveOci();
    await node.cocoon(['image', 'pull', ref]);
    await node.cocoon(['image', 'pull', `${ref}:latest`]);
    expect(Object.keys(index('oci'))).toEqual([ref, `${ref}:latest`]);
  });

  test('an image that is up to date says nothing but rewrites the index', needsErofs, async () => {
    const { ref } = serveOci();
    await node.cocoon(['image', 'pull', ref]);
    const before = { text: node.read('oci/db/images.json'), inode: node.stat('oci/db/images.json').ino };
    expect(await node.cocoon(['image', 'pull', ref])).toMatchObject({ code: 0, stdout: '', stderr: '' });
    expect(node.read('oci/db/images.json')).toBe(before.text);
    expect(node.stat('oci/db/images.json').ino).not.toBe(before.inode);
  });

  test.each(['blob', 'vmlinuz'])('a missing %s is rebuilt by the next pull', needsErofs, async (what) => {
    const { ref, layerHex } = serveOci();
    await node.cocoon(['image', 'pull', ref]);
    const path = what === 'blob' ? `oci/blobs/${layerHex}.erofs` : `oci/boot/${layerHex}/vmlinuz`;
    node.remove(path);
    expect(await node.cocoon(['image', 'pull', ref])).toMatchObject({ code: 0 });
    expect(node.stat(path).size).toBeGreaterThan(0);
  });

  test('an image without a kernel is refused', needsErofs, async () => {
    const { ref } = serveOci({ layer: makeTar([{ name: 'etc/hostname', data: Buffer.from('x\n') }]) });
    const { code, stderr } = await node.cocoon(['image', 'pull', ref]);
    expect(code).toBe(1);
    expect(lastLine(stderr)).toBe(`Error: pull ${ref}: image ${ref} missing boot files (vmlinuz/initrd.img)`);
  });

  test('a cloud image pulled by its registry reference dies in mkfs.erofs', needsErofs, async () => {
    const { ref } = serveOci({ layer: makeQcow2({ seed: 1 }) });
    const { code, stderr } = await node.cocoon(['image', 'pull', ref]);
    expect(code).toBe(1);
    expect(stderr).toContain(`Error: pull ${ref}: process layers: mkfs.erofs failed: `);
  });

  test('a registry that gives an empty token cannot be pulled from', async () => {
    const { ref } = serveOci({ open: false });
    const { code, stderr } = await node.cocoon(['image', 'pull', ref]);
    expect(code).toBe(1);
    expect(stderr).toContain(`Error: pull ${ref}: fetch image ${ref}: no token in bearer response:\n{"token":""`);
  });

  test("an unknown tag keeps the registry's own words", async () => {
    const { ref } = serveOci();
    const missing = JSON.stringify({
      errors: [{ code: 'MANIFEST_UNKNOWN', message: 'manifest a/ubuntu:no not found' }],
    });
    server.on('/v2/a/ubuntu/manifests/no', (response) =>
      response.writeHead(404, { 'content-type': 'application/json' }).end(missing),
    );
    const { code, stderr } = await node.cocoon(['image', 'pull', `${ref}:no`]);
    expect(code).toBe(1);
    expect(lastLine(stderr)).toContain(`Error: pull ${ref}:no: fetch image ${ref}:no: GET http`);
    expect(lastLine(stderr)).toContain('MANIFEST_UNKNOWN: manifest a/ubuntu:no not found');
  });

  test('a reference that does not parse is refused', async () => {
    const { code, stderr } = await node.cocoon(['image', 'pull', 'UPPER/case']);
    expect(code).toBe(1);
    expect(stderr).toContain(
      'Error: pull UPPER/case: invalid image reference "UPPER/case": could not parse reference: UPPER/case',
    );
  });

  test('the pull holds the index lock while it downloads layers', needsErofs, async () => {
    const { ref, layerHex } = serveOci();
    const layer = makeBootLayer('boot');
    let busy: number | null = null;
    server.on(`/v2/a/ubuntu/blobs/sha256:${layerHex}`, (response) => {
      const flock = spawn('flock', ['-n', node.at('oci/db/images.lock'), 'true']);
      flock.on('exit', (code) => {
        busy = code;
        response.writeHead(200, { 'content-length': layer.length }).end(layer);
      });
    });
    expect(await node.cocoon(['image', 'pull', ref])).toMatchObject({ code: 0 });
    expect(busy).toBe(1);
  });
});

describe('locks', () => {
  /** Holds a lock as another process would, for as long as the callback runs. */
  async function holding<R>(path: string, use: (free: () => void) => Promise<R>): Promise<R> {
    const holder = spawn('flock', ['-x', node.at(path), 'sh', '-c', 'echo held; read line'], {
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    await new Promise<void>((resolve) => holder.stdout.once('data', () => resolve()));
    try {
      return await use(() => holder.stdin.end());
    } finally {
      holder.stdin.end();
    }
  }

  test('`image list` waits for the lock', async () => {
    node.write('oci/db/images.lock', '');
    await holding('oci/db/images.lock', async (free) => {
      let ended = false;
      const list = node.cocoon(['image', 'list']).finally(() => (ended = true));
      await until(() => node.exists('cloudimg/temp'));
      // While it waits, a whole command that does not need this lock begins and ends.
      expect(await node.cocoon(['snapshot', 'list'])).toMatchObject({ code: 0 });
      expect(ended).toBe(false);
      free();
      expect(await list).toMatchObject({ code: 0, stdout: 'No images found.\n' });
    });
  });

  test('a pull of a URL downloads without the lock and waits for it only to commit', async () => {
    await node.cocoon(['image', 'list']);
    const { bytes } = sampleImage(1);
    server.serve('/dl/win', bytes);
    await holding('cloudimg/db/images.lock', async (free) => {
      const pull = node.cocoon(['image', 'pull', '--force', server.url('/dl/win')]);
      await until(() => server.requests.length > 0);
      expect(node.exists('cloudimg/db/images.json')).toBe(false);
      free();
      expect(await pull).toMatchObject({ code: 0 });
    });
  });

  test('gc aborts when a lock is busy, naming the module, and deletes nothing', async () => {
    const { url, blob } = await pullSample();
    await node.cocoon(['image', 'rm', url]);
    await holding('oci/db/images.lock', async () => {
      const { code, stdout, log, stderr } = await node.cocoon(['gc']);
      expect({ code, stdout }).toEqual({ code: 1, stdout: '' });
      expect(log).toEqual(['WRN skip oci: lock held by another operation']);
      expect(lastLine(stderr)).toBe('Error: gc aborted: modules skipped (lock busy): oci');
    });
    expect(node.exists(blob)).toBe(true);
  });
});

describe('gc', () => {
  test('takes an orphan blob, and keeps what the index names', async () => {
    const { url, blob } = await pullSample(1);
    server.serve('/dl/win', sampleImage(2).bytes);
    await node.cocoon(['image', 'pull', '--force', url]);
    const { code, stdout, log } = await node.cocoon(['gc']);
    expect({ code, stdout, log }).toEqual({ code: 0, stdout: '', log: ['INF GC completed'] });
    expect(node.exists(blob)).toBe(false);
    expect(node.list('cloudimg/blobs')).toEqual([`${sampleImage(2).hex}.qcow2`]);
  });

  test('keeps a blob that a snapshot pins', async () => {
    const { url, blob, digest } = await pullSample();
    await node.importSnapshot('hot', { image: url, imageDigest: digest });
    await node.cocoon(['image', 'rm', url]);
    await node.cocoon(['gc']);
    expect(node.exists(blob)).toBe(true);
    await node.cocoon(['snapshot', 'rm', 'hot']);
    await node.cocoon(['gc']);
    expect(node.exists(blob)).toBe(false);
  });

  test('takes an old temporary file only together with an orphan blob', async () => {
    await pullSample();
    node.write('cloudimg/temp/pull-1.img', 'x');
    utimesSync(node.at('cloudimg/temp/pull-1.img'), 1e9, 1e9);
    await node.cocoon(['gc']);
    expect(node.list('cloudimg/temp')).toEqual(['pull-1.img']);
    node.write(`cloudimg/blobs/${'a'.repeat(64)}.qcow2`, 'orphan');
    await node.cocoon(['gc']);
    expect(node.list('cloudimg/temp')).toEqual([]);
  });

  test('leaves a file set aside in blobs/ under another extension', async () => {
    await node.cocoon(['image', 'list']);
    node.write(`cloudimg/blobs/${'a'.repeat(64)}.qcow2.bad-1`, 'aside');
    await node.cocoon(['gc']);
    expect(node.list('cloudimg/blobs')).toHaveLength(1);
  });

  test('takes snapshot data without a record', async () => {
    await node.cocoon(['snapshot', 'list']);
    node.write('snapshot/localfile/ORPHAN/config.json', '{}');
    await node.cocoon(['gc']);
    expect(node.list('snapshot/localfile')).toEqual([]);
  });

  test('aborts when an index does not parse', async () => {
    await node.cocoon(['snapshot', 'list']);
    node.write('snapshot/db/snapshots.json', '{');
    const { code, stderr } = await node.cocoon(['gc']);
    expect(code).toBe(1);
    expect(stderr).toBe(
      `Error: gc aborted: snapshot snapshot: parse ${node.at('snapshot/db/snapshots.json')}: unexpected end of JSON input\n`,
    );
  });
});

describe('snapshots', () => {
  const DIGEST = `sha256:${'a'.repeat(64)}`;

  test('an import prints nothing on stdout, logs its new ID, and does not look for the base image', async () => {
    const id = await node.importSnapshot('simular/win11-hot:v1', {
      image: 'https://epoch/dl/win',
      imageDigest: DIGEST,
    });
    expect(id).toMatch(/^[A-Z2-7]{26}$/);
    expect(node.json('snapshot/db/snapshots.json')).toEqual({
      snapshots: {
        [id]: {
          cpu: 1,
          memory: 512 * 2 ** 20,
          storage: 10 * 2 ** 30,
          image: 'https://epoch/dl/win',
          image_digest: DIGEST,
          image_type: 'cloudimg',
          windows: true,
          id,
          name: 'simular/win11-hot:v1',
          image_blob_ids: { ['a'.repeat(64)]: {} },
          hypervisor: 'cloud-hypervisor',
          created_at: expect.any(String) as string,
          data_dir: node.at(`snapshot/localfile/${id}`),
        },
      },
      names: { 'simular/win11-hot:v1': id },
    });
    expect(node.list(`snapshot/localfile/${id}`)).toEqual([
      'cocoon.json',
      'config.json',
      'memory-ranges',
      'overlay.qcow2',
      'state.json',
    ]);
    expect(node.mode(`snapshot/localfile/${id}`)).toBe('750');
  });

  test('list and inspect show the record without its place on disk', async () => {
    const id = await node.importSnapshot('hot', { image: 'https://epoch/dl/win', imageDigest: DIGEST });
    const { stdout } = await node.cocoon(['snapshot', 'list', '-o', 'json']);
    const inspected = await node.cocoon(['snapshot', 'inspect', 'hot']);
    expect(JSON.parse(stdout)).toEqual([JSON.parse(inspected.stdout)]);
    expect(JSON.parse(inspected.stdout)).toMatchObject({ id, name: 'hot', image_digest: DIGEST });
    expect(inspected.stdout).not.toContain('data_dir');
  });

  test('the table has six columns', async () => {
    const id = await node.importSnapshot('hot', { description: 'golden' });
    const { stdout } = await node.cocoon(['snapshot', 'list']);
    expect(stdout).toMatch(
      new RegExp(
        `^ID +NAME +CPU +MEMORY +DESCRIPTION +CREATED\n${id}  hot +1 +536\\.9MB +golden +\\d{4}-\\d\\d-\\d\\d [\\d:]{8}\n$`,
      ),
    );
  });

  test('is found by ID, name and an ID prefix of three characters', async () => {
    const id = await node.importSnapshot('hot');
    for (const ref of [id, 'hot', id.slice(0, 3)])
      expect((await node.cocoon(['snapshot', 'inspect', ref])).code).toBe(0);
    expect(await node.cocoon(['snapshot', 'inspect', id.slice(0, 2)])).toMatchObject({
      code: 1,
      stderr: 'Error: inspect: snapshot not found\n',
    });
  });

  test('gzip is accepted, also with a damaged checksum', async () => {
    const archive = gzipSync(makeSnapshotArchive());
    archive[archive.length - 8] = (archive[archive.length - 8] ?? 0) ^ 1;
    expect(await node.cocoon(['snapshot', 'import', '--name', 'hot'], { input: archive })).toMatchObject({ code: 0 });
  });

  test('an archive cut between members is accepted', async () => {
    const archive = makeSnapshotArchive();
    const { code } = await node.cocoon(['snapshot', 'import', '--name', 'hot'], {
      input: archive.subarray(0, archive.length - 1024),
    });
    expect(code).toBe(0);
  });

  test.each([
    ['an empty archive', () => Buffer.alloc(0), 'peek archive header: EOF'],
    [
      'an archive without snapshot.json',
      () => makeTar([{ name: 'x', data: Buffer.from('x') }]),
      'invalid snapshot archive: snapshot.json not found',
    ],
    [
      'another version',
      () => makeTar([{ name: 'snapshot.json', data: Buffer.from('{"config":{"name":"x"},"version":2}') }]),
      'unsupported snapshot archive version 2',
    ],
    ['garbage', () => Buffer.from('garbage'.repeat(200)), 'extract archive: tar next: archive/tar: invalid tar header'],
  ])('%s is refused and leaves nothing', async (_name, archive, message) => {
    const { code, stderr } = await node.cocoon(['snapshot', 'import'], { input: archive() });
    expect(code).toBe(1);
    expect(lastLine(stderr)).toBe(`Error: import: ${message}`);
    expect(node.list('snapshot/localfile')).toEqual([]);
    expect(node.exists('snapshot/db/snapshots.json')).toBe(false);
  });

  test('a name is given once', async () => {
    const id = await node.importSnapshot('hot');
    const { code, stderr } = await node.cocoon(['snapshot', 'import', '--name', 'hot'], {
      input: makeSnapshotArchive(),
    });
    expect(code).toBe(1);
    expect(lastLine(stderr)).toBe(`Error: import: snapshot name "hot" already in use by ${id}`);
    expect(node.list('snapshot/localfile')).toEqual([id]);
  });

  test('rm takes record and data', async () => {
    const id = await node.importSnapshot('hot');
    const { code, log } = await node.cocoon(['snapshot', 'rm', 'hot']);
    expect({ code, log }).toEqual({ code: 0, log: [`INF deleted: ${id}`] });
    expect(node.json('snapshot/db/snapshots.json')).toEqual({ snapshots: {}, names: {} });
    expect(node.list('snapshot/localfile')).toEqual([]);
  });

  test('rm of an unknown one is refused', async () => {
    const { code, stderr } = await node.cocoon(['snapshot', 'rm', 'nope']);
    expect({ code, stderr }).toEqual({ code: 1, stderr: 'Error: rm: resolve "nope": snapshot not found\n' });
  });

  test('a pending record is not listed and cannot be inspected or cloned, but removed', async () => {
    const id = await node.importSnapshot('hot');
    const document = node.json('snapshot/db/snapshots.json') as { snapshots: Record<string, object>; names: object };
    Object.assign(document.snapshots[id] ?? {}, { pending: true });
    node.write('snapshot/db/snapshots.json', JSON.stringify(document));
    expect((await node.cocoon(['snapshot', 'list'])).stdout).toBe('No snapshots found.\n');
    expect((await node.cocoon(['snapshot', 'inspect', 'hot'])).stderr).toBe('Error: inspect: snapshot not found\n');
    expect((await node.cocoon(['vm', 'clone', '--name', 'c', 'hot'])).stderr).toBe(
      'Error: inspect snapshot hot: snapshot not found\n',
    );
    expect((await node.cocoon(['snapshot', 'rm', 'hot'])).code).toBe(0);
  });

  test('what is exported can be imported', async () => {
    await node.importSnapshot('hot', { image: 'https://epoch/dl/win', imageDigest: DIGEST });
    const out = node.at('hot.tar');
    expect(await node.cocoon(['snapshot', 'export', 'hot', '-o', out])).toMatchObject({ code: 0, stdout: '' });
    expect(await node.cocoon(['snapshot', 'import', '--name', 'copy', out])).toMatchObject({ code: 0 });
    const { stdout } = await node.cocoon(['snapshot', 'inspect', 'copy']);
    expect(JSON.parse(stdout)).toMatchObject({ name: 'copy', image_digest: DIGEST });
  });
});

describe('cloning: the checks in their order', () => {
  const clone = (...args: string[]) => node.cocoon(['vm', 'clone', ...args]);

  /** What is left of a failed clone. */
  function expectNothingLeft(): void {
    expect(node.json('cloudhypervisor/db/vms.json')).toEqual({ vms: {}, names: {} });
    expect(node.list('run/cloudhypervisor')).toEqual([]);
    expect(node.list('log/cloudhypervisor')).toEqual([]);
  }

  test('an unknown snapshot', async () => {
    expect(await clone('--name', 'c', 'nope')).toMatchObject({
      code: 1,
      stdout: '',
      stderr: 'Error: inspect snapshot nope: snapshot not found\n',
    });
  });

  test.each([
    [['hot'], 'vm name cannot be empty'],
    [['--name', 'a b', 'hot'], 'vm name "a b" is invalid: must match ^[a-zA-Z0-9][a-zA-Z0-9._-]{0,62}$ (max 63 chars)'],
    [['--name', 'c', '--memory', '256M', 'hot'], '--memory 268.4MB below snapshot minimum 536.9MB'],
    [['--name', 'c', '--storage', '1G', 'hot'], '--storage 1.074GB below snapshot minimum 10.74GB'],
    [['--name', 'c', '--nics', '-1', 'hot'], '--nics -1 below snapshot minimum 0'],
  ])('flags %j are refused', async (args, message) => {
    await node.importSnapshot('hot');
    expect(await clone(...args)).toMatchObject({ code: 1, stdout: '', stderr: `Error: ${message}\n` });
    expect(node.exists('cloudhypervisor/db/vms.json')).toBe(false);
  });

  test('a snapshot of two CPUs cannot be cloned with one', async () => {
    await node.importSnapshot('hot', { cpu: 2 });
    expect((await clone('--name', 'c', '--cpu', '1', 'hot')).stderr).toBe('Error: --cpu 1 below snapshot minimum 2\n');
  });

  test.each([
    ['cpu', { cpu: 0 }, '--cpu must be at least 1, got 0'],
    ['memory', { memory: 0 }, '--memory must be at least 512M, got 0'],
    ['storage', { storage: 0 }, '--storage must be at least 10G, got 0'],
  ])('a record without %s cannot be cloned without the flag', async (_name, options, message) => {
    await node.importSnapshot('hot', options);
    expect((await clone('--name', 'c', 'hot')).stderr).toBe(`Error: ${message}\n`);
  });

  test('an interface needs a network', async () => {
    await node.importSnapshot('hot', { nics: 1 });
    expect((await clone('--name', 'c', 'hot')).stderr).toBe(
      `Error: configure network: network provider not configured: no conflist found in ${node.at('cni/conf')}\n`,
    );
  });

  test('more CPUs than the host has', async () => {
    await node.importSnapshot('hot');
    const { log, stderr } = await clone('--name', 'c', '--cpu', '9999', 'hot');
    expect(log).toEqual(['INF cloning VM from snapshot hot (direct) ...']);
    expect(lastLine(stderr)).toMatch(/^Error: clone VM: requested 9999 vCPUs exceeds host cores \(\d+\)$/);
  });

  test.each([
    [
      'config.json',
      /clone snapshot files: parse source config: read (\S+)\/config\.json: open \1\/config\.json: no such file or directory$/,
    ],
    ['cocoon.json', /load snapshot meta: read cocoon\.json: open \S+\/cocoon\.json: no such file or directory$/],
    [
      'overlay.qcow2',
      /snapshot integrity: snapshot file overlay\.qcow2 missing: stat \S+\/overlay\.qcow2: no such file or directory$/,
    ],
    ['state.json', /snapshot integrity: state\.json missing: stat \S+\/state\.json: no such file or directory$/],
    ['memory-ranges', /snapshot integrity: no memory-range-\* file in snapshot$/],
  ])('a snapshot without %s', async (file, message) => {
    await node.importSnapshot('hot', { omit: [file] });
    const { code, stderr } = await clone('--name', 'c', 'hot');
    expect(code).toBe(1);
    expect(lastLine(stderr)).toMatch(/^Error: clone VM: /);
    expect(lastLine(stderr)).toMatch(message);
    expectNothingLeft();
  });

  test('a sidecar that disagrees with config.json', async () => {
    await node.importSnapshot('hot', { sidecarDisk: '/else/overlay.qcow2' });
    const { stderr } = await clone('--name', 'c', 'hot');
    expect(lastLine(stderr)).toMatch(
      /^Error: clone VM: snapshot integrity: sidecar\/config\.json disk\[0\] path mismatch: "\/else\/overlay\.qcow2" vs "\S+\/overlay\.qcow2"$/,
    );
  });

  test('missing firmware', async () => {
    const firmware = node.at('firmware/NOPE.fd');
    await node.importSnapshot('hot', { firmware });
    const { stderr } = await clone('--name', 'c', 'hot');
    expect(lastLine(stderr)).toBe(
      `Error: clone VM: verify base files: firmware ${firmware}: stat ${firmware}: no such file or directory`,
    );
    expectNothingLeft();
  });

  test('a missing layer, then a missing kernel, of an OCI guest', async () => {
    const hex = 'd'.repeat(64);
    await node.importSnapshot('hot', { layers: [hex], windows: false });
    const layer = node.at(`oci/blobs/${hex}.erofs`);
    const kernel = node.at(`oci/boot/${hex}/vmlinuz`);
    const missing = (what: string, path: string) =>
      `Error: clone VM: verify base files: ${what} ${path}: stat ${path}: no such file or directory`;
    expect(lastLine((await clone('--name', 'c', 'hot')).stderr)).toBe(missing('base layer', layer));
    node.write(`oci/blobs/${hex}.erofs`, 'layer');
    expect(lastLine((await clone('--name', 'c', 'hot')).stderr)).toBe(missing('kernel', kernel));
    expectNothingLeft();
  });

  test('a larger --storage opens the base first, and fails where it is missing', async () => {
    const { url, digest, blob } = await pullSample();
    await node.importSnapshot('hot', { image: url, imageDigest: digest });
    node.remove(blob);
    const { stderr } = await clone('--name', 'c', '--storage', '20G', 'hot');
    expect(lastLine(stderr)).toMatch(/^Error: clone VM: resize COW: qemu-img resize \S+: qemu-img: Could not open /);
    expect(lastLine(stderr)).toContain(`Could not open '${node.at(blob)}': No such file or directory`);
  });

  test('the incident: a missing base shows only when the hypervisor restores', needsHypervisor, async () => {
    const { url, digest, blob } = await pullSample();
    await node.importSnapshot('hot', { image: url, imageDigest: digest });
    node.remove(blob);
    const { code, stdout, stderr } = await clone('--name', 'c', '-o', 'json', 'hot');
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' });
    expect(stderr).toContain('Error: clone VM: vm.restore: PUT http://localhost/api/v1/vm.restore → 500: ');
    expect(stderr).toContain(`Backing file I/O error: ${node.at(blob)}\nNo such file or directory (os error 2)\n`);
    expectNothingLeft();
  });

  test('--pull with the URL at another digest pulls nothing, warns, and the clone fails', needsHypervisor, async () => {
    const { url } = await pullSample(2);
    const { digest } = sampleImage(1);
    server.requests.length = 0;
    await node.importSnapshot('hot', { image: url, imageDigest: digest });
    const { code, log, stderr } = await clone('--pull', '--name', 'c', 'hot');
    expect(code).toBe(1);
    expect(log).toEqual([
      `INF base image not found locally, pulling ${url} ...`,
      `WRN pulled ${url} but expected digest ${digest} not found locally — clone may fail in VerifyBaseFiles`,
      'INF cloning VM from snapshot hot (direct) ...',
    ]);
    expect(server.requests).toEqual([]);
    expect(stderr).toContain('Backing file I/O error');
    expectNothingLeft();
  });

  test('--pull of an unknown URL fetches the base', async () => {
    const { bytes, digest, blob } = sampleImage(1);
    server.serve('/dl/win', bytes);
    await node.importSnapshot('hot', { image: server.url('/dl/win'), imageDigest: digest });
    const { code, log } = await clone('--pull', '--name', 'c', 'hot');
    expect(code).toBe(0);
    expect(log).toContain(`INF base image ${server.url('/dl/win')} pulled successfully`);
    expect(node.exists(blob)).toBe(true);
  });

  test('--pull where the entry is there but its blob is not pulls nothing', async () => {
    const { url, digest, blob } = await pullSample();
    node.remove(blob);
    server.requests.length = 0;
    await node.importSnapshot('hot', { image: url, imageDigest: digest });
    await clone('--pull', '--name', 'c', 'hot');
    expect(server.requests).toEqual([]);
    expect(node.exists(blob)).toBe(false);
  });

  test('--pull that fails is a warning', async () => {
    const { digest } = sampleImage(1);
    const url = server.url('/dl/none');
    await node.importSnapshot('hot', { image: url, imageDigest: digest });
    const { log } = await clone('--pull', '--name', 'c', 'hot');
    expect(log[1]).toBe(
      `WRN auto-pull ${url} failed (imported image?): http get ${url}: status 404 404 Not Found — clone may fail if base layers are missing`,
    );
  });

  test('a base that no index entry names is enough', async () => {
    const { url, digest } = await pullSample(1);
    await node.importSnapshot('hot', { image: url, imageDigest: digest });
    server.serve('/dl/win', sampleImage(2).bytes);
    await node.cocoon(['image', 'pull', '--force', url]);
    expect(await clone('--name', 'c', 'hot')).toMatchObject({ code: 0 });
  });
});

describe('VMs', () => {
  async function cloned(name = 'canary-1') {
    const { url, digest, hex } = await pullSample();
    await node.importSnapshot('hot', { image: url, imageDigest: digest });
    const result = await node.cocoon(['vm', 'clone', '--name', name, '-o', 'json', 'hot']);
    expect(result).toMatchObject({ code: 0 });
    return { ...result, url, digest, hex, vm: JSON.parse(result.stdout) as { id: string } & Record<string, unknown> };
  }

  test('`clone -o json` prints the VM as it was recorded, and logs one line', async () => {
    const { vm, url, digest, log } = await cloned();
    expect(vm).toEqual({
      id: expect.stringMatching(/^[A-Z2-7]{26}$/) as string,
      hypervisor: 'cloud-hypervisor',
      state: 'running',
      config: {
        cpu: 1,
        memory: 512 * 2 ** 20,
        storage: 10 * 2 ** 30,
        image: url,
        image_digest: digest,
        image_type: 'cloudimg',
        windows: true,
        name: 'canary-1',
      },
      pid: 0,
      storage_configs: [
        { path: node.at(`run/cloudhypervisor/${vm.id}/overlay.qcow2`), ro: false, serial: '', role: 'cow' },
      ],
      first_booted: false,
      created_at: expect.any(String) as string,
      updated_at: expect.any(String) as string,
      started_at: expect.any(String) as string,
    });
    expect(log).toEqual([`INF VM ${vm.id} cloned from snapshot`]);
  });

  test('the record pins the base blob and names its directories', async () => {
    const { vm, hex } = await cloned();
    const { vms, names } = node.json('cloudhypervisor/db/vms.json') as { vms: Record<string, object>; names: object };
    expect(names).toEqual({ 'canary-1': vm.id });
    expect(vms[vm.id]).toMatchObject({
      state: 'running',
      first_booted: true,
      boot_config: { firmware_path: node.at('firmware/CLOUDHV.fd') },
      image_blob_ids: { [hex]: {} },
      run_dir: node.at(`run/cloudhypervisor/${vm.id}`),
      log_dir: node.at(`log/cloudhypervisor/${vm.id}`),
    });
  });

  test('guest memory is hard-linked into the run directory, all else copied', async () => {
    const { vm } = await cloned();
    const [snapshot = ''] = node.list('snapshot/localfile');
    const inode = (path: string) => node.stat(path).ino;
    expect(inode(`run/cloudhypervisor/${vm.id}/memory-ranges`)).toBe(
      inode(`snapshot/localfile/${snapshot}/memory-ranges`),
    );
    expect(inode(`run/cloudhypervisor/${vm.id}/overlay.qcow2`)).not.toBe(
      inode(`snapshot/localfile/${snapshot}/overlay.qcow2`),
    );
  });

  test('without JSON the clone is logged and hints go to stdout', async () => {
    const { url, digest } = await pullSample();
    await node.importSnapshot('hot', { image: url, imageDigest: digest });
    const { stdout, log } = await node.cocoon(['vm', 'clone', '--name', 'canary-1', 'hot']);
    expect(stdout).not.toBe('');
    expect(log.at(-1)).toMatch(/^INF VM cloned: [A-Z2-7]{26} \(name: canary-1\)$/);
  });

  test('`vm inspect` shows a live one as running, with pid and socket, and no paths or pins', async () => {
    const { vm } = await cloned();
    const { code, stdout } = await node.cocoon(['vm', 'inspect', 'canary-1']);
    expect(code).toBe(0);
    const shown = JSON.parse(stdout) as { pid: number } & Record<string, unknown>;
    expect(shown).toMatchObject({ id: vm.id, state: 'running', first_booted: true });
    expect(shown.pid).toBeGreaterThan(0);
    expect(shown['socket_path']).toBe(node.at(`run/cloudhypervisor/${vm.id}/api.sock`));
    for (const key of ['image_blob_ids', 'boot_config', 'run_dir', 'log_dir']) expect(shown).not.toHaveProperty(key);
  });

  test('a record whose process is gone is "stopped (stale)" in table and inspect, but running in the list', async () => {
    const { vm } = await cloned();
    const pidFile = `run/cloudhypervisor/${vm.id}/ch.pid`;
    const pid = node.read(pidFile);
    node.remove(pidFile);
    expect((await node.cocoon(['vm', 'inspect', 'canary-1'])).stdout).toContain('"state": "stopped (stale)"');
    expect((await node.cocoon(['vm', 'list'])).stdout).toContain('stopped (stale)');
    expect((await node.cocoon(['vm', 'list', '-o', 'json'])).stdout).toContain('"state": "running"');
    node.write(pidFile, pid);
  });

  test('a name is given once', async () => {
    const { vm } = await cloned();
    const { code, stderr } = await node.cocoon(['vm', 'clone', '--name', 'canary-1', 'hot']);
    expect(code).toBe(1);
    expect(lastLine(stderr)).toBe(
      `Error: clone VM: reserve VM record: vm name "canary-1" already exists (id: ${vm.id})`,
    );
  });

  test('a running one is not removed without --force', async () => {
    const { vm } = await cloned();
    const { code, stderr } = await node.cocoon(['vm', 'rm', 'canary-1']);
    expect(code).toBe(1);
    expect(lastLine(stderr)).toBe(`Error: rm: item ${vm.id}: stop before delete: running (force required)`);
  });

  test('`vm rm --force` removes record and directories, and then it is not found', async () => {
    const { vm } = await cloned();
    const { code, stdout, log } = await node.cocoon(['vm', 'rm', '--force', 'canary-1']);
    expect({ code, stdout }).toEqual({ code: 0, stdout: '' });
    expect(log).toContain(`INF deleted VM: ${vm.id}`);
    expect(node.list('run/cloudhypervisor')).toEqual([]);
    expect(await node.cocoon(['vm', 'inspect', 'canary-1'])).toMatchObject({
      code: 1,
      stdout: '',
      stderr: 'Error: inspect: vm canary-1: VM not found\n',
    });
  });

  test('`vm stop --force`, then a plain `vm rm -o json`', async () => {
    const { vm } = await cloned();
    const stopped = await node.cocoon(['vm', 'stop', '--force', 'canary-1']);
    expect(stopped).toMatchObject({ code: 0 });
    expect(stopped.log).toContain(`INF stopped: ${vm.id}`);
    expect((await node.cocoon(['vm', 'inspect', 'canary-1'])).stdout).toContain('"state": "stopped"');
    const { stdout } = await node.cocoon(['vm', 'rm', '-o', 'json', 'canary-1']);
    expect(JSON.parse(stdout)).toEqual({ succeeded: [vm.id] });
  });

  test('removing or stopping an unknown one says "VM not found"', async () => {
    for (const verb of ['rm', 'stop']) {
      expect(await node.cocoon(['vm', verb, 'nope'])).toMatchObject({
        code: 1,
        stderr: 'Error: vm nope: VM not found\n',
      });
    }
  });

  test(
    'SIGTERM in mid-clone takes the directories, and leaves a `creating` record that holds the name',
    needsHypervisor,
    async () => {
      const { url, digest } = await pullSample();
      await node.importSnapshot('hot', { image: url, imageDigest: digest });
      const delay = '600000';
      const began = trueBinary ? 'restore-began' : 'cmdline';
      const underWay = () => {
        const dir = node.at('run/cloudhypervisor');
        return existsSync(dir) && readdirSync(dir).some((id) => existsSync(join(dir, id, began)));
      };
      const { code, log, stderr } = await node.cocoon(['vm', 'clone', '--name', 'mid', 'hot'], {
        env: { HYPERVISOR_DELAY_MS: delay, COCOON_DOUBLE_CLONE_DELAY_MS: delay },
        running: (child) => void until(underWay).then(() => child.kill('SIGTERM')),
      });
      expect(code).toBe(1);
      expect(log.at(-1)).toMatch(/^WRN rollback VM \S+ \(name=mid\): acquire f?lock \S+vms\.lock: context canceled$/);
      expect(lastLine(stderr)).toMatch(
        /^Error: clone VM: vm\.restore: .*(context canceled|terminated signal received)$/,
      );
      expect(node.list('run/cloudhypervisor')).toEqual([]);
      expect(JSON.parse((await node.cocoon(['vm', 'list', '-o', 'json'])).stdout)).toMatchObject([
        { state: 'creating', config: { name: 'mid' }, pid: 0 },
      ]);
      expect((await node.cocoon(['vm', 'clone', '--name', 'mid', 'hot'])).stderr).toContain(
        'vm name "mid" already exists',
      );
      expect(await node.cocoon(['vm', 'rm', '--force', 'mid'])).toMatchObject({ code: 0 });
      expect((await node.cocoon(['vm', 'inspect', 'mid'])).stderr).toContain('VM not found');
    },
  );

  test('`vm run` of an unknown image names both backends', async () => {
    const { code, stderr } = await node.cocoon(['vm', 'run', '--name', 'r', 'nope']);
    expect(code).toBe(1);
    expect(stderr).toBe(
      'Error: image "nope" not resolved: oci: image "nope" not found for VM r; cloudimg: image "nope" not found for VM r\n',
    );
  });

  test('`vm run` looks at the blob, then at the firmware', async () => {
    const { url, blob, digest, bytes } = await pullSample();
    expect((await node.cocoon(['vm', 'run', '--name', 'r', url])).stderr).toContain(
      `cloudimg: firmware not found: ${node.at('firmware/CLOUDHV.fd')}`,
    );
    node.write(blob, '');
    expect((await node.cocoon(['vm', 'run', '--name', 'r', url])).stderr).toContain(
      `cloudimg: blob invalid for VM r (${digest})`,
    );
    node.write(blob, bytes);
  });
});

describe('a newer generation', onlyDouble, () => {
  const N = { COCOON_DOUBLE_GENERATION: 'N' };
  const cocoon = (...args: string[]) => node.cocoon(args, { env: N });
  const sql = (statement: string) =>
    execFileSync('sqlite3', [node.at('meta/meta.db'), statement], { encoding: 'utf8' }).trim();

  test('keeps a fresh root in SQLite with its own application ID, in WAL mode', async () => {
    expect(await cocoon('image', 'list')).toMatchObject({ code: 0, stdout: 'No images found.\n' });
    expect(sql('PRAGMA application_id; PRAGMA journal_mode;')).toBe('1129268046\nwal');
    expect(node.exists('cloudimg/db/images.json')).toBe(false);
  });

  test('keeps a record as bytes in a table named after its namespace', async () => {
    const { bytes, digest } = sampleImage(1);
    server.serve('/dl/win', bytes);
    await cocoon('image', 'pull', server.url('/dl/win'));
    expect(sql('SELECT id, typeof(data) FROM "images_cloudimg__records"')).toBe(`${server.url('/dl/win')}|blob`);
    expect(JSON.parse(sql('SELECT CAST(data AS TEXT) FROM "images_cloudimg__records"'))).toMatchObject({
      content_sum: digest,
    });
  });

  test('asks twice for one pull, because ranges are not served', async () => {
    server.serve('/dl/win', sampleImage(1).bytes);
    await cocoon('image', 'pull', server.url('/dl/win'));
    expect(server.requests).toEqual(['GET /dl/win', 'GET /dl/win']);
  });

  test('says the status once', async () => {
    const url = server.url('/dl/none');
    expect((await cocoon('image', 'pull', url)).stderr).toBe(
      `Error: pull ${url}: http get ${url}: status 404 Not Found\n`,
    );
  });

  test('keeps a JSON root in JSON, and the document before', async () => {
    const { url } = await pullSample();
    const { code, log } = await cocoon('image', 'pull', '--force', url);
    expect(code).toBe(0);
    expect(log[0]).toContain('legacy json meta store in use');
    expect(node.exists('meta/meta.db')).toBe(false);
    expect(node.exists('cloudimg/db/images.json.prev')).toBe(true);
  });

  test('`meta convert` imports the JSON files and renames them', async () => {
    const { digest } = await pullSample();
    await node.importSnapshot('hot');
    expect(await cocoon('meta', 'convert')).toMatchObject({ code: 0 });
    expect(node.list('cloudimg/db').find((name) => name.startsWith('images.json.converted-'))).toMatch(
      /-\d{8}T\d{6}Z$/,
    );
    expect(node.exists('cloudimg/db/images.json')).toBe(false);
    expect(JSON.parse((await cocoon('image', 'list', '-o', 'json')).stdout)).toMatchObject([{ id: digest }]);
    expect(JSON.parse((await cocoon('snapshot', 'list', '-o', 'json')).stdout)).toMatchObject([{ name: 'hot' }]);
  });

  test('ignores a stray JSON file beside the database', async () => {
    await cocoon('image', 'list');
    node.write('cloudimg/db/images.json', 'garbage');
    expect(await cocoon('image', 'list')).toMatchObject({ code: 0, stdout: 'No images found.\n' });
  });

  test('refuses every command while a conversion is in flight', async () => {
    node.write('meta/meta-convert.manifest', '{}');
    const { code, stderr } = await cocoon('image', 'list');
    expect(code).toBe(1);
    expect(stderr).toMatch(/a conversion is in flight, run `cocoon meta convert` to finish it\n$/);
  });

  test('can leave an uncheckpointed WAL, from which a copy of both files still reads everything', async () => {
    const { bytes, digest } = sampleImage(1);
    server.serve('/dl/win', bytes);
    await node.cocoon(['image', 'pull', server.url('/dl/win')], { env: { ...N, COCOON_DOUBLE_KEEP_WAL: '1' } });
    expect(node.stat('meta/meta.db-wal').size).toBeGreaterThan(0);
    const copy = newNode();
    for (const name of ['meta.db', 'meta.db-wal']) copy.write(`meta/${name}`, readFileSync(node.at(`meta/${name}`)));
    const { stdout } = await copy.cocoon(['image', 'list', '-o', 'json'], { env: N });
    expect(JSON.parse(stdout)).toMatchObject([{ id: digest }]);
    await copy.dispose();
  });

  test('has no --cpu for clones, and names one that has no name', async () => {
    const { digest, url } = await pullSample();
    await node.importSnapshot('hot', { image: url, imageDigest: digest });
    expect((await cocoon('vm', 'clone', '--cpu', '1', 'hot')).stderr).toBe('Error: unknown flag: --cpu\n');
    const { stdout } = await cocoon('vm', 'clone', '-o', 'json', 'hot');
    expect(JSON.parse(stdout)).toMatchObject({ config: { name: expect.stringMatching(/^cocoon-clone-/) as string } });
  });

  test('`vm clone --pull` forces the URL to what the registry serves', async () => {
    const old = await pullSample(2);
    const wanted = sampleImage(1);
    server.serve('/dl/win', wanted.bytes);
    await node.importSnapshot('hot', { image: old.url, imageDigest: wanted.digest });
    expect(await cocoon('vm', 'clone', '--pull', '--name', 'c', 'hot')).toMatchObject({ code: 0 });
    expect(index('cloudimg')[old.url]).toMatchObject({ content_sum: wanted.digest });
  });

  test('refuses an unknown word of a group', async () => {
    const { code, stderr } = await cocoon('image', 'bogus');
    expect({ code, stderr }).toEqual({
      code: 1,
      stderr: 'Error: unknown command "bogus" for "cocoon image"\nRun \'cocoon image --help\' for usage.\n',
    });
  });

  test('gc goes on beside a busy lock, and with --snapshot evicts every snapshot', async () => {
    await node.importSnapshot('hot');
    expect(await cocoon('gc', '--snapshot')).toMatchObject({ code: 0 });
    expect((await cocoon('snapshot', 'list')).stdout).toBe('No snapshots found.\n');
  });
});

describe('what tests can ask of the double', onlyDouble, () => {
  test('another version', async () => {
    const { stdout } = await node.cocoon(['version'], { env: { COCOON_DOUBLE_VERSION: 'v9.9.9' } });
    expect(stdout).toMatch(/^Version: {8}v9\.9\.9\n/);
  });

  test('a log of its command lines', async () => {
    const env = { COCOON_DOUBLE_COMMAND_LOG: node.at('commands') };
    await node.cocoon(['image', 'list', '-o', 'json'], { env });
    await node.cocoon(['version'], { env });
    const lines = node
      .read('commands')
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as string[]);
    expect(lines.map((args) => args.slice(0, 2))).toEqual([
      ['image', 'list'],
      ['version', '--root-dir'],
    ]);
  });

  test('a pull that takes long, and cleans up after SIGTERM', async () => {
    server.serve('/dl/win', sampleImage(1).bytes);
    const { code, stderr } = await node.cocoon(['image', 'pull', server.url('/dl/win')], {
      env: { COCOON_DOUBLE_PULL_DELAY_MS: '600000' },
      running: (child) => void until(() => server.requests.length > 0).then(() => child.kill('SIGTERM')),
    });
    expect(code).toBe(1);
    expect(stderr).toContain('context canceled');
    expect(node.list('cloudimg/temp')).toEqual([]);
  });

  test('a clone that the hypervisor refuses', async () => {
    const { url, digest } = await pullSample();
    await node.importSnapshot('hot', { image: url, imageDigest: digest });
    const env = { COCOON_DOUBLE_CLONE_ERROR: 'out of memory' };
    const { code, stderr } = await node.cocoon(['vm', 'clone', '--name', 'c', 'hot'], { env });
    expect(code).toBe(1);
    expect(stderr).toContain(
      'Error: clone VM: vm.restore: PUT http://localhost/api/v1/vm.restore → 500: out of memory\n',
    );
  });
});
