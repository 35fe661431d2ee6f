/** All that changes a node. Nothing else in this program writes to one; only `pipeline/apply.ts` imports this. */
import { readFileSync } from 'node:fs';
import { fault, infoOf } from '../core/errors.ts';
import { shellQuote } from '../core/text.ts';
import type { ErrorInfo, Node } from '../core/types.ts';
import type { Connection } from './ssh.ts';

/** The guard ends its command when it hears nothing for this long (contract §K). */
const SILENCE_SECONDS = 30;
/** How long a command that was told to end may take to clean up, before the connection is given up, in ms. */
const GRACE_MS = 60_000;

let script: string | null = null;

function changeScript(): string {
  script ??= readFileSync(new URL('./change.sh', import.meta.url), 'utf8');
  return script;
}

/** What `change.sh` answered. */
interface Answer {
  lines: string[][];
  stderr: string;
}

type Verb = 'pull' | 'canary' | 'remove';

async function change(
  connection: Connection,
  node: Node,
  verb: Verb,
  words: string[],
  timeoutMs: number,
  signal: AbortSignal,
): Promise<Answer> {
  const { binary, rootDir, runDir, logDir, sudo } = node.cocoon;
  const deadline = String(Math.ceil(timeoutMs / 1000));
  const fixed = [rootDir, sudo ? 'yes' : 'no', String(SILENCE_SECONDS), deadline, binary, runDir ?? '', logDir ?? ''];
  const command = ['sh', '-c', changeScript(), 'change', verb, ...fixed, ...words].map(shellQuote).join(' ');
  const result = await connection.exec(command, {
    heartbeatMs: (SILENCE_SECONDS * 1000) / 3,
    maxStdoutBytes: 65_536,
    maxStderrBytes: 8192,
    timeoutMs: timeoutMs + GRACE_MS,
    signal,
  });
  const lines = result.stdout
    .toString('utf8')
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => line.split(' '));
  return { lines, stderr: result.stderr };
}

/**
 * `cocoon image pull --force REFERENCE` under the guard. That it succeeds proves nothing: read the node again.
 * @param timeoutMs after this the pull is ended on the node
 * @throws ReconcileError PULL_FAILED, PULL_TIMEOUT, LOCKED, SSH_*
 */
export async function pullImage(
  connection: Connection,
  node: Node,
  reference: string,
  timeoutMs: number,
  signal: AbortSignal,
): Promise<void> {
  const host = node.name;
  const { lines, stderr } = await change(connection, node, 'pull', [reference], timeoutMs, signal);
  const ended = endOf(lines, node);
  if (ended === null) throw fault('PULL_FAILED', { host, reference, exit: 'did not start', stderr: lastLines(stderr) });
  if (ended.why === 'deadline') throw fault('PULL_TIMEOUT', { host, reference, afterMs: timeoutMs });
  if (ended.code !== 0) {
    throw fault('PULL_FAILED', { host, reference, exit: `exited with ${ended.code}`, stderr: lastLines(stderr) });
  }
}

/** How the guarded command ended; null where it never began. */
function endOf(lines: string[][], node: Node): { code: number; why: string } | null {
  const host = node.name;
  for (const [word, value = '', why = ''] of lines) {
    if (word === 'locked') throw fault('LOCKED', { host, by: 'another reconcile is changing this node' });
    if (word === 'busy')
      throw fault('LOCKED', { host, by: `the same image is being pulled there already (process ${value})` });
    if (word === 'ended') return { code: Number(value), why };
  }
  return null;
}

/** The last lines of what cocoon said; it ends with `Error: …` (contract A.2). */
function lastLines(stderr: string): string {
  return stderr.trim().split('\n').slice(-4).join('; ');
}

/** What came of a canary VM: whether the clone works, and whether the VM is gone. */
export interface CanaryResult {
  clone: ErrorInfo | null;
  left: ErrorInfo | null;
}

/**
 * Clones a VM from a snapshot, sees it running, and removes it whatever happened. Where the connection is lost in
 * between, the guard on the node ends and removes it; a second connection then makes sure.
 * @param connect opens a fresh connection for that second look
 * @param timeoutMs deadline of the clone
 */
export async function cloneCanary(
  connection: Connection,
  connect: () => Promise<Connection>,
  node: Node,
  canary: { name: string; snapshot: string; extraArgs: string[] },
  timeoutMs: number,
  signal: AbortSignal,
): Promise<CanaryResult> {
  const { name, snapshot, extraArgs } = canary;
  const failed = (why: string): ErrorInfo => infoOf(fault('CLONE_FAILED', { host: node.name, snapshot, why }));
  try {
    const { lines, stderr } = await change(
      connection,
      node,
      'canary',
      [name, snapshot, ...extraArgs],
      timeoutMs,
      signal,
    );
    const ended = endOf(lines, node);
    const state = lines.find(([word]) => word === 'state')?.[1];
    const clone =
      ended === null
        ? failed(`the clone did not start: ${lastLines(stderr)}`)
        : ended.why === 'deadline'
          ? failed(`it took longer than ${timeoutMs / 1000} s and was ended`)
          : ended.code !== 0
            ? failed(lastLines(stderr))
            : state === 'running'
              ? null
              : failed(`the VM is ${state ?? 'gone'} and not running`);
    const gone = ended === null || lines.some(([word, removed]) => word === 'removed' && removed === name);
    return { clone, left: gone ? null : leftBehind(node, name, lastLines(stderr)) };
  } catch (error) {
    return { clone: failed(infoOf(error).message), left: await removeAgain(connect, node, name) };
  }
}

function leftBehind(node: Node, name: string, why: string): ErrorInfo {
  return infoOf(fault('CANARY_LEFT', { host: node.name, name, why }));
}

/** The removal is not the run's to abort: it has a deadline of its own. */
async function removeAgain(connect: () => Promise<Connection>, node: Node, name: string): Promise<ErrorInfo | null> {
  try {
    const connection = await connect();
    try {
      const { lines, stderr } = await change(
        connection,
        node,
        'remove',
        [name],
        GRACE_MS,
        AbortSignal.timeout(2 * GRACE_MS),
      );
      const gone = lines.some(([word, removed]) => word === 'removed' && removed === name);
      return gone ? null : leftBehind(node, name, lines.flat().join(' ') || lastLines(stderr));
    } finally {
      connection.close();
    }
  } catch (error) {
    return leftBehind(node, name, infoOf(error).message);
  }
}
