/**
 * Reading and compiling the program is a good part of its start-up, so Node.js 22 and newer keep what V8 made of it. V8 runs
 * what it finds there, so the directory is one that nobody else can write to: never a shared one as `/tmp`, and none of
 * another user (with `sudo`, `HOME` may be that of whoever typed it).
 */
import { lstatSync, mkdirSync, statSync, type Stats } from 'node:fs';
import module from 'node:module';
import { join } from 'node:path';

/** Node.js 20 has no such cache, and the types that are checked against are its own. */
const { enableCompileCache } = module as { enableCompileCache?: (directory: string) => unknown };

const WRITABLE_BY_OTHERS = 0o022;

/** Keeps the compiled program in `$XDG_CACHE_HOME` or `~/.cache`; without one that is ours alone it is compiled each time. */
export function keepCompiled(env: Record<string, string | undefined>, uid: number): void {
  const { NODE_COMPILE_CACHE: chosen, XDG_CACHE_HOME: cache, HOME: home } = env;
  if (enableCompileCache === undefined || chosen) return; // who chose a directory has it already
  const [base, below] = cache ? [cache, []] : [home, ['.cache']];
  if (!base?.startsWith('/')) return;
  try {
    if (!isOurs(statSync(base), uid)) return;
    let directory = base;
    for (const name of [...below, 'cocoon-reconcile', 'compiled']) {
      directory = join(directory, name);
      mkdirSync(directory, { recursive: true, mode: 0o700 });
      if (!isOurs(lstatSync(directory), uid)) return;
    }
    enableCompileCache(directory);
  } catch {
    // a home that is not there, or cannot be written
  }
}

/** @param stats of what may also be a link or a file in its place */
function isOurs(stats: Stats, uid: number): boolean {
  return stats.isDirectory() && stats.uid === uid && (stats.mode & WRITABLE_BY_OTHERS) === 0;
}
