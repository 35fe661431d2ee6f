/** What the script `change.sh` says of a change, as plain data. */
import { firstLine } from '../core/text.ts';

/** What `change.sh` said. */
export interface ChangeReply {
  /** Whether the guarded command was started. */
  begun: boolean;
  /** How it ended; null where it never began, or the guard itself was killed. */
  ended: { code: number; why: string; said: string } | null;
  /** Who is at it already: the reason to leave the node alone. */
  busy: string | null;
  /** A process has the blob open that was to be replaced. */
  isInUse: boolean;
  /** The digest of the content that arrived for an import. */
  received: string | null;
  /** The state of the VM that was cloned. */
  state: string | null;
  /** VM, or path of a leftover → why it could not be removed, or null where it is gone. */
  removed: Map<string, string | null>;
  /** What was said beside it: the reason where nothing began. */
  stderr: string;
}

/**
 * The lines of `change.sh`, each behind the nonce: a word, and what belongs to it. All other lines are not ours.
 * @param stderr what came beside them
 */
export function parseReply(stdout: string, nonce: string, stderr: string): ChangeReply {
  const reply: ChangeReply = {
    begun: false,
    ended: null,
    busy: null,
    isInUse: false,
    received: null,
    state: null,
    removed: new Map(),
    stderr: takeLastLines(stderr) || (stdout.includes(nonce) ? '' : firstLine(stdout)),
  };
  let said: string[] = [];
  for (const line of stdout.split('\n')) {
    if (!line.startsWith(`${nonce} `)) continue;
    const [word = '', first = '', ...rest] = line.slice(nonce.length + 1).split(' ');
    const words = [first, ...rest].join(' ');
    if (word === 'said') {
      said.push(words);
      continue;
    }
    const why = takeLastLines(said.join('\n'));
    said = [];
    if (word === 'locked') reply.busy = 'another reconcile is changing this node';
    else if (word === 'busy') reply.busy = `the same image is being pulled there already (process ${words})`;
    else if (word === 'begun') reply.begun = true;
    else if (word === 'ended') reply.ended = { code: Number(first), why: rest.join(' '), said: why };
    else if (word === 'in-use') reply.isInUse = true;
    else if (word === 'received') reply.received = `sha256:${words}`;
    else if (word === 'state') reply.state = words;
    else if (word === 'removed') reply.removed.set(words, null);
    else if (word === 'left') reply.removed.set(words, why);
  }
  return reply;
}

/** The last lines of what was said; cocoon ends with `Error: …`. */
function takeLastLines(stderr: string): string {
  return stderr.trim().split('\n').slice(-4).join('; ');
}
