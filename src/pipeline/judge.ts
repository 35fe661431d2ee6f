/** Everything up to the verdicts: observe the nodes, ask the registries, learn what neither tells, judge. Changes nothing. */
import { startDeadline } from '../system/deadline.ts';
import type { Registry } from '../registry/client.ts';
import type { Ssh } from '../ssh/client.ts';
import type { State } from '../bastion/state.ts';
import { needsStoredForm } from '../core/judge/blobs.ts';
import { errorInfo, fault, infoOf } from '../core/errors.ts';
import { judgeImages, standsFor, suspectOf, type Served } from '../core/judge/images.ts';
import { ignores } from '../core/plan/select.ts';
import { addressesOf, type Settings } from '../core/model/settings.ts';
import { formatDuration } from '../core/text.ts';
import {
  basesFor,
  basesOn,
  judgeSnapshots,
  lookupKey,
  neededLookups,
  needsForm,
  type Lookup,
  type LookupRequest,
  type ServedSnapshots,
} from '../core/judge/snapshots.ts';
import type { DesiredImage } from '../core/model/desired.ts';
import type { ErrorInfo } from '../core/model/error.ts';
import type { Node } from '../core/model/node.ts';
import type { Observation } from '../core/model/observed.ts';
import type { NodeVerdicts } from '../core/model/report.ts';
import { findSuspects } from './resolve/aliases.ts';
import { hashFleet, type HashContext } from './learn/hashes.ts';
import { learnContents, type LearnContext } from './learn/stream.ts';
import { observeAll } from './observe.ts';
import { createResolver, resolveAll, type Held, type Resolved, type Resolver } from './resolve/resolve.ts';

/** Whom a run speaks to, opened and closed by the cli. */
export interface Clients {
  ssh: Ssh;
  epoch: Registry;
  /** The client for another registry, by its host. */
  registryOf: (host: string) => Promise<Registry>;
  state: State;
}

/** What judging needs: it knows no mode, no filter and no policy. */
export interface JudgeRequest {
  settings: Settings;
  nodes: Node[];
  clients: Clients;
  signal: AbortSignal;
  /** What is left of the time that the signal gives, in ms. */
  remainingMs: () => number;
  now: () => Date;
  events: JudgeEvents;
}

export interface JudgeEvents {
  onNode: (observation: Observation) => void;
  /** Parts of a split image are read from epoch; bytes so far, of all. */
  onStream: (image: DesiredImage, bytes: number, total: number) => void;
  /** Something could not be learned; the verdicts say what follows from it. */
  onTrouble: (message: string) => void;
}

/** Everything that is known before anything is planned. */
export interface Judged {
  observations: Observation[];
  served: Served;
  hot: ServedSnapshots;
  verdicts: NodeVerdicts[];
  /** Of a run that got no answer from epoch at all: then nothing can be said, and nothing may be changed. */
  error: ErrorInfo | null;
}

/** So much of the run's time is for all that comes before the verdicts; of that so much for reading nodes: half of the run's. */
const JUDGING = 3 / 4;
const READING = 2 / 3;

/** Loading the HTTP library takes longer than this; by then the first nodes were spoken to, and are awaited. */
const WARM_UP_AFTER_MS = 20;

/**
 * Observes, resolves, learns and judges, in its share of the run's time: what nodes or registries have not said by then is
 * unknown, and the rest is judged. Trouble is in the verdicts.
 * @param heldOf which references found on nodes registries are asked about, beside what the settings track
 */
export async function judgeFleet(
  request: JudgeRequest,
  heldOf: (observations: Observation[]) => Held,
): Promise<Judged> {
  const afterMs = request.remainingMs() * JUDGING;
  const timeout = { afterMs, reason: () => fault('RUN_DEADLINE', { judgingMs: afterMs }) };
  const { signal, remainingMs, end } = startDeadline({ signal: request.signal, timeout });
  try {
    const judged = await judgeInTime({ ...request, signal, remainingMs }, heldOf);
    const isSilent = signal.aborted && !request.signal.aborted && !request.clients.epoch.hasAnswered();
    if (!isSilent || judged.error !== null) return judged;
    const cause = `no answer in the ${formatDuration(afterMs)} that a run of this length has for judging`;
    const { url } = request.settings.epoch;
    return { ...judged, error: errorInfo('REGISTRY_UNREACHABLE', { method: 'GET', url, cause }) };
  } finally {
    end();
  }
}

