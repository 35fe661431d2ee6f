// The exit codes, by the real command on twenty nodes of which some are down, one is a stranger, and some have drifted.
import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import type { Report } from '../../src/core/model/report.ts';
import { breakAsInTheIncident, startFleet, type Fleet, type FleetNode, type Incident } from '../fleet/world.ts';
import { cocoonOn, strays } from '../support/guard.ts';
import { imageOn, nodeOf, parseReport, reconcile, report, start, type Run } from '../support/reconcile.ts';

const node = (n: number): string => `cocoonset-node-${n}`;
const DRIFTED = [2, 5, 9, 12].map(node);
const STRANGER = node(17);
const DOWN = [18, 19, 20].map(node);
/** The nodes of the newer generation; the last one has changes that only its `meta.db-wal` knows. */
const SQLITE = [5, 6, 11, 13];
const IN_WAL = 13;

const READABLE = '@readable';
const UNDAMAGED = ['-w', READABLE, ...DRIFTED.flatMap((name) => ['-w', `!${name}`])];

describe('a fleet with drift, with nodes that are down, and with one whose host key changed', () => {
  let fleet: Fleet;
  let incident: Incident;

  beforeAll(async () => {
    const specs = Array.from({ length: 20 }, (_, i) => ({
      pool: i + 1 < 17 ? 'readable' : 'lost',
      ...(SQLITE.includes(i + 1) ? { store: 'sqlite' as const } : {}),
      ...(i + 1 === IN_WAL ? { env: { COCOON_DOUBLE_KEEP_WAL: '1' } } : {}),
    }));
    fleet = await startFleet({ nodes: specs });
    incident = await breakAsInTheIncident(fleet, DRIFTED);
    await fleet.node(STRANGER).changeHostKey();
    await Promise.all(DOWN.map((name) => fleet.node(name).stop()));
  });
  afterAll(async () => await fleet?.down());
  afterEach(() => fleet.epoch.heal());

  const pulls = async (one: FleetNode): Promise<string[][]> =>
    (await one.commands()).filter((argv) => argv.includes('pull'));

  describe('--dry-run', () => {
    let dry: Report;
    beforeAll(async () => (dry = await report(fleet, '--dry-run')));

    test('exits with 2: drift counts for more than a picture that is incomplete', () => {
      expect(dry.run).toMatchObject({ exitCode: 2, error: null });
      expect(dry.summary.nodes).toEqual({ total: 20, observed: 16, unreachable: 4, unreadable: 0 });
      expect(dry.summary.images).toMatchObject({ stale: 4, 'in-sync': 12 });
      expect(dry.summary.actions.planned).toBe(4);
      for (const name of DRIFTED) expect(imageOn(dry, name)).toMatchObject({ verdict: 'stale', plan: 'pull' });
    });

    test('reads both generations of the store, also what only the write-ahead log of SQLite holds', async () => {
      const wal = await stat(join(fleet.node(node(IN_WAL)).rootDir, 'meta', 'meta.db-wal'));
      expect(wal.size).toBeGreaterThan(0);
      for (const { name, indexSource, status } of dry.nodes) {
        if (status !== 'observed') continue;
        expect(indexSource, name).toBe(SQLITE.map(node).includes(name) ? 'sqlite' : 'json');
      }
      expect(imageOn(dry, node(IN_WAL))).toMatchObject({
        verdict: 'in-sync',
        have: incident.after.contentDigest,
      });
    });

    test('says of a node that is down that it is unreachable, with code and hint', () => {
      for (const name of DOWN) {
        const { status, error, images, snapshots } = nodeOf(dry, name);
        expect(status).toBe('unreachable');
        expect(error).toMatchObject({ code: 'SSH_UNREACHABLE', hint: expect.stringContaining('sshd running') });
        expect(error?.message).toContain(`:${fleet.node(name).port} cannot be reached: connection refused`);
        expect([...images, ...snapshots]).toEqual([]);
      }
    });

    test('says of a changed host key in which file and line another one is known', async () => {
      const { status, error } = nodeOf(dry, STRANGER);
      const known = (await readFile(fleet.knownHostsFile, 'utf8')).split('\n');
      const line = known.findIndex((entry) => entry.includes(`:${fleet.node(STRANGER).port} `)) + 1;
      expect(line).toBeGreaterThan(0);
      expect(status).toBe('unreachable');
      expect(error?.code).toBe('SSH_HOST_KEY_MISMATCH');
      expect(error?.message).toContain(`${fleet.knownHostsFile}:${line}`);
      expect(error?.hint).toContain(`remove line ${line} of ${fleet.knownHostsFile}`);
    });
  });

  test('the table folds nodes of equal standing, and says the verdict in its last line', async () => {
    const { code, stdout } = await reconcile(fleet, '--dry-run');
    expect(code).toBe(2);
    const lines = stdout.trimEnd().split('\n');
    const stale = lines.filter((line) => line.startsWith('stale'));
    expect(stale).toHaveLength(1);
    expect(stale[0]).toContain('  cocoonset-node-[2,5,9,12]  ');
    expect(stale[0]).toContain('canary cocoonset-node-2 first');
    expect(stdout).toContain('cocoonset-node-[1,3-4,6-8,10-11,13-16]  in-sync');
    expect(lines.find((line) => line.includes('SSH_UNREACHABLE'))).toContain('cocoonset-node-[18-20]');
    expect(lines.find((line) => line.includes('SSH_HOST_KEY_MISMATCH'))).toContain(STRANGER);
    expect(lines.at(-1)).toMatch(
      /^DRIFT: .*stale on cocoonset-node-\[2,5,9,12\].*4 of 20 nodes could not be read: cocoonset-node-\[17-20\]/,
    );
  });

  test('only the undamaged nodes, by --node, are 0', async () => {
    const fine = await report(fleet, '--dry-run', ...UNDAMAGED);
    expect(fine.run.exitCode).toBe(0);
    expect(fine.summary.nodes).toEqual({ total: 12, observed: 12, unreachable: 0, unreadable: 0 });
  });

  test('nodes in sync beside nodes that are down are 3', async () => {
    const part = await report(fleet, '--dry-run', '-w', 'cocoonset-node-[1,3,18]');
    expect(part.run.exitCode).toBe(3);
    expect(part.summary.nodes).toMatchObject({ observed: 2, unreachable: 1 });
  });

  test('only nodes that are down are 3', async () => {
    expect((await report(fleet, '--dry-run', '-w', 'cocoonset-node-[18-20]')).run).toMatchObject({
      exitCode: 3,
      error: null,
    });
  });

  describe('where nothing can be said at all the code is 1', () => {
    test('when epoch is down: nothing is planned or changed, and the report is still printed', async () => {
      await fleet.writeConfig({ epoch: { retries: 0 } });
      await fleet.epoch.stop();
      try {
        await Promise.all(fleet.nodes.map((one) => one.clearLog()));
        const lost = await report(fleet, '-w', 'cocoonset-node-[1,2,18]');
        expect(lost.run).toMatchObject({ exitCode: 1, error: { code: 'REGISTRY_UNREACHABLE' } });
        expect(lost.run.error?.hint).toContain('is epoch up');
        expect(lost.summary.nodes).toMatchObject({ total: 3, observed: 2 });
        expect(lost.summary.actions.planned).toBe(0);
        expect(imageOn(lost, node(1))).toMatchObject({ verdict: 'unknown', error: { code: 'REGISTRY_UNREACHABLE' } });
        for (const one of fleet.nodes) expect(await pulls(one)).toEqual([]);
      } finally {
        await fleet.epoch.start();
        await fleet.writeConfig();
      }
    });

    test.each([
      ['--node', 'cocoonset-node-99'],
      ['--node', 'gpu-*'],
      ['--image', 'simular/win12'],
      ['--snapshot', 'simular/win11-hot-testing:v2'],
    ])('when a filter matches nothing: %s %s', async (option, value) => {
      const none = await report(fleet, '--dry-run', '-w', node(1), option, value);
      expect(none.run).toMatchObject({ exitCode: 1, error: { code: 'FILTER_EMPTY' } });
      expect(none.run.error?.message).toContain(`${option} ${value}`);
    });

    test('when the filters leave no node', async () => {
      const none = await report(fleet, '--dry-run', '-w', '@lost', '-w', '!cocoonset-node-*');
      expect(none.run).toMatchObject({ exitCode: 1, error: { code: 'INVENTORY_EMPTY' } });
    });
  });

  describe('a run', () => {
    const interruptedBy = async (signal: NodeJS.Signals): Promise<Run> => {
      const [canary = ''] = DRIFTED;
      await fleet.node(canary).setEnv({ COCOON_DOUBLE_PULL_DELAY_MS: '600000' });
      try {
        const arrived = new Promise<void>((resolve) => fleet.epoch.during(/^GET \/dl\//, resolve));
        const { child, ended } = start([
          '--config',
          fleet.configFile,
          '--output',
          'json',
          '-w',
          'cocoonset-node-[1,2,5]',
        ]);
        await arrived;
        expect(await cocoonOn(fleet.node(canary), 'pull')).not.toEqual([]);
        child.kill(signal);
        return await ended;
      } finally {
        await fleet.node(canary).setEnv({ COCOON_DOUBLE_PULL_DELAY_MS: undefined });
      }
    };

    test.each([
      ['SIGINT', 130],
      ['SIGTERM', 143],
    ] as const)(
      'that is ended by %s exits with %i, and its report says where each node stands',
      async (signal, code) => {
        const ended = await interruptedBy(signal);
        expect(ended.code).toBe(code);
        const interrupted = parseReport(ended.stdout, ended.stderr);
        expect(interrupted.run.exitCode).toBe(code);
        const [canary = '', other = ''] = DRIFTED;
        expect(imageOn(interrupted, canary)).toMatchObject({ outcome: 'skipped', error: { code: 'INTERRUPTED' } });
        expect(imageOn(interrupted, other)).toMatchObject({ outcome: 'skipped', error: { code: 'INTERRUPTED' } });
        // The guard on the node ends the pull; nothing of it stays.
        await expect.poll(() => strays(fleet.node(canary)), { timeout: 30_000 }).toEqual([]);
      },
    );

    test('whose pulls fail exits with 4, which counts for more than drift and nodes that are down', async () => {
      fleet.epoch.fail({ match: /^GET \/dl\//, times: Infinity, how: 404 });
      const failed = await report(fleet);
      expect(failed.run.exitCode).toBe(4);
      expect(failed.summary.actions).toEqual({ planned: 4, healed: 0, superseded: 0, failed: 2, skipped: 2 });
      expect(imageOn(failed, DRIFTED[0] as string)).toMatchObject({
        outcome: 'failed',
        error: { code: 'PULL_FAILED' },
      });
    });

    test('heals all that it reaches, and exits with 3 because of those that it does not', async () => {
      const healed = await report(fleet);
      expect(healed.run.exitCode).toBe(3);
      expect(healed.summary.actions).toEqual({ planned: 4, healed: 4, superseded: 0, failed: 0, skipped: 0 });
      for (const name of DRIFTED) {
        expect(imageOn(healed, name)).toMatchObject({ outcome: 'healed', after: incident.after.contentDigest });
      }
    });

    test('exits with 0 where everything asked about is in sync by now', async () => {
      const again = await report(fleet, '-w', READABLE);
      expect(again.run.exitCode).toBe(0);
      expect(again.summary.actions.planned).toBe(0);
      expect(again.summary.images['in-sync']).toBe(16);
    });
  });
});
