/** What came of what was done. */
import type { ErrorInfo } from './error.ts';
import type { Pace } from './rollout.ts';

export const OUTCOMES = [
  /** The node was read again, and has what its registry serves now. */
  'healed',
  /** Something had begun on the node and did not end well. */
  'failed',
  /** Nothing was begun on the node. */
  'skipped',
  /** The tag moved during the run, and the node has what it serves now. */
  'superseded',
] as const;

export type Outcome = (typeof OUTCOMES)[number];

export interface Step {
  step: 'pull' | 'replace' | 'restore' | 'import' | 'verify' | 'clone';
  /** Null where there was nothing to test. */
  ok: boolean | null;
  durationMs: number;
  error: ErrorInfo | null;
}

/** What came of one action. */
export interface ActionResult {
  node: string;
  reference: string;
  outcome: Outcome;
  reason: string | null;
  error: ErrorInfo | null;
  after: string | null;
  steps: Step[];
}

/** What came of tidying one leftover; `skipped` where its owner may be alive, or its turn never came. */
export interface TidyResult {
  node: string;
  name: string;
  outcome: 'tidied' | 'failed' | 'skipped';
  error: ErrorInfo | null;
}

/** What came of a plan: one result per action, in the order of the plan. */
export interface Applied {
  tidied: TidyResult[];
  results: ActionResult[];
  /** How quickly images came; null where nothing tells. */
  pace: Pace | null;
}
