/** The order of the stages: observe, resolve and judge, then plan, tidy, apply, report. */
import { setTimeout as sleep } from 'node:timers/promises';
import { nothingJudged } from '../core/report/judged.ts';
import { planTidying, tidiedByActions } from '../core/plan/leftovers.ts';
import { planActions } from '../core/plan/actions.ts';
import { remediesUnder } from '../core/plan/remedy.ts';
import { reportRows } from '../core/report/rows.ts';
import { assemble, type Parts } from '../core/report/report.ts';
import type { Signal } from '../core/model/exit-codes.ts';
import { isAnyNamed, selectFindings, type Filters } from '../core/plan/select.ts';
import type { Action, Plan, Policy } from '../core/model/plan.ts';
import type { Report, RunMode } from '../core/model/report.ts';
import type { ActionResult, Applied, Step, TidyResult } from '../core/model/result.ts';
import type { SharedRun } from '../bastion/shared-run.ts';
import { shardName, type Shard } from '../core/shard/shard.ts';
import { NOTHING_SAID } from '../core/shard/standing.ts';
import type { Pace, Remembered } from '../core/model/rollout.ts';
import { forecast, type Forecast } from '../core/rollout/pace.ts';
import { byUrgency } from '../core/rollout/turns.ts';
import { rememberRun } from '../core/rollout/remember.ts';
import { keepRollout, recallRollout } from '../bastion/rollout-memory.ts';
import { createPacer } from '../core/rollout/bandwidth.ts';
import { everythingOn, judgeFleet, type JudgeEvents, type JudgeRequest } from './judge.ts';

/** What the outside is told while a run goes on. */
export interface RunEvents extends JudgeEvents {
  /** Before anything of it is done; a dry run ends here. */
  onPlan: (plan: Plan, outlook: Outlook) => void;
  onStart: (action: Action) => void;
  onStep: (action: Action, step: Step) => void;
  onResult: (result: ActionResult) => void;
  onTidied: (result: TidyResult) => void;
}

/** What the plan needs of the night; the pace is that of earlier runs, or null. */
export interface Outlook {
  forecast: Forecast;
  pace: Pace | null;
}

/** A part of the fleet in a run that several processes do together. */
export interface Part {
  shard: Shard;
  /** Stands for all that the config and the options say. */
  config: string;
  /** Null where no others can be met: then nothing may be changed. */
  shared: SharedRun | null;
}

export interface RunRequest extends JudgeRequest {
  tool: { name: string; version: string };
  id: string;
  mode: RunMode;
  startedAt: Date;
  filters: Filters;
  policy: Policy;
  events: RunEvents;
  /** Of a part of the fleet: which one, and how it meets the others. */
  part?: Part;
  /** Ends the changes that are going on: later than `signal`, after which none begins. */
  workSignal: AbortSignal;
  /** When all that begins must have ended, in ms since 1970; null where only the run's own deadline counts. */
  until: number | null;
  /** The signal of the operating system that ended the run, if one did. */
  interruptedBy: () => Signal | null;
}

/**
 * Does what the mode says and reports it. Trouble with nodes, tags and actions is in the report's rows.
 * @throws ReconcileError FILTER_EMPTY
 */
export async function runPipeline(request: RunRequest): Promise<Report> {
  try {
    return await doRun(request);
  } catch (error) {
    // the others do not wait for a part that is not done
    await request.part?.shared?.tell({ ...NOTHING_SAID, phase: 'done' }).catch(() => undefined);
    throw error;
  }
}

async function doRun(request: RunRequest): Promise<Report> {
  const { mode, events, policy, settings, nodes, id } = request;
  await waitForEpoch(request);
  const judged = await judgeFleet(request, (seen) => everythingOn(settings.snapshots, seen));
  const { observations, catalog, scope, error } = judged;
  const selected = selectFindings(
    { findings: judged.findings, desired: Object.values(catalog.images), snapshots: catalog.snapshots },
    request.filters,
  );
  const { findings } = selected;
  const remedyFor = remediesUnder(policy.repair, settings.epoch.url, nodes);
  const remembered = await recallRollout(request.clients.state.dir);
  const asked = { findings, observations, scope, policy, remedyFor, runId: id, remembered };
  const actions = error === null ? planActions(asked) : [];
  const plan: Plan = { tidyings: error === null ? planTidying(observations, actions) : [], actions };
  events.onPlan(plan, outlookOn(request, actions, remembered));

  // the other shards must hear also of a part in which nothing is to be done
  const isWork = mode === 'run' && (actions.length + plan.tidyings.length > 0 || isOneOfMany(request.part));
  const {
    tidied,
    results,
    actions: applied,
  } = isWork ? await carryOut(request, plan, remembered) : { ...NOTHING_DONE, actions };

  const { tool, startedAt } = request;
  const parts: Parts = {
    tool,
    run: {
      id,
      mode,
      startedAt: startedAt.toISOString(),
      finishedAt: request.now().toISOString(),
      blobDepth: scope.depth,
      ...(request.part === undefined ? {} : { shard: shardName(request.part.shard), config: request.part.config }),
    },
    error: error ?? nothingJudged(findings, judged.findings, observations, isAnyNamed(request.filters)),
    signal: request.interruptedBy(),
    desired: selected.desired,
    snapshots: selected.snapshots,
    observations,
    rows: reportRows(findings, remedyFor, { actions: applied, results }),
    actions,
    tidied: [...tidied, ...tidiedByActions(observations, actions, results)],
  };
  return assemble(parts);
}

