/** Whether anything was judged at all: a run that compared nothing must not pass for one that found all well. */
import { errorInfo } from '../errors.ts';
import { fold } from '../nodeset.ts';
import { downloadOf } from '../reference.ts';
import { count } from '../text.ts';
import type { ErrorInfo } from '../model/error.ts';
import type { Observation } from '../model/observed.ts';
import type { ImageRow, NodeVerdicts, SnapshotRow } from '../model/report.ts';

/** Entries that are named where nothing was judged. */
const MAX_HELD = 5;

/** False for a row that compared nothing: what is unmanaged, what need not be there, what the first clone brings. */
export function isJudged(row: ImageRow | SnapshotRow): boolean {
  if ('snapshot' in row) return row.verdict !== 'not-on-node' || row.baseVerdict !== null;
  return row.verdict !== 'unmanaged' && row.verdict !== 'absent';
}

/** True where some node that was read has a row that compared something. */
export function isAnyJudged(verdicts: NodeVerdicts[], observations: Observation[]): boolean {
  const read = new Set(observations.flatMap(({ node, observed }) => (observed === null ? [] : node.name)));
  return verdicts.some(({ node, images, snapshots }) => read.has(node) && [...images, ...snapshots].some(isJudged));
}

/**
 * The error of a run in which not one row was judged, or null. Where nothing was asked for and nothing is there, there was
 * nothing to judge.
 * @param selected the rows that the run is about
 * @param all every row: where some of these was judged, the address of epoch and the root directories are right, and
 * what is absent is just that
 * @param isAsked whether a filter names something
 */
export function nothingJudged(
  selected: NodeVerdicts[],
  all: NodeVerdicts[],
  observations: Observation[],
  isAsked: boolean,
): ErrorInfo | null {
  if (observations.every(({ observed }) => observed === null) || isAnyJudged(selected, observations)) return null;
  const rows = selected.flatMap(({ images, snapshots }) => [...images, ...snapshots]);
  if (rows.length === 0 && !isAsked) return null;
  const isUnmanaged = rows.some(({ verdict }) => verdict === 'unmanaged');
  if (!isUnmanaged && isAnyJudged(all, observations)) return null;
  const suspects = rows.flatMap((row) => ('reference' in row && row.error !== null ? [row.reference] : []));
  return nothingJudgedOn(observations, suspects);
}

/**
 * The error itself, with what the nodes hold instead.
 * @param suspects references that may be of epoch under another address
 */
export function nothingJudgedOn(observations: Observation[], suspects: string[]): ErrorInfo {
  const holders = new Map<string, string[]>();
  const read = observations.filter(({ observed }) => observed !== null);
  for (const { node, observed } of read) {
    for (const reference of new Set(observed?.entries.map((entry) => entry.reference))) {
      const nodes = holders.get(reference);
      if (nodes === undefined) holders.set(reference, [node.name]);
      else nodes.push(node.name);
    }
  }
  const all = [...holders].sort(([, a], [, b]) => b.length - a.length);
  const held = all.slice(0, MAX_HELD).map(([reference, nodes]) => `${reference} on ${placesOf(nodes)}`);
  const aliases = [...new Set(suspects.flatMap((reference) => downloadOf(reference)?.address ?? []))];
  return errorInfo('NOTHING_JUDGED', { nodes: read.length, held, more: all.length - held.length, aliases });
}

function placesOf(nodes: string[]): string {
  const folded = fold(nodes);
  return folded.length <= 60 ? folded : count(nodes.length, 'node');
}
