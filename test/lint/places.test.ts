/** Where files lie: a unit test has the place in test/unit that its file has in src. */
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';

const root = new URL('../../', import.meta.url).pathname;

function filesUnder(folder: string): string[] {
  const entries = readdirSync(join(root, folder), { recursive: true, withFileTypes: true });
  return entries
    .filter((entry) => entry.isFile())
    .map(({ parentPath, name }) => join(parentPath, name).slice(root.length));
}

describe('test/unit mirrors src', () => {
  const tests = filesUnder('test/unit').filter((file) => file.endsWith('.test.ts'));

  test.each(tests)('%s', (file) => {
    const tested = file.replace(/^test\/unit/, 'src').replace(/\.test\.ts$/, '');
    const found = ['.ts', '.sh']
      .map((ending) => `${tested}${ending}`)
      .filter((source) => existsSync(join(root, source)));
    expect(found, `git mv it to the place of what it tests: there is no ${tested}.ts and no ${tested}.sh`).not.toEqual(
      [],
    );
  });
});