async function judgeInTime(request: JudgeRequest, heldOf: (observations: Observation[]) => Held): Promise<Judged> {
  const { settings, clients, signal, events } = request;
  const resolver = newResolver(request);
  const { images, snapshots } = settings;
  const tracked = { images: images.track, snapshots: snapshots.track };
  const resolve = (held: Held): Promise<Resolved> =>
    resolveAll(resolver, tracked, snapshots.discover ? held : { ...held, snapshots: [] }, images.discover);
  const known = new Set<string>();
  /** What a node holds is asked about at once, and remembered: a node that hangs keeps no other one waiting. */
  const askAhead = (observation: Observation): void => {
    if (observation.observed === null) return;
    const held = heldOf([observation]);
    const before = known.size;
    for (const word of Object.values(held).flat()) known.add(word);
    if (known.size > before) void resolve(held).catch(() => undefined); // it is asked again when all nodes are read
  };
  const timeoutMs = request.remainingMs() * READING;
  setTimeout(() => void clients.epoch.warmUp().catch(() => undefined), WARM_UP_AFTER_MS).unref(); // a request will tell
  const [read] = await Promise.all([
    observeAll(
      clients.ssh,
      request.nodes,
      { concurrency: settings.ssh.concurrency, timeoutMs, signal },
      (observation) => {
        events.onNode(observation);
        askAhead(observation);
      },
    ),
    // What can be asked without knowing the nodes is asked early; the answers are remembered.
    Promise.all([
      ...images.track
        .filter(({ registry }) => registry === null)
        .map(async (image) => await resolver.tracked(image, [])),
      ...snapshots.track.map(async ({ snapshot }) => await resolver.snapshot(snapshot)),
    ]),
  ]);
  const resolved = await resolve(heldOf(read));
  const error = await noAnswer(request, resolved);

  const context = learnContext(request);
  const asServed = await servedBy(request, read, resolved);
  const learned = images.stream ? await learnContents(asServed, read, context, events.onStream) : asServed;
  const observations = await hashFleet(read, learned, context);
  const served = await withForms(learned, resolver, observations);
  const hot = await hotBy(request, resolver, served, resolved, observations);
  await clients.state.save();
  const verdicts = observations.map((observation) => ({
    node: observation.node.name,
    images: judgeImages(served, observation),
    snapshots: judgeSnapshots(served, hot, observation),
  }));
  return { observations, served, hot, verdicts, error };
}

/** A resolver that has not asked anything yet: what it says is what registries serve from now on. */
export function newResolver({
  settings,
  clients,
  signal,
}: Pick<JudgeRequest, 'settings' | 'signal'> & { clients: Omit<Clients, 'ssh'> }): Resolver {
  const { epoch, registryOf, state } = clients;
  return createResolver({ addresses: addressesOf(settings), epoch, registryOf, state, signal });
}

function learnContext(request: JudgeRequest): LearnContext & HashContext {
  const { settings, clients, signal, events, remainingMs } = request;
  const { ssh, epoch, state } = clients;
  return { ssh, epoch, state, concurrency: settings.ssh.concurrency, signal, remainingMs, onTrouble: events.onTrouble };
}

/** Every reference that a node holds, and that a snapshot which is judged there is based on. */
export function everythingOn({ track, discover }: Settings['snapshots'], observations: Observation[]): Held {
  const all = observations.flatMap(({ observed }) => observed ?? []);
  return {
    references: all.flatMap(({ entries }) => entries.map(({ reference }) => reference)),
    bases: observations.flatMap((observation) => basesOn({ tracked: track, discover }, observation)),
    snapshots: all.flatMap(({ snapshots }) => snapshots.map(({ name }) => name)),
    architectures: architecturesOf(observations),
  };
}

export function architecturesOf(observations: Observation[]): string[] {
  return [...new Set(observations.flatMap(({ observed }) => observed?.architecture ?? []))].sort();
}

