// The ssh config: fifteen files, each asked about several hosts, by us and, key by key, by the real `ssh -G`.
import { execFile } from 'node:child_process';
import { access, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir, userInfo } from 'node:os';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { loadSshConfig } from '../../src/adapters/ssh-config.ts';
import { loadTargets } from '../../src/adapters/targets.ts';
import { ReconcileError } from '../../src/core/errors.ts';
import type { NodeDefaults, SshSettings } from '../../src/core/settings.ts';
import { ensureCommand } from '../fleet/sshd.ts';

const run = promisify(execFile);
const me = userInfo().username;

let home: string;
beforeAll(async () => {
  await ensureCommand('ssh', 'openssh-client');
  home = await mkdtemp(join(tmpdir(), 'ssh-config-'));
});
afterAll(() => rm(home, { recursive: true, force: true }));

async function write(name: string, text: string): Promise<string> {
  const file = join(home, name);
  await mkdir(dirname(file), { recursive: true });
  await writeFile(file, text.replaceAll('HOME', home));
  return file;
}

interface Case {
  name: string;
  config: string;
  /** More files, included by absolute names: HOME stands for the directory. */
  files?: Record<string, string>;
  hosts: string[];
  /** As `ssh -l`. */
  user?: string;
}

const cases: Case[] = [
  { name: 'nothing at all', config: '', hosts: ['node1', 'NODE1'] },
  {
    name: 'one block and defaults behind it',
    config: `
Host node1
  HostName 10.0.0.11
  User op
  Port 2222
  IdentityFile ~/.ssh/node
  HostKeyAlias node-one
  ConnectTimeout 7

Host *
  User root
  Port 22022
  ConnectTimeout 30
`,
    hosts: ['node1', 'node2'],
  },
  {
    name: 'the first value wins, identity files add up',
    config: `
User first
IdentityFile /k/global
Host node*
  User second
  IdentityFile /k/one
  IdentityFile /k/two
  IdentityFile /k/one
Host node1
  IdentityFile /k/three
  Port 1
  Port 2
`,
    hosts: ['node1', 'other'],
  },
  {
    name: 'patterns',
    config: `
Host node? !node3
  User question
Host gpu-*.example 10.0.*.1
  User star
Host !bad *.bad
  User never
Host a,b
  User comma
Host NODE9
  User upper
`,
    hosts: [
      'node1',
      'node3',
      'node',
      'node12',
      'gpu-1.example',
      'gpu-1.exampl',
      '10.0.7.1',
      'bad',
      'x.bad',
      'a',
      'NODE9',
      'node9',
    ],
  },
  {
    name: 'how lines may be written',
    config: `
# a comment
   # another
HOST=node1
\tuser = op
\tPort\t=\t2222   # behind the value
  hostname "10.0.0.11"
  "IdentitiesOnly" yes
  IdentityFile "/k/with space" # and a comment
  IdentityFile /k/with\\ backslash
  IdentityFile '/k/single "inside"'
  UserKnownHostsFile "/k/known one" /k/known2
  HostKeyAlias   alias   \r
Host "node2"
  ConnectTimeout 1m30s
  User 'a#b'
  HostName node2#no-comment
`,
    hosts: ['node1', 'node2'],
  },
  {
    name: 'host names with tokens',
    config: `
Host n*
  HostName %h.cluster.example
Host percent
  HostName 100%%
Host upper
  HostName UPPER.Example
`,
    hosts: ['n1', 'percent', 'upper'],
  },
  {
    name: 'Match host sees the HostName, Match originalhost what was typed',
    config: `
Host short
  HostName long.example
Match host long.example
  User by-name
Match originalhost short
  Port 2001
Match host short
  Port 2002
Match host other,LONG.*,!long.bad
  ConnectTimeout 3
`,
    hosts: ['short', 'long.example', 'other', 'long.bad'],
  },
  {
    name: 'Match of users, all and negations',
    config: `
Match localuser ${me}
  Port 2001
Match localuser nobody-at-all
  HostName wrong
Match user op
  HostKeyAlias for-op
Match !user op
  HostKeyAlias for-others
Match !host node1 user *
  ConnectTimeout 3
Match user=op,!root host node*
  IdentityFile /k/op
Match all
  IdentityFile /k/all
`,
    hosts: ['node1', 'node2'],
    user: 'op',
  },
  {
    name: 'Match user sees what came before',
    config: `
Host node1
  User op
Match user op
  Port 2001
Match user ${me}
  Port 2002
`,
    hosts: ['node1', 'node2'],
  },
  {
    name: 'a final pass',
    config: `
Host short
  HostName long.example
Host long.example
  User second-pass
Match final host long.*
  Port 2001
Match final
  ConnectTimeout 9
Match !final
  HostKeyAlias first-pass
`,
    hosts: ['short', 'other'],
  },
  {
    name: 'includes',
    config: `
Include HOME/inc/one
Host node1
  Include HOME/inc/two HOME/inc/absent
  User late
Host *
  Include "HOME/inc/*.conf"
`,
    files: {
      'inc/one': 'Host node2\n  User two\nHost *\n  ConnectTimeout 4\n',
      'inc/two': 'Port 2222\nHost node1\n  IdentityFile /k/in-host\nHost node2\n  IdentityFile /k/never\n',
      'inc/b.conf': 'IdentityFile /k/b\nUser b\n',
      'inc/a.conf': 'IdentityFile /k/a\nHost node3\n  Port 3\n',
      'inc/.hidden.conf': 'IdentityFile /k/hidden\n',
      'inc/c.other': 'IdentityFile /k/c\n',
    },
    hosts: ['node1', 'node2', 'node3'],
  },
  {
    name: 'includes within includes',
    config: 'Match host node1\n  Include HOME/deep/1\nInclude HOME/deep/[23]\n',
    files: {
      'deep/1': 'Include HOME/deep/2\nUser one\n',
      'deep/2': 'Match all\n  IdentityFile /k/two\nMatch host node2\n  User two\n',
      'deep/3': 'Host node?\n  Port 33\n',
    },
    hosts: ['node1', 'node2'],
  },
  {
    name: 'jump hosts',
    config: `
Host far
  ProxyJump op@bastion:2222
Host farther
  ProxyJump bastion,ops@inner:22022
Host direct
  ProxyJump none
Host command
  ProxyCommand nc %h %p
Host v6
  ProxyJump op@[fe80::1]:2222
Host *
  ProxyJump default-bastion
`,
    hosts: ['far', 'farther', 'direct', 'command', 'v6', 'other'],
  },
  {
    name: 'known hosts and identities',
    config: `
Host none
  UserKnownHostsFile none
  IdentityFile none
Host several
  UserKnownHostsFile ~/.ssh/a /b
  UserKnownHostsFile /c
  IdentitiesOnly true
  IdentityFile ~/.ssh/%n-%r
Host *
  IdentitiesOnly no
  ConnectTimeout none
`,
    hosts: ['none', 'several', 'other'],
  },
  {
    name: 'much that is none of ours',
    config: `
Host *
  ServerAliveInterval 30
  ControlMaster auto
  ControlPath ~/.ssh/cm-%C
  Ciphers aes256-gcm@openssh.com
  LocalForward 8080 localhost:80
  SendEnv LANG LC_*
  LogLevel ERROR
Match exec "touch HOME/was-run && false"
  User never
Match exec "touch HOME/was-run && false" host node1
  User never
Host node1
  User op
`,
    hosts: ['node1', 'node2'],
  },
];

