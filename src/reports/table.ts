/** The report for people: what is wrong, where, and what to do; what is fine is folded; the verdict comes last. */
import { styleText } from 'node:util';
import CliTable from 'cli-table3';
import { isOpenDrift, weightOf } from '../core/report.ts';
import { clip, formatDuration, shortDigest } from '../core/text.ts';
import type { LeftoverRow, NodeReport, Report } from '../core/types.ts';
import type { RenderOptions } from './index.ts';
import {
  isManaged,
  rowsOf,
  subjectOf,
  unmanaged,
  verdictLine,
  where,
  withoutNode,
  wordOf,
  type Row,
} from './verdict.ts';

/** Rows of one table; more are counted, not shown: people do not read them, and the table library slows down. */
const MAX_ROWS = 200;
/** Pieces of advice, and the causes that are named above one remedy. */
const MAX_ADVICE = 20;
const MAX_CAUSES = 3;

type Style = 'red' | 'yellow' | 'green' | 'bold';
type Paint = (style: Style, text: string) => string;

export function renderTable(report: Report, { color, verbose, brief }: RenderOptions): string {
  const paint: Paint = (style, text) => (color ? styleText(style, text, { validateStream: false }) : text);
  const verdict = painted(verdictLine(report), report.run.exitCode, paint);
  if (brief) return `${verdict}\n`;
  const observed = report.nodes.filter((node) => node.status === 'observed');
  const unread = report.nodes.filter((node) => node.status !== 'observed');
  const problems = problemsOf(observed);
  const sections = [
    problemTable(problems, paint),
    unreadTable(unread, paint),
    advice(
      [
        ...adviceOn(problems),
        ...warningsOn(observed),
        ...observed.flatMap(adviceOnLeftovers),
        ...unread.map(adviceOnNode),
      ],
      paint,
    ),
    verbose ? report.nodes.map((node) => everything(node, paint)).join('\n') : standing(observed, paint),
    verdict,
  ];
  return `${sections.filter((section) => section !== '').join('\n\n')}\n`;
}

function painted(verdict: string, exitCode: number, paint: Paint): string {
  const end = verdict.indexOf(' ');
  const style = exitCode === 0 ? 'green' : exitCode === 3 ? 'yellow' : 'red';
  return `${paint(style, verdict.slice(0, end))}${verdict.slice(end)}`;
}

// ---------------------------------------------------------------------------------------------- what is wrong

/** Rows of several nodes that are alike but for the node and its wave. */
interface Problem {
  row: Row;
  places: { node: string; row: Row }[];
}

function isProblem(row: Row): boolean {
  return isOpenDrift(row) || row.outcome !== null || row.plan !== null || weightOf(row) === 'incomplete';
}

/** The worst image first; the rows of an image, then those of the snapshots on it. */
function problemsOf(nodes: NodeReport[]): Problem[] {
  const places = nodes.flatMap((node) =>
    rowsOf(node)
      .filter(isProblem)
      .map((row) => ({ node: node.name, row })),
  );
  const alike = groupBy(places, ({ row }) => [subjectOf(row), wordOf(row), haveOf(row), wantOf(row), fateOf(row)]);
  const problems = alike.map((group): Problem => ({ row: group[0].row, places: group }));
  const worst = new Map<string, number>();
  for (const { row } of problems) worst.set(imageOf(row), Math.min(worst.get(imageOf(row)) ?? 9, severityOf(row)));
  const images = [...worst.keys()];
  const rank = ({ row }: Problem): number[] => {
    const image = imageOf(row);
    return [worst.get(image) as number, images.indexOf(image), 'snapshot' in row ? 1 : 0, severityOf(row)];
  };
  return problems.sort((a, b) => compare(rank(a), rank(b)));
}

/** The reference of the image that a row is about, or on which the snapshot stands. */
function imageOf(row: Row): string {
  return 'snapshot' in row ? (row.base ?? row.snapshot) : row.reference;
}

function severityOf(row: Row): number {
  if (row.outcome === 'failed') return 0;
  if (isOpenDrift(row)) return 1;
  return weightOf(row) === 'incomplete' ? 2 : 3;
}

function styleOf(row: Row): Style {
  return (['red', 'red', 'yellow', 'green'] as const)[severityOf(row)] ?? 'green';
}

function haveOf(row: Row): string {
  return 'snapshot' in row ? '' : shortDigest(row.have);
}

function wantOf(row: Row): string {
  return shortDigest('snapshot' in row ? row.baseDigest : row.want);
}

