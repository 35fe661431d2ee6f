/** Reads a node: runs the probe there, as often as it takes to know all, and turns its answer into facts or an error of that node. */
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { ReconcileError, fault } from '../core/errors.ts';
import { ShapeError } from '../core/json.ts';
import { UNREADABLE } from '../core/qcow2.ts';
import { shellQuote } from '../core/text.ts';
import type { Node } from '../core/model/node.ts';
import type { Observed } from '../core/model/observed.ts';
import { parseFacts } from './facts.ts';
import { MAX_ANSWER_BYTES } from './limits.ts';
import { explainCopyFailure } from './private-copy.ts';
import type { RawAnswer } from './answer/answer.ts';
import { isUnread } from './answer/heads.ts';
import { createAnswerReader, type AnswerReader } from './answer/stream.ts';
import { inSlices } from '../system/slices.ts';
import type { Connection } from '../ssh/client.ts';

/** So much of each overlay is read at first: qemu-img puts the path of the base within the first 600 bytes. */
const HEAD_BYTES = 1024;
/** Each answer may name files elsewhere which name others, and a file may go away while it is read. */
const MAX_ANSWERS = 5;
const MAX_ELSEWHERE = 1000;

/** So long a `cocoon version` may take, at most, before the node is read without it. */
const PATIENCE_SECONDS = 10;
/** The probe ends itself so long after we have given it up, where the network has not told it so. */
const SPARE_SECONDS = 10;
const HEARTBEAT_MS = 30_000;

let script: string | null = null;

