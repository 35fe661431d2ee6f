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
