// A user who is not root: all that needs root goes through `sudo -n`, and where sudo refuses, that is said.
import { execFile } from 'node:child_process';
import { chmod, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { parse } from 'yaml';
import { breakAsInTheIncident, startFleet, type Fleet, type Incident, type Operator } from '../fleet/world.ts';
import { isRoot, lockFile, strays, until } from '../support/guard.ts';
import { imageOn, nodeOf, reconcile, report } from '../support/reconcile.ts';
import { treeOf } from '../support/tree.ts';

const run = promisify(execFile);
const DRIFTED = ['cocoonset-node-2', 'cocoonset-node-3', 'cocoonset-node-4'];
const [FIRST = '', SECOND = '', THIRD = ''] = DRIFTED;

describe.skipIf(!isRoot)('a user who is not root (only root can create one)', () => {
  let fleet: Fleet;
  let incident: Incident;
  let operator: Operator;

  beforeAll(async () => {
    fleet = await startFleet({ nodes: [{}, {}, {}, {}, process.env['COCOON_BIN'] ? {} : { store: 'sqlite' }] });
    incident = await breakAsInTheIncident(fleet, DRIFTED);
    operator = await fleet.createOperator();
  });
  afterAll(async () => {
    await fleet?.down();
    for (const node of fleet?.nodes ?? []) await rm(lockFile(node), { force: true });
  });

  /** The config with another user for one node, or for all. */
  async function loginAs(user: string, only?: string, cocoon: Record<string, unknown> = {}): Promise<void> {
    await fleet.writeConfig({ ssh: { user: only === undefined ? user : operator.name }, cocoon });
    if (only === undefined) return;
    const config = parse(await readFile(fleet.configFile, 'utf8')) as { nodes: { name: string }[] };
    const nodes = config.nodes.map((node) => (node.name === only ? { ...node, user } : node));
    await fleet.writeConfig({ ssh: { user: operator.name }, cocoon, nodes });
  }

  const pulls = async (name: string): Promise<string[][]> =>
    (await fleet.node(name).commands()).filter((argv) => argv.includes('pull'));

  test('sees the whole incident, and changes nothing by looking', async () => {
    await loginAs(operator.name);
    const trees = async (): Promise<unknown> => await Promise.all(fleet.nodes.map(({ rootDir }) => treeOf(rootDir)));
    const before = await trees();
    const dry = await report(fleet, '--dry-run');
    expect(dry.run.exitCode).toBe(2);
    expect(dry.summary.nodes).toEqual({ total: 5, observed: 5, unreachable: 0, unreadable: 0 });
    expect(dry.summary.images).toMatchObject({ stale: 3, 'in-sync': 2 });
    expect(await trees()).toEqual(before);
  });

  test('heals a node, with a canary VM to prove it', async () => {
    const healed = await report(fleet, '-w', FIRST, '--clone', 'vm');
    expect(healed.run).toMatchObject({ exitCode: 0, error: null });
    expect(imageOn(healed, FIRST)).toMatchObject({ outcome: 'healed', after: incident.after.contentDigest });
    expect(await pulls(FIRST)).toHaveLength(1);
    const { stdout } = await fleet.node(FIRST).cocoon('vm', 'list');
    expect(stdout).toBe('No VMs found.\n');
    await until('no process left there', async () => (await strays(fleet.node(FIRST))).length === 0);
  });

  test('may have a login shell that talks', async () => {
    const talking = await fleet.createOperator();
    const shell = join(fleet.dir, 'talking-shell');
    const noise = "printf 'locked\\nended 1\\nleft\\nWelcome! '; echo 'busy as ever' >&2";
    await writeFile(shell, `#!/bin/sh\n${noise}\nexec /bin/sh "$@"\n`);
    await chmod(shell, 0o755);
    await run('/usr/sbin/usermod', ['--shell', shell, talking.name]);
    await loginAs(talking.name);
    const healed = await report(fleet, '-w', SECOND, '--clone', 'vm');
    expect(imageOn(healed, SECOND)).toMatchObject({ outcome: 'healed', error: null });
    expect(healed.run.exitCode).toBe(0);
  });

  test('sudo allows the shell and not cocoon: the pull failed, in the words of sudo', async () => {
    const { name } = await fleet.createOperator();
    await writeFile(`/etc/sudoers.d/${name}`, `${name} ALL=(root) NOPASSWD: /bin/sh, /usr/bin/sh\n`, { mode: 0o440 });
    await loginAs(name);
    const failed = await report(fleet, '-w', THIRD);
    expect(failed.run.exitCode).toBe(4);
    const { outcome, error } = imageOn(failed, THIRD);
    expect({ outcome, code: error?.code }).toEqual({ outcome: 'failed', code: 'PULL_FAILED' });
    expect(error?.message).toMatch(/sudo/);
    expect(await pulls(THIRD)).toEqual([]);
  });

  test('heals what is left, and then all is in sync', async () => {
    await loginAs(operator.name);
    expect((await reconcile(fleet)).code).toBe(0);
    const { code, stdout } = await reconcile(fleet, '--dry-run');
    expect(code, stdout).toBe(0);
    for (const name of DRIFTED) expect(await pulls(name)).toHaveLength(1);
  });

  test('sudo refuses on one node: that node is not read, with the line for sudoers, and all others are', async () => {
    const refused = await fleet.createOperator({ sudo: false });
    await loginAs(refused.name, FIRST);
    const dry = await report(fleet);
    expect(dry.run.exitCode).toBe(3);
    const { status, error } = nodeOf(dry, FIRST);
    expect({ status, code: error?.code }).toEqual({ status: 'unreadable', code: 'NODE_PERMISSION_DENIED' });
    expect(error?.message).toMatch(/sudo/);
    expect(error?.hint).toContain(`${refused.name} ALL=(root) NOPASSWD`);
    expect(dry.summary.nodes).toMatchObject({ observed: 4, unreadable: 1 });
  });

  test('cocoon.sudo is false: what root alone may read is said to be closed', async () => {
    await loginAs(operator.name, undefined, { sudo: false });
    const dry = await report(fleet);
    expect(dry.run.exitCode).toBe(3);
    for (const { error } of dry.nodes) expect(error?.code).toBe('NODE_PERMISSION_DENIED');
  });
});
