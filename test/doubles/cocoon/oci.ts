// OCI images: layers become EROFS files, kernel and initrd are taken out of them.
import { createHash } from 'node:crypto';
import { mkdirSync, renameSync, rmSync, writeFileSync, existsSync } from 'node:fs';
import { basename, dirname, join, normalize } from 'node:path';
import type { Invocation } from './command.ts';
import { faults } from './faults.ts';
import { fileSize, isValidFile, randomName } from './files.ts';
import { imageFilesComplete, wrapped } from './images.ts';
import { pause } from './interrupt.ts';
import { logger } from './log.ts';
import type { Entries, OciEntry } from './records.ts';
import { fetchImage, parseReference, type RemoteImage } from './registry.ts';
import { openStore } from './store.ts';
import { readTar } from './tar.ts';
import { goTime } from './text.ts';

/** One processed layer: where its files lie now. */
export interface Layer {
  hex: string;
  erofs: string;
  kernel?: string;
  initrd?: string;
}

/** Pulls a reference; holds the index lock for the whole download, and rewrites the index in any case. */
export async function pullOciImage(call: Invocation, typed: string, quiet = false): Promise<void> {
  const log = logger('cmd.images.pullOCI');
  const say = quiet ? () => {} : (message: string) => log.info(message);
  const reference = parseReference(typed);
  const image = await wrapped(`fetch image ${typed}`, () => fetchImage(reference));
  if (image.layers.length === 0) throw new Error(`image ${typed} has no layers`);
  const store = await openStore(call.config, 'oci');
  await store.update(async ({ images }) => {
    const known = images[typed];
    if (known?.manifest_digest === image.digest && imageFilesComplete(call, known)) {
      logger('oci.pull').debug(`Already up to date: ${typed} (digest: ${image.digest})`);
      return;
    }
    say(`pulling OCI image ${typed} (${image.layers.length} layers)`);
    await pause(faults.pullDelay);
    await inWorkDir(call, 'pull', async (workDir) => {
      const layers = await wrapped('process layers', () => pullLayers(call, image, images, workDir, say));
      say('committing...');
      commitLayers(call, images, typed, image.digest, layers);
      say(`done: ${typed}`);
      logger('oci.pull').info(`Pulled: ${typed} (digest: ${image.digest}, layers: ${layers.length})`);
    });
  });
}

