// A node that never answers costs only its own rows: the others are judged and healed within the time of the run.
import { mkdtemp, realpath, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Gate } from '../../src/core/model/gate.ts';
import type { Report } from '../../src/core/model/report.ts';
import { makeQcow2 } from '../doubles/cocoon/fixtures.ts';
import { breakAsInTheIncident, startFleet, type Fleet, type Incident } from '../fleet/world.ts';
import { imageOn, nodeOf, report, snapshotOn } from '../support/reconcile.ts';

const HANGS = 'hangs';
const STALE = 'stale';
const FINE = 'fine';

describe('beside a node that hangs', () => {
  let fleet: Fleet;
  let incident: Incident;
  let dry: Report;
  let oneByOne: Report;
  let gate: Report;

  beforeAll(async () => {
    fleet = await startFleet({
      nodes: [{ name: HANGS, sshd: { config: ['ForceCommand exec sleep 600'] } }, { name: STALE }, { name: FINE }],
    });
    incident = await breakAsInTheIncident(fleet, [STALE]);
    [dry, oneByOne, gate] = await Promise.all([
      report(fleet, '--dry-run', '--timeout', '12s'),
      report(fleet, '--dry-run', '--timeout', '20s', '--concurrency', '1'),
      report(fleet, 'gate', '--timeout', '12s', '--min-ready', '1', '--image', incident.image),
    ]);
  });
  afterAll(async () => await fleet?.down());

  const expectLate = (of: Report): void => {
    const { status, error } = nodeOf(of, HANGS);
    expect([status, error?.code]).toEqual(['unreachable', 'SSH_TIMEOUT']);
    expect(error?.message).toMatch(/^127\.0\.0\.1: reading it took longer than \d/);
    expect(error?.hint).toContain('raise --timeout if it is only slow');
  };

  test('all others are judged', () => {
    expectLate(dry);
    expect(imageOn(dry, STALE)).toMatchObject({ verdict: 'stale', want: incident.after.contentDigest });
    expect(imageOn(dry, FINE).verdict).toBe('in-sync');
    expect(snapshotOn(dry, FINE).verdict).toBe('clonable');
    expect(dry.run).toMatchObject({ exitCode: 2, error: null });
  });

  test('those that wait for its place are read too', () => {
    expectLate(oneByOne);
    expect([STALE, FINE].map((name) => imageOn(oneByOne, name).verdict)).toEqual(['stale', 'in-sync']);
  });

  test('a gate answers', () => {
    expect(gate.run).toMatchObject({ exitCode: 0, error: null });
    const [question] = (gate.gate as Gate).questions;
    expect(question?.nodes.map(({ node, answer }) => [node, answer])).toEqual([
      [HANGS, 'unknown'],
      [STALE, 'yes'],
      [FINE, 'yes'],
    ]);
  });

  test('a run heals the others', async () => {
    const ran = await report(fleet, '--timeout', '20s');
    expectLate(ran);
    expect(imageOn(ran, STALE)).toMatchObject({ outcome: 'healed', after: incident.after.contentDigest });
    expect(ran.run).toMatchObject({ exitCode: 3, error: null });
  });
});

test('what a node holds is asked about while another one is still being read', async () => {
  const dir = await realpath(await mkdtemp(join(tmpdir(), 'hanging-')));
  const slow = join(dir, 'slow.sh');
  const go = join(dir, 'go');
  await writeFile(slow, `#!/bin/sh\nuntil [ -e ${go} ]; do sleep 0.05; done\neval "$SSH_ORIGINAL_COMMAND"\n`, {
    mode: 0o755,
  });
  const fleet = await startFleet({
    dir,
    nodes: [{ name: 'slow', sshd: { config: [`ForceCommand ${slow}`] } }, { name: FINE }],
  });
  try {
    const { reference } = await breakAsInTheIncident(fleet, []);
    await fleet.epoch.pushImage('only/on-fine', 'latest', { content: makeQcow2({ seed: 'only' }) });
    await fleet.node(FINE).pull(reference.replace('simular/win11', 'only/on-fine'));
    fleet.epoch.requests.length = 0;
    const run = report(fleet, '--dry-run');
    const asked = (): string[] => fleet.epoch.requests.map(({ path }) => path);
    await expect.poll(asked, { timeout: 60_000 }).toContain('/v2/only/on-fine/manifests/latest');
    await writeFile(go, '');
    const dry = await run;
    expect(dry.run.exitCode).toBe(0);
    expect(dry.nodes.map(({ status }) => status)).toEqual(['observed', 'observed']);
    const once = asked().filter((path) => path === '/v2/only/on-fine/manifests/latest');
    expect(once).toHaveLength(1);
  } finally {
    await fleet.down();
  }
});
