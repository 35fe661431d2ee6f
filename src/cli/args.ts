/** The command line → one plain value. What is not built is refused by name; nothing is ignored. */
import { closest, distance } from 'fastest-levenshtein';
import yargs from 'yargs';
import { fault } from '../core/errors.ts';
import { isUrl } from '../core/reference.ts';
import { parseDuration } from '../core/text.ts';
import type { CloneMode, Limit } from '../core/types.ts';
import type { Format } from '../reports/index.ts';

export const LOG_LEVELS = ['silent', 'error', 'warn', 'info', 'debug'] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

/** Options that every command takes. */
export interface CommonOptions {
  config: string | undefined;
  nodes: string[];
  output: Format;
  verbose: boolean;
  quiet: boolean;
  logLevel: LogLevel | undefined;
  color: boolean | undefined;
  timeoutMs: number | undefined;
}

export interface RunOptions extends CommonOptions {
  name: 'run';
  dryRun: boolean;
  images: string[];
  snapshots: string[];
  clone: CloneMode | undefined;
  maxPulls: number | undefined;
  canary: number | undefined;
  maxFailures: Limit | undefined;
  concurrency: number | undefined;
  deep: boolean;
  repair: ('replace' | 'restore')[] | undefined;
  stream: boolean;
}

export interface DigestOptions extends CommonOptions {
  name: 'digest';
  stream: boolean;
  references: string[];
}

export interface NodesOptions extends CommonOptions {
  name: 'nodes';
}

export interface GateOptions extends CommonOptions {
  name: 'gate';
  /** Files, directories, `-` for stdin. */
  manifests: string[];
  images: string[];
  snapshots: string[];
  minReady: Limit | undefined;
  concurrency: number | undefined;
  deep: boolean;
  stream: boolean;
}

export type Command = RunOptions | GateOptions | DigestOptions | NodesOptions | { name: 'text'; text: string };

const NOT_BUILT_COMMANDS = ['explain', 'doctor', 'status', 'history', 'report', 'merge', 'completion'];
const NOT_BUILT_OPTIONS = [
  'until',
  'lock-timeout',
  'wait',
  'grace',
  'observed',
  'shard',
  'report',
  'log-format',
  'progress',
];

const DEFINITIONS = {
  config: { alias: 'c', type: 'string', requiresArg: true, describe: 'config file' },
  'dry-run': { alias: 'n', type: 'boolean', describe: 'observe, diff and plan; change nothing' },
  image: {
    alias: 'i',
    type: 'string',
    array: true,
    requiresArg: true,
    describe: 'only these images (reference, repo[:tag], glob; ! excludes); for a gate: can it be started?',
  },
  snapshot: {
    alias: 's',
    type: 'string',
    array: true,
    requiresArg: true,
    describe: 'only these snapshots and their bases; for a gate: can it be cloned?',
  },
  node: {
    alias: 'w',
    type: 'string',
    array: true,
    requiresArg: true,
    describe: 'only these nodes (name, node[1-20], gpu-*, @pool; ! excludes)',
  },
  output: { alias: 'o', type: 'string', requiresArg: true, describe: 'table, json or (gate) junit, on stdout' },
  clone: { type: 'string', requiresArg: true, describe: 'clone verification: none, files or vm' },
  deep: { type: 'boolean', describe: 'verify blobs by hashing their bytes on the node' },
  repair: {
    type: 'string',
    requiresArg: true,
    describe: 'what to mend beyond pulling: replace, restore, or both with a comma',
  },
  stream: { type: 'boolean', describe: 'read split images to learn their digest; --no-stream does not' },
  concurrency: { type: 'string', requiresArg: true, describe: 'nodes connected at once' },
  'max-pulls': { type: 'string', requiresArg: true, describe: 'pulls at once over the whole fleet' },
  canary: { type: 'string', requiresArg: true, describe: 'nodes to heal and verify before any other is touched' },
  'max-failures': {
    type: 'string',
    requiresArg: true,
    describe: 'start nothing new past this many failures (N or P%)',
  },
  'min-ready': {
    type: 'string',
    requiresArg: true,
    describe: 'gate: how many nodes per image and pool must be ready (N or P%)',
  },
  timeout: { type: 'string', requiresArg: true, describe: 'deadline of the whole run (90s, 15m, 2h)' },
  verbose: { alias: 'v', type: 'boolean', describe: 'show every node and step' },
  quiet: { alias: 'q', type: 'boolean', describe: 'print nothing at all when the exit code is 0' },
  'log-level': { type: 'string', requiresArg: true, describe: 'silent, error, warn, info or debug, on stderr' },
  color: { type: 'boolean', describe: 'colours: on a terminal unless --no-color or NO_COLOR' },
} as const;

