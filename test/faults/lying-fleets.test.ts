// Nodes that lie in fleets made by number: whatever they say, no row and no answer of another node changes, in this run, in
// later ones, in depth, and in the gate. RECONCILE_LIARS says how many fleets, or which: `200`, or `17-17`.
import { mkdtemp, realpath } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { startStage, type Stage } from '../support/lying-fleet.ts';

const [, first = '1', last = '4'] = /^(?:(\d+)-)?(\d+)$/.exec(process.env['RECONCILE_LIARS'] ?? '') ?? [];
const SEEDS = Array.from({ length: Number(last) - Number(first) + 1 }, (_, i) => Number(first) + i);

let stage: Stage;
beforeAll(async () => {
  stage = await startStage(await realpath(await mkdtemp(join(tmpdir(), 'lying-'))));
});
afterAll(async () => await stage?.down());

/** What is said of all nodes but the liars, run by run. */
async function saidOfOthers(liars: string[], runs: string[][]): Promise<Record<string, unknown>> {
  const said: [string, unknown][] = [];
  for (const [i, args] of runs.entries()) {
    const { nodes, gate } = await stage.report(...args);
    const others = nodes.filter(({ name }) => !liars.includes(name));
    const answers = gate?.questions.flatMap((question) => question.nodes.filter(({ node }) => !liars.includes(node)));
    const rows = others.map(({ name, status, error, images, snapshots }) => ({
      name,
      status,
      error,
      images,
      snapshots,
    }));
    said.push([`${i} ${args.slice(0, 3).join(' ')}`, { rows, answers }]);
  }
  return Object.fromEntries(said);
}

test(`in ${SEEDS.length} fleets liars change no row but their own`, { timeout: SEEDS.length * 30_000 }, async () => {
  const asked = stage.images.flatMap(({ key, hot }) => ['--image', key, '--snapshot', hot]);
  const lied = [['--dry-run'], ['--dry-run', '--deep'], ['gate', ...asked], ['gate', '--deep', ...asked]];
  const later = [['--dry-run'], ['gate', ...asked]];
  for (const seed of SEEDS) {
    const { nodes, liars } = await stage.set(seed);
    expect(liars.length).toBeLessThan(nodes.length);
    const play = async (isLying: boolean): Promise<Record<string, unknown>[]> => {
      await stage.forget();
      stage.lies(isLying);
      const during = await saidOfOthers(liars, lied);
      stage.lies(false);
      return [during, await saidOfOthers(liars, later)];
    };
    const [honest, lying] = [await play(false), await play(true)];
    expect(
      lying,
      `fleet ${seed} of ${nodes.length} nodes, liars: ${liars.join(', ')} (RECONCILE_LIARS=${seed}-${seed})`,
    ).toEqual(honest);
  }
});
