/** What applying is given beside the plan: whom it speaks to, how much at once, and until when. */
import type { ErrorInfo } from '../../core/model/error.ts';
import type { Action, Limit } from '../../core/model/plan.ts';
import type { ActionResult, Step, TidyResult } from '../../core/model/result.ts';
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
  signal: AbortSignal;
  /** What is left of the time that the signal gives, in ms. */
  remainingMs: () => number;
  /** Asked before an action begins: why it must not, as others stand that this process does not see. */
  whyNot?: (action: Action) => Promise<ErrorInfo | null>;
  events: ApplyEvents;
}

export interface ApplyEvents {
  onStep: (action: Action, step: Step) => void;
  onResult: (result: ActionResult) => void;
  onTidied: (result: TidyResult) => void;
}
