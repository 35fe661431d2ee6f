/**
 * Where the shards of one run meet: a directory that all can write. Shards agree on the run by making directories, which
 * is atomic on every file system, and tell each other how they stand by one file each, which only its shard writes, whole
 * and by rename. There are no locks: NFS has none that can be relied on.
 */
import { randomBytes } from 'node:crypto';
import { mkdir, open, readdir, rename, rm, stat, unlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fault, type ReconcileError } from '../core/errors.ts';
import { object, parseJson, ShapeError, text } from '../core/json.ts';
import { parseStanding, type Standing } from '../core/shard/standing.ts';
import { shardName, type Shard } from '../core/shard/shard.ts';
import { readRegularFile } from '../system/file.ts';

/** A run that is older takes no more shards: what starts then is a new one. */
const JOIN_MS = 15 * 60_000;
/** So many runs are kept, the newest. */
const KEPT = 10;
/** A run that was made and not named by then: who made it has died. */
const NAMING_MS = 5_000;
const PAUSE_MS = 50;
const MAX_FILE_BYTES = 2 ** 20;
const MAX_RUN_BYTES = 4096;
const RUN = 'run.json';
const NAME = /^run-(\d{1,12})$/;

/** One shard's place in a run. */
export interface SharedRun {
  /** The same for all shards of the run. */
  id: string;
  /**
   * Says how this shard stands; it is there for all when this returns.
   * @throws ReconcileError SHARED_DIR_LOST
   */
  tell(standing: Standing): Promise<void>;
  /**
   * How each shard stands, by its index; null for one that has said nothing yet.
   * @throws ReconcileError SHARED_DIR_LOST where the directory or a file of it cannot be read, or is none of ours
   */
  read(): Promise<(Standing | null)[]>;
}

/** What a shard brings: only shards with the same config and of as many are of one run. */
export interface Joining {
  shard: Shard;
  config: string;
  /** The name of the run, where something outside gives all its shards the same (`RECONCILE_RUN`). */
  named: string | null;
  /** The id of the run, should it be this shard that begins it. */
  id: string;
}

/**
 * Joins the run that the other shards are in, or begins one. Without a name that is the newest run of the same config that
 * this shard is not part of yet, and that is no older than 15 minutes.
 * @throws ReconcileError SHARED_DIR_LOST where the directory cannot be used
 */
export async function joinRun(dir: string, joining: Joining, signal: AbortSignal): Promise<SharedRun> {
  const { shard, named } = joining;
  try {
    await mkdir(dir, { recursive: true, mode: 0o770 });
    if (named !== null) {
      const place = join(dir, `named-${named}`);
      await mkdir(place, { recursive: true, mode: 0o770 });
      return createRun(dir, place, named, shard);
    }
    for (;;) {
      signal.throwIfAborted();
      const newest = await newestIn(dir);
      const place = join(dir, `run-${newest}`);
      const found = newest === 0 ? null : await runAt(dir, place, joining, signal);
      if (found !== null) return createRun(dir, place, found, shard);
      const next = join(dir, `run-${newest + 1}`);
      if (!(await isMade(next))) continue; // another shard was quicker
      await writeWhole(join(next, RUN), JSON.stringify(headOf(joining)));
      await isClaimed(next, shard);
      await forgetOld(dir, newest + 1);
      return createRun(dir, next, joining.id, shard);
    }
  } catch (error) {
    throw signal.aborted ? signal.reason : lost(dir, error);
  }
}

function createRun(dir: string, place: string, id: string, shard: Shard): SharedRun {
  const fileOf = (index: number): string => join(place, `shard-${index}.json`);
  return {
    id,
    tell: async (standing) => {
      try {
        await writeWhole(fileOf(shard.index), JSON.stringify(standing));
      } catch (error) {
        throw lost(dir, error);
      }
    },
    read: async () => {
      try {
        await stat(place); // a directory that is gone would look like shards that have said nothing
        return await Promise.all(
          Array.from({ length: shard.count }, async (_, index) => await readStanding(fileOf(index))),
        );
      } catch (error) {
        throw lost(dir, error);
      }
    },
  };
}

