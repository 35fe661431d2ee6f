/**
 * A YAML document as plain data. What an alias or a merge key (`<<`) stands for is counted as often as it stands there,
 * and refused beyond a bound before it is computed: some lines of YAML can mean more than a machine can hold.
 */
import { isAlias, isMap, isScalar, isSeq, type Alias, type Document, type Node, type Pair, type YAMLMap } from 'yaml';

/** What is wrong, and where in the text. */
export class YamlProblem extends Error {
  readonly offset: number;
  constructor(node: unknown, message: string) {
    super(message);
    this.offset = startOf(node) ?? 0;
  }
}

export interface Plain {
  data: unknown;
  /** The node that an alias stands for. */
  targets: ReadonlyMap<Alias, Node>;
}

/** A value that is understood, with how many values it is and how deep, aliases and merges included. */
interface Understood {
  value: unknown;
  size: number;
  depth: number;
}

/** What reads the data afterwards goes as deep as it does. */
const MAX_DEPTH = 200;

/** Where the text of a node begins; null for what is none. */
export function startOf(node: unknown): number | null {
  return isMap(node) || isSeq(node) || isScalar(node) || isAlias(node) ? (node.range?.[0] ?? null) : null;
}

/**
 * @param maxValues how many scalars, lists and maps the document may be, aliases and merges included
 * @throws YamlProblem for an alias without an anchor before it, a key given twice, and what is too large
 */
export function plainOf(document: Document, maxValues: number): Plain {
  const anchors = new Map<string, Node>();
  const done = new Map<unknown, Understood>();
  const targets = new Map<Alias, Node>();

  const bounded = (node: unknown, of: Understood): Understood => {
    if (of.size > maxValues)
      throw new YamlProblem(node, `what begins here is more than ${maxValues} values, aliases and merges included`);
    if (of.depth > MAX_DEPTH)
      throw new YamlProblem(node, `what begins here is nested more than ${MAX_DEPTH} deep, aliases included`);
    return of;
  };

  const understand = (node: unknown): Understood => {
    if (isAlias(node)) return ofAlias(node);
    if (isScalar(node) || isMap(node) || isSeq(node)) {
      if (node.anchor !== undefined) anchors.set(node.anchor, node);
    }
    const understood = isMap(node) ? ofMap(node) : isSeq(node) ? ofList(node.items) : ofScalar(node);
    done.set(node, bounded(node, understood));
    return understood;
  };

  const ofScalar = (node: unknown): Understood => ({ value: isScalar(node) ? node.value : null, size: 1, depth: 1 });

  const ofAlias = (alias: Alias): Understood => {
    const target = anchors.get(alias.source);
    if (target === undefined) throw new YamlProblem(alias, `the alias *${alias.source} has no anchor before it`);
    const understood = done.get(target);
    if (understood === undefined)
      throw new YamlProblem(alias, `the alias *${alias.source} stands for what it is part of`);
    targets.set(alias, target);
    return understood;
  };

  const ofList = (items: unknown[]): Understood => {
    const list: Understood = { value: [], size: 1, depth: 1 };
    for (const item of items) {
      const { value, size, depth } = understand(item);
      (list.value as unknown[]).push(value);
      list.size += size;
      list.depth = Math.max(list.depth, depth + 1);
      bounded(item, list);
    }
    return list;
  };

  const ofMap = (map: YAMLMap): Understood => {
    const own = new Map<string, unknown>();
    const merged: Record<string, unknown>[] = [];
    const all: Understood = { value: {}, size: 1, depth: 1 };
    const add = (node: unknown, { size, depth }: Understood): void => {
      all.size += size;
      all.depth = Math.max(all.depth, depth + 1);
      bounded(node, all);
    };
    for (const pair of map.items) {
      const { key, value } = pair;
      if (!isScalar(key)) throw new YamlProblem(key ?? map, 'a key must be text');
      const name = String(key.value);
      if (isMergeKey(pair)) {
        for (const source of sourcesOf(value)) {
          const from = understand(source);
          if (!isRecord(from.value)) throw new YamlProblem(source ?? key, '<< merges maps, and this is none');
          add(source, from);
          merged.push(from.value);
        }
        continue;
      }
      if (own.has(name)) throw new YamlProblem(key, `the key ${name} is given twice`);
      const understood = understand(value);
      add(value, understood);
      own.set(name, understood.value);
    }
    // the map's own keys win, then those of the first source
    for (const source of merged) {
      for (const [name, value] of Object.entries(source)) if (!own.has(name)) own.set(name, value);
    }
    for (const [name, value] of own) {
      Object.defineProperty(all.value, name, { value, enumerable: true, writable: true, configurable: true }); // `__proto__` too
    }
    return all;
  };

  return { data: understand(document.contents).value, targets };
}

export function isMergeKey({ key }: Pair): boolean {
  return isScalar(key) && key.value === '<<' && (key.type === 'PLAIN' || key.type === undefined);
}

/** One map, or a list of them. */
export function sourcesOf(value: unknown): unknown[] {
  return isSeq(value) ? value.items : [value];
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