/** The keys that we honour as `ssh -G` prints them. */
async function asked(file: string, host: string, user: string | undefined): Promise<Record<string, unknown>> {
  const { stdout } = await run('ssh', ['-G', '-F', file, ...(user === undefined ? [] : ['-l', user]), host]);
  const said = new Map<string, string[]>();
  for (const line of stdout.split('\n')) {
    const [key = '', ...rest] = line.split(' ');
    said.set(key, [...(said.get(key) ?? []), rest.join(' ')]);
  }
  const one = (key: string): string | null => said.get(key)?.[0] ?? null;
  return {
    hostName: one('hostname'),
    port: Number(one('port')),
    user: one('user'),
    identityFiles: said.get('identityfile'),
    identitiesOnly: one('identitiesonly') === 'yes',
    knownHostsFiles: one('userknownhostsfile'),
    hostKeyAlias: one('hostkeyalias'),
    proxyJump: one('proxyjump'),
    connectTimeoutMs: one('connecttimeout') === 'none' ? null : Number(one('connecttimeout')) * 1000,
  };
}

describe('fifteen files', () => {
  it('are fifteen', () => expect(cases).toHaveLength(15));

  it.each(cases)('$name', async ({ name, config, files = {}, hosts, user }) => {
    for (const [path, text] of Object.entries(files)) await write(path, text);
    const file = await write(`${name}.conf`, config);
    const ours = await loadSshConfig(file, home);
    const unset = await asked(await write('empty', ''), 'any', undefined);
    for (const host of hosts) {
      const found = ours.find({ host, user, defaultUser: me });
      const answer = {
        ...found,
        port: found.port ?? 22,
        user: user ?? found.user ?? me,
        identityFiles: found.identityFiles ?? unset['identityFiles'],
        identitiesOnly: found.identitiesOnly ?? false,
        knownHostsFiles: found.knownHostsFiles?.join(' ').replace(/^~/, userInfo().homedir) ?? unset['knownHostsFiles'],
        proxyJump: found.proxyJump === 'none' ? null : found.proxyJump,
      };
      expect({ host, ...answer }).toEqual({ host, ...(await asked(file, host, user)) });
    }
  });
});

