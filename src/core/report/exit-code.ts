/** The exit code: one pure function of what was reported. */
import type { ErrorInfo } from '../model/error.ts';
import { EXIT_CODES, type Signal } from '../model/exit-codes.ts';
import type { Gate } from '../model/gate.ts';
import type { NodeReport } from '../model/report.ts';
import { isOpenDrift, weightOf } from './weight.ts';

const { OK, ERROR, DRIFT, INCOMPLETE, FAILED, LOCKED } = EXIT_CODES;

/** The first that holds of: ended by a signal, locked out by another run, could not be done, failed, drift, incomplete; else all is well. */
export function exitCode(
  signal: Signal | null,
  error: ErrorInfo | null,
  nodes: NodeReport[],
  gate: Gate | null,
): number {
  const rows = nodes.flatMap((node) => [...node.images, ...node.snapshots]);
  const isNothingJudged = error?.code === 'NOTHING_JUDGED';
  if (signal !== null) return EXIT_CODES[signal].code;
  if (error?.code === 'RUN_LOCKED') return LOCKED.code;
  if (error !== null && !isNothingJudged) return ERROR.code;
  if (gate !== null) {
    const outcomes = gate.questions.map(({ outcome }) => outcome);
    if (outcomes.includes('blocked')) return DRIFT.code;
    return isNothingJudged || outcomes.includes('incomplete') ? INCOMPLETE.code : OK.code;
  }
  const left = nodes.flatMap((node) => node.leftovers);
  if ([...rows, ...left].some(({ outcome }) => outcome === 'failed')) return FAILED.code;
  if (rows.some(isOpenDrift)) return DRIFT.code;
  const isIncomplete = rows.some((row) => weightOf(row) === 'incomplete');
  const isUnread = nodes.some((node) => node.status !== 'observed');
  return isNothingJudged || isIncomplete || isUnread ? INCOMPLETE.code : OK.code;
}
