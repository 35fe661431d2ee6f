/** The pools that the config limits images and snapshots to, against those that the inventory has. */
import { fault } from '../core/errors.ts';
import type { Settings } from '../core/model/settings.ts';
import { joined, nearest } from './document.ts';

/**
 * A pool that no node has would limit an image or a snapshot to nothing.
 * @param known the pools of all nodes, before any filter
 * @throws ReconcileError CONFIG_INVALID
 */
export function refuseUnknownPools(
  file: string,
  { images, snapshots }: Pick<Settings, 'images' | 'snapshots'>,
  known: Set<string>,
): void {
  const all = [...known].sort();
  const problems = [
    ...images.track.map(({ pools }, i) => ({ pools, key: `images.track[${i}].pools` })),
    ...snapshots.track.map(({ pools }, i) => ({ pools, key: `snapshots.track[${i}].pools` })),
  ].flatMap(({ pools, key }) =>
    (pools ?? [])
      .filter((pool) => !known.has(pool))
      .map((pool) => {
        const near = nearest(pool, all);
        return `${key}: no node is in pool "${pool}"${near === null ? '' : `, did you mean "${near}"?`}`;
      }),
  );
  if (problems.length === 0) return;
  const hint = `pools of the inventory: ${all.slice(0, 20).join(', ')}${all.length > 20 ? ' …' : ''}`;
  throw fault('CONFIG_INVALID', { problem: `${file}: ${joined(problems)}`, hint });
}
