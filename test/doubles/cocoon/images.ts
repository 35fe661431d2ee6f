// `image list|inspect|rm` and what both image backends share.
import { isSet, print, printJson, printList, type Invocation } from './command.ts';
import { faults } from './faults.ts';
import { ensureDirs, isValidFile } from './files.ts';
import { logger } from './log.ts';
import type { CloudimgEntry, Entries, OciEntry } from './records.ts';
import { openStore, type Store } from './store.ts';
import { humanSize, quote, tableTime } from './text.ts';

export type BackendName = 'oci' | 'cloudimg';
type Entry = CloudimgEntry | OciEntry;

/** An image as commands show it. */
export interface Image {
  id: string;
  name: string;
  type: BackendName;
  size: number;
  created_at: string;
}

/** Refuses prefixes that say too little. */
const SHORTEST_PREFIX = 12;

/** OCI first: so lists and error texts are ordered. */
const BACKENDS: BackendName[] = ['oci', 'cloudimg'];

/** Creates the directories of both backends, as every image command does. */
export function initImages(call: Invocation, names: BackendName[] = BACKENDS): void {
  for (const name of names) {
    try {
      ensureDirs(...call.layout.dirs[name]);
    } catch (error) {
      throw new Error(`init ${name} backend: ${(error as Error).message}`, { cause: error });
    }
  }
}

export function digestOfEntry(entry: Entry): string {
  return 'content_sum' in entry ? entry.content_sum : entry.manifest_digest;
}

/** All keys that an identifier names: the exact key, else every key whose digest it is or begins. */
export function lookupKeys(images: Entries<Entry>, id: string): string[] {
  if (images[id]) return [id];
  const hex = id.replace(/^sha256:/, '');
  const keys = Object.entries(images).filter(([, entry]) => {
    const own = entry ? digestOfEntry(entry).replace(/^sha256:/, '') : '';
    return entry && (own === hex || (hex.length >= SHORTEST_PREFIX && own.startsWith(hex)));
  });
  return shuffle(keys.map(([key]) => key));
}

/** The one image an identifier names in a backend, or null. In N a prefix of several digests names none. */
export async function findImage(call: Invocation, type: BackendName, id: string): Promise<Image | null> {
  const { images } = await imageStore(call, type).then((store) => store.read());
  const keys = lookupKeys(images, id);
  if (faults.newer && spansDigests(images, keys)) return null;
  const entry = images[keys[0] ?? ''];
  return entry ? toImage(type, entry) : null;
}

export async function listImages(call: Invocation): Promise<void> {
  initImages(call);
  const all: Image[] = [];
  for (const type of BACKENDS) {
    const { images } = await wrapped(`list ${type}`, () => imageStore(call, type).then((store) => store.read()));
    const entries = Object.values(images).filter((entry) => entry !== null);
    all.push(...shuffle(entries.map((entry) => toImage(type, entry))));
  }
  if (all.length === 0) return print('No images found.\n');
  printList(call, all, ['TYPE', 'NAME', 'DIGEST', 'SIZE', 'CREATED'], (image: Image) => [
    image.type,
    image.name,
    image.id.slice(0, 'sha256:'.length + 12),
    humanSize(image.size),
    tableTime(image.created_at),
  ]);
}

export async function inspectImage(call: Invocation): Promise<void> {
  initImages(call);
  const ref = call.args[0] ?? '';
  const owner = await owningBackend(call, ref);
  const image = await findImage(call, owner, ref);
  if (!image) throw new Error(`image ${quote(ref)}: disappeared during resolve`);
  printJson(image);
}

