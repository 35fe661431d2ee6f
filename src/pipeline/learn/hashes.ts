/**
 * Has nodes hash their own blobs: to prove what they hold of a split image whose content digest is not known, and for
 * verification in depth. What a node says decides its own rows alone. Nothing here changes a node.
 */
import PQueue from 'p-queue';
import { withDeadline } from '../../system/deadline.ts';
import type { Ssh } from '../../ssh/client.ts';
import type { State } from '../../bastion/state.ts';
import { fault } from '../../core/errors.ts';
import type { Catalog } from '../../core/model/catalog.ts';
import type { Scope } from '../../core/model/scope.ts';
import { judgedAs } from '../../core/judge/scope.ts';
import { clip } from '../../core/text.ts';
import type { Node } from '../../core/model/node.ts';
import type { Observation, Observed } from '../../core/model/observed.ts';
import { whyOf } from '../resolve/inquiry.ts';
import {
  deepWishes,
  HASH_TIMEOUT_MS,
  hashOn,
  isOpen,
  proofWishes,
  recallProofs,
  type HashWish,
} from './node-hashes.ts';

/** So much of what is left of the run's time hashing takes; the rest is for what follows. */
const SHARE_OF_TIME = 1 / 2;

export interface HashContext {
  ssh: Ssh;
  state: State;
  concurrency: number;
  signal: AbortSignal;
  /** What is left of the run's time, in ms. */
  remainingMs: () => number;
  /** What could not be hashed, and why; the verdicts that depend on it stay `unknown`. */
  onTrouble: (message: string) => void;
}

/** What has to be hashed on a node, the proofs first. */
function wishesOn(catalog: Catalog, scope: Scope, { node, observed }: Observation): HashWish[] {
  if (observed === null) return [];
  const proofs = observed.entries
    .filter(({ type }) => type === 'cloudimg')
    .flatMap(({ reference, digest }) =>
      proofWishes(observed, judgedAs({ catalog, scope, node, observed }, reference), digest),
    );
  return [...proofs, ...(scope.depth === 'sha256' ? deepWishes(node, observed) : [])];
}

/**
 * The observations with what their blobs hash to, as far as verdicts depend on it. The nodes hash side by side, and each
 * has its own share of the time: one that is silent leaves its own rows unknown, and nothing else.
 */
export async function hashFleet(
  observations: Observation[],
  { catalog, scope }: { catalog: Catalog; scope: Scope },
  context: HashContext,
): Promise<Observation[]> {
  const isDeep = scope.depth === 'sha256';
  const jobs = observations.map((observation) => {
    const wishes = wishesOn(catalog, scope, observation);
    const { node, observed } = observation;
    const known = observed === null || isDeep ? observed : recallProofs(node, observed, wishes, context.state);
    const open = wishes.filter((wish) => isOpen(known, wish));
    return { observation: { ...observation, observed: known }, observed: known, wishes: open };
  });
  const slots = await context.ssh.affordable(context.concurrency);
  const queue = new PQueue({ concurrency: slots });
  const endsAt = performance.now() + context.remainingMs() * SHARE_OF_TIME;
  let waiting = jobs.filter(({ wishes }) => wishes.length > 0).length;
  return await Promise.all(
    jobs.map(async ({ observation, observed, wishes }) => {
      if (observed === null || wishes.length === 0) return observation;
      return await queue.add(async () => {
        const shareMs = Math.max(0, endsAt - performance.now()) / Math.ceil(waiting / slots);
        waiting -= 1;
        const found = await hashNode({ node: observation.node, observed }, wishes, shareMs, context);
        return { ...observation, observed: found };
      });
    }),
  );
}

/** Never throws: what could not be hashed is said of each blob. */
async function hashNode(
  { node, observed }: { node: Node; observed: Observed },
  wishes: HashWish[],
  ownShareMs: number,
  context: HashContext,
): Promise<Observed> {
  const shareMs = Math.min(HASH_TIMEOUT_MS, ownShareMs);
  const until = performance.now() + shareMs;
  const reason = (): Error => fault('SSH_TIMEOUT', { host: node.host, what: 'hashing blobs', afterMs: shareMs });
  const limits = { signal: context.signal, timeout: { afterMs: shareMs, reason } };
  try {
    return await withDeadline(limits, async (signal) => {
      const connection = await context.ssh.connect(node, signal);
      try {
        const leftMs = until - performance.now();
        const found = await hashOn({ node, connection, signal }, observed, wishes, {
          timeoutMs: leftMs,
          state: context.state,
        });
        const why = new Set(wishes.flatMap(({ hex }) => found.blobs[hex]?.unhashed ?? []));
        if (why.size > 0) context.onTrouble(`${node.name}: blobs could not be hashed: ${[...why].join('; ')}`);
        return found;
      } finally {
        connection.close();
      }
    });
  } catch (error) {
    const { message } = whyOf(error, context.signal);
    context.onTrouble(`${node.name}: blobs could not be hashed: ${message}`);
    const blobs = { ...observed.blobs };
    for (const { hex } of wishes) {
      const blob = blobs[hex];
      if (blob !== undefined) blobs[hex] = { ...blob, unhashed: clip(message, 200) };
    }
    return { ...observed, blobs };
  }
}
