/** When a rollout stops for failures. */
import type { Limit } from '../model/plan.ts';

/** How many actions may fail before no new one is started: a count, or a share of all, rounded up. */
export function failureBudget(limit: Limit, planned: number): number {
  return limit.percent ? Math.ceil((limit.value * planned) / 100) : limit.value;
}