describe('a file', () => {
  const load = async (text: string) => loadSshConfig(await write('config', text), home);

  it('that is not there says nothing', async () => {
    const found = (await loadSshConfig(join(home, 'no-such-file'), home)).find({ host: 'N', defaultUser: me });
    expect(found).toMatchObject({ hostName: 'n', port: null, user: null, identityFiles: null, proxyJump: null });
  });

  it('never runs a command', async () => {
    const config = await load('Match exec "touch HOME/ran"\n  User never\nMatch !exec false\n  User never\n');
    expect(config.find({ host: 'node1', defaultUser: me }).user).toBeNull();
    await expect(access(join(home, 'ran'))).rejects.toThrow('ENOENT');
    expect(config.ignored).toEqual([`match exec (${home}/config:1)`]);
  });

  it('says what is passed over, each keyword once, those of included files too', async () => {
    await write('more', 'ControlPath x\nForwardAgent yes\n');
    const config = await load('Host a\n  ControlPath y\n  User op\nHost *\n  Include HOME/more\n');
    expect(config.ignored).toEqual([`controlpath (${home}/config:2)`, `forwardagent (${home}/more:2)`]);
  });

  it('includes relative names from ~/.ssh, sorted, and passes over what is not there', async () => {
    await write('.ssh/conf.d/20-b', 'User b\n');
    await write('.ssh/conf.d/10-a', 'User a\nPort 10\n');
    await write('.ssh/plain', 'Port 9\n');
    await write('near-home', 'HostKeyAlias home\n');
    const config = await load('Include absent conf.d/*-[ab] no-dir/*\nInclude plain ~/near-home\n');
    expect(config.find({ host: 'n', defaultUser: me })).toMatchObject({ user: 'a', port: 10, hostKeyAlias: 'home' });
  });

  it.each([
    ['User "op\n', ':1: a quote is not closed'],
    ['\nUser\n', ':2: user has no value'],
    ['= =\n', ':1: this is no line of an ssh config'],
    ['Port ssh\n', ':1: ssh is no port'],
    ['IdentitiesOnly maybe\n', ':1: IdentitiesOnly is yes or no'],
    ['ConnectTimeout soon\n', ':1: soon is no time'],
    ['Match host\n', ':1: Match host needs a value'],
    ['Match all host x\n', ':1: Match all stands alone'],
    ['HostName %p\n', 'the ssh config: %p in HostName %p is not supported'],
    ['Include HOME/config\n', '/config: too many files are included'],
  ])('%j is refused', async (text, problem) => {
    const error: unknown = await load(text)
      .then((config) => config.find({ host: 'n', defaultUser: me }))
      .catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(ReconcileError);
    expect(error).toMatchObject({ info: { code: 'CONFIG_INVALID', message: expect.stringContaining(problem) } });
  });

  it('that cannot be read is an error', async () => {
    await expect(loadSshConfig(home, home)).rejects.toThrow('cannot be read (EISDIR)');
  });
});

