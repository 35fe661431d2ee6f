// The ssh config: files written by hand and at random, each asked about several hosts, by us and, key by key, by the real
// `ssh -G`; what one refuses the other refuses too.
import { execFile } from 'node:child_process';
import { access, chmod, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir, userInfo } from 'node:os';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import PQueue from 'p-queue';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { loadSshConfig } from '../../../../src/ssh/config/config.ts';
import { expandPath, tokensOf } from '../../../../src/ssh/config/tokens.ts';
import { loadTargets } from '../../../../src/ssh/targets.ts';
import { ReconcileError } from '../../../../src/core/errors.ts';
import type { NodeDefaults, SshSettings } from '../../../../src/core/model/settings.ts';
import { ensureCommand } from '../../../fleet/sshd.ts';
import { pick, random } from '../../../support/random.ts';

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
    name: 'words in any case',
    config: `
Host a
  IdentitiesOnly YES
  ProxyJump NONE
Host b
  IdentitiesOnly True
  ProxyCommand NONE
  IdentityFile NONE
Host c
  UserKnownHostsFile NONE
  GlobalKnownHostsFile None
Host *
  ProxyJump bastion
  HostKeyAlias UPPER
`,
    hosts: ['a', 'b', 'c', 'd'],
  },
  {
    name: 'numbers and times',
    config: `
Host a
  Port ssh
  ConnectTimeout 1m30
Host b
  Port +022
  ConnectTimeout 2H
Host c
  Port telnet
  ConnectTimeout 1w
Host d
  ConnectTimeout 0
Host e
  ConnectTimeout none
Host *
  Port http
  ConnectTimeout 7
`,
    hosts: ['a', 'b', 'c', 'd', 'e', 'f'],
  },
  {
    name: 'known hosts of the machine',
    config: `
Host a
  GlobalKnownHostsFile /etc/x "/etc/with space" ~/.not-expanded/%h/\${SHELF}
Host *
  GlobalKnownHostsFile /etc/y
  UserKnownHostsFile /etc/z
`,
    hosts: ['a', 'b'],
  },
  {
    name: 'paths of the home directory and the environment',
    config: `
Host a
  UserKnownHostsFile ~/.ssh/%h-\${SHELF} /k/\${SHELF}/\${SHELF}x ~ ~/
Host b
  HostName %h.example
  HostKeyAlias Alias
  UserKnownHostsFile "/k/%%h %h %n %p %r %k %u %i" %d/x
  IdentityFile ~/.ssh/\${SHELF}
`,
    hosts: ['a', 'b'],
    user: 'op',
  },
  {
    name: 'the final pass does not change HostName',
    config: `
Match final host h1
  Port 4001
  HostName matched.example
Match final host h2
  HostName %h.never
Host h2
  HostName second
Match final host second
  User in-time
Host *
  Port 22
`,
    hosts: ['h1', 'h2', 'h3'],
  },
  {
    name: 'IPv6 addresses in their one form',
    config: `
Host six
  HostName 2001:DB8:0:0:0:0:0:1
Match final host 2001:db8::2
  User seen
Host 2001:DB8:0::3
  Port 2222
Host scoped
  HostName fe80:0::1%%lo
`,
    hosts: ['six', '2001:db8:0::2', '2001:DB8:0::3', '::ffff:7f00:1', 'FE80::1', 'scoped', '0:0:0:0:0:0:0:1'],
  },
  {
    name: 'unknown keywords that are to be ignored',
    config: 'IgnoreUnknown new*,Newer\nNewThing a b\nHost b\n  newer\tx\nHost *\n  User op\n',
    hosts: ['a', 'b'],
  },
  {
    name: 'Match all after others',
    config: 'Match final all\n  Port 1\nMatch host a all\n  User never\nMatch canonical\n  User never\n',
    hosts: ['a', 'b'],
  },
  {
    name: 'a pattern that finds a directory too',
    config: 'Include HOME/mixed/*\n',
    files: { 'mixed/dir/x': 'User never\n', 'mixed/file': 'User op\n' },
    hosts: ['a'],
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

/** What the files name; the same for us and for ssh. */
const env = { SHELF: 'x$y%h' };

/** The keys that we honour as `ssh -G` prints them; null where it refuses the file. */
async function asked(file: string, host: string, user?: string): Promise<Record<string, unknown> | null> {
  const who = user === undefined ? [] : ['-l', user];
  const ended = await run('ssh', ['-G', '-F', file, ...who, host], { env: { ...process.env, ...env } }).catch(
    (error: { code?: unknown }) => {
      if (error.code === 255) return null;
      throw error;
    },
  );
  if (ended === null) return null;
  const said = new Map<string, string[]>();
  for (const line of ended.stdout.split('\n')) {
    const [key = '', ...rest] = line.split(' ');
    said.set(key, [...(said.get(key) ?? []), rest.join(' ')]);
  }
  const one = (key: string): string | null => said.get(key)?.[0] ?? null;
  const timeout = one('connecttimeout');
  return {
    hostName: one('hostname'),
    port: Number(one('port')),
    user: one('user'),
    identityFiles: said.get('identityfile'),
    identitiesOnly: one('identitiesonly') === 'yes',
    knownHostsFiles: one('userknownhostsfile'),
    globalKnownHostsFiles: one('globalknownhostsfile'),
    hostKeyAlias: one('hostkeyalias'),
    proxyJump: one('proxyjump'),
    proxyCommand: one('proxycommand') !== null,
    connectTimeoutMs: timeout === 'none' || timeout === '0' ? null : Number(timeout) * 1000,
  };
}

/** The same from us. */
async function ours(file: string, host: string, user?: string): Promise<Record<string, unknown> | null> {
  const around = { home: userInfo().homedir, env };
  try {
    const found = (await loadSshConfig(file, around)).find({ host, user, defaultUser: me });
    const port = found.port ?? 22;
    const who = user ?? found.user ?? me;
    const tokens = tokensOf(
      { original: host, name: found.hostName, port, user: who, alias: found.hostKeyAlias },
      around.home,
    );
    const pathOf = (path: string): string =>
      /^none$/i.test(path) ? 'none' : expandPath(path, tokens, around, file).replace(/(?<=.)\/$/, '');
    const { knownHostsFiles, globalKnownHostsFiles, identityFiles } = found;
    return {
      ...found,
      port,
      user: who,
      identityFiles: identityFiles ?? unset['identityFiles'],
      identitiesOnly: found.identitiesOnly ?? false,
      knownHostsFiles: knownHostsFiles?.map(pathOf).join(' ') ?? unset['knownHostsFiles'],
      globalKnownHostsFiles:
        globalKnownHostsFiles?.map((path) => (/^none$/i.test(path) ? 'none' : path)).join(' ') ??
        unset['globalKnownHostsFiles'],
      proxyJump: found.proxyJump === 'none' ? null : found.proxyJump,
      proxyCommand: found.proxyCommand !== null,
    };
  } catch (error) {
    if (error instanceof ReconcileError && error.info.code === 'CONFIG_INVALID') return null;
    throw error;
  }
}

/** ssh's own defaults. */
let unset: Record<string, unknown>;
beforeAll(async () => {
  unset = (await asked(await write('empty', ''), 'any')) as Record<string, unknown>;
});

const normal = (answer: Record<string, unknown> | null): unknown =>
  answer === null
    ? 'refused'
    : {
        ...answer,
        knownHostsFiles: String(answer['knownHostsFiles']).replaceAll(/\/(?= |$)/g, ''),
        proxyJump: String(answer['proxyJump']).replace(/^ssh:\/\//, ''),
      };

describe('what we find is what `ssh -G` finds', () => {
  test.each(cases)('$name', async ({ name, config, files = {}, hosts, user }) => {
    for (const [path, text] of Object.entries(files)) await write(path, text);
    const file = await write(`${name}.conf`, config);
    for (const host of hosts) {
      const answer = await ours(file, host, user);
      expect(answer).not.toBeNull();
      expect({ host, answer: normal(answer) }).toEqual({ host, answer: normal(await asked(file, host, user)) });
    }
  });

  // each alone, in a block that does not apply: ssh looks at all lines
  test.each([
    'HostNmae x',
    'User',
    'User a b',
    'User ""',
    'HostName a b',
    'HostName ""',
    'Port 0',
    'Port 65536',
    'Port -1',
    'Port no-such-service',
    'Port 22 23',
    'Port 0x16',
    'ConnectTimeout soon',
    'ConnectTimeout NONE',
    'ConnectTimeout 1.5',
    'ConnectTimeout 500ms',
    'ConnectTimeout 99999999w',
    'IdentitiesOnly maybe',
    'IdentitiesOnly yes no',
    'IdentityFile /a /b',
    'IdentityFile ""',
    'UserKnownHostsFile /a none',
    'UserKnownHostsFile none /a',
    'UserKnownHostsFile /a ""',
    'GlobalKnownHostsFile none none',
    'HostKeyAlias a b',
    'ProxyJump a,b:c',
    'ProxyJump a:0',
    'ProxyJump a:99999',
    'ProxyJump @a',
    'ProxyJump ,a',
    'ProxyJump a, b',
    'Host a ""',
    'Include ""',
    'Match',
    'Match host',
    'Match host ""',
    'Match nothing x',
    'Match all host x',
    'Match host a user b all',
    'User "op',
    "User 'op",
    'IgnoreUnknown',
  ])('%j is refused by both', async (line) => {
    const file = await write('one-line', `Host other\n${line}\n`);
    expect(await asked(file, 'node1')).toBeNull();
    expect(await ours(file, 'node1')).toBeNull();
  });

  test('in 300 files made at random', { timeout: 60_000 }, async () => {
    const next = random(23);
    const made = Array.from({ length: 300 }, () => randomFile(next));
    const queue = new PQueue({ concurrency: 4 });
    let refused = 0;
    await queue.addAll(
      made.map((text, i) => async () => {
        const file = await write(`random/${i}`, text);
        for (const host of ['node1', '2001:db8:0::1']) {
          const answer = normal(await ours(file, host));
          if (answer === 'refused') refused += 1;
          expect({ text, host, answer }).toEqual({ text, host, answer: normal(await asked(file, host)) });
        }
      }),
    );
    expect(refused).toBeGreaterThan(30);
    expect(refused).toBeLessThan(400);
  });
});

const HOSTS = [
  'node1',
  'NODE1',
  'node?',
  '*',
  '!node1',
  'n*1',
  'other',
  '2001:db8::1',
  '2001:db8:0::1',
  '2001:*',
  'b,c',
];
const VALUES: Record<string, readonly string[]> = {
  HostName: ['10.0.0.1', 'other', '%h.example', '2001:DB8:0::9', 'UPPER', '"quoted"'],
  Port: ['22', '2222', 'ssh', '65535', '0', '+23', '0022', 'x'],
  User: ['op', 'root', '"a b"', 'a#b', 'a b'],
  IdentityFile: ['/k/a', '/k/b', '~/.ssh/c', 'none', 'None', '/k/%h', '/k/${SHELF}'],
  IdentitiesOnly: ['yes', 'no', 'YES', 'True', 'FALSE', 'maybe'],
  UserKnownHostsFile: ['/u/a', '/u/a /u/b', '~/.ssh/u', 'none', 'NONE', '/u/%h-%p-%r', '/u/${SHELF}', '/u/${UNSET_}'],
  GlobalKnownHostsFile: ['/g/a', '/g/a /g/b', 'none', '~/g'],
  HostKeyAlias: ['alias', 'ALIAS', '"a"'],
  ProxyJump: ['none', 'NONE', 'bastion', 'op@bastion:2222', 'a,b', 'ssh://u@c:1', 'a:b'],
  ProxyCommand: ['none', 'NONE', 'nc %h %p', 'ssh -W %h:%p b # x'],
  ConnectTimeout: ['5', '0', 'none', '1m30', '2H', 'x'],
  ServerAliveInterval: ['5'],
};

/** Four to twelve lines; most that could be wrong are right. */
function randomFile(next: () => number): string {
  const lines: string[] = [];
  for (let n = 4 + Math.floor(next() * 9); n > 0; n -= 1) {
    const kind = next();
    if (kind < 0.2) lines.push(`Host ${pick(HOSTS, next)} ${next() < 0.3 ? pick(HOSTS, next) : ''}`);
    else if (kind < 0.4) lines.push(`Match ${randomCriteria(next)}`);
    else {
      const keyword = pick(Object.keys(VALUES), next);
      const sign = pick([' ', '\t', '=', ' = '], next);
      lines.push(`${pick(['', '  '], next)}${keyword}${sign}${pick(VALUES[keyword] as readonly string[], next)}`);
    }
  }
  return `${lines.join('\n')}\n`;
}

function randomCriteria(next: () => number): string {
  if (next() < 0.2) return pick(['all', 'final all', '!all', 'final'], next);
  const not = (): string => (next() < 0.3 ? '!' : '');
  const criteria = [`${not()}host ${pick(HOSTS, next)}`, `${not()}originalhost ${pick(HOSTS, next)}`];
  criteria.push(`${not()}user ${pick(['op', 'root', me, '*'], next)}`, `${not()}localuser ${pick([me, 'x'], next)}`);
  const chosen = criteria.filter(() => next() < 0.5);
  if (next() < 0.2) chosen.unshift('final');
  return chosen.length === 0 ? 'host=*' : chosen.join(' ');
}

describe('a file', () => {
  const load = async (text: string) => loadSshConfig(await write('config', text), { home, env });

  test('that is not there says nothing', async () => {
    const found = (await loadSshConfig(join(home, 'no-such-file'), { home, env })).find({ host: 'N', defaultUser: me });
    expect(found).toMatchObject({ hostName: 'n', port: null, user: null, identityFiles: null, proxyJump: null });
  });

  test('never runs a command', async () => {
    const config = await load('Match exec "touch HOME/ran"\n  User never\nMatch !exec false\n  User never\n');
    expect(config.find({ host: 'node1', defaultUser: me }).user).toBeNull();
    await expect(access(join(home, 'ran'))).rejects.toThrow('ENOENT');
    expect(config.ignored).toEqual([`match exec (${home}/config:1)`]);
    const asks = await load('Match user op tagged x\n  Port 1\n');
    expect(asks.find({ host: 'n', user: 'op', defaultUser: me }).port).toBeNull();
    expect(asks.ignored).toEqual([`match tagged (${home}/config:1)`]);
  });

  test('says what is passed over, each keyword once, those of included files too', async () => {
    await write('more', 'ControlPath x\nForwardAgent yes\n');
    const config = await load('Host a\n  ControlPath y\n  User op\nHost *\n  Include HOME/more\n');
    expect(config.ignored).toEqual([`controlpath (${home}/config:2)`, `forwardagent (${home}/more:2)`]);
  });

  test('includes relative names from ~/.ssh, sorted, and passes over what is not there', async () => {
    await write('.ssh/conf.d/20-b', 'User b\n');
    await write('.ssh/conf.d/10-a', 'User a\nPort 10\n');
    await write('.ssh/plain', 'Port 9\n');
    await write('near-home', 'HostKeyAlias home\n');
    const config = await load('Include absent conf.d/*-[ab] no-dir/*\nInclude plain ~/near-home\n');
    expect(config.find({ host: 'n', defaultUser: me })).toMatchObject({ user: 'a', port: 10, hostKeyAlias: 'home' });
  });

  test.each([
    ['User "op\n', ':1: a quote is not closed'],
    ['\nUser\n', ':2: user has no value'],
    ['= =\n', ':1: this is no line of an ssh config'],
    ['User op root\n', ':1: user has one value, and more stand there'],
    ['Port x\n', ':1: x is no port'],
    ['IdentitiesOnly maybe\n', ':1: IdentitiesOnly is yes or no'],
    ['ConnectTimeout soon\n', ':1: soon is no time'],
    ['UserKnownHostsFile none /x\n', ':1: userknownhostsfile: none stands alone'],
    ['ProxyJump a:b:c\n', ':1: ProxyJump: a:b:c is not [user@]host[:port]'],
    ['ProxyJump -oX\n', ':1: ProxyJump: -oX is not [user@]host[:port]'],
    ['Match host\n', ':1: Match host needs a value'],
    ['Match all host x\n', ':1: Match all stands alone'],
    ['Match colour red\n', ':1: Match has no colour'],
    ['HostNmae x\n', ':1: ssh knows no hostnmae'],
    ['HostName %p\n', 'the ssh config: %p in HostName %p is not supported'],
    ['Include HOME/config\n', '/config: too many files are included'],
    ['Include ~op/x\n', ':1: ~op/x: of the forms with ~ only ~/… is understood'],
    ['Include /k/${UNSET_}\n', ':1: ${UNSET_}: '],
  ])('%j is refused', async (text, problem) => {
    const error: unknown = await load(text)
      .then((config) => config.find({ host: 'n', defaultUser: me }))
      .catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(ReconcileError);
    expect(error).toMatchObject({ info: { code: 'CONFIG_INVALID', message: expect.stringContaining(problem) } });
  });

  test('that cannot be read, or that never ends, is an error', async () => {
    await expect(loadSshConfig(home, { home, env })).rejects.toThrow(`${home}: is not a regular file`);
    await run('mkfifo', [join(home, 'pipe')]);
    await expect(load('Include HOME/pipe\n')).rejects.toThrow(`${home}/pipe: is not a regular file`);
    expect((await loadSshConfig('/dev/null', { home, env })).find({ host: 'n', defaultUser: me }).user).toBeNull();
  });

  test('that others may write is refused where ssh refuses it', async () => {
    const loose = await write('loose', 'User op\n');
    await chmod(loose, 0o666);
    const named = await loadSshConfig(loose, { home, env });
    expect(named.find({ host: 'n', defaultUser: me }).user).toBe('op');
    await expect(load(`Include ${loose}\n`)).rejects.toThrow(`${loose}: bad owner or permissions`);
    expect(await asked(join(home, 'config'), 'n')).toBeNull();
    const usual = await write('.ssh/config', 'User op\n');
    await chmod(usual, 0o602);
    await expect(loadSshConfig(usual, { home, env })).rejects.toThrow(`${usual}: bad owner or permissions`);
    await chmod(usual, 0o644);
  });

  test('names its files by the environment', async () => {
    await write('by-env/file', 'User op\n');
    const around = { home, env: { WHERE: `${home}/by-env` } };
    const config = await loadSshConfig(await write('config', 'Include ${WHERE}/f*\n'), around);
    expect(config.find({ host: 'n', defaultUser: me }).user).toBe('op');
  });
});

describe('what to log in to', () => {
  const targets = async (text: string, ssh: SshSettings = {}, configFile?: null) => {
    const file = await write('.ssh/config', text);
    const common: NodeDefaults['ssh'] = { ...ssh, configFile: configFile === null ? null : file, home };
    const loaded = await loadTargets(common, env);
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
  GlobalKnownHostsFile /etc/gkh
  HostKeyAlias one
  ConnectTimeout 3
  ProxyJump bastion
Host bastion
  User jumper
`;

  test('comes from the defaults where nothing says anything', async () => {
    const nothing = {
      host: 'Node1',
      port: 22,
      user: 'root',
      identityFiles: [],
      knownHostsFiles: [`${home}/.ssh/known_hosts`, `${home}/.ssh/known_hosts2`],
      globalKnownHostsFiles: ['/etc/ssh/ssh_known_hosts', '/etc/ssh/ssh_known_hosts2'],
      connectTimeoutMs: 10_000,
    };
    expect((await targets(everything, {}, null))('Node1')).toEqual({ target: nothing, jumps: [] });
    expect((await targets(''))('node2')).toEqual({ target: { ...nothing, host: 'node2' }, jumps: [] });
  });

  test('comes from the ssh config, paths and names expanded', async () => {
    const { target, jumps } = (await targets(everything))('node1');
    expect(target).toEqual({
      host: '10.0.0.11',
      port: 2222,
      user: 'op',
      identityFiles: [`${home}/.ssh/own`],
      mayLackIdentityFiles: true,
      identitiesOnly: true,
      knownHostsFiles: [`${home}/.ssh/kh`, '/etc/kh'],
      globalKnownHostsFiles: ['/etc/gkh'],
      hostKeyAlias: 'one',
      connectTimeoutMs: 3000,
    });
    expect(jumps).toMatchObject([{ host: 'bastion', port: 22, user: 'jumper' }]);
  });

  test('comes from the config first, and from the node before that', async () => {
    const common = { user: 'c', port: 1, identityFiles: ['/c'], knownHostsFiles: ['/kc'], connectTimeoutMs: 1 };
    const of = await targets(everything, { ...common, proxyJump: ['b'], acceptNewHostKey: true });
    const rest = { host: '10.0.0.11', hostKeyAlias: 'one', identitiesOnly: true, globalKnownHostsFiles: ['/etc/gkh'] };
    const first = of('node1');
    expect(first.target).toEqual({ ...rest, ...common, acceptNewHostKey: true });
    expect(first.jumps).toMatchObject([
      { host: 'b', user: me, port: 22, identityFiles: ['/c'], knownHostsFiles: ['/kc'] },
    ]);
    const own = { user: 'o', port: 2, identityFiles: [], knownHostsFiles: [], connectTimeoutMs: 2 };
    const second = of('node1', { ...own, proxyJump: [], acceptNewHostKey: false });
    expect(second).toEqual({ target: { ...rest, ...own }, jumps: [] });
  });

  test('has tokens expanded as ssh does', async () => {
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

  test('has a way of several machines, of which the first may have one too', async () => {
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

  test('has no way that never ends', async () => {
    const of = await targets('Host *\n  ProxyJump b\n');
    expect(() => of('n')).toThrow('more than 8 machines');
  });

  test('has an IPv6 address in its one form, and says which command would lead to it', async () => {
    expect((await targets('', {}, null))('2001:DB8:0::1').target.host).toBe('2001:db8::1');
    const of = await targets('Host far\n  ProxyCommand nc %h %p\nHost near\n  ProxyCommand none\n');
    const told = { proxyCommand: `${home}/.ssh/config:2` };
    expect(of('far').target).toMatchObject(told);
    expect(of('far', { proxyJump: [] }).target).not.toMatchObject(told);
    expect(of('near').target.proxyCommand).toBeUndefined();
  });

  test.each(['~op/x', '/k/${UNSET_}', '/k/%Z'])('has no file %s', async (path) => {
    const of = await targets(`UserKnownHostsFile ${path}\n`);
    expect(() => of('n')).toThrow('the ssh config: ');
  });
});
