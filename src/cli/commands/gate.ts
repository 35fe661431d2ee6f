/** `reconcile gate`: can everything that the manifests and options name start on every node of its pool now? */
import { readManifests, type Manifests } from '../../core/gate/cocoonset.ts';
import { askedByOption, placeQuestions, type Question } from '../../core/gate/questions.ts';
import { fault } from '../../core/errors.ts';
import { epochReference, isUrl, parseImageName, parseSnapshotName } from '../../core/reference.ts';
import { refusedGate } from '../../core/gate/answers.ts';
import { emptyReport } from '../../core/report/report.ts';
import type { Settings } from '../../core/model/settings.ts';
import { count } from '../../core/text.ts';
import type { Refusal } from '../../core/model/gate.ts';
import type { Report } from '../../core/model/report.ts';
import { unlessAborted } from '../../system/deadline.ts';
import type { GateOptions } from '../args/options.ts';
import type { Io, Tool } from '../io.ts';
import { judgeEvents } from '../log.ts';
import { reportFrom, requestFields, withClients, withOptions, type Begun } from '../reporting.ts';
import { loadInventory, loadSettings, selectNodes } from '../setup.ts';

/** Asks, prints the answers, and returns the exit code. Changes nothing anywhere. */
export async function gateCommand(options: GateOptions, io: Io, tool: Tool): Promise<number> {
  return await reportFrom(options, io, tool, async (begun) => await askGate(options, begun));
}

async function askGate(options: GateOptions, begun: Begun): Promise<Report> {
  const { io, tool, log, id, startedAt } = begun;
  const configured = await loadSettings(options, io);
  const settings = withOptions(configured.settings, options);
  const asked = await questionsOf(options, settings, io);
  const inventory = await loadInventory(configured, io);
  const nodes = selectNodes(inventory, options.nodes);
  const { placed: questions, refused: unplaced } = placeQuestions(asked.questions, inventory, nodes);
  const refused = [...asked.refused, ...unplaced];
  const [first] = refused;
  if (questions.length === 0 && first !== undefined) {
    const times = { startedAt: startedAt.toISOString(), finishedAt: new Date().toISOString() };
    const run = { id, mode: 'gate' as const, ...times, blobDepth: null };
    return emptyReport({ tool, run, signal: io.interruptedBy() }, first.error, refusedGate(refused, settings.gate));
  }

  log('info', `asking ${count(questions.length, 'question')}`, {});
  const { runGate } = await import('../../pipeline/gate.ts');
  const request = { ...requestFields(begun), settings, nodes, questions, refused, events: judgeEvents(log) };
  return await withClients(settings, begun, async (clients) => await runGate({ ...request, clients }));
}

/**
 * What is asked, and what of it could not be understood.
 * @throws ReconcileError MANIFEST_INVALID, and GATE_EMPTY where nothing is asked: that must never pass for a yes
 */
async function questionsOf(
  options: GateOptions,
  settings: Settings,
  io: Io,
): Promise<{ questions: Question[]; refused: Refusal[] }> {
  const { loadManifests } = await import('../../config/manifests.ts');
  const { documents, refused: unread } = await unlessAborted(
    loadManifests(options.manifests, interruptible(io), io.stop),
    io.stop,
  );
  const manifests = readManifests(documents);
  const refused = [...unread, ...manifests.refused];
  const questions = [
    ...manifests.questions,
    ...options.snapshots.map((name) => askedByOption('--snapshot', name, poolsOfSnapshot(name, settings))),
    ...options.images.map((name) => imageAsked(name, settings)),
  ];
  const isEmpty = manifests.sets === 0 && refused.length === 0;
  if (options.manifests.length > 0 && isEmpty) throw fault('GATE_EMPTY', { problem: found(manifests) });
  if (questions.length === 0 && isEmpty) {
    throw fault('GATE_EMPTY', { problem: 'no manifest, --snapshot or --image is named' });
  }
  return { questions, refused };
}

/** Stdin, which an interrupt or the deadline ends. */
function interruptible({ stdin, stop }: Io): () => AsyncIterable<Uint8Array> {
  return async function* () {
    const chunks = stdin()[Symbol.asyncIterator]();
    for (;;) {
      const { done, value } = await unlessAborted(chunks.next(), stop);
      if (done === true) return;
      yield value;
    }
  };
}

/** What the manifests hold instead. */
function found({ otherKinds }: Manifests): string {
  if (otherKinds.length === 0) return 'the manifests are empty';
  const kinds = [...new Set(otherKinds)].sort();
  const named = `${kinds.slice(0, 5).join(', ')}${kinds.length > 5 ? ' …' : ''}`;
  return `there is no CocoonSet among ${count(otherKinds.length, 'object')} (${named})`;
}

/** The pools of a snapshot that the config tracks; any other is asked for on all nodes. */
function poolsOfSnapshot(name: string, { snapshots }: Settings): string[] | null {
  const parsed = parseSnapshotName(name);
  if (parsed === null) return null;
  const full = `${parsed.repository}:${parsed.tag}`;
  return poolsOf(snapshots.track.filter(({ snapshot }) => snapshot === full));
}

/** `--image` takes the key on the node, or `repo[:tag]` at epoch, which the config may keep under another key. */
function imageAsked(name: string, { images, epoch }: Settings): Question {
  const byKey = images.track.filter(({ reference }) => reference === name);
  if (byKey.length > 0 || isUrl(name)) return askedByOption('--image', name, poolsOf(byKey));
  const parsed = parseImageName(name);
  if (parsed === null || parsed.registry !== null) return askedByOption('--image', name, null);
  const tag = parsed.tag ?? 'latest';
  const tracked = images.track.filter(
    (item) => item.registry === null && item.image === parsed.repository && item.tag === tag,
  );
  const reference = tracked[0]?.reference ?? epochReference(epoch.url, parsed.repository, tag);
  return askedByOption('--image', reference, poolsOf(tracked));
}

function poolsOf(tracked: { pools: string[] | null }[]): string[] | null {
  if (tracked.length === 0 || tracked.some(({ pools }) => pools === null)) return null;
  return [...new Set(tracked.flatMap(({ pools }) => pools ?? []))];
}
