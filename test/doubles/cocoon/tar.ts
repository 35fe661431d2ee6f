// Tar archives as cocoon writes and reads them: flat, ustar, with PAX records for sparse members.

export interface TarEntry {
  name: string;
  data: Buffer;
  /** Permission bits; default 0644. */
  mode?: number;
  /** PAX records written before the member. */
  pax?: Record<string, string>;
}

/** A member that was read; `type` is the ustar type flag ('0' for a regular file). */
export interface TarMember {
  name: string;
  data: Buffer;
  mode: number;
  type: string;
  pax: Record<string, string>;
}

const BLOCK = 512;

/** An archive of the given members, closed by two zero blocks. */
export function makeTar(entries: readonly TarEntry[]): Buffer {
  const parts: Buffer[] = [];
  for (const entry of entries) {
    if (entry.pax) parts.push(...member(`PaxHeaders/${entry.name}`, paxBody(entry.pax), 0o644, 'x'));
    parts.push(...member(entry.name, entry.data, entry.mode ?? 0o644, '0'));
  }
  parts.push(Buffer.alloc(2 * BLOCK));
  return Buffer.concat(parts);
}

/** Reads every member; throws with Go's sentences where the archive is torn or garbage. */
export function readTar(archive: Buffer): TarMember[] {
  const members: TarMember[] = [];
  let pax: Record<string, string> = {};
  let at = 0;
  while (at < archive.length) {
    const header = archive.subarray(at, at + BLOCK);
    if (header.length < BLOCK) throw new Error('unexpected EOF');
    at += BLOCK;
    if (header.every((byte) => byte === 0)) return members;
    if (checksum(header) !== octal(header, 148, 8)) throw new Error('archive/tar: invalid tar header');
    const size = octal(header, 124, 12);
    const data = archive.subarray(at, at + size);
    if (data.length < size) throw new Error('unexpected EOF');
    at += Math.ceil(size / BLOCK) * BLOCK;
    const type = String.fromCharCode(header[156] ?? 0).replace('\0', '0');
    if (type === 'x') {
      pax = parsePax(data);
      continue;
    }
    if (type === 'g') continue;
    const prefix = text(header, 345, 155);
    const name = pax['path'] ?? (prefix ? `${prefix}/${text(header, 0, 100)}` : text(header, 0, 100));
    members.push({ name, data, mode: octal(header, 100, 8) & 0o7777, type, pax });
    pax = {};
  }
  return members;
}

/** True when the bytes begin with a header block whose checksum is right. */
export function looksLikeTar(head: Buffer): boolean {
  if (head.length < BLOCK) return false;
  const header = head.subarray(0, BLOCK);
  return header.some((byte) => byte !== 0) && checksum(header) === octal(header, 148, 8);
}

function member(name: string, data: Buffer, mode: number, type: string): Buffer[] {
  const header = Buffer.alloc(BLOCK);
  header.write(name.slice(0, 100), 0, 'utf8');
  header.write(`${mode.toString(8).padStart(7, '0')}\0`, 100);
  header.write('0000000\0', 108);
  header.write('0000000\0', 116);
  header.write(`${data.length.toString(8).padStart(11, '0')}\0`, 124);
  header.write('00000000000\0', 136);
  header.write(type, 156);
  header.write('ustar\x0000', 257);
  header.write(`${checksum(header).toString(8).padStart(6, '0')}\0 `, 148);
  return [header, data, Buffer.alloc((BLOCK - (data.length % BLOCK)) % BLOCK)];
}

function paxBody(records: Record<string, string>): Buffer {
  const lines = Object.entries(records).map(([key, value]) => {
    const rest = ` ${key}=${value}\n`;
    let length = Buffer.byteLength(rest) + 1;
    while (String(length).length + Buffer.byteLength(rest) !== length) length += 1;
    return `${length}${rest}`;
  });
  return Buffer.from(lines.join(''));
}

function parsePax(body: Buffer): Record<string, string> {
  const records: Record<string, string> = {};
  let at = 0;
  while (at < body.length) {
    const space = body.indexOf(0x20, at);
    const length = Number(body.toString('utf8', at, space));
    const record = body.toString('utf8', space + 1, at + length - 1);
    const equals = record.indexOf('=');
    records[record.slice(0, equals)] = record.slice(equals + 1);
    at += length;
  }
  return records;
}

/** The sum of all header bytes with the checksum field taken as blanks. */
function checksum(header: Buffer): number {
  let sum = 8 * 0x20;
  for (let i = 0; i < BLOCK; i += 1) if (i < 148 || i >= 156) sum += header[i] ?? 0;
  return sum;
}

function octal(header: Buffer, offset: number, length: number): number {
  return Number.parseInt(text(header, offset, length).trim() || '0', 8);
}

function text(header: Buffer, offset: number, length: number): string {
  const field = header.subarray(offset, offset + length);
  const end = field.indexOf(0);
  return field.toString('utf8', 0, end < 0 ? length : end);
}
