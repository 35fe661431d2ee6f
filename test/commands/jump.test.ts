// Nodes behind two jump hosts, all of them real sshds: one connection per hop, whatever number of nodes.
import { mkdtemp, readFile, writeFile } from 'node:fs/promises';
import { tmpdir, userInfo } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { MARK, startSshd, type NodeServer } from '../fleet/sshd.ts';
import { startFleet, type Fleet } from '../fleet/world.ts';
import { nodeOf, reconcile, report } from '../support/reconcile.ts';

const NODES = 50;
const me = userInfo().username;

let fleet: Fleet;
let first: NodeServer;
let second: NodeServer;
let nodePort: number;

beforeAll(async () => {
  const dir = await mkdtemp(join(tmpdir(), 'jump-'));
  // SHLVL: bash then takes no start-up file, which on some machines would be slower than all the rest
  const quick = (place: string) => [`SetEnv ${MARK}=${place} SHLVL=1`, 'LogLevel DEBUG1'];
  const sshd = { host: '0.0.0.0', config: quick(join(dir, 'nodes/n')) };
  fleet = await startFleet({ dir, nodes: [{ name: 'n', sshd }] });
  const startHop = (name: string): Promise<NodeServer> =>
    startSshd({
      dir: join(dir, name),
      authorizedKeys: [fleet.publicKey],
      config: [...quick(join(dir, name)), 'MaxSessions 1'],
    });
  [first, second] = await Promise.all([startHop('first'), startHop('second')]);

  const [node] = fleet.nodes;
  if (node === undefined) throw new Error('no node');
  nodePort = node.port;
  const { rootDir, runDir, logDir } = node;
  const binary = join(dir, 'quick-cocoon');
  await writeFile(binary, "#!/bin/sh\necho 'Version: v0.3.8'\n", { mode: 0o755 });
  await fleet.writeConfig({
    nodes: [{ name: `n[1-${NODES}]`, host: `n[1-${NODES}].inner`, binary, rootDir, runDir, logDir }],
    ssh: { user: me, identityFile: undefined, knownHostsFile: undefined, configFile: join(dir, 'ssh_config') },
  });
  const blocks = Array.from({ length: NODES }, (_, i) => `Host n${i + 1}.inner\n  HostName 127.0.1.${i + 1}\n`);
  await writeFile(
    join(dir, 'ssh_config'),
    `${blocks.join('')}
Host *.inner
  Port ${nodePort}
  HostKeyAlias all-nodes
  ProxyJump first,second
Host first
  HostName 127.0.0.1
  Port ${first.port}
Host second
  HostName 127.0.0.1
  Port ${second.port}
Host *
  IdentityFile ${fleet.identityFile}
  UserKnownHostsFile ${fleet.knownHostsFile}
  ServerAliveInterval 5
`,
  );
  const [nodeKey] = await node.hostKeys();
  const [firstKey] = await first.hostKeys();
  const [secondKey] = await second.hostKeys();
  await writeFile(
    fleet.knownHostsFile,
    `all-nodes ${nodeKey}\n[127.0.0.1]:${first.port} ${firstKey}\n[127.0.0.1]:${second.port} ${secondKey}\n`,
  );
});
afterAll(async () => {
  await Promise.all([first, second].map((hop) => hop.stop()));
  await fleet.down();
});

const logs = (name: string): string => join(fleet.dir, name, 'sshd.log');
const nodeLog = (): string => join(fleet.dir, 'nodes/n/sshd/sshd.log');

beforeEach(() => Promise.all([logs('first'), logs('second'), nodeLog()].map((file) => writeFile(file, ''))));

/** How many logged in to a server, and to which ports they went on from there. */
async function traffic(file: string): Promise<{ logins: number; onwards: Record<string, number> }> {
  const text = await readFile(file, 'utf8');
  const onwards: Record<string, number> = {};
  for (const [, port = ''] of text.matchAll(/server_request_direct_tcpip: .* target \S+ port (\d+)/g)) {
    onwards[port] = (onwards[port] ?? 0) + 1;
  }
  return { logins: [...text.matchAll(/Accepted publickey for/g)].length, onwards };
}

