/** A fleet in parts: each node in exactly one, and the parts joined are the whole. */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Report } from '../../src/core/model/report.ts';
import { breakAsInTheIncident, startFleet, type Fleet } from '../fleet/world.ts';
import { parseReport, reconcile, report, start } from '../support/reconcile.ts';

const SHARDS = 3;
let fleet: Fleet;

beforeAll(async () => {
  fleet = await startFleet({ nodes: 6 });
  await breakAsInTheIncident(fleet, ['cocoonset-node-2', 'cocoonset-node-5']);
  await fleet.writeConfig({ run: { stateDir: join(fleet.dir, 'state') } });
});
afterAll(async () => await fleet?.down());

/** What differs between two runs that see the same. */
function timeless({ run, nodes, ...rest }: Report): unknown {
  const { id: _id, startedAt: _start, finishedAt: _end, ...said } = run;
  return { ...rest, run: said, nodes: nodes.map(({ durationMs: _ms, freeBytes: _free, ...node }) => node) };
}

async function dryShards(): Promise<string[]> {
  const files = Array.from({ length: SHARDS }, (_, index) => join(fleet.dir, `${index}.json`));
  await Promise.all(
    files.map(async (file, index) => {
      const { stdout } = await reconcile(fleet, '--dry-run', '--output', 'json', '--shard', `${index}/${SHARDS}`);
      expect(parseReport(stdout).run.shard).toBe(`${index}/${SHARDS}`);
      await writeFile(file, stdout);
    }),
  );
  return files;
}

describe('a dry run in parts', () => {
  test('is, joined, the dry run of the whole, in every format and with its exit code', async () => {
    const [whole, files] = [await report(fleet, '--dry-run'), await dryShards()];
    const { code, stdout } = await start(['merge', '--output', 'json', ...files]).ended;
    const merged = parseReport(stdout);
    const waves = ({ nodes }: Report): (number | null)[] =>
      nodes.flatMap(({ images }) => images.map(({ wave }) => wave));
    expect(waves(merged).filter((wave) => wave === 0)).toHaveLength(1);
    const unwaved = (of: Report): unknown =>
      JSON.parse(JSON.stringify(timeless(of)).replaceAll(/"wave":[01]/g, '"wave":null'));
    expect(unwaved(merged)).toEqual(unwaved(whole));
    expect(code).toBe(2);
    const table = await start(['merge', ...files]).ended;
    expect(table).toMatchObject({ code: 2, stdout: expect.stringContaining('cocoonset-node-[2,5]') as string });
  });

  test('of two runs, or without a shard, is refused by name', async () => {
    const [first = '', ...others] = await dryShards();
    const early = join(fleet.dir, 'early.json');
    await writeFile(early, (await start(['merge', '--output', 'json', first, ...others]).ended).stdout);
    expect((await start(['merge', first, early]).ended).stderr).toMatch(/early\.json is the report of a whole fleet/);
    const kept = await reconcile(fleet, '--dry-run', '--output', 'json', '--shard', `0/${SHARDS}`);
    await writeFile(first, kept.stdout);
    const mixed = await start(['merge', first, ...others]).ended;
    expect(mixed).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(/1\.json is of the run .*0\.json of the run/) as string,
    });
    const json = await start(['merge', '--output', 'json', first]).ended;
    expect(parseReport(json.stdout).run).toMatchObject({ exitCode: 1, error: { code: 'MERGE_REFUSED' } });
    expect((await start(['merge', `${fleet.dir}/none.json`]).ended).stderr).toContain('none.json does not exist');
  });
});

test('an Indexed Job says by its environment which part it is, and half of that is refused', async () => {
  const names = async (env: Record<string, string>, ...args: string[]): Promise<string[]> => {
    const { stdout } = await start(['nodes', '--config', fleet.configFile, '-o', 'json', ...args], { env }).ended;
    return (JSON.parse(stdout) as { nodes?: { name: string }[] }).nodes?.map(({ name }) => name) ?? [];
  };
  const parts = await Promise.all(
    Array.from({ length: SHARDS }, (_, i) =>
      names({ JOB_COMPLETION_INDEX: String(i), RECONCILE_SHARDS: String(SHARDS) }),
    ),
  );
  expect(parts.flat().sort()).toEqual(fleet.nodes.map(({ name }) => name).sort());
  expect(await names({ JOB_COMPLETION_INDEX: '1', RECONCILE_SHARDS: '3' }, '--shard', '0/3')).toEqual(parts[0]);
  const half = await start(['nodes', '--config', fleet.configFile], { env: { JOB_COMPLETION_INDEX: '1' } }).ended;
  expect(half).toMatchObject({ code: 1, stderr: expect.stringContaining('RECONCILE_SHARDS (not set)') as string });
});
