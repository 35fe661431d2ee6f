// Never green by mistake: what was not judged, or was said of the wrong nodes, is never called in sync, by the real command.
import { readFile } from 'node:fs/promises';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { parse } from 'yaml';
import { makeQcow2 } from '../doubles/cocoon/fixtures.ts';
import { breakAsInTheIncident, startFleet, type Fleet, type Incident } from '../fleet/world.ts';
import { imageOn, nodeOf, reconcile, report } from '../support/reconcile.ts';

const node = (n: number): string => `cocoonset-node-${n}`;
const STALE = node(2);

let fleet: Fleet;
let incident: Incident;

beforeAll(async () => {
  fleet = await startFleet({ nodes: [{ pool: 'gpu' }, {}, {}] });
  incident = await breakAsInTheIncident(fleet, [STALE]);
});
afterAll(async () => await fleet?.down());
afterEach(async () => {
  await fleet.writeConfig();
  for (const one of fleet.nodes) expect((await one.commands()).filter((argv) => argv.includes('pull'))).toEqual([]);
});

/** The entries of the nodes in the config, by their numbers. */
async function entries(): Promise<Record<string, unknown>[]> {
  return (parse(await readFile(fleet.configFile, 'utf8')) as { nodes: Record<string, unknown>[] }).nodes;
}

describe('a root directory that holds no store', () => {
  test('on one node: that node is unreadable, and the exit code is 3', async () => {
    const nodes = (await entries()).map((entry) =>
      entry['name'] === STALE ? { ...entry, rootDir: '/var/typo' } : entry,
    );
    await fleet.writeConfig({ nodes });
    const dry = await report(fleet, '--dry-run');
    expect(dry.run.exitCode).toBe(3);
    expect(nodeOf(dry, STALE)).toMatchObject({ status: 'unreadable', error: { code: 'NODE_STORE_MISSING' } });
    const { code, stdout } = await reconcile(fleet, '--dry-run', '--quiet');
    expect(code).toBe(3);
    expect(stdout).toContain(`INCOMPLETE: 1 of 3 nodes could not be read: ${STALE}`);
  });

  test('on all nodes: no run and no gate is well', async () => {
    await fleet.writeConfig({ nodes: (await entries()).map((entry) => ({ ...entry, rootDir: '/var/typo' })) });
    const { code, stdout } = await reconcile(fleet, '--dry-run');
    expect(code).toBe(3);
    expect(stdout).toContain('there is no store of cocoon under /var/typo');
    expect(stdout).toContain('set cocoon.rootDir');
    expect((await report(fleet, 'gate', '-i', incident.image)).run).toMatchObject({
      exitCode: 1,
      error: { code: 'GATE_UNREAD' },
    });
  });
});

describe('one machine under several names', () => {
  test('is refused before anything is contacted, as a name given twice is', async () => {
    const all = await entries();
    const same = { ...all[1], name: 'node-two.example' };
    await fleet.writeConfig({ nodes: [...all, same] });
    for (const command of [['--canary', '0'], ['gate', '-i', incident.image], ['nodes']]) {
      const { code, stdout, stderr } = await reconcile(fleet, ...command);
      expect({ code, stdout }).toEqual({ code: 1, stdout: '' });
      expect(stderr).toContain(`the nodes ${STALE} and node-two.example are one machine`);
      expect(stderr).toContain('in item [1] of the config (nodes) and in item [3] of the config (nodes)');
    }
  });
});