describe('nodes behind two jump hosts', () => {
  test('are all observed, with one connection per hop', async () => {
    const { summary } = await report(fleet, '--dry-run');
    expect(summary.nodes).toMatchObject({ total: NODES, observed: NODES });
    expect(await traffic(logs('first'))).toEqual({ logins: 1, onwards: { [second.port]: 1 } });
    expect(await traffic(logs('second'))).toEqual({ logins: 1, onwards: { [nodePort]: NODES } });
    expect((await traffic(nodeLog())).logins).toBe(NODES);
  });

  test('are in the inventory with what the ssh config says of them', async () => {
    const { stdout } = await reconcile(fleet, 'nodes', '-w', 'n7', '-o', 'json');
    expect(JSON.parse(stdout)).toMatchObject({ nodes: [{ name: 'n7', host: '127.0.1.7', port: nodePort, user: me }] });
  });

  test('are reached by the way that the config names, and what is not honoured is said once', async () => {
    const ways = await readFile(fleet.configFile, 'utf8');
    await writeFile(fleet.configFile, ways.replace('configFile:', `proxyJump: ${me}@second\n  configFile:`));
    const { code, stderr } = await reconcile(fleet, '--dry-run', '--verbose', '-w', 'n[1-3]');
    await writeFile(fleet.configFile, ways);
    expect(code).toBe(0);
    expect(stderr.match(/not honoured in the ssh config: serveraliveinterval \(\S+\/ssh_config:\d+\)/g)).toHaveLength(
      1,
    );
    expect((await traffic(logs('first'))).logins).toBe(0);
    expect(await traffic(logs('second'))).toEqual({ logins: 1, onwards: { [nodePort]: 3 } });
  });

  test('cost nothing but themselves when nobody listens there', async () => {
    const config = await readFile(join(fleet.dir, 'ssh_config'), 'utf8');
    await writeFile(join(fleet.dir, 'ssh_config'), `Host n2.inner\n  Port 1\n${config}`);
    const observed = await report(fleet, '--dry-run', '-w', 'n[1-3]');
    await writeFile(join(fleet.dir, 'ssh_config'), config);
    expect(observed.nodes.map(({ status }) => status)).toEqual(['observed', 'unreachable', 'observed']);
    expect(nodeOf(observed, 'n2').error).toMatchObject({
      code: 'SSH_UNREACHABLE',
      message: expect.stringMatching(
        /127\.0\.1\.2:1 cannot be reached: .*refused.* \(from the jump host 127\.0\.0\.1\)/,
      ),
    });
  });

  test('whose keys are unknown come with the line that asks for them by the same way', async () => {
    const known = await readFile(fleet.knownHostsFile, 'utf8');
    await writeFile(fleet.knownHostsFile, known.replace('all-nodes', 'others'));
    const { nodes } = await report(fleet, '--dry-run', '-w', 'n1');
    await writeFile(fleet.knownHostsFile, known);
    const line =
      `ssh -J ${me}@127.0.0.1:${first.port} -p ${second.port} ${me}@127.0.0.1 ssh-keyscan -p ${nodePort} 127.0.1.1` +
      ` | sed 's/^[^ ]*/all-nodes/' >> ${fleet.knownHostsFile}`;
    expect(nodes[0]?.error).toMatchObject({ code: 'SSH_HOST_KEY_UNKNOWN', hint: expect.stringContaining(line) });
  });

  test('are out of reach where a jump host is not trusted, and that is said of it', async () => {
    const known = await readFile(fleet.knownHostsFile, 'utf8');
    await writeFile(fleet.knownHostsFile, known.replace(`[127.0.0.1]:${first.port}`, 'other'));
    const { nodes } = await report(fleet, '--dry-run', '-w', 'n[1-3]');
    await writeFile(fleet.knownHostsFile, known);
    for (const { error } of nodes) {
      expect(error?.code).toBe('SSH_HOST_KEY_UNKNOWN');
      expect(error?.hint).toContain(`ssh-keyscan -p ${first.port} 127.0.0.1`);
    }
    expect((await traffic(logs('first'))).logins).toBe(0);
  });
});
