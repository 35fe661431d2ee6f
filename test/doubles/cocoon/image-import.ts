// `image import NAME [FILE…]`: qcow2 becomes a cloud image, tar an OCI image.
import { createHash } from 'node:crypto';
import { closeSync, openSync, rmSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { commit, readHead, sniff, type CommitEvents } from './cloudimg.ts';
import type { Invocation } from './command.ts';
import { faults } from './faults.ts';
import { gunzipLoosely, isValidFile, randomName, readFile } from './files.ts';
import { initImages, wrapped } from './images.ts';
import { logger, writeOut } from './log.ts';
import {
  commitLayers,
  convertLayer,
  hasBootFiles,
  importedDigest,
  inWorkDir,
  presentLayer,
  type Layer,
} from './oci.ts';
import { QCOW2_MAGIC } from './qcow2.ts';
import { inputFrom, stdin, type Input } from './stdin.ts';
import { openStore } from './store.ts';
import { looksLikeTar } from './tar.ts';
import { goSystemError } from './text.ts';

export async function importImage(call: Invocation): Promise<void> {
  const [name = '', ...files] = call.args;
  const log = logger('cmd.image.import');
  if (files.length === 0) {
    log.info('importing from stdin ...');
    return importStream(call, name, stdin());
  }
  const [first = ''] = files;
  const head = detect(first);
  const several = files.length > 1;
  if (isGzip(head)) {
    if (several) throw new Error(`stream imports accept exactly one file, got ${files.length}`);
    logger('cmd.images.importLocalStream').info(`importing from ${first} ...`);
    return importStream(call, name, inputFrom(readFile(first)));
  }
  if (isQcow2(head)) {
    log.info(several ? `importing split qcow2 parts (${files.length} files) ...` : `importing qcow2 file ${first} ...`);
    return importQcow2Files(call, name, files);
  }
  if (!looksLikeTar(head)) throw new Error(`cannot detect file type for ${first} (expected qcow2 or tar)`);
  log.info(several ? `importing tar layers (${files.length} files) ...` : `importing tar file ${first} ...`);
  return importTars(call, name, files);
}

function detect(file: string): Buffer {
  try {
    return readHead(file, 512);
  } catch (error) {
    throw new Error(`open ${file}: ${goSystemError('open', file, error)}`, { cause: error });
  }
}

/** Anything that is no qcow2 counts as a tar here. */
async function importStream(call: Invocation, name: string, input: Input): Promise<void> {
  const head = await input.peek(4);
  if (head.length < 2) throw new Error('detect image type: peek: EOF');
  const content = isGzip(head) ? inputFrom(gunzip(await input.rest())) : input;
  const magic = await content.peek(4);
  if (magic.length < 4) throw new Error('detect image type: peek content: EOF');
  if (!isQcow2(magic)) return importTarStream(call, name, content);
  initImages(call, ['cloudimg']);
  logger('cmd.images.importCloudimgReader').info(`reading stream for ${name}`);
  const parts = [await content.rest()];
  await wrapped(`import ${name}`, () => storeQcow2(call, name, parts, 'cmd.images.importCloudimgReader'));
}

async function importQcow2Files(call: Invocation, name: string, files: string[]): Promise<void> {
  const func = 'cmd.images.importCloudimgFiles';
  const log = logger(func);
  initImages(call, ['cloudimg']);
  await wrapped(`import ${name}`, async () => {
    const [first = ''] = files;
    log.info(files.length === 1 ? `hashing ${first}` : `hashing split qcow2 parts (${files.length} files)`);
    const parts = files.map(readFile);
    if (files.length > 1) return storeQcow2(call, name, parts, func);
    const hex = sha256(parts);
    if (!isValidFile(call.layout.cloudimgBlob(hex))) return storeQcow2(call, name, parts, func);
    await commit(call, name, first, hex, events(func, name));
    logger('cloudimg.import').info(`import complete (cached): ${name} -> sha256:${hex}`);
  });
}

async function storeQcow2(call: Invocation, name: string, parts: Buffer[], func: string): Promise<void> {
  await wrapped(`import ${name}`, async () =>
    sniff(Buffer.concat(parts.map((part) => part.subarray(0, 8))).subarray(0, 8)),
  );
  const temporary = join(call.layout.cloudimgDir, 'temp', `import-${randomName()}.img`);
  try {
    const fd = openSync(temporary, 'wx', 0o600);
    for (const part of parts) writeSync(fd, part);
    closeSync(fd);
    const hex = sha256(parts);
    await commit(call, name, temporary, hex, events(func, name));
    logger('cloudimg.import').info(`import complete: ${name} -> sha256:${hex}`);
  } finally {
    rmSync(temporary, { force: true });
  }
}

async function importTars(call: Invocation, name: string, files: string[]): Promise<void> {
  const log = logger('cmd.images.importOCIFiles');
  initImages(call, ['oci']);
  await wrapped(`import ${name}`, async () => {
    const store = await openStore(call.config, 'oci');
    await store.update(async ({ images }) => {
      log.info(`importing ${name} (${files.length} layer(s))`);
      await inWorkDir(call, 'import', async (workDir) => {
        const layers = files.map((file, i) => {
          const layer = wrappedSync('process layers', () => importLayer(call, readFile(file), workDir));
          log.info(`[${i + 1}/${files.length}] ${layer.hex.slice(0, 12)} done`);
          return layer;
        });
        record(call, images, name, layers, log);
      });
    });
  });
}

/** Holds the index lock until the stream has ended. */
async function importTarStream(call: Invocation, name: string, content: Input): Promise<void> {
  const log = logger('cmd.images.importOCIReader');
  initImages(call, ['oci']);
  await wrapped(`import ${name}`, async () => {
    const store = await openStore(call.config, 'oci');
    await store.update(async ({ images }) => {
      log.info(`importing ${name} (1 layer from stream)`);
      await inWorkDir(call, 'import', async (workDir) => {
        const tar = await content.rest();
        const layer = wrappedSync('process layer', () => importLayer(call, tar, workDir));
        log.info(`[1/1] ${layer.hex.slice(0, 12)} done`);
        record(call, images, name, [layer], log);
      });
    });
  });
}

function record(
  call: Invocation,
  images: Parameters<typeof commitLayers>[1],
  name: string,
  layers: Layer[],
  log: ReturnType<typeof logger>,
): void {
  const digest = importedDigest(layers);
  log.info('committing...');
  commitLayers(call, images, name, digest, layers);
  log.info(`done: ${name}`);
  logger('oci.import').info(`Imported: ${name} (digest: ${digest}, layers: ${layers.length})`);
}

/** v0.3.8 dies in a layer with boot files, leaving its work directory; one without them lacks a kernel later. */
function importLayer(call: Invocation, tar: Buffer, workDir: string): Layer {
  const hex = sha256([tar]);
  if (!faults.newer && hasBootFiles(tar)) {
    writeOut(2, 'panic: runtime error: slice bounds out of range [:12] with length 8\n\ngoroutine 1 [running]:\n');
    process.exit(2);
  }
  const fresh = convertLayer(tar, hex, workDir);
  return isValidFile(call.layout.ociBlob(hex)) ? { ...fresh, ...presentLayer(call, hex) } : fresh;
}

function events(func: string, name: string): CommitEvents {
  const log = logger(func);
  return {
    converting: () => log.info('converting to qcow2...'),
    committing: () => log.info('committing...'),
    done: () => log.info(`done: ${name}`),
  };
}

function gunzip(data: Buffer): Buffer {
  try {
    return gunzipLoosely(data);
  } catch (error) {
    throw new Error('detect image type: gzip: gzip: invalid header', { cause: error });
  }
}

function wrappedSync<R>(prefix: string, run: () => R): R {
  try {
    return run();
  } catch (error) {
    throw new Error(`${prefix}: ${(error as Error).message}`, { cause: error });
  }
}

function sha256(parts: Buffer[]): string {
  const hash = createHash('sha256');
  for (const part of parts) hash.update(part);
  return hash.digest('hex');
}

function isGzip(head: Buffer): boolean {
  return head[0] === 0x1f && head[1] === 0x8b;
}

function isQcow2(head: Buffer): boolean {
  return head.subarray(0, 4).equals(QCOW2_MAGIC);
}
