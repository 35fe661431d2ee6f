// A plan is a value: one process makes it and writes it down, another one reads it and carries it out, on real sshd. The
// second one knows neither the config nor what registries served when the plan was made.
import { execFile } from 'node:child_process';
import { copyFile, mkdir, mkdtemp, readdir, readFile, realpath, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { build } from 'esbuild';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { loadInventory, openClients } from '../../src/cli/setup.ts';
import { loadConfig } from '../../src/config/load.ts';
import type { Io } from '../../src/cli/io.ts';
import type { Plan } from '../../src/core/model/plan.ts';
import type { Applied } from '../../src/core/model/result.ts';
import { policyOf } from '../../src/core/model/settings.ts';
import { runPipeline } from '../../src/pipeline/run.ts';
import { makeQcow2 } from '../doubles/cocoon/fixtures.ts';
import { breakAsInTheIncident, startFleet, type Fleet } from '../fleet/world.ts';
import { report } from '../support/reconcile.ts';

const [FIRST, SECOND, THIRD] = [1, 2, 3].map((n) => `cocoonset-node-${n}`) as [string, string, string];
const NAME = 'win11-tied';
const root = new URL('../../', import.meta.url).pathname;

let dir: string;
let fleet: Fleet;

beforeAll(async () => {
  dir = await realpath(await mkdtemp(join(tmpdir(), 'plan-')));
  fleet = await startFleet({ dir: join(dir, 'fleet'), nodes: 3 });
});
afterAll(async () => {
  await fleet?.down();
  await rm(dir, { recursive: true, force: true });
});

/** What a dry run is about to do, through JSON. */
async function planOf(): Promise<string> {
  const stop = new AbortController().signal;
  const io: Io = {
    env: {},
    home: dir,
    stdoutIsTerminal: false,
    stderrIsTerminal: false,
    out: () => undefined,
    err: () => undefined,
    stdin: () => process.stdin,
    stop,
    workStop: stop,
    setGrace: () => undefined,
    setDeadline: () => undefined,
    who: () => ({ user: 'somebody', host: 'here', pid: 1 }),
    remainingMs: () => 120_000,
    interruptedBy: () => null,
    endGroup: () => undefined,
  };
  const settings = await loadConfig(fleet.configFile, io.env);
  const nodes = await loadInventory({ file: fleet.configFile, settings }, io);
  const { clients, close } = await openClients(settings, io, () => undefined);
  const plans: Plan[] = [];
  const nothing = (): void => undefined;
  try {
    await runPipeline({
      tool: { name: 'x', version: '0' },
      id: 'run-1',
      mode: 'dry-run',
      startedAt: new Date(),
      settings,
      nodes,
      filters: { images: [], snapshots: [], ignoreImages: [], ignoreSnapshots: [] },
      policy: policyOf(settings),
      clients,
      events: {
        onNode: nothing,
        onStream: nothing,
        onTrouble: nothing,
        onStart: nothing,
        onStep: nothing,
        onResult: nothing,
        onTidied: nothing,
        onPlan: (plan) => plans.push(plan),
      },
      signal: stop,
      workSignal: stop,
      until: null,
      remainingMs: () => 120_000,
      interruptedBy: () => null,
      now: () => new Date(),
    });
  } finally {
    await close();
  }
  expect(plans).toHaveLength(1);
  return JSON.stringify(plans[0]);
}

/** What cocoon did on the nodes beside telling its version. */
async function changes(): Promise<string[][]> {
  const all = await Promise.all(fleet.nodes.map(async (node) => await node.commands()));
  return all.flat().filter((argv) => argv.includes('pull') || argv.includes('import'));
}

/** A process of its own that knows the plan, where epoch is, and nothing else. */
async function applyElsewhere(plan: string): Promise<Applied> {
  const script = join(dir, 'apply.cjs');
  await build({
    entryPoints: [`${root}test/support/apply-plan.ts`],
    outfile: script,
    bundle: true,
    platform: 'node',
    format: 'cjs',
    define: { 'import.meta.url': 'IMPORT_META_URL' },
    banner: { js: "const IMPORT_META_URL = require('node:url').pathToFileURL(__filename).href;" },
    external: ['cpu-features', '*.node'],
  });
  for (const name of ['probe.sh', 'change.sh', 'hash.sh']) await copyFile(`${root}src/node/${name}`, join(dir, name));
  await writeFile(join(dir, 'plan.json'), plan);
  const { stdout } = await promisify(execFile)(process.execPath, [script, join(dir, 'plan.json'), fleet.epoch.url], {
    env: {},
  });
  return JSON.parse(stdout) as Applied;
}

test('a plan written to disk is carried out by another process, from nothing but that', async () => {
  const { reference, after } = await breakAsInTheIncident(fleet, [FIRST, THIRD]);
  const third = fleet.node(THIRD);
  const old = makeQcow2({ seed: 'of another time', size: 256 * 1024 });
  expect((await third.cocoonWith(old, 'image', 'import', NAME)).code).toBe(0);
  const left = join(third.rootDir, 'cloudimg', 'temp', 'reconcile-import.abcdefgh');
  await mkdir(left);
  await writeFile(join(left, 'content'), 'what a run that died had received');
  await fleet.writeConfig({
    images: { track: [{ image: 'simular/win11', reference: NAME }] },
  });
  for (const node of fleet.nodes) await node.clearLog();

  const plan = await planOf();
  expect(await changes()).toEqual([]);
  const { actions, tidyings } = JSON.parse(plan) as Plan;
  expect(actions.map(({ node, kind, reference: key, wave }) => [node.name, kind, key, wave])).toEqual([
    [FIRST, 'pull', reference, 0],
    [THIRD, 'pull', reference, 1],
    [THIRD, 'import', NAME, 1],
  ]);
  expect(tidyings.map(({ node, leftovers }) => [node.name, leftovers.length])).toEqual([[THIRD, 1]]);

  const { results, tidied } = await applyElsewhere(plan);
  expect(
    results.map(({ node, outcome, error, steps }) => [node, outcome, error, steps.map(({ step }) => step)]),
  ).toEqual([
    [FIRST, 'healed', null, ['pull', 'verify', 'clone']],
    [THIRD, 'healed', null, ['pull', 'verify', 'clone']],
    [THIRD, 'healed', null, ['import', 'verify', 'clone']],
  ]);
  expect(results.map((result) => result.after)).toEqual(results.map(() => after.contentDigest));
  expect(tidied).toMatchObject([{ node: THIRD, outcome: 'tidied' }]);
  expect(await readdir(join(third.rootDir, 'cloudimg', 'temp'))).toEqual([]);
  expect(await changes()).toHaveLength(3);
  expect(await fleet.node(SECOND).commands()).toEqual([['version']]); // when the plan was made
  const { run } = await report(fleet, '--dry-run');
  expect(run.exitCode).toBe(0);
  expect(await readFile(join(dir, 'plan.json'), 'utf8')).toBe(plan);
});
