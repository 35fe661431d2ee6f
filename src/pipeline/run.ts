/** The order of the stages: observe, resolve and judge, then plan, tidy, apply, report. */
import { nothingJudged } from '../core/report/judged.ts';
import { planTidying, tidiedByActions, type Tidying } from '../core/plan/leftovers.ts';
import { planActions, withPlan, withResults } from '../core/plan/actions.ts';
import { assemble, type Parts, type Signal } from '../core/report/report.ts';
import { selectRows, type Filters } from '../core/plan/select.ts';
import type { ServedSnapshots } from '../core/judge/snapshots.ts';
import type { Action, Policy } from '../core/model/plan.ts';
import type { Report, RunMode } from '../core/model/report.ts';
import type { ActionResult, Step, TidyResult } from '../core/model/result.ts';
import { everythingOn, judgeFleet, type JudgeEvents, type Judged, type JudgeRequest } from './judge.ts';

/** What the outside is told while a run goes on. */
export interface RunEvents extends JudgeEvents {
  onPlan: (actions: Action[]) => void;
  onStep: (action: Action, step: Step) => void;
  onResult: (result: ActionResult) => void;
  onTidied: (result: TidyResult) => void;
}

export interface RunRequest extends JudgeRequest {
  tool: { name: string; version: string };
  id: string;
  mode: RunMode;
  startedAt: Date;
  filters: Filters;
  policy: Policy;
  events: RunEvents;
  /** The signal of the operating system that ended the run, if one did. */
  interruptedBy: () => Signal | null;
}

/**
 * Does what the mode says and reports it. Trouble with nodes, tags and actions is in the report's rows.
 * @throws ReconcileError FILTER_EMPTY
 */
export async function runPipeline(request: RunRequest): Promise<Report> {
  const { mode, events, policy } = request;
  const judged = await judgeFleet(request, (seen) => everythingOn(request.settings.snapshots, seen));
  const { observations, served, hot, error } = judged;
  const selected = selectRows(
    { verdicts: judged.verdicts, desired: served.desired, snapshots: hot.snapshots },
    request.filters,
  );
  const actions = error === null ? planActions(selected.verdicts, observations, served, pinnedSizes(hot), policy) : [];
  const planned = withPlan(selected.verdicts, actions);
  events.onPlan(actions);

  const tidyings = error === null ? planTidying(observations, actions) : [];
  const isWork = mode === 'run' && actions.length + tidyings.length > 0;
  const { tidied, results } = isWork ? await apply(request, judged, tidyings, actions) : NOTHING_DONE;

  const { tool, id, startedAt, filters } = request;
  const isAsked = [...filters.images, ...filters.snapshots].some((pattern) => !pattern.startsWith('!'));
  const parts: Parts = {
    tool,
    run: {
      id,
      mode,
      startedAt: startedAt.toISOString(),
      finishedAt: request.now().toISOString(),
      blobDepth: served.depth,
    },
    error: error ?? nothingJudged(selected.verdicts, judged.verdicts, observations, isAsked),
    signal: request.interruptedBy(),
    desired: selected.desired,
    snapshots: selected.snapshots,
    observations,
    verdicts: withResults(planned, results),
    actions,
    tidied,
  };
  return assemble(parts);
}

function pinnedSizes({ lookups }: ServedSnapshots): Record<string, number> {
  return Object.fromEntries(
    Object.values(lookups).flatMap((lookup) =>
      lookup.state === 'there' ? [[lookup.reference, lookup.sizeBytes]] : [],
    ),
  );
}

/** What came of a run beyond its verdicts. */
interface Done {
  tidied: TidyResult[];
  results: ActionResult[];
}

const NOTHING_DONE: Done = { tidied: [], results: [] };

async function apply(
  request: RunRequest,
  { served, hot, observations }: Judged,
  tidyings: Tidying[],
  actions: Action[],
): Promise<Done> {
  // oxlint-disable-next-line no-restricted-imports -- this is the one place, past the decision to change anything
  const { applyPlan, tidyAll } = await import('./apply/rollout.ts');
  const context = { ...request, served, hot, observations };
  const before = await tidyAll(tidyings, context);
  const results = await applyPlan(actions, context);
  await request.clients.state.save();
  return { tidied: [...before, ...tidiedByActions(observations, actions, results)], results };
}
