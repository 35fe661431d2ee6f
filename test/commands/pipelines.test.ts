// What a pipeline runs: the shell lines of config/ci, in an empty environment, through a real sshd that lets its key do one thing.
import { execFile, spawn } from 'node:child_process';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir, userInfo } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { parse } from 'yaml';
import { freshKeyPair } from '../doubles/ssh-server.ts';
import { startSshd, type NodeServer } from '../fleet/sshd.ts';
import { breakAsInTheIncident, startFleet, type Fleet } from '../fleet/world.ts';
import { program, reconcile, type Run } from '../support/reconcile.ts';
import { junitProblems, SCHEMAS } from '../support/junit.ts';

const root = new URL('../../', import.meta.url).pathname;
const key = freshKeyPair();

let fleet: Fleet;
let bastion: NodeServer;
let dir: string;
let knownHost: string;

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'pipeline-'));
  fleet = await startFleet({ nodes: 2 });
  const { snapshot } = await breakAsInTheIncident(fleet, ['cocoonset-node-2']);
  const command = `${root}config/ci/bastion-gate ${fleet.configFile} ${process.execPath} ${program}`;
  bastion = await startSshd({
    dir: join(dir, 'sshd'),
    authorizedKeys: [`restrict,command="${command}" ${key.public}`],
    config: ['AcceptEnv GITHUB_ACTIONS'],
  });
  knownHost = `[${bastion.host}]:${bastion.port} ${(await bastion.hostKeys())[0]}`;
  await mkdir(join(dir, 'checkout/sets'), { recursive: true });
  await writeFile(join(dir, 'key'), key.private, { mode: 0o600 });
  await writeFile(join(dir, 'known_hosts'), `${knownHost}\n`);
  await writeFile(
    join(dir, 'checkout/sets/win.yaml'),
    `apiVersion: cocoonset.cocoonstack.io/v1\nkind: CocoonSet\nmetadata:\n  name: demo\nspec:\n  agent:\n    image: ${snapshot}\n`,
  );
  for (const args of [
    ['init', '-q'],
    ['add', '.'],
  ])
    await promisify(execFile)('git', args, { cwd: join(dir, 'checkout') });
});
afterAll(async () => {
  await bastion?.stop();
  await fleet?.down();
  await rm(dir, { recursive: true, force: true });
});