describe('what to log in to', () => {
  const targets = async (text: string, ssh: SshSettings = {}, configFile?: null) => {
    const file = await write('.ssh/config', text);
    const common: NodeDefaults['ssh'] = { ...ssh, configFile: configFile === null ? null : file, home };
    const loaded = await loadTargets(common);
    return (host: string, own: SshSettings = {}) => loaded.of(host, { ...ssh, ...own });
  };
  const everything = `
Host node1
  HostName 10.0.0.11
  User op
  Port 2222
  IdentityFile ~/.ssh/own
  IdentitiesOnly yes
  UserKnownHostsFile ~/.ssh/kh /etc/kh
  HostKeyAlias one
  ConnectTimeout 3
  ProxyJump bastion
Host bastion
  User jumper
`;

  it('comes from the defaults where nothing says anything', async () => {
    const nothing = {
      host: 'Node1',
      port: 22,
      user: 'root',
      identityFiles: [],
      knownHostsFiles: [`${home}/.ssh/known_hosts`],
      connectTimeoutMs: 10_000,
    };
    expect((await targets(everything, {}, null))('Node1')).toEqual({ target: nothing, jumps: [] });
    expect((await targets(''))('node2')).toEqual({ target: { ...nothing, host: 'node2' }, jumps: [] });
  });

  it('comes from the ssh config, paths and names expanded', async () => {
    const { target, jumps } = (await targets(everything))('node1');
    expect(target).toEqual({
      host: '10.0.0.11',
      port: 2222,
      user: 'op',
      identityFiles: [`${home}/.ssh/own`],
      mayLackIdentityFiles: true,
      identitiesOnly: true,
      knownHostsFiles: [`${home}/.ssh/kh`, '/etc/kh'],
      hostKeyAlias: 'one',
      connectTimeoutMs: 3000,
    });
    expect(jumps).toMatchObject([{ host: 'bastion', port: 22, user: 'jumper' }]);
  });

  it('comes from the config first, and from the node before that', async () => {
    const common = { user: 'c', port: 1, identityFiles: ['/c'], knownHostsFiles: ['/kc'], connectTimeoutMs: 1 };
    const of = await targets(everything, { ...common, proxyJump: ['b'], acceptNewHostKey: true });
    const rest = { host: '10.0.0.11', hostKeyAlias: 'one', identitiesOnly: true };
    const first = of('node1');
    expect(first.target).toEqual({ ...rest, ...common, acceptNewHostKey: true });
    expect(first.jumps).toMatchObject([
      { host: 'b', user: me, port: 22, identityFiles: ['/c'], knownHostsFiles: ['/kc'] },
    ]);
    const own = { user: 'o', port: 2, identityFiles: [], knownHostsFiles: [], connectTimeoutMs: 2 };
    const second = of('node1', { ...own, proxyJump: [], acceptNewHostKey: false });
    expect(second).toEqual({ target: { ...rest, ...own }, jumps: [] });
  });

  it('has tokens expanded as ssh does', async () => {
    const of = await targets(`
Host node1
  HostName %h.example
  User op
  Port 2222
  HostKeyAlias alias
  IdentityFile HOME/%%-%h-%n-%p-%r-%k-%u-%i-%l-%L
`);
    const { stderr } = await run('ssh', [
      '-v',
      '-F',
      join(home, '.ssh/config'),
      '-o',
      'ProxyCommand=false',
      'node1',
    ]).catch((error: unknown) => error as { stderr: string });
    const asSsh = /identity file (\S+) type/.exec(stderr)?.[1];
    expect(of('node1').target.identityFiles).toEqual([asSsh]);
    expect(asSsh).toContain('%-node1.example-node1-2222-op-alias-');
  });

  it('has a way of several machines, of which the first may have one too', async () => {
    const of = await targets(
      `
Host b1
  ProxyJump a1,u@a2:22
  IdentityFile /b1
  UserKnownHostsFile /kb1
Host a*
  Port 2200
Host node*
  ProxyJump b1,ops@[::1]:2022
`,
      { identityFiles: ['/c'], user: 'c', port: 5 },
    );
    const { jumps } = of('node1');
    expect(jumps.map(({ host, port, user }) => `${user}@${host}:${port}`)).toEqual([
      `${me}@a1:2200`,
      'u@a2:22',
      `${me}@b1:22`,
      'ops@::1:2022',
    ]);
    expect(jumps.map(({ identityFiles }) => identityFiles[0])).toEqual(['/c', '/c', '/b1', '/c']);
    expect(of('node2').jumps).toBe(jumps);
  });

  it.each([
    ['Host *\n  ProxyJump b\n', 'more than 8 machines'],
    ['Host n\n  ProxyJump a:b:c\n', 'a:b:c is not [user@]host[:port]'],
    ['Host n\n  ProxyJump -oX\n', '-oX is not [user@]host[:port]'],
  ])('%j is refused', async (text, problem) => {
    const of = await targets(text);
    expect(() => of('n')).toThrow(problem);
  });
});