/** Removes index entries only; files stay until `gc`. */
export async function removeImages(call: Invocation): Promise<void> {
  initImages(call);
  const log = logger('cmd.image.rm');
  const owners = new Map<BackendName, string[]>();
  for (const ref of call.args) {
    const owner = await owningBackend(call, ref);
    owners.set(owner, [...(owners.get(owner) ?? []), ref]);
  }
  const deleted: string[] = [];
  for (const [owner, refs] of owners) {
    const store = await imageStore(call, owner);
    await store.update(({ images }) => {
      for (const ref of refs) {
        const keys = lookupKeys(images, ref);
        if (faults.newer && spansDigests(images, keys)) {
          throw new Error(`image ref ${quote(ref)} is ambiguous (matches multiple digests), use a longer prefix`);
        }
        for (const key of keys) delete images[key];
        deleted.push(...keys);
      }
    });
  }
  for (const key of deleted) log.info(`deleted: ${key}`);
  if (deleted.length === 0) log.info('no matching images found');
}

/** `image pull [--force] IMAGE…`: URLs are cloud images, all else comes from a registry. */
export async function pullImages(call: Invocation): Promise<void> {
  initImages(call);
  for (const ref of call.args) {
    await wrapped(`pull ${ref}`, async () => {
      if (/^https?:\/\//.test(ref)) {
        const { pullCloudImage } = await import('./cloudimg.ts');
        await pullCloudImage(call, ref, isSet(call, 'force'));
      } else {
        const { pullOciImage } = await import('./oci.ts');
        await pullOciImage(call, ref);
      }
    });
  }
}

/** The entry that `vm run` would boot from: exact key, or full digest; no prefixes. */
export function lookupExactly<E extends Entry>(images: Entries<E>, id: string): E | null {
  const byDigest = Object.values(images).find((entry) => entry && [id, `sha256:${id}`].includes(digestOfEntry(entry)));
  return images[id] ?? byDigest ?? null;
}

export async function imageStore(call: Invocation, type: BackendName): Promise<Store<{ images: Entries<Entry> }>> {
  return (await openStore(call.config, type)) as Store<{ images: Entries<Entry> }>;
}

/** Runs something whose failures get a prefix. */
export async function wrapped<R>(prefix: string, run: () => Promise<R>): Promise<R> {
  try {
    return await run();
  } catch (error) {
    throw new Error(`${prefix}: ${(error as Error).message}`, { cause: error });
  }
}

/** True where a cloud image's blob or all files of an OCI image are there and not empty. */
export function imageFilesComplete(call: Invocation, entry: Entry): boolean {
  const { layout } = call;
  const hex = (digest: string) => digest.replace(/^sha256:/, '');
  if ('content_sum' in entry) return isValidFile(layout.cloudimgBlob(hex(entry.content_sum)));
  return (
    isValidFile(`${layout.ociBootDir(hex(entry.kernel_layer))}/vmlinuz`) &&
    isValidFile(`${layout.ociBootDir(hex(entry.initrd_layer))}/initrd.img`) &&
    entry.layers.every((layer) => isValidFile(layout.ociBlob(hex(layer.digest))))
  );
}

async function owningBackend(call: Invocation, ref: string): Promise<BackendName> {
  const owners: BackendName[] = [];
  for (const type of BACKENDS) {
    if (await wrapped(`inspect ${ref} in ${type}`, () => findImage(call, type, ref))) owners.push(type);
  }
  const [owner] = owners;
  if (owner === undefined) throw new Error(`image ${quote(ref)}: not found in any backend`);
  if (owners.length === 1) return owner;
  throw new Error(`image ${ref}: image ref resolves to multiple backends (backends: ${owners.join(', ')})`);
}

function spansDigests(images: Entries<Entry>, keys: string[]): boolean {
  return new Set(keys.map((key) => digestOfEntry(images[key] as Entry))).size > 1;
}

function toImage(type: BackendName, entry: Entry): Image {
  return { id: digestOfEntry(entry), name: entry.ref, type, size: entry.size, created_at: entry.created_at };
}

/** Go iterates its maps in random order; so do we, lest a client rely on one. */
function shuffle<T>(items: T[]): T[] {
  return items
    .map((item) => ({ item, rank: Math.random() }))
    .sort((a, b) => a.rank - b.rank)
    .map(({ item }) => item);
}
