// The dead man's switch over a change on a node: whatever dies, the pull is ended there, cleans up after itself, and
// holds our lock until it is gone. On real sshd, as root and as somebody who must go through sudo.
import { execFile, spawn } from 'node:child_process';
import { access, chmod, cp, mkdir, readdir, readFile, rm, stat, symlink, utimes, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { breakAsInTheIncident, startFleet, type Fleet, type FleetNode, type Incident } from '../fleet/world.ts';
import {
  cocoonOn,
  cutConnections,
  firstOn,
  guard,
  isLocked,
  isRoot,
  lockFile,
  overBeforeUnlocked,
  startGuard,
  strays,
  until,
  type GuardOptions,
  type RunningGuard,
  LOGINS,
} from '../support/guard.ts';
import { imageOn, parseReport, start, type Run } from '../support/reconcile.ts';

const run = promisify(execFile);
const NODE = 'cocoonset-node-1';

let fleet: Fleet;
let incident: Incident;
let node: FleetNode;
/** What one test started and must not leave to the next. */
const cleanups: (() => unknown)[] = [];

beforeAll(async () => {
  fleet = await startFleet({ nodes: 1 });
  incident = await breakAsInTheIncident(fleet, [NODE]);
  node = fleet.node(NODE);
  await cp(indexFile(), join(fleet.dir, 'drifted.json'));
});
afterAll(async () => {
  await fleet?.down();
  if (node !== undefined) await rm(lockFile(node), { force: true });
});
// A test whose pull succeeds heals the node; the next one finds it as it was.
beforeEach(async () => await cp(join(fleet.dir, 'drifted.json'), indexFile()));
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
  fleet.epoch.heal();
  await until('no process left on the node', async () => (await strays(node)).length === 0);
});

const indexFile = (): string => join(node.rootDir, 'cloudimg', 'db', 'images.json');
const temporary = async (): Promise<string[]> => await readdir(join(node.rootDir, 'cloudimg', 'temp'));

