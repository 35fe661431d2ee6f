/** The header of a qcow2 file, as far as it matters here: big-endian numbers from its first byte on. */

/** Of the header, what tells a base image from another file. */
export const HEADER_BYTES = 20;
/** qemu itself allows 1023. */
const MAX_NAME_BYTES = 4096;

/** In the path of a backing file: what is no text, or was not read. Such a path cannot be looked for. */
export const UNREADABLE = '\ufffd';

/** True for the first bytes of any qcow2 file. */
export function isQcow2(head: Uint8Array): boolean {
  return [0x51, 0x46, 0x49, 0xfb].every((byte, i) => head[i] === byte);
}

/** True for the header of a qcow2 file of version 3 without a backing file: the only form of a base blob. */
export function isPlainQcow2(head: Uint8Array): boolean {
  if (!isQcow2(head) || head.length < HEADER_BYTES) return false;
  const view = viewOf(head);
  return view.getUint32(4) === 3 && view.getBigUint64(8) === 0n;
}

/** Bits of the incompatible features, at byte 72 of a header of version 3. */
const CORRUPT = 1n << 1n;
const EXTERNAL_DATA = 1n << 2n;
/** A header of version 3 is at least so long, in bytes, one of version 2 ends before that. */
const LEAST_BYTES = { 2: 72, 3: 104 } as const;

/**
 * Why a pull of a disk that begins so gives nodes nothing that a guest can start from, or null: an external data file is
 * on no node, nothing there has the key of an encrypted disk, and what is marked corrupt or cut short cannot be opened.
 * @param head its first bytes, at least 104 of them unless the disk itself is shorter
 */
export function whyUnusable(head: Uint8Array): string | null {
  if (!isQcow2(head)) return null;
  const view = viewOf(head);
  const version = head.length < 8 ? 3 : view.getUint32(4);
  if (version !== 2 && version !== 3) return `it is a qcow2 of version ${version}, which nobody knows`;
  const least = LEAST_BYTES[version];
  if (head.length < least) return `its qcow2 header is cut short: ${head.length} bytes and not ${least}`;
  const method = view.getUint32(32);
  if (method !== 0)
    return `the disk is encrypted (${method === 2 ? 'LUKS' : `method ${method}`}), and no node has its key`;
  if (version === 2) return null;
  const features = view.getBigUint64(72);
  if ((features & CORRUPT) !== 0n) return 'the disk is marked corrupt: qemu-img check -r all mends it, or a copy does';
  if ((features & EXTERNAL_DATA) !== 0n) return 'the disk keeps its data in an external file, which no node has';
  return null;
}

/** Where in an overlay the path of its backing file is, in bytes; null where it names none. */
export function backingPlace(head: Uint8Array): { from: number; to: number } | null {
  if (!isQcow2(head) || head.length < HEADER_BYTES) return null;
  const view = viewOf(head);
  const from = view.getBigUint64(8);
  const length = view.getUint32(16);
  if (from === 0n || from > Number.MAX_SAFE_INTEGER || length === 0 || length > MAX_NAME_BYTES) return null;
  return { from: Number(from), to: Number(from) + length };
}

function viewOf(head: Uint8Array): DataView {
  return new DataView(head.buffer, head.byteOffset, head.byteLength);
}
