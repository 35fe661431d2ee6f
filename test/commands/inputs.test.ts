// What a command reads before it speaks to anybody is bounded, and the deadline and signals reach it: programs, pipes, YAML.
import { execFile, spawn } from 'node:child_process';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { stringify } from 'yaml';
import { freshKeyPair } from '../doubles/ssh-server.ts';
import { parseReport, program, start, type Run } from '../support/reconcile.ts';

const run = promisify(execFile);

let dir: string;
const at = (name: string): string => join(dir, name);

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'inputs-'));
  await writeFile(at('key'), freshKeyPair().private, { mode: 0o600 });
  await writeFile(at('known_hosts'), '');
  for (const name of ['pipe', 'config-pipe']) await run('mkfifo', [at(name)]);
});
afterAll(() => rm(dir, { recursive: true, force: true }));

/** A config of a node and an epoch that are not there, with these keys laid over. */
async function config(changes: Record<string, Record<string, unknown>>, name = 'reconcile.yaml'): Promise<string> {
  const { nodes = [{ name: 'n1', host: '127.0.0.1', port: 1 }], ...rest } = changes;
  const base: Record<string, unknown> = {
    epoch: { url: 'http://127.0.0.1:9', retries: 0 },
    ssh: { identityFile: at('key'), knownHostsFile: at('known_hosts'), configFile: 'none' },
    run: { stateDir: at('state') },
    nodes,
  };
  for (const [key, value] of Object.entries(rest)) base[key] = { ...(base[key] as object), ...value };
  await writeFile(at(name), stringify(base));
  return at(name);
}

/** A program that says who it and its child are, and never ends. */
async function endless(name: string): Promise<{ command: string[]; pids: () => Promise<number[]> }> {
  await writeFile(at(name), `#!/bin/sh\nsleep 1000 &\necho $$ $! > ${at(name)}.pids\nwait\n`, { mode: 0o755 });
  const pids = async (): Promise<number[]> => {
    const said = await vi.waitFor(() => readFile(at(`${name}.pids`), 'utf8'), { timeout: 30_000, interval: 20 });
    return said.trim().split(' ').map(Number);
  };
  return { command: [at(name)], pids };
}

/** Waits until none of the processes is there any more. */
async function allGone(pids: number[]): Promise<void> {
  const stateOf = async (pid: number): Promise<string> =>
    (await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => '')).replace(/^.*\) (\S).*$/s, '$1');
  await vi.waitFor(async () => expect((await Promise.all(pids.map(stateOf))).join('')).toMatch(/^Z*$/), {
    timeout: 20_000,
    interval: 20,
  });
}

describe('inventory.command', () => {
  test.each([
    ['nodes', []],
    ['run', ['--dry-run', '-o', 'json']],
    ['gate', ['-s', 'a/b:v1', '-o', 'json']],
  ] as const)('that never ends is ended with its child by the deadline of %s', async (name, more) => {
    const { command, pids } = await endless(`hangs-${name}`);
    const file = await config({ nodes: [] as never, inventory: { command } }, `deadline-${name}.yaml`);
    const { code, stdout, stderr } = await start([name, '--config', file, '--timeout', '2s', ...more]).ended;
    expect(code).toBe(1);
    expect(stderr).toContain("the run's deadline of 2.0 s passed");
    if (name !== 'nodes') expect(parseReport(stdout).run.error?.code).toBe('RUN_DEADLINE');
    await allGone(await pids());
  });

  test.each([
    ['SIGINT', 130, 'run'],
    ['SIGTERM', 143, 'gate'],
    ['SIGHUP', 129, 'nodes'],
  ] as const)(
    'that never ends is ended with its child by %s, and the exit code is %i',
    async (signal, exitCode, name) => {
      const { command, pids } = await endless(`signal-${name}`);
      const file = await config({ nodes: [] as never, inventory: { command } }, `signal-${name}.yaml`);
      const asked = name === 'gate' ? ['-s', 'a/b:v1'] : name === 'run' ? ['--dry-run'] : [];
      const { child, ended } = start([name, '--config', file, ...asked]);
      const started = await pids();
      child.kill(signal);
      const { code, stderr } = await ended;
      expect(code).toBe(exitCode);
      expect(stderr).toContain(`interrupted by ${signal}`);
      await allGone(started);
    },
  );

  test('is taken at its word when it has ended, though a child of its own still holds its output', async () => {
    await writeFile(at('leaves'), `#!/bin/sh\nsleep 1000 &\necho $! > ${at('left')}\necho '["a1", "a2"]'\n`, {
      mode: 0o755,
    });
    const file = await config({ nodes: [] as never, inventory: { command: [at('leaves')] } }, 'leaves.yaml');
    const { code, stdout } = await start(['nodes', '--config', file]).ended;
    process.kill(Number(await readFile(at('left'), 'utf8')));
    expect(code).toBe(0);
    expect(stdout).toMatch(/^a1 .*\na2 /m);
  });
});