async function noAnswer({ clients: { epoch }, signal }: JudgeRequest, resolved: Resolved): Promise<ErrorInfo | null> {
  if (epoch.hasAnswered() || signal.aborted) return null;
  // what another registry did not answer says nothing of epoch
  const images = resolved.desired.filter(({ kind }) => kind !== 'container-image');
  const first = [...images, ...resolved.snapshots].find((item) => item.error?.code.startsWith('REGISTRY_'));
  if (first !== undefined) return first.error;
  try {
    await epoch.ping(signal);
    return null;
  } catch (error) {
    return signal.aborted ? null : infoOf(error);
  }
}

/** What registries serve, as far as they said it without being read. */
async function servedBy(request: JudgeRequest, observations: Observation[], resolved: Resolved): Promise<Served> {
  const { settings } = request;
  const { images, snapshots } = settings;
  const watched = { tracked: snapshots.track, discover: snapshots.discover, snapshots: resolved.snapshots };
  const bases = Object.fromEntries(
    observations.map((one) => [one.node.name, [...basesOn(watched, one), ...basesFor(watched, one.node)]]),
  );
  return {
    addresses: addressesOf(settings),
    suspects: await suspectsOf(request, observations, resolved),
    desired: resolved.desired,
    covers: resolved.covers,
    meant: resolved.meant,
    tracked: images.track,
    discover: images.discover,
    bases,
    depth: settings.verify.blob,
    repair: settings.repair,
  };
}

/** The same with how cocoon stores what looks wrong somewhere. */
async function withForms(served: Served, resolver: Resolver, observations: Observation[]): Promise<Served> {
  const unclear = new Set(needsStoredForm(served.desired, observations, served.depth));
  const desired = await Promise.all(
    served.desired.map(async (image, place) => (unclear.has(place) ? await resolver.withStoredForm(image) : image)),
  );
  return { ...served, desired };
}

/** What nodes hold, and what snapshots stand on, that may be of this epoch under an address that the config does not know. */
async function suspectsOf(
  { settings, clients, signal }: JudgeRequest,
  observations: Observation[],
  { snapshots }: Resolved,
): Promise<Served['suspects']> {
  if (!clients.epoch.hasAnswered()) return {}; // then nothing is said of anything
  const { track, discover } = settings.snapshots;
  const isIgnored = ignores(settings.images.ignore);
  const byNode = observations.map((observation) => [
    ...(observation.observed?.entries ?? []).map(({ reference }) => reference).filter((one) => !isIgnored([one])),
    ...basesOn({ tracked: track, discover }, observation),
  ]);
  const wanted = snapshots.flatMap(({ base }) => base ?? []);
  return await findSuspects([wanted, ...byNode], addressesOf(settings), clients.epoch, signal);
}

/** What is known of snapshots; the registry is asked for pinned content that no tag serves, unless its bytes prove it. */
async function hotBy(
  request: JudgeRequest,
  resolver: Resolver,
  served: Served,
  resolved: Resolved,
  observations: Observation[],
): Promise<ServedSnapshots> {
  const { track, discover } = request.settings.snapshots;
  const hot: ServedSnapshots = {
    snapshots: resolved.snapshots,
    tracked: track,
    discover,
    lookups: {},
    now: request.now().getTime(),
  };
  const someone = observations.find(({ observed }) => observed !== null);
  if (someone === undefined || someone.observed === null) return hot;
  const seen = { served, observed: someone.observed };
  const answers = await Promise.all(
    neededLookups(served, hot, observations).map(
      async (asked) =>
        [
          lookupKey(asked),
          suspected(served, asked) ??
            (await resolver.lookup(asked, standsFor(seen, asked.base), (sizeBytes) =>
              needsForm(served, observations, asked.digest, sizeBytes),
            )),
        ] as const,
    ),
  );
  return { ...hot, lookups: Object.fromEntries(answers) };
}

/** Of a base that may be of this epoch under another address nobody can say that it is lost. */
function suspected({ suspects }: Served, { base }: LookupRequest): Lookup | null {
  const suspect = suspectOf(suspects, base);
  return suspect === null ? null : { state: 'unasked', error: suspect.error };
}
