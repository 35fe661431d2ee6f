/** CocoonSet manifests → what a gate asks: every image that they name, and where it is to start (contract F.2, F.3). */
import { errorInfo, fault, ReconcileError } from '../errors.ts';
import { ShapeError, array, object, optionalText, type JsonObject } from '../json.ts';
import { count } from '../text.ts';
import type { Refusal, StartMode } from '../model/gate.ts';

/** One document of a manifest file, as plain data. */
export interface ManifestDocument {
  /** The file as it was named, or `stdin`. */
  source: string;
  value: unknown;
  /** The line of each key path, such as `spec.toolboxes[0].image`; that of the document itself under ``. */
  lines: Record<string, number>;
}

/** An image that is to start somewhere. */
export interface Question {
  source: string;
  set: string | null;
  role: 'agent' | 'toolbox' | null;
  toolbox: string | null;
  mode: StartMode;
  image: string;
  /** The node pulls the image with `--force` before it starts (mode `run` alone; contract F.4). */
  forcePull: boolean;
  /** Null: every pool. */
  pools: string[] | null;
  nodeName: string | null;
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

export interface Manifests {
  questions: Question[];
  /** Objects that are not understood. */
  refused: Refusal[];
  /** How many CocoonSets there are, and the kinds of all other objects. */
  sets: number;
  otherKinds: string[];
}

const GROUP = 'cocoonset.cocoonstack.io';
const DEFAULT_POOL = 'default';
const MAX_LIST_DEPTH = 3;
const MAX_LIST_ITEMS = 10_000;
const MAX_TOOLBOXES = 1000;
const MAX_QUESTIONS = 10_000;
const MAX_ANSWERS = 500_000;

/** Whether an object of this kind can name an image, itself or in a list. */
export function mayAsk(kind: string): boolean {
  return kind === 'CocoonSet' || isList(kind);
}

function isList(kind: string): boolean {
  return kind === 'List' || kind === 'CocoonSetList';
}

/**
 * Reads every CocoonSet; objects of other kinds are only counted, the items of lists are looked into. A CocoonSet that is not
 * understood, and what is no Kubernetes object at all, is refused with file and line.
 * @throws ReconcileError MANIFEST_INVALID where there are too many
 */
export function readManifests(documents: ManifestDocument[]): Manifests {
  const manifests: Manifests = { questions: [], refused: [], sets: 0, otherKinds: [] };
  for (const document of documents) readOrRefuse({ document, path: '' }, document.value, null, manifests);
  return manifests;
}

function readOrRefuse(...[place, value, listed, into, depth]: Parameters<typeof readObject>): void {
  try {
    readObject(place, value, listed, into, depth);
  } catch (error) {
    into.refused.push(refusalOf(error));
  }
}

/** Where in a document something is. */
interface Place {
  document: ManifestDocument;
  path: string;
}

function at({ document, path }: Place, key: string | number): Place {
  return { document, path: typeof key === 'number' ? `${path}[${key}]` : path === '' ? key : `${path}.${key}` };
}

/** `FILE:LINE`; of something that is not there, the line of what would hold it. */
function sourceOf({ document, path }: Place): string {
  let known = path;
  while (!Object.hasOwn(document.lines, known) && known !== '') known = known.replace(/(^|\.)[^.[\]]+$|\[\d+\]$/, '');
  return `${document.source}:${document.lines[known] ?? 1}`;
}

function wrong(place: Place, message: string): ManifestError {
  const key = place.path === '' ? '' : `${place.path}: `;
  return new ManifestError(sourceOf(place), `${key}${message}`);
}

/** What `read` gives; what it finds wrong is said of this place. */
function reading<T>(place: Place, read: () => T): T {
  try {
    return read();
  } catch (error) {
    if (error instanceof ShapeError) throw wrong(place, error.message);
    throw error;
  }
}

/** @param listed apiVersion and kind that the list around it gives to an item without its own */
function readObject(
  place: Place,
  value: unknown,
  listed: { apiVersion: unknown; kind: string } | null,
  into: Manifests,
  depth = 0,
): void {
  if (value === null || value === undefined) return; // an empty document
  if (typeof value !== 'object' || Array.isArray(value)) throw wrong(place, 'no Kubernetes object: it is no map');
  const map = value as JsonObject;
  const kind = map['kind'] ?? listed?.kind;
  if (typeof kind !== 'string' || kind === '') throw wrong(place, 'no Kubernetes object: it has no kind');
  const apiVersion = map['apiVersion'] ?? listed?.apiVersion;
  if (isList(kind)) {
    if (depth >= MAX_LIST_DEPTH) throw wrong(place, `lists are nested more than ${MAX_LIST_DEPTH} deep`);
    const items = at(place, 'items');
    const inherited = kind === 'List' ? null : { apiVersion, kind: 'CocoonSet' };
    for (const [i, item] of reading(items, () => array(map['items'] ?? [], 'items', MAX_LIST_ITEMS)).entries()) {
      readOrRefuse(at(items, i), item, inherited, into, depth + 1);
    }
    return;
  }
  if (kind !== 'CocoonSet') {
    into.otherKinds.push(kind);
    return;
  }
  if (typeof apiVersion !== 'string' || !apiVersion.startsWith(`${GROUP}/`)) {
    throw wrong(
      at(place, 'apiVersion'),
      `a CocoonSet of ${JSON.stringify(apiVersion ?? null)} is not known, only of ${GROUP}/v1`,
    );
  }
  into.sets += 1;
  into.questions.push(...readSet(place, map));
  if (into.questions.length > MAX_QUESTIONS) {
    throw fault('MANIFEST_INVALID', { problem: `the manifests name more than ${MAX_QUESTIONS} images` });
  }
}

function readSet(place: Place, map: JsonObject): Question[] {
  const metadata = child(place, map, 'metadata');
  const name = metadata.text('name');
  if (name === null) throw wrong(at(metadata.place, 'name'), 'is required');
  const set = `${metadata.text('namespace') ?? 'default'}/${name}`;
  const spec = child(place, map, 'spec');
  const where = { set, pools: [spec.text('nodePool') ?? DEFAULT_POOL], nodeName: spec.text('nodeName') };
  const agent = child(spec.place, spec.map, 'agent');
  const questions = [questionOf(agent, 'agent', null, agent.choice('mode', ['clone', 'run'], 'clone'), where)];

  const boxes = at(spec.place, 'toolboxes');
  for (const [i, item] of reading(boxes, () =>
    array(spec.map['toolboxes'] ?? [], 'toolboxes', MAX_TOOLBOXES),
  ).entries()) {
    const box = child(boxes, { [i]: item }, i);
    const mode = box.choice('mode', ['run', 'clone', 'static'], 'run');
    if (mode === 'static') continue; // a machine from elsewhere: nothing is started
    questions.push(questionOf(box, 'toolbox', box.text('name'), mode, where));
  }
  return questions;
}

function questionOf(
  holder: Child,
  role: 'agent' | 'toolbox',
  toolbox: string | null,
  mode: StartMode,
  where: Pick<Question, 'set' | 'pools' | 'nodeName'>,
): Question {
  const image = holder.text('image');
  const place = at(holder.place, 'image');
  if (image === null) throw wrong(place, 'is required');
  const forcePull = mode === 'run' && holder.map['forcePull'] === true;
  return { source: sourceOf(place), role, toolbox, mode, image, forcePull, ...where };
}

/** A map within a manifest, and how to read its keys. */
interface Child {
  place: Place;
  map: JsonObject;
  /** Null where it is not there or empty, as Go omits empty fields. */
  text(key: string): string | null;
  choice<const V extends string>(key: string, values: readonly V[], otherwise: V): V;
}

function child(parent: Place, map: JsonObject, key: string | number): Child {
  const place = at(parent, key);
  if (map[key] === undefined || map[key] === null) throw wrong(place, 'is required');
  const inner = reading(place, () => object(map[key], String(key)));
  const read = (name: string): string | null => reading(at(place, name), () => optionalText(inner[name], name));
  return {
    place,
    map: inner,
    text: read,
    choice: (name, values, otherwise) => {
      const value = read(name) ?? otherwise;
      const known = values.find((candidate) => candidate === value);
      if (known === undefined) throw wrong(at(place, name), `"${value}" is none of ${values.join(', ')}`);
      return known;
    },
  };
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
 * none (contract F.3). `host:5000/x` is therefore the repository `host` with the tag `5000/x`, which is no tag at all.
 */
export function snapshotAsked(image: string): string {
  const colon = image.indexOf(':');
  if (colon === -1) return `${image}:latest`;
  return colon === image.length - 1 ? `${image}latest` : image;
}