describe('a tracked image or snapshot with pools', () => {
  const NOTHING_ELSE = { images: { discover: false }, snapshots: { discover: false } };
  const track = { image: 'simular/win11', pools: ['gpu'] };
  const trackHot = { snapshot: 'simular/win11-hot-testing:v1-20260509', pools: ['gpu'] };

  test.each([
    ['image', { images: { discover: false, track: [track] } }],
    ['snapshot', { snapshots: { discover: false, track: [trackHot] } }],
  ])('is judged and pulled in these pools alone: %s', async (_, over) => {
    await fleet.writeConfig({ ...NOTHING_ELSE, ...over });
    const run = await report(fleet);
    expect(run.run.exitCode).toBe(0);
    expect(run.summary.actions.planned).toBe(0);
    expect(imageOn(run, node(1)).verdict).toBe('in-sync');
    for (const n of [2, 3]) {
      const { images, snapshots } = nodeOf(run, node(n));
      expect(images).toMatchObject([{ reference: incident.reference, verdict: 'unmanaged', plan: null, want: null }]);
      expect(snapshots).toEqual([]);
    }
  });

  test('leaves what is discovered alone', async () => {
    await fleet.writeConfig({ images: { track: [track] }, snapshots: { track: [trackHot] } });
    const dry = await report(fleet, '--dry-run');
    expect(imageOn(dry, STALE)).toMatchObject({ verdict: 'stale', plan: 'pull' });
    expect(dry.summary.snapshots).toMatchObject({ 'base-drifted': 1, clonable: 2 });
  });

  test.each([
    ['images', { track: [{ ...track, pools: ['gpu', 'gpuu'] }] }],
    ['snapshots', { track: [trackHot, { ...trackHot, snapshot: 'a/b:c', pools: ['gpuu'] }] }],
  ])('whose pool no node has is refused before anything is contacted: %s', async (key, value) => {
    await fleet.writeConfig({ [key]: value });
    for (const command of [
      ['-w', node(2)],
      ['gate', '-i', incident.image],
    ]) {
      const { code, stdout, stderr } = await reconcile(fleet, ...command);
      expect({ code, stdout }).toEqual({ code: 1, stdout: '' });
      expect(stderr).toContain('.pools: no node is in pool "gpuu", did you mean "gpu"?');
      expect(stderr).toContain('pools of the inventory: default, gpu');
    }
  });
});

