/** The rules of the linter bite: a violation of each is planted in a copy of the tree, and each is caught in its line. */
import { spawnSync } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

const root = new URL('../../', import.meta.url).pathname;

/** A line of code in a file, and the rule that must catch it, with a word of its message; null: it is allowed. */
type Plant = [file: string, code: string, rule: string | null, message?: string];

const IMPORT = 'no-restricted-imports';
const GLOBAL = 'no-restricted-globals';
const PROPERTY = 'no-restricted-properties';

/** The rooms of `src` that each may import beside itself, as the table in `src/README.md` says. */
const LAYERS: Record<string, string[]> = Object.fromEntries(
  [...readFileSync(join(root, 'src/README.md'), 'utf8').matchAll(/^\| `(\w+)\/` +\|.*\| ([^|]+?) +\|$/gm)].map(
    ([, room = '', imports = '']) => [room, imports === 'nothing' ? [] : imports.split(', ')],
  ),
);

const layers: Plant[] = Object.entries(LAYERS).flatMap(([from, allowed]) =>
  Object.keys(LAYERS)
    .filter((to) => to !== from)
    .flatMap((to): Plant[] => {
      const rule = allowed.includes(to) ? null : IMPORT;
      return [
        [`${from}/planted.ts`, `import { x as ${to}Value } from '../${to}/x.ts';`, rule],
        [`${from}/room/planted.ts`, `import { x as ${to}Value } from '../../${to}/room/x.ts';`, rule],
        [`${from}/planted.ts`, `import type { X as ${to}Type } from '../${to}/x.ts';`, rule],
        [`${from}/planted.ts`, `export { x as ${to} } from '../${to}/x.ts';`, rule],
        [`${from}/planted.ts`, `await import('../${to}/x.ts');`, rule],
      ];
    }),
);

const core: Plant[] = [
  ['core/pure.ts', "import { readFileSync } from 'node:fs';", IMPORT, 'no I/O'],
  ['core/pure.ts', "import { statSync } from 'fs';", IMPORT, 'no I/O'],
  ['core/pure.ts', "import { readFile } from 'fs/promises';", IMPORT, 'no I/O'],
  ['core/pure.ts', "await import('node:fs');", IMPORT, 'no I/O'],
  ['core/pure.ts', "await import('node:timers/promises');", IMPORT, 'no I/O'],
  ...['ssh2', 'undici', 'p-queue', 'cli-table3', 'pino', 'yaml', 'zod'].map((library): Plant => [
    'core/pure.ts',
    `import * as ${library.replace(/\W/g, '_')} from '${library}';`,
    IMPORT,
    'core is pure',
  ]),
  ...['process.pid', 'console', 'performance', 'crypto'].map((it): Plant => ['core/pure.ts', `void ${it};`, GLOBAL]),
  ...['setTimeout', 'setInterval', 'setImmediate', 'queueMicrotask', 'fetch'].map((it): Plant => [
    'core/pure.ts',
    `void ${it}('x');`,
    GLOBAL,
  ]),
  ['core/pure.ts', 'void Date.now();', PROPERTY, 'given the time'],
  ['core/pure.ts', 'void Math.random();', PROPERTY, 'given its randomness'],
  ['core/pure.ts', "import { fold } from './nodeset.ts';", null],
  ['core/pure.ts', "import picomatch from 'picomatch';", null],
  ['core/pure.ts', "void [Date.parse('x'), Math.max(1), new Map()];", null],
];

const CHANGES = 'reaches what changes a node';
const changes: Plant[] = [
  ['cli/change.ts', "import { pullImage } from '../node/change.ts';", IMPORT, CHANGES],
  ['cli/change.ts', "await import('../node/change.ts');", IMPORT, CHANGES],
  ['cli/change.ts', "import { applyPlan } from '../pipeline/apply/rollout.ts';", IMPORT, CHANGES],
  ['cli/change.ts', "import { runPipeline } from '../pipeline/run.ts';", null],
  ['pipeline/observe.ts', "import { pullImage } from '../node/change.ts';", IMPORT, CHANGES],
  ['pipeline/observe.ts', "await import('../node/change.ts');", IMPORT, CHANGES],
  ['pipeline/run.ts', "import { pullImage } from '../node/change.ts';", IMPORT, CHANGES],
  ['pipeline/run.ts', "import { applyPlan } from './apply/rollout.ts';", IMPORT, 'dynamic import'],
  ['pipeline/run.ts', "await import('./apply/rollout.ts');", IMPORT, 'dynamic import'],
  ['pipeline/run.ts', "import { observeAll } from './observe.ts';", null],
  ['pipeline/apply/action.ts', "import { pullImage } from '../../node/change.ts';", null],
  ['pipeline/apply/action.ts', "import { x } from '../../cli/io.ts';", IMPORT, 'pipeline imports core'],
  ['pipeline/learn/x.ts', "import { pullImage } from '../../node/change.ts';", IMPORT, CHANGES],
  ['pipeline/learn/x.ts', "import { applyPlan } from '../apply/rollout.ts';", IMPORT, 'dynamic import'],
  ['pipeline/apply/action.ts', "import { readAgain } from './verify.ts';", null],
  ...['core/model/catalog', 'core/model/finding', 'core/model/settings', 'core/judge/images', 'pipeline/judge'].map(
    (module): Plant => [
      'pipeline/apply/action.ts',
      `import type { X as ${module.replace(/\W/g, '_')} } from '../../${module}.ts';`.replace('../../pipeline/', '../'),
      IMPORT,
      'does what the plan says',
    ],
  ),
  ['pipeline/apply/action.ts', "import type { Action } from '../../core/model/plan.ts';", null],
  ['node/other.ts', "import { pullImage } from './change.ts';", IMPORT, CHANGES],
  ['node/other.ts', "export { pullImage } from './change.ts';", IMPORT, CHANGES],
  ['node/answer/other.ts', "import { pullImage } from '../change.ts';", IMPORT, CHANGES],
  ['node/other.ts', "import { readNode } from './read.ts';", null],
  ['config/reads.ts', "import { readRegularFile } from '../system/file.ts';", null],
  ['config/reads.ts', "import { openState } from '../bastion/state.ts';", IMPORT, 'config imports core and system'],
];

