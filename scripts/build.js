// Bundles the program into dist/ with the packages that it uses, because finding and reading their many small files took
// a third of its start-up, and the test fleet into test/fleet/dist/ without. Each folder is built beside the old one and
// then takes its place, so that what runs meanwhile finds it whole.
import { build } from 'esbuild';
import { chmod, copyFile, readdir, rename, rm } from 'node:fs/promises';

const root = new URL('..', import.meta.url).pathname;

/**
 * Gives the help text of yargs a plain measure of width: its own prepares for every emoji there is, which takes longer than
 * reading the command line does, and our help has none.
 */
function plainWidth({ onResolve, onLoad }) {
  onResolve({ filter: /^string-width$/ }, ({ importer }) =>
    /node_modules\/(yargs|cliui|wrap-ansi)\//.test(importer) ? { path: 'plain', namespace: 'plain-width' } : undefined,
  );
  onLoad({ filter: /./, namespace: 'plain-width' }, () => ({ contents: 'export default (text) => text.length;' }));
}

/** Gives ssh2 the quicker ways of `src/adapters/ssh2-crypto.ts`. */
function quickCrypto({ onResolve }) {
  onResolve({ filter: /^crypto$/ }, ({ importer }) =>
    /node_modules\/ssh2\//.test(importer) ? { path: `${root}src/adapters/ssh2-crypto.ts` } : undefined,
  );
}

/** What packages written for CommonJS expect to find. ssh2's optional native parts are not among it. */
const COMMONJS = {
  banner: { js: "const require = process.getBuiltinModule('node:module').createRequire(import.meta.url);" },
  define: { __dirname: 'import.meta.dirname' },
  external: ['cpu-features', '*.node'],
  plugins: [
    { name: 'plain-width', setup: plainWidth },
    { name: 'quick-crypto', setup: quickCrypto },
  ],
};

async function bundle(folder, entryPoints, options, finish) {
  const fresh = `${root}${folder}.new`;
  const old = `${root}${folder}.old`;
  await Promise.all([fresh, old].map((dir) => rm(dir, { recursive: true, force: true })));
  await build({
    absWorkingDir: root,
    entryPoints,
    outdir: fresh,
    bundle: true,
    splitting: true,
    format: 'esm',
    platform: 'node',
    target: 'node20.19',
    sourcemap: true,
    logLevel: 'warning',
    ...options,
  });
  await finish(fresh);
  await rename(`${root}${folder}`, old).catch(() => undefined); // there is none the first time
  await rename(fresh, `${root}${folder}`);
  await rm(old, { recursive: true, force: true });
}

await bundle('dist', ['src/cli/main.ts'], COMMONJS, async (dir) => {
  const scripts = (await readdir(`${root}src/adapters`)).filter((name) => name.endsWith('.sh'));
  await Promise.all(scripts.map((name) => copyFile(`${root}src/adapters/${name}`, `${dir}/${name}`)));
  await chmod(`${dir}/main.js`, 0o755);
});
await bundle(
  'test/fleet/dist',
  ['cocoon', 'fleet', 'demo', 'bench', 'quick-server'].map((name) => `test/fleet/${name}.ts`),
  { packages: 'external' },
  async (dir) => await chmod(`${dir}/cocoon.js`, 0o755),
);
