/** Log lines on stderr: pretty on a terminal, JSON elsewhere. Synchronous, so that none is lost at the end. */
import { redact } from '../system/secrets.ts';
import { formatBytes, plain } from '../core/text.ts';
import type { JudgeEvents } from '../pipeline/judge.ts';
import type { CommonOptions } from './args/options.ts';
import { levelOf, wantsColor, type Io } from './io.ts';

export type Log = (
  level: 'debug' | 'info' | 'warn' | 'error',
  message: string,
  fields: Record<string, unknown>,
) => void;

/** The logging library is loaded only where there may be something to log. */
export async function createLog(options: CommonOptions, io: Io): Promise<Log> {
  const level = levelOf(options);
  if (level === 'silent') return () => undefined;
  const { default: pino } = await import('pino');
  const settings = { level, base: null, timestamp: () => `,"time":"${new Date().toISOString()}"` };
  const colorize = wantsColor(options.color, io, io.stderrIsTerminal);
  const stream = io.stderrIsTerminal
    ? (await import('pino-pretty')).default({ colorize, sync: true, destination: 2, translateTime: 'HH:MM:ss' })
    : pino.destination({ fd: 2, sync: true });
  stream.on('error', () => undefined); // a full disk ends the log and not the run
  const logger = pino(settings, stream);
  return (at, message, fields) => logger[at](printable(redact(fields)), plain(redact(message)));
}

function printable(fields: Record<string, unknown>): Record<string, unknown> {
  const entries = Object.entries(fields).map(([key, value]) => [key, typeof value === 'string' ? plain(value) : value]);
  return Object.fromEntries(entries) as Record<string, unknown>;
}

/** Reading and judging as they go. What is wrong with a node is also in the report, so it is no warning here. */
export function judgeEvents(log: Log): JudgeEvents {
  return {
    onNode: ({ node, status, error, durationMs }) =>
      log('info', `${node.name}: ${status}`, {
        durationMs,
        ...(error === null ? {} : { code: error.code, error: error.message }),
      }),
    onStream: progressLog(log),
    onTrouble: (message) => log('warn', message, {}),
  };
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