function lost(dir: string, error: unknown): ReconcileError {
  const { code, message } = error as NodeJS.ErrnoException;
  return fault('SHARED_DIR_LOST', { dir, why: code ?? message }, error);
}

async function readStanding(file: string): Promise<Standing | null> {
  const read = await readRegularFile(file, MAX_FILE_BYTES);
  if ('bytes' in read) return parseStanding(parseJson(read.bytes.toString('utf8'), file));
  if (read.cause === 'absent') return null;
  throw new Error(`${file} ${read.problem}`);
}

// ------------------------------------------------------------------------------------------------ which run it is

function headOf({ id, config, shard }: Joining): Record<string, unknown> {
  return { id, config, shards: shard.count };
}

async function newestIn(dir: string): Promise<number> {
  const numbers = (await readdir(dir)).map((name) => Number(NAME.exec(name)?.[1] ?? 0));
  return numbers.reduce((a, b) => Math.max(a, b), 0);
}

/** The id of a run that this shard can be part of, and is from now on; null where it cannot. */
async function runAt(dir: string, place: string, joining: Joining, signal: AbortSignal): Promise<string | null> {
  if ((await ageOf(dir, place)) > JOIN_MS) return null;
  const head = await readHead(join(place, RUN), signal);
  if (head === null) return null;
  const wanted = headOf(joining);
  const isSame = head['config'] === wanted['config'] && head['shards'] === wanted['shards'];
  if (!isSame || !(await isClaimed(place, joining.shard))) return null;
  return text(head['id'], 'id', 100);
}

/** Both times are those of the file server: the clocks of shards may differ. */
async function ageOf(dir: string, place: string): Promise<number> {
  const fresh = join(dir, `.now-${randomBytes(6).toString('hex')}`);
  await writeFile(fresh, '');
  const [now, { birthtimeMs, mtimeMs }] = await Promise.all([stat(fresh), stat(place)]);
  await unlink(fresh);
  // a file server that knows no time of birth says 0 there
  return now.mtimeMs - (birthtimeMs > 0 ? birthtimeMs : mtimeMs);
}

/** Who made the directory names the run at once; null where that never comes, or is nothing that we wrote. */
async function readHead(file: string, signal: AbortSignal): Promise<Record<string, unknown> | null> {
  for (let waited = 0; waited < NAMING_MS; waited += PAUSE_MS) {
    const read = await readRegularFile(file, MAX_RUN_BYTES);
    if ('bytes' in read) {
      try {
        return object(parseJson(read.bytes.toString('utf8'), file), file);
      } catch (error) {
        if (error instanceof ShapeError) return null;
        throw error;
      }
    }
    if (read.cause !== 'absent') return null;
    await sleep(PAUSE_MS, undefined, { signal });
  }
  return null;
}

/** True where this shard was no part of the run: from now on it is. */
async function isClaimed(place: string, shard: Shard): Promise<boolean> {
  try {
    const handle = await open(join(place, `part-${shardName(shard).replace('/', '-of-')}`), 'wx', 0o640);
    await handle.close();
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false;
    throw error;
  }
}

async function isMade(place: string): Promise<boolean> {
  try {
    await mkdir(place, { mode: 0o770 });
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false;
    throw error;
  }
}

async function forgetOld(dir: string, newest: number): Promise<void> {
  const old = (await readdir(dir)).filter((name) => {
    const number = Number(NAME.exec(name)?.[1] ?? Infinity);
    return number <= newest - KEPT;
  });
  for (const name of old) await rm(join(dir, name), { recursive: true, force: true }).catch(() => undefined);
}

async function writeWhole(file: string, content: string): Promise<void> {
  const fresh = `${file}.new-${randomBytes(6).toString('hex')}`;
  try {
    const handle = await open(fresh, 'wx', 0o640);
    try {
      await handle.writeFile(content);
      await handle.sync(); // a full disk of a file server may say so only now
    } finally {
      await handle.close();
    }
    await rename(fresh, file);
  } catch (error) {
    await unlink(fresh).catch(() => undefined);
    throw error;
  }
}