/** What becomes of a row, but for its wave. */
function fateOf(row: Row): string {
  const code = row.error === null ? '' : `: ${row.error.code}`;
  if (row.outcome === 'healed' && row.steps.some(({ ok }) => ok === null)) return 'healed, no clone to test';
  if (row.outcome !== null) return `${row.outcome}${code}`;
  if (row.plan !== null && row.error === null) return row.plan;
  return row.commands.length > 0 ? `by hand, see below${code}` : `none${code}`;
}

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

// ------------------------------------------------------------------------------------------------- what to do

/** What is to be said of one row or node: the cause, and what a person can do about it. */
interface Advice {
  subject: string;
  node: string;
  said: string;
  hint: string | null;
  commands: string[];
}

function adviceOnRow(node: string, row: Row): Advice {
  const said = row.error?.message ?? row.reason ?? '';
  return {
    subject: clip(subjectOf(row), 80),
    node,
    said: withoutNode(said, node),
    hint: row.error?.hint ?? null,
    commands: row.commands,
  };
}

function adviceOn(problems: Problem[]): Advice[] {
  return problems
    .flatMap(({ places }) => places)
    .filter(({ row }) => row.outcome !== 'healed')
    .map(({ node, row }) => adviceOnRow(node, row));
}

/** Rows that are in order, with an error that will hurt later. */
function warningsOn(nodes: NodeReport[]): Advice[] {
  return nodes.flatMap((node) =>
    rowsOf(node)
      .filter((row) => row.error !== null && !isProblem(row))
      .map((row) => adviceOnRow(node.name, row)),
  );
}

/** What a dead run left and is still there. */
function adviceOnLeftovers({ name, leftovers }: NodeReport): Advice[] {
  return leftovers
    .filter(({ outcome }) => outcome !== 'tidied')
    .map((left) => ({
      subject: '',
      node: name,
      said: withoutNode(left.error?.message ?? `${LEFT[left.kind]} of an earlier run is there (${left.name})`, name),
      hint: left.error?.hint ?? (left.outcome === null ? 'a run tidies that' : 'it is left to the run at work there'),
      commands: [],
    }));
}

const LEFT: Record<LeftoverRow['kind'], string> = {
  'canary-vm': 'the canary VM',
  'blob-aside': 'a bad blob, set aside,',
  import: 'the content of an import',
};

function adviceOnNode({ name, error }: NodeReport): Advice {
  return {
    subject: '',
    node: name,
    said: withoutNode(error?.message ?? '', name),
    hint: error?.hint ?? null,
    commands: [],
  };
}

/** Each cause once with all its places, and below the causes that share it the same remedy once. */
function advice(all: Advice[], paint: Paint): string {
  const remedies = groupBy(
    all.filter(({ said }) => said !== ''),
    ({ hint, commands }) => [hint, ...commands],
  );
  const blocks = remedies.map((group) => {
    const [{ hint, commands }] = group;
    const causes = groupBy(group, ({ subject, said }) => [subject, said]).map((alike) => ({
      ...alike[0],
      nodes: where(
        alike.map(({ node }) => node),
        60,
      ),
    }));
    const lines = groupBy(causes, ({ nodes, said }) => [nodes, said]).map((alike) => {
      const subjects = limited([...new Set(alike.map(({ subject }) => subject))], 3).filter(Boolean);
      const place = [subjects.join(', '), alike[0].nodes].filter(Boolean).join(' on ');
      return `${paint('bold', place)}: ${clip(alike[0].said, 600)}`;
    });
    return [
      ...limited(lines, hint === null && commands.length === 0 ? MAX_ADVICE : MAX_CAUSES),
      ...(hint === null ? [] : [`  → ${clip(hint, 500)}`]),
      ...commands.map((command) => `  $ ${clip(command, 500)}`),
    ].join('\n');
  });
  return limited(blocks, MAX_ADVICE).join('\n');
}

function limited(lines: string[], max: number): string[] {
  return lines.length <= max
    ? lines
    : [...lines.slice(0, max), `… and ${lines.length - max} more (--verbose has each)`];
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

// ------------------------------------------------------------------------------------------------------- parts

function namesOf(places: Problem['places']): string[] {
  return [...new Set(places.map(({ node }) => node))];
}

/** Items with the same key, in the order of their first. */
function groupBy<T>(items: T[], keyOf: (item: T) => unknown[]): [T, ...T[]][] {
  const groups = new Map<string, [T, ...T[]]>();
  for (const item of items) {
    const key = JSON.stringify(keyOf(item));
    const group = groups.get(key);
    if (group === undefined) groups.set(key, [item]);
    else group.push(item);
  }
  return [...groups.values()];
}

function compare(a: number[], b: number[]): number {
  const i = a.findIndex((value, place) => value !== b[place]);
  return i === -1 ? 0 : (a[i] as number) - (b[i] as number);
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