/** Every file there is, and in each folder one that somebody may add. */
const files = Object.keys(LAYERS).flatMap((layer) =>
  [
    ...readdirSync(join(root, 'src', layer), { recursive: true, encoding: 'utf8' }).filter((name) =>
      name.endsWith('.ts'),
    ),
    'new.ts',
  ].map((name) => `${layer}/${name}`),
);
/** What is at the edge of the process itself. */
const UNLIMITED = ['program', 'main', 'startup/engine', 'startup/watchdog-thread', 'startup/last-resort'].map(
  (name) => `cli/${name}.ts`,
);
const processes = files.map((file): Plant => [file, 'void process.argv;', UNLIMITED.includes(file) ? null : GLOBAL]);

const FLOATING = 'no-floating-promises';
const floating: Plant[] = [
  'const work = async (): Promise<void> => await Promise.resolve();',
  'work();',
  'work().then(() => 1);',
  'Promise.all([work(), work()]);',
  '[1, 2].map(async () => await work());',
  'void 0, work();',
].map((code, i) => ['ssh/floating.ts', code, i === 0 ? null : FLOATING]);

const deadlines: Plant[] = [
  ...Object.keys(LAYERS).flatMap((layer) =>
    ['void AbortSignal.any([]);', 'void AbortSignal.timeout(1);', 'const { timeout } = AbortSignal; void timeout;'].map(
      (code): Plant => [`${layer}/deadlines.ts`, code, PROPERTY, layer === 'core' ? 'no deadlines' : 'deadline.ts'],
    ),
  ),
  ['ssh/deadlines.ts', 'void AbortSignal.abort();', null],
];

const others: Plant[] = [
  ['core/others.ts', 'export default 1;', 'no-default-export'],
  ['core/others.ts', 'export const loose = (x: any): unknown => x;', 'no-explicit-any'],
  ['core/others.ts', 'export const five = (a: 1, b: 1, c: 1, d: 1, e: 1): unknown => [a, b, c, d, e];', 'max-params'],
  ['core/others.ts', 'export const four = (a: 1, b: 1, c: 1, d: 1): unknown => [a, b, c, d];', null],
  ['core/others.ts', "export const thrown = (): never => { throw 'text'; };", 'only-throw-error'],
  [
    'core/others.ts',
    'export const misused = (): void => [1].forEach(async () => await Promise.resolve());',
    'no-misused-promises',
  ],
  ['../test/words.test.ts', "import { it } from 'vitest';", IMPORT, 'one word for a test'],
  ['../test/words.test.ts', "import { test } from 'vitest';", null],
];

const CYCLE = 'no-cycle';
const cycles: Plant[] = [
  ['reports/one.ts', "export type { Two } from './two.ts';", CYCLE],
  ['reports/two.ts', "import type { One } from './three.ts';", CYCLE],
  ['reports/three.ts', "import type { Two } from './one.ts';", CYCLE],
  ['reports/three.ts', "import type { Four } from './four.ts';", null],
  ['reports/four.ts', 'export type Four = 4;', null],
];

const plants = [...layers, ...core, ...changes, ...processes, ...floating, ...deadlines, ...cycles, ...others];

interface Diagnostic {
  code?: string;
  help?: string;
  filename: string;
  labels: { span: { line: number } }[];
}

let dir: string;
/** `file:line` → what the linter says there. */
const found = new Map<string, Diagnostic[]>();
const lines = new Map<string, string[]>();
const placeOf = ([file, code]: Plant): string => `${join('src', file)}:${(lines.get(file) ?? []).indexOf(code) + 1}`;

beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'reconcile-lint-'));
  for (const name of ['.oxlintrc.json', 'tsconfig.json']) cpSync(join(root, name), join(dir, name));
  symlinkSync(join(root, 'node_modules'), join(dir, 'node_modules'));
  for (const [file, code] of plants) lines.set(file, [...(lines.get(file) ?? []), code]);
  for (const [file, code] of lines) {
    mkdirSync(dirname(join(dir, 'src', file)), { recursive: true });
    writeFileSync(join(dir, 'src', file), `${code.join('\n')}\nexport {};\n`);
  }
  const { stdout, stderr } = spawnSync(
    join(root, 'node_modules/.bin/oxlint'),
    ['--type-aware', '-f', 'json', 'src', 'test'],
    {
      cwd: dir,
      encoding: 'utf8',
      maxBuffer: 2 ** 26,
    },
  );
  expect(stderr).toBe('');
  const { diagnostics } = JSON.parse(stdout) as { diagnostics: Diagnostic[] };
  expect(diagnostics.filter(({ code }) => code === undefined)).toEqual([]); // what cannot be parsed is not linted
  for (const diagnostic of diagnostics) {
    for (const { span } of diagnostic.labels.slice(0, 1)) {
      const place = `${diagnostic.filename}:${span.line}`;
      found.set(place, [...(found.get(place) ?? []), diagnostic]);
    }
  }
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

const RULES = [IMPORT, GLOBAL, PROPERTY, FLOATING, CYCLE, 'max-params'];

describe.each([
  ['who may import whom', layers],
  ['core decides and does nothing else', core],
  ['only pipeline/apply/ changes a node', changes],
  ['only cli/program.ts touches process', processes],
  ['no promise floats', floating],
  ['every deadline is one of ours', deadlines],
  ['no files import each other in a circle', cycles],
  ['and the rest', others],
])('%s', (_name, group) => {
  test.each(group)('%s: %s', (file, code, rule, message = '') => {
    const said = found.get(placeOf([file, code, rule])) ?? [];
    if (rule === null) expect(said.filter(({ code: by }) => RULES.some((name) => by?.includes(name)))).toEqual([]);
    else {
      const caught = said.filter(({ code: by }) => by?.includes(rule));
      expect(caught.length, JSON.stringify(said)).toBeGreaterThan(0);
      expect(caught.some(({ help = '' }) => help.includes(message))).toBe(true);
    }
  });
});

test('five floating promises are five', () => {
  const caught = [...found].flatMap(([place, said]) =>
    place.includes('floating.ts') ? said.filter(({ code }) => code?.includes(FLOATING)) : [],
  );
  expect(caught).toHaveLength(5);
});

/** Each file of `src`, with those that it imports, be it later. */
function importsOf(): Map<string, string[]> {
  const src = join(root, 'src');
  return new Map(
    readdirSync(src, { recursive: true, encoding: 'utf8' })
      .filter((name) => name.endsWith('.ts'))
      .map((name) => [
        name,
        [...readFileSync(join(src, name), 'utf8').matchAll(/(?:from|import\()\s*'(\.[^']+\.ts)'/g)].map(([, to = '']) =>
          join(dirname(name), to),
        ),
      ]),
  );
}

test('and nothing that apply reaches is of the catalog, of findings or of the settings', () => {
  const imports = importsOf();
  const reached = new Set([...imports.keys()].filter((name) => name.startsWith('pipeline/apply/')));
  expect(reached.size).toBeGreaterThan(4);
  for (const file of reached) for (const next of imports.get(file) ?? []) reached.add(next);
  const known = ['catalog', 'finding', 'scope', 'settings'].map((name) => `core/model/${name}.ts`);
  expect(known.every((name) => imports.has(name))).toBe(true);
  expect(known.filter((name) => reached.has(name))).toEqual([]);
});

test('nor by way of what is loaded later, which the linter does not follow', () => {
  const imports = importsOf();
  const circles: string[][] = [];
  const done = new Set<string>();
  const follow = (file: string, way: string[]): void => {
    if (way.includes(file)) circles.push([...way.slice(way.indexOf(file)), file]);
    if (way.includes(file) || done.has(file)) return;
    for (const next of imports.get(file) ?? []) follow(next, [...way, file]);
    done.add(file);
  };
  for (const file of imports.keys()) follow(file, []);
  expect(circles).toEqual([]);
});

test('every file that src/README.md names is there, and every room within a room is named', () => {
  const readme = readFileSync(join(root, 'src/README.md'), 'utf8');
  const named = [...readme.matchAll(/`((?:[\w-]+\/)*[\w-]+\.(?:ts|sh))`/g)].map(([, name = '']) => name);
  const all = readdirSync(join(root, 'src'), { recursive: true, encoding: 'utf8' });
  expect(named.length).toBeGreaterThan(40);
  expect(named.filter((name) => !all.some((file) => file === name || file.endsWith(`/${name}`)))).toEqual([]);
  const rooms = new Set(all.filter((file) => /^\w+\/[\w-]+\//.test(file)).map((file) => file.split('/')[1] ?? ''));
  expect([...rooms].filter((room) => !readme.includes(`\`${room}/\``) && !readme.includes(`/${room}/`))).toEqual([]);
});
