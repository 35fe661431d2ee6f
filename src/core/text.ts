/** Text for people: control characters out, digests shortened, durations and bytes parsed and printed. */

/**
 * Removes what a terminal would act on, and what nobody sees: control characters, ANSI sequences, all that changes the
 * direction of text or has no width. Whatever ends a line, and tabs, become single spaces, so that one message stays one line.
 */
export function plain(text: string): string {
  return (
    text
      // oxlint-disable-next-line no-control-regex -- finding control characters is the point
      .replace(/\x1b\[[0-?]*[ -/]*[@-~]/g, '')
      .replace(/[\r\n\t\u0085\u2028\u2029]+/g, ' ')
      .replace(UNSEEN, '')
  );
}

/** Controls, formats (bidirectional, zero-width, tags), lone surrogates, and fillers that are drawn as nothing. */
const UNSEEN = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}\u115f\u1160\u3164\uffa0]/gu;

/** The same document with nothing in it that a terminal would act on: what `plain` removes is escaped here. */
export function printableJson(value: unknown): string {
  const escaped = (unseen: string): string =>
    Array.from({ length: unseen.length }, (_, i) => `\\u${unseen.charCodeAt(i).toString(16).padStart(4, '0')}`).join(
      '',
    );
  return `${JSON.stringify(value, null, 2).replace(UNSEEN, (unseen) => (unseen === '\n' ? unseen : escaped(unseen)))}\n`;
}

/** As `plain`, and at most `max` characters, the end marked by an ellipsis. */
export function clip(text: string, max: number): string {
  const clean = plain(text);
  return clean.length > max ? `${clean.slice(0, max - 1).replace(/[\ud800-\udbff]$/, '')}…` : clean;
}

/** The first line that says something; empty where none does. */
export function firstLine(text: string): string {
  return /\S.*/.exec(text)?.[0] ?? '';
}

/** `sha256:a1b2c3d4e5f6…` → `a1b2c3d4e5f6`: as many digits as `cocoon image list` shows. */
export function shortDigest(digest: string | null): string {
  return digest === null ? '—' : digest.replace(/^sha256:/, '').slice(0, 12);
}

const DURATION_UNITS: Record<string, number> = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 };

/** `500ms`, `10s`, `15m`, `2h`, `1h30m` → milliseconds; null when it is no duration. */
export function parseDuration(text: string): number | null {
  if (!/^(\d+(\.\d+)?(ms|s|m|h|d))+$/.test(text)) return null;
  let total = 0;
  for (const [, value, unit] of text.matchAll(/(\d+(?:\.\d+)?)(ms|s|m|h|d)/g)) {
    total += Number(value) * (DURATION_UNITS[unit as string] as number);
  }
  return total;
}

/** Milliseconds as people say them: `0.4 s`, `12 s`, `3 min 5 s`, `2 h 10 min`. */
export function formatDuration(ms: number): string {
  if (ms < 9_950) return `${(ms / 1000).toFixed(1)} s`;
  const seconds = Math.round(ms / 1000);
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
  return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
}

/** The same without spaces, for what stands among other figures: `45s`, `22m`, `5h10m`. */
export function briefDuration(ms: number): string {
  const seconds = Math.round(ms / 1000);
  if (seconds < 60) return `${seconds}s`;
  const minutes = Math.round(seconds / 60);
  const rest = minutes % 60;
  return minutes < 60
    ? `${minutes}m`
    : `${Math.floor(minutes / 60)}h${rest === 0 ? '' : `${String(rest).padStart(2, '0')}m`}`;
}

const SIZE_UNITS: Record<string, number> = {
  B: 1,
  kB: 1e3,
  KB: 1e3,
  MB: 1e6,
  GB: 1e9,
  TB: 1e12,
  KiB: 2 ** 10,
  MiB: 2 ** 20,
  GiB: 2 ** 30,
  TiB: 2 ** 40,
};

/** `5GiB`, `500MB`, `4096` → bytes; null when it is no size. */
export function parseSize(text: string): number | null {
  const match = /^(\d+(?:\.\d+)?)\s*([kKMGT]i?B|B)?$/.exec(text);
  if (match === null) return null;
  const unit = SIZE_UNITS[match[2] ?? 'B'];
  return unit === undefined ? null : Math.round(Number(match[1]) * unit);
}

/** Bytes in decimal units with three digits, as registries and disks are sold: `5.80 GB`. */
export function formatBytes(bytes: number): string {
  const units = ['B', 'kB', 'MB', 'GB', 'TB', 'PB'];
  let value = bytes;
  let unit = 0;
  while (value >= 999.5 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${unit === 0 ? value : value.toPrecision(3)} ${units[unit]}`;
}

/** `1 node`, `2 nodes`. */
export function count(n: number, noun: string): string {
  return `${n} ${noun}${n === 1 ? '' : 's'}`;
}

/** One word for a POSIX shell, whatever is in it: single quotes, and left alone where none are needed. */
export function shellQuote(word: string): string {
  return /^[A-Za-z0-9_./:@%+=,-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}
