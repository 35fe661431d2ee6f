// known_hosts: one table of files and questions, judged by our parser and, row by row, by the real `ssh`.
import { execFile } from 'node:child_process';
import { createHmac } from 'node:crypto';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import PQueue from 'p-queue';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { matchHosts } from '../../../../src/ssh/trust/host-patterns.ts';
import {
  fingerprint,
  indexLines,
  joinKnownHosts,
  keyType,
  loadKnownHosts,
  lookupName,
  parseKnownHosts,
} from '../../../../src/ssh/trust/known-hosts.ts';
import type { KnownHosts, KnownHostsCache } from '../../../../src/ssh/trust/known-hosts.ts';
import type { ReconcileError } from '../../../../src/core/errors.ts';
import { ensureSshd } from '../../../fleet/sshd.ts';

const run = promisify(execFile);

/** The server's own keys, and keys of somebody else, as `type base64`. */
interface Keys {
  ed25519: string;
  ecdsa: string;
  rsa: string;
  other: string;
  otherRsa: string;
}

interface Row {
  name: string;
  /** The known_hosts files. */
  files: (k: Keys) => string[];
  host?: string;
  port?: number;
  /** Lines are `FILE:LINE`, both counted from 1. */
  expect: 'ok' | 'unknown' | `mismatch ${number}:${number}` | `revoked ${number}:${number}`;
}

const SALT = Buffer.from('0123456789abcdefghij').toString('base64');
function hashed(name: string, salt = SALT): string {
  return `|1|${salt}|${createHmac('sha1', Buffer.from(salt, 'base64')).update(name).digest('base64')}`;
}
const swap = (key: string, from: string, to: string): string => key.replace(from, to);

