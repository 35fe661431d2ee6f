/** The gate's JUnit validates against the schemas of Ant and of Jenkins, which a package publishes, whatever is in it. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { assemble, type Parts } from '../../../src/core/report/report.ts';
import type { Signal } from '../../../src/core/model/exit-codes.ts';
import type { ErrorInfo } from '../../../src/core/model/error.ts';
import type { Answer, Gate, GateAnswer, GateQuestion, Refusal } from '../../../src/core/model/gate.ts';
import type { Report } from '../../../src/core/model/report.ts';
import { gateVerdict, renderGate } from '../../../src/reports/gate.ts';
import { renderJunit } from '../../../src/reports/junit.ts';
import { observation, node, trouble, unreachable } from '../../support/facts.ts';
import { junitProblems, SCHEMAS } from '../../support/junit.ts';

const HOT = 'simular/win11-hot:v1';

function answer(of: string, over: Partial<GateAnswer> = {}): GateAnswer {
  const yes = { answer: 'yes', reasonCode: 'CLONABLE', reason: 'everything that it needs is there' } as const;
  return { node: of, ...yes, pullHelps: false, help: null, commands: [], ...over };
}

const drifted = {
  answer: 'no',
  reasonCode: 'BASE_DRIFTED',
  reason: 'its base is not there',
  pullHelps: true,
  help: '`reconcile` heals it (pull)',
} as const;

function question(nodes: GateAnswer[], over: Partial<GateQuestion> = {}): GateQuestion {
  const ready = nodes.filter(({ answer }) => answer === 'yes').length;
  return {
    source: 'sets/win.yaml:9',
    set: 'default/demo',
    role: 'agent',
    toolbox: null,
    mode: 'clone',
    image: HOT,
    pool: 'default',
    nodeName: null,
    ready,
    needed: nodes.length,
    outcome: ready === nodes.length ? 'pass' : nodes.some(({ answer }) => answer === 'no') ? 'blocked' : 'incomplete',
    nodes,
    ...over,
  };
}

function report(questions: GateQuestion[] | null, over: Partial<Gate> = {}, parts: Partial<Parts> = {}): Report {
  const pass = questions?.every(({ outcome }) => outcome === 'pass') ?? false;
  const gate =
    questions === null ? null : { pass, minReady: '100%', require: 'start' as const, questions, errors: [], ...over };
  return assemble(
    {
      tool: { name: 'cocoon-reconcile', version: '0.1.0' },
      run: {
        id: 'r-1',
        mode: 'gate',
        startedAt: '2026-05-09T12:00:00.250Z',
        finishedAt: '2026-05-09T12:00:02.500Z',
        blobDepth: 'size',
      },
      error:
        questions === null ? trouble('GATE_EMPTY', 'the gate has nothing to ask: x < y & "z"', 'name something') : null,
      signal: null,
      desired: [],
      snapshots: [],
      observations: [observation({}, node('n1')), unreachable(node('n3'))],
      rows: [],
      actions: [],
      tidied: [],
      ...parts,
    },
    gate,
  );
}

/** One question is answered, and these could not be asked. */
function refusing(errors: Refusal[]): Report {
  const of = report([question([answer('n1')])], { errors, pass: false });
  return { ...of, run: { ...of.run, exitCode: 1, error: errors[0]?.error ?? null } };
}

/** Every character that a YAML file, a node or a registry could put into a text. */
const NASTY = `${Array.from({ length: 0x20 }, (_, i) => String.fromCharCode(i)).join('')}\x7f\x85\ud800x\udfff\ufffe\uffff]]><a b="c" d='e'>&amp;&#0;\u{1f600}`;

