// What goes wrong while nodes are changed, and what is left alone because of it: by the real command on real nodes.
import { spawn, type ChildProcessByStdio } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, readdir, rm, truncate, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { Readable, Writable } from 'node:stream';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { ErrorInfo } from '../../src/core/model/error.ts';
import type { ImageRow, Report } from '../../src/core/model/report.ts';
import type { Step } from '../../src/core/model/result.ts';
import { makeQcow2 } from '../doubles/cocoon/fixtures.ts';
import type { Artifact } from '../doubles/registry-content.ts';
import { startFleet, type Fleet, type FleetNode } from '../fleet/world.ts';
import { cocoonOn, lockFile, strays } from '../support/guard.ts';
import { imageOn, nodeOf, reconcile, report, snapshotOn } from '../support/reconcile.ts';

const IMAGE = 'simular/win11';
const OTHER = 'simular/ubuntu';
const SNAPSHOT = 'simular/win11-hot-testing:v1-20260509';
const DOWNLOAD = /^GET \/dl\/simular\/win11$/;
const node = (n: number): string => `cocoonset-node-${n}`;
const ALL = [1, 2, 3].map(node);

let fleet: Fleet;
let pushes = 0;

beforeAll(async () => {
  fleet = await startFleet({ nodes: ALL.length });
  for (const image of [IMAGE, OTHER]) {
    await push(image);
    await Promise.all(fleet.nodes.map((one) => one.pull(key(image))));
  }
});
afterAll(async () => await fleet?.down());
afterEach(async () => {
  fleet.epoch.heal();
  await fleet.writeConfig();
  await rm(join(fleet.dir, 'state', 'rollout.json'), { force: true }); // no test has a night before it
});

const key = (image = IMAGE): string => `${fleet.epoch.url}/dl/${image}`;

async function push(image = IMAGE): Promise<Artifact> {
  return await fleet.epoch.pushImage(image, 'latest', { content: makeQcow2({ seed: `${image} ${(pushes += 1)}` }) });
}

/** Lets epoch serve something newer than any node holds: all have drifted. */
async function drift(image = IMAGE): Promise<Artifact> {
  const after = await push(image);
  await Promise.all(fleet.nodes.map((one) => one.clearLog()));
  return after;
}

/** One run over the image that these tests break; the other one has drifted in some of them too. */
async function run(...args: string[]): Promise<Report> {
  return await report(fleet, ...(args.includes('-i') ? args : ['-i', IMAGE, ...args]));
}

async function pullsOn(one: FleetNode): Promise<string[]> {
  return (await one.commands()).filter((argv) => argv.includes('pull')).map((argv) => argv.at(-1) as string);
}

/** How many pulls each node saw. */
async function pullCounts(): Promise<number[]> {
  return await Promise.all(fleet.nodes.map(async (one) => (await pullsOn(one)).length));
}

const outcomes = (of: Report, image = IMAGE): (string | null)[] =>
  of.nodes.map(({ name }) => imageOn(of, name, image).outcome);

const stepsOf = ({ steps }: { steps: Step[] }): [string, boolean | null][] => steps.map(({ step, ok }) => [step, ok]);

describe('a pull that fails', () => {
  let ran: Report;
  let row: ImageRow;

  beforeAll(async () => {
    await drift();
    fleet.epoch.fail({ match: DOWNLOAD, times: Infinity, how: 404 });
    ran = await run();
    row = imageOn(ran, node(1));
  });

  test('is told in the last words of cocoon, and exits with 4', () => {
    expect(ran.run.exitCode).toBe(4);
    expect(row).toMatchObject({ outcome: 'failed', error: { code: 'PULL_FAILED' } });
    expect(row.error?.message).toContain(`Error: pull ${key()}: http get ${key()}: status 404`);
  });

  test('is tried once more', async () => {
    expect(stepsOf(row)).toEqual([
      ['pull', false],
      ['pull', false],
    ]);
    expect((await pullCounts())[0]).toBe(2);
  });

  test('on the canary hands its place to the next node, as the fault may be of the node', async () => {
    expect(outcomes(ran)).toEqual(['failed', 'failed', 'skipped']);
    expect(imageOn(ran, node(3)).reason).toContain('more than 1 of the planned actions failed');
    expect(await pullCounts()).toEqual([2, 2, 0]);
    expect(ran.summary.actions).toEqual({ planned: 3, healed: 0, superseded: 0, failed: 2, skipped: 1 });
  });

  test('says so in the table, with what cocoon said', async () => {
    fleet.epoch.fail({ match: DOWNLOAD, times: Infinity, how: 'html' });
    const { code, stdout } = await reconcile(fleet, '-w', node(1));
    expect(code).toBe(4);
    expect(stdout).toContain('content looks like HTML');
    expect(stdout.trimEnd().split('\n').at(-1)).toMatch(/^FAILED: healing failed on cocoonset-node-1: /);
  });
});

