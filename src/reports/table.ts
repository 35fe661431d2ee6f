/** The report for people: what is wrong, where, and what to do; what is fine is folded; the verdict comes last. */
import { styleText } from 'node:util';
import CliTable from 'cli-table3';
import { fold } from '../core/nodeset.ts';
import { isOpenDrift, weightOf } from '../core/report.ts';
import { clip, formatDuration, shortDigest } from '../core/text.ts';
import type { ImageRow, NodeReport, Report, SnapshotRow } from '../core/types.ts';
import type { RenderOptions } from './index.ts';
import { subjectOf, verdictLine, wordOf } from './verdict.ts';

/** Rows of one table; more are counted, not shown: people do not read them, and the table library slows down. */
const MAX_ROWS = 200;

type Style = 'red' | 'yellow' | 'green' | 'gray' | 'bold';
type Paint = (style: Style, text: string) => string;

export function renderTable(report: Report, options: RenderOptions): string {
  const paint: Paint = (style, text) => (options.color ? styleText(style, text, { validateStream: false }) : text);
  const last = verdictLine(report);
  const verdict = `${paint(report.run.exitCode === 0 ? 'green' : 'red', last.split(' ', 1)[0] as string)}${last.slice(last.indexOf(' '))}`;
  if (options.brief) return `${verdict}\n`;
  const sections = [
    problems(report.nodes, paint),
    troubles(report.nodes, paint),
    advice(report.nodes, paint),
    options.verbose ? everything(report.nodes, paint) : standing(report.nodes, paint),
    verdict,
  ];
  return `${sections.filter((section) => section !== '').join('\n\n')}\n`;
}

/** Rows that are alike but for their node. */
interface Group<R> {
  row: R;
  nodes: string[];
}

type Row = ImageRow | SnapshotRow;

function grouped(nodes: NodeReport[], wanted: (row: Row) => boolean): Group<Row>[] {
  const groups = new Map<string, Group<Row>>();
  for (const node of nodes) {
    for (const row of [...node.images, ...node.snapshots].filter(wanted)) {
      const have = 'snapshot' in row ? row.baseDigest : row.have;
      const key = [subjectOf(row), wordOf(row), have, row.plan, row.wave, row.outcome, row.error?.code].join('\n');
      const group = groups.get(key) ?? { row, nodes: [] };
      group.nodes.push(node.name);
      groups.set(key, group);
    }
  }
  return [...groups.values()];
}

function isProblem(row: Row): boolean {
  return weightOf(row) === 'drift' || row.outcome !== null || row.plan !== null;
}

/** What has drifted or is not known, on which nodes, from what to what, and what becomes of it. */
function problems(nodes: NodeReport[], paint: Paint): string {
  const observed = nodes.filter((node) => node.status === 'observed');
  const rows = grouped(observed, (row) => isProblem(row) || weightOf(row) === 'incomplete');
  if (rows.length === 0) return '';
  const head = ['VERDICT', 'IMAGE OR SNAPSHOT', 'HAVE', 'WANT', 'NODES', planned(nodes) ? 'PLAN' : 'OUTCOME'];
  return table(
    head,
    rows.map(({ row, nodes: names }) => [
      paint(isOpenDrift(row) ? 'red' : weightOf(row) === 'incomplete' ? 'yellow' : 'green', wordOf(row)),
      clip(subjectOf(row), 60),
      'snapshot' in row ? '' : shortDigest(row.have),
      shortDigest('snapshot' in row ? row.baseDigest : row.want),
      fold(names),
      doing(row),
    ]),
    paint,
  );
}

function planned(nodes: NodeReport[]): boolean {
  return nodes.every(({ images, snapshots }) => [...images, ...snapshots].every((row) => row.outcome === null));
}

function doing(row: Row): string {
  if (row.outcome !== null) return row.outcome;
  if (row.plan === null) return row.error === null ? '—' : row.error.code;
  if (row.error !== null) return `${row.plan}: ${row.error.code}`;
  return row.wave === 0 ? `${row.plan} (canary)` : `${row.plan}, after the canary`;
}

