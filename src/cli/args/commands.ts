/** Every command with its options, each declared once: parsing, refusals and the help come from these tables. */
import type { Format } from '../../reports/formats.ts';
import {
  choice,
  choices,
  duration,
  flag,
  levelFlag,
  limit,
  or,
  toggle,
  value,
  values,
  whole,
  type Option,
  type Values,
} from './kinds.ts';

export const LOG_LEVELS = ['silent', 'error', 'warn', 'info', 'debug'] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

/** Options that every command takes. */
const COMMON = {
  config: value('c,config', 'FILE', 'config file'),
  nodes: values('w,node', 'PATTERN', 'only these nodes (name, node[1-20], gpu-*, @pool; ! excludes); repeatable'),
  timeoutMs: duration('timeout', 'deadline of the whole run (90s, 15m, 2h)'),
  verbose: levelFlag('v,verbose', 'show every node and step'),
  quiet: flag('q,quiet', 'print nothing at all when the exit code is 0'),
  logLevel: choice('log-level', LOG_LEVELS, 'log lines, on stderr'),
  color: toggle('color', 'colours: on a terminal unless --no-color or NO_COLOR'),
};

const LATER = 'is not built yet';
const LATER_FORMATS = { prometheus: LATER, markdown: LATER, html: LATER };
const FORMATS = 'format of what is printed on stdout';
const output = (command: string, later: Record<string, string> = {}): Option<'table' | 'json'> =>
  or(
    choice('o,output', ['table', 'json'], FORMATS, {
      ...LATER_FORMATS,
      ...later,
      junit: `makes no sense with "${command}"`,
    }),
    'table',
  );
const concurrency = whole('concurrency', 1, 'nodes connected at once');
const deep = flag('deep', 'verify blobs by hashing their bytes on the node');
const stream = or(toggle('stream', 'read split images to learn their digest; --no-stream does not'), true);

export const RUN = {
  dryRun: flag('n,dry-run', 'observe, diff and plan; change nothing'),
  images: values('i,image', 'REF', 'only these images (reference, repo[:tag], glob; ! excludes); repeatable'),
  snapshots: values('s,snapshot', 'REPO:TAG', 'only these snapshots and their bases; repeatable'),
  ...COMMON,
  output: output('run'),
  clone: choice('clone', ['none', 'files', 'vm'], 'clone verification'),
  deep,
  repair: choices('repair', ['replace', 'restore'], 'what to mend beyond pulling'),
  stream,
  concurrency,
  maxPulls: whole('max-pulls', 1, 'pulls at once over the whole fleet'),
  canary: whole('canary', 0, 'nodes to heal and verify before any other is touched'),
  maxFailures: limit('max-failures', 'start nothing new past this many failures'),
};

export const GATE = {
  images: values('i,image', 'REF', 'can this image be started?; repeatable'),
  snapshots: values('s,snapshot', 'REPO:TAG', 'can this snapshot be cloned?; repeatable'),
  minReady: limit('min-ready', 'how many nodes per image and pool must be ready'),
  ...COMMON,
  output: or(choice('o,output', ['table', 'json', 'junit'], FORMATS, LATER_FORMATS), 'table'),
  deep,
  stream,
  concurrency,
};

export const DIGEST = { ...COMMON, output: output('digest'), stream };
export const NODES = { ...COMMON, output: output('nodes', { name: LATER }) };

export type CommonOptions = Values<typeof COMMON> & { output: Format };
export type RunOptions = Values<typeof RUN> & { name: 'run' };
/** Manifests are files, directories, and `-` for stdin. */
export type GateOptions = Values<typeof GATE> & { name: 'gate'; manifests: string[] };
export type DigestOptions = Values<typeof DIGEST> & { name: 'digest'; references: string[] };
export type NodesOptions = Values<typeof NODES> & { name: 'nodes' };
export type Command = RunOptions | GateOptions | DigestOptions | NodesOptions | { name: 'text'; text: string };

/** What every command is, takes and says of itself. */
export const COMMANDS = {
  run: { usage: '[run]', about: 'find drift, pull on drifted nodes, verify, report', options: RUN },
  gate: {
    usage: 'gate [CocoonSet.yaml|DIR|-]…',
    about: 'can everything named start on every node of its pool now?',
    options: GATE,
  },
  digest: { usage: 'digest REF…', about: 'what epoch serves for each reference now', options: DIGEST },
  nodes: { usage: 'nodes', about: 'the inventory after filters', options: NODES },
};
export type CommandName = keyof typeof COMMANDS;

export const LATER_COMMANDS = ['explain', 'doctor', 'status', 'history', 'report', 'merge', 'completion'];
/** As they are typed. */
export const LATER_OPTIONS = new Set([
  'until',
  'lock-timeout',
  'no-wait',
  'grace',
  'observed',
  'max-age',
  'shard',
  'report',
  'log-format',
  'no-progress',
]);
