// The program starts whatever became of the bytecode that was built with it, and is always the program beside it.
import { execFile } from 'node:child_process';
import { cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, beforeEach, expect, it } from 'vitest';

const root = new URL('../../', import.meta.url).pathname;
let dir: string;
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'start-'));
});
afterAll(async () => await rm(dir, { recursive: true, force: true }));
beforeEach(async () => {
  await cp(join(root, 'dist'), join(dir, 'dist'), { recursive: true });
  await cp(join(root, 'package.json'), join(dir, 'package.json'));
});

const at = (name: string): string => join(dir, 'dist', name);
const help = async (...flags: string[]): Promise<string> =>
  (await promisify(execFile)(process.execPath, [...flags, at('main.js'), '--help'])).stdout;
/** Changes bytes in the middle, where they are many and not all the same. */
const spoil = async (name: string): Promise<void> => {
  const bytes = await readFile(at(name));
  for (let i = 200_000; i < 210_000; i += 100) bytes[i] = (bytes[i] as number) ^ 0x55;
  await writeFile(at(name), bytes);
};

it.each<[string, () => Promise<void>]>([
  ['there', () => Promise.resolve()],
  ['not there', async () => await rm(at('program.bytecode'))],
  ['empty', async () => await writeFile(at('program.bytecode'), '')],
  [
    'cut',
    async () => await writeFile(at('program.bytecode'), (await readFile(at('program.bytecode'))).subarray(0, 1e5)),
  ],
  ['spoiled', async () => await spoil('program.bytecode')],
])('the bytecode is %s', async (_what, damage) => {
  await damage();
  expect(await help()).toMatch(/^Usage: reconcile /);
});

it('the bytecode is what runs', async () => {
  const hook = join(dir, 'hook.cjs');
  const spy = `const vm = require('node:vm');
    vm.Script = class extends vm.Script {
      constructor(...given) {
        super(...given);
        process.stdout.write('rejected: ' + this.cachedDataRejected + '\\n');
      }
    };`;
  await writeFile(hook, spy);
  expect(await help('--require', hook)).toMatch(/^rejected: false\nUsage: /);
});

it('flags of V8 are others', async () => {
  expect(await help('--stack-size=1900')).toMatch(/^Usage: reconcile /);
});

it('another program of the same length lies beside the bytecode: it is the one that runs', async () => {
  const program = await readFile(at('program.js'), 'latin1');
  await writeFile(at('program.js'), program.replaceAll('Usage:', 'USAGE:'), 'latin1');
  expect(await help()).toMatch(/^USAGE: reconcile /);
});
