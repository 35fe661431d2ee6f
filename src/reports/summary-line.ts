/** The verdict in words: the last line of a table, and all that `--quiet` says when something is wrong. */
import { wordOfExit } from '../core/model/exit-codes.ts';
import { fold } from '../core/nodeset.ts';
import { isJudged } from '../core/report/judged.ts';
import { isOpenDrift, weightOf } from '../core/report/weight.ts';
import { clip, count, plain } from '../core/text.ts';
import type { ImageRow, LeftoverRow, NodeReport, Report, SnapshotRow } from '../core/model/report.ts';
import type { BlobDepth } from '../core/model/verdict.ts';

export type Row = ImageRow | SnapshotRow;

/** One line without a line end: a word in capitals for the eye and for grep, then what it means. */
export function verdictLine({ run, nodes, summary }: Report): string {
  const isNothingJudged = run.error?.code === 'NOTHING_JUDGED';
  if (run.error !== null && !isNothingJudged) {
    const unchanged = run.error.code === 'INTERNAL' ? '' : ' Nothing was changed.';
    return plain(`ERROR ${run.error.code}: ${run.error.message} (${run.error.hint}).${unchanged}`);
  }
  const observed = nodes.filter((node) => node.status === 'observed');
  const parts = [
    run.error === null ? null : `${run.error.code}: ${run.error.message} (${run.error.hint})`,
    failed(observed),
    said(observed, (row) => isOpenDrift(row) && row.outcome !== 'failed'),
    notRead(nodes),
    isNothingJudged ? null : said(observed, (row) => weightOf(row) === 'incomplete'),
    healed(observed),
    tidied(observed),
    ...(run.exitCode === 0 ? [inSync(nodes, run.blobDepth), nothingManaged(nodes), unmanaged(nodes)] : []),
    run.mode === 'dry-run' ? dryRun(observed) : null,
  ].filter((part) => part !== null);
  const sentences = parts.length > 0 ? parts : [`${count(summary.nodes.observed, 'node')} read`];
  return plain(`${wordOfExit(run.exitCode)}: ${sentences.map((text) => `${clip(text, 2000)}.`).join(' ')}`);
}

/** What a row is about: `simular/win11:latest`, or the reference where no image is known. */
export function subjectOf(row: Row): string {
  if ('snapshot' in row) return row.snapshot;
  return row.image === null ? row.reference : `${row.image}:${row.tag}`;
}

/** The word for a row: its verdict, or for a snapshot not on the node that of its base. */
export function wordOf(row: Row): string {
  return 'snapshot' in row && row.verdict === 'not-on-node' && row.baseVerdict !== null ? row.baseVerdict : row.verdict;
}

export function rowsOf(node: NodeReport): Row[] {
  return [...node.images, ...node.snapshots];
}

/** Most errors begin with their node, which is said beside them. */
export function withoutNode(said: string, node: string): string {
  return said.startsWith(`${node}: `) ? said.slice(node.length + 2) : said;
}

/** Node names, folded; what does not fit is counted. */
export function where(names: string[], max: number): string {
  const folded = plain(fold(names));
  if (folded.length <= max || names.length === 1) return clip(folded, max);
  const comma = folded.slice(0, max).lastIndexOf(',');
  return `${folded.slice(0, comma === -1 ? max : comma + 1)}… (${count(names.length, 'node')})`;
}

/** `simular/win11:latest is stale on node-[2,4]; …`: each thing once with its nodes, and at most three things. */
function said(nodes: NodeReport[], wanted: (row: Row) => boolean): string | null {
  return listed(nodes, wanted, (row) => `${subjectOf(row)} is ${wordOf(row)}`);
}

function listed(nodes: NodeReport[], wanted: (row: Row) => boolean, word: (row: Row) => string): string | null {
  const places = new Map<string, Set<string>>();
  for (const node of nodes) {
    for (const row of rowsOf(node).filter(wanted)) {
      const names = places.get(word(row)) ?? new Set();
      places.set(word(row), names.add(node.name));
    }
  }
  const all = [...places].map(([what, names]) => `${what} on ${where([...names], 48)}`);
  if (all.length === 0) return null;
  return all.length > 3 ? `${all.slice(0, 3).join('; ')}; and ${all.length - 3} more` : all.join('; ');
}

function failed(nodes: NodeReport[]): string | null {
  const failures = nodes.flatMap((node) =>
    rowsOf(node).flatMap((row) => (row.outcome === 'failed' ? [{ name: node.name, row }] : [])),
  );
  const [first] = failures;
  if (first === undefined) return untidied(nodes);
  const names = [...new Set(failures.map(({ name }) => name))];
  const why = withoutNode(first.row.error?.message ?? first.row.reason ?? '', first.name);
  return `healing failed on ${where(names, 48)}: ${clip(why, 300)}`;
}