describe('what keeps a bad pull from spreading', () => {
  test('another image goes on where one has failed', async () => {
    await drift();
    const after = await drift(OTHER);
    fleet.epoch.fail({ match: DOWNLOAD, times: Infinity, how: 404 });
    await fleet.writeConfig({ rollout: { maxFailures: 10 } });
    const ran = await run('-i', 'simular/*');
    expect(ran.run.exitCode).toBe(4);
    expect(outcomes(ran)).toEqual(['failed', 'failed', 'failed']);
    expect(outcomes(ran, OTHER)).toEqual(['healed', 'healed', 'healed']);
    for (const name of ALL) expect(imageOn(ran, name, OTHER).after).toBe(after.contentDigest);
  });

  test('nothing new starts past maxFailures', async () => {
    await drift();
    fleet.epoch.fail({ match: DOWNLOAD, times: Infinity, how: 404 });
    await fleet.writeConfig({ rollout: { canary: 0, maxPulls: 1, maxFailures: 1, pullRetries: 0 } });
    const ran = await run();
    expect(ran.run.exitCode).toBe(4);
    expect(outcomes(ran)).toEqual(['failed', 'failed', 'skipped']);
    expect(imageOn(ran, node(3)).reason).toContain('rollout.maxFailures');
    expect(await pullCounts()).toEqual([1, 1, 0]);
  });

  test('a single failure is enough where none is allowed', async () => {
    await drift();
    fleet.epoch.fail({ match: DOWNLOAD, times: Infinity, how: 404 });
    await fleet.writeConfig({ rollout: { pullRetries: 0 } });
    const ran = await run('--canary', '0', '--max-pulls', '1', '--max-failures', '0');
    expect(outcomes(ran)).toEqual(['failed', 'skipped', 'skipped']);
  });

  test('the same wrong digest on two nodes stops the image for the fleet', async () => {
    const after = await drift();
    fleet.epoch.fail({ match: DOWNLOAD, times: Infinity, how: 'flip' });
    await fleet.writeConfig({ rollout: { canary: 0, maxPulls: 1, maxFailures: '100%' } });
    const ran = await run();
    expect(ran.run.exitCode).toBe(4);
    expect(outcomes(ran)).toEqual(['failed', 'failed', 'skipped']);
    expect(imageOn(ran, node(3)).reason).toContain(`${node(1)} and ${node(2)} received the same wrong digest`);
    expect(await pullCounts()).toEqual([2, 1, 0]);
    for (const name of ALL) expect(imageOn(ran, name).after).not.toBe(after.contentDigest);
  });

  test('pulls go on one by one where maxPulls is 1', async () => {
    await drift();
    fleet.epoch.requests.length = 0;
    const ran = await run('--canary', '0', '--max-pulls', '1');
    expect(ran.run.exitCode).toBe(0);
    // Each action looks at the manifest, pulls, and looks again: none began before the one before it was verified.
    expect(traffic(IMAGE)).toEqual(ALL.flatMap(() => ['manifest', 'download', 'manifest']));
  });

  test('as many pulls as maxPulls go on at once', async () => {
    await drift();
    let waiting = 0;
    let release = (): void => undefined;
    const both = new Promise<void>((resolve) => (release = resolve));
    const hold = async (): Promise<void> => {
      waiting += 1;
      if (waiting === 2) release();
      await both; // without a second pull this would never end
    };
    fleet.epoch.during(DOWNLOAD, hold, 2);
    const ran = await run('--canary', '0', '--max-pulls', '2');
    expect(ran.run.exitCode).toBe(0);
    expect(waiting).toBe(2);
  });

  test('on one node pulls go on one by one, whatever maxPulls is', async () => {
    await drift(IMAGE);
    await drift(OTHER);
    fleet.epoch.requests.length = 0;
    const ran = await run('-i', 'simular/*', '--canary', '0', '--max-pulls', '8', '-w', node(1));
    expect(ran.summary.actions.healed).toBe(2);
    const order = fleet.epoch.requests
      .map(({ path }) => /^\/(?:v2\/(simular\/\w+)\/manifests\/latest|dl\/(simular\/\w+))$/.exec(path))
      .filter((match) => match !== null)
      .map(([, asked, loaded]) => asked ?? `pull ${loaded}`);
    // The first two are the judge's; then one image altogether, then the other.
    const [first, second] = order[2] === IMAGE ? [IMAGE, OTHER] : [OTHER, IMAGE];
    expect(order.slice(2)).toEqual([first, `pull ${first}`, first, second, `pull ${second}`, second]);
  });

  /** What was asked of epoch for an image after the first look at it, which is the judge's. */
  function traffic(image: string): string[] {
    return fleet.epoch.requests
      .flatMap(({ path }) =>
        path === `/v2/${image}/manifests/latest` ? 'manifest' : path === `/dl/${image}` ? 'download' : [],
      )
      .slice(1);
  }
});

