/** Everything up to the findings: observe the nodes, ask the registries, learn what neither tells, judge. Changes nothing. */
import type { Ssh } from '../ssh/client.ts';
import { needsStoredForm } from '../core/judge/blobs.ts';
import { imagesOf, pinnedKey, suspectOf, withImages } from '../core/judge/catalog.ts';
import { judgeImages } from '../core/judge/images.ts';
import { needsForm, pinnedQuestions } from '../core/judge/pinned.ts';
import { judgeSnapshots } from '../core/judge/snapshots.ts';
import { basesFor, basesOn } from '../core/judge/watched.ts';
import { errorInfo, fault, infoOf } from '../core/errors.ts';
import type { Catalog, PinnedContent } from '../core/model/catalog.ts';
import type { DesiredImage } from '../core/model/desired.ts';
import type { ErrorInfo } from '../core/model/error.ts';
import type { NodeFindings } from '../core/model/finding.ts';
import type { Node } from '../core/model/node.ts';
import type { Observation } from '../core/model/observed.ts';
import type { Scope } from '../core/model/scope.ts';
import { addressesOf, type Settings } from '../core/model/settings.ts';
import { ignores } from '../core/plan/select.ts';
import { formatDuration } from '../core/text.ts';
import { startDeadline } from '../system/deadline.ts';
import { hashFleet, type HashContext } from './learn/hashes.ts';
import { learnContents, type LearnContext } from './learn/stream.ts';
import { observeAll } from './observe.ts';
import { findSuspects } from './resolve/aliases.ts';
import { resolveAll, type References, type Resolved } from './resolve/catalog.ts';
import { withStoredForm } from './resolve/cloud-image.ts';
import { startInquiry, type Registries } from './resolve/inquiry.ts';
import { resolvePinned } from './resolve/pinned.ts';
import { resolveTracked, type Asking } from './resolve/references.ts';
import { snapshotAtEpoch } from './resolve/snapshots.ts';

/** Whom a run speaks to, opened and closed by the cli. */
export interface Clients extends Registries {
  ssh: Ssh;
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
  catalog: Catalog;
  scope: Scope;
  findings: NodeFindings[];
  /** Of a run that got no answer from epoch at all: then nothing can be said, and nothing may be changed. */
  error: ErrorInfo | null;
}

/** So much of the run's time is for all that comes before the verdicts; of that so much for reading nodes: half of the run's. */
const JUDGING = 3 / 4;
const READING = 2 / 3;

/**
 * Observes, resolves, learns and judges, in its share of the run's time: what nodes or registries have not said by then is
 * unknown, and the rest is judged. Trouble is in the verdicts.
 * @param referencesOf which references found on nodes registries are asked about, beside what the settings track
 */
export async function judgeFleet(
  request: JudgeRequest,
  referencesOf: (observations: Observation[]) => References,
): Promise<Judged> {
  const afterMs = request.remainingMs() * JUDGING;
  const timeout = { afterMs, reason: () => fault('RUN_DEADLINE', { judgingMs: afterMs }) };
  const { signal, remainingMs, end } = startDeadline({ signal: request.signal, timeout });
  try {
    const judged = await judgeInTime({ ...request, signal, remainingMs }, referencesOf);
    const isSilent = signal.aborted && !request.signal.aborted && !request.clients.epoch.hasAnswered();
    if (!isSilent || judged.error !== null) return judged;
    const cause = `no answer in the ${formatDuration(afterMs)} that a run of this length has for judging`;
    const { url } = request.settings.epoch;
    return { ...judged, error: errorInfo('REGISTRY_UNREACHABLE', { method: 'GET', url, cause }) };
  } finally {
    end();
  }
}

async function judgeInTime(
  request: JudgeRequest,
  referencesOf: (observations: Observation[]) => References,
): Promise<Judged> {
  const { settings, clients, events, signal } = request;
  const asking = { ...startInquiry(clients, signal), addresses: addressesOf(settings) };
  const { read, resolved } = await readAndResolve(request, asking, referencesOf);
  const error = await noAnswer(request, resolved);
  const scope = scopeOf(settings, read, resolved, request.now());

  const context = learnContext(request);
  const suspects = await suspectsOf(request, read, resolved);
  const told: Catalog = { ...resolved, addresses: asking.addresses, suspects, pinned: {} };
  const learned = settings.images.stream
    ? await learnContents({ catalog: told, scope }, read, context, events.onStream)
    : told;
  const observations = await hashFleet(read, { catalog: learned, scope }, context);
  const formed = await withForms(asking, learned, scope, observations);
  const catalog = { ...formed, pinned: await pinnedContents(asking, formed, scope, observations) };
  await clients.state.save();
  const findings = observations.map((observation) => ({
    node: observation.node.name,
    images: judgeImages(catalog, scope, observation),
    snapshots: judgeSnapshots(catalog, scope, observation),
  }));
  return { observations, catalog, scope, findings, error };
}

