// What a command says where, whatever its end: stdout for the format that was asked for, stderr for why it is no good one.
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { makeQcow2 } from '../doubles/cocoon/fixtures.ts';
import { breakAsInTheIncident, startFleet, type Fleet, type Incident } from '../fleet/world.ts';
import { parseReport, reconcile, start, type Run } from '../support/reconcile.ts';

const DRIFTED = 'cocoonset-node-1';
const SOUND = ['-w', 'cocoonset-node-[2-3]'];

let fleet: Fleet;
let incident: Incident;
beforeAll(async () => {
  fleet = await startFleet({ nodes: [{}, {}, {}] });
  incident = await breakAsInTheIncident(fleet, [DRIFTED]);
});
afterAll(async () => await fleet?.down());

const lastLine = (text: string): string | undefined => text.trimEnd().split('\n').at(-1);

describe('-o json prints a report for every exit 1', () => {
  test.each<[string, string[], 'run' | 'dry-run' | 'gate']>([
    ['a flag with a value', ['--dry-run=client', '-o', 'json'], 'dry-run'],
    ['behind what is wrong', ['--max-pulls', '1e3', '--output=json'], 'run'],
    ['in a group of letters', ['--bogus', '-no', 'json'], 'dry-run'],
    ['a command that there is not', ['plan', '-ojson'], 'run'],
    ['a gate', ['gate', '--deep=yes', '-o=json'], 'gate'],
    ['a config that is not there', ['-n', '-o', 'json', '-c', 'gone.yaml'], 'dry-run'],
    ['a gate without a config', ['gate', 'x.yaml', '-o', 'json', '-c', 'gone.yaml'], 'gate'],
    ['a manifest that is not there', ['gate', 'x.yaml', '-o', 'json', '-c', 'CONFIG'], 'gate'],
    ['a filter that matches nothing', ['-n', '-o', 'json', '-w', 'x', '-c', 'CONFIG'], 'dry-run'],
  ])('%s', async (_, args, mode) => {
    const { code, stdout, stderr } = await said(args);
    const { run } = parseReport(stdout);
    expect([code, run.exitCode, run.mode]).toEqual([1, 1, mode]);
    expect(run.error?.code).toMatch(/^[A-Z_]+$/);
    expect(stderr).toBe(
      `ERROR ${run.error?.code}: ${run.error?.message} (${run.error?.hint}).${mode === 'gate' ? '' : ' Nothing was changed.'}\n`,
    );
  });

  test.each([
    ['nodes', ['nodes', '-o', 'json', '--bogus'], 'nodes'],
    ['nodes', ['nodes', '-o', 'json', '-c', 'gone.yaml'], 'nodes'],
    ['nodes', ['nodes', '-o', 'json', '-w', 'x', '-c', 'CONFIG'], 'nodes'],
    ['digest', ['digest', '-o', 'json'], 'desired'],
    ['digest', ['digest', 'a', '-o', 'json', '-c', 'gone.yaml'], 'desired'],
    ['digest', ['digest', 'a', '?', '-o', 'json', '-c', 'CONFIG'], 'desired'],
  ])('%s in a shape of its own: %j', async (_, args, list) => {
    const { code, stdout, stderr } = await said(args);
    expect(code).toBe(1);
    const { error, ...rest } = JSON.parse(stdout) as { error: { code: string; message: string } };
    expect(rest).toEqual({
      schemaVersion: 1,
      tool: { name: 'cocoon-reconcile', version: expect.any(String) },
      [list]: [],
    });
    expect(error.code).toMatch(/^(CONFIG_INVALID|FILTER_EMPTY)$/);
    expect(stderr).toContain(error.message);
  });

  const said = async (args: string[]): Promise<Run> =>
    await start(args.map((word) => (word === 'CONFIG' ? fleet.configFile : word))).ended;
});