describe('a pull that succeeds and brings the wrong bytes', () => {
  test.each(['short', 'flip'] as const)('(%s) is tried once more, and is never called healed', async (how) => {
    const after = await drift();
    fleet.epoch.fail({ match: DOWNLOAD, times: Infinity, how });
    const ran = await run();
    expect(ran.run.exitCode).toBe(4);
    const row = imageOn(ran, node(1));
    expect(row).toMatchObject({ outcome: 'failed', want: after.contentDigest, error: { code: 'VERIFY_MISMATCH' } });
    expect(stepsOf(row)).toEqual([
      ['pull', true],
      ['verify', false],
      ['pull', true],
      ['verify', false],
    ]);
    expect([row.have, after.contentDigest, null]).not.toContain(row.after);
    expect(await pullCounts()).toEqual([2, 0, 0]);
    const again = await run('--dry-run');
    expect(imageOn(again, node(1))).toMatchObject({ verdict: 'stale', have: row.after });
  });

  test('once heals at the second try', async () => {
    const after = await drift();
    fleet.epoch.fail({ match: DOWNLOAD, how: 'short' });
    const ran = await run();
    expect(ran.run.exitCode).toBe(0);
    expect(imageOn(ran, node(1))).toMatchObject({ outcome: 'healed', error: null, after: after.contentDigest });
    expect(stepsOf(imageOn(ran, node(1)))).toEqual([
      ['pull', true],
      ['verify', false],
      ['pull', true],
      ['verify', true],
      ['clone', null],
    ]);
    expect(await pullCounts()).toEqual([2, 1, 1]);
  });
});

