// Plays a scenario: the real command, first dry and then for good, and clones of the double before and after.
import { expect } from 'vitest';
import { renderTable } from '../../src/reports/table.ts';
import type { ImageRow, NodeReport, Report, SnapshotRow } from '../../src/core/model/report.ts';
import type { SnapshotVerdict } from '../../src/core/model/verdict.ts';
import type { FleetNode } from '../fleet/world.ts';
import { report } from '../support/reconcile.ts';
import { treeOf } from '../support/tree.ts';
import { KEY, SNAPSHOT, type Expected, type Letter, type Scenario } from './scenario.ts';
import type { Stage } from './scenario.ts';
import { addProbe, setStage } from './stage.ts';

/** Whether a clone works tells only our own cocoon: the true one needs a hypervisor that opens the disks. */
export const isDouble = !process.env['COCOON_BIN'];

/** What the verdict on a snapshot promises of a clone; of the others it promises nothing. */
const CLONES: Partial<Record<SnapshotVerdict, boolean>> = {
  clonable: true,
  'base-at-risk': true,
  'base-drifted': false,
  'base-restorable': false,
  'base-missing': false,
  'base-lost': false,
  broken: false,
  pending: false,
};

export async function play(scenario: Scenario): Promise<void> {
  const stage = await setStage(scenario);
  try {
    await playOn(stage, scenario);
  } finally {
    await stage.down();
  }
}

async function playOn(stage: Stage, scenario: Scenario): Promise<void> {
  const { expect: expected } = scenario;
  const { fleet, node } = stage;
  const clones = isDouble && expected.node === undefined && scenario.clonesAnyway !== true;

  if (expected.plan === undefined && expected.leftovers === undefined) {
    expect(expected.run, 'without a plan both exit codes are one').toBe(expected.dry);
    const still = await playStill(stage, scenario);
    fleet.epoch.heal();
    // Nothing has changed, to the byte: what clones now, or does not, did so before.
    if (clones) await expectClones(stage, node, claimed(rowsOn(still, node.name)));
    return;
  }

  const dry = await command(stage, scenario, true, '--dry-run');
  checkVerdicts(stage, dry, expected);
  if (clones) await expectClonesBefore(stage, dry);
  const run = await command(stage, scenario, false);
  await checkRun(stage, dry, run, expected);
  await scenario.afterwards?.(stage);
  fleet.epoch.heal();
  if (expected.run !== 0) return;
  if (expected.plan === undefined) expect(expected.dry, 'nothing is healed without a plan').toBe(0);
  await lookAgain(stage, scenario);
  if (!clones) return;
  for (const one of fleet.nodes) await expectClones(stage, one, healed(rowsOn(run, one.name)));
}

/** Where nothing is planned a run must change as little as a dry run. Variants are played once only: for good. */
async function playStill(stage: Stage, scenario: Scenario): Promise<Report> {
  const { expect: expected } = scenario;
  if (isFirst(scenario)) checkVerdicts(stage, await command(stage, scenario, true, '--dry-run'), expected);
  const run = await command(stage, scenario, true);
  const { source: _source, ...known } = expected; // the second one has it from the cache
  checkVerdicts(stage, run, isFirst(scenario) ? known : expected);
  await checkRun(stage, run, run, expected);
  await scenario.afterwards?.(stage);
  return run;
}

/** The first scenario of each number, and the incident. */
function isFirst({ id }: Scenario): boolean {
  return /^(\d+|5a)$/.test(id);
}

/**
 * Runs the program in the state of the scenario, with all that goes on meanwhile.
 * @param isStill everything under the node's root must stay as it is, times included
 */
async function command(stage: Stage, scenario: Scenario, isStill: boolean, ...mode: string[]): Promise<Report> {
  const { fleet, node } = stage;
  const { faults = [], during, args = [] } = scenario;
  const end = await scenario.meanwhile?.(stage);
  fleet.epoch.heal();
  try {
    for (const fault of faults) fleet.epoch.fail(fault);
    if (during !== undefined && mode.length === 0) {
      fleet.epoch.during(during.match, async () => await during.action(stage));
    }
    for (const node of fleet.nodes) await node.clearLog();
    const before = isStill ? await treeOf(node.rootDir) : null;
    const done = await report(fleet, ...mode, ...args);
    if (before !== null) expect(await treeOf(node.rootDir), 'nothing changes under the root').toEqual(before);
    return done;
  } finally {
    fleet.epoch.heal();
    end?.();
  }
}

