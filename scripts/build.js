// Bundles the program into dist/ with the packages that it uses, because finding and reading their many small files took
// a third of its start-up, and the test fleet into test/dist/ without. Each folder is built beside the old one and
// then takes its place, so that what runs meanwhile finds it whole. The same sources give the same bytes.
import { build } from 'esbuild';
import { chmod, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { bundledPackages, licenceTexts, sbomOf } from './lib/bundled.js';

const root = new URL('..', import.meta.url).pathname;
const { name, version, license, description } = JSON.parse(await readFile(`${root}package.json`, 'utf8'));

/** ssh2's optional native parts are not taken from wherever they may lie: there are none. */
const noNativeParts = {
  name: 'no native parts',
  setup({ onResolve, onLoad }) {
    onResolve({ filter: /^cpu-features$|\.node$/ }, ({ path }) => ({ path, namespace: 'absent' }));
    onLoad({ filter: /.*/, namespace: 'absent' }, () => ({ contents: "throw new Error('not bundled')" }));
  },
};

const common = {
  absWorkingDir: root,
  preserveSymlinks: true, // node_modules may be a link
  bundle: true,
  platform: 'node',
  target: 'node20.19',
  sourcemap: true,
  logLevel: 'warning',
};

const program = {
  ...common,
  plugins: [noNativeParts],
  define: { TOOL: JSON.stringify({ name, version }) },
  minifyWhitespace: true,
  minifySyntax: true,
  legalComments: 'none', // they are in THIRD-PARTY-LICENSES
  metafile: true,
};

/** Most packages are CommonJS, and so is what Node.js keeps compiled the best. */
const bundles = {
  ...program,
  plugins: [noNativeParts, insideOut(null)],
  format: 'cjs',
  define: { ...program.define, 'import.meta.url': 'IMPORT_META_URL' },
  banner: { js: "const IMPORT_META_URL = require('node:url').pathToFileURL(__filename).href;" },
  entryNames: '[name]',
  entryPoints: ['src/cli/main.ts', 'src/cli/program.ts', 'src/cli/startup/watchdog-thread.ts'],
};

async function replace(folder, make) {
  const fresh = `${root}${folder}.new`;
  const old = `${root}${folder}.old`;
  await Promise.all([fresh, old].map((dir) => rm(dir, { recursive: true, force: true })));
  await make(fresh);
  await rename(`${root}${folder}`, old).catch(() => undefined); // there is none the first time
  await rename(fresh, `${root}${folder}`);
  await rm(old, { recursive: true, force: true });
}

/**
 * Scripts for nodes are inside the program, so that an upgrade swaps none of them under a run: where it would read one, its
 * text stands instead. With a thread, that too is inside, as a URL.
 */
function insideOut(thread) {
  const script = /readFileSync\(new URL\('\.\/([\w-]+\.sh)', import\.meta\.url\)(, 'utf8')?\)/g;
  const textOf = async (file) => {
    let text = await readFile(file, 'utf8');
    for (const [whole, path, isText] of text.matchAll(script)) {
      const inside = JSON.stringify(await readFile(`${file.slice(0, file.lastIndexOf('/'))}/${path}`, 'utf8'));
      text = text.replace(whole, () => (isText ? inside : `Buffer.from(${inside})`));
    }
    if (thread === null) return text;
    const url = JSON.stringify(`data:text/javascript;base64,${Buffer.from(thread).toString('base64')}`);
    return text.replace("new URL('./watchdog-thread.js', import.meta.url)", () => `new URL(${url})`);
  };
  return {
    name: 'inside out',
    setup({ onLoad }) {
      onLoad({ filter: /\/src\/.*\.ts$/ }, async ({ path }) => ({ contents: await textOf(path), loader: 'ts' }));
    },
  };
}

/** @throws where the program would look for a file beside itself, but for those of these names */
function refuseFilesBeside(text, names) {
  for (const [found, file] of text.matchAll(/new URL\(["']\.\/([^"']*)["']/g))
    if (!names.includes(file)) throw new Error(`the program looks for a file beside itself: ${found}`);
}

/** What CommonJS gives to a module; `createRequire` here finds the parts of Node.js and nothing else. */
const ONE_FILE_HEAD = `import { createRequire as requireFrom } from 'node:module';
const require = requireFrom('file:///');
const [__filename, __dirname] = ['/reconcile.mjs', '/'];`;

/** `reconcile.mjs`, which needs no other file. */
async function buildOneFile(dir) {
  const entry = { ...program, sourcemap: false, format: 'esm' };
  const thread = await build({ ...entry, entryPoints: ['src/cli/startup/watchdog-thread.ts'], write: false });
  const { outputFiles } = await build({
    ...entry,
    plugins: [noNativeParts, insideOut(thread.outputFiles[0].text)],
    entryPoints: ['src/cli/one-file.ts'],
    banner: { js: ONE_FILE_HEAD },
    write: false,
  });
  const { text } = outputFiles[0];
  refuseFilesBeside(text, []);
  await writeFile(`${dir}/reconcile.mjs`, text, { mode: 0o755 });
}

await replace('dist', async (dir) => {
  const { metafile } = await build({ ...bundles, outdir: dir });
  await buildOneFile(dir);
  refuseFilesBeside(await readFile(`${dir}/program.js`, 'utf8'), ['watchdog-thread.js']);
  await writeFile(`${dir}/package.json`, '{"type":"commonjs"}\n');
  await chmod(`${dir}/main.js`, 0o755);
  const packages = await bundledPackages(root, metafile);
  await writeFile(`${dir}/THIRD-PARTY-LICENSES`, licenceTexts(packages));
  await writeFile(`${dir}/sbom.cdx.json`, sbomOf({ name, version, license, description }, packages));
});

const fleet = ['doubles/cocoon', 'doubles/quick-server', 'fleet/fleet', 'fleet/demo', 'bench/bench', 'bench/simulate'];
await replace('test/dist', async (dir) => {
  await build({
    ...common,
    plugins: [insideOut(null)],
    outdir: dir,
    entryPoints: fleet.map((file) => `test/${file}.ts`),
    entryNames: '[name]',
    format: 'esm',
    splitting: true,
    packages: 'external',
  });
  await chmod(`${dir}/cocoon.js`, 0o755);
});