describe('a world that moves during the run', () => {
  test('a tag that moves before the download leaves the node with what epoch serves by then: superseded', async () => {
    const after = await drift();
    let moved: Artifact | null = null;
    fleet.epoch.during(DOWNLOAD, async () => void (moved = await push()));
    const ran = await run('-w', node(1));
    expect(ran.run.exitCode).toBe(0);
    const row = imageOn(ran, node(1));
    expect(row).toMatchObject({ outcome: 'superseded', want: after.contentDigest, error: null });
    expect(row.after).toBe((moved as Artifact | null)?.contentDigest);
    expect(row.reason).toContain('the tag moved during the run');
    expect(await pullCounts()).toEqual([1, 0, 0]);
  });

  test('a tag that moves after the download is pulled again, and that is no failure', async () => {
    await drift();
    await fleet.writeConfig({ rollout: { pullRetries: 0 } });
    let moved: Artifact | null = null;
    fleet.epoch.during(DOWNLOAD, () => {
      fleet.epoch.during(/^GET \/v2\/simular\/win11\/manifests\//, async () => void (moved = await push()));
    });
    const ran = await run('-w', node(1));
    expect(ran.run.exitCode).toBe(0);
    expect(imageOn(ran, node(1))).toMatchObject({
      outcome: 'superseded',
      after: (moved as Artifact | null)?.contentDigest,
    });
    expect(await pullCounts()).toEqual([2, 0, 0]);
  });

  test('a node that somebody else has healed meanwhile is verified and not pulled', async () => {
    const after = await drift();
    fleet.epoch.during(DOWNLOAD, async () => await fleet.node(node(2)).pull(key(), true));
    const ran = await run('-w', 'cocoonset-node-[1-2]');
    expect(ran.run.exitCode).toBe(0);
    const row = imageOn(ran, node(2));
    expect(row).toMatchObject({ verdict: 'stale', outcome: 'healed', after: after.contentDigest });
    expect(row.reason).toContain('nothing was changed');
    expect(row.steps.map(({ step }) => step)).not.toContain('pull');
    expect(await pullCounts()).toEqual([1, 1, 0]); // the one on node 2 was ours, by hand
  });

  test('epoch going down before a node was touched leaves that node skipped, with drift', async () => {
    await drift();
    await fleet.writeConfig({ epoch: { retries: 0 } });
    const asked = /^GET \/v2\/simular\/win11\/manifests\/latest/;
    fleet.epoch.fail({ match: asked, skip: 1, times: Infinity, how: 'reset' });
    const ran = await run('-w', node(1));
    expect(ran.run.exitCode).toBe(2);
    expect(imageOn(ran, node(1))).toMatchObject({ outcome: 'skipped', error: { code: 'REGISTRY_UNREACHABLE' } });
    expect(await pullCounts()).toEqual([0, 0, 0]);
  });

  test('a node that is gone when its turn comes is skipped, and the others are healed', async () => {
    await drift();
    fleet.epoch.during(DOWNLOAD, async () => await fleet.node(node(2)).stop());
    try {
      const ran = await run('--max-pulls', '1');
      expect(ran.run.exitCode).toBe(2);
      expect(outcomes(ran)).toEqual(['healed', 'skipped', 'healed']);
      expect(imageOn(ran, node(2)).error?.code).toBe('SSH_UNREACHABLE');
    } finally {
      await fleet.node(node(2)).start();
    }
  });
});

/** Holds our lock there, as another run would, until its standard input ends. */
async function lock(one: FleetNode): Promise<ChildProcessByStdio<Writable, Readable, null>> {
  const file = lockFile(one);
  await mkdir(dirname(file), { recursive: true });
  const holder = spawn('flock', [file, 'sh', '-c', 'echo held; read _'], { stdio: ['pipe', 'pipe', 'inherit'] });
  await once(holder.stdout, 'data');
  return holder;
}

describe('what is not begun', () => {
  const isSkipped = (row: ImageRow, code: string): void => {
    expect(row).toMatchObject({ outcome: 'skipped', after: null, error: { code } });
    expect(row.error?.hint).not.toBeNull();
  };

  test('a pull for which there is no room: NO_SPACE, planned by the dry run too, and 2', async () => {
    await drift();
    await fleet.writeConfig({ rollout: { minFreeBytes: '1000TiB' } });
    const dry = await run('--dry-run');
    expect(dry.run.exitCode).toBe(2);
    expect(imageOn(dry, node(1))).toMatchObject({ plan: 'pull', outcome: null, error: { code: 'NO_SPACE' } });
    const ran = await run();
    expect(ran.run.exitCode).toBe(2);
    for (const name of ALL) isSkipped(imageOn(ran, name), 'NO_SPACE');
    expect(await pullCounts()).toEqual([0, 0, 0]);
  });

  test('a pull on a node that another reconcile is changing: LOCKED, and 2', async () => {
    await drift();
    const holder = await lock(fleet.node(node(1)));
    try {
      const ran = await run('-w', node(1));
      expect(ran.run.exitCode).toBe(2);
      isSkipped(imageOn(ran, node(1)), 'LOCKED');
      expect(imageOn(ran, node(1)).error?.message).toContain('another reconcile');
      expect(await pullCounts()).toEqual([0, 0, 0]);
    } finally {
      holder.stdin.end('\n');
    }
    expect((await run('-w', node(1))).run.exitCode).toBe(0);
  });

  test('of the canary that is LOCKED keeps the image from nobody: the next node is the canary then', async () => {
    await drift();
    const holder = await lock(fleet.node(node(1)));
    try {
      const ran = await run();
      expect(ran.run.exitCode).toBe(2);
      isSkipped(imageOn(ran, node(1)), 'LOCKED');
      expect(outcomes(ran)).toEqual(['skipped', 'healed', 'healed']);
      expect(ran.nodes.map(({ name }) => imageOn(ran, name).wave)).toEqual([0, 1, 1]);

      await drift();
      fleet.epoch.fail({ match: DOWNLOAD, times: Infinity, how: 404 });
      const failed = await run();
      expect(outcomes(failed)).toEqual(['skipped', 'failed', 'failed']);
      expect(await pullCounts()).toEqual([0, 2, 2]);
    } finally {
      holder.stdin.end('\n');
    }
  });

  test('a pull that somebody types by hand at the same time: LOCKED, with its process, and 2', async () => {
    await drift();
    const one = fleet.node(node(1));
    let letGo = (): void => undefined;
    const held = new Promise<void>((resolve) => (letGo = resolve));
    const begun = new Promise<void>((resolve) =>
      fleet.epoch.during(DOWNLOAD, async () => {
        resolve();
        await held;
      }),
    );
    const typed = one.pull(key(), true);
    await begun;
    const [pid] = await cocoonOn(one, 'pull');
    const ran = await run('-w', node(1));
    letGo();
    await typed;
    expect(ran.run.exitCode).toBe(2);
    isSkipped(imageOn(ran, node(1)), 'LOCKED');
    expect(imageOn(ran, node(1)).error?.message).toContain(`process ${pid}`);
    expect(await pullCounts()).toEqual([1, 0, 0]);
  });
});

describe('a pull that does not end', () => {
  const withSlowPull = async (work: () => Promise<Report>): Promise<Report> => {
    const one = fleet.node(node(1));
    await one.setEnv({ COCOON_DOUBLE_PULL_DELAY_MS: '600000' });
    try {
      return await work();
    } finally {
      await one.setEnv({ COCOON_DOUBLE_PULL_DELAY_MS: undefined });
    }
  };
  const nothingLeft = async (): Promise<void> => {
    await expect.poll(() => strays(fleet.node(node(1))), { timeout: 30_000 }).toEqual([]);
    expect(await readdir(join(fleet.node(node(1)).rootDir, 'cloudimg', 'temp'))).toEqual([]);
  };

  test('is ended past pullTimeout and not tried again: PULL_TIMEOUT, 4, and no process or file is left', async () => {
    await drift();
    await fleet.writeConfig({ rollout: { pullTimeout: '2s' } });
    const ran = await withSlowPull(async () => await run());
    expect(ran.run.exitCode).toBe(4);
    expect(imageOn(ran, node(1))).toMatchObject({ outcome: 'failed', error: { code: 'PULL_TIMEOUT' } });
    expect(stepsOf(imageOn(ran, node(1)))).toEqual([['pull', false]]);
    expect(outcomes(ran).slice(1)).toEqual(['healed', 'healed']);
    expect(await pullCounts()).toEqual([1, 1, 1]);
    await nothingLeft();
  });

  test('is ended by the deadline of the whole run, whose report is still there', async () => {
    await drift();
    const ran = await withSlowPull(async () => await run('--timeout', '8s'));
    expect(ran.run).toMatchObject({ exitCode: 2, error: null });
    expect(ran.summary.nodes.observed).toBe(ALL.length);
    expect(imageOn(ran, node(1))).toMatchObject({ outcome: 'skipped', error: { code: 'RUN_DEADLINE' } });
    for (const name of ALL.slice(1)) {
      expect(imageOn(ran, name)).toMatchObject({ outcome: 'skipped', error: { code: 'RUN_DEADLINE' } });
    }
    await nothingLeft();
  });

  test('is not waited for where epoch hangs: the deadline leaves a report all the same', async () => {
    fleet.epoch.fail({ match: /^GET \/v2\//, times: Infinity, how: 'hang' });
    const dry = await run('--dry-run', '--timeout', '8s');
    expect(dry.run).toMatchObject({ exitCode: 1, error: { code: 'REGISTRY_UNREACHABLE' } });
    expect(dry.run.error?.message).toMatch(/no answer in the [3-5]\.\d s/);
    expect(dry.summary.nodes.observed).toBe(ALL.length);
    expect(imageOn(dry, node(1)).error?.code).toBe('RUN_DEADLINE');
  });
});

describe('the blob beneath an entry', () => {
  const one = (): FleetNode => fleet.node(node(1));
  let image: Artifact;

  beforeEach(async () => {
    image = await push();
    await one().pull(key(), true);
    await one().clearLog();
  });
  const look = async (...args: string[]): Promise<ImageRow> => imageOn(await run(...args, '-w', node(1)), node(1));

  test('that is not there is pulled again', async () => {
    await rm(one().blobFile(image.contentDigest ?? ''));
    expect(await look('--dry-run')).toMatchObject({ verdict: 'blob-missing', plan: 'pull', have: image.contentDigest });
    expect(await look()).toMatchObject({ verdict: 'blob-missing', outcome: 'healed', after: image.contentDigest });
    expect(await look('--dry-run')).toMatchObject({ verdict: 'in-sync' });
  });

  test('that is empty is as good as missing', async () => {
    await truncate(one().blobFile(image.contentDigest ?? ''), 0);
    expect(await look('--dry-run')).toMatchObject({ verdict: 'blob-missing', plan: 'pull' });
    expect(await look()).toMatchObject({ outcome: 'healed' });
  });

  test('that is truncated is corrupt: no plan, because a pull would keep it, but the commands that help', async () => {
    const blob = one().blobFile(image.contentDigest ?? '');
    await truncate(blob, image.sizeBytes / 2);
    const ran = await run('-w', node(1));
    expect(ran.run.exitCode).toBe(2);
    const row = imageOn(ran, node(1));
    expect(row).toMatchObject({ verdict: 'blob-corrupt', plan: null, outcome: null });
    expect(row.reason).toContain(`${image.sizeBytes / 2} bytes and not ${image.sizeBytes}`);
    expect(row.commands).toHaveLength(2);
    expect(await pullCounts()).toEqual([0, 0, 0]);
    for (const command of row.commands) await shell(command);
    expect(await look('--dry-run')).toMatchObject({ verdict: 'in-sync' });
  });

  test('that is no disk image any more is corrupt, whatever its size', async () => {
    const blob = one().blobFile(image.contentDigest ?? '');
    await rm(blob);
    await writeFile(blob, Buffer.alloc(image.sizeBytes, 'x'));
    expect(await look('--dry-run')).toMatchObject({ verdict: 'blob-corrupt', plan: null });
    await rm(blob);
  });

  test('that cocoon converted on the way is never called corrupt', async () => {
    const raw = await fleet.epoch.pushImage('simular/raw', 'latest', {
      content: Buffer.alloc(3 * 2 ** 20, 'raw disk'),
    });
    await one().pull(key('simular/raw'));
    const dry = await run('--dry-run', '-w', node(1), '-i', 'simular/raw');
    expect(imageOn(dry, node(1), 'simular/raw')).toMatchObject({
      verdict: 'in-sync',
      have: raw.contentDigest,
      reason: expect.stringContaining('converted'),
    });
    expect(dry.run.exitCode).toBe(0);
  });
});

describe('the clone after a pull', () => {
  const withSnapshot = async (image: string, digest: string | null): Promise<void> => {
    await fleet.node(node(1)).addSnapshot({ name: SNAPSHOT, image: key(image), imageDigest: digest ?? '' });
  };
  const withoutSnapshot = async (): Promise<void> => {
    await fleet.node(node(1)).cocoon('snapshot', 'rm', SNAPSHOT);
  };
  const cloneStep = ({ steps }: { steps: Step[] }): { ok: boolean | null; error: ErrorInfo | null } | undefined =>
    steps.find(({ step }) => step === 'clone');
  afterEach(withoutSnapshot);

  test('is proven by the files of the snapshots that use the new content', async () => {
    const after = await drift();
    await withSnapshot(IMAGE, after.contentDigest);
    const ran = await run('-w', node(1));
    expect(ran.run.exitCode).toBe(0);
    expect(snapshotOn(ran, node(1))).toMatchObject({ verdict: 'base-drifted', outcome: 'healed' });
    expect(cloneStep(imageOn(ran, node(1)))).toMatchObject({ ok: true, error: null });
  });

  test('is not proven where no snapshot uses it: NOTHING_TO_TEST, and no failure', async () => {
    await drift();
    const ran = await run('-w', node(1));
    expect(ran.run.exitCode).toBe(0);
    expect(imageOn(ran, node(1))).toMatchObject({ outcome: 'healed', error: null });
    expect(cloneStep(imageOn(ran, node(1)))).toMatchObject({ ok: null, error: { code: 'NOTHING_TO_TEST' } });
  });

  test('is not asked for with --clone none', async () => {
    await drift();
    const ran = await run('-w', node(1), '--clone', 'none');
    expect(cloneStep(imageOn(ran, node(1)))).toBeUndefined();
  });

  test('that the hypervisor refuses fails the action, with its words: CLONE_FAILED and 4', async () => {
    const after = await drift();
    await withSnapshot(IMAGE, after.contentDigest);
    await fleet.node(node(1)).setEnv({ COCOON_DOUBLE_CLONE_ERROR: 'no memory left for this' });
    try {
      const ran = await run('--clone', 'vm');
      expect(ran.run.exitCode).toBe(4);
      const row = imageOn(ran, node(1));
      expect(row).toMatchObject({ outcome: 'failed', after: after.contentDigest, error: { code: 'CLONE_FAILED' } });
      expect(row.error?.message).toContain('no memory left for this');
      expect(stepsOf(row)).toEqual([
        ['pull', true],
        ['verify', true],
        ['clone', false],
      ]);
      expect(outcomes(ran).slice(1)).toEqual(['skipped', 'skipped']);
    } finally {
      await fleet.node(node(1)).setEnv({ COCOON_DOUBLE_CLONE_ERROR: undefined });
    }
  });

  test('works on a base that cocoon converted on the way', async () => {
    const image = 'simular/raw-hot';
    const raw = (fill: string): Promise<Artifact> =>
      fleet.epoch.pushImage(image, 'latest', { content: Buffer.alloc(3 * 2 ** 20, fill) });
    await raw('the raw disk of April');
    await fleet.node(node(1)).pull(key(image));
    const after = await raw('the raw disk of May');
    await withSnapshot(image, after.contentDigest);
    const ran = await run('-w', node(1), '-i', image);
    expect(imageOn(ran, node(1), image)).toMatchObject({ outcome: 'healed', after: after.contentDigest, error: null });
    expect(cloneStep(imageOn(ran, node(1), image))).toMatchObject({ ok: true });
    expect(ran.run.exitCode).toBe(0);
  });
});

describe('a report', () => {
  test('has a row for every node and a summary that adds up, whatever went wrong', async () => {
    await drift();
    fleet.epoch.fail({ match: DOWNLOAD, skip: 1, times: Infinity, how: 404 });
    await fleet.writeConfig({ rollout: { maxPulls: 1, maxFailures: 0, pullRetries: 0 } });
    const ran = await run('-i', IMAGE);
    expect(outcomes(ran)).toEqual(['healed', 'failed', 'skipped']);
    const { planned, healed, superseded, failed, skipped } = ran.summary.actions;
    expect(healed + superseded + failed + skipped).toBe(planned);
    expect(nodeOf(ran, node(3)).images.filter(({ image }) => image === IMAGE)).toHaveLength(1);
    expect(ran.run.exitCode).toBe(4);
  });
});

async function shell(command: string): Promise<void> {
  const child = spawn('sh', ['-c', command], { stdio: 'ignore' });
  const code = await new Promise((resolve) => child.on('close', resolve));
  if (code !== 0) throw new Error(`${command}: exit code ${String(code)}`);
}