/** Options that not every command takes: elsewhere they would change nothing, and are refused. */
const SPECIAL: Record<string, ('run' | 'gate' | 'digest')[]> = {
  'dry-run': ['run'],
  image: ['run', 'gate'],
  snapshot: ['run', 'gate'],
  clone: ['run'],
  'max-pulls': ['run'],
  canary: ['run'],
  'max-failures': ['run'],
  concurrency: ['run', 'gate'],
  'min-ready': ['gate'],
  deep: ['run', 'gate'],
  repair: ['run'],
  stream: ['run', 'gate', 'digest'],
};

const EPILOGUE = `Exit codes: 0 in sync or healed, the gate passes; 1 the run could not be done; 2 drift is left, the gate says no;
3 the picture is incomplete; 4 a pull or a verification failed; 129, 130, 143 interrupted.`;

/**
 * Parses the words after the program's name.
 * @throws ReconcileError CONFIG_INVALID with one clear sentence
 */
export async function parseArgs(argv: string[], version: string): Promise<Command> {
  refuseNotBuilt(argv);
  const parser = yargs(argv)
    .scriptName('reconcile')
    .usage(
      'Usage: reconcile [run] [--dry-run] [options]\n       reconcile gate [CocoonSet.yaml|DIR|-]…\n       reconcile digest REF…\n       reconcile nodes',
    )
    .epilogue(EPILOGUE)
    .options(DEFINITIONS)
    .parserConfiguration({
      'duplicate-arguments-array': true,
      'greedy-arrays': false,
      'strip-aliased': true,
      'parse-numbers': false,
      'parse-positional-numbers': false,
    })
    .strictOptions()
    .alias('help', 'h')
    .version(version)
    .wrap(110)
    .fail((message, error) => {
      throw usage(message || error.message);
    });
  let output = '';
  const args = (await parser.parse(argv, {}, (_error, _args, text) => {
    output = text;
  })) as Words;
  if (output !== '') return { name: 'text', text: `${output}\n` };
  return commandOf(args);
}

/** What yargs makes of the words. */
type Words = Record<string, unknown> & { _: (string | number)[] };

function usage(problem: string): Error {
  const unknown = /^Unknown arguments?: ([^,]+)/.exec(problem)?.[1];
  const first =
    unknown === undefined ? (problem.split('\n')[0] as string) : `unknown option --${unknown}${nearest(unknown)}`;
  return fault('CONFIG_INVALID', { problem: first, hint: 'reconcile --help lists what there is' });
}

function nearest(word: string): string {
  const near = closest(word, Object.keys(DEFINITIONS));
  return distance(word, near) <= 3 ? `; did you mean --${near}?` : '';
}

function refuseNotBuilt(argv: string[]): void {
  for (const word of argv) {
    if (word === '--') return;
    const name = /^--(?:no-)?([a-z-]+)/.exec(word)?.[1];
    if (name !== undefined && NOT_BUILT_OPTIONS.includes(name))
      throw usage(`option ${word.split('=')[0]} is not built yet`);
  }
}

function commandOf(args: Words): Command {
  const [first, ...rest] = args._.map(String);
  const name = first ?? 'run';
  if (NOT_BUILT_COMMANDS.includes(name)) throw usage(`command "${name}" is not built yet`);
  if (name !== 'run' && name !== 'gate' && name !== 'digest' && name !== 'nodes')
    throw usage(`unknown command "${name}"`);
  const common = commonOptions(args, name);
  const stray = Object.keys(SPECIAL).find(
    (option) => args[option] !== undefined && !SPECIAL[option]?.some((taker) => taker === name),
  );
  if (stray !== undefined) throw usage(`option --${stray} makes no sense with "${name}"`);
  if (name === 'gate') return gateOptions(args, common, rest);
  if (name === 'digest') {
    if (rest.length === 0) throw usage('digest needs at least one reference, as simular/win11 or simular/win11:v2');
    return { name, ...common, stream: args['stream'] !== false, references: rest };
  }
  if (rest.length > 0) throw usage(`"${name}" takes no argument: "${rest[0]}"`);
  if (name === 'nodes') return { name, ...common };
  const clone = single(args, 'clone');
  if (clone !== undefined && clone !== 'none' && clone !== 'files' && clone !== 'vm') {
    throw usage(`--clone "${clone}" is none of none, files, vm`);
  }
  return {
    name,
    ...common,
    dryRun: args['dry-run'] === true,
    images: list(args, 'image'),
    snapshots: list(args, 'snapshot'),
    clone,
    maxPulls: whole(args, 'max-pulls', 1),
    canary: whole(args, 'canary', 0),
    maxFailures: limit(args, 'max-failures'),
    concurrency: whole(args, 'concurrency', 1),
    deep: args['deep'] === true,
    repair: repairs(args),
    stream: args['stream'] !== false,
  };
}

