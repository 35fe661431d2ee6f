/** Hashes blobs where they lie, at idle priority: what a node proves of itself, and verification in depth. */
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { fault } from '../core/errors.ts';
import type { HashedBlob, HashItem } from '../core/judge/proofs.ts';
import { clip, firstLine, shellQuote } from '../core/text.ts';
import type { Node } from '../core/model/node.ts';
import { MAX_BYTES_BEFORE, MAX_HASH_LINE_BYTES } from './limits.ts';
import type { NodeSession } from './session.ts';

/** The script ends itself when it hears nothing for so long. */
const SILENCE_SECONDS = 30;
/** Of the deadline so much is for hashing itself: what is done by then must still arrive. */
const SHARE_OF_TIME = 0.8;

let script: Buffer | null = null;

/** Why a blob was not hashed: it is gone, was written to meanwhile, could not be read, or its turn did not come in time. */
export type NotHashed = 'gone' | 'changed' | 'failed' | 'late';

/**
 * Hashes the items one after another, until the time is over. It ends with its connection.
 * @param timeoutMs deadline for all of them
 * @returns what came of each, in their order
 * @throws ReconcileError SSH_*, NODE_ANSWER_INVALID for a torn or malformed answer
 */
export async function hashBlobs(
  { node, connection, signal }: NodeSession,
  items: HashItem[],
  timeoutMs: number,
): Promise<(HashedBlob | NotHashed)[]> {
  script ??= readFileSync(new URL('./hash.sh', import.meta.url));
  const nonce = randomBytes(8).toString('hex');
  const { rootDir, sudo } = node.cocoon;
  const lines = items.reduce((sum, { ranges }) => sum + ranges.length + 1, 0);
  const seconds = Math.max(1, Math.floor((timeoutMs * SHARE_OF_TIME) / 1000));
  const wanted = items.map(({ hex, ranges }) => [hex, ...ranges].join(':'));
  const limits = [seconds, SILENCE_SECONDS].map(String);
  const command = ['sh', '-c', `script=$(head -c ${script.length}); eval "$script"`, 'hash', nonce, rootDir, ...limits];
  const words = [...(sudo ? ['sudo', '-n'] : []), ...command, ...wanted];
  const { stdout, stderr } = await connection.exec(words.map(shellQuote).join(' '), {
    stdin: script.toString('utf8'),
    heartbeatMs: (SILENCE_SECONDS * 1000) / 3,
    maxStdoutBytes: MAX_BYTES_BEFORE + lines * MAX_HASH_LINE_BYTES,
    maxStderrBytes: 4096,
    timeoutMs,
    signal,
    what: 'hashing blobs',
  });
  const answer = stdout.toString('utf8');
  const begin = `cocoon-hash 1 ${nonce}\n`;
  const from = answer.indexOf(begin);
  const to = answer.indexOf(`\ncocoon-hash end ${nonce}\n`, from);
  if (from === -1 || to === -1) {
    const said = [from === -1 ? firstLine(answer) : '', stderr.trim()].filter((text) => text !== '').join('; ');
    const what = `the hashes are torn; it said: ${clip(said, 400)}`;
    throw fault('NODE_ANSWER_INVALID', { host: node.name, what });
  }
  return parseHashes(answer.slice(from + begin.length, to), items, node);
}

/**
 * The answer tells of each item in its turn; of the last ones nothing, where the work was ended when its time was over. What
 * is out of turn, or more or less than was asked for, cannot be trusted.
 */
function parseHashes(answer: string, items: HashItem[], node: Node): (HashedBlob | NotHashed)[] {
  const results: (HashedBlob | NotHashed)[] = [];
  const invalid = (what: string): unknown => fault('NODE_ANSWER_INVALID', { host: node.name, what });
  let ranges: string[] = [];
  for (const line of answer.split('\n').filter((text) => text !== '')) {
    const item = items[results.length];
    const [, kind, hex, rest = ''] =
      /^(range|whole|gone|changed|failed|late) ([0-9a-f]{64})(?: (.*))?$/.exec(line) ?? [];
    const [, digest, stamp] = /^([0-9a-f]{64})(?: (\d+ \d+ [\d.]+))?$/.exec(rest) ?? [];
    if (item === undefined || hex !== item.hex) throw invalid(`a hash line: ${line.slice(0, 100)}`);
    if (kind === 'range' && digest !== undefined && stamp === undefined) {
      ranges.push(`sha256:${digest}`);
      continue;
    }
    if (kind === 'whole' && stamp !== undefined && ranges.length === item.ranges.length) {
      results.push({ hex, whole: `sha256:${digest}`, ranges, stamp });
    } else if (rest === '' && kind !== 'range' && kind !== 'whole') {
      results.push(kind as NotHashed);
    } else {
      throw invalid(`a hash line: ${line.slice(0, 100)}`);
    }
    ranges = [];
  }
  return items.map((_item, i) => results[i] ?? 'late');
}