const rows: Row[] = [
  // names
  { name: 'the plain name', files: (k) => [`node1 ${k.ed25519}\n`], expect: 'ok' },
  { name: 'no newline at the end', files: (k) => [`node1 ${k.ed25519}`], expect: 'ok' },
  { name: 'another name', files: (k) => [`node2 ${k.ed25519}\n`], expect: 'unknown' },
  { name: 'a longer name', files: (k) => [`node11 ${k.ed25519}\n`], expect: 'unknown' },
  { name: 'a name in a list', files: (k) => [`a,node1,b ${k.ed25519}\n`], expect: 'ok' },
  { name: 'a name twice in a list', files: (k) => [`node1,node1 ${k.ed25519}\n`], expect: 'ok' },
  { name: 'a list with empty items', files: (k) => [`,,node1, ${k.ed25519}\n`], expect: 'ok' },
  { name: 'upper case in the file', files: (k) => [`NODE1 ${k.ed25519}\n`], expect: 'ok' },
  { name: 'upper case asked for', files: (k) => [`node1 ${k.ed25519}\n`], host: 'NODE1', expect: 'ok' },
  { name: 'an IPv4 address', files: (k) => [`10.0.0.11 ${k.ed25519}\n`], host: '10.0.0.11', expect: 'ok' },
  { name: 'an IPv6 address', files: (k) => [`fe80::1 ${k.ed25519}\n`], host: 'fe80::1', expect: 'ok' },
  { name: 'an empty file', files: () => [''], expect: 'unknown' },

  // ports
  { name: 'host and port', files: (k) => [`[node1]:2222 ${k.ed25519}\n`], port: 2222, expect: 'ok' },
  { name: 'another port', files: (k) => [`[node1]:2223 ${k.ed25519}\n`], port: 2222, expect: 'unknown' },
  { name: 'port 22 written out', files: (k) => [`[node1]:22 ${k.ed25519}\n`], expect: 'unknown' },
  { name: 'a port line for port 22', files: (k) => [`[node1]:2222 ${k.ed25519}\n`], expect: 'unknown' },
  { name: 'the bare name stands in', files: (k) => [`node1 ${k.ed25519}\n`], port: 2222, expect: 'ok' },
  { name: 'another key of the bare name', files: (k) => [`node1 ${k.other}\n`], port: 2222, expect: 'unknown' },
  { name: 'another type of the bare name', files: (k) => [`node1 ${k.rsa}\n`], port: 2222, expect: 'unknown' },
  {
    name: 'the bare name does not overrule the port',
    files: (k) => [`[node1]:2222 ${k.other}\nnode1 ${k.ed25519}\n`],
    port: 2222,
    expect: 'mismatch 1:1',
  },
  {
    name: 'a revoked key of the bare name',
    files: (k) => [`@revoked node1 ${k.ed25519}\n`],
    port: 2222,
    expect: 'revoked 1:1',
  },
  { name: 'a pattern with a port', files: (k) => [`[node*]:2222 ${k.ed25519}\n`], port: 2222, expect: 'ok' },
  { name: 'a pattern without brackets and a port', files: (k) => [`*node1* ${k.ed25519}\n`], port: 2222, expect: 'ok' },

  // patterns
  { name: 'a star', files: (k) => [`node* ${k.ed25519}\n`], expect: 'ok' },
  { name: 'a star for nothing', files: (k) => [`node1* ${k.ed25519}\n`], expect: 'ok' },
  { name: 'a star alone', files: (k) => [`* ${k.ed25519}\n`], expect: 'ok' },
  { name: 'two stars', files: (k) => [`n**e* ${k.ed25519}\n`], expect: 'ok' },
  { name: 'a star in the middle', files: (k) => [`*.gpu.* ${k.ed25519}\n`], host: 'a.gpu.gpu.b', expect: 'ok' },
  { name: 'a question mark', files: (k) => [`node? ${k.ed25519}\n`], expect: 'ok' },
  { name: 'a question mark for nothing', files: (k) => [`node1? ${k.ed25519}\n`], expect: 'unknown' },
  { name: 'brackets are no pattern', files: (k) => [`node[1] ${k.ed25519}\n`], expect: 'unknown' },
  { name: 'a negation', files: (k) => [`node*,!node1 ${k.ed25519}\n`], expect: 'unknown' },
  { name: 'a negation first', files: (k) => [`!node1,node* ${k.ed25519}\n`], expect: 'unknown' },
  { name: 'a negation of another', files: (k) => [`node*,!node2 ${k.ed25519}\n`], expect: 'ok' },
  { name: 'a negation alone', files: (k) => [`!node2 ${k.ed25519}\n`], expect: 'unknown' },
  { name: 'a negated line and a plain one', files: (k) => [`*,!node1 ${k.other}\nnode1 ${k.ed25519}\n`], expect: 'ok' },
  { name: 'a very long pattern', files: (k) => [`${'a'.repeat(1100)},node1 ${k.ed25519}\n`], expect: 'unknown' },

  // hashed names
  { name: 'hashed', files: (k) => [`${hashed('node1')} ${k.ed25519}\n`], expect: 'ok' },
  { name: 'hashed, another', files: (k) => [`${hashed('node2')} ${k.ed25519}\n`], expect: 'unknown' },
  { name: 'hashed, another key', files: (k) => [`#\n${hashed('node1')} ${k.other}\n`], expect: 'mismatch 1:2' },
  { name: 'hashed with a port', files: (k) => [`${hashed('[node1]:2222')} ${k.ed25519}\n`], port: 2222, expect: 'ok' },
  { name: 'hashed upper case', files: (k) => [`${hashed('NODE1')} ${k.ed25519}\n`], host: 'NODE1', expect: 'unknown' },
  { name: 'hashed in a list', files: (k) => [`${hashed('node1')},node1 ${k.ed25519}\n`], expect: 'unknown' },
  {
    name: 'a hash without its salt',
    files: (k) => [`|1|${hashed('node1').slice(-28)} ${k.ed25519}\n`],
    expect: 'unknown',
  },
  { name: 'a short salt', files: (k) => [`${hashed('node1', 'YWJj')} ${k.ed25519}\n`], expect: 'unknown' },
  { name: 'hashed and revoked', files: (k) => [`@revoked ${hashed('node1')} ${k.ed25519}\n`], expect: 'revoked 1:1' },

  // keys
  { name: 'another key', files: (k) => [`node1 ${k.other}\n`], expect: 'mismatch 1:1' },
  {
    name: 'the last of other keys',
    files: (k) => [`node1 ${k.other}\n\nnode1 ${k.otherRsa}\n`],
    expect: 'mismatch 1:3',
  },
  { name: 'an old key and the right one', files: (k) => [`node1 ${k.other}\nnode1 ${k.ed25519}\n`], expect: 'ok' },
  { name: 'only the RSA key', files: (k) => [`node1 ${k.rsa}\n`], expect: 'ok' },
  { name: 'only the ECDSA key', files: (k) => [`node1 ${k.ecdsa}\n`], expect: 'ok' },
  { name: 'another RSA key', files: (k) => [`node1 ${k.otherRsa}\n`], expect: 'mismatch 1:1' },
  { name: 'all types', files: (k) => [`node1 ${k.rsa}\nnode1 ${k.ecdsa}\nnode1 ${k.ed25519}\n`], expect: 'ok' },
  {
    name: 'a signature name as type',
    files: (k) => [`node1 ${swap(k.rsa, 'ssh-rsa', 'rsa-sha2-512')}\n`],
    expect: 'ok',
  },
  {
    name: 'a type that the key is not',
    files: (k) => [`node1 ${swap(k.rsa, 'ssh-rsa', 'ssh-dss')}\n`],
    expect: 'unknown',
  },
  {
    name: 'another curve',
    files: (k) => [`node1 ${swap(k.ecdsa, 'ecdsa-sha2-nistp256', 'ecdsa-sha2-nistp384')}\n`],
    expect: 'unknown',
  },

  // markers
  { name: 'revoked', files: (k) => [`@revoked node1 ${k.ed25519}\n`], expect: 'revoked 1:1' },
  { name: 'revoked and known', files: (k) => [`node1 ${k.ed25519}\n@revoked * ${k.ed25519}\n`], expect: 'revoked 1:2' },
  { name: 'another key is revoked', files: (k) => [`@revoked node1 ${k.other}\nnode1 ${k.ed25519}\n`], expect: 'ok' },
  {
    name: 'revoked, another type known',
    files: (k) => [`@revoked node1 ${k.ed25519}\nnode1 ${k.rsa}\n`],
    expect: 'ok',
  },
  { name: 'revoked after a tab', files: (k) => [`@revoked\tnode1 ${k.ed25519}\nnode1 ${k.ed25519}\n`], expect: 'ok' },
  {
    name: 'revoked, tabs only',
    files: (k) => [`@revoked\tnode1\t${k.ed25519.replace(' ', '\t')}\n`],
    expect: 'revoked 1:1',
  },
  { name: 'a certificate authority', files: (k) => [`@cert-authority node1 ${k.ed25519}\n`], expect: 'unknown' },
  { name: 'an unknown marker', files: (k) => [`@trusted node1 ${k.ed25519}\n`], expect: 'unknown' },
  {
    name: 'two markers',
    files: (k) => [`@revoked @revoked node1 ${k.ed25519}\nnode1 ${k.ed25519}\n`],
    expect: 'ok',
  },
  { name: 'a marker alone', files: (k) => [`@revoked\nnode1 ${k.ed25519}\n`], expect: 'ok' },

  // the shape of lines
  {
    name: 'a comment behind the key',
    files: (k) => [`node1 ${k.ed25519} root@node1 # installed in May\n`],
    expect: 'ok',
  },
  { name: 'a comment line', files: (k) => [`# node1 ${k.other}\nnode1 ${k.ed25519}\n`], expect: 'ok' },
  { name: 'an indented comment', files: (k) => [`  # node1 ${k.other}\nnode1 ${k.ed25519}\n`], expect: 'ok' },
  { name: 'blank lines', files: (k) => [`\n  \n\t\nnode1 ${k.ed25519}\n`], expect: 'ok' },
  { name: 'indented', files: (k) => [` \t node1 ${k.ed25519}\n`], expect: 'ok' },
  { name: 'tabs and many spaces', files: (k) => [`node1 \t ${k.ed25519.replace(' ', '\t  ')}\n`], expect: 'ok' },
  { name: 'lines that end in CRLF', files: (k) => [`node1 ${k.ed25519}\r\n`], expect: 'ok' },
  { name: 'no key', files: () => ['node1\n'], expect: 'unknown' },
  { name: 'a type without key', files: () => ['node1 ssh-ed25519\n'], expect: 'unknown' },
  { name: 'a comment in place of the key', files: (k) => [`node1 # ${k.ed25519}\n`], expect: 'unknown' },
  { name: 'a name without type', files: (k) => [`node1 ${k.ed25519.split(' ')[1]}\n`], expect: 'unknown' },
  { name: 'a cut key', files: (k) => [`node1 ${k.ed25519.slice(0, -4)}\n`], expect: 'unknown' },
  { name: 'a key with more behind it', files: (k) => [`node1 ${k.ed25519}AAAA\n`], expect: 'unknown' },
  { name: 'base64 without its end', files: (k) => [`node1 ${k.ed25519.slice(0, -1)}\n`], expect: 'unknown' },
  { name: 'no base64', files: () => ['node1 ssh-ed25519 !!!!\n'], expect: 'unknown' },
  { name: 'an SSH 1 key', files: () => ['node1 1024 35 123456789\n'], expect: 'unknown' },
  {
    name: 'a broken line before the right one',
    files: (k) => [`node1 ssh-rsa AAAA\nnode1 ${k.ed25519}\n`],
    expect: 'ok',
  },
  { name: 'binary rubbish', files: (k) => [`\x01\x02\x7f\xff\nnode1 ${k.ed25519}\n`], expect: 'ok' },

  // several files
  { name: 'the second file knows', files: (k) => [`node2 ${k.ed25519}\n`, `node1 ${k.ed25519}\n`], expect: 'ok' },
  { name: 'the second file is older', files: (k) => [`node1 ${k.ed25519}\n`, `node1 ${k.other}\n`], expect: 'ok' },
  {
    name: 'the second file revokes',
    files: (k) => [`node1 ${k.ed25519}\n`, `@revoked * ${k.ed25519}\n`],
    expect: 'revoked 2:1',
  },
  {
    name: 'other keys in both',
    files: (k) => [`node1 ${k.other}\n`, `\nnode1 ${k.otherRsa}\n`],
    expect: 'mismatch 2:2',
  },
];

