// What was not exactly understood reaches nobody: the real command, with an epoch and a node that note every connection.
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer, type AddressInfo, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { anyLine } from '../support/command-lines.ts';
import { start, type Run } from '../support/reconcile.ts';

const servers: Server[] = [];
let connections = 0;
let dir: string;

async function listen(): Promise<number> {
  const server = createServer((socket) => {
    connections += 1;
    socket.on('error', () => undefined);
    socket.destroy();
  });
  servers.push(server);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return (server.address() as AddressInfo).port;
}

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'command-line-'));
  const [epoch, node] = [await listen(), await listen()];
  const config = {
    epoch: { url: `http://127.0.0.1:${epoch}`, retries: 0 },
    nodes: [{ name: 'n1', host: '127.0.0.1', port: node }],
    run: { stateDir: dir },
    images: { track: [{ image: 'simular/win11' }] },
  };
  await writeFile(join(dir, 'reconcile.yaml'), JSON.stringify(config));
  const agent = 'spec: {agent: {image: "simular/win11-hot:v1"}}';
  const set = `apiVersion: cocoonset.cocoonstack.io/v1\nkind: CocoonSet\nmetadata: {name: demo}\n${agent}\n`;
  await writeFile(join(dir, 'set.yaml'), set);
});
afterAll(async () => {
  for (const server of servers) server.close();
  await rm(dir, { recursive: true, force: true });
});
beforeEach(() => {
  connections = 0;
});

async function run(argv: readonly string[]): Promise<Run> {
  return await start([...argv], { cwd: dir, env: { RECONCILE_CONFIG: join(dir, 'reconcile.yaml') } }).ended;
}

test.each([[['-n', '--timeout', '2s']], [['digest', 'simular/win11']]])('%j is understood, and asks', async (argv) => {
  const { stderr } = await run(argv);
  expect(connections, stderr).toBeGreaterThan(0);
});

const NAMED: string[][] = [
  ...['--dry-run=client', '--dry-run=', '-n1', '-n=1', '-nq1', '--dryRun=server', '--dry', '--no-dry-run'].map(
    (word) => [word],
  ),
  ['--dry-run', 'true'],
  ['gate', '--deep=yes', 'set.yaml'],
  ['gate', '-i', 'simular/win11', '--no-node'],
  ['-n', '--no-image'],
  ['digest', 'simular/win11', '\u2014no-stream'],
  ['digest', 'simular/win11', '--color', 'never'],
];
/** Without another config, which would be a reason of its own to end. */
const generated = anyLine
  .filter(({ argv, means }) => means === null && !argv.some((word) => /^(--config|-[nq]*c)/.test(word)))
  .map(({ argv }) => argv);

test('a line that is not exactly understood ends with 1 and one clear message, and nobody was asked', async () => {
  const lines = [...NAMED, ...fc.sample(generated, { numRuns: 34, seed: 20260509 })];
  for (let at = 0; at < lines.length; at += 4) {
    const batch = lines.slice(at, at + 4);
    for (const [i, { code, stderr }] of (await Promise.all(batch.map(run))).entries()) {
      const line = JSON.stringify(batch[i]);
      expect(`${line} ${code}`).toBe(`${line} 1`);
      expect(stderr, line).toMatch(/^[^\n]+\n? .*reconcile --help lists what there is.*\n$/);
    }
  }
  expect(connections).toBe(0);
});
