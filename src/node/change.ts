/** All that changes a node. Nothing else in this program writes to one; only `pipeline/apply/` imports this. */
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { fault, infoOf, type ReconcileError } from '../core/errors.ts';
import { hexOf } from '../core/reference.ts';
import { shellQuote } from '../core/text.ts';
import type { ErrorInfo } from '../core/model/error.ts';
import type { Node } from '../core/model/node.ts';
import type { Leftover } from '../core/model/observed.ts';
import type { TidyResult } from '../core/model/result.ts';
import { withDeadline } from '../system/deadline.ts';
import { parseReply, type ChangeReply } from './change-reply.ts';
import { MAX_CHANGE_BYTES } from './limits.ts';
import type { NodeSession } from './session.ts';
import type { Connection } from '../ssh/client.ts';

/** The guard ends its command when it hears nothing for this long. */
const SILENCE_SECONDS = 30;
/** How long all else but the command itself may take there, before the connection is given up, in ms. */
const GRACE_MS = { pull: 60_000, replace: 600_000, import: 600_000, canary: 120_000, remove: 180_000, tidy: 600_000 };
/** How long a removal may take to get a connection. */
const CONNECT_MS = 60_000;

let script: Buffer | null = null;

function loadScript(): Buffer {
  script ??= readFileSync(new URL('./change.sh', import.meta.url));
  return script;
}

type Verb = keyof typeof GRACE_MS;

/** What a deadline is said to be of, where that is not the verb. */
const WHAT: Partial<Record<Verb, string>> = { canary: 'a canary VM', remove: 'a canary VM', tidy: 'tidying up' };

/** One call of the script. */
interface Change {
  /** What the verb is about. */
  words: string[];
  /** After this the command that changes something is ended on the node; content may take as long to arrive. */
  timeoutMs: number;
  content?: AsyncIterable<Uint8Array>;
}

/** The command is short and the same for every login shell; script and heartbeat follow on standard input. */
async function runChange(
  { node, connection, signal }: NodeSession,
  verb: Verb,
  { words, timeoutMs, content }: Change,
): Promise<ChangeReply> {
  const { binary, rootDir, runDir, logDir, sudo } = node.cocoon;
  const nonce = randomBytes(8).toString('hex');
  const limits = [String(SILENCE_SECONDS), String(Math.ceil(timeoutMs / 1000))];
  const fixed = [nonce, verb, rootDir, sudo ? 'yes' : 'no', ...limits, binary, runDir ?? '', logDir ?? ''];
  const text = loadScript();
  const command = ['sh', '-c', `eval "$(head -c ${text.length})"`, 'change', ...fixed, ...words];
  const result = await connection.exec(command.map(shellQuote).join(' '), {
    stdin: text.toString('utf8'),
    ...(content === undefined ? {} : { content }),
    heartbeatMs: (SILENCE_SECONDS * 1000) / 3,
    maxStdoutBytes: MAX_CHANGE_BYTES,
    maxStderrBytes: 4096,
    timeoutMs: (content === undefined ? 1 : 2) * timeoutMs + GRACE_MS[verb],
    signal,
    what: WHAT[verb] ?? `a ${verb}`,
  });
  return parseReply(result.stdout.toString('utf8'), nonce, result.stderr);
}

/**
 * `cocoon image pull --force REFERENCE` under the guard. That it succeeds proves nothing: read the node again.
 * @param timeoutMs after this the pull is ended on the node
 * @throws ReconcileError PULL_FAILED, PULL_TIMEOUT, LOCKED, SSH_*
 */
export async function pullImage(session: NodeSession, reference: string, timeoutMs: number): Promise<void> {
  const reply = await runChange(session, 'pull', { words: [reference], timeoutMs });
  refuseFailedPull(reply, session.node, reference, timeoutMs);
}

/**
 * Sets the blob of `digest` aside, pulls the reference with `--force`, and removes the old file once bytes of exactly
 * that digest are there; on any failure the old file is put back. One guarded script on the node does all of it.
 * @throws ReconcileError BLOB_IN_USE, and as `pullImage`
 */
