/** Log lines on stderr: pretty on a terminal, JSON elsewhere. Synchronous, so that none is lost at the end. */
import { formatBytes } from '../core/text.ts';
import type { LogLevel } from './args.ts';

export type Log = (
  level: 'debug' | 'info' | 'warn' | 'error',
  message: string,
  fields: Record<string, unknown>,
) => void;

/** The logging library is loaded only where there may be something to log. */
export async function createLog(level: LogLevel, isTerminal: boolean, color: boolean): Promise<Log> {
  if (level === 'silent') return () => undefined;
  const { pino, destination } = await import('pino');
  const options = { level, base: null, timestamp: () => `,"time":"${new Date().toISOString()}"` };
  const stream = isTerminal
    ? (await import('pino-pretty')).default({ colorize: color, sync: true, destination: 2, translateTime: 'HH:MM:ss' })
    : destination({ fd: 2, sync: true });
  const logger = pino(options, stream);
  return (at, message, fields) => logger[at](fields, message);
}

/** Says how far reading a split image is: at its begin, at each tenth, and at its end. */
export function progressLog(log: Log): (image: { image: string; tag: string }, bytes: number, total: number) => void {
  const said = new Map<string, number>();
  return ({ image, tag }, bytes, total) => {
    const name = `${image}:${tag}`;
    const tenth = total === 0 ? 10 : Math.floor((10 * bytes) / total);
    if (tenth <= (said.get(name) ?? -1)) return;
    said.set(name, tenth);
    log(
      'warn',
      `${name}: reading its parts to learn its content digest: ${formatBytes(bytes)} of ${formatBytes(total)}`,
      {},
    );
  };
}
