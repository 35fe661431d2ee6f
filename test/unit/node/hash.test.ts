/** Hashing on a node: the script in real shells, and what its answers mean. */
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { hashBlobs, type NotHashed } from '../../../src/node/hash.ts';
import { ReconcileError } from '../../../src/core/errors.ts';
import type { HashedBlob, HashItem } from '../../../src/core/judge/proofs.ts';
import { node } from '../../support/facts.ts';
import { answering, localConnection } from '../../support/fakes.ts';
import { treeOf } from '../../support/tree.ts';

const signal = new AbortController().signal;
const base = mkdtempSync(join(tmpdir(), 'reconcile-hash-'));
afterAll(() => rmSync(base, { recursive: true, force: true }));

const TOOLS = 'cut find head ionice renice sha256sum timeout'.split(' ');
const bin = join(base, 'bin');
mkdirSync(bin);
for (const tool of [...TOOLS, 'sh']) symlinkSync(`/usr/bin/${tool}`, join(bin, tool));

const sha256 = (bytes: Buffer): string => `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
const hexes = ['a1', 'b2', 'c3', 'd4'].map((pair) => pair.repeat(32)) as [string, string, string, string];

const shells = [
  ['dash', '/usr/bin/dash'],
  ['bash', '/usr/bin/bash'],
].filter(([, path]) => existsSync(path as string)) as [string, string][];

describe.each(shells)('the script in %s', (name, shell) => {
  const root = join(base, `root of ${name}'s`);
  const own = join(base, name);
  mkdirSync(own);
  for (const tool of TOOLS) symlinkSync(`/usr/bin/${tool}`, join(own, tool));
  symlinkSync(shell, join(own, 'sh'));
  mkdirSync(join(root, 'cloudimg/blobs'), { recursive: true });
  const content = Buffer.from(Array.from({ length: 300_000 }, (_, i) => i % 251));
  const file = (hex: string): string => join(root, `cloudimg/blobs/${hex}.qcow2`);
  writeFileSync(file(hexes[0]), content);
  symlinkSync(file(hexes[0]), file(hexes[1]));
  mkdirSync(file(hexes[2]));
  const hash = async (items: HashItem[]): Promise<(HashedBlob | NotHashed)[]> => {
    const of = node('n', { cocoon: { ...node().cocoon, rootDir: root } });
    return await hashBlobs({ connection: localConnection(shell, { PATH: own }), node: of, signal }, items, 20_000);
  };

  test('hashes a blob as a whole, and changes nothing', async () => {
    const before = await treeOf(root);
    const { size, ino } = statSync(file(hexes[0]));
    const [first, ...more] = await hash([{ hex: hexes[0], ranges: [] }]);
    expect(more).toEqual([]);
    expect(first).toMatchObject({ hex: hexes[0], whole: sha256(content), ranges: [] });
    expect((first as HashedBlob).stamp).toMatch(new RegExp(`^${size} ${ino} \\d+\\.\\d+$`));
    expect(await treeOf(root)).toEqual(before);
  });

  test('and in ranges, exact to the byte', async () => {
    const lengths = [1, 70_000, 131_072, 98_927];
    const starts = lengths.map((_, i) => lengths.slice(0, i).reduce((sum, length) => sum + length, 0));
    const ranges = lengths.map((length, i) => sha256(content.subarray(starts[i], (starts[i] as number) + length)));
    expect(await hash([{ hex: hexes[0], ranges: lengths }])).toMatchObject([{ whole: sha256(content), ranges }]);
  });

  test('ranges beyond the end are short, and an empty one is empty', async () => {
    const [first] = await hash([{ hex: hexes[0], ranges: [0, 300_000, 5] }]);
    expect((first as HashedBlob).ranges).toEqual([sha256(Buffer.alloc(0)), sha256(content), sha256(Buffer.alloc(0))]);
  });

  test('several in turn; what is no file is gone; a link is what it leads to', async () => {
    const items = hexes.map((hex) => ({ hex, ranges: [300_000] }));
    const found = await hash(items);
    const both = { whole: sha256(content), ranges: [sha256(content)] };
    expect(found).toMatchObject([{ hex: hexes[0], ...both }, { hex: hexes[1], ...both }, 'gone', 'gone']);
  });

  test('nothing asked, nothing found', async () => {
    expect(await hash([])).toEqual([]);
  });
});