function untidied(nodes: NodeReport[]): string | null {
  const left = withLeftovers(nodes, 'failed');
  const error = left[0]?.leftovers.find(({ outcome }) => outcome === 'failed')?.error;
  if (left[0] === undefined) return null;
  return `tidying up failed on ${where(namesOf(left), 48)}: ${clip(withoutNode(error?.message ?? '', left[0].name), 300)}`;
}

function tidied(nodes: NodeReport[]): string | null {
  const done = withLeftovers(nodes, 'tidied');
  return done.length === 0 ? null : `tidied up after an earlier run on ${where(namesOf(done), 48)}`;
}

function withLeftovers(nodes: NodeReport[], wanted: LeftoverRow['outcome']): NodeReport[] {
  return nodes.filter(({ leftovers }) => leftovers.some(({ outcome }) => outcome === wanted));
}

function namesOf(nodes: NodeReport[]): string[] {
  return nodes.map(({ name }) => name);
}

function notRead(nodes: NodeReport[]): string | null {
  const names = nodes.filter((node) => node.status !== 'observed').map((node) => node.name);
  if (names.length === 0) return null;
  return `${names.length} of ${count(nodes.length, 'node')} could not be read: ${where(names, 48)}`;
}

function healed(nodes: NodeReport[]): string | null {
  const isDone = (row: Row): boolean => row.outcome === 'healed' || row.outcome === 'superseded';
  const images = listed(nodes, (row) => isDone(row) && !('snapshot' in row), subjectOf);
  const done = images ?? listed(nodes, isDone, subjectOf);
  return done === null ? null : `healed and verified ${done}`;
}

const DEPTHS: Record<BlobDepth, string> = {
  presence: ' (blobs checked for presence only)',
  size: ' (blobs checked by size)',
  sha256: ' (blobs checked by sha256)',
};

/** Whether anything on the node is managed: all else cannot be in sync. */
export function isManaged(node: NodeReport): boolean {
  return rowsOf(node).some(isJudged);
}

/** `node-2 holds nothing managed`, where that is so. */
function nothingManaged(nodes: NodeReport[]): string | null {
  const names = namesOf(nodes.filter((node) => !isManaged(node)));
  if (names.length === 0) return null;
  return `${where(names, 48)} ${names.length === 1 ? 'holds' : 'hold'} nothing managed`;
}

/** `3 entries on 2 nodes are unmanaged`, where there are some. */
export function unmanaged(nodes: NodeReport[]): string | null {
  const counts = nodes.map(({ images }) => images.filter(({ verdict }) => verdict === 'unmanaged').length);
  const all = counts.reduce((sum, one) => sum + one, 0);
  if (all === 0) return null;
  const entries = all === 1 ? '1 entry' : `${all} entries`;
  return `${entries} on ${count(counts.filter((one) => one > 0).length, 'node')} ${all === 1 ? 'is' : 'are'} unmanaged`;
}

/** Where blobs of cloud images were looked at, how closely. */
function inSync(all: NodeReport[], asked: BlobDepth | null): string | null {
  const nodes = all.filter(isManaged);
  if (nodes.length === 0) return null;
  const rows = nodes.flatMap(rowsOf);
  const isBlob = (row: Row): boolean =>
    'type' in row && row.type === 'cloudimg' && (row.verdict === 'in-sync' || row.outcome !== null);
  const depth = asked !== null && rows.some(isBlob) ? DEPTHS[asked] : '';
  if (rows.some((row) => row.outcome !== null)) return `${count(nodes.length, 'node')} in sync${depth}`;
  const different = (verdict: string): number =>
    new Set(rows.filter((row) => row.verdict === verdict).map((row) => subjectOf(row))).size;
  const images = count(different('in-sync'), 'image');
  const snapshots = count(different('clonable'), 'snapshot');
  return `${count(nodes.length, 'node')} in sync: ${images} current, ${snapshots} clonable${depth}`;
}

/** What a run would do: an image and its snapshots share a pull. */
function dryRun(nodes: NodeReport[]): string {
  const pulls = nodes.flatMap((node) => {
    const planned = rowsOf(node).filter((row) => row.plan !== null && row.error === null);
    return [...new Set(planned.map((row) => ('snapshot' in row ? row.base : row.reference)))];
  });
  const left = withLeftovers(nodes, null);
  const plan = [
    ...(pulls.length === 0 ? [] : [`do ${count(pulls.length, 'pull')}`]),
    ...(left.length === 0 ? [] : [`tidy up after an earlier run on ${where(namesOf(left), 48)}`]),
  ];
  return `Nothing was changed (dry run)${plan.length === 0 ? '' : `; a run would ${plan.join(' and ')}`}`;
}