const WORLDS: Record<string, Report> = {
  'a no, an unknown and a yes': report([
    question([
      answer('n1'),
      answer('n2', drifted),
      answer('n3', { answer: 'unknown', reasonCode: 'SSH_TIMEOUT', reason: 'n3 took too long', help: 'is it up?' }),
    ]),
  ]),
  'all well': report([question([answer('n1'), answer('n2')])]),
  'two sets that ask for the same': report([
    question([answer('n1', drifted)]),
    question([answer('n1', drifted)], { set: 'default/other', source: 'sets/other.yaml:4' }),
  ]),
  'one image in both modes': report([
    question([answer('n1')]),
    question([answer('n1', { reasonCode: 'IN_SYNC' })], { mode: 'run', role: 'toolbox', toolbox: 'db' }),
  ]),
  'characters that XML does not know': report([
    question([answer(`n${NASTY}`, { ...drifted, reason: NASTY, help: NASTY, commands: [NASTY, 'true'] })], {
      image: `true ${NASTY}`,
      set: NASTY,
      source: NASTY,
    }),
  ]),
  'a no and an unknown within minReady': report(
    [
      question(
        [
          answer('n1'),
          answer('n2', drifted),
          answer('n3', { answer: 'unknown', reasonCode: 'SSH_TIMEOUT', reason: 'n3 took too long' }),
        ],
        { needed: 1, outcome: 'pass' },
      ),
    ],
    { minReady: '1' },
  ),
  'more nodes are needed than there are': report(
    [question([answer('n1')], { needed: 2, outcome: 'blocked', image: 'https://epoch.example/dl/base/ubuntu-24.04' })],
    { minReady: '2' },
  ),
  'manifests that are not understood': refusing([
    { source: 'sets/bad.yaml:3', error: trouble('MANIFEST_INVALID', 'sets/bad.yaml:3: spec is required') },
    { source: 'sets/gone.yaml', error: trouble('MANIFEST_INVALID', 'sets/gone.yaml: does not exist') },
  ]),
  'nothing could be asked': report(null),
  'answers, and an epoch that gave none': {
    ...report([question([answer('n1')])]),
    run: { ...report(null).run, error: trouble('REGISTRY_UNREACHABLE') },
  },
};

describe.each(Object.entries(WORLDS))('%s', (_, of) => {
  test.each(Object.keys(SCHEMAS))('validates against %s', async (schema) => {
    expect(await junitProblems(renderJunit(of), schema)).toEqual([]);
  });
});

test('the schemas find what is wrong', async () => {
  const wrong = renderJunit(WORLDS['all well'] as Report).replace('<testcase classname', '<testcase klass');
  for (const schema of Object.keys(SCHEMAS)) expect(await junitProblems(wrong, schema)).not.toEqual([]);
});

test('one test case per question and node: a no is a failure, an unknown an error', () => {
  const xml = renderJunit(WORLDS['a no, an unknown and a yes'] as Report);
  expect(xml).toContain(
    'timestamp="2026-05-09T12:00:00" hostname="localhost" tests="3" failures="1" errors="1" skipped="0" time="2.250"',
  );
  const cases = [...xml.matchAll(/<testcase classname="([^"]*)" name="([^"]*)" time="([^"]*)"[^>]*>\s*<(\S+)/g)];
  expect(cases.map((match) => match.slice(1))).toEqual([
    [HOT, 'win11-hot:v1 clone on n1', '0.300', '/testcase>'],
    [HOT, 'win11-hot:v1 clone on n2', '0.000', 'failure'],
    [HOT, 'win11-hot:v1 clone on n3', '10.000', 'error'],
  ]);
  expect(xml).toContain('<failure type="BASE_DRIFTED" message="its base is not there">');
  expect(xml).toContain('asked by agent of default/demo (sets/win.yaml:9)');
  expect(xml).toContain('<error type="SSH_TIMEOUT" message="n3 took too long">');
});