/** Shell lines, as a runner starts them, with nothing in the environment but this. */
async function shell(script: string, env: Record<string, string>): Promise<Run> {
  const child = spawn('bash', ['-e', '-o', 'pipefail', '-c', script], {
    cwd: join(dir, 'checkout'),
    env: { PATH: process.env['PATH'] ?? '', HOME: dir, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let [stdout, stderr] = ['', ''];
  child.stdout.on('data', (chunk: Buffer) => (stdout += chunk.toString()));
  child.stderr.on('data', (chunk: Buffer) => (stderr += chunk.toString()));
  const code = await new Promise<number>((resolve) => child.once('close', (ended) => resolve(ended ?? -1)));
  return { code, stdout, stderr };
}

/** What the pipeline knows. */
const given = (): Record<string, string> => ({
  BASTION: `ssh://${userInfo().username}@${bastion.host}:${bastion.port}`,
  BASTION_HOST_KEY: knownHost,
  BASTION_KEY: key.private.trimEnd(),
});

describe('a job that asks the bastion', () => {
  const summary = (): string => join(dir, 'summary');
  const onGitHub = async (): Promise<Run & { said: string }> => {
    const { jobs } = parse(await readFile(`${root}config/ci/github.yaml`, 'utf8')) as {
      jobs: { gate: { steps: { run?: string }[] } };
    };
    const script = jobs.gate.steps.flatMap(({ run }) => run ?? []).join('\n');
    await writeFile(summary(), '');
    const env = { ...given(), GITHUB_ACTIONS: 'true', GITHUB_STEP_SUMMARY: summary() };
    return { ...(await shell(script, env)), said: await readFile(summary(), 'utf8') };
  };
  const onGitLab = async (): Promise<Run & { said: string }> => {
    const jobs = parse(await readFile(`${root}config/ci/gitlab.yaml`, 'utf8')) as Record<string, { script: string[] }>;
    const script = (jobs['images-can-start']?.script ?? []).join('\n');
    return { ...(await shell(script, given())), said: await readFile(join(dir, 'checkout/gate.xml'), 'utf8') };
  };

  test('is blocked where a node cannot start it, with the line of the manifest; healed, it passes', async () => {
    const blocked = await onGitHub();
    expect(blocked.said).toMatch(/^### ⛔ reconcile gate: blocked, 1 of 1 image cannot start everywhere$/m);
    expect(blocked.said).toMatch(
      /^\| ⛔ \| `simular\/win11-hot-testing:v1-20260509` \| clone \| default \| 1\/2 \| `cocoonset-node-2` \| BASE\\_DRIFTED/m,
    );
    expect(blocked.said).toContain('**To unblock, on the bastion:** `reconcile -w cocoonset-node-2`');
    expect(blocked.stderr).toMatch(
      /^::error file=sets\/win\.yaml,line=7::simular\/win11-hot-testing:v1-20260509 cannot start on cocoonset-node-2/m,
    );
    expect(blocked.code).toBe(2);

    const junit = await onGitLab();
    expect(junit.said).toMatch(/<failure type="BASE_DRIFTED"/);
    expect(junit.said).toMatch(/ file="sets\/win\.yaml" line="7"/);
    for (const schema of Object.keys(SCHEMAS)) expect(await junitProblems(junit.said, schema)).toEqual([]);
    expect(junit.stderr).not.toContain('::error');
    expect(junit.code).toBe(2);

    expect((await reconcile(fleet)).code).toBe(0);
    const passed = await onGitHub();
    expect(passed.said).toMatch(/^### ✅ reconcile gate: passes, 1 image can start$/m);
    expect(passed.stderr).toBe('');
    expect(passed.code).toBe(0);
    expect((await onGitLab()).code).toBe(0);
  });
});

describe('the key of a pipeline', () => {
  const ssh = async (asked: string, before: string[] = []): Promise<Run> => {
    const args = ['-T', '-F', 'none', '-i', join(dir, 'key'), '-o', `UserKnownHostsFile=${join(dir, 'known_hosts')}`];
    const to = ['-p', String(bastion.port), ...before, `${userInfo().username}@${bastion.host}`];
    const words = [...args, ...to, ...(asked === '' ? [] : ['--', asked])];
    return await shell(`exec ssh ${words.map((word) => `'${word.replaceAll("'", `'\\''`)}'`).join(' ')}`, {});
  };

  test.each([
    'sh',
    'gate; id',
    'gate && id',
    'gate | id',
    'gate $(id)',
    'gate `id`',
    'gate > /tmp/x',
    'gate\nid',
    'gate -c /tmp/evil.yaml',
    'gate --config=/tmp/evil.yaml',
    'gate /etc/passwd',
    'gate -',
    'gate -o ../../etc/passwd',
    'gate -o json -o table',
    'gate -o',
    'gate --min-ready 0',
    'gate --min-ready 1e9',
    'gate --min-ready=5%%',
    'gate --timeout 99999999m',
    'gate --log-level debug',
    'run',
    '--dry-run',
    'gateway',
    'scp -t /tmp',
    `gate ${'-o json '.repeat(40)}`,
    'gate --deep *',
  ])('does not do %j', async (asked) => {
    const { code, stdout, stderr } = await ssh(asked);
    expect(stderr).toContain('bastion-gate: refused');
    expect(stdout).toBe('');
    expect(code).toBe(1);
  });

  test('opens no terminal, no tunnel and no file transfer', async () => {
    const forwarded = await ssh('gate', ['-o', 'ExitOnForwardFailure=yes', '-R', '0:127.0.0.1:1']);
    expect(forwarded.code).toBe(255);
    const sftp = await shell(
      `exec sftp -F none -q -b /dev/null -i ${join(dir, 'key')} -o UserKnownHostsFile=${join(dir, 'known_hosts')} -P ${bastion.port} ${userInfo().username}@${bastion.host}`,
      {},
    );
    expect(sftp.code).not.toBe(0);
  });

  test('asks with all words that it may, and without any', async () => {
    const asked = await ssh('gate -o json --min-ready 50% --timeout 60s');
    expect(JSON.parse(asked.stdout)).toMatchObject({ run: { mode: 'gate', error: { code: 'GATE_EMPTY' } } });
    const bare = await ssh('');
    expect(bare.stderr).toContain('the gate has nothing to ask');
    expect(bare.code).toBe(1);
  });
});
