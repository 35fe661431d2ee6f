// Bundles the program into dist/ with the packages that it uses, because finding and reading their many small files took
// a third of its start-up, and the test fleet into test/dist/ without. Each folder is built beside the old one and
// then takes its place, so that what runs meanwhile finds it whole.
import { build } from 'esbuild';
import { execFileSync } from 'node:child_process';
import { chmod, copyFile, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';

const root = new URL('..', import.meta.url).pathname;

/** Of these packages the program uses a part, and all of each takes long to be read. */
const PARTS = {
  ssh2: `module.exports = {
    Client: require('ssh2/lib/client.js'),
    ...require('ssh2/lib/agent.js'),
    utils: { parseKey: require('ssh2/lib/protocol/keyParser.js').parseKey },
  };`,
  undici: `Object.assign(require('undici/lib/dispatcher/dispatcher.js').prototype, require('undici/lib/api/index.js'));
    module.exports = {
      Agent: require('undici/lib/dispatcher/agent.js'),
      get EnvHttpProxyAgent() { return require('undici/lib/dispatcher/env-http-proxy-agent.js'); },
    };`,
};

function parts({ onResolve, onLoad }) {
  onResolve({ filter: /^(ssh2|undici)$/ }, ({ path }) => ({ path, namespace: 'part' }));
  onLoad({ filter: /./, namespace: 'part' }, ({ path }) => ({ contents: PARTS[path], resolveDir: root }));
}

/** CommonJS, because that is what V8 can be handed compiled. ssh2's optional native parts are not among it. */
const COMMONJS = {
  format: 'cjs',
  define: { 'import.meta.url': 'IMPORT_META_URL' },
  banner: { js: "const IMPORT_META_URL = require('node:url').pathToFileURL(__filename).href;" },
  external: ['cpu-features', '*.node'],
  plugins: [{ name: 'parts', setup: parts }],
};
/** A function, for `src/cli/main.ts` to call. All of its text is held in memory: without what only people read, it is a third less. */
const PROGRAM = {
  ...COMMONJS,
  minifyWhitespace: true,
  banner: { js: `(function (require, __filename, __dirname) { ${COMMONJS.banner.js}` },
  footer: { js: '})' },
};

/** V8 reads ASCII quicker. esbuild leaves other characters in comments and regular expressions, where an escape will do. */
async function toAscii(file) {
  const escaped = (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`;
  await writeFile(file, (await readFile(file, 'utf8')).replace(/[^\0-\x7f]/g, escaped));
}

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
    { ...PROGRAM, entryPoints: ['src/cli/program.ts'] },
    {
      ...COMMONJS,
      entryNames: '[name]',
      entryPoints: ['src/cli/main.ts', 'src/cli/startup/watchdog-thread.ts', 'src/cli/startup/compile.ts'],
    },
  ],
  async (dir) => {
    const scripts = (await readdir(`${root}src/node`)).filter((name) => name.endsWith('.sh'));
    await Promise.all(scripts.map((name) => copyFile(`${root}src/node/${name}`, `${dir}/${name}`)));
    await toAscii(`${dir}/program.js`);
    await writeFile(`${dir}/package.json`, '{"type":"commonjs"}\n');
    await chmod(`${dir}/main.js`, 0o755);
    execFileSync(process.execPath, [`${dir}/compile.js`], { stdio: 'inherit' });
    await Promise.all(['compile.js', 'compile.js.map'].map((name) => rm(`${dir}/${name}`)));
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