describe('epoch under an address that the nodes do not use', () => {
  const elsewhere = (): string => fleet.epoch.url.replace('127.0.0.1', 'localhost');

  test('is no fleet in sync: each entry is suspected, nothing was judged, and that is said', async () => {
    await fleet.writeConfig({ epoch: { url: elsewhere() }, snapshots: { discover: false } });
    const dry = await report(fleet, '--dry-run');
    expect(dry.run).toMatchObject({ exitCode: 3, error: { code: 'NOTHING_JUDGED' } });
    expect(dry.run.error?.message).toContain(`they hold only ${incident.reference} on cocoonset-node-[1-3]`);
    expect(dry.summary.images).toMatchObject({ unmanaged: 3, 'in-sync': 0 });
    for (const { name } of fleet.nodes) {
      expect(nodeOf(dry, name).images).toMatchObject([
        { reference: incident.reference, verdict: 'unmanaged', plan: null, error: { code: 'EPOCH_ALIAS_SUSPECTED' } },
      ]);
    }
    const table = await reconcile(fleet, '--dry-run');
    expect(table.code).toBe(3);
    expect(table.stdout).toContain(`epoch: {aliases: [${fleet.epoch.url}]}`);
    expect(table.stdout).not.toContain('in-sync');
    const { code, stdout } = await reconcile(fleet, '--quiet');
    expect(code).toBe(3);
    expect(stdout).toMatch(/^INCOMPLETE: NOTHING_JUDGED: .*add to the config: epoch: \{aliases: \[/);
  });

  test('a gate that would pass by cold starts alone does not', async () => {
    await fleet.writeConfig({ epoch: { url: elsewhere() } });
    const asked = await report(fleet, 'gate', '-i', incident.image);
    expect(asked.run).toMatchObject({ exitCode: 3, error: { code: 'NOTHING_JUDGED' } });
    expect(asked.gate).toMatchObject({ pass: false });
    const answers = asked.gate?.questions.flatMap(({ nodes }) => nodes) ?? [];
    expect(answers.map(({ answer, reasonCode }) => [answer, reasonCode])).toEqual(
      fleet.nodes.map(() => ['unknown', 'EPOCH_ALIAS_SUSPECTED']),
    );
    const { stdout } = await reconcile(fleet, 'gate', '-i', incident.image);
    expect(stdout).toContain('BLOCKED NOTHING_JUDGED');
    // Asked for what no node holds under any address, it knows no better.
    await fleet.epoch.pushImage('simular/other', 'latest', { content: makeQcow2({ seed: 'other' }) });
    const cold = await report(fleet, 'gate', '-i', 'simular/other');
    expect(cold.run).toMatchObject({ exitCode: 3, error: { code: 'NOTHING_JUDGED' } });
    expect(cold.gate?.questions[0]?.nodes[0]).toMatchObject({ answer: 'yes', reasonCode: 'COLD_START' });
  });

  test('counts as the address of the nodes once theirs is named: in verdicts, gate and digest', async () => {
    await fleet.writeConfig({
      epoch: { url: elsewhere(), aliases: [`${fleet.epoch.url.toUpperCase().replace('HTTP', 'http')}/`] },
    });
    const dry = await report(fleet, '--dry-run');
    expect(dry.run).toMatchObject({ exitCode: 2, error: null });
    expect(imageOn(dry, STALE)).toMatchObject({ reference: incident.reference, verdict: 'stale', plan: 'pull' });
    expect(dry.summary.snapshots).toMatchObject({ 'base-drifted': 1, clonable: 2 });
    const asked = await report(fleet, 'gate', '-i', incident.image, '-s', incident.snapshot);
    const answers = asked.gate?.questions.flatMap(({ nodes }) => nodes.map(({ reasonCode }) => reasonCode));
    expect(answers?.sort()).toEqual(['BASE_DRIFTED', 'CLONABLE', 'CLONABLE', 'IN_SYNC', 'IN_SYNC', 'STALE']);
    const { stdout } = await reconcile(fleet, 'digest', incident.reference);
    expect(stdout).toContain(incident.after.contentDigest);
  });

  test('on some nodes: what is named by a filter is not called in sync there', async () => {
    const other = `${elsewhere()}/dl/${incident.image}`;
    await fleet.node(node(3)).pull(other);
    await fleet.node(node(3)).clearLog();
    const dry = await report(fleet, '--dry-run', '-w', node(3), '-i', incident.image);
    expect(dry.run).toMatchObject({ exitCode: 3, error: null });
    expect(nodeOf(dry, node(3)).images.map(({ reference, verdict }) => [reference, verdict])).toEqual([
      [incident.reference, 'in-sync'],
      [other, 'unmanaged'],
    ]);
    const { stdout } = await reconcile(fleet, '--dry-run', '-w', node(3));
    expect(stdout).toContain(`INCOMPLETE: ${other} is unmanaged on ${node(3)}.`);
  });
});

describe('a fleet that holds nothing at all', () => {
  let fresh: Fleet;
  beforeAll(async () => {
    fresh = await startFleet({ nodes: 2 });
    await fresh.epoch.pushImage('simular/win11', 'latest', { content: makeQcow2({ seed: 'win11' }) });
    for (const one of fresh.nodes) await one.cocoon('image', 'list');
  });
  afterAll(async () => await fresh?.down());

  test('holds nothing managed, which is no sync: 0 where nothing is asked for, 3 where something is', async () => {
    const { code, stdout } = await reconcile(fresh, '--dry-run');
    expect(code).toBe(0);
    expect(stdout).toContain('cocoonset-node-[1-2]  nothing managed');
    expect(stdout).toContain('OK: cocoonset-node-[1-2] hold nothing managed.');
    expect(stdout).not.toMatch(/in.sync/);
    await fresh.writeConfig({ images: { track: [{ image: 'simular/win11' }] } });
    for (const filter of [[], ['-i', 'simular/win11']]) {
      const asked = await report(fresh, '--dry-run', ...filter);
      expect(asked.run).toMatchObject({ exitCode: 3, error: { code: 'NOTHING_JUDGED' } });
      expect(asked.run.error?.message).toContain('they hold nothing');
    }
  });

  test('passes no gate', async () => {
    await fresh.writeConfig();
    const asked = await report(fresh, 'gate', '-i', 'simular/win11');
    expect(asked.run).toMatchObject({ exitCode: 3, error: { code: 'NOTHING_JUDGED' } });
    expect(asked.gate?.pass).toBe(false);
  });
});
