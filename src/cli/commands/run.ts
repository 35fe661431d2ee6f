/** `reconcile` and `reconcile --dry-run`. */
import { policyOf } from '../../core/model/settings.ts';
import { forecastWords } from '../../core/rollout/pace.ts';
import { count, formatDuration } from '../../core/text.ts';
import type { Node } from '../../core/model/node.ts';
import type { Report } from '../../core/model/report.ts';
import type { RunEvents } from '../../pipeline/run.ts';
import { takeRunLock } from '../../bastion/run-lock.ts';
import { usage } from '../args/kinds.ts';
import type { RunOptions } from '../args/options.ts';
import type { Io, Tool } from '../io.ts';
import { judgeEvents, type Log } from '../log.ts';
import { membersOf } from '../../core/shard/shard.ts';
import { reportFrom, requestFields, withClients, withOptions, type Begun } from '../reporting.ts';
import { configDigest, joinShards, shardAsked } from '../shard.ts';
import { loadNodes, loadSettings } from '../setup.ts';

/** Does the run, prints its report, and returns the exit code. */
export async function runCommand(options: RunOptions, io: Io, tool: Tool): Promise<number> {
  return await reportFrom(options, io, tool, async (begun) => await doRun(options, begun));
}

async function doRun(options: RunOptions, begun: Begun): Promise<Report> {
  const configured = await loadSettings(options, begun.io);
  const settings = withOptions(configured.settings, options);
  begun.io.setGrace(settings.rollout.graceMs);
  if (options.noWait && options.lockTimeoutMs !== undefined)
    throw usage('--no-wait and --lock-timeout exclude each other');
  const shard = shardAsked(options.shard, begun.io);
  const whole = await loadNodes(configured, options.nodes, begun.io);
  const nodes = shard === null ? whole : membersOf(whole, shard);
  const until = options.until === undefined ? null : nextTime(options.until, begun.startedAt);
  const { runPipeline } = await import('../../pipeline/run.ts');
  const request = {
    ...requestFields(begun),
    mode: options.dryRun ? ('dry-run' as const) : ('run' as const),
    settings,
    nodes,
    filters: {
      images: options.images,
      snapshots: options.snapshots,
      ignoreImages: settings.images.ignore,
      ignoreSnapshots: settings.snapshots.ignore,
    },
    policy: policyOf(settings),
    until,
    events: eventsFor(begun.log, nodes, until === null ? 'the deadline' : clockOf(until)),
  };
  return await withClients(settings, begun, async (clients) => {
    if (shard === null) {
      const isAlone = !options.dryRun && options.nodes.length === 0;
      const run = async (): Promise<Report> => await runPipeline({ ...request, clients });
      return isAlone ? await locked(clients.state.dir, settings.rollout.lockTimeoutMs, begun, run) : await run();
    }
    const joining = { shard, config: configDigest(settings, request.filters), isDry: options.dryRun };
    const part = await joinShards(joining, { settings, stateDir: clients.state.dir }, begun);
    return await runPipeline({ ...request, id: part.id, part, clients });
  });
}

/** The next time that the clock here shows so many minutes since midnight, in ms since 1970. */
function nextTime(minutes: number, now: Date): number {
  const at = new Date(now);
  at.setHours(0, minutes, 0, 0);
  if (at <= now) at.setDate(at.getDate() + 1);
  return at.getTime();
}

/** `06:00`, as the clock here shows it. */
function clockOf(ms: number): string {
  const at = new Date(ms);
  return [at.getHours(), at.getMinutes()].map((n) => String(n).padStart(2, '0')).join(':');
}

/** A run that changes the whole fleet goes alone on this machine; one that is given nodes meets others only there. */
async function locked<T>(
  dir: string | null,
  waitMs: number,
  { io, id, startedAt, log }: Begun,
  run: () => Promise<T>,
): Promise<T> {
  if (dir === null) {
    log('warn', 'without a state directory nothing keeps two runs apart but the locks of nodes', {});
    return await run();
  }
  const me = { ...io.who(), run: id, since: startedAt.toISOString() };
  const release = await takeRunLock(dir, me, { waitMs, signal: io.stop });
  try {
    return await run();
  } finally {
    await release();
  }
}

/** The run as it goes, in the log. @param end when all must have ended, for people */
function eventsFor(log: Log, nodes: Node[], end: string): RunEvents {
  log('info', `reading ${count(nodes.length, 'node')}`, {});
  return {
    ...judgeEvents(log),
    onStart: ({ node, kind, reference }) => log('info', `${node.name}: ${kind} begins`, { reference }),
    onPlan: (_plan, { forecast, pace }) => log('info', `planned ${forecastWords(forecast, pace, end)}`, {}),
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
