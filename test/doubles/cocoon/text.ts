// Text as Go programs write it: JSON, quoting, times, sizes, tables and the words of system errors.
import { faults } from './faults.ts';

/** Compact JSON with Go's HTML escaping; Go leaves fields out that are undefined here. */
export function goJson(value: unknown, indent = 0): string {
  return JSON.stringify(value, null, indent).replace(
    /[<>&\u2028\u2029]/g,
    (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
}

/** `%q`. */
export function quote(text: string): string {
  return JSON.stringify(text);
}

/** The current time as Go marshals it: local zone, up to nine digits of a second, no trailing zeros. */
export function goTime(date = new Date()): string {
  const nanos = String(date.getMilliseconds() * 1_000_000 + Math.floor(Math.random() * 1_000_000)).padStart(9, '0');
  const fraction = nanos.replace(/0+$/, '');
  return `${localParts(date).join('T')}${fraction ? `.${fraction}` : ''}${zoneOffset(date)}`;
}

/** `2006-01-02 15:04:05` in local time, as tables show it. */
export function tableTime(time: string): string {
  return localParts(new Date(time)).join(' ');
}

function localParts(date: Date): [string, string] {
  const two = (n: number) => String(n).padStart(2, '0');
  return [
    `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`,
    `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`,
  ];
}

function zoneOffset(date: Date): string {
  const minutes = -date.getTimezoneOffset();
  if (minutes === 0) return 'Z';
  const two = (n: number) => String(n).padStart(2, '0');
  return `${minutes < 0 ? '-' : '+'}${two(Math.floor(Math.abs(minutes) / 60))}:${two(Math.abs(minutes) % 60)}`;
}

/** Decimal units with four significant digits, `5.798GB`. */
export function decimalSize(bytes: number): string {
  return scaled(bytes, 1000, ['B', 'kB', 'MB', 'GB', 'TB', 'PB']);
}

/** Binary units with four significant digits, `512MiB`. */
export function binarySize(bytes: number): string {
  return scaled(bytes, 1024, ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB']);
}

/** A size in the units of this generation. */
export function humanSize(bytes: number): string {
  return faults.newer ? binarySize(bytes) : decimalSize(bytes);
}

function scaled(bytes: number, base: number, units: string[]): string {
  let value = bytes;
  let unit = 0;
  while (value >= base && unit < units.length - 1) {
    value /= base;
    unit += 1;
  }
  return `${Number(value.toPrecision(4))}${units[unit]}`;
}

/** `512M`, `10G`, `1.5GiB` in bytes, binary units; null when it is none of these. */
export function parseSize(text: string): number | null {
  const match = /^(\d+(?:\.\d+)?)\s?([kmgtp]?)i?b?$/i.exec(text.trim());
  if (!match) return null;
  return Math.floor(Number(match[1]) * 1024 ** ('kmgtp'.indexOf((match[2] ?? '').toLowerCase()) + 1 || 0));
}

/** Columns padded to their widest cell and two blanks more; the last one is left as it is. */
export function table(rows: string[][]): string {
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)) + 2);
  const lines = rows.map((row) =>
    row.map((cell, column) => (column === row.length - 1 ? cell : cell.padEnd(widths[column] ?? 0))).join(''),
  );
  return `${lines.join('\n')}\n`;
}

const SYSTEM_ERRORS: Record<string, string> = {
  EACCES: 'permission denied',
  EEXIST: 'file exists',
  EISDIR: 'is a directory',
  ENOENT: 'no such file or directory',
  ENOSPC: 'no space left on device',
  ENOTDIR: 'not a directory',
  EPERM: 'operation not permitted',
  EROFS: 'read-only file system',
};

/** `open /x: no such file or directory`: a failed system call in Go's words. */
export function goSystemError(operation: string, path: string, error: unknown): string {
  const code = (error as NodeJS.ErrnoException).code ?? '';
  return `${operation} ${path}: ${SYSTEM_ERRORS[code] ?? (error as Error).message}`;
}

/** Parses JSON; failures carry Go's sentence. */
export function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    const message = (error as Error).message;
    const bad = /Unexpected token '?(.)/.exec(message)?.[1];
    if (bad === undefined || /Unterminated|end of JSON/.test(message)) {
      throw new Error('unexpected end of JSON input', { cause: error });
    }
    throw new Error(`invalid character '${bad}' looking for beginning of value`, { cause: error });
  }
}
