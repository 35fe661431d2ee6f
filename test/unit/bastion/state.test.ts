/** What is remembered between runs: found again, bounded, and nothing but a cache. */
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeEach, describe, expect, test } from 'vitest';
import { openState, type State } from '../../../src/bastion/state.ts';
import { ReconcileError } from '../../../src/core/errors.ts';
import { sha } from '../../support/facts.ts';
import { mutate, random } from '../../support/random.ts';

const base = mkdtempSync(join(tmpdir(), 'reconcile-state-'));
afterAll(() => rmSync(base, { recursive: true, force: true }));

let dir: string;
let count = 0;
const said: string[] = [];
beforeEach(() => {
  dir = join(base, `${(count += 1)}`, 'state');
  said.length = 0;
});
const open = async (configured: string | null = dir, defaults: string[] = []): Promise<State> =>
  await openState(configured, defaults, (message) => said.push(message));

test('what was learned is there in the next run', async () => {
  const state = await open();
  state.learn(sha('99'), { digest: sha('e2'), source: 'stream' });
  state.learn(sha('98'), { digest: sha('a1'), source: 'checksums' });
  state.rememberProof('node-1 /x/e2 5 1 1.5', 'other');
  state.rememberProof('node-1 /x/e2 5 1 1.5', 'same');
  await state.save();
  const again = await open();
  expect(again.dir).toBe(dir);
  expect(again.learned(sha('99'))).toEqual({ digest: sha('e2'), source: 'stream' });
  expect(again.learned(sha('98'))).toEqual({ digest: sha('a1'), source: 'checksums' });
  expect(again.learned(sha('97'))).toBeNull();
  expect(again.proofOf('node-1 /x/e2 5 1 1.5')).toBe('same');
  expect(again.proofOf('node-1 /x/e2 5 1 1.6')).toBeNull();
  expect(readdirSync(dir)).toEqual(['learned.json']);
  expect(statSync(join(dir, 'learned.json')).mode & 0o777).toBe(0o600);
});

test('a content digest leads to the manifests that yield it, the newest first', async () => {
  const state = await open();
  for (const pair of ['91', '92', '93']) state.learn(sha(pair), { digest: sha('e2'), source: 'checksums' });
  state.learn(sha('94'), { digest: sha('a1'), source: 'stream' });
  state.learn(sha('91'), { digest: sha('e2'), source: 'stream' });
  expect(state.manifestsOf(sha('e2'))).toEqual([sha('91'), sha('93'), sha('92')]);
  expect(state.manifestsOf(sha('b7'))).toEqual([]);
  await state.save();
  expect((await open()).manifestsOf(sha('e2'))).toEqual([sha('91'), sha('93'), sha('92')]);
});

test('what is not new is not written', async () => {
  const state = await open();
  state.rememberProof('x', 'same');
  await state.save();
  writeFileSync(join(dir, 'learned.json'), 'of another run');
  await state.save();
  expect(readFileSync(join(dir, 'learned.json'), 'utf8')).toBe('of another run');
});

test('it does not grow for ever: the oldest are forgotten', async () => {
  const state = await open();
  for (let i = 0; i < 20_010; i += 1) state.rememberProof(`file ${i}`, 'same');
  state.rememberProof('file 0', 'other');
  await state.save();
  const again = await open();
  expect(again.proofOf('file 0')).toBe('other');
  expect(again.proofOf('file 10')).toBeNull();
  expect(again.proofOf('file 11')).toBe('same');
});

const KNOWN = {
  version: 2,
  learned: { [sha('99')]: { digest: sha('e2'), source: 'stream' } },
  proofs: { 'n /x/e2 5 1 1.5': 'same' },
};
const GOOD = JSON.stringify(KNOWN);
const load = async (content: string | Buffer): Promise<State> => {
  mkdirSync(dir, { recursive: true });
  writeFileSync(join(dir, 'learned.json'), content);
  return await open();
};

describe('a file that cannot be believed is an empty cache', () => {
  test('which a good one is not', async () => {
    const state = await load(GOOD);
    expect([state.learned(sha('99'))?.digest, state.proofOf('n /x/e2 5 1 1.5')]).toEqual([sha('e2'), 'same']);
  });

  test.each<[string, string | Buffer]>([
    ['cut short', GOOD.slice(0, -9)],
    ['empty', ''],
    ['of zeros', Buffer.alloc(4096)],
    ['a list', '[]'],
    ['null', 'null'],
    ['of no digest', GOOD.replace(sha('99'), 'x')],
    ['of content that is no digest', GOOD.replace(sha('e2'), 'sha256:x')],
    ['of a source that is none', GOOD.replace('"stream"', '"node"')],
    ['of a proof that is none', GOOD.replace('"same"', '"yes"')],
    ['of a prototype', GOOD.replace(`"${sha('99')}"`, '"__proto__"')],
    ['without what was learned', GOOD.replace('"learned"', '"others"')],
    ['of another version', JSON.stringify({ ...KNOWN, version: 3 })],
    ['of no version', JSON.stringify({ ...KNOWN, version: undefined })],
    [
      'of version 1, which believed for all nodes what one of them had claimed',
      JSON.stringify({
        version: 1,
        learned: { [sha('99')]: { content: { digest: sha('e2'), source: 'node' }, disproved: [sha('a1')] } },
        hashes: { 'n:/x/e2 5 1 1.5': sha('e2') },
      }),
    ],
  ])('%s', async (_name, content) => {
    const state = await load(content);
    expect(state.learned(sha('99'))).toBeNull();
    expect(state.proofOf('n /x/e2 5 1 1.5')).toBeNull();
    state.learn(sha('99'), { digest: sha('b7'), source: 'stream' });
    await state.save();
    expect((await open()).learned(sha('99'))?.digest).toBe(sha('b7'));
  });

  test('however it is damaged', async () => {
    for (let seed = 1; seed <= 150; seed += 1) {
      const state = await load(mutate(GOOD, random(seed)));
      expect(state.learned(sha('99'))?.digest ?? sha('00')).toMatch(/^sha256:[0-9a-f]{64}$/);
      expect([null, 'same', 'other', 'nothing']).toContain(state.proofOf('n /x/e2 5 1 1.5'));
    }
  });
});

describe('the directory', () => {
  const closed = join(base, 'file');
  writeFileSync(closed, '');

  test('is the configured one, which must be usable', async () => {
    expect((await open(dir, [join(base, 'default')])).dir).toBe(dir);
    const error: unknown = await open(join(closed, 'x'), [dir]).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(ReconcileError);
    expect((error as ReconcileError).info).toMatchObject({ code: 'CONFIG_INVALID' });
    expect((error as ReconcileError).info.message).toMatch(/run\.stateDir: .*file\/x cannot be used \(ENOTDIR\)/);
    expect(said).toEqual([]);
  });

  test('is else the first usable of the usual ones, and another than the first is said', async () => {
    expect((await open(null, [dir, join(base, 'default')])).dir).toBe(dir);
    expect(said).toEqual([]);
    expect((await open(null, [closed, dir])).dir).toBe(dir);
    expect(said).toEqual([`state is kept in ${dir}, because ${closed} cannot be used (it is no directory)`]);
    const none = await open(null, [closed, join(closed, 'x')]);
    expect(none.dir).toBeNull();
    expect(said[1]).toMatch(/^nothing is remembered from one run to the next, because .*it is no directory.*ENOTDIR/);
    await none.save();
  });

  test('that is there but cannot hold the file is not usable', async () => {
    mkdirSync(join(dir, 'learned.json'), { recursive: true });
    await expect(open(dir)).rejects.toThrow(/cannot be used/);
  });
});