describe('a pipe in the place of a file is refused by its name, and never waited for', () => {
  const EMPTY = 'is not a regular file';
  const nodes = (args: string[]): Promise<Run> => start(['nodes', ...args]).ended;
  const dry = (file: string): Promise<Run> => start(['--dry-run', '-o', 'json', '--config', file]).ended;
  const refused = async (ended: Promise<Run>, name: string): Promise<void> => {
    const { code, stderr } = await ended;
    expect(code).toBe(1);
    expect(stderr).toContain(`${name} ${EMPTY}`);
  };

  test('the config, and what it names', async () => {
    await refused(nodes(['--config', at('config-pipe')]), at('config-pipe'));
    for (const changes of [
      { inventory: { file: at('pipe') } },
      { epoch: { tokenFile: at('pipe') } },
      { epoch: { caFile: at('pipe') } },
    ]) {
      await refused(nodes(['--config', await config(changes)]), at('pipe'));
    }
    const ssh = await nodes(['--config', await config({ ssh: { configFile: at('pipe') } })]);
    expect(ssh.stderr).toContain(`${at('pipe')}: ${EMPTY}`);
    expect(ssh.code).toBe(1);
  });

  test('a manifest', async () => {
    await refused(start(['gate', '--config', await config({}), at('pipe')]).ended, `${at('pipe')}:`);
  });

  test('the state directory, and what is kept there', async () => {
    const inPlace = await dry(await config({ run: { stateDir: at('pipe') } }));
    expect(inPlace.code).toBe(1);
    expect(inPlace.stderr).toContain(`run.stateDir: ${at('pipe')} cannot be used (it is no directory)`);
    await mkdir(at('odd-state'));
    await run('mkfifo', [join(at('odd-state'), 'learned.json')]);
    const within = await dry(await config({ run: { stateDir: at('odd-state') } }));
    expect(within.code).toBe(1);
    expect(within.stderr).toContain(`run.stateDir: ${at('odd-state')} cannot be used (learned.json ${EMPTY})`);
  });

  test.each([
    ['knownHostsFile', 'CONFIG_INVALID'],
    ['identityFile', 'SSH_IDENTITY_UNUSABLE'],
  ])('%s: an error of the nodes that it is for', async (key, code) => {
    const { stdout } = await dry(await config({ ssh: { [key]: at('pipe') } }));
    const { error } = parseReport(stdout).nodes[0] ?? {};
    expect(error?.code).toBe(code);
    expect(error?.message).toContain(at('pipe'));
    expect(error?.message).toContain(EMPTY);
  });
});

