/** The parts of `scripts/bench` that can be wrong without anybody seeing it. The whole takes minutes, and is no test. */
import { existsSync } from 'node:fs';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { until } from '../support/guard.ts';
import { measure } from './measure.ts';
import { makeNodes } from './nodes.ts';
import { costTable, median, medianCost, targetLine } from './tables.ts';

describe('tables', () => {
  test('the median of an odd and of an even number of values', () => {
    expect(median([10, 9, 100])).toBe(10);
    expect(median([1, 4, 100, 2])).toBe(3);
  });

  test('each figure has its own median', () => {
    const costs = [1, 2, 3].map((n) => ({ wallMs: n, cpuMs: 10 - n, peakBytes: n === 2 ? 50 : n, serverMs: 0 }));
    expect(medianCost(costs)).toEqual({ wallMs: 2, cpuMs: 8, peakBytes: 3, serverMs: 0 });
  });

  test('every row is a ratio to every base', () => {
    const own = { name: 'ours', cost: { wallMs: 500, cpuMs: 100, peakBytes: 40e6, serverMs: 7000 } };
    const other = { name: 'theirs', cost: { wallMs: 1000, cpuMs: 400, peakBytes: 10e6, serverMs: 70 } };
    expect(costTable([own, other], [other])).toBe(
      [
        '             wall s  CPU s  peak MB  wall /1  CPU /1  MB /1  server CPU s',
        'ours           0.50   0.10       40    0.500   0.250  4.000          7.00',
        'theirs (/1)    1.00   0.40       10    1.000   1.000  1.000          0.07',
      ].join('\n'),
    );
  });

  test('a target is kept at its limit, and not above it', () => {
    const show = (value: number) => value.toFixed(2);
    expect(targetLine('wall', 0.5, 0.5, show)).toBe('met      wall: 0.50 (at most 0.50)');
    expect(targetLine('wall', 0.51, 0.5, show)).toBe('not met  wall: 0.51 (at most 0.50)');
  });
});

describe('measuring', () => {
  let dir: string;
  beforeAll(async () => {
    dir = await mkdtemp(join(tmpdir(), 'bench-'));
  });
  afterAll(() => rm(dir, { recursive: true, force: true }));
  const run = (script: string, signal = new AbortController().signal) =>
    measure(['sh', '-c', script], { env: { PATH: process.env['PATH'] ?? '' }, dir, signal });

  test('what a grandchild used is in it, and what it held', async () => {
    const busy = `const held = Buffer.alloc(64e6, 1); while (process.cpuUsage().user < 200e3) held[0]++`;
    const { cpuMs, peakBytes, code } = await run(`sh -c '"${process.execPath}" -e "${busy}"; exit 3'; exit $?`);
    expect(code).toBe(3);
    expect(cpuMs).toBeGreaterThanOrEqual(200);
    expect(peakBytes).toBeGreaterThan(64e6);
  });

  test('what it said comes back', async () => {
    expect(await run('echo out; echo err >&2')).toMatchObject({ code: 0, stdout: 'out\n', stderr: 'err\n' });
  });

  test('an interruption ends it with all its children', async () => {
    const interruption = new AbortController();
    const file = join(dir, 'pid');
    const running = run(
      `sh -c 'echo $$ >${file}.new; mv ${file}.new ${file}; exec sleep 1000'; true`,
      interruption.signal,
    );
    await until('a grandchild', () => existsSync(file));
    interruption.abort(new Error('enough'));
    await expect(running).rejects.toThrow('enough');
    const pid = (await readFile(file, 'utf8')).trim();
    await until('its end', () => !existsSync(`/proc/${pid}`), 10_000);
  });
});

test('every copy of a node names its own directory, and no other', async () => {
  const { fleet, nodes } = await makeNodes(3);
  try {
    expect(nodes.map((node) => node.drifted)).toEqual([true, false, false]);
    for (const { rootDir } of nodes) {
      const index = JSON.parse(await readFile(join(rootDir, 'snapshot', 'db', 'snapshots.json'), 'utf8')) as {
        snapshots: Record<string, { data_dir: string }>;
      };
      const dirs = Object.values(index.snapshots).map((snapshot) => snapshot.data_dir);
      expect(dirs).toHaveLength(2);
      for (const dir of dirs) {
        expect(dir.startsWith(`${rootDir}/snapshot/`)).toBe(true);
        const overlay = await readFile(join(dir, 'overlay.qcow2'), 'latin1');
        expect(overlay).toContain(`${rootDir}/cloudimg/blobs/`);
        expect(overlay.replaceAll(rootDir, '')).not.toContain(`${fleet.dir}/`);
      }
    }
  } finally {
    await fleet.down();
  }
});