// --- What the reports say -------------------------------------------------------------------------------------------

function rowsOn(of: Report, name: string): NodeReport {
  const found = of.nodes.find((one) => one.name === name);
  if (found === undefined) throw new Error(`no node ${name} in the report`);
  return found;
}

/** Key → verdict as the scenario writes it. */
function wanted<T extends string>(value: T | Record<string, T> | undefined, usual: string): Record<string, T> {
  if (value === undefined) return {};
  return typeof value === 'string' ? { [usual]: value } : value;
}

function checkVerdicts(stage: Stage, dry: Report, expected: Expected): void {
  const { image, snapshot, plan, said = [], codes = [] } = expected;
  for (const { name } of stage.fleet.nodes) {
    const { status, images, snapshots, leftovers } = rowsOn(dry, name);
    expect(status).toBe(expected.node ?? 'observed');
    const keys = Object.entries(wanted(image, KEY)).map(([key, verdict]) => [stage.spell(key), verdict] as const);
    expect(Object.fromEntries(images.map((row) => [row.reference, row.verdict]))).toEqual(Object.fromEntries(keys));
    expect(Object.fromEntries(snapshots.map((row) => [row.snapshot, row.verdict]))).toEqual(wanted(snapshot, SNAPSHOT));
    if (expected.baseVerdict !== undefined) {
      expect(snapshots.map((row) => row.baseVerdict)).toContain(expected.baseVerdict);
    }
    expect(planOf(images, snapshots)).toBe(plan ?? '');
    expect(leftovers.map(({ kind }) => kind)).toEqual(expected.leftovers ?? []);
    expect(new Set(leftovers.map(({ outcome }) => outcome))).toEqual(new Set(leftovers.length === 0 ? [] : [null]));
  }
  expect(codesOf(dry)).toEqual(expect.arrayContaining(codes));
  expectSaid(dry, said);
  if (expected.source !== undefined) {
    expect(dry.desired.map(({ contentDigestSource }) => contentDigestSource)).toContain(expected.source);
  }
  expect(dry.run.exitCode, `verdicts: ${readable(dry)}`).toBe(expected.dry);
}

/** Every planned action once, the image's first. */
function planOf(images: ImageRow[], snapshots: SnapshotRow[]): string {
  const planned = [
    ...images.flatMap(({ plan, reference }) => (plan === null ? [] : [{ plan, reference }])),
    ...snapshots.flatMap(({ plan, source }) => (plan === null ? [] : [{ plan, reference: source }])),
  ];
  return planned
    .filter(({ reference }, i) => planned.findIndex((other) => other.reference === reference) === i)
    .map(({ plan }) => plan)
    .join(', ');
}

function codesOf({ run, nodes }: Report): string[] {
  const rows = nodes.flatMap(({ error, images, snapshots }) => [
    error,
    ...[...images, ...snapshots].map((r) => r.error),
  ]);
  return [run.error, ...rows].flatMap((error) => error?.code ?? []);
}

/** All that people can read in a report, on one line. */
function readable(of: Report): string {
  const table = renderTable(of, { color: false, verbose: true, brief: false, named: false });
  return table.replace(/\s+/g, ' ');
}

function expectSaid(of: Report, said: string[]): void {
  const text = readable(of);
  for (const sentence of said) expect(text).toContain(sentence);
}

async function checkRun(stage: Stage, dry: Report, run: Report, expected: Expected): Promise<void> {
  expect(run.run.exitCode, `run: ${readable(run)}`).toBe(expected.run);
  expect(run.summary.actions.planned).toBe(dry.summary.actions.planned);
  const outcomes = run.nodes.flatMap(({ images, snapshots }) =>
    [...images, ...snapshots].flatMap((r) => r.outcome ?? []),
  );
  if (expected.outcome !== undefined) expect(outcomes).toContain(expected.outcome);
  else if (expected.run === 0) expect(outcomes.filter((outcome) => outcome !== 'healed')).toEqual([]);
  expect(codesOf(run)).toEqual(expect.arrayContaining(expected.runCodes ?? []));
  expectSaid(run, expected.runSaid ?? []);
  const left = run.nodes.flatMap(({ leftovers }) => leftovers);
  expect(left.map(({ outcome, error }) => [outcome, error])).toEqual(left.map(() => ['tidied', null]));
  const pulls = await Promise.all(stage.fleet.nodes.map(async (node) => await pullsOn(node)));
  expect(pulls.flat().length, 'pulls').toBe(expected.pulls ?? run.summary.actions.planned);
}

