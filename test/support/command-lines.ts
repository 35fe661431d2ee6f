// Command lines that know whether they can be understood: written from what the help promises, not from the parser.
import fc from 'fast-check';

type Name = 'run' | 'gate' | 'digest' | 'nodes';

/** Some words, what they mean, and which option that can be given once they use up. */
interface Piece {
  words: readonly string[];
  means: Record<string, unknown>;
  once: string | null;
}

export interface Line {
  argv: string[];
  /** What the line asks for, beyond what is not given; null for a line that is none. */
  means: Record<string, unknown> | null;
}

const FLAGS: [long: string, short: string | null, key: string, commands: Name[]][] = [
  ['dry-run', 'n', 'dryRun', ['run']],
  ['quiet', 'q', 'quiet', ['run', 'gate', 'digest', 'nodes']],
  ['deep', null, 'deep', ['run', 'gate']],
];
const TOGGLES: [long: string, key: string, commands: Name[]][] = [
  ['color', 'color', ['run', 'gate', 'digest', 'nodes']],
  ['stream', 'stream', ['run', 'gate', 'digest']],
];
/** A text that it takes, and what that means. */
type Value = readonly [text: string, means: unknown];
const asIs = (...texts: string[]): Value[] => texts.map((text) => [text, text]);
const COUNTS: Value[] = [
  ['1', 1],
  ['40', 40],
  ['999999', 999_999],
];
const LIMITS: Value[] = [
  ['1', { value: 1, percent: false }],
  ['10%', { value: 10, percent: true }],
  ['100%', { value: 100, percent: true }],
];
const VALUED: [long: string, short: string | null, key: string, commands: Name[], values: Value[]][] = [
  ['config', 'c', 'config', ['run', 'gate', 'digest', 'nodes'], asIs('x.yaml', './-y', '-', 'a b=c')],
  [
    'timeout',
    null,
    'timeoutMs',
    ['run', 'gate', 'digest', 'nodes'],
    [
      ['90s', 90_000],
      ['1h30m', 5_400_000],
    ],
  ],
  ['log-level', null, 'logLevel', ['run', 'gate', 'digest', 'nodes'], asIs('silent', 'debug')],
  ['output', 'o', 'output', ['run', 'gate', 'digest', 'nodes'], asIs('table', 'json')],
  ['output', 'o', 'output', ['gate'], asIs('junit')],
  ['output', 'o', 'output', ['run', 'gate'], asIs('markdown')],
  ['clone', null, 'clone', ['run'], asIs('none', 'files', 'vm')],
  [
    'repair',
    null,
    'repair',
    ['run'],
    [
      ['replace', ['replace']],
      ['restore,replace', ['restore', 'replace']],
    ],
  ],
  ['concurrency', null, 'concurrency', ['run', 'gate'], COUNTS],
  ['max-pulls', null, 'maxPulls', ['run'], COUNTS],
  ['canary', null, 'canary', ['run'], [['0', 0], ...COUNTS]],
  ['max-failures', null, 'maxFailures', ['run'], [['0', { value: 0, percent: false }], ...LIMITS]],
  ['min-ready', null, 'minReady', ['gate'], LIMITS],
  [
    'shard',
    null,
    'shard',
    ['run', 'nodes'],
    [
      ['0/1', { index: 0, count: 1 }],
      ['7/8', { index: 7, count: 8 }],
    ],
  ],
];
const LISTS: [long: string, short: string, key: string, commands: Name[], texts: string[]][] = [
  ['node', 'w', 'nodes', ['run', 'gate', 'digest', 'nodes'], ['node[1-2]', '!@gpu', 'n1']],
  ['image', 'i', 'images', ['run', 'gate'], ['simular/win11', 'http://epoch/dl/a=b', 'true']],
  ['snapshot', 's', 'snapshots', ['run', 'gate'], ['simular/hot:v1', 'no']],
];
const OPERANDS: Record<Name, string[]> = {
  run: [],
  nodes: [],
  gate: ['set.yaml', '-', 'run'],
  digest: ['a/b:1', 'gate'],
};
const COMMANDS: Name[] = ['run', 'gate', 'digest', 'nodes'];
const LONGS = [...FLAGS, ...TOGGLES, ...VALUED, ...LISTS].map(([long]) => long);
const LATER = ['observed', 'max-age', 'report', 'log-format'];

