/** The order of the stages: observe and resolve, judge, plan, apply, report. */
import type { Registry } from '../adapters/registry.ts';
import type { Ssh } from '../adapters/ssh.ts';
import { infoOf } from '../core/errors.ts';
import { judgeImages, needsStoredForm, type Served } from '../core/images.ts';
import { planActions, withPlan, withResults } from '../core/plan.ts';
import { assemble, type Parts, type Signal } from '../core/report.ts';
import { selectRows, type Filters } from '../core/select.ts';
import type { Settings } from '../core/settings.ts';
import { judgeSnapshots, type ServedSnapshots } from '../core/snapshots.ts';
import type {
  Action,
  ActionResult,
  ErrorInfo,
  Node,
  NodeVerdicts,
  Observation,
  Policy,
  Report,
  RunMode,
  Step,
} from '../core/types.ts';
import { observeAll } from './observe.ts';
import { createResolver, resolveAll, type Resolved, type Resolver } from './resolve.ts';

/** What the outside is told while a run goes on. */
export interface RunEvents {
  onNode: (observation: Observation) => void;
  onPlan: (actions: Action[]) => void;
  onStep: (action: Action, step: Step) => void;
  onResult: (result: ActionResult) => void;
}

export interface RunRequest {
  tool: { name: string; version: string };
  id: string;
  mode: RunMode;
  startedAt: Date;
  settings: Settings;
  nodes: Node[];
  filters: Filters;
  policy: Policy;
  ssh: Ssh;
  registry: Registry;
  events: RunEvents;
  /** Aborted, with a ReconcileError as its reason, by the run's deadline and by signals. */
  signal: AbortSignal;
  /** The signal of the operating system that ended the run, if one did. */
  interruptedBy: () => Signal | null;
  now: () => Date;
}

/**
 * Does what the mode says and reports it. Trouble with nodes, tags and actions is in the report's rows.
 * @throws ReconcileError FILTER_EMPTY
 */
export async function runPipeline(request: RunRequest): Promise<Report> {
  const { mode, events } = request;
  const { observations, served, hot, verdicts, error } = await judgeFleet(request, referencesOn);
  const selected = selectRows({ verdicts, desired: served.desired, snapshots: hot.snapshots }, request.filters);

  const actions =
    error === null ? planActions(selected.verdicts, observations, served.desired, served.covers, request.policy) : [];
  const planned = withPlan(selected.verdicts, actions);
  events.onPlan(actions);

  const results = mode === 'run' && actions.length > 0 ? await apply(request, served, hot, actions) : [];

  const { tool, id, startedAt } = request;
  const parts: Parts = {
    tool,
    run: { id, mode, startedAt: startedAt.toISOString(), finishedAt: request.now().toISOString() },
    error,
    signal: request.interruptedBy(),
    desired: selected.desired,
    snapshots: selected.snapshots,
    observations,
    verdicts: withResults(planned, results),
    actions,
  };
  return assemble(parts);
}

/** What judging needs of a request: it knows no mode, no filter and no policy. */
export interface JudgeRequest extends Pick<RunRequest, 'settings' | 'nodes' | 'ssh' | 'registry' | 'signal' | 'now'> {
  events: Pick<RunEvents, 'onNode'>;
}

/** Everything that is known before anything is planned. */
export interface Judged {
  observations: Observation[];
  served: Served;
  hot: ServedSnapshots;
  verdicts: NodeVerdicts[];
  /** Of a run that got no answer from epoch at all. */
  error: ErrorInfo | null;
}

/**
 * Observes, resolves and judges.
 * @param referencesOf which references found on nodes epoch is asked about, beside what the settings track
 */
export async function judgeFleet(
  request: JudgeRequest,
  referencesOf: (observations: Observation[]) => string[],
): Promise<Judged> {
  const { settings, signal, registry, events } = request;
  const resolver = createResolver(registry, settings.epoch.url, signal);
  const resolveFor = async (observations: Observation[]): Promise<Resolved> =>
    await resolveAll(
      resolver,
      { images: settings.images.track, snapshots: settings.snapshots.track },
      referencesOf(observations),
      settings.images.discover,
    );
  const [observations] = await Promise.all([
    observeAll(request.ssh, request.nodes, settings.ssh.concurrency, signal, events.onNode),
    resolveFor([]), // asked early; the answers are remembered
  ]);
  const resolved = await resolveFor(observations);
  const error = await noAnswer(request, resolved);

  const served = await servedBy(request, resolver, resolved, observations);
  const hot: ServedSnapshots = {
    snapshots: resolved.snapshots,
    tracked: settings.snapshots.track,
    discover: settings.snapshots.discover,
    now: request.now().getTime(),
  };
  const verdicts = observations.map((observation) => ({
    node: observation.node.name,
    images: judgeImages(served, observation),
    snapshots: judgeSnapshots(served, hot, observation),
  }));
  return { observations, served, hot, verdicts, error };
}

/** Every reference that a node holds, and that a snapshot there is based on. */
function referencesOn(observations: Observation[]): string[] {
  return observations.flatMap(({ observed }) => [
    ...(observed?.entries ?? []).filter((entry) => entry.type === 'cloudimg').map((entry) => entry.reference),
    ...(observed?.snapshots ?? []).flatMap(({ base, baseType }) =>
      base !== null && baseType === 'cloudimg' ? [base] : [],
    ),
  ]);
}

/** The error of a run that got no answer from epoch at all: then nothing can be said, and nothing is changed. */
async function noAnswer({ registry, signal }: JudgeRequest, resolved: Resolved): Promise<ErrorInfo | null> {
  if (registry.hasAnswered() || signal.aborted) return null;
  const first = [...resolved.desired, ...resolved.snapshots].find((item) => item.error?.code.startsWith('REGISTRY_'));
  if (first !== undefined) return first.error;
  try {
    await registry.ping(signal);
    return null;
  } catch (error) {
    return signal.aborted ? null : infoOf(error);
  }
}

/** What epoch serves, with the stored form of the images whose blobs look wrong somewhere. */
async function servedBy(
  request: JudgeRequest,
  resolver: Resolver,
  resolved: Resolved,
  observations: Observation[],
): Promise<Served> {
  const { settings } = request;
  const served: Served = {
    epochUrl: settings.epoch.url,
    desired: resolved.desired,
    covers: resolved.covers,
    tracked: settings.images.track,
    depth: settings.verify.blob,
  };
  const unclear = new Set(needsStoredForm(served, observations));
  const desired = await Promise.all(
    resolved.desired.map(async (image, place) => (unclear.has(place) ? await resolver.withStoredForm(image) : image)),
  );
  return { ...served, desired };
}

async function apply(
  request: RunRequest,
  served: Served,
  hot: ServedSnapshots,
  actions: Action[],
): Promise<ActionResult[]> {
  // oxlint-disable-next-line no-restricted-imports -- this is the one place, past the decision to change anything
  const { applyPlan } = await import('./apply.ts');
  const { settings, registry, signal, events, nodes, policy, ssh } = request;
  return await applyPlan(actions, {
    ssh,
    nodes,
    policy,
    served,
    hot,
    vm: settings.verify.vm,
    runId: request.id,
    resolver: () => createResolver(registry, settings.epoch.url, signal),
    signal,
    onStep: events.onStep,
    onResult: events.onResult,
  });
}
