// The rollout over a fleet where images are bad, nodes are broken, other runs are at work, and somebody ends it.
import { once } from 'node:events';
import { chmod, mkdir, readFile, rename, writeFile } from 'node:fs/promises';
import { spawn } from 'node:child_process';
import { dirname, join } from 'node:path';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import type { Report } from '../../src/core/model/report.ts';
import { makeQcow2 } from '../doubles/cocoon/fixtures.ts';
import type { Artifact } from '../doubles/registry-content.ts';
import { startFleet, type Fleet } from '../fleet/world.ts';
import { lockFile, strays, until } from '../support/guard.ts';
import { imageOn, parseReport, report, start } from '../support/reconcile.ts';

const IMAGE = 'simular/win11';
const DOWNLOAD = /^GET \/dl\/simular\/win11$/;
const SIZE = 12;
const node = (n: number): string => `cocoonset-node-${n}`;
const ALL = Array.from({ length: SIZE }, (_, i) => node(i + 1));

let fleet: Fleet;
let pushes = 0;
const cleanups: (() => unknown)[] = [];

beforeAll(async () => {
  fleet = await startFleet({ nodes: SIZE });
  await push();
  await Promise.all(fleet.nodes.map(async (one) => await one.pull(`${fleet.epoch.url}/dl/${IMAGE}`)));
});
afterAll(async () => await fleet?.down());
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
  fleet.epoch.heal();
  await fleet.writeConfig();
});

async function push(): Promise<Artifact> {
  return await fleet.epoch.pushImage(IMAGE, 'latest', { content: makeQcow2({ seed: `rollout ${(pushes += 1)}` }) });
}

async function drift(): Promise<void> {
  await push();
  await Promise.all(fleet.nodes.map(async (one) => await one.clearLog()));
}

/** The nodes that a pull was begun on. */
async function touched(): Promise<string[]> {
  const all = await Promise.all(fleet.nodes.map(async (one) => await one.commands()));
  return ALL.filter((_, i) => all[i]?.some((argv) => argv.includes('pull')));
}

const outcomes = (of: Report): (string | null)[] => ALL.map((name) => imageOn(of, name).outcome);

/** Pulls fail on a node whose cocoon is broken; what it returns mends it. */
async function breakCocoon(name: string): Promise<void> {
  const { binary } = fleet.node(name);
  await rename(binary, `${binary}.real`);
  const script = `#!/bin/sh\ncase " $* " in *" image pull "*) echo "Error: broken here" >&2; exit 1 ;; esac\nexec '${binary}.real' "$@"\n`;
  await writeFile(binary, script);
  await chmod(binary, 0o755);
  cleanups.push(async () => await rename(`${binary}.real`, binary));
}

/** Holds the lock of a node, as another run would; what it returns frees it. */
async function hold(name: string): Promise<() => Promise<void>> {
  const file = lockFile(fleet.node(name));
  await mkdir(dirname(file), { recursive: true });
  const holder = spawn('flock', [file, 'sh', '-c', 'echo held; read _'], { stdio: ['pipe', 'pipe', 'inherit'] });
  await once(holder.stdout, 'data');
  return async () => {
    holder.stdin.end('\n');
    await once(holder, 'close');
  };
}

/** Downloads stall until they are let go. */
function stall(): { begun: Promise<void>; letGo: () => void } {
  let letGo = (): void => undefined;
  const gate = new Promise<void>((resolve) => (letGo = resolve));
  const begun = new Promise<void>((resolve) =>
    fleet.epoch.during(
      DOWNLOAD,
      async () => {
        resolve();
        await gate;
      },
      Infinity,
    ),
  );
  cleanups.push(letGo);
  return { begun, letGo };
}

test('an image that nobody can pull touches its canary and two more nodes', async () => {
  await drift();
  await fleet.writeConfig({ rollout: { maxFailures: '100%', pullRetries: 0 } });
  fleet.epoch.fail({ match: DOWNLOAD, times: Infinity, how: 404 });
  const ran = await report(fleet);
  expect(ran.run.exitCode).toBe(4);
  expect(await touched()).toHaveLength(3);
  expect(ran.summary.actions).toMatchObject({ planned: SIZE, failed: 3, skipped: SIZE - 3 });
});

test('an image of which other bytes come touches its canary alone', async () => {
  await drift();
  fleet.epoch.fail({ match: DOWNLOAD, times: Infinity, how: 'flip' });
  expect((await report(fleet)).run.exitCode).toBe(4);
  expect(await touched()).toHaveLength(1);
});

test('a canary with a broken cocoon keeps the image from nobody, and is not the canary of the next night', async () => {
  await drift();
  const first = (await report(fleet, '--dry-run')).nodes.find(({ images }) => images[0]?.wave === 0)?.name ?? '';
  await breakCocoon(first);
  const ran = await report(fleet);
  expect(ran.run.exitCode).toBe(4);
  expect(ran.summary.actions).toMatchObject({ healed: SIZE - 1, failed: 1 });
  expect(imageOn(ran, first)).toMatchObject({ outcome: 'failed', error: { code: 'PULL_FAILED' } });
  await push();
  const next = await report(fleet, '--dry-run');
  expect(imageOn(next, first).wave).toBe(1);
  expect(next.nodes.filter(({ images }) => images[0]?.wave === 0)).toHaveLength(1);
});

