// A second network, behind a link whose packets take their time.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';

export interface Link {
  /** Words that make a command run in the network behind the link. */
  enter: string[];
  /** Ends the link; the network goes when the last process in it has ended. */
  stop: () => Promise<void>;
}

/** First half of every address behind the link. */
export const FAR_NETWORK = '198.18';

const script = fileURLToPath(new URL('./delay.py', import.meta.url));

/** @throws where this machine or this user can make no networks; the message says why */
export async function startLink(roundTripMs: number): Promise<Link> {
  const relay = spawn('/usr/bin/python3', [script, `${roundTripMs / 2000}`], { stdio: 'pipe' });
  let said = '';
  relay.stderr.setEncoding('utf8').on('data', (text: string) => (said += text));
  relay.stdin.on('error', () => undefined); // it ended by itself
  const closed = new Promise<void>((resolve) => relay.once('close', () => resolve()).once('error', () => resolve()));
  const ready = once(relay.stdout, 'data').then(() => true);
  if (!(await Promise.race([ready, closed.then(() => false)])))
    throw new Error(said.trim().split('\n').at(-1) || 'no /usr/bin/python3');
  return {
    enter: ['nsenter', `--net=/proc/${relay.pid}/ns/net`],
    stop: async () => {
      relay.stdin.end();
      await closed;
    },
  };
}
