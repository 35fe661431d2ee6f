// The way to a node is the one that ssh takes: whom it trusts, who we are, and what is said where it does not lead there.
import { execFile } from 'node:child_process';
import { createServer, type Server } from 'node:net';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { startFleet, type Fleet, type FleetNode } from '../fleet/world.ts';
import { nodeOf, parseReport, program, start } from '../support/reconcile.ts';
import type { Report } from '../../src/core/model/report.ts';

const run = promisify(execFile);

let fleet: Fleet;
let node: FleetNode;
/** The line of known_hosts for a node's key. */
let lineOf: (name: string) => Promise<string>;

beforeAll(async () => {
  const secondFactor = ['PasswordAuthentication yes', 'AuthenticationMethods publickey,password'];
  fleet = await startFleet({ nodes: [{}, {}, { sshd: { config: secondFactor } }] });
  node = fleet.node('cocoonset-node-1');
  await fleet.epoch.pushImage('simular/win11', 'latest', { content: Buffer.from('x') });
  lineOf = async (name) => {
    const { host, port, hostKeys } = fleet.node(name);
    return `[${host}]:${port} ${(await hostKeys())[0]}\n`;
  };
});
afterAll(async () => await fleet?.down());

/** A dry run over some nodes; `under` is what starts it. */
async function dryRun(nodes: string, { ssh = {}, env = {}, under = [] as string[] }): Promise<Report> {
  await fleet.writeConfig({ ssh: { knownHostsFile: undefined, ...ssh } });
  const args = ['--config', fleet.configFile, '--dry-run', '-o', 'json', '-w', nodes];
  if (under.length === 0) {
    const { stdout, stderr } = await start(args, { env }).ended;
    return parseReport(stdout, stderr);
  }
  const [command = '', ...rest] = [...under, process.execPath, program, ...args];
  const ended = run(command, rest, { env: { ...process.env, ...env } });
  return parseReport((await ended.catch((error: unknown) => error as { stdout: string })).stdout);
}

/** A file of the fleet's directory. */
async function file(name: string, text: string): Promise<string> {
  await writeFile(join(fleet.dir, name), text);
  return join(fleet.dir, name);
}

describe('a host key', () => {
  const isRoot = process.getuid?.() === 0;

  test.skipIf(!isRoot)('that only /etc/ssh knows is trusted, and one that is revoked there is not', async () => {
    const etc = join(fleet.dir, 'etc-ssh');
    await mkdir(etc);
    const [first, second] = [await lineOf('cocoonset-node-1'), await lineOf('cocoonset-node-2')];
    await writeFile(join(etc, 'ssh_known_hosts'), first);
    await writeFile(join(etc, 'ssh_known_hosts2'), second);
    const mount = `mount --bind '${etc}' /etc/ssh && exec "$@"`;
    const inPlace = { env: { HOME: '/nonexistent' }, under: ['unshare', '-m', 'sh', '-c', mount, 'sh'] };
    const trusted = await dryRun('cocoonset-node-[1,2]', inPlace);
    expect(trusted.nodes.map(({ status, error }) => [status, error])).toEqual([
      ['observed', null],
      ['observed', null],
    ]);
    await writeFile(join(etc, 'ssh_known_hosts2'), `@revoked * ${first.split(' ').slice(1).join(' ')}`);
    const own = { ssh: { knownHostsFile: fleet.knownHostsFile }, ...inPlace };
    const revoked = await dryRun('cocoonset-node-[1,2]', own);
    expect(nodeOf(revoked, 'cocoonset-node-1').error).toMatchObject({
      code: 'SSH_HOST_KEY_REVOKED',
      message: expect.stringContaining('/etc/ssh/ssh_known_hosts2:1'),
    });
    expect(nodeOf(revoked, 'cocoonset-node-2').status).toBe('observed');
  });

  test('is looked for in the files that GlobalKnownHostsFile names, beside those of the config', async () => {
    const known = await file('global', await lineOf('cocoonset-node-1'));
    const empty = await file('empty', '');
    const configFile = await file('ssh_config', `Host *\n  GlobalKnownHostsFile /nonexistent ${known}\n`);
    const { nodes } = await dryRun('cocoonset-node-1', { ssh: { configFile, knownHostsFile: empty } });
    expect(nodes).toMatchObject([{ status: 'observed', error: null }]);
    await writeFile(configFile, 'GlobalKnownHostsFile none\n');
    const without = await dryRun('cocoonset-node-1', { ssh: { configFile, knownHostsFile: empty } });
    expect(without.nodes).toMatchObject([{ error: { code: 'SSH_HOST_KEY_UNKNOWN' } }]);
  });

  test('of an IPv6 address is found under the one form of it', async () => {
    await fleet.writeConfig({ nodes: [{ name: 'six', host: '0:0:0:0:0:0:0:1', port: 1 }] });
    const { stdout } = await start(['--config', fleet.configFile, 'nodes', '-o', 'json']).ended;
    expect(JSON.parse(stdout)).toMatchObject({ nodes: [{ name: 'six', host: '::1' }] });
  });
});

