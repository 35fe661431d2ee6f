/** The stages of a gate: observe and resolve, judge, answer, report. It knows nothing that changes a node. */
import { snapshotAsked, type PlacedQuestion } from '../core/gate/questions.ts';
import { errorInfo } from '../core/errors.ts';
import { judgeGate } from '../core/gate/answers.ts';
import type { Catalog } from '../core/model/catalog.ts';
import type { ImageFinding, NodeFindings } from '../core/model/finding.ts';
import { remediesUnder } from '../core/plan/remedy.ts';
import { reportRows } from '../core/report/rows.ts';
import { isAnyJudged, nothingJudgedOn } from '../core/report/judged.ts';
import { addressOf, isSameDownload, localSnapshotName } from '../core/reference.ts';
import { assemble } from '../core/report/report.ts';
import { addressesOf, type Settings } from '../core/model/settings.ts';
import type { ErrorInfo } from '../core/model/error.ts';
import type { Gate, Refusal } from '../core/model/gate.ts';
import type { Observation } from '../core/model/observed.ts';
import type { Report } from '../core/model/report.ts';
import { architecturesOf, judgeFleet, type JudgeRequest } from './judge.ts';
import type { References } from './resolve/catalog.ts';
import type { RunRequest } from './run.ts';

export interface GateRequest extends JudgeRequest, Pick<RunRequest, 'tool' | 'id' | 'startedAt' | 'interruptedBy'> {
  questions: PlacedQuestion[];
  /** What could not be asked; the gate does not pass over it. */
  refused: Refusal[];
}

/** Answers the questions by the verdicts on the nodes that they are about; no other node is read. */
export async function runGate(request: GateRequest): Promise<Report> {
  const { questions, refused, tool, id, startedAt } = request;
  const asked = questionsByNode(questions);
  const nodes = request.nodes.filter(({ name }) => asked.has(name));
  const settings = settingsFor(request.settings, questions);
  const addresses = addressesOf(settings);
  const judged = await judgeFleet({ ...request, nodes, settings }, (seen) => referencesOf(seen, questions, addresses));
  const { observations, catalog, scope, findings, error } = judged;
  const remedyFor = remediesUnder(settings.repair, settings.epoch.url, nodes);
  const gate = judgeGate(questions, { catalog, scope, observations, findings, remedyFor }, settings.gate);
  const failed = error ?? unread(observations) ?? refused[0]?.error ?? unjudged(gate, catalog, observations, findings);
  const shown = findings.map((of) => findingsAsked(of, asked.get(of.node) ?? [], addresses));
  return assemble(
    {
      tool,
      run: {
        id,
        mode: 'gate',
        startedAt: startedAt.toISOString(),
        finishedAt: request.now().toISOString(),
        blobDepth: scope.depth,
      },
      error: failed,
      signal: request.interruptedBy(),
      desired: Object.values(catalog.images),
      snapshots: catalog.snapshots,
      observations,
      rows: reportRows(shown, remedyFor, {}),
      actions: [],
      tidied: [],
    },
    { ...gate, pass: gate.pass && failed === null, errors: refused },
  );
}

function questionsByNode(questions: PlacedQuestion[]): Map<string, PlacedQuestion[]> {
  const asked = new Map<string, PlacedQuestion[]>();
  for (const question of questions) {
    for (const node of question.nodes) {
      const of = asked.get(node);
      if (of === undefined) asked.set(node, [question]);
      else of.push(question);
    }
  }
  return asked;
}

/** The questions decide what is looked at; of what the config tracks only what gives a reference its meaning counts. */
function settingsFor(settings: Settings, questions: PlacedQuestion[]): Settings {
  const run = new Set(questions.filter(({ mode }) => mode === 'run').map(({ image }) => image));
  const named = settings.images.track.filter(({ reference }) => run.has(reference));
  const track = [...new Map(named.map((image) => [image.reference, image])).values()];
  return {
    ...settings,
    images: {
      ...settings.images,
      discover: true,
      track: track.map((image) => ({ ...image, pools: null })),
      ignore: [],
    },
    snapshots: {
      discover: false,
      track: snapshotsAsked(questions).map((snapshot) => ({ snapshot, pools: null })),
      ignore: [],
    },
  };
}

function snapshotsAsked(questions: PlacedQuestion[]): string[] {
  return [...new Set(questions.filter(({ mode }) => mode === 'clone').map(({ image }) => snapshotAsked(image)))];
}

/** The images to start from, and what the asked snapshots on the nodes are based on. */
function referencesOf(observations: Observation[], questions: PlacedQuestion[], addresses: string[]): References {
  const local = new Set(snapshotsAsked(questions).map(localSnapshotName));
  const bases = observations.flatMap(({ observed }) =>
    (observed?.snapshots ?? []).flatMap(({ name, base }) => (base !== null && local.has(name) ? [base] : [])),
  );
  const asked = questions.filter(({ mode }) => mode === 'run');
  const keys = new Set(
    observations.flatMap(({ observed }) => (observed?.entries ?? []).map((entry) => entry.reference)),
  );
  const same = [...keys].filter((key) => asked.some((question) => isAskedAs(key, question, addresses)));
  const references = [...asked.map(({ image }) => image), ...same];
  return { references, bases, snapshots: [], architectures: architecturesOf(observations) };
}

/** Whether a question of the command line is about a key too that spells the image with another address of epoch. */
function isAskedAs(key: string, { mode, set, image }: PlacedQuestion, addresses: string[]): boolean {
  return mode === 'run' && set === null && isSameDownload(key, image, addresses);
}

/** The findings that the answers come from: the snapshots, the images, and the bases of those snapshots. */
function findingsAsked(
  { node, images, snapshots }: NodeFindings,
  questions: PlacedQuestion[],
  addresses: string[],
): NodeFindings {
  const wanted = new Set(snapshotsAsked(questions));
  const kept = snapshots.filter(({ snapshot }) => wanted.has(snapshot));
  const references = new Set([...questions.map(({ image }) => image), ...kept.map(({ base }) => base)]);
  const isAsked = ({ reference, error }: ImageFinding): boolean =>
    references.has(reference) ||
    error?.code === 'EPOCH_ALIAS_SUSPECTED' ||
    questions.some((question) => isAskedAs(reference, question, addresses));
  return { node, snapshots: kept, images: images.filter(isAsked) };
}

/** A gate that could ask no node at all has found out nothing. */
function unread(observations: Observation[]): ErrorInfo | null {
  if (observations.some(({ status }) => status === 'observed')) return null;
  return errorInfo('GATE_UNREAD', { nodes: observations.length, first: observations[0]?.error ?? null });
}

/**
 * A gate that would say yes on the word of epoch alone: where no node holds anything of epoch, its address or the root
 * directories may be wrong, and the nodes start something else.
 */
function unjudged(
  gate: Omit<Gate, 'errors'>,
  { addresses, suspects }: Catalog,
  observations: Observation[],
  findings: NodeFindings[],
): ErrorInfo | null {
  const there = findings.map((of) => ({ ...of, images: of.images.filter(({ have }) => have !== null) }));
  if (gate.questions.some(({ outcome }) => outcome === 'blocked') || isAnyJudged(there, observations)) return null;
  const entries = observations.flatMap(({ observed }) => observed?.entries ?? []);
  const isKnown = entries.some(({ reference }) => addressOf(reference, addresses) !== null);
  return isKnown ? null : nothingJudgedOn(observations, Object.keys(suspects));
}