function repairs(args: Record<string, unknown>): RunOptions['repair'] {
  const text = single(args, 'repair');
  if (text === undefined) return undefined;
  return text.split(',').map((kind) => {
    if (kind !== 'replace' && kind !== 'restore') throw usage(`--repair "${kind}" is none of replace, restore`);
    return kind;
  });
}

function gateOptions(args: Words, common: CommonOptions, manifests: string[]): GateOptions {
  const images = list(args, 'image');
  const snapshots = list(args, 'snapshot');
  const isPattern = (text: string): boolean => /[\s\p{Cc}]/u.test(text) || (!isUrl(text) && /^!|[*?[\]{}]/.test(text));
  const pattern = [...images, ...snapshots].find(isPattern);
  if (pattern !== undefined) throw usage(`a gate asks for what is named exactly, and "${pattern}" is a pattern`);
  if (manifests.includes('')) throw usage('the name of a manifest is empty');
  const minReady = limit(args, 'min-ready');
  if (minReady?.value === 0) throw usage('--min-ready must be at least 1, or 1%: a gate that asks for nothing is none');
  return {
    name: 'gate',
    ...common,
    manifests,
    images,
    snapshots,
    minReady,
    concurrency: whole(args, 'concurrency', 1),
    deep: args['deep'] === true,
    stream: args['stream'] !== false,
  };
}

function commonOptions(args: Record<string, unknown>, command: string): CommonOptions {
  const output = single(args, 'output') ?? 'table';
  if (['ndjson', 'markdown', 'html', 'prometheus'].includes(output)) throw usage(`--output ${output} is not built yet`);
  if (output !== 'table' && output !== 'json' && output !== 'junit')
    throw usage(`--output "${output}" is none of table, json, junit`);
  if (output === 'junit' && command !== 'gate') throw usage(`--output junit makes no sense with "${command}"`);
  const logLevel = single(args, 'log-level');
  if (logLevel !== undefined && !LOG_LEVELS.some((level) => level === logLevel)) {
    throw usage(`--log-level "${logLevel}" is none of ${LOG_LEVELS.join(', ')}`);
  }
  const timeout = single(args, 'timeout');
  const timeoutMs = timeout === undefined ? undefined : parseDuration(timeout);
  if (timeoutMs === null || timeoutMs === 0) throw usage(`--timeout "${timeout}" is no duration (90s, 15m, 2h)`);
  if (args['verbose'] === true && args['quiet'] === true) throw usage('--verbose and --quiet exclude each other');
  return {
    config: single(args, 'config'),
    nodes: list(args, 'node'),
    output,
    verbose: args['verbose'] === true,
    quiet: args['quiet'] === true,
    logLevel: logLevel as LogLevel | undefined,
    color: args['color'] as boolean | undefined,
    timeoutMs,
  };
}

function list(args: Record<string, unknown>, name: string): string[] {
  const values = (args[name] ?? []) as string[];
  if (values.includes('')) throw usage(`--${name} needs a value`);
  return values;
}

/** yargs makes an array of a repeated option: one value was asked for, so two are a mistake. */
function single(args: Record<string, unknown>, name: string): string | undefined {
  const value = args[name];
  if (Array.isArray(value)) throw usage(`--${name} is given twice`);
  if (value === '') throw usage(`--${name} needs a value`);
  return value as string | undefined;
}

function whole(args: Record<string, unknown>, name: string, least: number): number | undefined {
  const text = single(args, name);
  if (text === undefined) return undefined;
  const value = Number(text);
  if (!/^\d{1,6}$/.test(text) || value < least) throw usage(`--${name} "${text}" is no whole number from ${least} up`);
  return value;
}

function limit(args: Record<string, unknown>, name: string): Limit | undefined {
  const text = single(args, name);
  if (text === undefined) return undefined;
  const match = /^(\d{1,6})(%?)$/.exec(text);
  const value = Number(match?.[1]);
  if (match === null || (match[2] === '%' && value > 100))
    throw usage(`--${name} "${text}" is no number and no percentage`);
  return { value, percent: match[2] === '%' };
}
