// Log lines on stderr as zerolog's console writer prints them.
import { writeSync } from 'node:fs';
import { constants } from 'node:os';

const LEVELS = { debug: 'DBG', info: 'INF', warn: 'WRN', error: 'ERR' };
const COLOURS = { debug: '', info: '\x1b[32m', warn: '\x1b[33m', error: '\x1b[31m' };
const ORDER = ['debug', 'info', 'warn', 'error'] as const;
type Level = (typeof ORDER)[number];

let threshold: Level = 'info';

export function setLogLevel(level: string): void {
  if (!(ORDER as readonly string[]).includes(level)) {
    throw new Error(`Unknown Level String: '${level}', defaulting to NoLevel`);
  }
  threshold = level as Level;
}

/**
 * Writes at once, so that output is complete whatever ends the process. Like every Go program this one dies of a
 * closed stdout or stderr, in the middle of its work and without cleaning up.
 */
export function writeOut(descriptor: 1 | 2, text: string): void {
  let rest = Buffer.from(text);
  while (rest.length > 0) {
    try {
      rest = rest.subarray(writeSync(descriptor, rest));
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code === 'EPIPE') process.exit(128 + constants.signals.SIGPIPE);
      if (code !== 'EAGAIN') throw error;
    }
  }
}

/** A logger whose lines end in `func=<name>`. */
export function logger(func: string) {
  return {
    debug: (message: string) => write('debug', message, func),
    info: (message: string) => write('info', message, func),
    warn: (message: string) => write('warn', message, func),
  };
}

function write(level: Level, message: string, func: string): void {
  if (ORDER.indexOf(level) < ORDER.indexOf(threshold)) return;
  const plain = Boolean(process.env['NO_COLOR']);
  const paint = (code: string, text: string) => (plain || !code ? text : `${code}${text}\x1b[0m`);
  const bold = level === 'debug' ? '' : '\x1b[1m';
  const line = [
    paint('\x1b[90m', rfc822(new Date())),
    paint(COLOURS[level], LEVELS[level]),
    paint(bold, message),
    `${paint('\x1b[36m', 'func=')}${func}`,
  ].join(' ');
  writeOut(2, `${line}\n`);
}

/** `27 Apr 26 19:40 CST`: no seconds. */
function rfc822(date: Date): string {
  const part = (options: Intl.DateTimeFormatOptions) => new Intl.DateTimeFormat('en-GB', options).format(date);
  const two = (n: number) => String(n).padStart(2, '0');
  const zone = /\(([A-Z]+)\)|([A-Z]{3,4})$/.exec(part({ timeZoneName: 'short' }));
  const month = part({ month: 'short' }).slice(0, 3);
  const clock = `${two(date.getHours())}:${two(date.getMinutes())}`;
  return `${two(date.getDate())} ${month} ${two(date.getFullYear() % 100)} ${clock} ${zone?.[1] ?? zone?.[2] ?? 'UTC'}`;
}