describe('where stdout is not the table, stderr has the reasons and the verdict', () => {
  test('of a run that found drift', async () => {
    const { code, stdout, stderr } = await reconcile(fleet, '-n', '-o', 'json');
    expect([code, parseReport(stdout).run.exitCode]).toEqual([2, 2]);
    expect(stderr).toContain(`${incident.snapshot} on ${DRIFTED}: its base`);
    expect(lastLine(stderr)).toMatch(/^DRIFT: simular\/win11:latest is stale on cocoonset-node-1;/);
  });

  test('of a gate that says no, also as JUnit', async () => {
    for (const format of ['json', 'junit']) {
      const { code, stderr } = await reconcile(fleet, 'gate', '-s', incident.snapshot, '-o', format);
      expect(code).toBe(2);
      expect(stderr).toContain(`${incident.snapshot} on ${DRIFTED}: its base`);
      expect(stderr).toContain('  → `reconcile` heals it (pull)');
      expect(lastLine(stderr)).toBe(`BLOCKED: ${incident.snapshot} cannot start on ${DRIFTED} (BASE_DRIFTED).`);
    }
  });

  test('of a digest that is not known, and of an epoch that does not answer', async () => {
    const unknown = await reconcile(fleet, 'digest', 'simular/win11', 'simular/win11:gone', '-o', 'json');
    expect(unknown.code).toBe(3);
    expect(JSON.parse(unknown.stdout)).toMatchObject({
      error: null,
      desired: [{ error: null }, { error: { code: 'TAG_NOT_FOUND' } }],
    });
    expect(unknown.stderr).toMatch(/^simular\/win11:gone: epoch has no tag gone/);
    expect(lastLine(unknown.stderr)).toBe('INCOMPLETE: the content of 1 of 2 references is not known.');

    await writeFile(
      join(fleet.dir, 'no-epoch.yaml'),
      JSON.stringify({ epoch: { url: 'http://127.0.0.1:9', retries: 0 }, nodes: ['n1'] }),
    );
    const { code, stdout, stderr } = await start([
      'digest',
      'simular/win11',
      '-o',
      'json',
      '-c',
      join(fleet.dir, 'no-epoch.yaml'),
    ]).ended;
    expect(code).toBe(1);
    expect(JSON.parse(stdout)).toMatchObject({
      error: { code: 'REGISTRY_UNREACHABLE' },
      desired: [{ contentDigest: null }],
    });
    expect(lastLine(stderr)).toBe('ERROR REGISTRY_UNREACHABLE: no reference could be asked for.');
  });

  test('and nothing where all is well', async () => {
    for (const args of [
      ['-n', ...SOUND],
      ['gate', '-s', incident.snapshot, ...SOUND],
      ['digest', 'simular/win11'],
      ['nodes'],
    ]) {
      const { code, stderr } = await reconcile(fleet, ...args, '-o', 'json');
      expect([args, code, stderr]).toEqual([args, 0, '']);
    }
  });
});

describe('a filtered run says how what was named stands', () => {
  test('where all is well', async () => {
    const { code, stdout } = await reconcile(fleet, '-n', '-i', 'simular/win11', ...SOUND);
    expect(code).toBe(0);
    expect(stdout).toContain(
      `simular/win11:latest in-sync on cocoonset-node-[2-3]\n${incident.snapshot} clonable on cocoonset-node-[2-3]\n`,
    );
  });

  test('beside what is wrong, and by the name of a snapshot', async () => {
    const { code, stdout } = await reconcile(fleet, '-n', '-s', incident.snapshot);
    expect(code).toBe(2);
    expect(stdout).toMatch(/^stale +simular\/win11:latest /m);
    expect(stdout).toContain('simular/win11:latest in-sync on cocoonset-node-[2-3]\n');
  });

  test('and of what some nodes do not hold', async () => {
    await fleet.epoch.pushImage('base/ubuntu', 'latest', { content: makeQcow2({ seed: 'ubuntu', size: 256 * 1024 }) });
    await fleet.node('cocoonset-node-2').pull(`${fleet.epoch.url}/dl/base/ubuntu`);
    const { code, stdout, stderr } = await reconcile(fleet, '-n', '-i', 'base/ubuntu:latest', ...SOUND);
    expect([code, stderr]).toEqual([0, '']);
    expect(stdout).toContain(
      'base/ubuntu:latest in-sync on cocoonset-node-2\nbase/ubuntu:latest: nothing to judge on cocoonset-node-3\n',
    );
  });

  test('but not with --quiet, and not where only something was excluded', async () => {
    expect(await reconcile(fleet, '-n', '-q', '-i', 'simular/win11', ...SOUND)).toEqual({
      code: 0,
      stdout: '',
      stderr: '',
    });
    const { stdout } = await reconcile(fleet, '-n', '-i', '!base/ubuntu', ...SOUND);
    expect(stdout).toContain('cocoonset-node-[2-3]  in-sync\n');
  });
});
