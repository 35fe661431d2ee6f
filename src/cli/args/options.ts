/**
 * The options of every command, one table each. Parsing, refusals, the help and the README's table come from these tables, so
 * a further option is a row here and its use.
 */
import {
  choice,
  choices,
  clock,
  duration,
  flag,
  levelFlag,
  limit,
  or,
  shard as shardOption,
  toggle,
  value,
  values,
  whole,
  type Option,
  type OptionsOf,
} from './kinds.ts';

export const LOG_LEVELS = ['silent', 'error', 'warn', 'info', 'debug'] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

/** Options that every command takes. */
export const COMMON_OPTIONS = {
  config: value('c,config', 'FILE', 'config file'),
  nodes: values('w,node', 'PATTERN', 'only these nodes (name, node[1-20], gpu-*, @pool; ! excludes); repeatable'),
  timeoutMs: duration('timeout', 'deadline of the whole run (90s, 15m, 2h)'),
  verbose: levelFlag('v,verbose', 'show every node and step'),
  quiet: flag('q,quiet', 'print nothing at all when the exit code is 0'),
  logLevel: choice('log-level', LOG_LEVELS, 'log lines, on stderr'),
  color: toggle('color', 'colours: on a terminal unless --no-color or NO_COLOR'),
};

const LATER = 'is not built yet';
const LATER_FORMATS = { prometheus: LATER, html: LATER };
const FORMATS = 'format of what is printed on stdout';
const output = (command: string, later: Record<string, string> = {}): Option<'table' | 'json'> =>
  or(
    choice('o,output', ['table', 'json'], FORMATS, {
      ...LATER_FORMATS,
      ...later,
      junit: `makes no sense with "${command}"`,
      markdown: `makes no sense with "${command}"`,
    }),
    'table',
  );
/** Of a command that ends with a report of nodes. */
const ofReport = (command: string): Option<'table' | 'json' | 'markdown'> =>
  or(
    choice('o,output', ['table', 'json', 'markdown'], FORMATS, {
      ...LATER_FORMATS,
      junit: `makes no sense with "${command}"`,
    }),
    'table',
  );
const concurrency = whole('concurrency', 1, 'nodes connected at once');
const deep = flag('deep', 'verify blobs by hashing their bytes on the node');
const shard = shardOption('shard', 'only the I-th of N parts of the fleet, I from 0');
const stream = or(toggle('stream', 'read split images to learn their digest; --no-stream does not'), true);

export const RUN_OPTIONS = {
  dryRun: flag('n,dry-run', 'observe, diff and plan; change nothing'),
  images: values('i,image', 'REF', 'only these images (reference, repo[:tag], glob; ! excludes); repeatable'),
  snapshots: values('s,snapshot', 'REPO:TAG', 'only these snapshots and their bases; repeatable'),
  ...COMMON_OPTIONS,
  output: ofReport('run'),
  clone: choice('clone', ['none', 'files', 'vm'], 'clone verification'),
  deep,
  repair: choices('repair', ['replace', 'restore'], 'what to mend beyond pulling'),
  stream,
  concurrency,
  maxPulls: whole('max-pulls', 1, 'pulls at once over the whole fleet'),
  canary: whole('canary', 0, 'nodes to heal and verify before any other is touched'),
  maxFailures: limit('max-failures', 'start nothing new past this many failures'),
  until: clock('until', 'start nothing that cannot end by then'),
  lockTimeoutMs: duration('lock-timeout', 'how long to wait for a node, or a run, that another holds', 0),
  noWait: flag('no-wait', 'do not wait for them: a run that another one locks out ends with 75'),
  graceMs: duration('grace', 'how long what runs may go on after SIGINT or SIGTERM', 0),
  shard,
};

export const GATE_OPTIONS = {
  images: values('i,image', 'REF', 'can this image be started?; repeatable'),
  snapshots: values('s,snapshot', 'REPO:TAG', 'can this snapshot be cloned?; repeatable'),
  minReady: limit('min-ready', 'how many nodes per image and pool must be ready'),
  ...COMMON_OPTIONS,
  output: or(choice('o,output', ['table', 'json', 'junit', 'markdown'], FORMATS, LATER_FORMATS), 'table'),
  deep,
  stream,
  concurrency,
};

export const DIGEST_OPTIONS = { ...COMMON_OPTIONS, output: output('digest'), stream };
export const NODES_OPTIONS = { ...COMMON_OPTIONS, output: output('nodes', { name: LATER }), shard };
/** It reads files and speaks to nobody. */
export const MERGE_OPTIONS = { ...COMMON_OPTIONS, output: ofReport('merge') };

/** What every command is told. `timeoutMs` is in milliseconds. */
export type CommonOptions = OptionsOf<typeof COMMON_OPTIONS>;
export type RunOptions = OptionsOf<typeof RUN_OPTIONS>;
/** Manifests are files, directories, and `-` for stdin. */
export type GateOptions = OptionsOf<typeof GATE_OPTIONS> & { manifests: string[] };
export type DigestOptions = OptionsOf<typeof DIGEST_OPTIONS> & { references: string[] };
export type NodesOptions = OptionsOf<typeof NODES_OPTIONS>;
/** Reports are files. */
export type MergeOptions = OptionsOf<typeof MERGE_OPTIONS> & { reports: string[] };

/** Options of later versions, as they are typed: refused by name. */
export const LATER_OPTIONS = new Set(['observed', 'max-age', 'report', 'log-format', 'no-progress']);
