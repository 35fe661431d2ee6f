// One sshd that serves many addresses and throttles: whoever connects to all of them at once loses some, we do not.
import { mkdtemp, readFile, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import ssh2 from 'ssh2';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { MARK } from '../fleet/sshd.ts';
import { startFleet, type Fleet } from '../fleet/world.ts';
import { report } from '../support/reconcile.ts';

const NODES = 200;

let fleet: Fleet;
let port: number;
const hosts = Array.from({ length: NODES }, (_, i) => `127.0.1.${i + 1}`);

beforeAll(async () => {
  const dir = await mkdtemp(join(tmpdir(), 'throttle-'));
  // SHLVL: bash then takes no start-up file, which on some machines would be slower than all the rest
  const config = [`SetEnv ${MARK}=${join(dir, 'nodes/n')} SHLVL=1`];
  const sshd = { host: '0.0.0.0', maxStartups: '5:30:10', config };
  fleet = await startFleet({ dir, nodes: [{ name: 'n', sshd }] });
  const [node] = fleet.nodes;
  if (node === undefined) throw new Error('no node');
  port = node.port;
  const [key] = await node.hostKeys();
  await writeFile(fleet.knownHostsFile, `[127.0.1.*]:${port} ${key}\n`);
  const { rootDir, runDir, logDir } = node;
  // a true cocoon says its version in milliseconds; 128 doubles at once, which start Node.js, would be the limit here
  const binary = join(fleet.dir, 'quick-cocoon');
  await writeFile(binary, "#!/bin/sh\necho 'Version: v0.3.8'\n", { mode: 0o755 });
  await fleet.writeConfig({
    nodes: hosts.map((host, i) => ({ name: `n${i + 1}`, host, port, binary, rootDir, runDir, logDir })),
  });
});
afterAll(() => fleet.down());

test('loses nodes to a client that connects to all of them at once', async () => {
  const privateKey = await readFile(fleet.identityFile);
  const logIn = (host: string): Promise<boolean> =>
    new Promise((resolve) => {
      const client = new ssh2.Client();
      const end = (reached: boolean): void => {
        resolve(reached);
        client.destroy();
      };
      client
        .on('ready', () => end(true))
        .on('error', () => end(false))
        .on('close', () => end(false));
      client.connect({ host, port, username: 'root', privateKey });
    });
  const reached = await Promise.all(hosts.map(logIn));
  expect(reached.filter((isReached) => !isReached).length).toBeGreaterThan(0);
});

test('is observed whole by one that backs off', async () => {
  const { summary, nodes } = await report(fleet, '--dry-run');
  expect(
    nodes.filter(({ status }) => status !== 'observed').map(({ name, error }) => `${name}: ${error?.message}`),
  ).toEqual([]);
  expect(summary.nodes).toMatchObject({ total: NODES, observed: NODES, unreachable: 0 });
});
