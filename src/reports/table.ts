/** The report for people: what is wrong, where, and what to do; what is fine is folded; the verdict comes last. */
import { clip, formatDuration, shortDigest } from '../core/text.ts';
import type { LeftoverRow, NodeReport, Report } from '../core/model/report.ts';
import { adviceFor, LEFT } from './advice.ts';
import type { RenderOptions } from './options.ts';
import { groupBy, limited, painter, plainTable, type Paint } from './layout.ts';
import { fateOf, haveOf, imageOf, isProblem, problemsOf, styleOf, wantOf, type Problem } from './problems.ts';
import { isManaged, rowsOf, subjectOf, unmanaged, verdictLine, where, wordOf, type Row } from './summary-line.ts';

/** Lines on what a filter named. */
const MAX_NAMED = 40;

export function renderTable(report: Report, { color, verbose, brief, named }: RenderOptions): string {
  const paint = painter(color);
  const verdict = painted(verdictLine(report), report.run.exitCode, paint);
  if (brief) return `${verdict}\n`;
  const observed = report.nodes.filter((node) => node.status === 'observed');
  const unread = report.nodes.filter((node) => node.status !== 'observed');
  const problems = problemsOf(observed);
  return joined([
    problemTable(problems, paint),
    unreadTable(unread, paint),
    adviceFor(problems, observed, unread, paint),
    verbose ? report.nodes.map((node) => everything(node, paint)).join('\n') : '',
    named ? standingOfNamed(report, observed, paint) : verbose ? '' : standing(observed, paint),
    verdict,
  ]);
}

/** What is wrong and what to do, without the tables; the verdict last. */
export function renderTableReasons(report: Report, color: boolean): string {
  const paint = painter(color);
  const observed = report.nodes.filter((node) => node.status === 'observed');
  const unread = report.nodes.filter((node) => node.status !== 'observed');
  return joined([
    adviceFor(problemsOf(observed), observed, unread, paint),
    painted(verdictLine(report), report.run.exitCode, paint),
  ]);
}

function joined(sections: string[]): string {
  return `${sections.filter((section) => section !== '').join('\n\n')}\n`;
}

function painted(verdict: string, exitCode: number, paint: Paint): string {
  const end = verdict.indexOf(' ');
  const style = exitCode === 0 ? 'green' : exitCode === 3 ? 'yellow' : 'red';
  return `${paint(style, verdict.slice(0, end))}${verdict.slice(end)}`;
}

// ---------------------------------------------------------------------------------------------- what is wrong

function problemTable(problems: Problem[], paint: Paint): string {
  if (problems.length === 0) return '';
  const isPlan = problems.every(({ row }) => row.outcome === null);
  const head = ['VERDICT', 'IMAGE OR SNAPSHOT', 'HAVE', 'WANT', 'NODES', isPlan ? 'PLAN' : 'OUTCOME'];
  const waiting = new Set(problems.filter(({ places }) => places.some(isWaiting)).map(({ row }) => imageOf(row)));
  const rows = problems.map(({ row, places }) => [
    paint(styleOf(row), wordOf(row)),
    clip(subjectOf(row), 48),
    haveOf(row),
    wantOf(row),
    where(namesOf(places), 40),
    `${fateOf(row)}${isPlanned(row) && waiting.has(imageOf(row)) ? order(places) : ''}`,
  ]);
  return table(head, rows, paint);
}

function isPlanned(row: Row): boolean {
  return row.plan !== null && row.outcome === null && row.error === null;
}

function isWaiting({ row }: { row: Row }): boolean {
  return isPlanned(row) && row.wave === 1;
}

/** Which of the nodes come first, where some have to wait. */
function order(places: Problem['places']): string {
  const canaries = places.filter(({ row }) => row.wave === 0);
  if (canaries.length === 0) return ', after the canary';
  return canaries.length === places.length ? ', canary' : `, canary ${where(namesOf(canaries), 32)} first`;
}

function unreadTable(nodes: NodeReport[], paint: Paint): string {
  if (nodes.length === 0) return '';
  const rows = groupBy(nodes, ({ status, error }) => [status, error?.code]).map((group) => [
    where(
      group.map(({ name }) => name),
      60,
    ),
    paint('yellow', group[0].status),
    group[0].error?.code ?? '',
  ]);
  return table(['NODES', 'STATUS', 'ERROR'], rows, paint);
}

