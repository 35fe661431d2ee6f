/** What verdicts count as. */
import type { ImageRow, SnapshotRow } from '../model/report.ts';
import type { ImageVerdict, SnapshotVerdict } from '../model/verdict.ts';

/** What a verdict counts as: against us, for an incomplete picture, or neither. */
export type Weight = 'drift' | 'incomplete' | 'nothing';

const IMAGE_WEIGHT: Record<ImageVerdict, Weight> = {
  unmanaged: 'nothing',
  unknown: 'incomplete',
  missing: 'drift',
  absent: 'nothing',
  stale: 'drift',
  'blob-missing': 'drift',
  'blob-corrupt': 'drift',
  'in-sync': 'nothing',
};

const SNAPSHOT_WEIGHT: Record<SnapshotVerdict, Weight> = {
  unknown: 'incomplete',
  'not-on-node': 'nothing',
  pending: 'nothing',
  broken: 'drift',
  'base-corrupt': 'drift',
  'base-drifted': 'drift',
  'base-restorable': 'drift',
  'base-missing': 'drift',
  'base-lost': 'drift',
  'base-at-risk': 'nothing',
  clonable: 'nothing',
};

/**
 * What a row counts as; a snapshot that is not on the node counts as its base would, and what is unmanaged only because
 * nobody can say whether it is epoch's leaves the picture incomplete.
 */
export function weightOf(row: ImageRow | SnapshotRow): Weight {
  if (!('snapshot' in row)) {
    return row.verdict === 'unmanaged' && row.error !== null ? 'incomplete' : IMAGE_WEIGHT[row.verdict];
  }
  const verdict = row.verdict === 'not-on-node' ? row.baseVerdict : row.verdict;
  return verdict === null ? 'nothing' : SNAPSHOT_WEIGHT[verdict];
}

/** Drift that nothing has healed. */
export function isOpenDrift(row: ImageRow | SnapshotRow): boolean {
  return weightOf(row) === 'drift' && row.outcome !== 'healed' && row.outcome !== 'superseded';
}
