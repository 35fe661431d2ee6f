/**
 * A gate as JUnit XML, in the form that both Ant's and Jenkins's schema take: one test case per image and node, a no is
 * a failure, an answer that is not known an error. The class name groups by image.
 */
import XmlBuilder from 'fast-xml-builder';
import { clip } from '../core/text.ts';
import type { Answer, GateAnswer, GateQuestion, Report } from '../core/types.ts';
import { askerOf, gateVerdict } from './gate.ts';

/** Attributes have the prefix `@`, the text of an element is `#`. */
interface Element {
  [name: string]: string | Element | Element[];
}

export function renderJunit(report: Report): string {
  const cases = casesOf(report);
  const seconds = (ms: number): string => (ms / 1000).toFixed(3);
  const duration = Date.parse(report.run.finishedAt) - Date.parse(report.run.startedAt);
  const suite: Element = {
    '@package': report.tool.name,
    '@id': '0',
    '@name': 'reconcile gate',
    '@timestamp': report.run.startedAt.slice(0, 'yyyy-mm-ddThh:mm:ss'.length),
    '@hostname': 'localhost',
    '@tests': String(cases.length),
    '@failures': String(cases.filter(({ fault }) => fault?.kind === 'failure').length),
    '@errors': String(cases.filter(({ fault }) => fault?.kind === 'error').length),
    '@time': seconds(Math.max(0, duration)),
    properties: { property: propertiesOf(report) },
    testcase: cases.map(({ classname, name, ms, fault }) => ({
      '@classname': classname,
      '@name': name,
      '@time': seconds(ms),
      ...(fault === null
        ? {}
        : { [fault.kind]: { '@type': fault.type, '@message': clip(fault.message, 600), '#': fault.text } }),
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

const WORSE: Answer[] = ['yes', 'unknown', 'no'];

interface Case {
  classname: string;
  name: string;
  ms: number;
  fault: { kind: 'failure' | 'error'; type: string; message: string; text: string } | null;
}

function casesOf(report: Report): Case[] {
  const { error } = report.run;
  if (error === null) return answersOf(report);
  // Answers alone could look like a pass.
  const { code: type, message, hint } = error;
  const fault = { kind: 'error' as const, type, message, text: hint };
  return [...answersOf(report), { classname: 'gate', name: 'gate', ms: 0, fault }];
}

function answersOf({ gate, nodes }: Report): Case[] {
  if (gate === null) return [];
  const durations = new Map(nodes.map(({ name, durationMs }) => [name, durationMs]));
  const modes = new Map<string, Set<string>>();
  for (const { image, mode } of gate.questions) modes.set(image, (modes.get(image) ?? new Set()).add(mode));
  const found = new Map<string, { question: GateQuestion; answer: GateAnswer; askers: string[] }>();
  for (const question of gate.questions) {
    for (const answer of question.nodes) {
      const key = JSON.stringify([question.mode, question.image, answer.node]);
      const asked = found.get(key) ?? { question, answer, askers: [] };
      asked.askers.push(askerOf(question));
      // The same image with and without a forced pull can differ: the test case shows the worse.
      if (WORSE.indexOf(answer.answer) > WORSE.indexOf(asked.answer.answer)) asked.answer = answer;
      found.set(key, asked);
    }
  }
  return [...found.values()].map(({ question, answer, askers }) => ({
    classname: clip(question.image, 500),
    name: `${answer.node}${(modes.get(question.image)?.size ?? 0) > 1 ? ` (${question.mode})` : ''}`,
    ms: durations.get(answer.node) ?? 0,
    fault: faultOf(question, answer, askers),
  }));
}

function faultOf({ mode, pool }: GateQuestion, answer: GateAnswer, askers: string[]): Case['fault'] {
  if (answer.answer === 'yes') return null;
  const lines = [
    `${mode} on ${answer.node} (pool ${pool})`,
    answer.reason,
    ...(answer.help === null ? [] : [`→ ${answer.help}`]),
    ...answer.commands.map((command) => `$ ${command}`),
    ...[...new Set(askers)].slice(0, 20).map((asker) => `asked by ${asker}`),
  ];
  const kind = answer.answer === 'no' ? 'failure' : 'error';
  return {
    kind,
    type: answer.reasonCode,
    message: answer.reason,
    text: lines.map((line) => clip(line, 1000)).join('\n'),
  };
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
