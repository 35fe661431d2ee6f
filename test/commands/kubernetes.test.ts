/** The manifests for Kubernetes, run: each pod's command with exactly the env and the files that its manifest gives it. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { createServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { parse, stringify } from 'yaml';
import { shardOf } from '../../src/core/shard/shard.ts';
import { makeQcow2 } from '../doubles/cocoon/fixtures.ts';
import { ensureCommand } from '../fleet/sshd.ts';
import { watchPulls } from '../fleet/pull-log.ts';
import { startFleet, type Fleet } from '../fleet/world.ts';
import { until } from '../support/guard.ts';
import { findManifest, startPod, type Cluster, type Pod, type PodSpec } from '../support/pods.ts';

const IMAGE = 'simular/win11';
const SHARDS = 2;
let fleet: Fleet;
let cluster: Cluster;
let pulls: Awaited<ReturnType<typeof watchPulls>>;
let pushes = 0;

const podOf = (file: string): PodSpec => {
  const { spec } = findManifest(file, file === 'shards.yaml' ? 'Job' : 'CronJob');
  const found = structuredClone(spec?.jobTemplate?.spec.template.spec ?? spec?.template.spec);
  if (found === undefined) throw new Error(`no pod in ${file}`);
  const shards = found.containers[0]?.env.find(({ name }) => name === 'RECONCILE_SHARDS');
  if (shards !== undefined) shards.value = String(SHARDS);
  return found;
};

beforeAll(async () => {
  fleet = await startFleet({ nodes: 3 });
  await push();
  for (const node of fleet.nodes) await node.pull(`${fleet.epoch.url}/dl/${IMAGE}`);
  pulls = await watchPulls(fleet);
  const { data } = findManifest('base.yaml', 'ConfigMap');
  const shipped = parse(data?.['reconcile.yaml'] ?? '') as Record<string, Record<string, unknown>>;
  const own = parse(await readFile(fleet.configFile, 'utf8')) as { nodes: Record<string, unknown>[] };
  const nodes = own.nodes.map(({ identityFile: _key, knownHostsFile: _hosts, ...node }) => node);
  const { inventory: _inventory, ...rest } = shipped;
  const config = stringify({ ...rest, epoch: { url: fleet.epoch.url }, nodes });
  cluster = {
    dir: join(fleet.dir, 'cluster'),
    configMaps: {
      'reconcile-config': { ...data, 'reconcile.yaml': config },
      'reconcile-known-hosts': { known_hosts: await readFile(fleet.knownHostsFile, 'utf8') },
    },
    secrets: { 'reconcile-ssh': { id_ed25519: readFileSync(fleet.identityFile, 'utf8') } },
  };
});
afterAll(async () => await fleet?.down());

async function push(): Promise<void> {
  await fleet.epoch.pushImage(IMAGE, 'latest', { content: makeQcow2({ seed: `${(pushes += 1)}` }) });
}

test('the Indexed Job heals the fleet, its last index prints the one report, and an index that is deleted in mid-pull is started again', async () => {
  await push();
  for (const node of fleet.nodes) await node.setEnv({ COCOON_DOUBLE_PULL_DELAY_MS: '3000' });
  const startIndex = async (index: number, name = `shards-${index}`): Promise<Pod> =>
    await startPod(podOf('shards.yaml'), cluster, name, { index, uid: 'uid-1' });
  const pods = await Promise.all(Array.from({ length: SHARDS + 1 }, async (_, index) => await startIndex(index)));
  await until('a pull', async () => (await pulls.pulls()).length > 0);
  const deleted = shardOf((await pulls.pulls())[0]?.node ?? '', SHARDS);
  pods[deleted]?.child.kill('SIGTERM');
  expect((await pods[deleted]?.ended)?.code).toBe(143);
  for (const node of fleet.nodes) await node.setEnv({ COCOON_DOUBLE_PULL_DELAY_MS: undefined });
  pods[deleted] = await startIndex(deleted, 'again');
  const ends = await Promise.all(pods.map(async ({ ended }) => await ended));
  expect(ends.map(({ code, stderr }) => [code, code === 0 ? '' : stderr])).toEqual(ends.map(() => [0, '']));
  expect(ends[SHARDS]?.stdout).toMatch(/^OK: .*healed/m);
});

test('an index that is left without a report is named by the last one', async () => {
  const pod = podOf('shards.yaml');
  const wait = pod.containers[0]?.env.find(({ name }) => name === 'MERGE_WAIT_SECONDS');
  if (wait !== undefined) wait.value = '8';
  const [first, last] = await Promise.all(
    [0, SHARDS].map(async (index) => await startPod(pod, cluster, `alone-${index}`, { index, uid: 'uid-2' })),
  );
  first?.child.kill('SIGKILL');
  expect(await last?.ended).toMatchObject({ code: 1 });
  expect((await last?.ended)?.stderr).toMatch(/merge needs the report|the shards? [01,]+ of 2 (is|are) missing/);
});

test('the CronJob does it alone', async () => {
  await push();
  const { code, stdout, stderr } = await (
    await startPod(podOf('cronjob.yaml'), cluster, 'cron', { uid: 'uid-3' })
  ).ended;
  expect({ code, stderr: code === 0 ? '' : stderr }).toEqual({ code: 0, stderr: '' });
  expect(stdout).toMatch(/^OK: healed and verified simular\/win11:latest on cocoonset-node-\[1-3\]/m);
});

test('its inventory is the nodes with the label, page after page, without kubectl', async () => {
  const dir = join(fleet.dir, 'account');
  await mkdir(dir);
  const [key, cert] = [join(dir, 'key.pem'), join(dir, 'ca.crt')];
  const argv = [
    'req',
    '-x509',
    '-newkey',
    'ec',
    '-pkeyopt',
    'ec_paramgen_curve:P-256',
    '-nodes',
    '-subj',
    '/CN=localhost',
  ];
  const made = spawn(
    await ensureCommand('openssl'),
    [...argv, '-addext', 'subjectAltName=DNS:localhost', '-keyout', key, '-out', cert],
    {
      stdio: 'ignore',
    },
  );
  await once(made, 'close');
  await writeFile(join(dir, 'token'), 'secret-token\n');
  const asked: string[] = [];
  const nodeOf = (name: string, address: string, pool?: string): object => ({
    metadata: { name, labels: pool === undefined ? {} : { 'cocoonstack.io/pool': pool } },
    status: {
      addresses: [
        { type: 'Hostname', address: name },
        { type: 'InternalIP', address },
      ],
    },
  });
  const server = createServer(
    { key: await readFile(key), cert: await readFile(cert) },
    ({ url = '', headers }, response) => {
      asked.push(`${url} ${headers.authorization}`);
      const isFirst = !url.includes('continue=');
      const items = [isFirst ? nodeOf('vm-1', '10.0.0.1') : nodeOf('vm-2', '10.0.0.2', 'gpu')];
      response.end(JSON.stringify({ kind: 'NodeList', metadata: isFirst ? { continue: 'a b' } : {}, items }));
    },
  );
  server.listen(0);
  const file = join(dir, 'list-nodes.mjs');
  await writeFile(file, findManifest('base.yaml', 'ConfigMap').data?.['list-nodes.mjs'] ?? '');
  const env = {
    KUBERNETES_SERVICE_HOST: 'localhost',
    KUBERNETES_SERVICE_PORT: String((server.address() as AddressInfo).port),
    SERVICE_ACCOUNT_DIR: dir,
  };
  const lister = spawn(process.execPath, [file, 'node-role.kubernetes.io/cocoon-vm'], { env });
  let out = '';
  lister.stdout.on('data', (text: Buffer) => (out += text.toString()));
  await once(lister, 'close');
  server.close();
  expect(JSON.parse(out)).toEqual([
    { name: 'vm-1', host: '10.0.0.1' },
    { name: 'vm-2', host: '10.0.0.2', pool: 'gpu' },
  ]);
  expect(asked).toEqual([
    '/api/v1/nodes?labelSelector=node-role.kubernetes.io%2Fcocoon-vm&limit=500 Bearer secret-token',
    '/api/v1/nodes?labelSelector=node-role.kubernetes.io%2Fcocoon-vm&limit=500&continue=a+b Bearer secret-token',
  ]);
});
