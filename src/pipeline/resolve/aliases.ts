/** Looks for this epoch under addresses that the config does not know: entries whose paths name repositories of it. */
import type { Registry } from '../../registry/client.ts';
import { errorInfo } from '../../core/errors.ts';
import type { Suspect } from '../../core/model/catalog.ts';
import { downloadOf, meaningOf, readingsOf } from '../../core/reference.ts';
import type { ErrorInfo } from '../../core/model/error.ts';
import { remember } from '../../system/remember.ts';
import { whyOf } from './inquiry.ts';

/** Distinct paths that epoch is asked about, of one node and in all. */
const MAX_PER_NODE = 32;
const MAX_PATHS = 256;

/** What a path may name, and the addresses under which nodes have it. */
interface Candidate {
  readings: { repository: string; tag: string }[];
  /** How many nodes hold it. */
  nodes: number;
}

/**
 * Every reference that is of no known epoch, but whose path names a repository that this epoch serves. What epoch could not
 * be asked about, or what is too much to ask, is suspected too.
 * @param byNode the references that each node holds, and those that its snapshots stand on
 * @param addresses all known addresses of epoch, its own first
 */
export async function findSuspects(
  byNode: string[][],
  addresses: string[],
  epoch: Pick<Registry, 'tags'>,
  signal: AbortSignal,
): Promise<Record<string, Suspect>> {
  const isForeign = new Map<string, boolean>(); // most nodes hold the same
  for (const reference of byNode.flat()) {
    if (isForeign.has(reference)) continue;
    isForeign.set(reference, meaningOf(reference, addresses).kind === 'foreign-url');
  }
  const foreign = byNode.map((references) => references.filter((reference) => isForeign.get(reference) === true));
  const served = await askAbout(candidatesOf(foreign), epoch, signal);
  const suspects = Object.create(null) as Record<string, Suspect>;
  for (const reference of foreign.flat()) {
    const found = downloadOf(reference);
    const readings = found === null ? [] : readingsIn(found.path);
    const [first] = readings;
    if (found === null || first === undefined || Object.hasOwn(suspects, reference)) continue;
    const answer = served.get(found.path) ?? null;
    if (answer === 'none') continue;
    const { address } = found;
    const [epochUrl = ''] = addresses;
    const why = answer === null ? 'unasked' : 'served';
    const { repository, tag } = answer === null || 'code' in answer ? first : answer;
    const suspected = errorInfo('EPOCH_ALIAS_SUSPECTED', { reference, address, epochUrl, repository, why });
    suspects[reference] = {
      image: repository,
      tag,
      error: answer !== null && 'code' in answer ? answer : suspected,
    };
  }
  return suspects;
}

function readingsIn(path: string): Candidate['readings'] {
  const { whole, split } = readingsOf(path.replace(/\/sha256:[0-9a-f]{64}$/, ''));
  return [whole, split].filter((reading) => reading !== null);
}

/** A node with many cannot crowd out the others: only its first ones count, and what most nodes hold is asked about first. */
function candidatesOf(foreign: string[][]): Map<string, Candidate> {
  const candidates = new Map<string, Candidate>();
  for (const references of foreign) {
    const paths = new Set(references.flatMap((reference) => downloadOf(reference)?.path ?? []));
    const known = [...paths].map((path) => ({ path, readings: readingsIn(path) }));
    for (const { path, readings } of known.filter((one) => one.readings.length > 0).slice(0, MAX_PER_NODE)) {
      candidates.set(path, { readings, nodes: (candidates.get(path)?.nodes ?? 0) + 1 });
    }
  }
  const asked = [...candidates].sort(([, a], [, b]) => b.nodes - a.nodes).slice(0, MAX_PATHS);
  return new Map(asked);
}

type Named = { repository: string; tag: string } | ErrorInfo | 'none';

/** What each path names at epoch, if anything; each repository is asked for once. */
async function askAbout(
  candidates: Map<string, Candidate>,
  epoch: Pick<Registry, 'tags'>,
  signal: AbortSignal,
): Promise<Map<string, Named>> {
  const asked = new Map<string, Promise<boolean | ErrorInfo>>();
  const isServed = async (repository: string): Promise<boolean | ErrorInfo> =>
    await remember(asked, repository, async () => await ask(epoch, repository, signal));
  const answers = [...candidates].map(async ([path, { readings }]): Promise<[string, Named]> => {
    for (const reading of readings) {
      const served = await isServed(reading.repository);
      if (served !== false) return [path, served === true ? reading : served];
    }
    return [path, 'none'];
  });
  return new Map(await Promise.all(answers));
}

async function ask(
  epoch: Pick<Registry, 'tags'>,
  repository: string,
  signal: AbortSignal,
): Promise<boolean | ErrorInfo> {
  try {
    return (await epoch.tags(repository, signal)).length > 0;
  } catch (error) {
    return whyOf(error, signal);
  }
}
