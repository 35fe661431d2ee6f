/** CocoonSet manifests → what a gate asks: every image that they name, and where it is to start. */
import { fault } from '../errors.ts';
import { ShapeError, array, object, optionalText, type JsonObject } from '../json.ts';
import type { Refusal, StartMode } from '../model/gate.ts';
import { ManifestError, refusalOf, type Question } from './questions.ts';

/** One document of a manifest file, as plain data. */
export interface ManifestDocument {
  /** The file as it was named, or `stdin`. */
  source: string;
  value: unknown;
  /** The line of each key path, such as `spec.toolboxes[0].image`; that of the document itself under ``. */
  lines: Record<string, number>;
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
  for (const document of documents)
    readOrRefuse({ document, path: '' }, document.value, { listed: null, depth: 0 }, manifests);
  return manifests;
}

function readOrRefuse(place: Place, value: unknown, within: Within, into: Manifests): void {
  try {
    readObject(place, value, within, into);
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

/** The lists around an object. */
interface Within {
  /** apiVersion and kind that the list gives to an item without its own. */
  listed: { apiVersion: unknown; kind: string } | null;
  depth: number;
}

function readObject(place: Place, value: unknown, { listed, depth }: Within, into: Manifests): void {
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
      readOrRefuse(at(items, i), item, { listed: inherited, depth: depth + 1 }, into);
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
  const questions = [
    questionOf(agent, { role: 'agent', toolbox: null }, agent.choice('mode', ['clone', 'run'], 'clone'), where),
  ];

  const boxes = at(spec.place, 'toolboxes');
  for (const [i, item] of reading(boxes, () =>
    array(spec.map['toolboxes'] ?? [], 'toolboxes', MAX_TOOLBOXES),
  ).entries()) {
    const box = child(boxes, { [i]: item }, i);
    const mode = box.choice('mode', ['run', 'clone', 'static'], 'run');
    if (mode === 'static') continue; // a machine from elsewhere: nothing is started
    questions.push(questionOf(box, { role: 'toolbox', toolbox: box.text('name') }, mode, where));
  }
  return questions;
}

function questionOf(
  holder: Child,
  what: Pick<Question, 'role' | 'toolbox'>,
  mode: StartMode,
  where: Pick<Question, 'set' | 'pools' | 'nodeName'>,
): Question {
  const image = holder.text('image');
  const place = at(holder.place, 'image');
  if (image === null) throw wrong(place, 'is required');
  const forcePull = mode === 'run' && holder.map['forcePull'] === true;
  return { source: sourceOf(place), ...what, mode, image, forcePull, ...where };
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
