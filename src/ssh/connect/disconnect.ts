/** A connection that is logged in, and how it is ended. */
import { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import type ssh2 from 'ssh2';

/** A machine that we are logged in to. */
export interface LoggedIn {
  client: ssh2.Client;
  stream: Duplex;
}

/** How long the end of a connection may take before its socket is destroyed. */
const END_MS = 1_000;

/** Calls what throws where the connection is gone, as ssh2 does on a write: that is no error here. */
export function ignoreThrown(write: () => void): void {
  try {
    write();
  } catch {
    // the connection is gone
  }
}

/** Ends a connection, and waits for nothing: ssh2 closes only our half, and a peer that hangs would keep this process alive. */
export function disconnect({ client, stream }: LoggedIn): void {
  ignoreThrown(() => client.end());
  if (stream instanceof Socket) stream.destroySoon();
  else ignoreThrown(() => stream.end());
  if (!stream.destroyed) setTimeout(() => stream.destroy(), END_MS).unref();
}