test('who asks for the same is named in one test case; modes of one image have each their own', () => {
  const same = renderJunit(WORLDS['two sets that ask for the same'] as Report);
  expect(same).toContain('tests="1" failures="1"');
  expect(same).toContain('asked by agent of default/other (sets/other.yaml:4)');
  const both = renderJunit(WORLDS['one image in both modes'] as Report);
  expect([...both.matchAll(/<testcase [^>]*name="([^"]*)"/g)].map((match) => match[1])).toEqual([
    'win11-hot:v1 clone on n1',
    'win11-hot:v1 run on n1',
  ]);
});

test('the place is that of the question, and the class name has no dot at which readers would split it', () => {
  const xml = renderJunit(WORLDS['more nodes are needed than there are'] as Report);
  expect(xml).toContain(
    '<testcase classname="https://epoch_example/dl/base/ubuntu-24_04" name="ubuntu-24.04 clone on n1" time="0.300" file="sets/win.yaml" line="9">',
  );
});

test('what minReady tolerates is skipped, with the reason', () => {
  const xml = renderJunit(WORLDS['a no and an unknown within minReady'] as Report);
  expect(xml).toContain('tests="3" failures="0" errors="0" skipped="2"');
  expect(xml).toContain('<skipped message="tolerated by minReady: its base is not there">');
  expect(xml).toContain('<skipped message="tolerated by minReady: n3 took too long">');
});

test('a pool with too few nodes is a failure though each says yes', () => {
  const xml = renderJunit(WORLDS['more nodes are needed than there are'] as Report);
  expect(xml).toContain('tests="2" failures="1" errors="0"');
  expect(xml).toContain('<failure type="TOO_FEW_NODES" message="ready on 1 of 1 node of pool default, 2 needed">');
});

test('each manifest that is not understood is an error with its place, beside the answers', () => {
  const xml = renderJunit(WORLDS['manifests that are not understood'] as Report);
  expect(xml).toContain('tests="3" failures="0" errors="2"');
  expect(xml).toContain('name="manifest sets/bad.yaml:3" time="0.000" file="sets/bad.yaml" line="3">');
  expect(xml).toContain('name="manifest sets/gone.yaml" time="0.000" file="sets/gone.yaml">');
});

test('failures and errors are 0 exactly when the exit code is', () => {
  const anAnswer = fc.constantFrom<Answer>('yes', 'no', 'unknown');
  const aQuestion = fc
    .tuple(fc.array(anAnswer, { minLength: 1, maxLength: 4 }), fc.nat(5), fc.constantFrom('a/b:1', 'c/b:1', 'a/b'))
    .map(([said, needed, image]) => {
      const ready = said.filter((each) => each === 'yes').length;
      const reachable = said.filter((each) => each !== 'no').length;
      const outcome = ready >= needed ? 'pass' : reachable >= needed ? 'incomplete' : 'blocked';
      return question(
        said.map((each, i) => answer(`n${i}`, { answer: each })),
        { needed, outcome, image },
      );
    });
  const aReport = fc
    .tuple(
      fc.array(aQuestion, { minLength: 1, maxLength: 4 }),
      fc.constantFrom<ErrorInfo | null>(null, null, trouble('REGISTRY_UNREACHABLE')),
      fc.constantFrom<Signal | null>(null, null, 'SIGINT'),
    )
    .map(([questions, error, signal]) => report(questions, {}, { error, signal }));
  fc.assert(
    fc.property(aReport, (of) => {
      const xml = renderJunit(of);
      const [, failures, errors] = /failures="(\d+)" errors="(\d+)"/.exec(xml) ?? [];
      expect(Number(failures) + Number(errors) === 0).toBe(of.run.exitCode === 0);
      const names = [...xml.matchAll(/<testcase classname="([^"]*)" name="([^"]*)"/g)].map((found) => found[0]);
      expect(new Set(names).size).toBe(names.length);
    }),
    { numRuns: 500, seed: 20260509 },
  );
});

test('a gate that could not ask is an error in itself', () => {
  const xml = renderJunit(WORLDS['nothing could be asked'] as Report);
  expect(xml).toContain('tests="1" failures="0" errors="1"');
  expect(xml).toContain(
    '<error type="GATE_EMPTY" message="the gate has nothing to ask: x &lt; y &amp; &quot;z&quot;">',
  );
});

