/** What the commands have in common that end with a report: run and gate. */
import type { Settings } from '../core/model/settings.ts';
import type { Report } from '../core/model/report.ts';
import type { Clients } from '../pipeline/judge.ts';
import { unlessAborted } from '../system/deadline.ts';
import type { CommonOptions, GateOptions, RunOptions } from './args/options.ts';
import type { Io, Tool } from './io.ts';
import { createLog, type Log } from './log.ts';
import { printReport, type Asked } from './print.ts';
import { openClients, runId } from './setup.ts';

/** A command that has begun: who does it, under which id, and since when. */
export interface Begun {
  io: Io;
  tool: Tool;
  log: Log;
  id: string;
  startedAt: Date;
}

/**
 * Makes a report, prints it as the options say, and returns its exit code.
 * @throws what `make` throws: nothing is printed then
 */
export async function reportFrom(
  options: CommonOptions & Asked,
  io: Io,
  tool: Tool,
  make: (begun: Begun) => Promise<Report>,
): Promise<number> {
  const startedAt = new Date();
  const report = await make({ io, tool, log: await createLog(options, io), id: runId(startedAt), startedAt });
  await printReport(report, options, io);
  return report.run.exitCode;
}

/** Opens the clients for some work, and closes them whatever its end. */
export async function withClients<T>(
  settings: Settings,
  { io, log }: Begun,
  work: (clients: Clients) => Promise<T>,
): Promise<T> {
  const { clients, close } = await unlessAborted(openClients(settings, io, log), io.stop);
  try {
    return await work(clients);
  } finally {
    await close();
  }
}

/** The fields that every request to the pipeline takes from the command that makes it. */
export function requestFields({ io, tool, id, startedAt }: Begun) {
  const { stop: signal, workStop: workSignal, remainingMs, interruptedBy } = io;
  return { tool, id, startedAt, signal, workSignal, remainingMs, interruptedBy, now: () => new Date() };
}

/** The options that stand for a key of the config. */
type SettingOptions = Partial<
  Pick<RunOptions, 'concurrency' | 'deep' | 'stream' | 'timeoutMs' | 'clone' | 'canary' | 'maxPulls' | 'maxFailures'> &
    Pick<RunOptions, 'repair' | 'lockTimeoutMs' | 'noWait' | 'graceMs'> &
    Pick<GateOptions, 'minReady'>
>;

/** Options win over the file. */
export function withOptions(settings: Settings, options: SettingOptions): Settings {
  const { rollout, verify, ssh, run, images, repair, gate } = settings;
  return {
    ...settings,
    ssh: { ...ssh, concurrency: options.concurrency ?? ssh.concurrency },
    verify: { ...verify, blob: options.deep ? 'sha256' : verify.blob, clone: options.clone ?? verify.clone },
    rollout: {
      ...rollout,
      canary: options.canary ?? rollout.canary,
      maxPulls: options.maxPulls ?? rollout.maxPulls,
      maxFailures: options.maxFailures ?? rollout.maxFailures,
      lockTimeoutMs: options.noWait ? 0 : (options.lockTimeoutMs ?? rollout.lockTimeoutMs),
      graceMs: options.graceMs ?? rollout.graceMs,
    },
    images: { ...images, stream: images.stream && (options.stream ?? true) },
    repair: {
      corruptBlobs: options.repair?.includes('replace') ? 'replace' : repair.corruptBlobs,
      restoreBases: options.repair?.includes('restore') ? 'restore' : repair.restoreBases,
    },
    gate: { ...gate, minReady: options.minReady ?? gate.minReady },
    run: { ...run, timeoutMs: options.timeoutMs ?? run.timeoutMs },
  };
}
