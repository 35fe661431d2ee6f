/** Finds the config, reads it, expands `${ENV}`, validates it, and names what is wrong with line and column. */
import { X509Certificate } from 'node:crypto';
import { constants } from 'node:fs';
import { open, stat, type FileHandle } from 'node:fs/promises';
import { homedir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { distance } from 'fastest-levenshtein';
import {
  isAlias,
  isMap,
  isNode,
  isPair,
  isScalar,
  isSeq,
  LineCounter,
  parseDocument,
  visit,
  type Document,
} from 'yaml';
import { z } from 'zod';
import { fault, type ReconcileError } from '../core/errors.ts';
import { epochReference, parseImageName, parseSnapshotName } from '../core/reference.ts';
import type { NodeSpec, Settings } from '../core/settings.ts';
import type { TrackedImage, TrackedSnapshot } from '../core/types.ts';
import { configSchema, epochUrl, nodeListSchema, NOT_BUILT, type Config, type ConfigNode } from './schema.ts';

const MAX_CONFIG_BYTES = 2 ** 20;
const MAX_TOKEN_BYTES = 64 * 2 ** 10;
const MAX_ALIASES = 100;
const MAX_PROBLEMS_SHOWN = 8;

/** The environment: `process.env`, or a test's own. */
export type Env = Record<string, string | undefined>;

type Path = (string | number)[];

/** One thing that is wrong: at a key of the file, or, with `path: null`, outside of it. */
interface Problem {
  path: Path | null;
  /** Point at the key and not at its value. */
  atKey?: boolean;
  message: string;
}

// --------------------------------------------------------------------------------------------- the config

/**
 * The config file to use: `flag`, else `$RECONCILE_CONFIG`, else the first of the usual places that is there. Never one
 * in the working directory.
 * @throws ReconcileError CONFIG_INVALID where the named file, or every usual one, is not there
 */
export async function findConfig(flag: string | undefined, env: Env, home: string): Promise<string> {
  const named = flag ?? (env['RECONCILE_CONFIG'] || undefined);
  if (named !== undefined) {
    if (named !== '' && (await exists(named))) return named;
    const by = flag === undefined ? '$RECONCILE_CONFIG' : '--config';
    throw fault('CONFIG_INVALID', { problem: `${by}: the file "${named}" does not exist` });
  }
  const places = [join(home, '.config/cocoon/reconcile.yaml'), '/etc/cocoon/reconcile.yaml'];
  for (const place of places) if (await exists(place)) return place;
  throw fault('CONFIG_INVALID', {
    problem: `no config file: neither ${places.join(' nor ')} exists`,
    hint: 'name one with --config or $RECONCILE_CONFIG; one in the working directory is never taken unasked',
  });
}

/** False only where nothing is there; a file that cannot be read is found, and fails when it is read. */
async function exists(file: string): Promise<boolean> {
  try {
    await stat(file);
    return true;
  } catch (error) {
    return !['ENOENT', 'ENOTDIR'].includes((error as NodeJS.ErrnoException).code ?? '');
  }
}

/**
 * Reads the config file, and the token and CA that it or the environment names. Durations become ms, sizes bytes,
 * paths absolute (relative ones begin at the directory of the file).
 * @throws ReconcileError CONFIG_INVALID that names every problem by line, column and key
 */
export async function loadConfig(file: string, env: Env): Promise<Settings> {
  const source = parseYaml(file, await readOrThrow(file, file), env);
  const config = validate(configSchema, source, urlProblems(source.data, env));
  const at = pathResolver(file, env);
  const problems: Problem[] = [];
  const token = await loadToken(config, env, at, problems);
  const ca = await loadCa(config, env, at, problems);
  if (problems.length > 0) throw invalid(source, problems);
  return settingsOf(config, { url: config.epoch.url ?? epochUrl.parse(env['EPOCH_URL']), token, ca }, at);
}

/**
 * Reads the node list of `inventory.file`, as `nodes` of a config file of its own.
 * @throws ReconcileError CONFIG_INVALID that names every problem by line, column and key
 */
export async function loadNodeList(file: string, env: Env): Promise<NodeSpec[]> {
  const source = parseYaml(file, await readOrThrow(file, `inventory.file: ${file}`), env);
  const at = pathResolver(file, env);
  return validate(nodeListSchema, source).map((item) => nodeSpecOf(item, at));
}

/**
 * Judges a node list that a program printed. `${ENV}` is left alone in it, and relative paths begin at the directory
 * of `configFile`.
 * @throws ReconcileError INVENTORY_FAILED
 */
export function parseNodeList(value: unknown, source: string, configFile: string, env: Env): NodeSpec[] {
  const result = nodeListSchema.safeParse(value, { error: words });
  if (result.success) return result.data.map((item) => nodeSpecOf(item, pathResolver(configFile, env)));
  const problems = result.error.issues.flatMap((issue) => problemsOf(nodeListSchema, issue, []));
  throw fault('INVENTORY_FAILED', {
    source,
    problem: joined(problems.map(({ path, message }) => keyed(path, message))),
  });
}

/** `epoch.url` may come from the environment, so the schema cannot say that it is missing. */
function urlProblems(data: unknown, env: Env): Problem[] {
  const epoch = (data as { epoch?: { url?: unknown } } | null)?.epoch;
  if (epoch?.url !== undefined) return [];
  const fallback = env['EPOCH_URL'] || undefined;
  if (fallback === undefined) return [{ path: ['epoch', 'url'], message: 'is required, here or as $EPOCH_URL' }];
  const result = epochUrl.safeParse(fallback);
  return result.success ? [] : [{ path: null, message: `$EPOCH_URL ${result.error.issues[0]?.message}` }];
}

type PathResolver = (path: string) => string;

/** `~/x` → in the home directory; a relative path → in the directory of the file that holds it. */
function pathResolver(file: string, env: Env): PathResolver {
  const home = env['HOME'] || homedir();
  const directory = dirname(resolve(file));
  return (path) => (/^~(\/|$)/.test(path) ? join(home, path.slice(1)) : resolve(directory, path));
}

async function loadToken(config: Config, env: Env, at: PathResolver, problems: Problem[]): Promise<string | null> {
  const { tokenFile } = config.epoch;
  const name = ['EPOCH_TOKEN', 'EPOCH_REGISTRY_TOKEN'].find((key) => env[key]);
  if (tokenFile === undefined && name === undefined) return null;
  const path = tokenFile === undefined ? null : ['epoch', 'tokenFile'];
  const read =
    tokenFile === undefined ? { text: env[name as string] as string } : await readText(at(tokenFile), MAX_TOKEN_BYTES);
  const where = tokenFile === undefined ? `$${name}` : at(tokenFile);
  if ('problem' in read) {
    problems.push({ path, message: `${where} ${read.problem}` });
    return null;
  }
  const token = read.text.trim();
  if (!/^[\x21-\x7e]+$/.test(token)) problems.push({ path, message: `${where} holds no token: one word is expected` });
  return token;
}

async function loadCa(config: Config, env: Env, at: PathResolver, problems: Problem[]): Promise<string | null> {
  const { caFile } = config.epoch;
  const named = env['EPOCH_CA_CERT'] || undefined;
  if (caFile === undefined && named === undefined) return null;
  const path = caFile === undefined ? null : ['epoch', 'caFile'];
  const file = caFile === undefined ? resolve(named as string) : at(caFile);
  const where = caFile === undefined ? `$EPOCH_CA_CERT: ${file}` : file;
  const read = await readText(file, MAX_CONFIG_BYTES);
  const problem = 'problem' in read ? read.problem : isCertificate(read.text) ? null : 'holds no PEM certificate';
  if (problem !== null) problems.push({ path, message: `${where} ${problem}` });
  return 'text' in read ? read.text : null;
}

function isCertificate(text: string): boolean {
  try {
    return new X509Certificate(text).raw.length > 0;
  } catch {
    return false;
  }
}

// ----------------------------------------------------------------------------------------- into settings

function settingsOf(
  config: Config,
  epoch: { url: string; token: string | null; ca: string | null },
  at: PathResolver,
): Settings {
  const { ssh, cocoon, verify, rollout } = config;
  return {
    epoch: { ...epoch, timeoutMs: config.epoch.timeout, retries: config.epoch.retries },
    nodes: config.nodes.map((item) => nodeSpecOf(item, at)),
    inventory: {
      file: config.inventory.file === undefined ? null : at(config.inventory.file),
      command: config.inventory.command === undefined ? null : commandOf(config.inventory.command, at),
    },
    ssh: {
      user: ssh.user,
      port: ssh.port,
      identityFiles: ssh.identityFile.map(at),
      knownHostsFiles: ssh.knownHostsFile.map(at),
      connectTimeoutMs: ssh.connectTimeout,
      concurrency: ssh.concurrency,
    },
    cocoon: {
      binary: cocoon.binary,
      rootDir: cocoon.rootDir,
      runDir: cocoon.runDir ?? null,
      logDir: cocoon.logDir ?? null,
      sudo: cocoon.sudo,
    },
    images: {
      discover: config.images.discover,
      track: config.images.track.map((item) => trackedImageOf(item, epoch.url)),
      ignore: config.images.ignore,
    },
    snapshots: {
      discover: config.snapshots.discover,
      track: config.snapshots.track.map(trackedSnapshotOf),
      ignore: config.snapshots.ignore,
    },
    verify: {
      blob: verify.blob,
      clone: verify.clone,
      vm: {
        snapshot: verify.vm.snapshot === undefined ? null : snapshotNameOf(verify.vm.snapshot),
        timeoutMs: verify.vm.timeout,
        nodes: verify.vm.nodes,
        extraArgs: verify.vm.extraArgs,
      },
    },
    rollout: {
      canary: rollout.canary,
      maxPulls: rollout.maxPulls,
      maxFailures: rollout.maxFailures,
      pullTimeoutMs: rollout.pullTimeout,
      pullRetries: rollout.pullRetries,
      minFreeBytes: rollout.minFreeBytes,
    },
    run: { timeoutMs: config.run.timeout },
  };
}

/** A program named by a relative path lies beside the config, never in the working directory. */
function commandOf([program, ...rest]: string[], at: PathResolver): string[] {
  return [(program as string).includes('/') ? at(program as string) : (program as string), ...rest];
}

function nodeSpecOf(item: ConfigNode, at: PathResolver): NodeSpec {
  const { name, host, pool, user, port, binary, rootDir, runDir, logDir, sudo } = item;
  return definedOf({
    name,
    host,
    pool,
    user,
    port,
    identityFiles: item.identityFile?.map(at),
    knownHostsFiles: item.knownHostsFile?.map(at),
    connectTimeoutMs: item.connectTimeout,
    binary,
    rootDir,
    runDir,
    logDir,
    sudo,
  });
}

function definedOf(spec: { [K in keyof Required<NodeSpec>]: NodeSpec[K] | undefined }): NodeSpec {
  return Object.fromEntries(Object.entries(spec).filter(([, value]) => value !== undefined)) as unknown as NodeSpec;
}

function trackedImageOf(item: Config['images']['track'][number], epochBase: string): TrackedImage {
  const parsed = parseImageName(item.image);
  if (parsed === null) throw new Error(`the schema let the image ${item.image} pass`);
  const { registry, repository } = parsed;
  const tag = parsed.tag ?? item.tag ?? 'latest';
  const typed = item.tag === undefined ? item.image : `${item.image}:${item.tag}`;
  return {
    image: repository,
    tag,
    registry,
    reference: item.reference ?? (registry === null ? epochReference(epochBase, repository, tag) : typed),
    presence: item.presence,
    pools: item.pools ?? null,
  };
}

function trackedSnapshotOf(item: Config['snapshots']['track'][number]): TrackedSnapshot {
  return { snapshot: snapshotNameOf(item.snapshot), pools: item.pools ?? null };
}

/** `repo` → `repo:latest`: reports and filters know a snapshot by one name. */
function snapshotNameOf(text: string): string {
  const name = parseSnapshotName(text);
  if (name === null) throw new Error(`the schema let the snapshot ${text} pass`);
  return `${name.repository}:${name.tag}`;
}

// ----------------------------------------------------------------------------------------------- reading

/** The text of a regular file, or what is wrong, as the end of a sentence that begins with its name. */
async function readText(file: string, maxBytes: number): Promise<{ text: string } | { problem: string }> {
  try {
    // without O_NONBLOCK a pipe without a writer would be waited for
    const handle = await open(file, constants.O_RDONLY | constants.O_NONBLOCK);
    try {
      if (!(await handle.stat()).isFile()) return { problem: 'is not a regular file' };
      const buffer = Buffer.alloc(maxBytes + 1);
      const length = await fill(handle, buffer);
      if (length > maxBytes) return { problem: `is larger than ${maxBytes / 1024} KiB` };
      return { text: new TextDecoder('utf-8', { fatal: true }).decode(buffer.subarray(0, length)) };
    } finally {
      await handle.close();
    }
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    const known: Record<string, string> = {
      ENOENT: 'does not exist',
      ENOTDIR: 'does not exist',
      EACCES: 'cannot be read: permission denied',
      ERR_ENCODING_INVALID_ENCODED_DATA: 'is not UTF-8 text',
    };
    return { problem: known[code ?? ''] ?? `cannot be read: ${message}` };
  }
}

/** Reads until the end of the file or of the buffer; a single read may give less than there is. */
async function fill(handle: FileHandle, buffer: Buffer): Promise<number> {
  let length = 0;
  while (length < buffer.length) {
    const { bytesRead } = await handle.read(buffer, length, buffer.length - length);
    if (bytesRead === 0) break;
    length += bytesRead;
  }
  return length;
}

async function readOrThrow(file: string, named: string): Promise<string> {
  const read = await readText(file, MAX_CONFIG_BYTES);
  if ('problem' in read) throw fault('CONFIG_INVALID', { problem: `${named} ${read.problem}` });
  return read.text;
}

/** A parsed file: its plain data, and the line and column of each key. */
interface Source {
  file: string;
  data: unknown;
  document: Document;
  lines: LineCounter;
  /** Variables that `${…}` names and that are not set, or malformed. */
  problems: Problem[];
}

function parseYaml(file: string, text: string, env: Env): Source {
  const lines = new LineCounter();
  const document = parseDocument(text, {
    lineCounter: lines,
    prettyErrors: false,
    stringKeys: true,
    logLevel: 'error',
  });
  const fail = (offset: number, message: string): ReconcileError => {
    const { line, col } = lines.linePos(offset);
    return fault('CONFIG_INVALID', { problem: `${file}:${line}:${col}: ${message}` });
  };
  const [first] = [...document.errors, ...document.warnings];
  if (first !== undefined) throw fail(first.pos[0], yamlWords(first.code, first.message, text.slice(first.pos[0])));
  const source = { file, document, lines, problems: expandEnv(document, env) };
  try {
    return { ...source, data: document.toJS({ maxAliasCount: MAX_ALIASES }) };
  } catch (error) {
    throw fail(0, `no usable YAML: ${(error as Error).message}`);
  }
}

function yamlWords(code: string, message: string, rest: string): string {
  if (code === 'DUPLICATE_KEY') return `the key ${/^[^\s:]*/.exec(rest)?.[0]} is given twice`;
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
function validate<S extends z.ZodType>(schema: S, source: Source, more: Problem[] = []): z.output<S> {
  const result = schema.safeParse(source.data ?? {}, { error: words });
  const found = result.success ? [] : result.error.issues.flatMap((issue) => problemsOf(schema, issue, []));
  const unexpanded = new Set(source.problems.map(({ path }) => keyed(path, '')));
  const problems = [...source.problems, ...found.filter(({ path }) => !unexpanded.has(keyed(path, ''))), ...more];
  if (result.success && problems.length === 0) return result.data;
  throw invalid(source, problems);
}

/** One error for all problems, in the order of the file; those outside of it last. */
function invalid(source: Source, problems: Problem[]): ReconcileError {
  const inFile = problems
    .filter((problem) => problem.path !== null)
    .map((problem) => ({ ...problem, offset: offsetOf(source.document, problem.path ?? [], problem.atKey ?? false) }))
    .toSorted((a, b) => a.offset - b.offset)
    .map(({ path, message, offset }, i) => {
      const { line, col } = source.lines.linePos(offset);
      return `${i === 0 ? `${source.file}:` : ''}${line}:${col}: ${keyed(path, message)}`;
    });
  const outside = problems.filter((problem) => problem.path === null).map(({ message }) => message);
  return fault('CONFIG_INVALID', { problem: joined([...inFile, ...outside]) });
}

function joined(texts: string[]): string {
  const more = texts.length - MAX_PROBLEMS_SHOWN;
  return texts.slice(0, MAX_PROBLEMS_SHOWN).join('; ') + (more > 0 ? ` (+${more} more)` : '');
}

/** `nodes[0].host: must …`. */
function keyed(path: Path | null, message: string): string {
  const key = (path ?? []).map((part) => (typeof part === 'number' ? `[${part}]` : `.${part}`)).join('');
  return key === '' ? message : `${key.replace(/^\./, '')}: ${message}`;
}

/** Where in the text the value (or key) at the path is; of one that is not there, what would hold it. */
function offsetOf(document: Document, path: Path, atKey: boolean): number {
  let node: unknown = document.contents;
  let offset = rangeStart(node) ?? 0;
  for (const [i, part] of path.entries()) {
    const holder = isAlias(node) ? node.resolve(document) : node;
    if (isSeq(holder)) {
      node = holder.items[part as number];
      offset = rangeStart(node) ?? offset;
    } else if (isMap(holder)) {
      const pair = holder.items.find(({ key }) => isScalar(key) && String(key.value) === part);
      if (pair === undefined) break;
      node = pair.value;
      const isEmpty = isScalar(node) && node.value === null;
      offset = rangeStart(isEmpty || (atKey && i === path.length - 1) ? pair.key : node) ?? offset;
    } else break;
  }
  return offset;
}

function rangeStart(node: unknown): number | null {
  return isNode(node) ? (node.range?.[0] ?? null) : null;
}

/** What the schema found, in its parts: a union speaks of the branch that was meant. */
function problemsOf(schema: z.ZodType, issue: z.core.$ZodIssue, above: Path): Problem[] {
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
function words(issue: z.core.$ZodRawIssue): string | undefined {
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

/** The key that is a slip of the finger or two away; letters that only changed places are one slip. */
function nearest(key: string, known: string[]): string | null {
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