export async function replaceBlob(
  session: NodeSession,
  reference: string,
  digest: string,
  timeoutMs: number,
): Promise<void> {
  const reply = await runChange(session, 'replace', { words: [reference, hexOf(digest)], timeoutMs });
  if (reply.isInUse) throw fault('BLOB_IN_USE', { host: session.node.name, digest });
  refuseFailedPull(reply, session.node, reference, timeoutMs);
}

/** What is imported, as it comes from the registry. */
export interface ImportContent {
  content: AsyncIterable<Uint8Array>;
  digest: string;
  sizeBytes: number;
  /** A bad blob of that digest, which an import would keep, is set aside first, as by `replaceBlob`. */
  replaces: boolean;
}

/**
 * Streams the content into a private file on the node, compares its digest there, and lets cocoon import it under the
 * name. Nothing is imported that is not exactly the wanted content; the file goes whatever happens.
 * @param timeoutMs of the transfer, and again of the import
 * @throws ReconcileError IMPORT_FAILED, LOCKED, BLOB_IN_USE, SSH_*
 */
export async function importImage(
  session: NodeSession,
  reference: string,
  { content, digest, sizeBytes, replaces }: ImportContent,
  timeoutMs: number,
): Promise<void> {
  const host = session.node.name;
  const createFailure = (why: string): Error => fault('IMPORT_FAILED', { host, reference, why });
  const words = [reference, hexOf(digest), String(sizeBytes)];
  const reply = await runChange(session, replaces ? 'replace' : 'import', { words, timeoutMs, content });
  const { busy, received, ended, stderr } = reply;
  if (busy !== null) throw fault('LOCKED', { host, by: busy });
  if (reply.isInUse) throw fault('BLOB_IN_USE', { host, digest });
  if (received !== digest) {
    const what = received === null ? 'nothing arrived' : `${received} arrived and not ${digest}`;
    throw createFailure(stderr === '' ? what : `${what}: ${stderr}`);
  }
  if (ended === null) throw createFailure(`it did not start: ${stderr}`);
  if (ended.code !== 0) throw createFailure(ended.why === '' ? ended.said : `it was ended: ${ended.why}`);
}

/** Turns the reply to a pull that did not succeed into its error. */
function refuseFailedPull(
  { begun, ended, busy, stderr }: ChangeReply,
  node: Node,
  reference: string,
  timeoutMs: number,
): void {
  const host = node.name;
  if (busy !== null) throw fault('LOCKED', { host, by: busy });
  if (ended === null) {
    const exit = begun ? 'was broken off there' : 'did not start';
    throw fault('PULL_FAILED', { host, reference, exit, stderr });
  }
  if (ended.code === 0) return;
  if (ended.why === 'deadline') throw fault('PULL_TIMEOUT', { host, reference, afterMs: timeoutMs });
  const exit = ended.why === 'silence' ? `was ended: ${UNHEARD}` : `exited with ${ended.code}`;
  throw fault('PULL_FAILED', { host, reference, exit, stderr: ended.said });
}

const UNHEARD = `nothing was heard from here for ${SILENCE_SECONDS} s`;

/** The state of a VM that is not there any more. */
const VANISHED = 'vanished';

/** What came of a canary VM: whether the clone works, and whether the VM is gone. */
export interface CanaryResult {
  clone: ErrorInfo | null;
  /** Somebody else removed the VM before it could be looked at: that says nothing about the clone. */
  vanished: boolean;
  left: ErrorInfo | null;
}

/**
 * Clones a VM from a snapshot, sees it running, and removes it whatever happened. Where the connection is lost in
 * between, the guard on the node ends and removes it; a second connection then makes sure.
 * @param connect opens a fresh connection for that second look
 * @param timeoutMs deadline of the clone
 */
