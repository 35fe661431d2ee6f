/** `reconcile` and `reconcile --dry-run`. */
import { policyOf, type Settings } from '../../core/model/settings.ts';
import { count, formatDuration } from '../../core/text.ts';
import type { Node } from '../../core/model/node.ts';
import type { Report } from '../../core/model/report.ts';
import { unlessAborted } from '../../system/deadline.ts';
import type { RunEvents } from '../../pipeline/run.ts';
import type { RunOptions } from '../args/commands.ts';
import type { Io, Tool } from '../io.ts';
import { createLog, judgeEvents, type Log } from '../log.ts';
import { printReport } from '../print.ts';
import { loadNodes, loadSettings, openClients, runId } from '../setup.ts';

/** Does the run, prints its report, and returns the exit code. */
export async function runCommand(options: RunOptions, io: Io, tool: Tool): Promise<number> {
  const startedAt = new Date();
  const id = runId(startedAt);
  const log = await createLog(options, io);
  const report = await attempt({ options, io, tool, log, id, startedAt });
  await printReport(report, options, io);
  return report.run.exitCode;
}

interface Begun {
  options: RunOptions;
  io: Io;
  tool: Tool;
  log: Log;
  id: string;
  startedAt: Date;
}

async function attempt({ options, io, tool, log, id, startedAt }: Begun): Promise<Report> {
  const configured = await loadSettings(options, io);
  const settings = withFlags(configured.settings, options);
  const nodes = await loadNodes(configured, options.nodes, io);
  const { runPipeline } = await import('../../pipeline/run.ts');
  const { clients, close } = await unlessAborted(openClients(settings, io, log), io.stop);
  try {
    return await runPipeline({
      tool,
      id,
      mode: modeOf(options),
      startedAt,
      settings,
      nodes,
      filters: {
        images: options.images,
        snapshots: options.snapshots,
        ignoreImages: settings.images.ignore,
        ignoreSnapshots: settings.snapshots.ignore,
      },
      policy: policyOf(settings),
      clients,
      events: eventsFor(log, nodes),
      signal: io.stop,
      remainingMs: io.remainingMs,
      interruptedBy: io.interruptedBy,
      now: () => new Date(),
    });
  } finally {
    await close();
  }
}

/** Flags win over the file. */
function withFlags(settings: Settings, options: RunOptions): Settings {
  const { rollout, verify, ssh, run, images, repair } = settings;
  return {
    ...settings,
    ssh: { ...ssh, concurrency: options.concurrency ?? ssh.concurrency },
    verify: { ...verify, blob: options.deep ? 'sha256' : verify.blob, clone: options.clone ?? verify.clone },
    rollout: {
      ...rollout,
      canary: options.canary ?? rollout.canary,
      maxPulls: options.maxPulls ?? rollout.maxPulls,
      maxFailures: options.maxFailures ?? rollout.maxFailures,
    },
    images: { ...images, stream: images.stream && options.stream },
    repair: {
      corruptBlobs: options.repair?.includes('replace') ? 'replace' : repair.corruptBlobs,
      restoreBases: options.repair?.includes('restore') ? 'restore' : repair.restoreBases,
    },
    run: { ...run, timeoutMs: options.timeoutMs ?? run.timeoutMs },
  };
}

/** The run as it goes, in the log. */
function eventsFor(log: Log, nodes: Node[]): RunEvents {
  log('info', `reading ${count(nodes.length, 'node')}`, {});
  return {
    ...judgeEvents(log),
    onPlan: ({ actions }) => log('info', `planned ${count(actions.length, 'action')}`, {}),
    onStep: ({ node, reference }, { step, ok, durationMs, error }) => {
      const how = ok === null ? 'nothing to test' : ok ? 'ok' : 'failed';
      log('info', `${node.name}: ${step} ${how} after ${formatDuration(durationMs)}`, {
        reference,
        ...(error === null ? {} : { code: error.code }),
      });
    },
    onResult: ({ node, reference, outcome, reason }) => log('info', `${node}: ${outcome}`, { reference, reason }),
    onTidied: ({ node, name, outcome, error }) =>
      log('info', `${node}: ${outcome}: ${name}`, error === null ? {} : { code: error.code }),
  };
}

function modeOf({ dryRun }: RunOptions): 'run' | 'dry-run' {
  return dryRun ? 'dry-run' : 'run';
}
