/** What is remembered between runs: found again, bounded, and nothing but a cache. */
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeEach, describe, expect, test } from 'vitest';
import { openState, type State } from '../../src/adapters/state.ts';
import { ReconcileError } from '../../src/core/errors.ts';
import { sha } from '../helpers/facts.ts';
import { mutate, random } from '../helpers/random.ts';

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
const NOTHING = { content: null, disproved: [] };

test('what was learned is there in the next run', async () => {
  const state = await open();
  state.learnContent(sha('99'), sha('e2'), 'stream');
  state.disprove(sha('98'), sha('a1'));
  state.disprove(sha('98'), sha('b7'));
  state.disprove(sha('98'), sha('a1'));
  state.rememberHash('node-1:/var/lib/cocoon/e2 5 1 1.5', sha('e2'));
  await state.save();
  const again = await open();
  expect(again.dir).toBe(dir);
  expect(again.learned(sha('99'))).toEqual({ content: { digest: sha('e2'), source: 'stream' }, disproved: [] });
  expect(again.learned(sha('98'))).toEqual({ content: null, disproved: [sha('a1'), sha('b7')] });
  expect(again.learned(sha('97'))).toEqual(NOTHING);
  expect(again.hashOf('node-1:/var/lib/cocoon/e2 5 1 1.5')).toBe(sha('e2'));
  expect(again.hashOf('node-1:/var/lib/cocoon/e2 5 1 1.6')).toBeNull();
  expect(readdirSync(dir)).toEqual(['learned.json']);
  expect(statSync(join(dir, 'learned.json')).mode & 0o777).toBe(0o600);
});

test('a content digest leads to the manifests that yield it, the newest first', async () => {
  const state = await open();
  for (const pair of ['91', '92', '93']) state.learnContent(sha(pair), sha('e2'), 'node');
  state.learnContent(sha('94'), sha('a1'), 'node');
  state.learnContent(sha('91'), sha('e2'), 'stream');
  expect(state.manifestsOf(sha('e2'))).toEqual([sha('91'), sha('93'), sha('92')]);
  expect(state.manifestsOf(sha('b7'))).toEqual([]);
  await state.save();
  expect((await open()).manifestsOf(sha('e2'))).toEqual([sha('91'), sha('93'), sha('92')]);
});

test('what is not new is not written', async () => {
  const state = await open();
  state.rememberHash('x', sha('e2'));
  await state.save();
  writeFileSync(join(dir, 'learned.json'), 'of another run');
  await state.save();
  expect(readFileSync(join(dir, 'learned.json'), 'utf8')).toBe('of another run');
});

test('it does not grow for ever: the oldest are forgotten', async () => {
  const state = await open();
  for (let i = 0; i < 20_010; i += 1) state.rememberHash(`stamp ${i}`, sha('e2'));
  state.rememberHash('stamp 0', sha('b7'));
  for (let i = 0; i < 150; i += 1) state.disprove(sha('99'), `sha256:${String(i).padStart(64, '0')}`);
  await state.save();
  const again = await open();
  expect(again.hashOf('stamp 0')).toBe(sha('b7'));
  expect(again.hashOf('stamp 10')).toBeNull();
  expect(again.hashOf('stamp 11')).toBe(sha('e2'));
  const { disproved } = again.learned(sha('99'));
  expect(disproved).toHaveLength(100);
  expect(disproved.at(-1)).toBe(`sha256:${'149'.padStart(64, '0')}`);
});

describe('a damaged file is an empty cache', () => {
  const GOOD = JSON.stringify({
    version: 1,
    learned: {
      [sha('99')]: { content: { digest: sha('e2'), source: 'node' }, disproved: [sha('a1')] },
      [sha('98')]: { content: null, disproved: [] },
    },
    hashes: { 'n:/x/e2 5 1 1.5': sha('e2') },
  });
  const load = async (content: string | Buffer): Promise<State> => {
    mkdirSync(dir, { recursive: true });
    writeFileSync(join(dir, 'learned.json'), content);
    return await open();
  };

  test('which a good one is not', async () => {
    expect((await load(GOOD)).learned(sha('99')).content?.digest).toBe(sha('e2'));
  });

  test.each([
    ['cut short', GOOD.slice(0, -9)],
    ['empty', ''],
    ['of zeros', Buffer.alloc(4096)],
    ['a list', '[]'],
    ['null', 'null'],
    ['of no digest', GOOD.replace(sha('99'), 'x')],
    ['of content that is no digest', GOOD.replace(sha('e2'), 'sha256:x')],
    ['of a hash that is no digest', GOOD.replace(/"sha256:e2[^"]*"\}\}$/, '"x"}}')],
    ['without what was disproved', GOOD.replaceAll('disproved', 'other')],
    ['of a list that is none', GOOD.replace('[]', '{"length": 5}')],
    ['of a prototype', GOOD.replace(`"${sha('98')}"`, '"__proto__"')],
  ])('%s', async (_name, content) => {
    const state = await load(content);
    expect(state.learned(sha('99'))).toEqual(NOTHING);
    expect(state.hashOf('n:/x/e2 5 1 1.5')).toBeNull();
    state.learnContent(sha('99'), sha('b7'), 'node');
    await state.save();
    expect((await open()).learned(sha('99')).content?.digest).toBe(sha('b7'));
  });

  test('however it is damaged', async () => {
    for (let seed = 1; seed <= 150; seed += 1) {
      const state = await load(mutate(GOOD, random(seed)));
      const { content, disproved } = state.learned(sha('99'));
      for (const digest of [...disproved, content?.digest ?? sha('00')])
        expect(digest).toMatch(/^sha256:[0-9a-f]{64}$/);
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
    expect(said).toEqual([`state is kept in ${dir}, because ${closed} cannot be used (EEXIST)`]);
    await expect(open(null, [closed, join(closed, 'x')])).rejects.toThrow(/EEXIST.*ENOTDIR/);
  });

  test('that is there but cannot hold the file is not usable', async () => {
    mkdirSync(join(dir, 'learned.json'), { recursive: true });
    await expect(open(dir)).rejects.toThrow(/cannot be used/);
  });
});