test('answers of a gate that failed do not look like a pass', () => {
  const xml = renderJunit(WORLDS['answers, and an epoch that gave none'] as Report);
  expect(xml).toContain('tests="2" failures="0" errors="1"');
  expect(xml).toContain('<error type="REGISTRY_UNREACHABLE"');
});

describe('the table', () => {
  const plain = { color: false, verbose: false, brief: false, named: false };

  test('says what says no, where, why and what helps, and the verdict last', () => {
    expect(renderGate(WORLDS['a no, an unknown and a yes'] as Report, plain))
      .toBe(`ANSWER   IMAGE                 MODE   POOL     NODES  WHY
no       simular/win11-hot:v1  clone  default  n2     BASE_DRIFTED
unknown  simular/win11-hot:v1  clone  default  n3     SSH_TIMEOUT
yes      simular/win11-hot:v1  clone  default  n1     CLONABLE

simular/win11-hot:v1 on n2: its base is not there
  asked by agent of default/demo (sets/win.yaml:9)
  → \`reconcile\` heals it (pull)
simular/win11-hot:v1 on n3: n3 took too long
  asked by agent of default/demo (sets/win.yaml:9)
  → is it up?

BLOCKED: simular/win11-hot:v1 cannot start on n2 (BASE_DRIFTED).
`);
  });

  test('of a gate that passes is short; of --quiet it is the verdict alone', () => {
    const well = WORLDS['all well'] as Report;
    expect(renderGate(well, plain)).toBe(`ANSWER  IMAGE                 MODE   POOL     NODES   WHY
yes     simular/win11-hot:v1  clone  default  n[1-2]  CLONABLE

PASS: 1 image on 2 nodes can start now.
`);
    expect(renderGate(well, { ...plain, brief: true })).toBe('PASS: 1 image on 2 nodes can start now.\n');
    expect(renderGate(well, { ...plain, color: true })).toContain('\x1b[32mPASS:\x1b[39m');
    expect(renderGate(well, { ...plain, verbose: true })).toContain('on n[1-2]: everything that it needs is there');
  });

  test.each<[string, Report, string]>([
    [
      'what minReady allows',
      report([question([answer('n1'), answer('n2', drifted)], { needed: 1, outcome: 'pass' })], { minReady: '50%' }),
      'PASS: 1 image on 2 nodes can start now; 1 answer other than yes, as minReady 50% allows.',
    ],
    [
      'what minReady does not allow',
      report([question([answer('n1', drifted), answer('n2', drifted)], { needed: 1 })], { minReady: '50%' }),
      `BLOCKED: ${HOT} cannot start on n[1-2] (BASE_DRIFTED), and is ready on 0 of 2 nodes of pool default, 1 needed.`,
    ],
    [
      'more nodes than there are',
      report([question([answer('n1')], { needed: 2, outcome: 'blocked' })], { minReady: '2' }),
      `BLOCKED: ${HOT} is ready on 1 of 1 node of pool default, 2 needed.`,
    ],
    [
      'what is not known',
      report([question([answer('n1', { answer: 'unknown', reasonCode: 'SSH_TIMEOUT' })])]),
      `BLOCKED: ${HOT} is not known to start on n1 (SSH_TIMEOUT).`,
    ],
    ['nothing to ask', report(null), 'ERROR GATE_EMPTY: the gate has nothing to ask: x < y & "z" (name something).'],
  ])('%s', (_, of, expected) => {
    expect(gateVerdict(of)).toBe(expected);
  });

  test('no control character reaches a terminal', () => {
    const shown = renderGate(WORLDS['characters that XML does not know'] as Report, plain);
    expect(shown.replaceAll('\n', '')).not.toMatch(/\p{Cc}/u);
  });
});
