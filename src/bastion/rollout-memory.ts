/** What one run leaves to the next about changing nodes, in the state directory: losing it costs time and nothing else. */
import { randomBytes } from 'node:crypto';
import { rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { array, object, parseJson, ShapeError, text } from '../core/json.ts';
import { NOTHING_REMEMBERED, type Pace, type Place, type Remembered } from '../core/model/rollout.ts';
import { readRegularFile } from '../system/file.ts';

const FILE = 'rollout.json';
const MAX_FILE_BYTES = 8 * 2 ** 20;
const MAX_PLACES = 10_000;
const VERSION = 1;

/** What cannot be read or understood is nothing. @param dir null where nothing is kept */
export async function recallRollout(dir: string | null): Promise<Remembered> {
  if (dir === null) return NOTHING_REMEMBERED;
  const read = await readRegularFile(join(dir, FILE), MAX_FILE_BYTES);
  if (!('bytes' in read)) return NOTHING_REMEMBERED;
  try {
    const document = object(parseJson(read.bytes.toString('utf8'), FILE), FILE);
    if (document['version'] !== VERSION) return NOTHING_REMEMBERED;
    return {
      failed: placesOf(document['failed']),
      leftOut: placesOf(document['leftOut']),
      pace: paceOf(document['pace']),
    };
  } catch (error) {
    if (!(error instanceof ShapeError)) throw error;
    return NOTHING_REMEMBERED;
  }
}

function placesOf(value: unknown): Place[] {
  return array(value, FILE, MAX_PLACES).map((item) => {
    const { node, of } = object(item, FILE);
    return { node: text(node, 'node'), of: text(of, 'of', 4096) };
  });
}

function paceOf(value: unknown): Pace | null {
  if (value === null) return null;
  const { each, all } = object(value, 'pace');
  if (typeof each !== 'number' || typeof all !== 'number' || !(each > 0) || !(all > 0)) {
    throw new ShapeError('pace: not two rates');
  }
  return { each, all };
}

/** Written whole, by rename. Returns why it could not be, or null. */
export async function keepRollout(dir: string | null, remembered: Remembered): Promise<string | null> {
  if (dir === null) return null;
  const file = join(dir, FILE);
  const fresh = `${file}.new-${randomBytes(6).toString('hex')}`;
  try {
    await writeFile(fresh, JSON.stringify({ version: VERSION, ...remembered }), { mode: 0o600 });
    await rename(fresh, file);
    return null;
  } catch (error) {
    return `what this run leaves to the next cannot be kept in ${dir} (${(error as NodeJS.ErrnoException).code ?? 'unknown'})`;
  }
}