let dir: string;
let keys: Keys;
let sshd: string;

beforeAll(async () => {
  sshd = await ensureSshd();
  dir = await mkdtemp(join(tmpdir(), 'known-hosts-'));
  if (process.getuid?.() === 0) await mkdir('/run/sshd', { recursive: true });
  const make = async (name: string, type: string): Promise<string> => {
    await run('ssh-keygen', ['-q', '-t', type, '-N', '', '-C', '', '-f', join(dir, name)]);
    return (await readFile(join(dir, `${name}.pub`), 'utf8')).trim();
  };
  const [ed25519, ecdsa, rsa, other, otherRsa] = await Promise.all([
    make('ed25519', 'ed25519'),
    make('ecdsa', 'ecdsa'),
    make('rsa', 'rsa'),
    make('other', 'ed25519'),
    make('other-rsa', 'rsa'),
  ]);
  keys = { ed25519, ecdsa, rsa, other, otherRsa };
  const hostKeys = ['ed25519', 'ecdsa', 'rsa'].map((name) => `HostKey ${join(dir, name)}\n`).join('');
  await writeFile(join(dir, 'sshd_config'), `${hostKeys}UsePAM no\nStrictModes no\nPasswordAuthentication no\n`);
}, 60_000);

afterAll(() => rm(dir, { recursive: true, force: true }));