/** From now on downloads come half the way and stand still. */
function stallDownloads(): void {
  fleet.epoch.fail({ match: /^GET \/dl\//, how: 'stall', times: 100 });
}

async function pullBegun(): Promise<void> {
  await until('a pull in progress', async () => (await temporary()).length > 0);
}

/** The pull is gone, our lock was held until then, and nothing is left of either. */
async function cleanlyOver(): Promise<void> {
  await overBeforeUnlocked(node, 'image', 'pull');
  expect(await temporary()).toEqual([]);
  await until('no process left on the node', async () => (await strays(node)).length === 0);
}

/** A directory for the scratch files of a guard. */
async function scratch(name: string): Promise<string> {
  const dir = join(fleet.dir, name);
  await rm(dir, { recursive: true, force: true });
  await mkdir(dir);
  await chmod(dir, 0o777);
  return dir;
}

/** Starts a pull by the guard alone, and waits until it downloads. */
async function pulling(options: GuardOptions = {}): Promise<RunningGuard> {
  stallDownloads();
  const started = startGuard(fleet, node, ['pull', incident.reference], options);
  await pullBegun();
  return started;
}

describe.each(LOGINS)('as %s', (who) => {
  const isOperator = who === 'an operator with sudo';
  let as: Pick<GuardOptions, 'user' | 'sudo'> = {};

  beforeAll(async () => {
    if (isOperator) as = { user: (await fleet.createOperator()).name, sudo: true };
    await fleet.writeConfig(isOperator ? { ssh: { user: as.user } } : {});
  });

  const reconcile = (...args: string[]): ReturnType<typeof start> =>
    start(['--config', fleet.configFile, '--output', 'json', ...args]);
  const codeAndError = ({ stdout, stderr, code }: Run): { code: number; error: string | undefined } => ({
    code,
    error: imageOn(parseReport(stdout, stderr), NODE).error?.code,
  });

  test('reconcile is killed in mid-pull', async () => {
    stallDownloads();
    const { child, ended } = reconcile();
    ended.catch(() => undefined);
    await pullBegun();
    child.kill('SIGKILL');
    await cleanlyOver();
  });

  test('reconcile is told to end in mid-pull: it says so', async () => {
    stallDownloads();
    const { child, ended } = reconcile();
    await pullBegun();
    child.kill('SIGTERM');
    expect(codeAndError(await ended)).toEqual({ code: 143, error: 'INTERRUPTED' });
    await cleanlyOver();
  });

  test("the server's side of the connection is killed in mid-pull: that action failed", async () => {
    stallDownloads();
    const { ended } = reconcile();
    await pullBegun();
    await cutConnections(fleet);
    expect(codeAndError(await ended)).toEqual({ code: 4, error: 'SSH_UNREACHABLE' });
    await cleanlyOver();
  });

  test('the client stands still: the pull ends after the silence, not before', async () => {
    const { client } = await pulling({ ...as, silence: 3 });
    cleanups.push(() => client.kill('SIGKILL'));
    client.kill('SIGSTOP');
    expect(isLocked(node)).toBe(true);
    await cleanlyOver();
    expect(client.exitCode).toBeNull();
  });

  test('a pull that takes too long is ended on the node, and both ways of saying so are understood', async () => {
    stallDownloads();
    const { lines } = await guard(fleet, node, ['pull', incident.reference], { ...as, deadline: 1 });
    expect(lines.at(-1)).toMatch(/^ended [1-9]\d* deadline$/);
    await cleanlyOver();
    await fleet.writeConfig({ ...(isOperator ? { ssh: { user: as.user } } : {}), rollout: { pullTimeout: '1s' } });
    cleanups.push(async () => await fleet.writeConfig(isOperator ? { ssh: { user: as.user } } : {}));
    expect(codeAndError(await reconcile().ended)).toEqual({ code: 4, error: 'PULL_TIMEOUT' });
    await cleanlyOver();
  });

  test('a second reconcile leaves the node alone while the first pulls', async () => {
    stallDownloads();
    const first = reconcile();
    await pullBegun();
    const second = await reconcile('-w', NODE).ended;
    expect(codeAndError(second)).toEqual({ code: 2, error: 'LOCKED' });
    expect(imageOn(parseReport(second.stdout), NODE)).toMatchObject({ outcome: 'skipped' });
    expect(await temporary()).toHaveLength(1);
    first.child.kill('SIGTERM');
    await first.ended;
    await cleanlyOver();
  });

  const shells: [string, string[]][] = [
    ['dash', ['dash']],
    ['bash', ['bash', '--posix']],
  ];
  describe.each(shells)('the script in %s', (_name, shell) => {
    let dir: string;
    /** With a directory of its own for scratch files, which must be empty at the end. */
    const options = (more: GuardOptions = {}): GuardOptions => ({
      ...as,
      shell: ['env', `TMPDIR=${dir}`, ...shell],
      ...more,
    });

    beforeAll(async () => (dir = await scratch(`scratch-${_name}`)));
    afterEach(async () => await until('no scratch file left', async () => (await readdir(dir)).length === 0));

    test('a pull ends with its own code and words', async () => {
      expect((await guard(fleet, node, ['pull', incident.reference], options())).lines.at(-1)).toBe('ended 0');
      const missing = await guard(fleet, node, ['pull', `${fleet.epoch.url}/dl/no/such`], options());
      expect(missing.lines.at(-1)).toBe('ended 1');
      expect(missing.lines.at(-2)).toMatch(/^said Error: .*404/);
      expect(isLocked(node)).toBe(false);
    });

    test('standard input ends, the connection does not', async () => {
      const { disconnect, ended } = await pulling(options());
      disconnect();
      expect((await ended).lines.at(-1)).toMatch(/^ended [1-9]\d* silence$/);
      await cleanlyOver();
    });

    test('the heartbeat stops, the connection does not', async () => {
      const { fallSilent, ended } = await pulling(options({ silence: 3 }));
      fallSilent();
      expect((await ended).lines.at(-1)).toMatch(/^ended [1-9]\d* silence$/);
      await cleanlyOver();
    });

    test('the client is killed', async () => {
      const { client } = await pulling(options());
      client.kill('SIGKILL');
      await cleanlyOver();
    });

    test('the guard itself is told to end', async () => {
      const { ended } = await pulling(options());
      process.kill(await firstOn(node, 'change', 'pull'), 'SIGTERM');
      expect((await ended).lines.at(-1)).toMatch(/^ended [1-9]\d*$/);
      await cleanlyOver();
    });

    test('signals were ignored before the guard began', async () => {
      const { client } = await pulling(
        options({
          shell: ['env', `TMPDIR=${dir}`, 'dash', '-c', 'trap "" HUP INT TERM PIPE; exec "$@"', 'sh', ...shell],
        }),
      );
      client.kill('SIGKILL');
      await cleanlyOver();
    });
  });

  test('the guard itself is killed', async () => {
    await pulling(as);
    process.kill(await firstOn(node, 'change', 'pull'), 'SIGKILL');
    await overBeforeUnlocked(node, 'image', 'pull');
    expect(await temporary()).toEqual([]);
  });

  test('the guard is killed with all of its own: the next one removes its scratch files', async () => {
    const dir = await scratch('left-behind');
    const options = { ...as, shell: ['env', `TMPDIR=${dir}`, 'sh'] };
    await pulling(options);
    const own = await cocoonOn(node, 'change', 'pull');
    const pulls = await cocoonOn(node, 'image', 'pull');
    for (const pid of own.filter((one) => !pulls.includes(one))) process.kill(pid, 'SIGKILL');
    for (const pid of await cocoonOn(node, 'image', 'pull')) process.kill(pid, 'SIGTERM');
    await overBeforeUnlocked(node, 'image', 'pull');
    const [left = ''] = await readdir(dir);
    expect(left).toMatch(/^cocoon-reconcile-change\.\d+\.\w{8}$/);
    const old = new Date(Date.now() - 3_600_000);
    await utimes(join(dir, left), old, old);
    await guard(fleet, node, ['tidy'], options);
    expect(await readdir(dir)).toEqual([]);
  });

  test.skipIf(!isRoot)(
    'nobody else gets at the lock, also where its directory was open; nothing else is left there',
    async () => {
      const stranger = (await fleet.createOperator({ sudo: false })).name;
      const place = dirname(lockFile(node));
      await guard(fleet, node, ['pull', incident.reference], as);
      await chmod(place, 0o755);
      await guard(fleet, node, ['pull', incident.reference], as);
      expect((await stat(place)).mode & 0o777).toBe(0o700);
      const hold = run('/usr/bin/setpriv', [
        `--reuid=${stranger}`,
        '--clear-groups',
        'flock',
        '-n',
        lockFile(node),
        'true',
      ]);
      await expect(hold).rejects.toThrow(/Permission denied/);
      expect((await readdir(dirname(place))).filter((name) => name.startsWith(`${basename(place)}.`))).toEqual([]);
    },
  );

  test.skipIf(!isRoot)('what merely looks like a pull is none: of a stranger, or of another program', async () => {
    const stranger = (await fleet.createOperator({ sudo: false })).name;
    const program = join(fleet.dir, `program-${as.user ?? 'root'}`);
    await cp('/bin/sh', program, { dereference: true });
    const like = ['-c', 'sleep 600; :', 'x', '--root-dir', node.rootDir, 'image', 'pull', incident.reference];
    const looks = (argv: string[]): number | undefined => {
      const { pid } = spawn('/usr/bin/setpriv', [...argv, ...like], { stdio: 'ignore', detached: true });
      cleanups.push(() => pid !== undefined && process.kill(-pid, 'SIGKILL'));
      return pid;
    };
    looks([`--reuid=${stranger}`, '--clear-groups', 'sh']);
    await until('what looks like a pull', async () => (await cocoonOn(node, 'image', 'pull')).length > 0);
    expect((await guard(fleet, node, ['pull', incident.reference], as)).lines.at(-1)).toBe('ended 0');
    looks([`--reuid=${stranger}`, '--clear-groups', program]);
    looks(['--nnp', 'sh']);
    await until('three of them', async () => (await cocoonOn(node, 'image', 'pull')).length === 3);
    const alone = await guard(fleet, node, ['pull', incident.reference], { ...as, binary: program });
    expect(alone.lines[0]).toBe('begun');
    const pid = looks(['--nnp', program]);
    await until('a pull of root', async () => (await cocoonOn(node, 'image', 'pull')).length === 4);
    const { lines } = await guard(fleet, node, ['pull', incident.reference], { ...as, binary: program });
    expect(lines).toEqual([`busy ${pid}`]);
  });

  test('a pull typed by hand is seen, in whichever way it names this root directory', async () => {
    stallDownloads();
    const dirs = ['--run-dir', node.runDir, '--log-dir', node.logDir];
    const forms: [string[], Record<string, string>][] = [
      [['--root-dir', node.rootDir, ...dirs], {}],
      [[`--root-dir=${node.rootDir}`, ...dirs], {}],
      [dirs, { COCOON_ROOT_DIR: node.rootDir }],
    ];
    for (const [flags, env] of forms) {
      const typed = spawn(node.binary, [...flags, 'image', 'pull', incident.reference, '--force'], {
        env: { ...process.env, ...env },
        stdio: 'ignore',
      });
      await pullBegun();
      expect((await guard(fleet, node, ['pull', incident.reference], as)).lines).toEqual([`busy ${typed.pid}`]);
      typed.kill('SIGTERM');
      await until('the end of that pull', async () => (await temporary()).length === 0);
    }
  });

  test('a pull of the same reference under another root directory, or of another one here, is nobody in the way', async () => {
    const other = join(fleet.dir, 'other-root');
    const dirs = ['--run-dir', join(other, 'run'), '--log-dir', join(other, 'log')];
    const elsewhere = spawn(node.binary, ['--root-dir', other, ...dirs, 'image', 'pull', incident.reference], {
      stdio: 'ignore',
    });
    const here = spawn(node.binary, ['--root-dir', node.rootDir, 'image', 'pull', `${incident.reference}/other`], {
      env: { ...process.env, COCOON_RUN_DIR: node.runDir, COCOON_LOG_DIR: node.logDir },
      stdio: 'ignore',
    });
    cleanups.push(
      () => here.kill('SIGKILL'),
      () => elsewhere.kill('SIGKILL'),
    );
    const { lines } = await guard(fleet, node, ['pull', incident.reference], as);
    expect(lines.at(-1)).toBe('ended 0');
  });

  test('a reference is data, whatever is in it', async () => {
    const trace = join(fleet.dir, 'trace');
    const hostile = [
      `$(touch ${trace})`,
      `\`touch ${trace}\``,
      `'; touch ${trace}; '`,
      `a b\ttouch ${trace}`,
      `\ntouch ${trace}\n`,
      `\\'; touch ${trace} #`,
    ].map((text) => `${fleet.epoch.url}/dl/no/such/${text}`);
    await node.clearLog();
    for (const reference of hostile) {
      const { lines } = await guard(fleet, node, ['pull', reference], as);
      expect(lines.at(-1), reference).toBe('ended 1');
    }
    const seen = (await node.commands()).filter((argv) => argv.includes('pull')).map((argv) => argv.at(-1));
    expect(seen).toEqual(hostile);
    await expect(access(trace)).rejects.toThrow();
  });

  test('a word that begins with a dash is no reference and no snapshot', async () => {
    await node.clearLog();
    for (const words of [
      ['pull', '--config=/tmp/other.json'],
      ['canary', 'reconcile-canary-x', '--config=/tmp/other.json'],
    ]) {
      const { lines, stderr, code } = await guard(fleet, node, words, as);
      expect(lines).toEqual([]);
      expect(stderr).toContain('refused: --config=/tmp/other.json');
      expect(code).toBe(2);
    }
    expect(await node.commands()).toEqual([]);
  });

  test('the lock is one and the same by whichever path the root directory is reached', async () => {
    await pulling(as);
    const alias = join(fleet.dir, `alias-${as.user ?? 'root'}`);
    await symlink(node.rootDir, alias);
    cleanups.push(async () => await rm(alias));
    for (const rootDir of [alias, `${alias}/`, `${node.rootDir}/../root/`]) {
      const { lines } = await guard(fleet, node, ['pull', incident.reference], { ...as, rootDir });
      expect(lines, rootDir).toEqual(['locked']);
    }
    cleanups.push(async () => await cutConnections(fleet));
  });

  test.skipIf(!isOperator)('its sudo is killed: the lock is free, but the orphan is seen', async () => {
    await pulling(as);
    process.kill(await firstOn(node, 'sudo', 'image', 'pull'), 'SIGKILL');
    await until('the lock is free', () => !isLocked(node));
    const { lines } = await guard(fleet, node, ['pull', incident.reference], as);
    expect(lines.at(-1)).toMatch(/^busy \d+$/);
    const orphans = await cocoonOn(node, 'image', 'pull');
    for (const pid of orphans) process.kill(pid, 'SIGTERM');
  });
});

describe('what a node may lack', () => {
  test('nothing but coreutils, util-linux, grep, sed and a shell is needed', async () => {
    const bin = join(fleet.dir, 'minimal');
    await mkdir(bin);
    const tools = [
      'cat',
      'chmod',
      'cut',
      'head',
      'id',
      'mkdir',
      'mktemp',
      'readlink',
      'rm',
      'sleep',
      'stat',
      'tail',
      'timeout',
      'tr',
    ];
    for (const tool of [...tools, 'flock', 'setsid', 'grep', 'sed', 'sh', 'env', 'dash']) {
      const { stdout } = await run('sh', ['-c', 'command -v "$1"', 'sh', tool]);
      await symlink(stdout.trim(), join(bin, tool));
    }
    const shell = [join(bin, 'env'), `PATH=${bin}`, 'dash'];
    expect((await guard(fleet, node, ['pull', incident.reference], { shell })).lines.at(-1)).toBe('ended 0');
    const { client } = await pulling({ shell });
    client.kill('SIGKILL');
    await cleanlyOver();
  });

  test('a cocoon that is a script around the real one is ended with it', async () => {
    const binary = join(fleet.dir, 'around');
    await writeFile(binary, `#!/bin/sh\n'${node.binary}' "$@"\nexit $?\n`, { mode: 0o755 });
    const { client } = await pulling({ binary });
    client.kill('SIGKILL');
    await cleanlyOver();
  });

  test('the watch ends with the guard, not only with the connection', async () => {
    const text = await readFile(new URL('../../src/node/change.sh', import.meta.url), 'utf8');
    const words = ['abc', 'pull', node.rootDir, 'no', '60', '60', 'true', '', '', 'some/reference'];
    const open = spawn('sleep', ['60'], { stdio: ['ignore', 'pipe', 'ignore'] });
    cleanups.push(() => open.kill());
    const local = spawn('sh', ['-c', text, 'change', ...words], { stdio: [open.stdout, 'ignore', 'ignore'] });
    await new Promise((resolve) => local.once('exit', resolve));
    await until('the watch is gone', async () => (await cocoonOn(node, 'change', 'pull')).length === 0);
  });

  test('a script that was cut on its way does nothing at all', async () => {
    await node.clearLog();
    const { client, ended } = startGuard(fleet, node, ['pull', incident.reference], {
      shell: [
        'sh',
        '-c',
        'head -c "$2" >"$1.script" && head -c 100 >/dev/null; eval "$(head -c 7000 "$1.script")"',
        'sh',
        join(fleet.dir, 'cut'),
        '7000',
      ],
    });
    client.stdin?.end();
    expect((await ended).lines).toEqual([]);
    expect(await node.commands()).toEqual([]);
  });
});

describe.skipIf(!isRoot)('a lock without /run', () => {
  let user: string;
  let uid: number;
  let dir: string;

  beforeAll(async () => {
    user = (await fleet.createOperator({ sudo: false })).name;
    uid = Number((await run('id', ['-u', user])).stdout);
    dir = `/tmp/cocoon-reconcile-${uid}`;
  });
  afterEach(async () => await rm(dir, { recursive: true, force: true }));

  const attempt = async (): Promise<string> => {
    const { lines, stderr } = await guard(fleet, node, ['pull', 'x'], { user, binary: 'true' });
    return lines.at(-1) ?? stderr.trim();
  };

  test('lies in a directory of the own in /tmp', async () => {
    expect(await attempt()).toBe('ended 0');
    expect(await readdir(dir)).toHaveLength(1);
  });

  test('is never where somebody else was first', async () => {
    await mkdir(dir, { mode: 0o777 });
    await chmod(dir, 0o777);
    expect(await attempt()).toMatch(/no directory for a lock/);
    expect(await readdir(dir)).toEqual([]);
  });

  test('is never at the end of a link', async () => {
    const elsewhere = join(fleet.dir, 'elsewhere');
    await mkdir(elsewhere);
    await run('chown', [user, elsewhere]);
    await symlink(elsewhere, dir);
    await run('chown', ['-h', user, dir]);
    expect(await attempt()).toMatch(/no directory for a lock/);
    expect(await readdir(elsewhere)).toEqual([]);
  });
});
