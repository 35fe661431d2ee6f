/** The verdict in words: the last line of a table, and all that `--quiet` says when something is wrong. */
import { fold } from '../core/nodeset.ts';
import { isOpenDrift, weightOf } from '../core/report.ts';
import { clip, count } from '../core/text.ts';
import type { ImageRow, NodeReport, Report, SnapshotRow } from '../core/types.ts';

/** One line without a line end: a word in capitals for the eye and for grep, then what it means. */
export function verdictLine(report: Report): string {
  const { run, nodes, summary } = report;
  const dry = run.mode === 'dry-run' ? ' Nothing was changed (dry run).' : '';
  if (run.error !== null)
    return `ERROR ${run.error.code}: ${run.error.message}${hint(run.error.hint)} Nothing was changed.`;
  const parts = [
    sentence(failed(nodes)),
    sentence(open(nodes)),
    sentence(notRead(report)),
    sentence(unknown(nodes)),
    sentence(healed(report)),
  ].filter(Boolean);
  const word = WORDS[run.exitCode] ?? 'INTERRUPTED';
  const all = `${count(summary.nodes.observed, 'node')} read.`;
  return [`${word}:`, ...(parts.length > 0 ? parts : [word === 'OK' ? inSync(report) : all])].join(' ') + dry;
}

const WORDS: Record<number, string> = { 0: 'OK', 2: 'DRIFT', 3: 'INCOMPLETE', 4: 'FAILED' };

function hint(text: string | null): string {
  return text === null ? '.' : ` (${text}).`;
}

function sentence(text: string | null): string {
  return text === null ? '' : `${clip(text, 600)}.`;
}

type Row = ImageRow | SnapshotRow;

/** What a row is about: `simular/win11:latest`, or the reference where no image is known. */
export function subjectOf(row: Row): string {
  if ('snapshot' in row) return row.snapshot;
  return row.image === null ? row.reference : `${row.image}:${row.tag}`;
}

function subjects(nodes: NodeReport[], wanted: (row: Row) => boolean): string | null {
  const where = new Map<string, string[]>();
  for (const node of nodes) {
    for (const row of [...node.images, ...node.snapshots].filter(wanted)) {
      const key = `${subjectOf(row)} is ${wordOf(row)}`;
      where.set(key, [...(where.get(key) ?? []), node.name]);
    }
  }
  if (where.size === 0) return null;
  const all = [...where].map(([what, names]) => `${what} on ${fold(names)}`);
  return all.length > 3 ? `${all.slice(0, 3).join('; ')}; and ${all.length - 3} more` : all.join('; ');
}

/** The word for a row: its verdict, or for a snapshot not on the node that of its base. */
export function wordOf(row: Row): string {
  return 'snapshot' in row && row.verdict === 'not-on-node' && row.baseVerdict !== null ? row.baseVerdict : row.verdict;
}

function failed(nodes: NodeReport[]): string | null {
  const names = nodes.filter((node) => rowsOf(node).some((row) => row.outcome === 'failed'));
  if (names.length === 0) return null;
  const first = names.flatMap(rowsOf).find((row) => row.outcome === 'failed');
  return `healing failed on ${fold(names.map((node) => node.name))}: ${first?.error?.message ?? first?.reason ?? ''}`;
}

function open(nodes: NodeReport[]): string | null {
  return subjects(nodes, (row) => isOpenDrift(row) && row.outcome !== 'failed');
}

function unknown(nodes: NodeReport[]): string | null {
  return subjects(
    nodes.filter((node) => node.status === 'observed'),
    (row) => weightOf(row) === 'incomplete',
  );
}

function notRead({ nodes, summary }: Report): string | null {
  const names = nodes.filter((node) => node.status !== 'observed').map((node) => node.name);
  return names.length === 0
    ? null
    : `${names.length} of ${count(summary.nodes.total, 'node')} could not be read: ${fold(names)}`;
}

function healed({ nodes, summary }: Report): string | null {
  const names = nodes.filter((node) =>
    rowsOf(node).some((row) => row.outcome === 'healed' || row.outcome === 'superseded'),
  );
  if (names.length === 0) return null;
  const { healed: done, superseded } = summary.actions;
  return `healed and verified ${count(done + superseded, 'image')} on ${fold(names.map((node) => node.name))}`;
}

function inSync({ summary }: Report): string {
  const images = summary.images['in-sync'];
  const snapshots = summary.snapshots.clonable;
  return `${count(summary.nodes.total, 'node')} in sync: ${count(images, 'image')} current, ${count(snapshots, 'snapshot')} clonable.`;
}

function rowsOf(node: NodeReport): Row[] {
  return [...node.images, ...node.snapshots];
}
