// Bundles the program into dist/ and the test fleet into test/fleet/dist/. Packages stay external: they are installed anyway.
import { build } from 'esbuild';
import { chmod, copyFile, readdir, rm } from 'node:fs/promises';

const root = new URL('..', import.meta.url).pathname;
const common = {
  absWorkingDir: root,
  bundle: true,
  format: 'esm',
  platform: 'node',
  target: 'node20.19',
  packages: 'external',
  splitting: true,
  sourcemap: true,
  logLevel: 'warning',
};

await Promise.all([
  rm(`${root}dist`, { recursive: true, force: true }),
  rm(`${root}test/fleet/dist`, { recursive: true, force: true }),
]);
await Promise.all([
  build({ ...common, entryPoints: ['src/cli/main.ts'], outdir: 'dist' }),
  build({ ...common, entryPoints: ['test/fleet/cocoon.ts', 'test/fleet/fleet.ts', 'test/fleet/demo.ts'], outdir: 'test/fleet/dist' }),
]);
for (const file of await readdir(`${root}src/adapters`)) {
  if (file.endsWith('.sh')) await copyFile(`${root}src/adapters/${file}`, `${root}dist/${file}`);
}
await Promise.all([chmod(`${root}dist/main.js`, 0o755), chmod(`${root}test/fleet/dist/cocoon.js`, 0o755)]);
