// The command tree with its flags, and the parser that behaves as cobra's does.
import { appendFileSync } from 'node:fs';
import { print, type Invocation } from './command.ts';
import { layout, loadConfig } from './config.ts';
import { faults } from './faults.ts';
import { setLogLevel } from './log.ts';

interface Flag {
  name: string;
  short?: string;
  type: 'string' | 'int' | 'bool';
  fallback?: string;
}

interface Command {
  name: string;
  aliases?: string[];
  about: string;
  /** Arguments as the usage line shows them. */
  usage?: string;
  least?: number;
  most?: number;
  flags?: Flag[];
  children?: Command[];
  run?: (call: Invocation) => Promise<void>;
}

const text = (name: string, short?: string, fallback?: string): Flag => ({
  name,
  type: 'string',
  ...(short ? { short } : {}),
  ...(fallback ? { fallback } : {}),
});
const int = (name: string): Flag => ({ name, type: 'int' });
const bool = (name: string): Flag => ({ name, type: 'bool' });

const GLOBAL: Flag[] = [
  'cni-bin-dir',
  'cni-conf-dir',
  'config',
  'dns',
  'log-dir',
  'log-level',
  'root-dir',
  'run-dir',
].map((name) => text(name));
const FORMAT = text('format', 'o', 'table');
const OUTPUT = text('output', 'o');

/** Newer releases inherit cpu, memory and storage from the snapshot and have no flags for them. */
const CLONE_FLAGS: Flag[] = [
  text('bridge'),
  int('disk-queue-size'),
  text('name'),
  text('network'),
  int('nics'),
  bool('no-direct-io'),
  bool('on-demand'),
  OUTPUT,
  bool('pull'),
  int('queue-size'),
  ...(faults.newer
    ? [text('from-dir'), text('data-disk'), text('restore-mode')]
    : [int('cpu'), text('memory'), text('storage')]),
];

const RUN_FLAGS: Flag[] = [
  ...['bridge', 'data-disk', 'memory', 'name', 'network', 'password', 'storage', 'user'].map((name) => text(name)),
  ...['cpu', 'disk-queue-size', 'nics', 'queue-size'].map(int),
  ...['fc', 'no-direct-io', 'windows'].map(bool),
  OUTPUT,
];

const GC_FLAGS: Flag[] = faults.newer
  ? [bool('snapshot'), text('snapshot-age'), bool('snapshot-dry-run'), int('snapshot-keep'), text('snapshot-size')]
  : [];

const images = (name: 'listImages' | 'inspectImage' | 'removeImages' | 'pullImages') => async (call: Invocation) =>
  (await import('./images.ts'))[name](call);
const snapshots =
  (name: 'listSnapshots' | 'inspectSnapshot' | 'removeSnapshots' | 'importSnapshot' | 'exportSnapshot') =>
  async (call: Invocation) =>
    (await import('./snapshots.ts'))[name](call);
const vms = (name: 'listVms' | 'inspectVm' | 'stopVms' | 'removeVms') => async (call: Invocation) =>
  (await import('./vms.ts'))[name](call);
const meta = (name: 'initMeta' | 'convertMeta') => async (call: Invocation) => (await import('./meta.ts'))[name](call);

const IMAGE: Command = {
  name: 'image',
  about: 'Manage images',
  children: [
    {
      name: 'import',
      usage: 'NAME [FILE...]',
      about: 'Import an image from a file or stdin',
      least: 1,
      run: async (call) => (await import('./image-import.ts')).importImage(call),
    },
    { name: 'inspect', usage: 'IMAGE', about: 'Show an image as JSON', least: 1, most: 1, run: images('inspectImage') },
    { name: 'list', aliases: ['ls'], about: 'List images of all backends', flags: [FORMAT], run: images('listImages') },
    {
      name: 'pull',
      usage: 'IMAGE [IMAGE...]',
      about: 'Pull images',
      least: 1,
      flags: [bool('force')],
      run: images('pullImages'),
    },
    { name: 'rm', usage: 'ID [ID...]', about: 'Delete images', least: 1, run: images('removeImages') },
  ],
};

