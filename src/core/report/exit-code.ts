/** The exit code: one pure function of what was reported. */
import type { ErrorInfo } from '../model/error.ts';
import type { Gate } from '../model/gate.ts';
import type { NodeReport } from '../model/report.ts';
import { isOpenDrift, weightOf } from './weight.ts';

export type Signal = 'SIGHUP' | 'SIGINT' | 'SIGTERM';

const SIGNAL_CODE: Record<Signal, number> = { SIGHUP: 129, SIGINT: 130, SIGTERM: 143 };

/** The one table of exit codes: the first that holds of signal, 1, 4, 2, 3, else 0. */
export function exitCode(
  signal: Signal | null,
  error: ErrorInfo | null,
  nodes: NodeReport[],
  gate: Gate | null,
): number {
  const rows = nodes.flatMap((node) => [...node.images, ...node.snapshots]);
  const isNothingJudged = error?.code === 'NOTHING_JUDGED';
  if (signal !== null) return SIGNAL_CODE[signal];
  if (error !== null && !isNothingJudged) return 1;
  if (gate !== null) {
    const outcomes = gate.questions.map(({ outcome }) => outcome);
    return outcomes.includes('blocked') ? 2 : isNothingJudged || outcomes.includes('incomplete') ? 3 : 0;
  }
  const left = nodes.flatMap((node) => node.leftovers);
  if ([...rows, ...left].some(({ outcome }) => outcome === 'failed')) return 4;
  if (rows.some(isOpenDrift)) return 2;
  if (isNothingJudged) return 3;
  if (nodes.some((node) => node.status !== 'observed') || rows.some((row) => weightOf(row) === 'incomplete')) return 3;
  return 0;
}
