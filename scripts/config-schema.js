// Writes config/reconcile.schema.json from src/config/schema.ts; with --check it only compares, and fails where they differ.
import { build } from 'esbuild';
import { readFile, writeFile } from 'node:fs/promises';
import { format } from 'prettier';

const root = new URL('..', import.meta.url).pathname;
const target = `${root}config/reconcile.schema.json`;

const entry = `
  import * as z from 'zod';
  import { configSchema } from './src/config/schema.ts';
  export default { title: 'reconcile.yaml of cocoon-reconcile', ...z.toJSONSchema(configSchema, { io: 'input' }) };
`;
const { outputFiles } = await build({
  stdin: { contents: entry, resolveDir: root },
  absWorkingDir: root,
  bundle: true,
  format: 'esm',
  platform: 'node',
  banner: { js: "import { createRequire } from 'node:module'; const require = createRequire('file:///');" },
  write: false,
  logLevel: 'warning',
});
const { default: schema } = await import(
  `data:text/javascript;base64,${Buffer.from(outputFiles[0].contents).toString('base64')}`
);
const wanted = await format(JSON.stringify(schema), { parser: 'json', printWidth: 120 });

if (!process.argv.includes('--check')) await writeFile(target, wanted);
else if ((await readFile(target, 'utf8').catch(() => '')) !== wanted) {
  process.stderr.write('config/reconcile.schema.json is not current: run node scripts/config-schema.js\n');
  process.exitCode = 1;
}
