/** Whether anything was judged at all: a run that compared nothing must not pass for one that found all well. */
import { errorInfo } from '../errors.ts';
import { fold } from '../nodeset.ts';
import { downloadOf } from '../reference.ts';
import { count } from '../text.ts';
import type { ErrorInfo } from '../model/error.ts';
import type { Observation } from '../model/observed.ts';
import type { ImageFinding, NodeFindings, SnapshotFinding } from '../model/finding.ts';

/** Entries that are named where nothing was judged. */
const MAX_HELD = 5;

/** False for a finding, or its row, that compared nothing: what is unmanaged, what need not be there, what the first clone brings. */
export function isJudged(
  row: Pick<ImageFinding, 'verdict'> | Pick<SnapshotFinding, 'verdict' | 'baseVerdict'>,
): boolean {
  if ('baseVerdict' in row) return row.verdict !== 'not-on-node' || row.baseVerdict !== null;
  return row.verdict !== 'unmanaged' && row.verdict !== 'absent';
}

/** True where some node that was read has a finding that compared something. */
export function isAnyJudged(findings: NodeFindings[], observations: Observation[]): boolean {
  const read = new Set(observations.flatMap(({ node, observed }) => (observed === null ? [] : node.name)));
  return findings.some(({ node, images, snapshots }) => read.has(node) && [...images, ...snapshots].some(isJudged));
}

/**
 * The error of a run in which not one row was judged, or null. Where nothing was asked for and nothing is there, there was
 * nothing to judge.
 * @param selected the findings that the run is about
 * @param all every finding: where some of these was judged, the address of epoch and the root directories are right, and
 * what is absent is just that
 * @param isAsked whether a filter names something
 */
export function nothingJudged(
  selected: NodeFindings[],
  all: NodeFindings[],
  observations: Observation[],
  isAsked: boolean,
): ErrorInfo | null {
  if (observations.every(({ observed }) => observed === null) || isAnyJudged(selected, observations)) return null;
  const rows = selected.flatMap(({ images, snapshots }) => [...images, ...snapshots]);
  if (rows.length === 0 && !isAsked) return null;
  const isUnmanaged = rows.some(({ verdict }) => verdict === 'unmanaged');
  if (!isUnmanaged && isAnyJudged(all, observations)) return null;
  const suspects = rows.flatMap((row) => (row.kind === 'image' && row.error !== null ? [row.reference] : []));
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