/** Every way to write an option and its value. */
function spellings(long: string, short: string | null, text: string): string[][] {
  const separate = text.startsWith('-') && text !== '-' ? [] : [[`--${long}`, text]];
  const letters = short === null ? [] : [[`-${short}`, text], [`-${short}${text}`], [`-${short}=${text}`]];
  const safe = letters.filter(([first, second]) => (second === undefined ? first !== `-${short}=` : true));
  return [[`--${long}=${text}`], ...separate, ...safe.filter((words) => words.length === 1 || separate.length > 0)];
}

/** Every piece that is understood with a command. */
function piecesOf(command: Name): Piece[] {
  const here = <T extends [...unknown[]]>(rows: T[], at: number): T[] =>
    rows.filter((row) => (row[at] as Name[]).includes(command));
  return [
    ...here(FLAGS, 3).flatMap(([long, short, key]) =>
      [`--${long}`, ...(short === null ? [] : [`-${short}`])].map((word) => ({
        words: [word],
        means: { [key]: true },
        once: null,
      })),
    ),
    ...here(TOGGLES, 2).flatMap(([long, key]) =>
      [true, false].map((on) => ({ words: [`--${on ? '' : 'no-'}${long}`], means: { [key]: on }, once: key })),
    ),
    ...here(VALUED, 3).flatMap(([long, short, key, , values]) =>
      values.flatMap(([text, means]) =>
        spellings(long, short, text).map((words) => ({ words, means: { [key]: means }, once: key })),
      ),
    ),
    ...here(LISTS, 3).flatMap(([long, short, key, , texts]) =>
      texts.flatMap((text) =>
        spellings(long, short, text).map((words) => ({ words, means: { [key]: [text] }, once: null })),
      ),
    ),
    ...(command === 'run' ? [{ words: ['-nq'], means: { dryRun: true, quiet: true }, once: null }] : []),
    ...(command === 'run'
      ? [{ words: ['-qno', 'json'], means: { dryRun: true, quiet: true, output: 'json' }, once: 'output' }]
      : []),
  ];
}

/** A line that is understood, in pieces: options and the command in any order, then what comes after `--`. */
const sound = fc.constantFrom(...COMMANDS).chain((command) =>
  fc
    .record({
      options: fc.array(fc.constantFrom(...piecesOf(command)), { maxLength: 6 }),
      operands:
        OPERANDS[command].length === 0
          ? fc.constant<string[]>([])
          : fc.array(fc.constantFrom(...OPERANDS[command]), { minLength: 1, maxLength: 2 }),
      isNamed: fc.boolean(),
      at: fc.nat(6),
      isAfterDashes: fc.boolean(),
    })
    .map(({ options, operands, isNamed, at, isAfterDashes }) => {
      const kept = options.filter(
        ({ once }, i) => once === null || options.findIndex((other) => other.once === once) === i,
      );
      const word: Piece[] = command === 'run' && !isNamed ? [] : [{ words: [command], means: {}, once: null }];
      const pieces = [...kept.slice(0, at), ...word, ...kept.slice(at)];
      const last = operands.length > 0 && isAfterDashes ? ['--', ...operands] : operands;
      return { command, pieces, last, operands };
    }),
);

function meaning(command: Name, pieces: Piece[], operands: string[]): Record<string, unknown> {
  const all: Record<string, unknown> = { name: command };
  for (const { means } of pieces) {
    for (const [key, value] of Object.entries(means)) {
      const isList = LISTS.some(([, , list]) => list === key);
      all[key] = isList ? [...((all[key] as unknown[] | undefined) ?? []), ...(value as unknown[])] : value;
    }
  }
  if (command === 'gate') all['manifests'] = operands;
  if (command === 'digest') all['references'] = operands;
  return all;
}

export const soundLine: fc.Arbitrary<Line> = sound.map(({ command, pieces, last, operands }) => ({
  argv: [...pieces.flatMap(({ words }) => words), ...last],
  means: meaning(command, pieces, operands),
}));