/** The text of the probe without its comments, read once per run. */
function loadScript(): string {
  script ??= readFileSync(new URL('./probe.sh', import.meta.url), 'utf8').replaceAll(/^ *#.*\n/gm, '');
  return script;
}

const NOT_CSH = 'test -n "$shell" && exec false';

/** What the probe is to look at beside the root directory. */
export interface Scope {
  headBytes: number;
  /** As words of the script: files, and directories of snapshots with `/.` at their end. */
  elsewhere: string[];
}

/** Nothing outside the root directory. */
export const FIRST_SCOPE: Scope = { headBytes: HEAD_BYTES, elsewhere: [] };

/**
 * Reads a node by one command. Where a snapshot needs something outside the root directory, which its files alone tell,
 * everything is read once more together with that.
 * @param timeoutMs deadline of each command
 * @throws ReconcileError NODE_* where the node cannot be read, SSH_* where the connection fails
 */
export async function readNode(
  connection: Connection,
  node: Node,
  timeoutMs: number,
  signal: AbortSignal,
): Promise<Observed> {
  const { sudo } = node.cocoon;
  let scope = FIRST_SCOPE;
  let isInline = !sudo;
  for (let answers = 0; answers < MAX_ANSWERS; answers += 1) {
    const nonce = randomBytes(8).toString('hex');
    const { command, stdin } = buildCommand(node, scope, { nonce, timeoutMs, isInline });
    const reader = createAnswerReader(nonce, node, scope.headBytes);
    const result = await connection.exec(command, {
      stdin,
      heartbeatMs: HEARTBEAT_MS, // standard input stays open: the probe ends with it
      onStdout: (piece) => reader.push(piece),
      maxStdoutBytes: MAX_ANSWER_BYTES,
      maxStderrBytes: 4096,
      timeoutMs,
      signal,
      what: 'reading it',
    });
    if (sudo && result.code !== 0 && !reader.hasBegun()) {
      throw fault('NODE_PERMISSION_DENIED', {
        host: node.name,
        user: node.user,
        what: result.stderr.trim() || 'sudo refused',
      });
    }
    if (isInline && !reader.hasBegun()) {
      isInline = false; // a login shell that has no words of several lines
      continue;
    }
    const { observed, wider } = await inSlices(parseProbe(reader, node, scope, result.stderr));
    if (wider === null) return observed;
    scope = wider;
    isInline = false; // these words may be more than one command can hold
  }
  throw fault('NODE_ANSWER_INVALID', {
    host: node.name,
    what: 'its files change while they are read, or its `head` shows nothing of them',
  });
}

/**
 * Inline the script is a word of the command: a server takes nothing on standard input before the command runs, so all
 * else costs a round trip. Never with sudo, which logs every word. csh would take each line of it for a command of its own,
 * so the first one ends csh, which alone has a variable of this name.
 */
function buildCommand(
  node: Node,
  scope: Scope,
  { nonce, timeoutMs, isInline }: { nonce: string; timeoutMs: number; isInline: boolean },
): { command: string; stdin: string } {
  const { binary, rootDir, sudo } = node.cocoon;
  const seconds = Math.ceil(timeoutMs / 1000);
  const limits = [
    '-s',
    'USR1',
    '-k',
    `${seconds + SPARE_SECONDS}`,
    `${Math.min(PATIENCE_SECONDS, Math.ceil(seconds / 3))}`,
  ];
  const script = shellQuote(`\n${NOT_CSH}\n${loadScript()}`);
  const words = [nonce, binary, rootDir, `${scope.headBytes}`, ...scope.elsewhere].map(shellQuote);
  const command = ['timeout', ...limits, 'sh', '-c', script, 'sh', ...words].join(' ');
  if (isInline) return { command, stdin: '' };
  return { command: `${sudo ? 'sudo -n ' : ''}sh -s`, stdin: `exec ${command}\n` };
}

/**
 * Text → facts, and what to ask for once more where they are not all.
 * @param stderr what the command said beside its answer, to explain a torn one
 * @throws ReconcileError NODE_*; NO_SPACE where there is none for the private copy of a SQLite store
 */
export function* parseProbe(
  reader: AnswerReader,
  node: Node,
  scope: Scope = FIRST_SCOPE,
  stderr = '',
): Generator<void, { observed: Observed; wider: Scope | null }> {
  const host = node.name;
  const raw = reader.end();
  if (raw === null) {
    const said = [reader.firstLine(), stderr.trim()].filter((text) => text !== '').join('; ');
    const what = 'the answer is torn: its end mark is missing';
    throw fault('NODE_ANSWER_INVALID', { host, what: said === '' ? what : `${what}; it said: ${said}` });
  }
  const [denied] = raw.denied;
  if (raw.cocoonMissing) throw fault('NODE_COCOON_MISSING', { host, binary: node.cocoon.binary });
  if (denied !== undefined) throw fault('NODE_PERMISSION_DENIED', { host, user: node.user, what: denied });
  if (raw.converting) throw fault('NODE_BUSY', { host, why: 'conversion' });
  if (raw.storeMissing !== null) {
    const { rootDir } = node.cocoon;
    throw fault('NODE_STORE_MISSING', { host, rootDir, kept: raw.storeMissing.filter(({ dir }) => dir !== rootDir) });
  }
  if (raw.unsettled) throw fault('NODE_BUSY', { host, why: 'writes' });
  if (raw.unmade !== null) throw explainCopyFailure(raw.scratchDir, raw.unmade, node);
  if (raw.walk === 'begun') {
    throw fault('NODE_ANSWER_INVALID', { host, what: 'its `find` lists nothing: GNU findutils are needed there' });
  }
  try {
    const observed = yield* parseFacts(raw, node);
    return { observed, wider: widenScope(scope, raw, observed, node) };
  } catch (error) {
    if (error instanceof ReconcileError || !(error instanceof ShapeError)) throw error;
    throw fault('NODE_INDEX_CORRUPT', { host, what: error.message }, error);
  }
}

/** What is listed without being asked for, below the root directory. */
const LISTED =
  /^\/(?:cloudimg\/blobs\/[0-9a-f]{64}\.qcow2|oci\/blobs\/[^/]+\.erofs|oci\/boot\/[^/.][^/]*\/[^/]+|firmware\/[^/]+|snapshot\/localfile\/[^/.][^/]*\/\.)$/;

/** The scope that holds all that these snapshots need; null where this one does, and all of it was read. */
function widenScope(scope: Scope, raw: RawAnswer, { snapshots }: Observed, { name: host, cocoon }: Node): Scope | null {
  const { rootDir } = cocoon;
  const elsewhere = new Set(scope.elsewhere);
  const need = (path: string): void => {
    const isBelow = path.startsWith(`${rootDir}/`);
    if (!path.startsWith('/') || path.includes(UNREADABLE) || (isBelow && LISTED.test(path.slice(rootDir.length))))
      return;
    elsewhere.add(path);
  };
  for (const { dataDir, backing, bootFiles, layerFiles } of snapshots) {
    if (dataDir !== null) need(`${dataDir}/.`);
    if (backing !== null) need(backing);
    bootFiles.forEach(need);
    layerFiles.forEach(need);
  }
  const headBytes = Math.max(scope.headBytes, ...Object.values(raw.directories).map(({ headNeeds }) => headNeeds));
  const isSame = elsewhere.size === scope.elsewhere.length && headBytes === scope.headBytes;
  if (isSame && !isUnread(raw)) return null;
  if (elsewhere.size > MAX_ELSEWHERE) {
    const what = `its snapshots need more than ${MAX_ELSEWHERE} files outside ${rootDir}`;
    throw fault('NODE_ANSWER_INVALID', { host, what });
  }
  return { headBytes, elsewhere: [...elsewhere] };
}