/** Nodes are read and registries asked side by side: what a node holds is asked about as soon as it says so. */
async function readAndResolve(
  request: JudgeRequest,
  asking: Asking,
  referencesOf: (observations: Observation[]) => References,
): Promise<{ read: Observation[]; resolved: Resolved }> {
  const { settings, clients, nodes, events, signal } = request;
  const { images, snapshots } = settings;
  const tracked = { images: images.track, snapshots: snapshots.track };
  const resolve = (held: References): Promise<Resolved> =>
    resolveAll(asking, tracked, snapshots.discover ? held : { ...held, snapshots: [] }, images.discover);
  const known = new Set<string>();
  /** The answers are remembered: a node that hangs keeps no other one waiting. */
  const askAhead = (observation: Observation): void => {
    if (observation.observed === null) return;
    const held = referencesOf([observation]);
    const before = known.size;
    for (const word of Object.values(held).flat()) known.add(word);
    if (known.size > before) void resolve(held).catch(() => undefined); // it is asked again when all nodes are read
  };
  const limits = { concurrency: settings.ssh.concurrency, timeoutMs: request.remainingMs() * READING, signal };
  const [read] = await Promise.all([
    observeAll(clients.ssh, nodes, limits, (observation) => {
      events.onNode(observation);
      askAhead(observation);
    }),
    // What can be asked without knowing the nodes is asked early.
    Promise.all([
      ...images.track
        .filter(({ registry }) => registry === null)
        .map(async (image) => await resolveTracked(asking, image, [])),
      ...snapshots.track.map(async ({ snapshot }) => await snapshotAtEpoch(asking, snapshot)),
    ]),
  ]);
  return { read, resolved: await resolve(referencesOf(read)) };
}

function learnContext(request: JudgeRequest): LearnContext & HashContext {
  const { settings, clients, signal, events, remainingMs } = request;
  const { ssh, epoch, state } = clients;
  return { ssh, epoch, state, concurrency: settings.ssh.concurrency, signal, remainingMs, onTrouble: events.onTrouble };
}

/** What is judged, as the settings say, and on what the snapshots stand that are judged. */
function scopeOf(settings: Settings, observations: Observation[], { snapshots: served }: Resolved, now: Date): Scope {
  const { images, snapshots, verify } = settings;
  const watched = { tracked: snapshots.track, discover: snapshots.discover };
  const bases = observations.map((one) => [
    one.node.name,
    [...basesOn(watched, one), ...basesFor(watched, served, one.node)],
  ]);
  return {
    images: { tracked: images.track, discover: images.discover },
    snapshots: watched,
    bases: Object.fromEntries(bases) as Scope['bases'],
    depth: verify.blob,
    now: now.getTime(),
  };
}

/** Every reference that a node holds, and that a snapshot which is judged there is based on. */
export function everythingOn({ track, discover }: Settings['snapshots'], observations: Observation[]): References {
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
  const images = Object.values(resolved.images).filter(({ kind }) => kind !== 'container-image');
  const first = [...images, ...resolved.snapshots].find((item) => item.error?.code.startsWith('REGISTRY_'));
  if (first !== undefined) return first.error;
  try {
    await epoch.ping(signal);
    return null;
  } catch (error) {
    return signal.aborted ? null : infoOf(error);
  }
}

/** The catalog with how cocoon stores what looks wrong somewhere. */
async function withForms(
  asking: Asking,
  catalog: Catalog,
  scope: Scope,
  observations: Observation[],
): Promise<Catalog> {
  const unclear = needsStoredForm(Object.values(catalog.images), observations, scope.depth);
  return withImages(catalog, await Promise.all(unclear.map(async (image) => await withStoredForm(asking, image))));
}

/** What nodes hold, and what snapshots stand on, that may be of this epoch under an address that the config does not know. */
async function suspectsOf(
  { settings, clients, signal }: JudgeRequest,
  observations: Observation[],
  { snapshots }: Resolved,
): Promise<Catalog['suspects']> {
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

/** Registries are asked for pinned content that no tag serves, unless its bytes prove it. */
async function pinnedContents(
  asking: Asking,
  catalog: Catalog,
  scope: Scope,
  observations: Observation[],
): Promise<Catalog['pinned']> {
  const answers = pinnedQuestions(catalog, scope, observations).map(async (question) => {
    // Of a base that may be of this epoch under another address nobody can say that it is lost.
    const suspect = suspectOf(catalog, question.base);
    const answer: PinnedContent =
      suspect !== null
        ? { state: 'unasked', error: suspect.error }
        : await resolvePinned(asking, question, imagesOf(catalog, question.base)[0] ?? null, (sizeBytes) =>
            needsForm(scope, observations, question.digest, sizeBytes),
          );
    return [pinnedKey(question), answer] as const;
  });
  return Object.fromEntries(await Promise.all(answers));
}