describe('an answer', () => {
  const [hex, other] = hexes;
  const read = async (lines: string[], cut = 0, after = ''): Promise<(HashedBlob | NotHashed)[]> => {
    const connection = answering((command) => {
      const [, nonce] = / hash (\S+) /.exec(command) as unknown as [string, string];
      const text = ['motd', `cocoon-hash 1 ${nonce}`, ...lines, '', `cocoon-hash end ${nonce}`, ''].join('\n');
      return text.slice(0, text.length - cut) + after;
    }, 'sh: boom\n');
    const items = [
      { hex, ranges: [5, 6] },
      { hex: other, ranges: [] },
    ];
    return await hashBlobs({ connection, node: node(), signal }, items, 1000);
  };
  const range = `range ${hex} ${other}`;
  const whole = `whole ${hex} ${hexes[2]} 5 77 1.5`;
  const second = `whole ${other} ${hex} 6 7 8`;

  test('is understood, whatever a login says around it', async () => {
    const [one, two] = [`sha256:${other}`, `sha256:${hex}`];
    expect(await read([range, range, whole, second], 0, 'logout\n')).toEqual([
      { hex, whole: `sha256:${hexes[2]}`, ranges: [one, one], stamp: '5 77 1.5' },
      { hex: other, whole: two, ranges: [], stamp: '6 7 8' },
    ]);
    expect(await read([`gone ${hex}`, `changed ${other}`])).toEqual(['gone', 'changed']);
    expect(await read([range, `late ${hex}`, `failed ${other}`])).toEqual(['late', 'failed']);
  });

  test('that ends early tells of what was hashed in time', async () => {
    expect(await read([range, range, whole])).toMatchObject([{ hex }, 'late']);
    expect(await read([range])).toEqual(['late', 'late']);
    expect(await read([])).toEqual(['late', 'late']);
  });

  const good = [range, range, whole, second];
  test.each<[string, string[], number]>([
    ['without its end', good, 1],
    ['cut in a line', good, 40],
    ['of another kind', ['rm -rf /', ...good], 0],
    ['about a blob that nobody asked about', [`whole ${hexes[3]} ${hex} 5 77 1.5`, second], 0],
    ['about another blob than the next', [second, range, range, whole], 0],
    ['about more blobs than were asked about', [...good, second], 0],
    ['with fewer ranges than were asked for', [range, whole, second], 0],
    ['with more ranges than were asked for', [range, range, range, whole, second], 0],
    ['of something that is gone, and more', [`gone ${hex} x`, second], 0],
    ['without a digest', [range, range, `whole ${hex}  5 77 1.5`, second], 0],
    ['of a range without a digest', [`range ${hex} `, range, whole, second], 0],
    ['of a digest that is none', [range, range, `whole ${hex} ${hex.toUpperCase()} 5 77 1.5`, second], 0],
    ['of a stamp that is none', [range, range, `whole ${hex} ${hex} 5`, second], 0],
  ])('%s cannot be trusted', async (_name, lines, cut) => {
    const error: unknown = await read(lines, cut).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(ReconcileError);
    expect((error as ReconcileError).info.code).toBe('NODE_ANSWER_INVALID');
  });

  test('is asked for by one command, with every length and the time as words', async () => {
    let asked = '';
    const connection = answering((command) => {
      asked = command;
      return '';
    });
    const of = node('n', { cocoon: { ...node().cocoon, rootDir: "/data/it's", sudo: true } });
    await expect(hashBlobs({ connection, node: of, signal }, [{ hex, ranges: [5, 6] }], 2500)).rejects.toThrow(/torn/);
    expect(asked).toMatch(new RegExp(`^sudo -n sh -c '.*' hash [0-9a-f]{16} '/data/it'\\\\''s' 2 30 ${hex}:5:6$`));
  });
});
