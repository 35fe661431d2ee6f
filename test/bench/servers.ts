// Who answers in the place of all nodes: real sshd, or a server of our own that is quicker than any sshd can be.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { cpuMsOf, pause, startSshd, type NodeServer } from '../fleet/sshd.ts';
import { childrenOf } from './measure.ts';
import type { BenchNodes } from './nodes.ts';

export interface Server {
  port: number;
  /** `type base64`. */
  hostKey: string;
  pid: number;
  stop: () => Promise<void>;
}

/** What the quick server is told. */
export interface QuickServerKeys {
  publicKey: string;
  mark: string;
}

const quickServer = fileURLToPath(new URL('quick-server.js', import.meta.url));

/** @param under words before the command that starts it */
export async function startRealSshd({ dir, fleet }: BenchNodes, name: string, under: string[] = []): Promise<Server> {
  const server: NodeServer = await startSshd({
    dir: join(dir, name),
    authorizedKeys: [fleet.publicKey],
    mark: join(dir, 'nodes', name),
    host: '0.0.0.0',
    maxStartups: '10000',
    under,
  });
  const [hostKey = ''] = await server.hostKeys();
  return { port: server.port, hostKey, pid: server.pids()[0] ?? 0, stop: server.stop };
}

export async function startQuickServer({ dir, fleet }: BenchNodes, under: string[]): Promise<Server> {
  const [program, ...argv] = [...under, process.execPath, quickServer];
  const child = spawn(program, argv, { stdio: ['pipe', 'pipe', 'inherit'] });
  const closed = new Promise<void>((resolve) => child.once('close', () => resolve()).once('error', () => resolve()));
  const keys: QuickServerKeys = { publicKey: fleet.publicKey, mark: join(dir, 'nodes', 'quick') };
  child.stdin.on('error', () => undefined).write(JSON.stringify(keys));
  const said = (await Promise.race([once(child.stdout, 'data'), closed])) as [Buffer] | undefined;
  if (!said) throw new Error('the quick server did not start');
  const { port, hostKey } = JSON.parse(said[0].toString()) as { port: number; hostKey: string };
  const stop = async () => {
    child.stdin.end();
    await closed;
  };
  return { port, hostKey, pid: child.pid ?? 0, stop };
}

/** CPU time that a server used so far, once it has ended every session: so the next program also finds it at rest. */
export async function settledCpuMs({ pid }: Server): Promise<number> {
  while (childrenOf(pid).length > 0) await pause(10);
  return cpuMsOf(pid);
}
