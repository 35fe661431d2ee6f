/** `reconcile` and `reconcile --dry-run`. */
import { policyOf } from '../../core/model/settings.ts';
import { count, formatDuration } from '../../core/text.ts';
import type { Node } from '../../core/model/node.ts';
import type { Report } from '../../core/model/report.ts';
import type { RunEvents } from '../../pipeline/run.ts';
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
  const shard = shardAsked(options.shard, begun.io);
  const whole = await loadNodes(configured, options.nodes, begun.io);
  const nodes = shard === null ? whole : membersOf(whole, shard);
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
    events: eventsFor(begun.log, nodes),
  };
  return await withClients(settings, begun, async (clients) => {
    if (shard === null) return await runPipeline({ ...request, clients });
    const joining = { shard, config: configDigest(settings, request.filters), isDry: options.dryRun };
    const part = await joinShards(joining, { settings, stateDir: clients.state.dir }, begun);
    return await runPipeline({ ...request, id: part.id, part, clients });
  });
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
