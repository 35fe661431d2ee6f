// The package as a stranger gets it: one tarball without dependencies, and one file; each heals the same fleet from an empty place.
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { cp, mkdir, mkdtemp, readdir, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { breakAsInTheIncident, startFleet, type Fleet } from '../fleet/world.ts';
import { imageOn, parseReport } from '../support/reconcile.ts';

const root = new URL('../../', import.meta.url).pathname;
const run = promisify(execFile);

/** Beside the Node.js of the tests those that PACKAGE_NODES names, paths with colons between. */
const nodes = [process.execPath, ...(process.env['PACKAGE_NODES'] ?? '').split(':').filter(Boolean)];

let dir: string;
beforeAll(async () => void (dir = await mkdtemp(join(tmpdir(), 'package-'))));
afterAll(async () => await rm(dir, { recursive: true, force: true }));

/** What a program ended with, whatever that is. */
async function ended(command: string, ...args: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  const { NODE_PATH: _path, ...env } = process.env;
  return await new Promise((resolve) => {
    execFile(command, args, { env, maxBuffer: 2 ** 26 }, (error, stdout, stderr) => {
      resolve({ code: error === null ? 0 : Number(error.code), stdout, stderr });
    });
  });
}

describe('a tarball that is installed into an empty prefix', () => {
  let fleet: Fleet;
  let prefix: string;
  beforeAll(async () => {
    fleet = await startFleet({ nodes: 2 });
    await breakAsInTheIncident(fleet, ['cocoonset-node-2']);
    prefix = join(dir, 'prefix');
    const { stdout } = await run('npm', ['pack', '--silent', '--pack-destination', dir], { cwd: root });
    const args = ['install', '--global', '--offline', '--no-audit', '--no-fund', '--prefix', prefix];
    await run('npm', [...args, join(dir, stdout.trim())]);
  });
  afterAll(async () => await fleet?.down());

  const installed = (): string => join(prefix, 'lib/node_modules/cocoon-reconcile');

  test('is one package without a script, of 3 MB at most, under two names', async () => {
    expect(await readdir(join(prefix, 'lib/node_modules'))).toEqual(['cocoon-reconcile']);
    expect(await readdir(join(prefix, 'bin'))).toEqual(['cocoon-reconcile', 'reconcile']);
    const files = await readdir(installed(), { recursive: true, withFileTypes: true });
    expect(files.filter(({ name }) => name === 'node_modules' || name.endsWith('.map'))).toEqual([]);
    const sizes = files.map(async (file) => (file.isFile() ? (await stat(join(file.parentPath, file.name))).size : 0));
    expect((await Promise.all(sizes)).reduce((sum, size) => sum + size, 0)).toBeLessThan(3 * 2 ** 20);
    const { dependencies, scripts } = JSON.parse(await readFile(join(installed(), 'package.json'), 'utf8')) as {
      dependencies?: object;
      scripts: object;
    };
    expect(dependencies).toBeUndefined();
    expect(Object.keys(scripts).filter((name) => /install|prepare|prepack/.test(name))).toEqual([]);
  });

  test.each(nodes)('does the dry run of the incident, as does reconcile.mjs alone, by %s', async (node) => {
    // a directory in which nothing else is to be found, below one in which all that is found is wrong
    const alone = join(dir, `alone-${nodes.indexOf(node)}`, 'in');
    await mkdir(join(alone, '../node_modules/cpu-features'), { recursive: true });
    await writeFile(join(alone, '../package.json'), 'no JSON');
    await writeFile(join(alone, '../node_modules/cpu-features/index.js'), "process.stderr.write('taken from above')");
    await cp(join(installed(), 'dist'), join(alone, 'dist'), { recursive: true });
    await mkdir(join(alone, 'one'));
    await cp(join(root, 'dist/reconcile.mjs'), join(alone, 'one/reconcile.mjs'));
    for (const program of [
      join(prefix, 'bin/reconcile'),
      join(alone, 'dist/main.js'),
      join(alone, 'one/reconcile.mjs'),
    ]) {
      const { code, stdout, stderr } = await ended(node, program, '-n', '-o', 'json', '-c', fleet.configFile);
      expect(stderr, program).toMatch(/^DRIFT: /m);
      expect(stderr).not.toContain('taken from above');
      expect(code).toBe(2);
      expect(imageOn(parseReport(stdout), 'cocoonset-node-2').verdict).toBe('stale');
    }
  });

  test('reconcile.mjs heals with the scripts that are inside', async () => {
    const one = join(dir, 'reconcile.mjs');
    await cp(join(root, 'dist/reconcile.mjs'), one);
    const { code, stdout } = await ended(process.execPath, one, '-c', fleet.configFile);
    expect(stdout).toMatch(/^OK: healed and verified/m);
    expect(code).toBe(0);
  });
});

describe('what is bundled', () => {
  test('has its licence in THIRD-PARTY-LICENSES, and its line in the bill of materials', async () => {
    const { sources } = JSON.parse(await readFile(join(root, 'dist/program.js.map'), 'utf8')) as { sources: string[] };
    const dirs = new Set(
      sources.flatMap((file) => /node_modules\/(?:.*node_modules\/)?(?:@[^/]+\/)?[^/]+(?=\/)/.exec(file)?.[0] ?? []),
    );
    const packages = [...dirs].map(async (folder) => {
      if (folder === 'node_modules/src') return []; // of a package that brings a source map of its own
      const { name, version } = JSON.parse(await readFile(join(root, folder, 'package.json'), 'utf8')) as {
        name: string;
        version: string;
      };
      return [`${name} ${version}`];
    });
    const bundled = (await Promise.all(packages)).flat().sort();
    expect(bundled.length).toBeGreaterThan(20);

    const text = await readFile(join(root, 'dist/THIRD-PARTY-LICENSES'), 'utf8');
    const licences = [...text.matchAll(/^-{80}\n(\S+ \S+) \(([\w.-]+)\)\n\n([^]+?)(?=\n-{80}\n|$(?![^]))/gm)];
    const licensed = licences.map(([, name = '']) => name).sort();
    expect(licensed).toEqual(expect.arrayContaining(bundled));
    for (const [, name, , words] of licences) expect(words, name).toMatch(/permission|without warranty|public domain/i);

    const bom = JSON.parse(await readFile(join(root, 'dist/sbom.cdx.json'), 'utf8')) as {
      bomFormat: string;
      components: { name: string; version: string; purl: string }[];
    };
    expect(bom.bomFormat).toBe('CycloneDX');
    expect(bom.components.map(({ name, version }) => `${name} ${version}`).sort()).toEqual(licensed);
  });

  test('is the same, byte for byte, when it is built again at another place', async () => {
    const copy = join(dir, 'copy');
    for (const name of ['src', 'scripts', 'test', 'package.json', 'tsconfig.json'])
      await cp(join(root, name), join(copy, name), { recursive: true });
    await symlink(join(root, 'node_modules'), join(copy, 'node_modules'));
    await run(process.execPath, ['scripts/build.js'], { cwd: copy });
    const hashes = async (folder: string): Promise<string[]> =>
      await Promise.all(
        (await readdir(folder)).map(async (name) => {
          const bytes = await readFile(join(folder, name));
          return `${name} ${createHash('sha256').update(bytes).digest('hex')}`;
        }),
      );
    expect(await hashes(join(copy, 'dist'))).toEqual(await hashes(join(root, 'dist')));
  });
});