/** How long an epoch that does not answer is left alone before it is asked again, in ms. */
const ASK_EPOCH_MS = 2_000;

/** Sits out an upgrade of epoch, as long as `epoch.waitFor` says; what is so in the end the resolving says. */
async function waitForEpoch({ settings, clients: { epoch }, signal, events }: RunRequest): Promise<void> {
  const endsAt = performance.now() + settings.epoch.waitForMs;
  let isSaid = false;
  while (performance.now() < endsAt && !signal.aborted) {
    try {
      return await epoch.ping(signal);
    } catch {
      if (!isSaid) events.onTrouble('epoch does not answer: waiting for it (epoch.waitFor)');
      isSaid = true;
      const pauseMs = Math.min(ASK_EPOCH_MS, Math.max(0, endsAt - performance.now()));
      await sleep(pauseMs, undefined, { signal }).catch(() => undefined);
    }
  }
}

function outlookOn(request: RunRequest, actions: Action[], { pace }: Remembered): Outlook {
  const sizes = actions
    .filter(({ blocked }) => blocked === null)
    .sort(byUrgency)
    .map(({ sizeBytes }) => sizeBytes);
  return { forecast: forecast(sizes, pace, leftMs(request)), pace };
}

/** In so many ms all that begins now must have ended. */
function leftMs({ remainingMs, until, now }: RunRequest): number {
  return Math.min(remainingMs(), until === null ? Infinity : until - now().getTime());
}

const NOTHING_DONE: Applied = { tidied: [], results: [], pace: null };

/** The plan is all that is handed on: what changes nodes knows neither the catalog nor the settings. */
async function carryOut(
  request: RunRequest,
  plan: Plan,
  remembered: Remembered,
): Promise<Applied & Pick<Plan, 'actions'>> {
  const { clients, policy, signal, workSignal, remainingMs, events, part } = request;
  const { maxPulls, maxFailures, lockTimeoutMs, canary } = policy;
  const times = {
    ending: signal,
    signal: workSignal,
    remainingMs,
    leftMs: () => leftMs(request),
    pace: remembered.pace,
  };
  // each shard has its part of the bandwidth
  const bytesPerSecond = policy.bandwidth === null ? null : policy.bandwidth / (part?.shard.count ?? 1);
  const pacer = bytesPerSecond === null ? null : createPacer(bytesPerSecond, () => performance.now());
  const limits = { maxPulls, maxFailures, lockTimeoutMs, ...times, pacer, events };
  const applied = isOneOfMany(part) ? await applyPart(part) : await applyWhole();
  const told = rememberRun(remembered, plan.actions, applied.results, applied.pace);
  const problem = await keepRollout(clients.state.dir, told);
  if (problem !== null) events.onTrouble(problem);
  return applied;

  async function applyPart(mine: Part & { shared: SharedRun }): Promise<Applied & Pick<Plan, 'actions'>> {
    // oxlint-disable-next-line no-restricted-imports -- past the decision to change anything, as below
    const { applyShard } = await import('./apply/shards.ts');
    return await applyShard(plan, clients, limits, { ...mine, canary });
  }
  async function applyWhole(): Promise<Applied & Pick<Plan, 'actions'>> {
    // oxlint-disable-next-line no-restricted-imports -- this is the one place, past the decision to change anything
    const { applyPlan } = await import('./apply/rollout.ts');
    return { ...(await applyPlan(plan, clients, limits)), actions: plan.actions };
  }
}

/** A part of several; where the others cannot be met, nothing may be changed, and the cli has refused it. */
function isOneOfMany(part: Part | undefined): part is Part & { shared: SharedRun } {
  return part !== undefined && part.shared !== null && part.shard.count > 1;
}
