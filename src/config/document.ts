/** A YAML file → checked values: read, `${ENV}` expanded, validated, and what is wrong named with line and column. */
import { distance } from 'fastest-levenshtein';
import {
  isAlias,
  isMap,
  isPair,
  isScalar,
  isSeq,
  LineCounter,
  parseDocument,
  visit,
  type Document,
  type Pair,
} from 'yaml';
import * as z from 'zod';
import { readRegularFile } from '../system/file.ts';
import { descriptorOf, nameOfInput, readPiped, type Piped } from '../system/piped.ts';
import { fault, type ReconcileError } from '../core/errors.ts';
import { NOT_BUILT } from './schema.ts';
import { isMergeKey, plainOf, sourcesOf, startOf, YamlProblem, type Plain } from './yaml.ts';

/** A hundred thousand nodes with a root directory each, one by one. */
const MAX_CONFIG_BYTES = 16 * 2 ** 20;
/** More than a file of that size can be without aliases. */
const MAX_VALUES = 1_000_000;
const MAX_PROBLEMS_SHOWN = 8;

/** The environment: `process.env`, or a test's own. */
export type Env = Record<string, string | undefined>;

type Path = (string | number)[];

/** One thing that is wrong: at a key of the file, or, with `path: null`, outside of it. */
export interface Problem {
  path: Path | null;
  /** Point at the key and not at its value. */
  atKey?: boolean;
  message: string;
}

// ----------------------------------------------------------------------------------------------- reading

/** The text of a regular file, or with `piped` of what came through a pipe in its place; or what is wrong, as the end of a sentence that begins with its name. */
export async function readText(
  file: string,
  maxBytes: number,
  piped?: Piped,
): Promise<{ text: string } | { problem: string }> {
  const descriptor = piped === undefined ? null : descriptorOf(file);
  const through = piped === undefined || descriptor === null ? null : await readPiped(descriptor, maxBytes, piped);
  const read = through ?? (await readRegularFile(file, maxBytes));
  if ('problem' in read) return { problem: read.problem };
  try {
    return { text: new TextDecoder('utf-8', { fatal: true }).decode(read.bytes) };
  } catch {
    return { problem: 'is not UTF-8 text' };
  }
}

export async function readOrThrow(file: string, named: string, piped?: Piped): Promise<string> {
  const read = await readText(file, MAX_CONFIG_BYTES, piped);
  if ('problem' in read) throw fault('CONFIG_INVALID', { problem: `${named} ${read.problem}` });
  return read.text;
}

/** A parsed file: its plain data, and the line and column of each key. */
export interface Source extends Plain {
  file: string;
  document: Document;
  lines: LineCounter;
  /** Variables that `${…}` names and that are not set, or malformed. */
  problems: Problem[];
}

export function parseYaml(path: string, text: string, env: Env): Source {
  const file = nameOfInput(path);
  const lines = new LineCounter();
  const document = parseDocument(text, {
    lineCounter: lines,
    prettyErrors: false,
    stringKeys: true,
    uniqueKeys: false, // seen to below: the library compares each key with each
    logLevel: 'error',
  });
  const fail = (offset: number, message: string): ReconcileError => {
    const { line, col } = lines.linePos(offset);
    return fault('CONFIG_INVALID', { problem: `${file}:${line}:${col}: ${message}` });
  };
  const [first] = [...document.errors, ...document.warnings];
  if (first !== undefined) throw fail(first.pos[0], yamlWords(first.code, first.message));
  const source = { file, document, lines, problems: expandEnv(document, env) };
  try {
    return { ...source, ...plainOf(document, MAX_VALUES) };
  } catch (error) {
    throw error instanceof YamlProblem ? fail(error.offset, error.message) : error;
  }
}

function yamlWords(code: string, message: string): string {
  if (code === 'MULTIPLE_DOCS') return 'a second YAML document begins here; one file holds one';
  if (code === 'RESOURCE_EXHAUSTION') return 'nested too deeply';
  return `no valid YAML: ${message}`;
}

