/** Hashing on a node: the script in real shells, and what its answers mean. */
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { hashBlobs, type HashedBlob, type HashItem } from '../../src/adapters/node-hash.ts';
import { ReconcileError } from '../../src/core/errors.ts';
import { node } from '../helpers/facts.ts';
import { answering, localConnection } from '../helpers/fakes.ts';
import { treeOf } from '../helpers/tree.ts';

const signal = new AbortController().signal;
const base = mkdtempSync(join(tmpdir(), 'reconcile-hash-'));
afterAll(() => rmSync(base, { recursive: true, force: true }));

const TOOLS = 'find head ionice renice sha256sum timeout'.split(' ');
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
  const hash = async (items: HashItem[]): Promise<HashedBlob[]> => {
    const of = node('n', { cocoon: { ...node().cocoon, rootDir: root } });
    return await hashBlobs(localConnection(shell, { PATH: own }), of, items, 20_000, signal);
  };

  test('hashes a blob as a whole, and changes nothing', async () => {
    const before = await treeOf(root);
    const { size, ino } = statSync(file(hexes[0]));
    const [first, ...more] = await hash([{ hex: hexes[0], ranges: [] }]);
    expect(more).toEqual([]);
    expect(first).toMatchObject({ hex: hexes[0], whole: sha256(content), ranges: [] });
    expect(first?.stamp).toMatch(new RegExp(`^${size} ${ino} \\d+\\.\\d+$`));
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
    expect(first?.ranges).toEqual([sha256(Buffer.alloc(0)), sha256(content), sha256(Buffer.alloc(0))]);
  });

  test('several in turn; what is no file is left out; a link is what it leads to', async () => {
    const items = hexes.map((hex) => ({ hex, ranges: [300_000] }));
    const found = await hash(items);
    expect(found.map(({ hex, whole, ranges }) => [hex, whole, ranges])).toEqual([
      [hexes[0], sha256(content), [sha256(content)]],
      [hexes[1], sha256(content), [sha256(content)]],
    ]);
  });

  test('nothing asked, nothing found', async () => {
    expect(await hash([])).toEqual([]);
  });
});

describe('an answer', () => {
  const hex = hexes[0];
  const read = async (lines: string[], cut = 0): Promise<HashedBlob[]> => {
    const connection = answering((command) => {
      const [, nonce] = /-s -- (\S+) /.exec(command) as unknown as [string, string];
      const text = ['motd', `cocoon-hash 1 ${nonce}`, ...lines, `cocoon-hash end ${nonce}`, ''].join('\n');
      return text.slice(0, text.length - cut);
    }, 'sh: boom\n');
    const items = [hex, hexes[1]].map((asked) => ({ hex: asked, ranges: [] }));
    return await hashBlobs(connection, node(), items, 1000, signal);
  };
  const range = `range ${hex} ${hexes[1]}`;
  const whole = `whole ${hex} ${hexes[2]} 5 77 1.5`;

  test('is understood', async () => {
    const other = hexes[1];
    const lines = [range, range, whole, `range ${other} ${hex}`, `whole ${other} ${hex} 6 7 8`];
    expect(await read(lines)).toEqual([
      { hex, whole: `sha256:${hexes[2]}`, ranges: [`sha256:${other}`, `sha256:${other}`], stamp: '5 77 1.5' },
      { hex: other, whole: `sha256:${hex}`, ranges: [`sha256:${hex}`], stamp: '6 7 8' },
    ]);
    expect(await read([`gone ${other}`, range, `changed ${hex}`])).toEqual([]);
  });

  test.each<[string, string[], number]>([
    ['without its end', [whole], 1],
    ['cut in a line', [whole], 40],
    ['of another kind', ['rm -rf /'], 0],
    ['about a blob that nobody asked about', [`whole ${hexes[3]} ${hex} 5 77 1.5`], 0],
    ['of a range of a blob that nobody asked about', [`range ${hexes[3]} ${hex}`, whole], 0],
    ['of something that is gone, and more', [`gone ${hex} x`], 0],
    ['without a digest: the deadline passed there', [`whole ${hex}  5 77 1.5`], 0],
    ['of a range without a digest', [`range ${hex} `], 0],
    ['of a digest that is none', [`whole ${hex} ${hex.toUpperCase()} 5 77 1.5`], 0],
    ['of a stamp that is none', [`whole ${hex} ${hex} 5`], 0],
  ])('%s cannot be trusted', async (_name, lines, cut) => {
    const error: unknown = await read(lines, cut).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(ReconcileError);
    expect((error as ReconcileError).info.code).toBe('NODE_ANSWER_INVALID');
  });

  test('is asked for by one command, with every length and the deadline as words', async () => {
    let asked = '';
    const connection = answering((command) => {
      asked = command;
      return '';
    });
    const of = node('n', { cocoon: { ...node().cocoon, rootDir: "/data/it's", sudo: true } });
    await expect(hashBlobs(connection, of, [{ hex, ranges: [5, 6] }], 1500, signal)).rejects.toThrow(/torn/);
    expect(asked).toMatch(new RegExp(`^sudo -n sh -s -- [0-9a-f]{16} '/data/it'\\\\''s' 2 ${hex}:5:6$`));
  });
});