const blobOf = (key: string): Buffer => Buffer.from(key.split(' ')[1] as string, 'base64');

/** What we say to the key that the server, which has one of each type, shows to somebody who asks as we do. */
function judged(known: KnownHosts, host: string, port: number): string {
  const own: Record<string, string> = {
    'ssh-ed25519': keys.ed25519,
    'ecdsa-sha2-nistp256': keys.ecdsa,
    'rsa-sha2-512': keys.rsa,
  };
  const shown = known.keyTypesFor(host, port).find((name) => name in own) as string;
  const verdict = known.check(host, port, blobOf(own[shown] as string));
  return 'file' in verdict ? `${verdict.verdict} ${verdict.file}:${verdict.line}` : verdict.verdict;
}

function parsed(files: string[]): KnownHosts {
  return joinKnownHosts(files.map((text, index) => indexLines(parseKnownHosts(text, String(index + 1)))));
}

describe('the table', () => {
  test.each(rows)('$name: $expect', ({ files, host = 'node1', port = 22, expect: expected }) => {
    expect(judged(parsed(files(keys)), host, port)).toBe(expected);
  });

  test('agrees with ssh, row by row', { timeout: 120_000 }, async () => {
    const queue = new PQueue({ concurrency: 8 });
    const said = await Promise.all(rows.map((row, index) => queue.add(() => sshSays(row, index))));
    const words = (row: Row): string => (row.expect.startsWith('revoked') ? 'revoked' : row.expect); // ssh names no line
    expect(rows.map((row, index) => `${row.name}: ${said[index]}`)).toEqual(
      rows.map((row) => `${row.name}: ${words(row)}`),
    );
  });
});

