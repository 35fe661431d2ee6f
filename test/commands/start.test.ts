// What Node.js keeps of the compiled program lies where nobody else can write, and the program starts whatever became of it.
import { execFile } from 'node:child_process';
import { chmod, chown, cp, mkdir, mkdtemp, readdir, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';

const root = new URL('../../', import.meta.url).pathname;
/** Node.js 20 keeps nothing, so another one can be named. */
const [newer] = (process.env['NODE_BINARIES'] ?? '').split(':').filter(Boolean);
const node = newer ?? process.execPath;
const keeps = newer !== undefined || Number.parseInt(process.versions.node, 10) >= 22;

let dir: string;
let home: string;
let count = 0;
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'start-'));
  await cp(join(root, 'dist'), join(dir, 'dist'), { recursive: true });
  await cp(join(root, 'package.json'), join(dir, 'package.json'));
});
afterAll(async () => await rm(dir, { recursive: true, force: true }));
beforeEach(async () => {
  home = join(dir, `home-${(count += 1)}`);
  await mkdir(home, { mode: 0o755 });
});

const at = (name: string): string => join(dir, 'dist', name);
const help = async (env: Record<string, string> = {}): Promise<string> =>
  (await promisify(execFile)(node, [at('main.js'), '--help'], { env: { HOME: home, ...env } })).stdout;
const compiled = (): string => join(home, '.cache', 'cocoon-reconcile', 'compiled');
const kept = async (): Promise<string[]> => {
  const names = await readdir(compiled(), { recursive: true, withFileTypes: true }).catch(() => []);
  return names.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name));
};

test('starts without a home, and with one that is not there', async () => {
  expect(await help({ HOME: '' })).toMatch(/^Usage: reconcile /);
  expect(await help({ HOME: join(home, 'none') })).toMatch(/^Usage: reconcile /);
  expect(await readdir(home)).toEqual([]);
});

describe.skipIf(!keeps)('what is kept of the compiled program', () => {
  test('lies in a directory that only its owner may enter', async () => {
    expect(await help()).toMatch(/^Usage: reconcile /);
    expect((await kept()).length).toBeGreaterThan(0);
    expect((await stat(compiled())).mode & 0o777).toBe(0o700);
  });

  test('lies in XDG_CACHE_HOME, where that is named', async () => {
    const cache = join(home, 'elsewhere');
    await mkdir(cache);
    await help({ XDG_CACHE_HOME: cache });
    expect(await readdir(join(cache, 'cocoon-reconcile'))).toEqual(['compiled']);
    expect(await readdir(home)).toEqual(['elsewhere']);
  });

  test.each<[string, () => Promise<unknown>]>([
    ['the home', () => chmod(home, 0o777)],
    ['the cache directory', () => mkdir(join(home, '.cache')).then(() => chmod(join(home, '.cache'), 0o775))],
    ['our own', () => mkdir(compiled(), { recursive: true }).then(() => chmod(compiled(), 0o777))],
  ])('is nowhere, where others may write to %s', async (_what, spoil) => {
    await spoil();
    expect(await help()).toMatch(/^Usage: reconcile /);
    expect(await kept()).toEqual([]);
  });

  test('is nowhere, where a link stands in its place', async () => {
    await mkdir(join(home, 'other'));
    await symlink(join(home, 'other'), join(home, '.cache'));
    expect(await help()).toMatch(/^Usage: reconcile /);
    expect(await readdir(join(home, 'other'))).toEqual([]);
  });

  test.skipIf(process.getuid?.() !== 0)('is not in the home of another user', async () => {
    await chown(home, 65534, 65534);
    expect(await help()).toMatch(/^Usage: reconcile /);
    expect(await readdir(home)).toEqual([]);
  });

  test('may be spoiled or cut', async () => {
    await help();
    for (const file of await kept()) {
      const bytes = await readFile(file);
      for (let i = 100; i < bytes.length; i += 100) bytes[i] = (bytes[i] as number) ^ 0x55;
      await writeFile(file, bytes);
    }
    expect(await help()).toMatch(/^Usage: reconcile /);
    for (const file of await kept()) await writeFile(file, (await readFile(file)).subarray(0, 1000));
    expect(await help()).toMatch(/^Usage: reconcile /);
  });

  test('is not run in the place of another program', async () => {
    await help();
    const program = await readFile(at('program.js'), 'utf8');
    await writeFile(at('program.js'), program.replaceAll('Usage:', 'USAGE:'));
    expect(await help()).toMatch(/^USAGE: reconcile /);
    await writeFile(at('program.js'), program);
  });
});
