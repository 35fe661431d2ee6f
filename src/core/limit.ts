/** Limits that are a count or a share of all. */
import type { Limit } from './model/plan.ts';

/** How many of `total` the limit is: itself, or its share of them, rounded up. */
export function countOf({ value, percent }: Limit, total: number): number {
  return percent ? Math.ceil((value * total) / 100) : value;
}
