/** Hashes blobs where they lie, at idle priority: proof of a content digest, and verification in depth. */
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { fault } from '../core/errors.ts';
import { shellQuote } from '../core/text.ts';
import type { Node } from '../core/types.ts';
import { MAX_BYTES_BEFORE, MAX_HASH_LINE_BYTES } from './node-limits.ts';
import type { Connection } from './ssh.ts';

let script: string | null = null;

/** A blob to hash, by the hex of its name; with the lengths of ranges to hash as well, in bytes. */
export interface HashItem {
  hex: string;
  ranges: number[];
}

/** What a blob hashes to; null where it is gone, or was written to meanwhile. */
export interface HashedBlob {
  hex: string;
  whole: string;
  ranges: string[];
  /** Size, inode and mtime of the file that was hashed, as the probe tells them. */
  stamp: string;
}

/**
 * Hashes the items one after another. Digests are `sha256:<hex>`.
 * @param timeoutMs deadline for all of them
 * @throws ReconcileError SSH_*, NODE_ANSWER_INVALID for a torn or malformed answer
 */
export async function hashBlobs(
  connection: Connection,
  node: Node,
  items: HashItem[],
  timeoutMs: number,
  signal: AbortSignal,
): Promise<HashedBlob[]> {
  script ??= readFileSync(new URL('./hash.sh', import.meta.url), 'utf8');
  const nonce = randomBytes(8).toString('hex');
  const { rootDir, sudo } = node.cocoon;
  const seconds = String(Math.ceil(timeoutMs / 1000));
  const lines = items.reduce((sum, { ranges }) => sum + ranges.length + 1, 0);
  const wanted = items.map(({ hex, ranges }) => [hex, ...ranges].join(':'));
  const words = [...(sudo ? ['sudo', '-n'] : []), 'sh', '-s', '--', nonce, rootDir, seconds, ...wanted];
  const { stdout, stderr } = await connection.exec(words.map(shellQuote).join(' '), {
    stdin: script,
    maxStdoutBytes: MAX_BYTES_BEFORE + lines * MAX_HASH_LINE_BYTES,
    maxStderrBytes: 4096,
    timeoutMs,
    signal,
    what: 'hashing blobs',
  });
  const answer = stdout.toString('utf8');
  const begin = `cocoon-hash 1 ${nonce}\n`;
  const end = `cocoon-hash end ${nonce}\n`;
  const from = answer.indexOf(begin);
  if (from === -1 || !answer.endsWith(end)) {
    throw fault('NODE_ANSWER_INVALID', { host: node.name, what: `the hashes are torn; it said: ${stderr.trim()}` });
  }
  return parseHashes(answer.slice(from + begin.length, -end.length), items, node);
}

function parseHashes(answer: string, items: HashItem[], node: Node): HashedBlob[] {
  const hashed: HashedBlob[] = [];
  const ranges = new Map(items.map(({ hex }) => [hex, [] as string[]]));
  for (const line of answer.split('\n').filter((text) => text !== '')) {
    const [, kind, hex = '', rest = ''] = /^(range|whole|gone|changed) ([0-9a-f]{64})(?: (.*))?$/.exec(line) ?? [];
    const known = ranges.get(hex);
    const [, digest, stamp] = /^([0-9a-f]{64})(?: (\d+ \d+ [\d.]+))?$/.exec(rest) ?? [];
    if (known !== undefined && kind === 'range' && digest !== undefined && stamp === undefined) {
      known.push(`sha256:${digest}`);
    } else if (known !== undefined && kind === 'whole' && stamp !== undefined) {
      hashed.push({ hex, whole: `sha256:${digest}`, ranges: known, stamp });
    } else if (known === undefined || rest !== '' || kind === 'range' || kind === 'whole') {
      throw fault('NODE_ANSWER_INVALID', { host: node.name, what: `a hash line: ${line.slice(0, 100)}` });
    }
  }
  return hashed;
}
