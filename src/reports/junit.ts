/**
 * A gate as JUnit XML, in the form that Ant's and Jenkins's schemas take, with what their readers know beyond these (`file`,
 * `line`, `skipped`): one test case per question and node. A no is a failure, an answer that is not known an error, and
 * either is skipped where enough nodes say yes: so failures and errors are 0 exactly when the exit code is. The class name
 * groups by image.
 */
import XmlBuilder from 'fast-xml-builder';
import { clip, count } from '../core/text.ts';
import type { ErrorInfo } from '../core/model/error.ts';
import type { GateAnswer, GateQuestion } from '../core/model/gate.ts';
import type { Report } from '../core/model/report.ts';
import { askerOf, gateVerdict } from './gate.ts';

/** Attributes have the prefix `@`, the text of an element is `#`. */
interface Element {
  [name: string]: string | Element | Element[];
}

export function renderJunit(report: Report): string {
  const cases = casesOf(report);
  const countOf = (kind: Fault['kind']): number => cases.filter(({ fault }) => fault?.kind === kind).length;
  const seconds = (ms: number): string => (ms / 1000).toFixed(3);
  const duration = Date.parse(report.run.finishedAt) - Date.parse(report.run.startedAt);
  const suite: Element = {
    '@package': report.tool.name,
    '@id': '0',
    '@name': 'reconcile gate',
    '@timestamp': report.run.startedAt.slice(0, 'yyyy-mm-ddThh:mm:ss'.length),
    '@hostname': 'localhost',
    '@tests': String(cases.length),
    '@failures': String(countOf('failure')),
    '@errors': String(countOf('error')),
    '@skipped': String(countOf('skipped')),
    '@time': seconds(Math.max(0, duration)),
    properties: { property: propertiesOf(report) },
    testcase: cases.map(({ classname, name, source, ms, fault }) => ({
      '@classname': clip(classname, 500).replaceAll('.', '_'), // readers split it at dots
      '@name': clip(name, 500),
      '@time': seconds(ms),
      ...placeOf(source),
      ...(fault === null ? {} : { [fault.kind]: elementOf(fault) }),
    })),
    'system-out': gateVerdict(report),
    'system-err': '',
  };
  const builder = new XmlBuilder({
    ignoreAttributes: false,
    attributeNamePrefix: '@',
    textNodeName: '#',
    format: true,
    suppressBooleanAttributes: false,
  });
  const xml = builder.build(legal({ testsuites: { testsuite: suite } }));
  return `<?xml version="1.0" encoding="UTF-8"?>\n${xml}`;
}

/** What no XML 1.0 document may hold, however it is written: most controls, and halves of surrogate pairs. */
const ILLEGAL = /[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\u{10000}-\u{10ffff}]/gu;

function legal(element: Element): Element {
  const clean = (value: Element[string]): Element[string] => {
    if (typeof value === 'string') return value.replace(ILLEGAL, '');
    return Array.isArray(value) ? value.map(legal) : legal(value);
  };
  return Object.fromEntries(Object.entries(element).map(([name, value]) => [name, clean(value)]));
}

interface Fault {
  kind: 'failure' | 'error' | 'skipped';
  type: string;
  message: string;
  text: string;
}

interface Case {
  classname: string;
  name: string;
  /** FILE:LINE, FILE, an option, or empty. */
  source: string;
  ms: number;
  fault: Fault | null;
}

function placeOf(source: string): Element {
  const [, file, line] = /^(?!--)(.+?)(?::(\d+))?$/.exec(source) ?? [];
  if (file === undefined) return {};
  return { '@file': clip(file, 500), ...(line === undefined ? {} : { '@line': line }) };
}

function elementOf({ kind, type, message, text }: Fault): Element {
  return { ...(kind === 'skipped' ? {} : { '@type': type }), '@message': clip(message, 600), '#': text };
}

function casesOf(report: Report): Case[] {
  const { gate, run } = report;
  const refused = (gate?.errors ?? []).map(({ source, error }) => errorCase(`manifest ${source}`, source, error));
  const isTold = gate?.errors.some(
    ({ error }) => error.code === run.error?.code && error.message === run.error.message,
  );
  const cases = [
    ...answersOf(report),
    ...shortfallsOf(gate?.questions ?? []),
    ...refused,
    ...(run.error === null || isTold === true ? [] : [errorCase('gate', '', run.error)]),
  ];
  const isBad = cases.some(({ fault }) => fault !== null && fault.kind !== 'skipped');
  if (run.exitCode === 0 || isBad) return cases;
  // An interrupt: the answers alone would look like a pass.
  const told = gateVerdict(report);
  return [...cases, errorCase('gate', '', { code: 'INTERRUPTED', message: told, hint: told })];
}

