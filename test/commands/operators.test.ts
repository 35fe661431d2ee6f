// What operators copy from config/ for a run every night: the systemd units and the crontab, each by its own tool or grammar.
import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { parseArgs } from '../../src/cli/args/parse.ts';
import { ensureCommand } from '../fleet/sshd.ts';

const run = promisify(execFile);
const config = new URL('../../config/', import.meta.url).pathname;
const PROGRAM = '/usr/local/bin/reconcile';

let dir: string;
beforeAll(async () => void (dir = await mkdtemp(join(tmpdir(), 'units-'))));
afterAll(async () => await rm(dir, { recursive: true, force: true }));

/** The command is one that this version understands. */
function expectUnderstood(command: string): void {
  const [program, ...argv] = command.split(' ');
  expect(program).toBe(PROGRAM);
  expect(parseArgs(argv, '1')).toMatchObject({ kind: 'command', invocation: { name: 'run' } });
}

test('systemd takes the units without a word, and calls their exposure 2.0 at most', async () => {
  const analyze = await ensureCommand('systemd-analyze', 'systemd');
  const service = await readFile(`${config}systemd/cocoon-reconcile.service`, 'utf8');
  expectUnderstood(/^ExecStart=(.*)$/m.exec(service)?.[1] ?? '');
  const copy = join(dir, 'cocoon-reconcile.service');
  await writeFile(copy, service.replace(PROGRAM, '/bin/true'));
  await writeFile(
    join(dir, 'cocoon-reconcile.timer'),
    await readFile(`${config}systemd/cocoon-reconcile.timer`, 'utf8'),
  );
  const { stderr } = await run(analyze, ['verify', '--man=no', copy, join(dir, 'cocoon-reconcile.timer')]);
  expect(stderr.split('\n').filter((line) => line.includes('cocoon-reconcile'))).toEqual([]);
  const { stdout } = await run(analyze, ['security', '--offline=true', '--no-pager', copy]);
  expect(Number(/exposure level for \S+ ([\d.]+)/.exec(stdout)?.[1])).toBeLessThanOrEqual(2);
});

test('the crontab has its user, absolute paths, and a command that is understood', async () => {
  const text = await readFile(`${config}cron.d/reconcile`, 'utf8');
  expect(text).toMatch(/^MAILTO=\S+$/m);
  const jobs = text.split('\n').filter((line) => /^[\d*]/.test(line));
  expect(jobs).toHaveLength(1);
  const [, user, command = ''] = /^(?:\S+ ){5}(\S+) (.*)$/.exec(jobs[0] ?? '') ?? [];
  expect(user).toBe('root');
  expectUnderstood(command);
  expect(command).toContain('--quiet');
});