describe('an identity', () => {
  test('that was accepted where a second factor is asked for is said to be accepted', async () => {
    const { nodes } = await dryRun('cocoonset-node-3', { ssh: { knownHostsFile: fleet.knownHostsFile } });
    const { code, message, hint } = nodes[0]?.error ?? {};
    expect(code).toBe('SSH_AUTH_FAILED');
    expect(message).toContain(`accepted ${fleet.identityFile}, and asks for a second factor: password`);
    expect(hint).toContain('AuthenticationMethods publickey');
    expect(hint).not.toContain('authorized_keys');
  });

  test('is taken from the files where the agent does not answer, and that is said by the name of its variable', async () => {
    const socket = join(fleet.dir, 'silent-agent');
    const silent: Server = createServer((connection) => connection.resume());
    await new Promise<void>((resolve) => silent.listen(socket, resolve));
    const env = { SSH_AUTH_SOCK: socket };
    const knownHostsFile = fleet.knownHostsFile;
    await fleet.writeConfig();
    const args = ['--config', fleet.configFile, '--dry-run', '-w', 'cocoonset-node-[1,2]'];
    const fine = await start([...args, '-o', 'json'], { env }).ended;
    expect(parseReport(fine.stdout).nodes.map(({ status }) => status)).toEqual(['observed', 'observed']);
    expect(fine.stderr.match(/SSH_AUTH_SOCK/g)).toHaveLength(1);
    const stranger = join(fleet.dir, 'stranger');
    await run('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-f', stranger]);
    const refused = await dryRun('cocoonset-node-1', { ssh: { identityFile: stranger, knownHostsFile }, env });
    silent.close();
    expect(refused.nodes[0]?.error).toMatchObject({
      code: 'SSH_AUTH_FAILED',
      message: expect.stringContaining(`the agent (SSH_AUTH_SOCK=${socket}): no answer within 1.0 s`),
    });
  });
});

describe('a node that cannot be reached', () => {
  test('but by a command that the ssh config names, has that named in its error', async () => {
    const configFile = await file('proxy_config', `\nHost ${node.host}\n  ProxyCommand nc -X 5 %h %p\n`);
    await fleet.writeConfig({ nodes: [{ name: 'far', host: node.host, port: 1 }], ssh: { configFile } });
    const { stdout } = await start(['--config', fleet.configFile, '--dry-run', '-o', 'json']).ended;
    expect(parseReport(stdout).nodes[0]?.error).toMatchObject({
      code: 'SSH_UNREACHABLE',
      hint: expect.stringContaining(`a ProxyCommand for it (${configFile}:3)`),
    });
  });
});

describe('an ssh config', () => {
  test('that ssh refuses is refused, by line, before anything is contacted', async () => {
    const configFile = await file('typo_config', 'Host *\n  HostNmae 10.0.0.1\n');
    await fleet.writeConfig({ ssh: { configFile } });
    const { code, stderr } = await start(['--config', fleet.configFile, '--dry-run']).ended;
    expect(code).toBe(1);
    expect(stderr).toContain(`${configFile}:2: ssh knows no hostnmae`);
  });
});