/** Replaces `${NAME}` in every string value by the variable of that name; `$${` stands for a plain `${`. */
function expandEnv(document: Document, env: Env): Problem[] {
  const problems: Problem[] = [];
  visit(document, {
    Scalar(key, node, ancestors) {
      if (key === 'key' || typeof node.value !== 'string' || !node.value.includes('${')) return;
      node.value = node.value.replace(
        /\$\$\{|\$\{(?:([A-Za-z_][A-Za-z0-9_]*)\})?/g,
        (match, name: string | undefined) => {
          if (match === '$${') return '${';
          const value = name !== undefined && Object.hasOwn(env, name) ? env[name] : undefined;
          if (value !== undefined) return value;
          const message =
            name === undefined
              ? 'holds a "${" that is no ${NAME}; a literal one is written $${'
              : `the environment has no ${name}`;
          problems.push({ path: pathTo(ancestors, node), message });
          return match;
        },
      );
    },
  });
  return problems;
}

/** The key path of a YAML node, from the nodes above it. */
function pathTo(ancestors: readonly unknown[], node: unknown): Path {
  const chain = [...ancestors, node];
  return chain.flatMap((above, i): Path => {
    if (isSeq(above)) return [above.items.indexOf(chain[i + 1])];
    return isPair(above) && isScalar(above.key) ? [String(above.key.value)] : [];
  });
}

// ---------------------------------------------------------------------------------------------- problems

/** @throws ReconcileError CONFIG_INVALID with everything that the environment, the schema and `more` find wrong */
export function validate<S extends z.ZodType>(schema: S, source: Source, more: Problem[] = []): z.output<S> {
  const result = schema.safeParse(source.data ?? {}, { error: words });
  const found = result.success ? [] : result.error.issues.flatMap((issue) => problemsOf(schema, issue, []));
  const unexpanded = new Set(source.problems.map(({ path }) => keyed(path, '')));
  const problems = [...source.problems, ...found.filter(({ path }) => !unexpanded.has(keyed(path, ''))), ...more];
  if (result.success && problems.length === 0) return result.data;
  throw invalid(source, problems);
}

/** One error for all problems, in the order of the file; those outside of it last. */
export function invalid(source: Source, problems: Problem[]): ReconcileError {
  const inFile = problems
    .filter((problem) => problem.path !== null)
    .map((problem) => ({ ...problem, offset: offsetOf(source, problem.path ?? [], problem.atKey ?? false) }))
    .toSorted((a, b) => a.offset - b.offset)
    .map(({ path, message, offset }, i) => {
      const { line, col } = source.lines.linePos(offset);
      return `${i === 0 ? `${source.file}:` : ''}${line}:${col}: ${keyed(path, message)}`;
    });
  const outside = problems.filter((problem) => problem.path === null).map(({ message }) => message);
  return fault('CONFIG_INVALID', { problem: joined([...inFile, ...outside]) });
}

export function joined(texts: string[]): string {
  const more = texts.length - MAX_PROBLEMS_SHOWN;
  return texts.slice(0, MAX_PROBLEMS_SHOWN).join('; ') + (more > 0 ? ` (+${more} more)` : '');
}

/** `nodes[0].host: must …`. */
export function keyed(path: Path | null, message: string): string {
  const key = (path ?? []).map((part) => (typeof part === 'number' ? `[${part}]` : `.${part}`)).join('');
  return key === '' ? message : `${key.replace(/^\./, '')}: ${message}`;
}

/**
 * Where in the text the value (or key) at the path is; of one that is not there, what would hold it. What came by an alias or
 * a merge is where it was written.
 */
function offsetOf({ document, targets }: Source, path: Path, atKey: boolean): number {
  let node: unknown = document.contents;
  let offset = startOf(node) ?? 0;
  for (const [i, part] of path.entries()) {
    const holder = isAlias(node) ? targets.get(node) : node;
    if (isSeq(holder)) {
      node = holder.items[part as number];
      offset = startOf(node) ?? offset;
    } else {
      const pair = pairAt(holder, String(part), targets);
      if (pair === null) break;
      node = pair.value;
      const isEmpty = isScalar(node) && node.value === null;
      offset = startOf(isEmpty || (atKey && i === path.length - 1) ? pair.key : node) ?? offset;
    }
  }
  return offset;
}

/** The pair of that key, of the map itself or of what it merges. */
function pairAt(map: unknown, name: string, targets: Plain['targets']): Pair | null {
  if (isAlias(map)) return pairAt(targets.get(map), name, targets);
  if (!isMap(map)) return null;
  const own = map.items.find((pair) => !isMergeKey(pair) && isScalar(pair.key) && String(pair.key.value) === name);
  if (own !== undefined) return own;
  const sources = map.items.filter(isMergeKey).flatMap(({ value }) => sourcesOf(value));
  return sources.map((source) => pairAt(source, name, targets)).find((pair) => pair !== null) ?? null;
}

/** What the schema found, in its parts: a union speaks of the branch that was meant. */
export function problemsOf(schema: z.ZodType, issue: z.core.$ZodIssue, above: Path): Problem[] {
  const path = [...above, ...(issue.path as Path)];
  if (issue.code === 'unrecognized_keys') {
    return issue.keys.map((key) => ({
      path: [...path, key],
      atKey: true,
      message: unknownKeyWords(schema, path, key),
    }));
  }
  const meant = issue.code === 'invalid_union' ? issue.errors.find((branch) => !branch.some(isOtherType)) : undefined;
  return meant?.flatMap((inner) => problemsOf(schema, inner, path)) ?? [{ path, message: issue.message }];
}

function isOtherType({ code, path }: z.core.$ZodIssue): boolean {
  return path.length === 0 && (code === 'invalid_type' || code === 'invalid_value');
}

/** The words for what a schema says without words of its own. */
export function words(issue: z.core.$ZodRawIssue): string | undefined {
  const { input } = issue;
  if (input === null) return 'has no value: remove the key, or give it one';
  if (issue.code === 'invalid_type') {
    if (input === undefined) return 'is required';
    const expected: Record<string, string> = {
      string:
        typeof input === 'number' || typeof input === 'boolean'
          ? `must be text: write "${input}" in quotes`
          : 'must be text',
      object: 'must be a map of keys',
      array: 'must be a list',
      boolean: 'must be true or false',
      int: 'must be a whole number',
      number: 'must be a whole number',
    };
    return expected[issue.expected];
  }
  if (issue.code === 'invalid_value') return `must be one of ${issue.values.join(', ')}`;
  if (issue.code === 'too_small')
    return issue.origin === 'array' ? 'must not be an empty list' : `must be at least ${issue.minimum}`;
  return issue.code === 'too_big' ? `must be at most ${issue.maximum}` : undefined;
}

/** Names the key that was likely meant: a near one at the same place, else the same one at another. */
function unknownKeyWords(schema: z.ZodType, path: Path, key: string): string {
  const generic = [...path, key]
    .map((part) => (typeof part === 'number' ? '[]' : part))
    .join('.')
    .replaceAll('.[]', '[]');
  if (NOT_BUILT.has(generic)) return 'is not built yet';
  const known = keysOf(z.toJSONSchema(schema, { io: 'input' }), '');
  const prefix = generic.slice(0, generic.length - key.length);
  const here = known
    .filter((name) => name.startsWith(prefix))
    .map((name) => name.slice(prefix.length))
    .filter((name) => !/[.[]/.test(name));
  const near = nearest(key, here);
  if (near !== null) return `unknown key, did you mean "${near}"?`;
  const elsewhere = known.find((name) => name.endsWith(`.${key}`) && !name.includes('[]'));
  return elsewhere === undefined
    ? `unknown key; known here: ${here.join(', ')}`
    : `unknown key here, did you mean "${elsewhere}"?`;
}

/** The word that is a slip of the finger or two away; letters that only changed places are one slip. */
export function nearest(key: string, known: string[]): string | null {
  const letters = (word: string): string => word.toLowerCase().split('').toSorted().join('');
  const slips = (word: string): number =>
    letters(word) === letters(key) ? 1 : distance(word.toLowerCase(), key.toLowerCase());
  const [best] = known.toSorted((a, b) => slips(a) - slips(b));
  if (best === undefined || slips(best) >= key.length) return null;
  return slips(best) <= Math.max(2, key.length / 3) ? best : null;
}

/** Every key of a JSON Schema, with its path: `epoch.url`, `nodes[].name`. */
function keysOf(schema: z.core.JSONSchema._JSONSchema, prefix: string): string[] {
  if (typeof schema === 'boolean') return [];
  const inItems =
    schema.items === undefined || Array.isArray(schema.items)
      ? []
      : keysOf(schema.items, `${prefix.replace(/\.$/, '')}[].`);
  return [
    ...Object.entries(schema.properties ?? {}).flatMap(([key, value]) => [
      `${prefix}${key}`,
      ...keysOf(value, `${prefix}${key}.`),
    ]),
    ...(schema.anyOf ?? []).flatMap((branch) => keysOf(branch, prefix)),
    ...inItems,
  ];
}
