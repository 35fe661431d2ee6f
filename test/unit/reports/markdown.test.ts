/** Markdown and annotations of a pull request: what they say, and that nothing from outside becomes markup or a command. */
import { expect, test } from 'vitest';
import type { GateAnswer, GateQuestion } from '../../../src/core/model/gate.ts';
import { emptyReport } from '../../../src/core/report/report.ts';
import type { Report } from '../../../src/core/model/report.ts';
import { renderAnnotations, withoutCommands } from '../../../src/reports/annotations.ts';
import { renderMarkdown } from '../../../src/reports/markdown.ts';

const NASTY = '::error::x\n::stop-commands::|`</td><script>alert(1)</script> @all [a](javascript:b) \u202e # %0A';

function answer(node: string, over: Partial<GateAnswer> = {}): GateAnswer {
  return {
    node,
    answer: 'yes',
    reasonCode: 'CLONABLE',
    reason: '',
    pullHelps: false,
    help: null,
    commands: [],
    ...over,
  };
}

function gate(questions: Partial<GateQuestion>[], over: Partial<Report['run']> = {}): Report {
  const run = { id: 'r', mode: 'gate' as const, startedAt: 't', finishedAt: 't', blobDepth: null };
  const report = emptyReport(
    { tool: { name: 't', version: '1' }, run, signal: null },
    { code: 'X', message: 'm', hint: 'h' },
  );
  const asked = questions.map((one): GateQuestion => ({
    source: 'sets/a.yaml:7',
    set: 'default/demo',
    role: 'agent',
    toolbox: null,
    mode: 'clone',
    image: 'a/b:v1',
    pool: 'default',
    nodeName: null,
    ready: 0,
    needed: 1,
    outcome: 'pass',
    nodes: [],
    ...one,
  }));
  const pass = asked.every(({ outcome }) => outcome === 'pass');
  return {
    ...report,
    run: { ...report.run, error: null, exitCode: pass ? 0 : 2, ...over },
    gate: { pass, minReady: '100%', require: 'start', questions: asked, errors: [] },
  };
}

const restorable = { answer: 'no', reasonCode: 'BASE_RESTORABLE', reason: 'base `72dd` is gone' } as const;

test('a gate that says no says where, why, and the command that helps', () => {
  const nodes = ['n5', 'n9', 'n13'].map((node) => answer(node, restorable));
  const report = gate([
    { outcome: 'blocked', ready: 1, nodes: [answer('n1'), ...nodes] },
    { image: 'https://epoch.example/dl/simular/win11', mode: 'run', ready: 1, nodes: [answer('n1')] },
  ]);
  expect(renderMarkdown(report)).toBe(`### ⛔ reconcile gate: blocked, 1 of 2 images cannot start everywhere

|  | image | mode | pool | ready | where | why |
|---|---|---|---|---|---|---|
| ⛔ | \`a/b:v1\` | clone | default | 1/4 | \`n[5,9,13]\` | BASE\\_RESTORABLE\\: base \\\`72dd\\\` is gone |
| ✅ | \`…/dl/simular/win11\` | run | default | 1/1 |  |  |

**To unblock, on the bastion:** \`reconcile --repair restore -w 'n[5,9,13]'\`
`);
});

test('an answer that is not known is no yes', () => {
  const report = gate([
    { outcome: 'incomplete', nodes: [answer('n1', { answer: 'unknown', reasonCode: 'SSH_TIMEOUT', reason: 'slow' })] },
  ]);
  expect(renderMarkdown(report)).toMatch(/^### ⚠️ reconcile gate: not known, 1 of 1 image/);
});

test('nothing from outside is markup, a mention or a workflow command', () => {
  const bad = answer(`n${NASTY}`, { answer: 'no', reasonCode: 'BROKEN', reason: NASTY, pullHelps: true });
  const report = gate([{ image: NASTY, pool: NASTY, source: `${NASTY}:3`, outcome: 'blocked', nodes: [bad] }]);
  const said = renderMarkdown(report);
  for (const line of said.split('\n')) expect(line).not.toMatch(/^\s*(::|##\[)/);
  // outside of code spans
  const prose = said.replaceAll('\\`', '').replaceAll(/(`+)(?!`)[^\n]*?[^`]\1(?!`)/g, '');
  expect(prose).not.toMatch(/<script|<\/td|(?<!\\)\[a\]|@all|\u202e/);
  const row = said.split('\n').find((line) => line.startsWith('| ⛔')) ?? '';
  expect(row.replaceAll('\\|', '').split('|')).toHaveLength(9);

  const annotations = renderAnnotations(report);
  expect(annotations.trimEnd().split('\n')).toHaveLength(1);
  expect(annotations).toMatch(/^::error file=[^:,]*,line=3::[^\n]*%250A[^\n]*\n$/);
});

test('annotations are ten at most, each once', () => {
  const no = [answer('n1', restorable)];
  const many = Array.from({ length: 25 }, (_, i) => ({
    image: `a/b:v${i % 12}`,
    outcome: 'blocked' as const,
    nodes: no,
  }));
  expect(renderAnnotations(gate(many)).trimEnd().split('\n')).toHaveLength(10);
  expect(renderAnnotations(gate([{ nodes: [answer('n1')] }]))).toBe('');
});

test('text for people holds no workflow command', () => {
  expect(withoutCommands('a\n::error::b\n  ::x\n##[group]')).toBe('a\n: :error::b\n  : :x\n# #[group]');
});
