/**
 * An exit waits for the threads that read files and look up names, however long a file does not open (a pipe, a file system
 * that is gone) and however long no name server answers.
 */
import { spawn } from 'node:child_process';

/** What Node.js calls the work of these threads. */
const WORK = new Set(['FSReqCallback', 'FSReqPromise', 'GetAddrInfoReqWrap', 'GetNameInfoReqWrap']);
/** A look-up that no name server answers takes about that long, and its program need not be killed. */
const PATIENCE_MS = 20_000;

/** In the place of `process.exit`: the process ends with this code, or by SIGKILL where it cannot. */
export function exit(code: number): never {
  if (process.getActiveResourcesInfo().some((kind) => WORK.has(kind))) {
    // Node.js 22.15 and newer: another program in the place of this one waits for nobody
    const { execve } = process as { execve?: (file: string, args: string[]) => void };
    execve?.call(process, '/bin/sh', ['sh', '-c', `exit ${code}`]);
    killLater(PATIENCE_MS);
  }
  process.exit(code);
}

/** Has this process killed if it is still there after this time. The child that does it ends with its standard input. */
export function killLater(afterMs: number): void {
  const kill = `setTimeout(() => process.kill(${process.pid}, 'SIGKILL'), ${afterMs})`;
  const code = `process.stdin.on('end', () => process.exit()).resume(); ${kill}`;
  const env = { ...process.env, NODE_OPTIONS: '' };
  spawn(process.execPath, ['-e', code], { stdio: ['pipe', 'ignore', 'ignore'], env }).on('error', () => undefined);
}
