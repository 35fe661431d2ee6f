/** What is wrong in a report: the rows that people must see, alike ones together, the worst first. */
import { isOpenDrift, weightOf } from '../core/report/weight.ts';
import { shortDigest } from '../core/text.ts';
import type { NodeReport } from '../core/model/report.ts';
import { groupBy, type Style } from './layout.ts';
import { rowsOf, subjectOf, wordOf, type Row } from './summary-line.ts';

/** Rows of several nodes that are alike but for the node and its wave. */
export interface Problem {
  row: Row;
  places: { node: string; row: Row }[];
}

export function isProblem(row: Row): boolean {
  return isOpenDrift(row) || row.outcome !== null || row.plan !== null || weightOf(row) === 'incomplete';
}

/** The worst image first; the rows of an image, then those of the snapshots on it. */
export function problemsOf(nodes: NodeReport[]): Problem[] {
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
export function imageOf(row: Row): string {
  return 'snapshot' in row ? (row.base ?? row.snapshot) : row.reference;
}

function severityOf(row: Row): number {
  if (row.outcome === 'failed') return 0;
  if (isOpenDrift(row)) return 1;
  return weightOf(row) === 'incomplete' ? 2 : 3;
}

export function styleOf(row: Row): Style {
  return (['red', 'red', 'yellow', 'green'] as const)[severityOf(row)] ?? 'green';
}

export function haveOf(row: Row): string {
  return 'snapshot' in row ? '' : shortDigest(row.have);
}

export function wantOf(row: Row): string {
  return shortDigest('snapshot' in row ? row.baseDigest : row.want);
}

/** What becomes of a row, but for its wave. */
export function fateOf(row: Row): string {
  const code = row.error === null ? '' : `: ${row.error.code}`;
  if (row.outcome === 'healed' && row.steps.some(({ ok }) => ok === null)) return 'healed, no clone to test';
  if (row.outcome !== null) return `${row.outcome}${code}`;
  if (row.plan !== null && row.error === null) return row.plan;
  return row.commands.length > 0 ? `by hand, see below${code}` : `none${code}`;
}

function compare(a: number[], b: number[]): number {
  const i = a.findIndex((value, place) => value !== b[place]);
  return i === -1 ? 0 : (a[i] as number) - (b[i] as number);
}
