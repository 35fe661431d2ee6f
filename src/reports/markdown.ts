/** The report for a pull request: Markdown as GitHub and GitLab show it. All that comes from outside is escaped. */
import { fold } from '../core/nodeset.ts';
import { isUrl } from '../core/reference.ts';
import { clip, count, shellQuote } from '../core/text.ts';
import type { Gate, GateQuestion } from '../core/model/gate.ts';
import type { ImageRow, Report, SnapshotRow } from '../core/model/report.ts';
import { gateVerdict } from './gate.ts';
import { verdictLine } from './summary-line.ts';

/** A step's summary holds 1 MiB. */
const MAX_ROWS = 200;
const MAX_REASONS = 3;
const MAX_COMMANDS = 20;

/** @returns text that ends with a newline */
export function renderMarkdown(report: Report): string {
  return report.gate === null ? ofRun(report) : ofGate(report, report.gate);
}

// ------------------------------------------------------------------------------------------------ escaping

/** Text that no Markdown, no HTML, no mention and no workflow command (`::error`) begins in. */
function escaped(text: string, max = 400): string {
  return clip(text, max)
    .replace(/[\\`*_{}[\]()#+!|~:-]/g, '\\$&')
    .replace(/[<>&@]/g, (char) => `&#${char.charCodeAt(0)};`);
}

/** A code span, in a cell of a table too. */
function code(text: string, max = 400): string {
  const clean = clip(text, max);
  const longest = Math.max(0, ...[...clean.matchAll(/`+/g)].map(([ticks]) => ticks.length));
  const fence = '`'.repeat(longest + 1);
  const pad = /^[` ]|[` ]$/.test(clean) || clean === '' ? ' ' : '';
  return `${fence}${pad}${clean.replaceAll('|', '\\|')}${pad}${fence}`;
}

function table(head: string[], rows: string[][]): string {
  const shown = rows.slice(0, MAX_ROWS).map((cells) => `| ${cells.join(' | ')} |`);
  const more = rows.length > MAX_ROWS ? [`\n${rows.length - MAX_ROWS} more are in the JSON report.`] : [];
  return [`| ${head.join(' | ')} |`, `|${'---|'.repeat(head.length)}`, ...shown, ...more].join('\n');
}

function page(parts: string[]): string {
  return `${parts.filter((part) => part !== '').join('\n\n')}\n`;
}

function commandList(said: string, commands: string[]): string {
  if (commands.length === 0) return '';
  const [first = ''] = commands;
  if (commands.length === 1) return `**${said}** ${code(first)}`;
  return `**${said}**\n\n${commands
    .slice(0, MAX_COMMANDS)
    .map((command) => `- ${code(command)}`)
    .join('\n')}`;
}

// -------------------------------------------------------------------------------------------------- a gate

const SIGN: Record<GateQuestion['outcome'], string> = { pass: '✅', blocked: '⛔', incomplete: '⚠️' };

function ofGate(report: Report, gate: Gate): string {
  const questions = [...new Map(gate.questions.map((one) => [keyOf(one), one])).values()];
  const order = ['blocked', 'incomplete', 'pass'];
  const sorted = questions.toSorted((a, b) => order.indexOf(a.outcome) - order.indexOf(b.outcome));
  const refused = gate.errors.map(({ error }) => `- ${escaped(error.message, 600)}`).slice(0, MAX_ROWS);
  return page([
    `### ${headline(report, gate, questions)}`,
    questions.length === 0 ? '' : table(['', 'image', 'mode', 'pool', 'ready', 'where', 'why'], sorted.map(rowOf)),
    refused.length === 0 ? '' : `**Not understood:**\n\n${refused.join('\n')}`,
    commandList('To unblock, on the bastion:', commandsFor(questions)),
  ]);
}

function keyOf({ image, mode, pool, nodeName }: GateQuestion): string {
  return JSON.stringify([image, mode, pool, nodeName]);
}

function headline(report: Report, gate: Gate, questions: GateQuestion[]): string {
  const imagesOf = (some: GateQuestion[]): number => new Set(some.map(({ image, mode }) => `${mode} ${image}`)).size;
  const all = imagesOf(questions);
  const blocked = imagesOf(questions.filter(({ outcome }) => outcome === 'blocked'));
  const open = imagesOf(questions.filter(({ outcome }) => outcome === 'incomplete'));
  if (report.run.error !== null) return `⛔ reconcile gate: ${escaped(gateVerdict(report), 600)}`;
  if (gate.pass) return `✅ reconcile gate: passes, ${count(all, 'image')} can start`;
  if (blocked > 0) return `⛔ reconcile gate: blocked, ${blocked} of ${count(all, 'image')} cannot start everywhere`;
  return `⚠️ reconcile gate: not known, ${open} of ${count(all, 'image')} could not be asked about everywhere`;
}

function rowOf(question: GateQuestion): string[] {
  const { image, mode, pool, ready, nodes, outcome } = question;
  const short = nodes.filter(({ answer }) => answer !== 'yes');
  const reasons = [...new Set(short.map(({ reasonCode, reason }) => `${reasonCode}: ${reason}`))];
  const more = reasons.length > MAX_REASONS ? ` and ${reasons.length - MAX_REASONS} more` : '';
  const why = `${reasons
    .slice(0, MAX_REASONS)
    .map((reason) => escaped(reason, 300))
    .join('; ')}${more}`;
  const where = short.length === 0 ? '' : code(fold(short.map(({ node }) => node)), 2000);
  const name = isUrl(image) ? image.replace(/^[a-z]+:\/\/[^/]*/, '…') : image;
  return [SIGN[outcome], code(name), mode, escaped(pool, 60), `${ready}/${nodes.length}`, where, why];
}

/** What a person types where no is the answer: one command for all nodes that the same one helps. */
function commandsFor(questions: GateQuestion[]): string[] {
  const nodes = new Map<string, Set<string>>();
  for (const answer of questions.filter(({ outcome }) => outcome !== 'pass').flatMap((question) => question.nodes)) {
    if (answer.answer === 'yes') continue;
    const command = answer.pullHelps ? 'reconcile' : REPAIRED_BY[answer.reasonCode];
    if (command === undefined) continue;
    nodes.set(command, (nodes.get(command) ?? new Set()).add(answer.node));
  }
  return [...nodes].map(([command, names]) => `${command} -w ${shellQuote(fold([...names]))}`);
}

const REPAIRED_BY: Record<string, string> = {
  BASE_RESTORABLE: 'reconcile --repair restore',
  BASE_CORRUPT: 'reconcile --repair replace',
  BLOB_CORRUPT: 'reconcile --repair replace',
};

// --------------------------------------------------------------------------------------------------- a run

/** Rows of different nodes that are alike. */
interface Alike {
  row: ImageRow | SnapshotRow;
  nodes: string[];
}

const WELL = new Set(['in-sync', 'clonable', 'absent', 'unmanaged', 'not-on-node', 'pending']);

function ofRun(report: Report): string {
  const { run } = report;
  const sign = run.exitCode === 0 ? '✅' : run.exitCode === 3 ? '⚠️' : '⛔';
  const alike = new Map<string, Alike>();
  for (const { name, images, snapshots } of report.nodes) {
    for (const row of [...images, ...snapshots]) {
      if (WELL.has(row.verdict) && row.outcome === null && row.plan === null && row.error === null) continue;
      const key = JSON.stringify([subjectOf(row), row.verdict, row.plan, row.outcome, row.error?.code]);
      const found = alike.get(key) ?? { row, nodes: [] };
      found.nodes.push(name);
      alike.set(key, found);
    }
  }
  const unread = report.nodes.filter(({ error }) => error !== null);
  const rows = [...alike.values()].map(({ row, nodes }) => [
    row.verdict,
    code(subjectOf(row)),
    code(fold(nodes), 2000),
    row.outcome ?? row.plan ?? '',
    escaped(row.error?.message ?? row.reason ?? '', 300),
  ]);
  const lost = unread.map(({ name, status, error }) => [
    status,
    '',
    code(name),
    '',
    escaped(`${error?.code}: ${error?.message}`, 300),
  ]);
  const all = [...rows, ...lost];
  return page([
    `### ${sign} reconcile ${run.mode}`,
    escaped(verdictLine(report), 2000),
    all.length === 0 ? '' : table(['verdict', 'what', 'nodes', 'plan or outcome', 'why'], all),
  ]);
}

function subjectOf(row: ImageRow | SnapshotRow): string {
  if ('snapshot' in row) return row.snapshot;
  return row.image === null ? row.reference : `${row.image}:${row.tag ?? 'latest'}`;
}
