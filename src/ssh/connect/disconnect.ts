/** A connection that is logged in, and how it is ended. */
import { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import type ssh2 from 'ssh2';

/** A machine that we are logged in to. */
export interface Login {
  client: ssh2.Client;
  stream: Duplex;
}

/** How long a goodbye may take before the socket is destroyed. */
const GOODBYE_MS = 1_000;

/** ssh2 throws on a write to a connection whose protocol has ended: then there is nobody to tell. */
export function ignoreThrown(write: () => void): void {
  try {
    write();
  } catch {
    // the connection is gone
  }
}

/** Says goodbye, waits for no answer: ssh2 only half-closes, and a frozen peer would keep this process alive. */
export function disconnect({ client, stream }: Login): void {
  ignoreThrown(() => client.end());
  if (stream instanceof Socket) stream.destroySoon();
  else ignoreThrown(() => stream.end());
  if (!stream.destroyed) setTimeout(() => stream.destroy(), GOODBYE_MS).unref();
}