/** Nodes that could not be read, by cause. */
function troubles(nodes: NodeReport[], paint: Paint): string {
  const failing = nodes.filter((node) => node.status !== 'observed');
  if (failing.length === 0) return '';
  const head = ['NODE', 'STATUS', 'ERROR'];
  const rows = failing.map(({ name, status, error }) => [clip(name, 60), paint('yellow', status), error?.code ?? '']);
  const hints = failing.map(({ name, error }) => lines(name, error?.message ?? '', error?.hint ?? null, [], paint));
  return [table(head, rows, paint), ...hints.slice(0, MAX_ROWS)].join('\n');
}

/** The reason of each problem once, and what a person can do about it. */
function advice(nodes: NodeReport[], paint: Paint): string {
  const observed = nodes.filter((node) => node.status === 'observed');
  const rows = grouped(observed, (row) => isOpenDrift(row) || weightOf(row) === 'incomplete' || row.error !== null);
  return rows
    .slice(0, MAX_ROWS)
    .map(({ row }) =>
      lines(subjectOf(row), row.reason ?? row.error?.message ?? '', row.error?.hint ?? null, row.commands, paint),
    )
    .join('\n');
}

function lines(subject: string, reason: string, hint: string | null, commands: string[], paint: Paint): string {
  const said = [`${paint('bold', clip(subject, 100))}: ${clip(reason, 600)}`];
  if (hint !== null) said.push(`  → ${clip(hint, 500)}`);
  for (const command of commands) said.push(`  $ ${clip(command, 500)}`);
  return said.join('\n');
}

/** Nodes of equal standing on one line. */
function standing(nodes: NodeReport[], paint: Paint): string {
  const fine = nodes.filter(
    (node) =>
      node.status === 'observed' &&
      ![...node.images, ...node.snapshots].some((row) => isProblem(row) || weightOf(row) === 'incomplete'),
  );
  return fine.length === 0 ? '' : `${fold(fine.map((node) => node.name))}  ${paint('green', 'in-sync')}`;
}

/** Every node, row and step. */
function everything(nodes: NodeReport[], paint: Paint): string {
  return nodes
    .map((node) => {
      const about = [node.status, node.cocoonVersion, node.indexSource, formatDuration(node.durationMs)]
        .filter(Boolean)
        .join(', ');
      const rows = [...node.images, ...node.snapshots].map((row) => `  ${describe(row, paint)}${stepsOf(row)}`);
      return [
        `${paint('bold', clip(node.name, 100))} (${clip(about, 200)})`,
        ...node.notes.map((note) => `  ${note}`),
        ...rows,
      ].join('\n');
    })
    .join('\n');
}

function describe(row: Row, paint: Paint): string {
  const style = isOpenDrift(row) ? 'red' : weightOf(row) === 'incomplete' ? 'yellow' : 'green';
  const have = 'snapshot' in row ? row.baseDigest : row.have;
  const outcome = row.outcome === null ? '' : ` → ${row.outcome}`;
  return `${paint(style, row.verdict)}${outcome}  ${clip(subjectOf(row), 100)}  ${shortDigest(have)}${row.reason === null ? '' : `  ${clip(row.reason, 300)}`}`;
}

function stepsOf(row: Row): string {
  return row.steps
    .map(({ step, ok, durationMs, error }) => {
      const how = ok === null ? 'nothing to test' : ok ? 'ok' : `failed: ${clip(error?.message ?? '', 300)}`;
      return `\n    ${step} ${how} (${formatDuration(durationMs)})`;
    })
    .join('');
}

function table(head: string[], rows: string[][], paint: Paint): string {
  return plainTable(
    head.map((title) => paint('bold', title)),
    rows,
  );
}

const NO_LINES = Object.fromEntries(
  ['top', 'bottom', 'left', 'right']
    .flatMap((side) => [side, `${side}-mid`, `${side}-left`, `${side}-right`])
    .concat('mid', 'mid-mid')
    .map((part) => [part, '']),
);

/** Columns with two spaces between them and no lines: it survives a mail, a ticket and `grep`. */
export function plainTable(head: string[], rows: string[][]): string {
  const cells = new CliTable({
    head,
    chars: { ...NO_LINES, middle: '  ' },
    style: { head: [], border: [], 'padding-left': 0, 'padding-right': 0 },
  });
  cells.push(...rows.slice(0, MAX_ROWS));
  const more = rows.length > MAX_ROWS ? `\n… and ${rows.length - MAX_ROWS} more rows (--output json has them all)` : '';
  return `${cells
    .toString()
    .split('\n')
    .map((line) => line.trimEnd())
    .join('\n')}${more}`;
}
