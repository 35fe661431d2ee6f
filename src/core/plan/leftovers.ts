/** What a run of ours that died left on a node, and who tidies it: the next run, under our lock there, and no other. */
import { hexOf } from '../reference.ts';
import type { Leftover, Observation } from '../model/observed.ts';
import type { Action, Tidying } from '../model/plan.ts';
import type { LeftoverRow } from '../model/report.ts';
import type { ActionResult, TidyResult } from '../model/result.ts';

const CANARY = 'reconcile-canary-';

/** The name of the canary VM of a run. */
export function canaryName(runId: string): string {
  return `${CANARY}${runId}`;
}

/** True for a name that `canaryName` could have given; one that merely looks like it is somebody else's. */
export function isCanaryName(name: string): boolean {
  return name.startsWith(CANARY) && /^[A-Za-z0-9._-]+$/.test(name.slice(CANARY.length));
}

/** Files by their path below the root directory: `change.sh` sets blobs aside and receives imports under such names. */
const KINDS: [Leftover['kind'], RegExp][] = [
  ['blob-aside', /^cloudimg\/blobs\/[0-9a-f]{64}\.qcow2\.bad-reconcile$/],
  ['import', /^cloudimg\/temp\/reconcile-import\.[A-Za-z0-9]{8}$/],
];

/** The leftover at a path below the root directory; null where no run of ours would have put something there. */
export function leftoverAt(path: string): Leftover | null {
  const kind = KINDS.find(([, pattern]) => pattern.test(path))?.[0];
  return kind === undefined ? null : { kind, name: path };
}

/**
 * Everything that was left, but for a bad blob that an action of this plan brings anew: to put the file back first would
 * make cocoon keep it, so the guard of that action removes or puts back what lies beside its blob.
 */
export function planTidying(observations: Observation[], actions: Action[]): Tidying[] {
  return observations
    .map(({ node, observed }) => ({
      node,
      leftovers: (observed?.leftovers ?? []).filter((left) => !actions.some((a) => tends(a, node.name, left))),
    }))
    .filter(({ leftovers }) => leftovers.length > 0);
}

/** True for an action whose guard tends this very file. Where only the pull will tell what comes, it may be that. */
function tends({ node, blocked, want }: Action, name: string, { kind, name: path }: Leftover): boolean {
  return (
    kind === 'blob-aside' &&
    node.name === name &&
    blocked === null &&
    (want === null || path.includes(`/${hexOf(want)}.`))
  );
}

/** What became of the files that the guards of actions tended. */
export function tidiedByActions(observations: Observation[], actions: Action[], results: ActionResult[]): TidyResult[] {
  return observations.flatMap(({ node, observed }) =>
    (observed?.leftovers ?? []).flatMap((left): TidyResult[] => {
      const place = actions.findIndex((action) => tends(action, node.name, left));
      const result = results[place];
      if (result === undefined) return [];
      const { outcome, error } = result;
      const isDone = outcome === 'healed' || outcome === 'superseded';
      return [{ node: node.name, name: left.name, outcome: isDone ? 'tidied' : outcome, error }];
    }),
  );
}

/** The leftovers of a node as the report shows them. */
export function leftoverRows({ node, observed }: Observation, tidied: TidyResult[]): LeftoverRow[] {
  return (observed?.leftovers ?? []).map((left) => {
    const result = tidied.find(({ node: on, name }) => on === node.name && name === left.name);
    return { ...left, outcome: result?.outcome ?? null, error: result?.error ?? null };
  });
}