/** Runs with a work directory under temp/ that is gone afterwards, also after a signal. */
export async function inWorkDir(call: Invocation, kind: string, use: (dir: string) => Promise<void>): Promise<void> {
  const dir = join(call.layout.ociDir, 'temp', `${kind}-${randomName()}`);
  mkdirSync(dir, { mode: 0o700 });
  try {
    await use(dir);
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

/** Turns an uncompressed layer into an EROFS file and boot files in the work directory. */
export function convertLayer(tar: Buffer, hex: string, workDir: string): Layer {
  const layer: Layer = { hex, erofs: join(workDir, `${hex}.erofs`) };
  for (const [name, data] of bootFiles(tar)) {
    const path = join(workDir, `${hex}.${name}`);
    writeFileSync(path, data);
    if (name === 'vmlinuz') layer.kernel = path;
    else layer.initrd = path;
  }
  // A superblock where readers look for it; the content only has to differ from the layer's own bytes.
  const superblock = Buffer.alloc(4096);
  superblock.writeUInt32LE(0xe0f5e1e2, 1024);
  superblock.write(hex, 2048);
  writeFileSync(layer.erofs, Buffer.concat([superblock, tar]));
  return layer;
}

/** Moves the files into the store and records the image; every file must be there and not empty. */
export function commitLayers(
  call: Invocation,
  images: Entries<OciEntry>,
  ref: string,
  digest: string,
  layers: Layer[],
): void {
  const { layout } = call;
  let kernel = '';
  let initrd = '';
  for (const layer of layers) {
    move(layer.erofs, layout.ociBlob(layer.hex));
    if (layer.kernel !== undefined) move(layer.kernel, join(layout.ociBootDir(layer.hex), 'vmlinuz'));
    if (layer.initrd !== undefined) move(layer.initrd, join(layout.ociBootDir(layer.hex), 'initrd.img'));
    if (layer.kernel !== undefined) kernel = layer.hex;
    if (layer.initrd !== undefined) initrd = layer.hex;
  }
  if (!kernel || !initrd) throw new Error(`image ${ref} missing boot files (vmlinuz/initrd.img)`);
  const files = [
    ...layers.map(({ hex }) => ({ path: layout.ociBlob(hex), lack: `blob missing for layer sha256:${hex}` })),
    { path: join(layout.ociBootDir(kernel), 'vmlinuz'), lack: `kernel missing for sha256:${kernel}` },
    { path: join(layout.ociBootDir(initrd), 'initrd.img'), lack: `initrd missing for sha256:${initrd}` },
  ];
  for (const { path, lack } of files) if (!isValidFile(path)) throw new Error(`${lack} (concurrent GC?)`);
  images[ref] = {
    ref,
    manifest_digest: digest,
    layers: layers.map(({ hex }) => ({ digest: `sha256:${hex}` })),
    kernel_layer: `sha256:${kernel}`,
    initrd_layer: `sha256:${initrd}`,
    size: files.reduce((sum, { path }) => sum + fileSize(path), 0),
    created_at: goTime(),
  };
}

async function pullLayers(
  call: Invocation,
  image: RemoteImage,
  images: Entries<OciEntry>,
  workDir: string,
  say: (message: string) => void,
): Promise<Layer[]> {
  const layers: Layer[] = [];
  for (const [i, { digest }] of image.layers.entries()) {
    const hex = digest.slice(7);
    const layerDir = join(workDir, `layer-${i}`);
    mkdirSync(layerDir, { mode: 0o750 });
    const fetchLayer = async () => convertLayer(await image.readLayer(digest), hex, layerDir);
    layers.push(
      isValidFile(call.layout.ociBlob(hex)) ? await reuseLayer(call, hex, images, fetchLayer) : await fetchLayer(),
    );
    say(`[${i + 1}/${image.layers.length}] ${hex.slice(0, 12)} done`);
  }
  return recoverBootFiles(call, layers, image, workDir);
}

/** A layer whose EROFS file is kept; boot files that it is known to have had are taken out of it again. */
async function reuseLayer(
  call: Invocation,
  hex: string,
  images: Entries<OciEntry>,
  fetchLayer: () => Promise<Layer>,
): Promise<Layer> {
  const layer = presentLayer(call, hex);
  if (layer.kernel && layer.initrd) return layer;
  const recorded = Object.values(images).some((entry) =>
    [entry?.kernel_layer, entry?.initrd_layer].includes(`sha256:${hex}`),
  );
  if (!layer.kernel && !layer.initrd && !existsSync(call.layout.ociBootDir(hex)) && !recorded) return layer;
  logger('oci.processLayer').warn(`Layer: sha256:${hex.slice(0, 12)} attempting boot file recovery`);
  return { ...(await fetchLayer()), ...layer };
}

/** Where no layer gave a kernel or an initrd, all layers that were reused are searched. */
async function recoverBootFiles(
  call: Invocation,
  layers: Layer[],
  image: RemoteImage,
  workDir: string,
): Promise<Layer[]> {
  if (layers.some(({ kernel }) => kernel) && layers.some(({ initrd }) => initrd)) return layers;
  const healed: Layer[] = [];
  for (const layer of layers) {
    const reused = layer.erofs === call.layout.ociBlob(layer.hex);
    healed.push(
      reused ? { ...convertLayer(await image.readLayer(`sha256:${layer.hex}`), layer.hex, workDir), ...layer } : layer,
    );
  }
  return healed;
}

/** What the store holds of a layer whose EROFS file is there. */
export function presentLayer(call: Invocation, hex: string): Layer {
  const bootDir = call.layout.ociBootDir(hex);
  const layer: Layer = { hex, erofs: call.layout.ociBlob(hex) };
  if (isValidFile(join(bootDir, 'vmlinuz'))) layer.kernel = join(bootDir, 'vmlinuz');
  if (isValidFile(join(bootDir, 'initrd.img'))) layer.initrd = join(bootDir, 'initrd.img');
  return layer;
}

export function hasBootFiles(tar: Buffer): boolean {
  return bootFiles(tar).size > 0;
}

/** Kernel and initrd among the members, in boot/ or at the top, never `.old` ones; the last of each wins. */
function bootFiles(tar: Buffer): Map<'vmlinuz' | 'initrd.img', Buffer> {
  const found = new Map<'vmlinuz' | 'initrd.img', Buffer>();
  for (const member of readLayerTar(tar)) {
    const name = basename(member.name);
    const dir = dirname(normalize(member.name));
    if (member.type !== '0' || name.endsWith('.old') || !['boot', '.'].includes(dir)) continue;
    if (name.startsWith('vmlinuz')) found.set('vmlinuz', member.data);
    else if (name.startsWith('initrd.img')) found.set('initrd.img', member.data);
  }
  return found;
}

function readLayerTar(tar: Buffer) {
  try {
    return readTar(tar);
  } catch (error) {
    const output = 'mkfs.erofs: failed to parse tar stream';
    throw new Error(`mkfs.erofs failed: exit status 1 (output: ${output})`, { cause: error });
  }
}

function move(from: string, to: string): void {
  if (from === to) return;
  mkdirSync(dirname(to), { recursive: true, mode: 0o750 });
  renameSync(from, to);
}

/** The digest of an imported image: it exists in no registry. */
export function importedDigest(layers: Layer[]): string {
  return `sha256:${createHash('sha256')
    .update(layers.map(({ hex }) => hex).join(''))
    .digest('hex')}`;
}