/** Every change of its images that the command made on a node. */
async function pullsOn(node: FleetNode): Promise<string[][]> {
  return (await node.commands()).filter(
    (argv) => argv.includes('image') && (argv.includes('pull') || argv.includes('import')),
  );
}

// --- Whether clones work --------------------------------------------------------------------------------------------

/** Of which snapshots, and of which digests as a base, a clone must work or must not. */
interface Claims {
  snapshots: { name: string; base: string | null; works: boolean }[];
  bases: { digest: string | null; works: boolean }[];
}

/** What the verdicts claim. */
function claimed({ images, snapshots }: NodeReport): Claims {
  return {
    snapshots: snapshots.flatMap(({ id, snapshot: name, verdict, baseDigest: base }) => {
      const works = CLONES[verdict];
      return id === null || works === undefined ? [] : [{ name, base, works }];
    }),
    bases: images.flatMap(({ verdict, have: digest }) => {
      const works = verdict === 'in-sync' ? true : verdict === 'blob-missing' ? false : undefined;
      return works === undefined ? [] : [{ digest, works }];
    }),
  };
}

/** What the outcomes of a run without failures claim. */
function healed({ images, snapshots }: NodeReport): Claims {
  return {
    snapshots: snapshots
      .filter(({ id, verdict }) => id !== null && verdict !== 'pending')
      .map(({ snapshot: name, baseDigest: base }) => ({ name, base, works: true })),
    bases: images
      .filter(({ verdict, outcome }) => verdict === 'in-sync' || outcome !== null)
      .map(({ after, have }) => ({ digest: after ?? have, works: true })),
  };
}

let count = 0;

/** Tries every claim by a clone; a base that no snapshot stands on gets one. Returns the VMs that are there now. */
async function expectClones(stage: Stage, node: FleetNode, { snapshots, bases }: Claims): Promise<string[]> {
  const made: string[] = [];
  const expectClone = async (snapshot: string, works: boolean): Promise<void> => {
    const name = `probe-${(count += 1)}`;
    const { code, stderr } = await node.cocoon('vm', 'clone', '--name', name, snapshot);
    const said = code === 0 ? null : stderr;
    if (works) expect(said, `clone of ${snapshot} on ${node.name}`).toBe(null);
    else expect(said, `clone of ${snapshot} on ${node.name}`).not.toBe(null);
    if (code === 0) made.push(name);
  };
  for (const { name, works } of snapshots) await expectClone(name, works);
  for (const { digest, works } of bases) {
    if (snapshots.some(({ base }) => base === digest)) continue;
    const name = `base-${(count += 1)}`;
    await addProbe(stage, node, name, letterOf(stage, digest));
    await expectClone(name, works);
    if (!works) await node.cocoon('snapshot', 'rm', name);
  }
  return made;
}

/** Before anything is healed; a VM would keep its base, so none stays. */
async function expectClonesBefore(stage: Stage, dry: Report): Promise<void> {
  const { node } = stage;
  const claims = claimed(rowsOn(dry, node.name));
  const made = await expectClones(stage, node, { ...claims, bases: claims.bases.filter(({ works }) => !works) });
  if (made.length > 0) await node.cocoon('vm', 'rm', '--force', ...made);
}

/** The plain pulls of variants are not looked at a second time: their first scenario is. */
async function lookAgain(stage: Stage, scenario: Scenario): Promise<void> {
  if (scenario.expect.plan === 'pull' && !isFirst(scenario)) return;
  const again = await command(stage, { ...scenario, faults: [] }, true, '--dry-run');
  expect(again.run.exitCode, `a second look: ${readable(again)}`).toBe(0);
  expect(again.summary.actions.planned).toBe(0);
  expect(again.nodes.flatMap(({ leftovers }) => leftovers)).toEqual([]);
}

function letterOf(stage: Stage, digest: string | null): Letter {
  const found = (['A', 'B', 'C'] as const).find((letter) => stage.digest(letter) === digest);
  if (found === undefined) throw new Error(`no content is ${digest}`);
  return found;
}