const anyWord = fc.oneof(
  fc.string({ maxLength: 8 }),
  fc.constantFrom('client', 'server', 'yes', '1', 'true', 'TRUE', 'on', '', '0', 'false', 'no', ' ', '=', '１'),
);
const isNumber = /^(0|[1-9][0-9]{0,5})$/;
const isDuration = /^([0-9]+([.][0-9]+)?(ms|s|m|h|d))+$/;
const noNumber = fc.oneof(
  fc.constantFrom(
    '-1',
    '1e3',
    '0x10',
    '+5',
    '1_000',
    '１',
    '1.5',
    '007',
    '1000000',
    'NaN',
    'Infinity',
    ' 1',
    '1 ',
    '१',
  ),
  anyWord.filter((word) => !isNumber.test(word)),
);
const camel = (long: string): string => long.replace(/-(.)/g, (_, letter: string) => letter.toUpperCase());
const known = new Set([...LONGS, ...TOGGLES.map(([long]) => `no-${long}`), 'help', 'version', 'verbose']);

/** Words that no command line may hold, wherever they stand before `--`. */
const spoiled: fc.Arbitrary<readonly string[]> = fc.oneof<fc.Arbitrary<readonly string[]>[]>(
  // a flag with a value
  fc.tuple(fc.constantFrom(...FLAGS, ...TOGGLES), anyWord).map(([[long], word]) => [`--${long}=${word}`]),
  fc.tuple(fc.constantFrom(...TOGGLES), anyWord).map(([[long], word]) => [`--no-${long}=${word}`]),
  fc
    .constantFrom('-n1', '-n=1', '-n=', '-n=true', '-nq1', '-q=true', '-qn=x', '-n-', '-nn=', '-q０', '-nx', '-vv')
    .map((word) => [word]),
  fc
    .tuple(
      fc.constantFrom('--deep', '-q', '--no-color'),
      fc.constantFrom('true', 'false', 'yes', 'no', '1', '0', 'on', 'OFF', 'never'),
    )
    .map((words) => words),
  // another spelling
  fc
    .constantFrom(...LONGS.filter((long) => camel(long) !== long))
    .chain((long) =>
      fc
        .constantFrom(
          `--${camel(long)}`,
          `--${camel(long)}=1`,
          `--${long.replace('-', '_')}`,
          `--${long.replace('-', '')}=1`,
        )
        .map((word) => [word]),
    ),
  fc
    .constantFrom(...LONGS)
    .chain((long) =>
      fc
        .constantFrom(
          `--${long.toUpperCase()}`,
          `-${long}`,
          `---${long}`,
          `--${long}.x=1`,
          `--${long} `,
          `\u2014${long}x`,
          `--${long}\u200b`,
        )
        .map((word) => [word]),
    )
    .filter(([word]) => !/^-[a-z]/.test(word as string) || word === '-deep'),
  fc
    .constantFrom(...LONGS)
    .chain((long) => fc.nat(long.length - 1).map((end) => `--${long.slice(0, end)}`))
    .filter((word) => word !== '--' && !known.has(word.slice(2)))
    .map((word) => [word]),
  // a form that is none
  fc
    .constantFrom(
      ...[...FLAGS, ...VALUED, ...LISTS].map(([long]) => `--no-${long}`),
      '--no-verbose',
      '--no-',
      '--no-no-stream',
      '--no-stream-',
    )
    .map((word) => [word]),
  fc
    .constantFrom(
      '--__proto__',
      '--__proto__=1',
      '--constructor.x=1',
      '--constructor',
      '--toString=1',
      '--hasOwnProperty',
      '--a.b.c=1',
      '--_',
      '--=x',
      '--$0',
    )
    .map((word) => [word]),
  fc
    .string({ minLength: 1, maxLength: 8 })
    .filter((word) => !known.has(word.split('=', 1)[0] as string))
    .map((word) => [`--${word}`]),
  // what is not built
  fc.constantFrom(...LATER).chain((long) => fc.constantFrom([`--${long}=1`], [`--${long}`, '1'], [`--no-${long}`])),
  fc.constantFrom(['--no-progress'], ['--quiet=unchanged'], ['--output=html'], ['-oprometheus']),
  // a value that is none
  fc
    .tuple(fc.constantFrom('concurrency', 'max-pulls', 'canary'), noNumber)
    .map(([long, word]) => [`--${long}=${word}`]),
  fc
    .tuple(
      fc.constantFrom('max-failures', 'min-ready'),
      noNumber.filter((word) => !/^(100|[1-9]?[0-9])%$/.test(word)),
    )
    .map(([long, word]) => [`--${long}=${word}`]),
  fc
    .constantFrom(
      '--max-failures=101%',
      '--max-failures=%',
      '--min-ready=1%%',
      '--min-ready=-1%',
      '--min-ready=0',
      '--max-pulls=0',
      '--concurrency=0',
    )
    .map((word) => [word]),
  fc
    .oneof(
      fc.constantFrom('0s', '5', '-5s', '1e3s', '5S', '５s', '5 s', '99999h', 'PT5S'),
      anyWord.filter((word) => !isDuration.test(word)),
    )
    .map((word) => [`--timeout=${word}`]),
  fc
    .tuple(fc.constantFrom('output', 'clone', 'repair', 'log-level'), anyWord)
    .map(([long, word]) => [`--${long}=${word}`]),
  fc
    .constantFrom('--output=JSON', '-ojson,table', '--repair=replace,', '--repair=replace;restore', '--clone=VM')
    .map((word) => [word]),
  fc.constantFrom(...VALUED, ...LISTS).map(([long]) => [`--${long}=`]),
  fc.constantFrom(...VALUED, ...LISTS).map(([long]) => [`--${long}`, '']),
  fc
    .constantFrom(...VALUED, ...LISTS)
    .chain(([long, short]) =>
      fc.constantFrom('-n', '--dry-run', '-1', '--').map((next) => [short === null ? `--${long}` : `-${short}`, next]),
    ),
  // given twice
  fc
    .constantFrom(...VALUED)
    .map(([long, , , , values]) => [`--${long}=${values[0]?.[0]}`, `--${long}=${values.at(-1)?.[0]}`]),
  fc.constantFrom(...TOGGLES).map(([long]) => [`--${long}`, `--no-${long}`]),
  fc.constantFrom(['-v', '-v'], ['-q', '-v'], ['--verbose', '--quiet']),
);

