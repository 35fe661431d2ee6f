// The qcow2 format: writing small valid images, and reading the header fields that cocoon reads.
import { createCipheriv, createHash } from 'node:crypto';

/** Where the four bytes `QFI\xfb` begin a file, it is a qcow2 image. */
export const QCOW2_MAGIC = Buffer.from([0x51, 0x46, 0x49, 0xfb]);

export interface Qcow2Options {
  /** Header version: 3 is compat 1.1, 2 is compat 0.10; others make an image that cocoon refuses. Default 3. */
  version?: number;
  /** Backing file as written into the header. */
  backing?: string;
  /** Size of the file in bytes, where the tables fit in; the rest is filled with bytes that follow from `seed`. */
  size?: number;
  /** Two images of one size and different seeds have different digests. */
  seed?: string | number;
  /** Size of the disk as a guest sees it; default: just enough for the data. */
  virtualSize?: number;
  /** log2 of the cluster size; default 12. */
  clusterBits?: number;
}

export interface Qcow2Header {
  version: number;
  backing: string | null;
  virtualSize: number;
}

/** Deterministic bytes that do not compress, from a seed. */
export function seededBytes(seed: string | number, length: number): Buffer {
  const key = createHash('sha256').update(String(seed)).digest();
  return createCipheriv('aes-256-ctr', key, Buffer.alloc(16)).update(Buffer.alloc(length));
}

/** A complete image that `qemu-img check` finds clean: header, refcounts, L1, L2 and data clusters. */
export function makeQcow2(options: Qcow2Options = {}): Buffer {
  const { version = 3, backing, seed = 0, clusterBits = 12 } = options;
  const cluster = 2 ** clusterBits;
  const perTable = cluster / 8;
  const size = options.size ?? 8 * cluster;

  // The tables need room themselves, so the number of data clusters is found from above.
  const blocks = Math.max(1, Math.ceil(Math.ceil(size / cluster) / (cluster / 2)));
  const layoutFor = (data: number) => {
    const l2Tables = Math.ceil(data / perTable);
    const virtualSize = options.virtualSize ?? Math.max(data, 1) * cluster;
    const l1Entries = Math.ceil(virtualSize / (cluster * perTable));
    const l1Clusters = Math.ceil((l1Entries * 8) / cluster);
    return { data, l2Tables, virtualSize, l1Entries, l1Clusters, used: 2 + blocks + l1Clusters + l2Tables + data };
  };
  const leastData = size === 0 ? 0 : 1;
  let layout = layoutFor(Math.max(leastData, Math.floor(size / cluster) - 3 - blocks));
  while (layout.data > leastData && layout.used * cluster > size) layout = layoutFor(layout.data - 1);

  const image = Buffer.alloc(Math.max(size, layout.used * cluster));
  const l1At = (2 + blocks) * cluster;
  const l2At = l1At + layout.l1Clusters * cluster;
  const dataAt = l2At + layout.l2Tables * cluster;

  QCOW2_MAGIC.copy(image, 0);
  image.writeUInt32BE(version, 4);
  image.writeUInt32BE(clusterBits, 20);
  image.writeBigUInt64BE(BigInt(layout.virtualSize), 24);
  image.writeUInt32BE(layout.l1Entries, 36);
  image.writeBigUInt64BE(BigInt(l1At), 40);
  image.writeBigUInt64BE(BigInt(cluster), 48); // refcount table
  image.writeUInt32BE(1, 56);
  if (version >= 3) {
    image.writeUInt32BE(4, 96); // 16-bit refcounts
    image.writeUInt32BE(104, 100);
  }
  if (backing !== undefined) {
    const at = version >= 3 ? 112 : 80; // behind the end mark of the header extensions
    image.writeBigUInt64BE(BigInt(at), 8);
    image.writeUInt32BE(Buffer.byteLength(backing), 16);
    image.write(backing, at);
  }
  for (let i = 0; i < blocks; i += 1) image.writeBigUInt64BE(BigInt((2 + i) * cluster), cluster + i * 8);
  for (let i = 0; i < layout.used; i += 1) image.writeUInt16BE(1, 2 * cluster + i * 2);
  const copied = 1n << 63n;
  for (let i = 0; i < layout.l2Tables; i += 1) {
    image.writeBigUInt64BE(copied | BigInt(l2At + i * cluster), l1At + i * 8);
  }
  for (let i = 0; i < layout.data; i += 1) {
    image.writeBigUInt64BE(copied | BigInt(dataAt + i * cluster), l2At + i * 8);
  }
  seededBytes(seed, image.length - dataAt).copy(image, dataAt);
  return image;
}

/** The writable disk of a guest on a cloud image: empty, 10 GiB, backed by an absolute path. */
export function makeOverlay(backingPath: string, virtualSize = 10 * 2 ** 30): Buffer {
  return makeQcow2({ backing: backingPath, virtualSize, clusterBits: 13, size: 0 });
}

/** The fields that cocoon and the hypervisor go by, or null where the bytes are no qcow2 header. */
export function readQcow2Header(head: Buffer): Qcow2Header | null {
  if (head.length < 32 || !head.subarray(0, 4).equals(QCOW2_MAGIC)) return null;
  const offset = Number(head.readBigUInt64BE(8));
  const length = head.readUInt32BE(16);
  return {
    version: head.readUInt32BE(4),
    backing: offset === 0 ? null : head.toString('utf8', offset, offset + length),
    virtualSize: Number(head.readBigUInt64BE(24)),
  };
}
