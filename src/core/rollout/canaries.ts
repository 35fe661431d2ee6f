/** Which nodes get an image first. */

export interface Candidate {
  node: string;
  pool: string;
  /** A node on which few VMs run has little to lose. */
  runningVms: number;
  /** The image could not be brought there by the last run that tried. */
  hasFailed: boolean;
}

/**
 * The order in which nodes are asked to be the canary of an image: those that failed last time come last, pools take turns,
 * and within a pool the one with the fewest running VMs is first. Of equals the earlier one of the inventory.
 * @param candidates in the order of the inventory
 */
export function canaryOrder(candidates: Candidate[]): string[] {
  const inPool = new Map<string, number>();
  return candidates
    .map((candidate, place) => ({ ...candidate, place }))
    .sort((a, b) => Number(a.hasFailed) - Number(b.hasFailed) || a.runningVms - b.runningVms || a.place - b.place)
    .map((candidate) => {
      const key = `${candidate.hasFailed} ${candidate.pool}`;
      const turn = inPool.get(key) ?? 0;
      inPool.set(key, turn + 1);
      return { ...candidate, turn };
    })
    .sort((a, b) => Number(a.hasFailed) - Number(b.hasFailed) || a.turn - b.turn) // stable: within a turn as above
    .map(({ node }) => node);
}
