// What a directory holds, to the byte: for tests that nothing has changed, or has been left.
import { createHash } from 'node:crypto';
import { lstat, readdir, readFile, readlink } from 'node:fs/promises';
import { join } from 'node:path';

/** Path → type, mode, owner, size, mtime in nanoseconds, and digest of the content, of everything under a directory. */
export async function treeOf(dir: string): Promise<Record<string, string>> {
  const tree: Record<string, string> = {};
  const visit = async (path: string): Promise<void> => {
    const stat = await lstat(path, { bigint: true });
    const facts = [stat.mode.toString(8), stat.uid, stat.gid, stat.ino, stat.mtimeNs];
    if (stat.isDirectory()) {
      tree[path] = ['dir', ...facts].join(' ');
      for (const name of await readdir(path)) await visit(join(path, name));
    } else if (stat.isSymbolicLink()) tree[path] = ['link', ...facts, await readlink(path)].join(' ');
    else if (stat.isFile()) {
      const digest = createHash('sha256')
        .update(await readFile(path))
        .digest('hex');
      tree[path] = ['file', ...facts, stat.size, digest].join(' ');
    } else tree[path] = ['other', ...facts].join(' ');
  };
  await visit(dir);
  return tree;
}