/**
 * The verdict of the real client before a real sshd: one process per connection in place of a port, so that any host
 * name and port can be asked for.
 */
async function sshSays(row: Row, index: number): Promise<string> {
  const names = row.files(keys).map((_, file) => join(dir, `row${index}-${file + 1}`));
  await Promise.all(row.files(keys).map((text, file) => writeFile(names[file] as string, text)));
  const settings = [
    'BatchMode=yes',
    'StrictHostKeyChecking=yes',
    `UserKnownHostsFile=${names.join(' ')}`,
    'GlobalKnownHostsFile=/dev/null',
    'IdentityFile=/nonexistent',
    'IdentityAgent=none',
    `ProxyCommand=${sshd} -i -f ${join(dir, 'sshd_config')}`,
  ];
  const argv = ['-F', '/dev/null', ...settings.flatMap((setting) => ['-o', setting]), '-p', String(row.port ?? 22)];
  const stderr = await run('ssh', [...argv, row.host ?? 'node1', 'true']).then(
    () => '',
    (error: unknown) => String((error as { stderr?: string }).stderr),
  );
  if (stderr.includes('REVOKED HOST KEY')) return 'revoked';
  const offending = /Offending \S+ key in .*-(\d+):(\d+)/.exec(stderr);
  if (stderr.includes('IDENTIFICATION HAS CHANGED')) return `mismatch ${offending?.[1]}:${offending?.[2]}`;
  if (/No \S+ host key is known/.test(stderr)) return 'unknown';
  return stderr.includes('Permission denied (publickey') ? 'ok' : stderr;
}

describe('what is asked for', () => {
  test('puts the types of known keys first and leaves SHA-1 out', () => {
    const first = (text: string): string[] => parsed([text]).keyTypesFor('node1', 22);
    expect(first('')).toEqual([
      'ssh-ed25519',
      'ecdsa-sha2-nistp256',
      'ecdsa-sha2-nistp384',
      'ecdsa-sha2-nistp521',
      'rsa-sha2-512',
      'rsa-sha2-256',
    ]);
    expect(first(`node1 ${keys.rsa}\n`).slice(0, 3)).toEqual(['rsa-sha2-512', 'rsa-sha2-256', 'ssh-ed25519']);
    expect(first(`node1 ${keys.ecdsa}\n`)[0]).toBe('ecdsa-sha2-nistp256');
    expect(first(`@revoked node1 ${keys.rsa}\n`)[0]).toBe('ssh-ed25519');
    expect(first(`@cert-authority node1 ${keys.rsa}\n`)[0]).toBe('ssh-ed25519');
  });
});

