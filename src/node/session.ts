/** What speaking to one node needs. */
import type { Node } from '../core/model/node.ts';
import type { Connection } from '../ssh/client.ts';

/** An open connection to a node, and what ends the work on it. */
export interface NodeSession {
  node: Node;
  connection: Connection;
  signal: AbortSignal;
}