test('past maxFailures nothing begins, and what is left says why', async () => {
  await drift();
  for (const n of [2, 4, 6, 8, 10, 12]) await breakCocoon(node(n));
  await fleet.writeConfig({ rollout: { maxFailures: 1, maxPulls: 1, pullRetries: 0 } });
  const ran = await report(fleet);
  expect(ran.run.exitCode).toBe(4);
  expect(ran.summary.actions.failed).toBe(2);
  const left = ALL.map((name) => imageOn(ran, name)).filter(({ outcome }) => outcome === 'skipped');
  expect(left.length).toBeGreaterThan(4);
  for (const { reason } of left) expect(reason).toBe('more than 1 of the planned actions failed (rollout.maxFailures)');
  await Promise.all(cleanups.splice(0).map(async (mend) => await mend()));
  expect((await report(fleet, '--max-failures', '100%')).run.exitCode).toBe(0);
});

test('two runs over one fleet: one goes after the other, and with --no-wait it is 75 and says who is at it', async () => {
  await drift();
  const { begun, letGo } = stall();
  const args = ['--config', fleet.configFile, '-o', 'json'];
  const first = start(args);
  await begun;
  const refused = await report(fleet, '--no-wait');
  expect(refused.run).toMatchObject({ exitCode: 75, error: { code: 'RUN_LOCKED' } });
  expect(refused.run.error?.message).toContain(`process ${first.child.pid}`);
  expect((await report(fleet, '--dry-run')).run.exitCode).toBe(2);
  const second = start([...args, '--lock-timeout', '2m']);
  letGo();
  const ends = await Promise.all([first.ended, second.ended]);
  expect(ends.map(({ code }) => code)).toEqual([0, 0]);
  const healed = ends.map(({ stdout, stderr }) => parseReport(stdout, stderr).summary.actions.healed);
  expect(healed).toEqual([SIZE, 0]);
});

test('a node that another run holds is healed by that one, or waited for', async () => {
  await drift();
  const free = await hold(node(1));
  cleanups.push(free);
  fleet.epoch.during(DOWNLOAD, async () => await fleet.node(node(1)).pull(`${fleet.epoch.url}/dl/${IMAGE}`, true));
  const by = await report(fleet, '-w', 'cocoonset-node-[1-2]');
  expect(by.run.exitCode).toBe(0);
  expect(imageOn(by, node(1))).toMatchObject({ outcome: 'healed', error: null, steps: [{ ok: false }] });
  expect(imageOn(by, node(1)).reason).toContain('by another run');

  await drift();
  const waiting = start([
    '--config',
    fleet.configFile,
    '-o',
    'json',
    '-w',
    'cocoonset-node-[1-2]',
    '--lock-timeout',
    '1m',
  ]);
  await until('the other node is healed', async () => (await touched()).includes(node(2)));
  await cleanups.pop()?.();
  const { stdout, stderr, code } = await waiting.ended;
  expect(code).toBe(0);
  expect(imageOn(parseReport(stdout, stderr), node(1)).steps.map(({ ok }) => ok)).toContain(true);
});

test.each([
  ['SIGINT', 130, '0s', 'skipped'],
  ['SIGTERM', 143, '1m', 'healed'],
  ['SIGHUP', 129, '0s', 'healed'],
] as const)(
  '%s in mid-pull: exit code %i, nothing new begins, and with a grace of %s the pull is %s',
  async (signal, code, grace, outcome) => {
    await drift();
    const { begun, letGo } = stall();
    const ran = start(['--config', fleet.configFile, '-o', 'json', '--grace', grace, '--log-level', 'info']);
    await begun;
    ran.child.kill(signal);
    if (outcome === 'healed') {
      await once(ran.child.stderr ?? ran.child, 'data');
      letGo();
    }
    const ended = await ran.ended;
    const told = parseReport(ended.stdout, ended.stderr);
    expect(ended.code).toBe(code);
    expect(outcomes(told).filter((one) => one === outcome)).toHaveLength(outcome === 'healed' ? 1 : SIZE);
    expect(told.summary.actions).toMatchObject({ failed: 0, skipped: outcome === 'healed' ? SIZE - 1 : SIZE });
    expect(await touched()).toHaveLength(1);
    letGo();
    for (const one of fleet.nodes) await until('nothing is left', async () => (await strays(one)).length === 0);
  },
);

test('an epoch that comes back within epoch.waitFor is waited for', async () => {
  await fleet.epoch.stop();
  const args = ['--config', fleet.configFile, '-o', 'json', '-n', '-w', node(1)];
  await fleet.writeConfig({ epoch: { waitFor: '1m', retries: 0 } });
  const waiting = start(args);
  await once(waiting.child.stderr ?? waiting.child, 'data'); // it says that it waits
  await fleet.epoch.start();
  expect((await waiting.ended).code).not.toBe(1);
});

test('what was learned of the rollout is kept, and a damaged memory is none', async () => {
  const file = join(fleet.dir, 'state', 'rollout.json');
  expect(JSON.parse(await readFile(file, 'utf8'))).toMatchObject({ version: 1 });
  await writeFile(file, '{"version": 1, "failed": "all"}');
  expect((await report(fleet)).run.exitCode).toBe(0);
});