const SNAPSHOT: Command = {
  name: 'snapshot',
  about: 'Manage VM snapshots',
  children: [
    {
      name: 'export',
      usage: 'SNAPSHOT',
      about: 'Export a snapshot',
      least: 1,
      most: 1,
      flags: [bool('gzip'), OUTPUT],
      run: snapshots('exportSnapshot'),
    },
    {
      name: 'import',
      usage: '[FILE]',
      about: 'Import a snapshot from a file or stdin',
      least: 0,
      most: 1,
      flags: [text('description'), text('name')],
      run: snapshots('importSnapshot'),
    },
    {
      name: 'inspect',
      usage: 'SNAPSHOT',
      about: 'Show a snapshot as JSON',
      least: 1,
      most: 1,
      run: snapshots('inspectSnapshot'),
    },
    {
      name: 'list',
      aliases: ['ls'],
      about: 'List snapshots',
      flags: [FORMAT, text('vm')],
      run: snapshots('listSnapshots'),
    },
    {
      name: 'rm',
      usage: 'SNAPSHOT [SNAPSHOT...]',
      about: 'Delete snapshots',
      least: 1,
      run: snapshots('removeSnapshots'),
    },
  ],
};

const VM: Command = {
  name: 'vm',
  about: 'Manage virtual machines',
  children: [
    {
      name: 'clone',
      usage: 'SNAPSHOT',
      about: 'Clone a VM from a snapshot',
      least: 1,
      most: 1,
      flags: CLONE_FLAGS,
      run: async (call) => (await import('./clone.ts')).cloneVm(call),
    },
    { name: 'inspect', usage: 'VM', about: 'Show a VM as JSON', least: 1, most: 1, run: vms('inspectVm') },
    { name: 'list', aliases: ['ls'], about: 'List VMs', flags: [FORMAT], run: vms('listVms') },
    {
      name: 'rm',
      usage: 'VM [VM...]',
      about: 'Delete VMs',
      least: 1,
      flags: [bool('force'), OUTPUT],
      run: vms('removeVms'),
    },
    {
      name: 'run',
      usage: 'IMAGE',
      about: 'Create and start a VM',
      least: 1,
      most: 1,
      flags: RUN_FLAGS,
      run: async (call) => (await import('./run.ts')).runVm(call),
    },
    {
      name: 'stop',
      usage: 'VM [VM...]',
      about: 'Stop VMs',
      least: 1,
      flags: [bool('force'), OUTPUT, int('timeout')],
      run: vms('stopVms'),
    },
  ],
};

const META: Command = {
  name: 'meta',
  about: 'Manage the metadata store',
  children: [
    { name: 'convert', about: 'Convert the JSON index files to SQLite', run: meta('convertMeta') },
    { name: 'init', about: 'Create an empty SQLite store', run: meta('initMeta') },
  ],
};

const ROOT: Command = {
  name: 'cocoon',
  about: 'Cocoon - MicroVM Engine',
  children: [
    {
      name: 'gc',
      about: 'Remove what nothing refers to',
      flags: GC_FLAGS,
      run: async (call) => (await import('./gc.ts')).collectGarbage(call),
    },
    IMAGE,
    ...(faults.newer ? [META] : []),
    SNAPSHOT,
    { name: 'version', about: 'Show version', run: async () => printVersion() },
    VM,
  ],
};

/** Runs one command line; what it throws is the text behind `Error: `. */
export async function runCommand(argv: string[]): Promise<void> {
  if (faults.commandLog) appendFileSync(faults.commandLog, `${JSON.stringify(argv)}\n`);
  const { path, rest } = findCommand(argv);
  const command = path.at(-1) ?? ROOT;
  const { flags, args } = parseFlags(rest, [...GLOBAL, ...(command.flags ?? [])]);
  if (flags.has('help')) return printHelp(path);
  if (!command.run) return runGroup(path, args);
  checkArguments(command, args);
  const config = loadConfig(flags, faults.newer);
  setLogLevel(config.logLevel);
  for (const { name, fallback } of command.flags ?? []) if (fallback && !flags.has(name)) flags.set(name, fallback);
  await command.run({ config, layout: layout(config), args, flags });
}

/** Walks down the tree by the words that are neither flags nor their values. */
function findCommand(argv: string[]): { path: Command[]; rest: string[] } {
  const path = [ROOT];
  const rest = [...argv];
  const takesValue = new Set(
    [...GLOBAL, ...CLONE_FLAGS, FORMAT].filter(({ type }) => type !== 'bool').map(({ name }) => `--${name}`),
  );
  for (let i = 0; i < rest.length; i += 1) {
    const word = rest[i] ?? '';
    if (word === '--') break;
    if (word.startsWith('-')) {
      if (takesValue.has(word) || word === '-o') i += 1;
      continue;
    }
    const child = path.at(-1)?.children?.find(({ name, aliases }) => name === word || aliases?.includes(word));
    if (!child) break;
    path.push(child);
    rest.splice(i, 1);
    i -= 1;
  }
  return { path, rest };
}