/** A line that is understood but for some words in the middle of it. */
const spoiledLine: fc.Arbitrary<Line> = fc.tuple(sound, spoiled, fc.nat(6)).map(([{ pieces, last }, words, at]) => ({
  argv: [...pieces.slice(0, at), { words }, ...pieces.slice(at)].flatMap((piece) => piece.words).concat(last),
  means: null,
}));

/** A line whose words are each known, but not together. */
const mixedLine: fc.Arbitrary<Line> = fc.oneof(
  sound.chain(({ command, pieces, last }) => {
    const foreign = COMMANDS.flatMap(piecesOf).filter(({ words }) => {
      const long = [...FLAGS, ...TOGGLES, ...VALUED, ...LISTS].filter(
        ([name]) => words[0]?.replace(/^--(no-)?/, '').split('=')[0] === name,
      );
      return (
        long.length > 0 && !long.some((row) => (row.find((cell) => Array.isArray(cell)) as Name[]).includes(command))
      );
    });
    const strange: Piece[] = [{ words: ['--min-ready=101%'], means: {}, once: null }];
    return fc.constantFrom(...(foreign.length > 0 ? foreign : strange)).map(({ words }) => ({
      argv: [...words, ...pieces.flatMap((piece) => piece.words), ...last],
      means: null,
    }));
  }),
  sound
    .filter(({ command }) => command === 'run' || command === 'nodes')
    .chain(({ command, pieces }) =>
      fc.constantFrom(['true'], ['run'], ['x.yaml'], ['--', '-n'], ['--', 'gate'], ['-']).map((words) => ({
        // The first word of a line without a command is the command.
        argv: [
          ...(pieces.some(({ words: [word] }) => word === command) ? [] : [command]),
          ...pieces.flatMap((piece) => piece.words),
          ...words,
        ],
        means: null,
      })),
    ),
  fc
    .tuple(
      sound.filter(({ command, last }) => command === 'run' && last.length === 0),
      fc.constantFrom(
        'plan',
        'Run',
        'explain',
        'doctor',
        'gat',
        'dry-run',
        '',
        'constructor',
        '__proto__',
        '\u2014dry-run',
        'completion',
      ),
    )
    .map(([{ pieces }, word]) => ({ argv: [word, ...pieces.flatMap((piece) => piece.words)], means: null })),
  fc
    .constantFrom(...VALUED, ...LISTS)
    .map(([long, short]) => ({ argv: ['nodes', short === null ? `--${long}` : `-${short}`], means: null })),
);

export const anyLine: fc.Arbitrary<Line> = fc.oneof(
  { arbitrary: soundLine, weight: 2 },
  { arbitrary: spoiledLine, weight: 5 },
  { arbitrary: mixedLine, weight: 1 },
);