describe('a certificate authority', () => {
  test('is named where it is all there is, with and without a port', () => {
    const known = parsed([`# ours\n@cert-authority node1,[node2]:2222 ${keys.ed25519}\n`]);
    const authority = { verdict: 'unknown', authority: { file: '1', line: 2 } };
    expect(known.check('node1', 22, blobOf(keys.other))).toEqual(authority);
    expect(known.check('node1', 2222, blobOf(keys.other))).toEqual(authority);
    expect(known.check('node2', 2222, blobOf(keys.ed25519))).toEqual(authority);
    expect(known.check('node3', 22, blobOf(keys.ed25519))).toEqual({ verdict: 'unknown', authority: null });
  });
});

describe('files', () => {
  test('that do not exist hold nothing, and each is read once per cache', async () => {
    const file = join(dir, 'once');
    await writeFile(file, `node1 ${keys.ed25519}\n`);
    const cache: KnownHostsCache = new Map();
    const load = (): Promise<KnownHosts> => loadKnownHosts({ own: [join(dir, 'absent')], global: [file] }, cache);
    expect((await load()).check('node1', 22, blobOf(keys.ed25519))).toEqual({ verdict: 'ok' });
    await writeFile(file, '');
    expect((await load()).check('node1', 22, blobOf(keys.ed25519))).toEqual({ verdict: 'ok' });
    expect((await loadKnownHosts({ own: [file], global: [] })).check('node1', 22, blobOf(keys.ed25519)).verdict).toBe(
      'unknown',
    );
  });

  test('that cannot be read are an error that names them', async () => {
    const error = await loadKnownHosts({ own: [dir], global: [] }).catch((caught: unknown) => caught);
    expect((error as ReconcileError).info).toMatchObject({ code: 'CONFIG_INVALID' });
    expect((error as ReconcileError).message).toContain(dir);
  });

  test('with thousands of hashed names are each hashed until found, and the order of questions changes no answer', () => {
    const names = Array.from({ length: 300 }, (_, i) => `node${i}`);
    const text = names.map((name, i) => `${hashed(name)} ${i % 2 === 0 ? keys.ed25519 : keys.other}\n`).join('');
    const forwards = parsed([text]);
    const backwards = parsed([text]);
    const ask = (known: KnownHosts, name: string): string => known.check(name, 22, blobOf(keys.ed25519)).verdict;
    const answers = names.map((name) => ask(forwards, name));
    expect(answers).toEqual(names.map((_, i) => (i % 2 === 0 ? 'ok' : 'mismatch')));
    expect(names.toReversed().map((name) => ask(backwards, name))).toEqual(answers.toReversed());
    expect(names.map((name) => ask(forwards, name))).toEqual(answers);
  });
});

describe('names and keys', () => {
  test('are looked up as ssh does', () => {
    expect(lookupName('Node1', 22)).toBe('node1');
    expect(lookupName('Node1', 2222)).toBe('[node1]:2222');
  });

  test('match without going astray in many stars', () => {
    expect(matchHosts(`${'*a'.repeat(60)}b`, 'a'.repeat(2_000))).toBe(false);
    expect(matchHosts(hashed('node1'), 'node1')).toBe(true);
    expect(matchHosts('a*,!ab', 'ab')).toBe(false);
  });

  test('have the fingerprint that ssh-keygen prints', async () => {
    for (const name of ['ed25519', 'ecdsa', 'rsa']) {
      const { stdout } = await run('ssh-keygen', ['-l', '-f', join(dir, `${name}.pub`)]);
      const [, hash, type] = /(SHA256:\S+).*\((\w+)\)/.exec(stdout) ?? [];
      expect(fingerprint(blobOf(keys[name as keyof Keys]))).toBe(`${type} ${hash}`);
    }
    expect(keyType(blobOf(keys.rsa))).toBe('ssh-rsa');
    expect(keyType(Buffer.from([0, 0]))).toBe('');
    expect(fingerprint(Buffer.alloc(0))).toMatch(/^UNKNOWN SHA256:/);
  });
});