function errorCase(name: string, source: string, { code: type, message, hint }: ErrorInfo): Case {
  return { classname: 'gate', name, source, ms: 0, fault: { kind: 'error', type, message, text: hint } };
}

/** How bad what is shown of a case is; of several askers the worst is. */
const SEVERITY = { yes: 0, skipped: 1, error: 2, failure: 3 };

function answersOf({ gate, nodes }: Report): Case[] {
  if (gate === null) return [];
  const durations = new Map(nodes.map(({ name, durationMs }) => [name, durationMs]));
  interface Found {
    question: GateQuestion;
    answer: GateAnswer;
    kind: keyof typeof SEVERITY;
    askers: string[];
  }
  const found = new Map<string, Found>();
  for (const question of gate.questions) {
    for (const answer of question.nodes) {
      const key = JSON.stringify([question.mode, question.image, answer.node]);
      const kind = kindOf(question, answer);
      const asked = found.get(key) ?? { question, answer, kind, askers: [] };
      asked.askers.push(askerOf(question));
      if (SEVERITY[kind] > SEVERITY[asked.kind]) Object.assign(asked, { question, answer, kind });
      found.set(key, asked);
    }
  }
  return [...found.values()].map(({ question, answer, kind, askers }) => ({
    classname: question.image,
    name: `${shortName(question.image)} ${question.mode} on ${answer.node}`,
    source: question.source,
    ms: durations.get(answer.node) ?? 0,
    fault: kind === 'yes' ? null : faultOf(kind, question, answer, askers),
  }));
}

/** Enough nodes say yes without this one: then it is none of the readers' failures. */
function kindOf({ outcome }: GateQuestion, { answer }: GateAnswer): keyof typeof SEVERITY {
  if (answer === 'yes') return 'yes';
  if (outcome === 'pass') return 'skipped';
  return answer === 'no' ? 'failure' : 'error';
}

/** `win11-hot:v1` of `simular/win11-hot:v1`. */
function shortName(image: string): string {
  return image.slice(image.lastIndexOf('/') + 1) || image;
}

function faultOf(kind: Fault['kind'], { mode, pool }: GateQuestion, answer: GateAnswer, askers: string[]): Fault {
  const lines = [
    `${mode} on ${answer.node} (pool ${pool})`,
    answer.reason,
    ...(answer.help === null ? [] : [`→ ${answer.help}`]),
    ...answer.commands.map((command) => `$ ${command}`),
    ...[...new Set(askers)].slice(0, 20).map((asker) => `asked by ${asker}`),
  ];
  const text = lines.map((line) => clip(line, 1000)).join('\n');
  const message = kind === 'skipped' ? `tolerated by minReady: ${answer.reason}` : answer.reason;
  return { kind, type: answer.reasonCode, message, text };
}

/** Questions whose nodes all say yes, but are fewer than are needed. */
function shortfallsOf(questions: GateQuestion[]): Case[] {
  const short = questions.filter(
    ({ outcome, nodes }) => outcome !== 'pass' && nodes.every(({ answer }) => answer === 'yes'),
  );
  const alike = new Map(
    short.map((question) => [JSON.stringify([question.mode, question.image, question.pool]), question]),
  );
  return [...alike.values()].map(shortfallOf);
}

function shortfallOf({ image, mode, pool, source, ready, needed, nodes }: GateQuestion): Case {
  const message = `ready on ${ready} of ${count(nodes.length, 'node')} of pool ${pool}, ${needed} needed`;
  const fault = { kind: 'failure' as const, type: 'TOO_FEW_NODES', message, text: message };
  return { classname: image, name: `${shortName(image)} ${mode} in pool ${pool}`, source, ms: 0, fault };
}

function propertiesOf({ tool, run, gate }: Report): Element[] {
  const values = {
    version: tool.version,
    run: run.id,
    exitCode: String(run.exitCode),
    ...(gate === null ? {} : { minReady: gate.minReady, require: gate.require }),
  };
  return Object.entries(values).map(([name, value]) => ({ '@name': name, '@value': value }));
}