describe('a config or an inventory from a pipe', () => {
  const bash = async (script: string, env: Record<string, string> = {}): Promise<Run> => {
    const child = spawn('bash', ['-c', script], {
      cwd: dir,
      env: { ...process.env, reconcile: `${process.execPath} ${program}`, ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let [stdout, stderr] = ['', ''];
    child.stdout.on('data', (chunk: Buffer) => (stdout += chunk.toString()));
    child.stderr.on('data', (chunk: Buffer) => (stderr += chunk.toString()));
    const code = await new Promise<number>((resolve) => child.once('close', (ended) => resolve(ended ?? -1)));
    return { code, stdout, stderr };
  };

  test.each([
    ['-c <(…)', '$reconcile nodes -c <(cat piped.yaml)'],
    ['-c <(…) that comes late', '$reconcile nodes -c <(sleep 0.3; cat piped.yaml)'],
    ['-c -', 'cat piped.yaml | $reconcile nodes -c -'],
    ['/dev/stdin', '$reconcile nodes -c /dev/stdin < piped.yaml'],
    ['RECONCILE_CONFIG', 'RECONCILE_CONFIG=<(cat piped.yaml) $reconcile nodes'],
    ['inventory.file', 'echo \'["n1"]\' | $reconcile nodes -c listed.yaml'],
  ])('is read: %s', async (_, script) => {
    await config({}, 'piped.yaml');
    await config({ nodes: [] as never, inventory: { file: '-' } }, 'listed.yaml');
    const { code, stdout, stderr } = await bash(script);
    expect(stderr).toBe('');
    expect(stdout).toMatch(/^n1 /m);
    expect(code).toBe(0);
  });

  test.each([
    ['never comes', '$reconcile nodes --timeout 1s -c <(sleep 20)', "the run's deadline of 1.0 s passed"],
    ['is no end', '$reconcile nodes -c <(cat /dev/zero)', /\/dev\/fd\/\d+ is larger than 16384 KiB/],
    ['is wrong', 'echo "epoch: 1" | $reconcile nodes -c -', 'stdin:1:8: epoch: must be a map of keys'],
    [
      'names a file beside itself',
      'echo "{epoch: {url: http://127.0.0.1:9}, ssh: {identityFile: id}, nodes: [a]}" | $reconcile nodes -c -',
      'stdin: "id" is a relative path',
    ],
    ['is stdin, as the manifest', '$reconcile gate -c - - < piped.yaml', 'stdin is named twice'],
  ])('that %s is refused', async (_, script, said) => {
    await config({}, 'piped.yaml');
    const { code, stderr } = await bash(script);
    expect(stderr).toMatch(said);
    expect(code).toBe(1);
  });
});

describe('YAML', () => {
  test('whose merge keys stand for more than a machine can hold is refused before it is computed', async () => {
    const wide = Array.from({ length: 90_000 }, (_, i) => `k${i.toString(16)}: 1, `).join('');
    const text = `a: &a {${wide}}\nb: {<<: [${'*a, '.repeat(99)}]}\nkind: X\n`;
    const names = await Promise.all(
      [1, 2].map(async (n) => {
        await writeFile(at(`wide-${n}.yaml`), text);
        return at(`wide-${n}.yaml`);
      }),
    );
    const { code, stderr } = await start(['gate', '--timeout', '30s', '--config', await config({}), ...names]).ended;
    expect(code).toBe(1);
    expect(stderr).toContain(`${at('wide-1.yaml')}:2: what begins here is more than 1000000 values`);
  });

  test('that never comes on stdin ends with the deadline', async () => {
    const args = [program, 'gate', '--timeout', '1s', '--config', await config({}), '-'];
    const child = spawn(process.execPath, args, { stdio: ['pipe', 'ignore', 'pipe'] });
    let stderr = '';
    child.stderr.on('data', (chunk: Buffer) => (stderr += chunk.toString()));
    child.stdin.write('kind: ');
    const code = await new Promise((resolve) => child.once('close', resolve));
    expect(code).toBe(1);
    expect(stderr).toContain("the run's deadline of 1.0 s passed");
  });
});
