/** A gate's answers for people: what says no, where, why and what helps; what says yes is folded; the verdict is last. */
import { fold } from '../core/nodeset.ts';
import { clip, count, plain } from '../core/text.ts';
import type { Answer, Gate, GateAnswer, GateQuestion } from '../core/model/gate.ts';
import type { Report } from '../core/model/report.ts';
import type { RenderOptions } from './options.ts';
import { limited, painter, plainTable, type Paint } from './layout.ts';

/** Reasons that are told; the rows of the table have a limit of their own. */
const MAX_TOLD = 200;
const MAX_REASONS = 20;
const MAX_NAMED = 3;

const STYLE: Record<Answer, 'red' | 'yellow' | 'green'> = { no: 'red', unknown: 'yellow', yes: 'green' };
const ORDER: Answer[] = ['no', 'unknown', 'yes'];

export function renderGate(report: Report, options: RenderOptions): string {
  const paint = painter(options.color);
  const verdict = painted(report, paint);
  if (options.brief || report.gate === null) return `${verdict}\n`;
  const groups = groupsOf(report.gate);
  const head = ['ANSWER', 'IMAGE', 'MODE', 'POOL', 'NODES', 'WHY'].map((title) => paint('bold', title));
  const rows = groups.map(({ question, answer, nodes }) => [
    paint(STYLE[answer.answer], answer.answer),
    clip(question.image, 60),
    question.mode,
    clip(question.pool, 30),
    plain(fold(nodes)),
    answer.reasonCode,
  ]);
  const told = groups.filter(({ answer }) => options.verbose || answer.answer !== 'yes' || isNote(answer));
  return joined([plainTable(head, rows), ...toldOf(told, MAX_TOLD, paint)], verdict);
}

/** What says no, or is not known, and what helps; the verdict last. */
export function renderGateReasons(report: Report, color: boolean): string {
  const paint = painter(color);
  const { errors = [] } = report.gate ?? {};
  const groups = report.gate === null ? [] : groupsOf(report.gate).filter(({ answer }) => answer.answer !== 'yes');
  const refused = limited(
    errors.map(({ error }) => `${clip(error.message, 600)}\n  → ${clip(error.hint, 500)}`),
    MAX_REASONS,
  );
  const sections = [
    ...toldOf(groups, MAX_REASONS, paint),
    ...(errors.length > 1 || groups.length > 0 ? [refused.join('\n')] : []),
  ];
  return joined(
    sections.filter((section) => section !== ''),
    painted(report, paint),
  );
}

function toldOf(groups: Group[], max: number, paint: Paint): string[] {
  return groups.length === 0
    ? []
    : [
        limited(
          groups.map((group) => tell(group, paint)),
          max,
        ).join('\n'),
      ];
}

function joined(sections: string[], verdict: string): string {
  return `${[...sections, verdict].join('\n\n')}\n`;
}

function painted(report: Report, paint: Paint): string {
  const verdict = gateVerdict(report);
  const word = verdict.split(' ', 1)[0] as string;
  return `${paint(report.run.exitCode === 0 ? 'green' : 'red', word)}${verdict.slice(word.length)}`;
}

/** A yes that comes with something to know. */
function isNote({ reasonCode }: GateAnswer): boolean {
  return !['CLONABLE', 'IN_SYNC'].includes(reasonCode);
}

/** Answers that are alike but for their node, to questions that are alike but for who asks. */
interface Group {
  question: GateQuestion;
  askers: string[];
  answer: GateAnswer;
  nodes: string[];
}

function groupsOf({ questions }: Gate): Group[] {
  const groups = new Map<string, Group>();
  for (const question of questions) {
    for (const answer of question.nodes) {
      const { node, pullHelps, commands } = answer;
      const alike = [answer.answer, answer.reasonCode, pullHelps, commands];
      const key = JSON.stringify([question.mode, question.image, question.pool, ...alike]);
      const group = groups.get(key) ?? { question, askers: [], answer, nodes: [] };
      if (!group.nodes.includes(node)) group.nodes.push(node);
      const asker = askerOf(question);
      if (!group.askers.includes(asker)) group.askers.push(asker);
      groups.set(key, group);
    }
  }
  return [...groups.values()].sort((a, b) => ORDER.indexOf(a.answer.answer) - ORDER.indexOf(b.answer.answer));
}