export async function cloneCanary(
  session: NodeSession,
  connect: () => Promise<Connection>,
  canary: { name: string; snapshot: string; extraArgs: string[] },
  timeoutMs: number,
): Promise<CanaryResult> {
  const { node } = session;
  const { name, snapshot, extraArgs } = canary;
  const host = node.name;
  const fail = (why: string): ErrorInfo => infoOf(fault('CLONE_FAILED', { host, snapshot, why }));
  let reply: ChangeReply;
  try {
    reply = await runChange(session, 'canary', { words: [name, snapshot, ...extraArgs], timeoutMs });
  } catch (error) {
    return { clone: fail(infoOf(error).message), vanished: false, left: await removeAgain(connect, node, name) };
  }
  const { begun, ended, busy, state, stderr } = reply;
  const never = { vanished: false, left: null };
  if (busy !== null) return { clone: infoOf(fault('LOCKED', { host, by: busy })), ...never };
  if (!begun) return { clone: fail(`the clone did not start: ${stderr}`), ...never };
  const clone = ended === null ? fail('it was broken off there') : explainNotRunning(ended, state, timeoutMs, fail);
  const isAnswered = reply.removed.has(name);
  const left = isAnswered ? explainLeft(node, name, reply) : await removeAgain(connect, node, name);
  return { clone, vanished: state === VANISHED, left };
}

function explainNotRunning(
  { code, why, said }: NonNullable<ChangeReply['ended']>,
  state: string | null,
  timeoutMs: number,
  fail: (why: string) => ErrorInfo,
): ErrorInfo | null {
  if (code === 0 && state === VANISHED) {
    return fail(
      'somebody removed the VM before it could be looked at, as vk-cocoon does when it starts with VK_ORPHAN_POLICY destroy',
    );
  }
  if (code === 0) return state === 'running' ? null : fail(`the VM is ${state || 'gone'} and not running`);
  if (why === 'deadline') return fail(`it took longer than ${timeoutMs / 1000} s and was ended`);
  if (why === 'silence') return fail(`it was ended: ${UNHEARD}`);
  return fail(said);
}

/** Null where the VM is gone. */
function explainLeft(node: Node, name: string, { removed, stderr }: ChangeReply): ErrorInfo | null {
  const why = removed.has(name) ? removed.get(name) : stderr;
  return why === null ? null : createCanaryLeft(node, name, why || 'no reason was given');
}

function createCanaryLeft(node: Node, name: string, why: string): ErrorInfo {
  return infoOf(fault('CANARY_LEFT', { host: node.name, name, why }));
}

/**
 * Removes or puts back what a run that died left, in one command under our lock. Where the lock is held its owner may be
 * alive, and all is left to it.
 * @throws ReconcileError SSH_*
 */
export async function tidyNode(session: NodeSession, leftovers: Leftover[]): Promise<TidyResult[]> {
  const { node } = session;
  const paths = leftovers.map(({ name }) => name);
  const reply = await runChange(session, 'tidy', { words: paths, timeoutMs: 0 });
  return leftovers.map(({ kind, name }): TidyResult => {
    const result = { node: node.name, name };
    if (reply.busy !== null) return { ...result, outcome: 'skipped', error: null };
    if (reply.removed.get(name) === null) return { ...result, outcome: 'tidied', error: null };
    const why = (reply.removed.get(name) ?? reply.stderr) || 'no reason was given';
    const error =
      kind === 'canary-vm'
        ? createCanaryLeft(node, name, why)
        : infoOf(fault('TIDY_FAILED', { host: node.name, name, why }));
    return { ...result, outcome: 'failed', error };
  });
}

/** The removal is not the run's to abort: it has a deadline of its own. */
async function removeAgain(connect: () => Promise<Connection>, node: Node, name: string): Promise<ErrorInfo | null> {
  try {
    const connection = await connect();
    try {
      const afterMs = CONNECT_MS + GRACE_MS.remove;
      const reason = (): ReconcileError => fault('SSH_TIMEOUT', { host: node.host, what: `removing ${name}`, afterMs });
      return await withDeadline({ timeout: { afterMs, reason } }, async (signal) => {
        const reply = await runChange({ node, connection, signal }, 'remove', { words: [name], timeoutMs: 0 });
        return explainLeft(node, name, reply);
      });
    } finally {
      connection.close();
    }
  } catch (error) {
    return createCanaryLeft(node, name, infoOf(error).message);
  }
}
