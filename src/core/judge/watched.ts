/** Which snapshots of a node are judged, and on what they stand. */
import { localSnapshotName } from '../reference.ts';
import type { DesiredSnapshot } from '../model/desired.ts';
import type { Node } from '../model/node.ts';
import type { Observation, SnapshotFact } from '../model/observed.ts';
import type { Scope } from '../model/scope.ts';
import { isInPool } from './scope.ts';

type Watched = Scope['snapshots'];

/** The snapshots of a node that are judged, by the names that the config and reports have for them. */
export function watchedOn(
  { tracked, discover }: Watched,
  { node, observed }: Observation,
): { fact: SnapshotFact; snapshot: string }[] {
  const mine = tracked.filter((snapshot) => isInPool(snapshot, node));
  return (observed?.snapshots ?? []).flatMap((fact) => {
    const found = mine.find(({ snapshot }) => [localSnapshotName(snapshot), snapshot].includes(fact.name));
    if (found === undefined && !discover) return [];
    return [{ fact, snapshot: found?.snapshot ?? (fact.name || fact.id) }];
  });
}

/** The references of what the snapshots of a node that are judged stand on. */
export function basesOn(watched: Watched, observation: Observation): string[] {
  return watchedOn(watched, observation).flatMap(({ fact }) => fact.base ?? []);
}

/** The references of what the snapshots tracked for a node's pool stand on, as epoch has them. */
export function basesFor({ tracked }: Pick<Watched, 'tracked'>, served: DesiredSnapshot[], node: Node): string[] {
  const mine = new Set(tracked.filter((snapshot) => isInPool(snapshot, node)).map(({ snapshot }) => snapshot));
  return served.flatMap(({ snapshot, base }) => (base !== null && mine.has(snapshot) ? [base] : []));
}