function parseFlags(words: string[], known: Flag[]): { flags: Map<string, string>; args: string[] } {
  const flags = new Map<string, string>();
  const args: string[] = [];
  for (let i = 0; i < words.length; i += 1) {
    const word = words[i] ?? '';
    if (word === '--') {
      args.push(...words.slice(i + 1));
      break;
    }
    if (!word.startsWith('-') || word === '-') {
      args.push(word);
      continue;
    }
    if (word === '--help' || word === '-h') {
      flags.set('help', 'true');
      continue;
    }
    const { flag, shown, attached } = findFlag(word, known);
    if (flag.type === 'bool') {
      flags.set(flag.name, attached ?? 'true');
      continue;
    }
    const value = attached ?? words[(i += 1)];
    if (value === undefined) throw new Error(`flag needs an argument: ${shown}`);
    if (flag.type === 'int' && !/^[-+]?\d+$/.test(value)) {
      const cause = `strconv.ParseInt: parsing ${JSON.stringify(value)}: invalid syntax`;
      throw new Error(
        `invalid argument ${JSON.stringify(value)} for ${JSON.stringify(`--${flag.name}`)} flag: ${cause}`,
      );
    }
    flags.set(flag.name, value);
  }
  return { flags, args };
}

/** `--name`, `--name=value`, `-o`, `-o=value` or `-ovalue`. */
function findFlag(word: string, known: Flag[]): { flag: Flag; shown: string; attached: string | undefined } {
  if (word.startsWith('--')) {
    const equals = word.indexOf('=');
    const name = equals < 0 ? word.slice(2) : word.slice(2, equals);
    const flag = known.find((candidate) => candidate.name === name);
    if (!flag) throw new Error(`unknown flag: --${name}`);
    return { flag, shown: `--${name}`, attached: equals < 0 ? undefined : word.slice(equals + 1) };
  }
  const letter = word.charAt(1);
  const flag = known.find(({ short }) => short === letter);
  if (!flag) throw new Error(`unknown shorthand flag: '${letter}' in ${word}`);
  const attached = word.length > 2 ? word.slice(2).replace(/^=/, '') : undefined;
  return { flag, shown: `'${letter}' in ${word}`, attached };
}

/** v0.3.8 answers an unknown word of a group with help and success; the root, and N everywhere, refuse it. */
function runGroup(path: Command[], args: string[]): void {
  const [word] = args;
  if (word === undefined || (path.length > 1 && !faults.newer) || word === 'help') return printHelp(path);
  const parent = path.map(({ name }) => name).join(' ');
  throw new Error(
    `unknown command ${JSON.stringify(word)} for ${JSON.stringify(parent)}\nRun '${parent} --help' for usage.`,
  );
}

function checkArguments(command: Command, args: string[]): void {
  const { least, most } = command;
  if (least === undefined) return;
  const received = args.length;
  if (least === most && received !== least) throw new Error(`accepts ${least} arg(s), received ${received}`);
  if (received < least) throw new Error(`requires at least ${least} arg(s), only received ${received}`);
  if (most !== undefined && received > most) throw new Error(`accepts at most ${most} arg(s), received ${received}`);
}

function printHelp(path: Command[]): void {
  const command = path.at(-1) ?? ROOT;
  const name = path.map((part) => part.name).join(' ');
  const children = command.children ?? [];
  const width = Math.max(...children.map((child) => child.name.length), 0) + 3;
  const tail = children.length > 0 ? ' [command]' : `${command.usage ? ` ${command.usage}` : ''} [flags]`;
  const lines = [command.about, '', 'Usage:', `  ${name}${tail}`];
  if (children.length > 0) {
    lines.push('', 'Available Commands:', ...children.map((child) => `  ${child.name.padEnd(width)}${child.about}`));
  }
  lines.push(
    '',
    'Flags:',
    ...[...(command.flags ?? []), { name: 'help', short: 'h', type: 'bool' as const }].map(flagLine),
  );
  lines.push('', 'Global Flags:', ...GLOBAL.map(flagLine));
  print(`${lines.join('\n')}\n`);
}

function flagLine(flag: Flag): string {
  return `  ${flag.short ? `-${flag.short}, ` : '    '}--${flag.name}${flag.type === 'bool' ? '' : ` ${flag.type}`}`;
}

function printVersion(): void {
  const version = faults.version ?? (faults.newer ? 'v0.4.8' : 'v0.3.8');
  const revision = faults.newer
    ? '01aad9f0000000000000000000000000000000aa'
    : '34c6c4a8ebdd4572f1971aba85a3cefa2530db53';
  print(
    [
      `Version:        ${version}`,
      `Git hash:       ${revision}`,
      'Built:          2026-04-27T11:40:00Z',
      'Golang version: go1.25.6',
      'OS/Arch:        linux/amd64',
      '',
    ].join('\n'),
  );
}