// ------------------------------------------------------------------------------------------------ what is fine

/** Nodes of equal standing on one line. */
function standing(observed: NodeReport[], paint: Paint): string {
  const fine = observed.filter((node) => !rowsOf(node).some(isProblem));
  const lines = [
    [fine.filter(isManaged), paint('green', 'in-sync')],
    [fine.filter((node) => !isManaged(node)), 'nothing managed'],
  ] as const;
  const rest = unmanaged(observed);
  return [
    ...lines.flatMap(([nodes, word]) => {
      const names = nodes.map(({ name }) => name);
      return names.length === 0 ? [] : [`${where(names, 100)}  ${word}`];
    }),
    ...(rest === null ? [] : [`${rest} (--verbose has each)`]),
  ].join('\n');
}

/** How each thing that a filter named stands where nothing is wrong with it. */
function standingOfNamed({ desired, snapshots }: Report, observed: NodeReport[], paint: Paint): string {
  if (observed.length === 0) return '';
  const rows = observed.flatMap((node) =>
    rowsOf(node).map((row) => ({ node: node.name, row, subject: subjectOf(row) })),
  );
  const asked = [...desired.map(({ image, tag }) => `${image}:${tag}`), ...snapshots.map(({ snapshot }) => snapshot)];
  const fine = rows.filter(({ row }) => !isProblem(row));
  const lines = groupBy(fine, ({ row, subject }) => [subject, wordOf(row)]).map((alike) => {
    const [{ row, subject }] = alike;
    return `${clip(subject, 100)} ${paint(styleOf(row), wordOf(row))} on ${where(namesOf(alike), 100)}`;
  });
  const nowhere = [...new Set([...asked, ...rows.map(({ subject }) => subject)])].flatMap((subject) => {
    const holders = new Set(rows.filter((row) => row.subject === subject).map(({ node }) => node));
    const others = observed.map(({ name }) => name).filter((name) => !holders.has(name));
    return others.length === 0 ? [] : [`${clip(subject, 100)}: nothing to judge on ${where(others, 100)}`];
  });
  return limited([...lines, ...nowhere], MAX_NAMED).join('\n');
}

/** A node with every row and step. */
function everything(node: NodeReport, paint: Paint): string {
  const about = [node.status, node.cocoonVersion, node.indexSource, formatDuration(node.durationMs)];
  return [
    `${paint('bold', clip(node.name, 100))} (${clip(about.filter(Boolean).join(', '), 200)})`,
    ...(node.error === null ? [] : [clip(`${node.error.code}: ${node.error.message}`, 600)]),
    ...node.notes.map((note) => clip(note, 300)),
    ...node.leftovers.map((left) => clip(`${LEFT[left.kind]} of an earlier run (${left.name})${fate(left)}`, 300)),
    ...rowsOf(node).flatMap((row) => [describe(row, paint), ...stepsOf(row)]),
    ...(node.status === 'observed' && !isManaged(node) ? ['nothing managed'] : []),
  ].join('\n  ');
}

function fate({ outcome }: LeftoverRow): string {
  return outcome === null ? '' : ` → ${outcome}`;
}

function describe(row: Row, paint: Paint): string {
  const digest = shortDigest('snapshot' in row ? row.baseDigest : row.have);
  const outcome = row.outcome === null ? '' : ` → ${row.outcome}`;
  const reason = row.reason === null ? '' : `  ${clip(row.reason, 300)}`;
  return `${paint(styleOf(row), row.verdict)}${outcome}  ${clip(subjectOf(row), 100)}  ${digest}${reason}`;
}

function stepsOf(row: Row): string[] {
  return row.steps.map(({ step, ok, durationMs, error }) => {
    const how = ok === null ? 'nothing to test' : ok ? 'ok' : `failed: ${clip(error?.message ?? '', 300)}`;
    return `  ${step} ${how} (${formatDuration(durationMs)})`;
  });
}

function table(head: string[], rows: string[][], paint: Paint): string {
  return plainTable(
    head.map((title) => paint('bold', title)),
    rows,
  );
}

function namesOf(places: { node: string }[]): string[] {
  return [...new Set(places.map(({ node }) => node))];
}
