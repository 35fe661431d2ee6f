// Bundles the program into dist/ with the packages that it uses, because finding and reading their many small files took
// a third of its start-up, and the test fleet into test/dist/ without. Each folder is built beside the old one and
// then takes its place, so that what runs meanwhile finds it whole.
import { build } from 'esbuild';
import { chmod, copyFile, readdir, rename, rm, writeFile } from 'node:fs/promises';

const root = new URL('..', import.meta.url).pathname;

/** CommonJS, because most packages are. ssh2's optional native parts are not among it. */
const COMMONJS = {
  format: 'cjs',
  define: { 'import.meta.url': 'IMPORT_META_URL' },
  banner: { js: "const IMPORT_META_URL = require('node:url').pathToFileURL(__filename).href;" },
  external: ['cpu-features', '*.node'],
};

/** @param bundles what each is made of, and how */
async function replace(folder, bundles, finish) {
  const fresh = `${root}${folder}.new`;
  const old = `${root}${folder}.old`;
  await Promise.all([fresh, old].map((dir) => rm(dir, { recursive: true, force: true })));
  const common = { absWorkingDir: root, outdir: fresh, bundle: true, platform: 'node', target: 'node20.19' };
  await Promise.all(bundles.map((options) => build({ ...common, sourcemap: true, logLevel: 'warning', ...options })));
  await finish(fresh);
  await rename(`${root}${folder}`, old).catch(() => undefined); // there is none the first time
  await rename(fresh, `${root}${folder}`);
  await rm(old, { recursive: true, force: true });
}

await replace(
  'dist',
  [
    {
      ...COMMONJS,
      entryNames: '[name]',
      entryPoints: ['src/cli/main.ts', 'src/cli/program.ts', 'src/cli/startup/watchdog-thread.ts'],
    },
  ],
  async (dir) => {
    const scripts = (await readdir(`${root}src/node`)).filter((name) => name.endsWith('.sh'));
    await Promise.all(scripts.map((name) => copyFile(`${root}src/node/${name}`, `${dir}/${name}`)));
    await writeFile(`${dir}/package.json`, '{"type":"commonjs"}\n');
    await chmod(`${dir}/main.js`, 0o755);
  },
);
const fleet = ['doubles/cocoon', 'doubles/quick-server', 'fleet/fleet', 'fleet/demo', 'bench/bench'];
await replace(
  'test/dist',
  [
    {
      entryPoints: fleet.map((name) => `test/${name}.ts`),
      entryNames: '[name]',
      format: 'esm',
      splitting: true,
      packages: 'external',
    },
  ],
  async (dir) => await chmod(`${dir}/cocoon.js`, 0o755),
);