/** `agent of default/demo (sets/win.yaml:14)`, or the option. */
export function askerOf({ source, set, role, toolbox }: GateQuestion): string {
  if (set === null) return source;
  return `${toolbox === null ? role : `${role} ${toolbox}`} of ${set} (${source})`;
}

function tell({ question, askers, answer, nodes }: Group, paint: Paint): string {
  const more = askers.length > MAX_NAMED ? ` and ${askers.length - MAX_NAMED} more` : '';
  const said = [
    `${paint('bold', clip(question.image, 100))} on ${plain(fold(nodes))}: ${clip(answer.reason, 600)}`,
    `  asked by ${clip(`${askers.slice(0, MAX_NAMED).join(', ')}${more}`, 400)}`,
  ];
  if (answer.help !== null) said.push(`  → ${clip(answer.help, 500)}`);
  for (const command of answer.commands) said.push(`  $ ${clip(command, 500)}`);
  return said.join('\n');
}

/** One line without a line end: PASS, BLOCKED or ERROR, and what it means. */
export function gateVerdict({ run, gate }: Report): string {
  if (run.error !== null) {
    const word = run.error.code === 'NOTHING_JUDGED' ? 'BLOCKED' : 'ERROR';
    const { message } = run.error;
    const others = (gate?.errors ?? []).filter(({ error }) => error.message !== message).length;
    const more = others === 0 ? '' : ` ${others} more could not be asked.`;
    return `${word} ${run.error.code}: ${run.error.message} (${run.error.hint}).${more}`;
  }
  if (gate === null) return 'ERROR: nothing was asked.';
  const { questions, minReady, require } = gate;
  const asked = `${count(new Set(questions.map(({ image, mode }) => `${mode} ${image}`)).size, 'image')} on ${count(
    new Set(questions.flatMap(({ nodes }) => nodes.map(({ node }) => node))).size,
    'node',
  )}`;
  const inSync = require === 'in-sync' ? ', in sync' : '';
  if (gate.pass) {
    const lacking = questions.flatMap(({ nodes }) => nodes.filter(({ answer }) => answer !== 'yes'));
    const within =
      lacking.length === 0 ? '' : `; ${count(lacking.length, 'answer')} other than yes, as minReady ${minReady} allows`;
    return `PASS: ${asked} can start now${inSync}${within}.`;
  }
  const blocked = questions.filter(({ outcome }) => outcome === 'blocked');
  const open = questions.filter(({ outcome }) => outcome === 'incomplete');
  const parts = [
    ...blocked.map((question) => shortfall(question, 'no')),
    ...open.map((question) => shortfall(question, 'unknown')),
  ];
  const unique = [...new Set(parts)];
  const more = unique.length > MAX_NAMED ? `; and ${unique.length - MAX_NAMED} more` : '';
  return `BLOCKED: ${unique.slice(0, MAX_NAMED).join('; ')}${more}.`;
}

/** `simular/win11-hot:v1 cannot start on node-2 (BASE_DRIFTED)`, and the count where it is not simply all. */
function shortfall(question: GateQuestion, wanted: 'no' | 'unknown'): string {
  const { image, pool, ready, needed, nodes } = question;
  const those = nodes.filter(({ answer }) => answer === wanted);
  const codes = [...new Set(those.map(({ reasonCode }) => reasonCode))].join(', ');
  const what = wanted === 'no' ? 'cannot start' : 'is not known to start';
  const where = those.length === 0 ? '' : ` ${what} on ${fold(those.map(({ node }) => node))} (${codes})`;
  const all = needed === nodes.length && those.length > 0;
  const short = all
    ? ''
    : `${where === '' ? ' is' : ', and is'} ready on ${ready} of ${count(nodes.length, 'node')} of pool ${pool}, ${needed} needed`;
  return clip(`${image}${where}${short}`, 400);
}
