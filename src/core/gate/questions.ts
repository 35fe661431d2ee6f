/** The questions of a gate: an image, how it is to start, and the nodes on which it is asked. */
import { errorInfo, fault, ReconcileError } from '../errors.ts';
import { count } from '../text.ts';
import type { GateQuestion, Refusal } from '../model/gate.ts';

const MAX_ANSWERS = 500_000;

/** An image that is to start somewhere. */
export interface Question extends Pick<
  GateQuestion,
  'source' | 'set' | 'role' | 'toolbox' | 'mode' | 'image' | 'nodeName'
> {
  /** The node pulls the image with `--force` before it starts (mode `run` alone). */
  forcePull: boolean;
  /** Null: every pool. */
  pools: string[] | null;
}

/** What is wrong with one manifest; those beside it are asked about all the same. */
export class ManifestError extends ReconcileError {
  readonly source: string;
  /** @param source FILE:LINE, or FILE */
  constructor(source: string, problem: string) {
    super(errorInfo('MANIFEST_INVALID', { source, problem }));
    this.source = source;
  }
}

/** What was caught of one manifest; any other error is thrown on. */
export function refusalOf(error: unknown): Refusal {
  if (!(error instanceof ManifestError)) throw error;
  return { source: error.source, error: error.info };
}

/** A question of the command line. */
export function askedByOption(option: '--snapshot' | '--image', image: string, pools: string[] | null): Question {
  const mode = option === '--snapshot' ? 'clone' : 'run';
  return { source: option, set: null, role: null, toolbox: null, mode, image, forcePull: false, pools, nodeName: null };
}

/** A question for the nodes of one pool, or for the one node that it names. */
export interface PlacedQuestion extends Omit<Question, 'pools'> {
  pool: string;
  nodes: string[];
}

interface Member {
  name: string;
  pool: string;
}

/**
 * Finds the nodes of every question. Refused is one of a pool or node that is not known, and one for which the filters leave
 * no node: a gate that asks nobody must not pass.
 * @param inventory all nodes, before any filter: a pool that none of them is in is not known
 * @param selected those that are left after `--node`
 * @throws ReconcileError MANIFEST_INVALID where there would be too many answers
 */
export function placeQuestions(
  questions: Question[],
  inventory: Member[],
  selected: Member[],
): { placed: PlacedQuestion[]; refused: Refusal[] } {
  const placed: PlacedQuestion[] = [];
  const refused: Refusal[] = [];
  for (const { pools, ...question } of questions) {
    const where = question.nodeName === null ? (pools ?? [...new Set(selected.map(({ pool }) => pool))]) : [null];
    for (const pool of where) {
      const found = pool === null ? onNode(question, inventory, selected) : inPool(question, pool, inventory, selected);
      if ('error' in found) refused.push(found);
      else placed.push(found);
    }
  }
  const answers = placed.reduce((sum, { nodes }) => sum + nodes.length, 0);
  if (answers > MAX_ANSWERS) {
    const problem = `the gate would give ${answers} answers, more than ${MAX_ANSWERS}: ask for fewer sets at once`;
    throw fault('MANIFEST_INVALID', { problem });
  }
  return { placed, refused };
}

function inPool(
  question: Omit<Question, 'pools'>,
  pool: string,
  inventory: Member[],
  selected: Member[],
): PlacedQuestion | Refusal {
  const isIn = (member: Member): boolean => member.pool === pool;
  const known = [...new Set(inventory.map((member) => member.pool))].sort().join(', ');
  if (!inventory.some(isIn)) return unknown(question.source, `no node is in pool "${pool}" (pools: ${known})`);
  const nodes = selected.filter(isIn).map(({ name }) => name);
  return nodes.length === 0 ? unasked(question.source, `no node of pool "${pool}"`) : { ...question, pool, nodes };
}

function onNode(question: Omit<Question, 'pools'>, inventory: Member[], selected: Member[]): PlacedQuestion | Refusal {
  const { source, nodeName } = question;
  const node = inventory.find(({ name }) => name === nodeName);
  if (node === undefined)
    return unknown(source, `nodeName "${nodeName}" is none of ${count(inventory.length, 'node')}`);
  if (!selected.some(({ name }) => name === nodeName)) return unasked(source, `node "${nodeName}", which it names,`);
  return { ...question, pool: node.pool, nodes: [node.name] };
}

function unknown(source: string, problem: string): Refusal {
  return refusalOf(new ManifestError(source, problem));
}

function unasked(source: string, what: string): Refusal {
  const problem = `${source}: ${what} is left after the --node filters`;
  return { source, error: errorInfo('GATE_EMPTY', { problem }) };
}

/**
 * The snapshot that a clone of this image string asks epoch for: split at the first colon, tag `latest` where there is
 * none, as vk-cocoon does. `host:5000/x` is therefore the repository `host` with the tag `5000/x`, which is no tag at all.
 */
export function snapshotAsked(image: string): string {
  const colon = image.indexOf(':');
  if (colon === -1) return `${image}:latest`;
  return colon === image.length - 1 ? `${image}latest` : image;
}
