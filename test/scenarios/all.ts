// All scenarios, in the order of their names.
import { UNDER_ALIASES } from './aliases.ts';
import { ON_ARTIFACTS } from './artifacts.ts';
import { ON_CONTAINERS } from './containers.ts';
import { ON_IMAGES } from './images.ts';
import { ON_NODES } from './nodes.ts';
import type { Scenario } from './scenario.ts';
import { ON_SNAPSHOTS } from './snapshots.ts';

/** `5` before `5a` before `13`; those beyond the list of known states come last. */
function rank({ id }: Scenario): [number, string] {
  const number = Number.parseInt(id, 10);
  return [Number.isNaN(number) ? Infinity : number, id];
}

export const SCENARIOS: Scenario[] = [
  ...ON_IMAGES,
  ...ON_ARTIFACTS,
  ...ON_SNAPSHOTS,
  ...ON_CONTAINERS,
  ...ON_NODES,
  ...UNDER_ALIASES,
].sort((a, b) => {
  const [[x, one], [y, other]] = [rank(a), rank(b)];
  return x === y ? (one < other ? -1 : 1) : x - y;
});
