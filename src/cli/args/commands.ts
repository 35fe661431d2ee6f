/** Every command, one row each: what it says of itself, its options, the words that it takes, and where it is carried out. */
import { isUrl } from '../../core/reference.ts';
import type { Io, Tool } from '../io.ts';
import { readOptions, usage, type Given, type Options, type OptionsOf } from './kinds.ts';
import {
  COMMON_OPTIONS,
  DIGEST_OPTIONS,
  GATE_OPTIONS,
  MERGE_OPTIONS,
  NODES_OPTIONS,
  RUN_OPTIONS,
  type CommonOptions,
} from './options.ts';

/** A command that was understood: what it was told, as plain values, and what carries it out and gives the exit code. */
export interface Invocation {
  name: string;
  common: CommonOptions;
  /** All that was told: the options, and the words under the name that the command has for them. */
  options: object;
  run: (io: Io, tool: Tool) => Promise<number>;
}

export interface Command {
  /** As the help shows it behind the name of the program. */
  usage: string;
  about: string;
  options: Options;
  /** @throws ReconcileError CONFIG_INVALID where an option or a word makes no sense */
  understand: (given: Given[], words: string[]) => Invocation;
}

/** A row of the table. `words` judges the words that are no options; `load` brings the code only where it is carried out. */
interface Row<O extends Options, W extends object> {
  name: string;
  usage: string;
  about: string;
  options: O;
  words: (words: string[], options: OptionsOf<O>) => W;
  load: () => Promise<(options: OptionsOf<O> & W, io: Io, tool: Tool) => Promise<number>>;
}

function command<O extends Options, W extends object>(row: Row<O, W>): Command {
  const understand = (given: Given[], words: string[]): Invocation => {
    const common = readOptions(COMMON_OPTIONS, given);
    const told = readOptions(row.options, given);
    if (common.verbose && common.quiet) throw usage('--verbose and --quiet exclude each other');
    const options = { ...told, ...row.words(words, told) };
    return { name: row.name, common, options, run: async (io, tool) => await (await row.load())(options, io, tool) };
  };
  return { usage: row.usage, about: row.about, options: row.options, understand };
}

function noWords(name: string): (words: string[]) => object {
  return ([first]) => {
    if (first !== undefined) throw usage(`"${name}" takes no argument: "${first}"`);
    return {};
  };
}

const ROWS = {
  run: command({
    name: 'run',
    usage: '[run]',
    about: 'find drift, pull on drifted nodes, verify, report',
    options: RUN_OPTIONS,
    words: noWords('run'),
    load: async () => (await import('../commands/run.ts')).runCommand,
  }),
  gate: command({
    name: 'gate',
    usage: 'gate [CocoonSet.yaml|DIR|-]…',
    about: 'can everything named start on every node of its pool now?',
    options: GATE_OPTIONS,
    words: manifestsOf,
    load: async () => (await import('../commands/gate.ts')).gateCommand,
  }),
  digest: command({
    name: 'digest',
    usage: 'digest REF…',
    about: 'what epoch serves for each reference now',
    options: DIGEST_OPTIONS,
    words: referencesOf,
    load: async () => (await import('../commands/digest.ts')).digestCommand,
  }),
  nodes: command({
    name: 'nodes',
    usage: 'nodes',
    about: 'the inventory after filters',
    options: NODES_OPTIONS,
    words: noWords('nodes'),
    load: async () => (await import('../commands/nodes.ts')).nodesCommand,
  }),
  merge: command({
    name: 'merge',
    usage: 'merge REPORT…',
    about: 'joins the reports of all shards of a run to one',
    options: MERGE_OPTIONS,
    words: reportsOf,
    load: async () => (await import('../commands/merge.ts')).mergeCommand,
  }),
};
export type CommandName = keyof typeof ROWS;
export const COMMANDS: Record<CommandName, Command> = ROWS;

/** Commands of later versions: refused by name. */
export const LATER_COMMANDS = ['explain', 'doctor', 'status', 'history', 'report', 'completion'];

export function isCommandName(word: string): word is CommandName {
  return Object.hasOwn(COMMANDS, word);
}

function referencesOf(references: string[]): { references: string[] } {
  if (references.length === 0) throw usage('digest needs at least one reference, as simular/win11 or simular/win11:v2');
  if (references.includes('')) throw usage('a reference is empty');
  return { references };
}

function reportsOf(reports: string[], { config, nodes }: OptionsOf<typeof MERGE_OPTIONS>): { reports: string[] } {
  if (reports.length === 0)
    throw usage('merge needs the report of each shard, as `reconcile --shard I/N -o json` prints it');
  if (reports.includes('')) throw usage('the name of a report is empty');
  if (config !== undefined || nodes.length > 0)
    throw usage('merge joins whole reports: --config and --node make no sense with it');
  return { reports };
}

/** A gate asks for what is named exactly, so that a pattern that matches nothing is no yes. */
function manifestsOf(manifests: string[], options: OptionsOf<typeof GATE_OPTIONS>): { manifests: string[] } {
  const { images, snapshots, minReady } = options;
  const isPattern = (text: string): boolean => /[\s\p{Cc}]/u.test(text) || (!isUrl(text) && /^!|[*?[\]{}]/.test(text));
  const pattern = [...images, ...snapshots].find(isPattern);
  if (pattern !== undefined) throw usage(`a gate asks for what is named exactly, and "${pattern}" is a pattern`);
  if (manifests.includes('')) throw usage('the name of a manifest is empty');
  if (minReady?.value === 0) throw usage('--min-ready must be at least 1, or 1%: a gate that asks for nothing is none');
  return { manifests };
}
