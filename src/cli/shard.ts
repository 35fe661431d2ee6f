/** Which part of the fleet a command is about: by its option, else by the environment of an Indexed Job of Kubernetes. */
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { fault } from '../core/errors.ts';
import type { Filters } from '../core/plan/select.ts';
import { parseShard, type Shard } from '../core/shard/shard.ts';
import type { Settings } from '../core/model/settings.ts';
import type { Part } from '../pipeline/run.ts';
import type { Io } from './io.ts';
import type { Begun } from './reporting.ts';

/**
 * @returns null for the whole fleet
 * @throws ReconcileError CONFIG_INVALID where the environment says half of it: each pod would do the work of all
 */
export function shardAsked(option: Shard | undefined, { env }: Pick<Io, 'env'>): Shard | null {
  if (option !== undefined) return option;
  const [index, count] = [env['JOB_COMPLETION_INDEX'] || undefined, env['RECONCILE_SHARDS'] || undefined];
  if (index === undefined && count === undefined) return null;
  const shard = parseShard(`${index}/${count}`);
  if (shard !== null) return shard;
  throw fault('CONFIG_INVALID', {
    problem: `JOB_COMPLETION_INDEX (${index ?? 'not set'}) and RECONCILE_SHARDS (${count ?? 'not set'}) name no shard together`,
    hint: 'set RECONCILE_SHARDS to the completions of the Indexed Job, which sets the index itself; --shard I/N wins over both',
  });
}

/**
 * Stands for what decides what a run does, so that parts of one whole are known by it. No secret goes into it, and no file
 * of the machine: each shard may have those elsewhere.
 */
export function configDigest(settings: Settings, filters: Filters): string {
  const { epoch, cocoon, images, snapshots, verify, rollout, repair } = settings;
  const nodes = settings.nodes.map(({ name, host, pool, rootDir }) => [name, host, pool, rootDir]);
  const { url, aliases } = epoch;
  const deciding = [url, aliases, nodes, cocoon, images, snapshots, verify, rollout, repair, filters];
  return `sha256:${createHash('sha256').update(JSON.stringify(deciding)).digest('hex')}`;
}

/** A name that something outside gives to all shards of a run: a pod has the one of its Job. */
const RUN_NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/;

/**
 * Meets the other shards of the run.
 * @returns the part, and the id of the run, the same for all shards as far as they can meet
 * @throws ReconcileError CONFIG_INVALID for a RECONCILE_RUN that is no name; SHARED_DIR_LOST
 */
export async function joinShards(
  { shard, config, isDry }: { shard: Shard; config: string; isDry: boolean },
  { settings, stateDir }: { settings: Settings; stateDir: string | null },
  { io, id }: Begun,
): Promise<Part & { id: string }> {
  const named = io.env['RECONCILE_RUN'] || null;
  if (named !== null && !RUN_NAME.test(named)) {
    throw fault('CONFIG_INVALID', {
      problem: `RECONCILE_RUN ("${named}") is no name for a run: letters, digits, dots, dashes and underscores`,
    });
  }
  const dir = settings.run.sharedDir ?? (stateDir === null ? null : join(stateDir, 'shards'));
  if (dir === null && !isDry && shard.count > 1) {
    throw fault('CONFIG_INVALID', {
      problem: 'a shard that changes nodes must meet the others, and there is no directory for that',
      hint: 'set run.sharedDir to a directory that all shards can write',
    });
  }
  if (dir === null) return { id: named ?? id, shard, config, shared: null };
  const { joinRun } = await import('../bastion/shared-run.ts');
  const kind = isDry ? 'dry-run' : 'run';
  const shared = await joinRun(join(dir, kind), { shard, config, named, id }, io.stop);
  return { id: shared.id, shard, config, shared };
}
