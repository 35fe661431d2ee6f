// A run ends: whenever V8 collects garbage, and also where its main thread does nothing any more.
import { execFileSync, spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { fromMemory } from '../doubles/memory-answers.ts';
import { startSshServer } from '../doubles/ssh-server.ts';
import type { NodeServer } from '../fleet/sshd.ts';
import { breakAsInTheIncident, startFleet, type Fleet } from '../fleet/world.ts';
import { parseReport, program, start } from '../support/reconcile.ts';

/** Further ones than that of the tests can be named: paths with colons between. */
const NODE_BINARIES = [process.execPath, ...(process.env['NODE_BINARIES'] ?? '').split(':').filter(Boolean)];
const CONNECTIONS = 1000;

let fleet: Fleet;
let server: NodeServer;
/** Code that occupies a thread for good: the other end of the pipe never comes. */
let opening: string;

beforeAll(async () => {
  fleet = await startFleet({ nodes: 1 });
  await breakAsInTheIncident(fleet, []);
  const [node] = fleet.nodes as [Fleet['nodes'][0]];
  const fifo = join(fleet.dir, 'fifo');
  execFileSync('mkfifo', [fifo]);
  opening = `require('node:fs').open('${fifo}', () => undefined)`;
  const hook = fromMemory('one');
  server = await startSshServer({
    authorizedKeys: [fleet.publicKey],
    mark: node.dir,
    host: '0.0.0.0',
    onExec: () => hook,
  });
  const [key] = await server.hostKeys();
  await writeFile(fleet.knownHostsFile, `[127.0.*]:${server.port} ${key}\n`);
  const { rootDir, runDir, logDir, binary } = node;
  const nodes = Array.from({ length: CONNECTIONS }, (_, i) => ({
    name: `n${i}`,
    host: `127.0.${1 + (i >> 8)}.${i & 255}`,
    port: server.port,
    binary,
    rootDir,
    runDir,
    logDir,
  }));
  await fleet.writeConfig({ nodes, ssh: { connectTimeout: '60s' } }); // all of them are one busy machine
});
afterAll(async () => {
  await server.stop();
  await fleet.down();
});

/**
 * A lock that is held while V8 allocates, and is wanted where it collects, stops a run for ever. `--gc-interval` alone hardly
 * changes when a released V8 collects; a small young generation, and all of the heap collected each time, do.
 */
const COLLECTING = ['--gc-interval=53', '--gc-interval=499', '--gc-interval=20011 --gc-global --max-semi-space-size=1'];

describe.each(NODE_BINARIES)('%s', (execPath) => {
  test.each(COLLECTING)(
    `${CONNECTIONS} connections end with %s`,
    async (flags) => {
      const args = ['--dry-run', '--output', 'json', '--config', fleet.configFile];
      const { ended } = start(args, { node: [execPath, ...flags.split(' ')] });
      const { code, stdout, stderr } = await ended;
      expect(stderr).toBe('');
      expect(code).toBe(0);
      expect(parseReport(stdout).summary.nodes.observed).toBe(CONNECTIONS);
    },
    300_000,
  );
});

describe.concurrent('a main thread that hangs is ended by the watchdog', () => {
  /** What it does once the watchdog is there. */
  const WAITS = 'Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0)';
  const COMPUTES = 'for (;;);';

  /** Loaded before the program: makes it hang, and the minute of the watchdog a second. */
  async function preload(hang: string): Promise<string> {
    const file = join(fleet.dir, `${randomUUID()}.cjs`);
    await writeFile(
      file,
      `const threads = require('node:worker_threads');
      const { Worker } = threads;
      threads.Worker = class extends Worker {
        constructor(file, { workerData, ...options }) {
          super(file, { ...options, workerData: { ...workerData, graceMs: 1000 } });
          this.once('online', () => setImmediate(() => { ${hang} }));
        }
      };`,
    );
    return file;
  }
  const hanging = async (words: string[], hang: string) => {
    const file = await preload(hang);
    const args = [...words, '--timeout', '6s', '--config', fleet.configFile];
    return await start(args, { node: [process.execPath, '--require', file] }).ended;
  };
  const told = { code: 4, stdout: '', stderr: expect.stringMatching(/^reconcile: the program hangs: .*\n$/) as string };

  test('it waits for what never comes', async () => {
    expect(await hanging(['--dry-run'], WAITS)).toEqual(told);
  });

  test('in a gate too', async () => {
    expect(await hanging(['gate', '--image', 'simular/win11'], WAITS)).toEqual(told);
  });

  test('it computes without end', async () => {
    expect(await hanging(['--dry-run'], COMPUTES)).toEqual(told);
  });

  test('where an exit would wait for a file that does not open, by a signal', async () => {
    const hang = `${opening}; ${COMPUTES}`;
    await expect(hanging(['--dry-run'], hang)).rejects.toThrow(/SIGKILL: reconcile: the program hangs/);
  });

  test('and one that gives signs is not, long past its deadline, also after it was suspended', async () => {
    const script = `const { Worker } = require('node:worker_threads');
      const shared = new SharedArrayBuffer(8);
      new Worker(process.argv[1], { workerData: { shared, graceMs: 1000, line: 'ended' } }).unref();
      setInterval(() => Atomics.add(new Int32Array(shared), 0, 1), 50);
      process.stdout.write('ready');
      process.on('SIGTERM', () => process.exit(0));`;
    const thread = join(program, '../watchdog-thread.js');
    const child = spawn(process.execPath, ['-e', script, thread], { stdio: ['ignore', 'pipe', 'inherit'] });
    const ended = once(child, 'exit');
    await once(child.stdout, 'data');
    const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
    await pause(1500);
    child.kill('SIGSTOP');
    await pause(1500);
    child.kill('SIGCONT');
    await pause(500);
    child.kill('SIGTERM');
    expect(await ended).toEqual([0, null]);
  });
});

test.concurrent('a file that does not open keeps no run from ending', async () => {
  const file = join(fleet.dir, 'opening.cjs');
  await writeFile(file, opening);
  const { child, ended } = start(['nodes', '--config', fleet.configFile], {
    node: [process.execPath, '--require', file],
  });
  let stdout = '';
  child.stdout?.on('data', (chunk: Buffer) => (stdout += chunk.toString()));
  if ('execve' in process) expect((await ended).code).toBe(0);
  else await expect(ended).rejects.toThrow('SIGKILL');
  expect(stdout).toContain('n199');
});
