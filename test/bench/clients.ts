// The programs that are compared, and the files that tell each of them the same: where the nodes are, and whom to trust.
import { mkdir, writeFile } from 'node:fs/promises';
import { userInfo } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { stringify } from 'yaml';
import type { BenchNode, BenchNodes } from './nodes.ts';

export interface Client {
  name: string;
  argv: string[];
  /** That of a good run. */
  exitCode: number;
  /** How many nodes its output tells of. */
  answered: (stdout: string) => number;
}

/** How the nodes are reached in one table. */
export interface Site {
  /** First half of every address: `127.18`. */
  network: string;
  port: number;
  /** One for all nodes, `type base64`. */
  hostKey: string;
  /** Those that take part. */
  nodes: BenchNode[];
  /** Holds the files of the clients. */
  dir: string;
}

/** How many nodes at a time: what clush does by default, and the others are told. reconcile has a default of its own. */
export const FANOUT = 64;

const CURVE25519 = ['-o', 'KexAlgorithms=curve25519-sha256'];

const program = fileURLToPath(new URL('../../dist/main.js', import.meta.url));

/** Writes the files of a site. */
export async function writeSite(site: Site, { dir, binary, fleet }: BenchNodes): Promise<void> {
  const { network, port, nodes } = site;
  const user = userInfo().username; // the only one that a server of whoever runs this can become
  await mkdir(site.dir, { recursive: true });
  const hosts = nodes.map((node) => `${network}.${node.address}`);
  const knownHostsFile = join(site.dir, 'known_hosts');
  const put = (name: string, lines: string[]) => writeFile(join(site.dir, name), `${lines.join('\n')}\n`);
  await Promise.all([
    put('hosts', hosts),
    put(
      'known_hosts',
      hosts.map((host) => `[${host}]:${port} ${site.hostKey}`),
    ),
    put('ssh_config', [
      `Port ${port}`,
      `User ${user}`,
      `IdentityFile ${fleet.identityFile}`,
      'IdentitiesOnly yes',
      'IdentityAgent none',
      `UserKnownHostsFile ${knownHostsFile}`,
      'GlobalKnownHostsFile /dev/null',
      'StrictHostKeyChecking yes',
      'BatchMode yes',
      'ControlMaster no',
    ]),
    put('ansible.cfg', [
      '[defaults]',
      `local_tmp = ${join(dir, 'ansible')}`,
      '[ssh_connection]',
      `ssh_args = -F ${join(site.dir, 'ssh_config')}`,
      'usetty = False', // no terminal on the node: none of the others asks for one
    ]),
    writeFile(
      join(site.dir, 'reconcile.yaml'),
      stringify({
        epoch: { url: fleet.epoch.url },
        nodes: nodes.map((node, i) => ({ name: node.name, host: hosts[i], rootDir: node.rootDir })),
        ssh: { user, port, identityFile: fleet.identityFile, knownHostsFile, configFile: 'none' },
        cocoon: { binary, sudo: false },
        run: { stateDir: join(site.dir, 'state') },
      }),
    ),
  ]);
}

/** What each program finds in its environment. Nothing of whoever runs this: no agent, no settings. */
export function environment(site: Site): Record<string, string> {
  return {
    PATH: process.env['PATH'] ?? '/usr/sbin:/usr/bin:/sbin:/bin',
    HOME: site.dir,
    LC_ALL: 'C.UTF-8',
    ANSIBLE_CONFIG: join(site.dir, 'ansible.cfg'),
  };
}

/** Prints the index files of the node whose address was connected to. */
export function printIndexes(site: Site, dir: string): string {
  const root = `${dir}/nodes/\${3#${site.network}.}/root`;
  return `set -- $SSH_CONNECTION; cd ${root} && cat cloudimg/db/images.json snapshot/db/snapshots.json`;
}

export function reconcileClient(site: Site): Client {
  return {
    name: 'reconcile --dry-run',
    argv: [process.execPath, program, '--dry-run', '--config', join(site.dir, 'reconcile.yaml')],
    exitCode: 2,
    // A node that could not be read has rows of its own; these are the others.
    answered: (stdout) => (/\b(unreachable|unreadable|unknown)\b/.test(stdout) ? 0 : site.nodes.length),
  };
}

/** The same with its report as JSON: to be sure that every node was read, not to be timed. */
export function reconcileJson(site: Site): Client {
  const client = reconcileClient(site);
  return {
    ...client,
    argv: [...client.argv, '--output', 'json'],
    answered: (stdout) => (JSON.parse(stdout) as { summary: { nodes: { observed: number } } }).summary.nodes.observed,
  };
}

export function clush(site: Site, dir: string, kex: 'stock' | 'curve25519'): Client {
  const options = ['-F', join(site.dir, 'ssh_config'), ...(kex === 'stock' ? [] : CURVE25519)].join(' ');
  const argv = ['clush', '-n', '-f', `${FANOUT}`, '-o', options, '--hostfile', join(site.dir, 'hosts')];
  return printer(`clush ${kex}`, [...argv, printIndexes(site, dir)]);
}

/** One node, the first, and nothing around ssh. */
export function plainSsh(site: Site, dir: string): Client {
  const host = `${site.network}.${site.nodes[0]?.address}`;
  const argv = ['ssh', '-F', join(site.dir, 'ssh_config'), ...CURVE25519, host, printIndexes(site, dir)];
  return printer('ssh curve25519', argv);
}

/** What no program in Node.js can do without. */
export function emptyNode(site: Site): Client {
  return { name: 'node -e 0', argv: [process.execPath, '-e', '0'], exitCode: 0, answered: () => site.nodes.length };
}

export function parallelSsh(site: Site, dir: string): Client {
  const argv = ['parallel-ssh', '-i', '-t', '0', '-p', `${FANOUT}`, '-h', join(site.dir, 'hosts')];
  return printer('parallel-ssh', [...argv, '-x', `-F ${join(site.dir, 'ssh_config')}`, printIndexes(site, dir)]);
}

export function ansible(site: Site, dir: string): Client {
  const argv = ['ansible', 'all', '-i', join(site.dir, 'hosts'), '-f', `${FANOUT}`, '-m', 'raw'];
  return printer('ansible -m raw', [...argv, '-a', printIndexes(site, dir)]);
}

/** Each node's index of snapshots names its own root directory. */
function printer(name: string, argv: string[]): Client {
  const answered = (stdout: string) => {
    const found = stdout.matchAll(/"data_dir":"[^"]*\/nodes\/(\d{3}\.\d{3})\/root\//g);
    return new Set([...found].map(([, address]) => address)).size;
  };
  return { name, argv, exitCode: 0, answered };
}
