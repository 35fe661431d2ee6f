/** What applying is given beside the plan: whom it speaks to, how much at once, and until when. */
import type { ErrorInfo } from '../../core/model/error.ts';
import type { Action, Limit } from '../../core/model/plan.ts';
import type { ActionResult, Step, TidyResult } from '../../core/model/result.ts';
import type { Pacer } from '../../core/rollout/bandwidth.ts';
import type { Pace } from '../../core/model/rollout.ts';
import type { Ssh } from '../../ssh/client.ts';
import type { Registries } from '../resolve/inquiry.ts';

export interface ApplyClients extends Registries {
  ssh: Ssh;
}

export interface ApplyLimits {
  /** Changes at once. */
  maxPulls: number;
  /** So many actions may fail before no new one is started. */
  maxFailures: Limit;
  /** How long a node that another holds is waited for, in ms. */
  lockTimeoutMs: number;
  /** Nothing begins any more once it is aborted; what runs goes on. */
  ending: AbortSignal;
  /** Ends what runs. */
  signal: AbortSignal;
  /** What is left of the time that the signal gives, in ms. */
  remainingMs: () => number;
  /** Asked before an action begins: why it must not, as others stand that this process does not see. */
  whyNot?: (action: Action) => Promise<ErrorInfo | null>;
  /** Keeps all pulls within so many bytes per second; null for no limit. */
  pacer: Pacer | null;
  /** In so many ms all that begins now must have ended. */
  leftMs: () => number;
  /** How quickly images came in earlier runs; null where nobody knows. */
  pace: Pace | null;
  events: ApplyEvents;
}

export interface ApplyEvents {
  /** An action begins on its node. */
  onStart: (action: Action) => void;
  onStep: (action: Action, step: Step) => void;
  onResult: (result: ActionResult) => void;
  onTidied: (result: TidyResult) => void;
}
