/** Reads a node again after a change, and compares it with what its registry serves at that moment. */
import { readNode } from '../../node/read.ts';
import type { Connection } from '../../ssh/client.ts';
import { blobState, isHeld, ociState, type BlobState, type Form } from '../../core/judge/blobs.ts';
import { errorInfo, fault, ReconcileError } from '../../core/errors.ts';
import { coverOf, type Served } from '../../core/judge/images.ts';
import { provenOn } from '../../core/judge/proofs.ts';
import { hexOf } from '../../core/reference.ts';
import { judgeSnapshots, type ServedSnapshots } from '../../core/judge/snapshots.ts';
import type { DesiredImage } from '../../core/model/desired.ts';
import type { ErrorInfo } from '../../core/model/error.ts';
import type { Node } from '../../core/model/node.ts';
import type { IndexEntry, Observation, Observed } from '../../core/model/observed.ts';
import type { Action, Policy } from '../../core/model/plan.ts';
import type { SnapshotRow } from '../../core/model/report.ts';
import { carriedOver, deepWishes, HASH_TIMEOUT_MS, hashOn, isOpen, recalled, type Wish } from '../learn/hashes.ts';
import { newResolver, type JudgeRequest } from '../judge.ts';
import { READ_TIMEOUT_MS } from '../observe.ts';
import type { Resolver } from '../resolve/resolve.ts';

/** What verifying needs beside the action. */
export interface VerifyContext extends JudgeRequest {
  policy: Policy;
  served: Served;
  hot: ServedSnapshots;
  /** The nodes as they were read at first, with what was hashed then. */
  observations: Observation[];
}

/** What a node holds and what its registry serves, read at the same time. `problem` is null where they agree. */
export interface Verified {
  have: string | null;
  now: string | null;
  /** What is served now; null for content that a snapshot pins and no tag serves any more. */
  desired: DesiredImage | null;
  observed: Observed;
  problem: ErrorInfo | null;
}

/**
 * Reads the node and compares its entry and its files with what is served now. That a pull succeeded proves nothing.
 * @throws ReconcileError where either cannot be asked
 */
export async function verify(
  action: Action,
  node: Node,
  connection: Connection,
  context: VerifyContext,
): Promise<Verified> {
  const resolver = newResolver(context);
  const read = await readNode(connection, node, READ_TIMEOUT_MS, context.signal);
  const entry = read.entries.find(({ reference }) => reference === action.reference) ?? null;
  const have = entry?.digest ?? null;
  const isPinned = action.kind === 'restore' || action.tag === '';
  const served = isPinned ? null : await servedNow(action, node, read, resolver, context);
  const observed = await hashed(served, have, node, read, connection, context);
  const proof = served === null || have === null ? null : provenOn(observed, served, have);
  // It is believed for itself alone: no other node is held against what it proved.
  const desired = served !== null && proof === 'same' ? { ...served, contentDigest: have, unlearned: false } : served;
  const now = desired === null ? action.want : desired.contentDigest;
  const found = { have, now, desired, observed };
  const mismatch = (detail: string): Verified => ({
    ...found,
    problem: errorInfo('VERIFY_MISMATCH', { host: node.name, reference: action.reference, have, want: now, detail }),
  });
  if (proof === 'other') {
    return mismatch('its parts prove that it is other content than epoch serves now');
  }
  if (now === null && have === null) return mismatch('the node has no entry for it');
  if (now === null)
    throw new ReconcileError(desired?.error ?? errorInfo('INTERNAL', { problem: 'neither digest nor error' }));
  if (entry === null || have !== now) return mismatch('the node recorded another digest than is served now');
  // Only what cocoon stores as it comes is ever replaced.
  const pinned = action.kind === 'replace' ? { sizeBytes: action.sizeBytes, stored: 'as-is' as const } : null;
  const { state, known } = await filesOf(entry, now, desired, pinned, node, observed, resolver, context);
  if (state.state !== 'sound') return { ...mismatch(state.why), desired: known };
  return { ...found, desired: known, problem: null };
}

/** What the registry serves for the reference of an action, for the node's own platform. */
async function servedNow(
  action: Action,
  node: Node,
  observed: Observed,
  resolver: Resolver,
  { served }: VerifyContext,
): Promise<DesiredImage> {
  const planned = coverOf({ served, node, observed }, action.reference);
  if (planned?.kind !== 'container-image') return await resolver.image(action.image, action.tag);
  const architectures = [observed.architecture];
  const tracked = served.tracked.find(({ registry, reference }) => registry !== null && reference === action.reference);
  const images =
    tracked === undefined
      ? await resolver.reference(action.reference, architectures)
      : await resolver.tracked(tracked, architectures);
  const image = images.find(({ platform }) => platform === planned.platform) ?? images[0];
  if (image === undefined)
    throw fault('ARTIFACT_UNSUPPORTED', { image: action.reference, why: 'its registry serves nothing' });
  return image;
}

/** The node's facts with what it must hash: the blob under the reference of a split image, and in depth all that is used. */
async function hashed(
  image: DesiredImage | null,
  have: string | null,
  node: Node,
  read: Observed,
  connection: Connection,
  { served, observations, clients, signal, remainingMs }: VerifyContext,
): Promise<Observed> {
  const isDeep = served.depth === 'sha256';
  const toProve = image?.unlearned === true && have !== null && isHeld(read, have);
  const proof: Wish[] = toProve ? [{ hex: hexOf(have), image }] : [];
  const wishes = [...proof, ...(isDeep ? deepWishes(node, read) : [])];
  const before = observations.find((seen) => seen.node.name === node.name)?.observed ?? null;
  const carried = carriedOver(read, before);
  const known = isDeep ? carried : recalled(node, carried, wishes, clients.state);
  const open = wishes.filter((wish) => isOpen(known, wish));
  if (open.length === 0) return known;
  const timeoutMs = Math.min(HASH_TIMEOUT_MS, remainingMs() / 2);
  return await hashOn(connection, node, known, open, timeoutMs, { state: clients.state, signal });
}

async function filesOf(
  entry: IndexEntry,
  digest: string,
  desired: DesiredImage | null,
  pinned: Form | null,
  node: Node,
  observed: Observed,
  resolver: Resolver,
  { served: { depth } }: VerifyContext,
): Promise<{ state: BlobState; known: DesiredImage | null }> {
  if (entry.type === 'oci') return { state: ociState(node, observed, desired, entry), known: desired };
  const atOnce = blobState(observed, digest, desired ?? pinned, depth);
  if (atOnce.state !== 'unproven' || desired === null) return { state: atOnce, known: desired };
  const known = await resolver.withStoredForm(desired);
  return { state: blobState(observed, digest, known, depth), known };
}

/**
 * The last step: the snapshots whose base is the content that was just brought must clone, as far as their files tell.
 * @returns these snapshots; the problem is NOTHING_TO_TEST where there are none
 * @throws ReconcileError CLONE_FAILED
 */
export function verifyClones(
  action: Action,
  node: Node,
  context: VerifyContext,
  healed: Verified,
): { problem: ErrorInfo | null; users: SnapshotRow[] } {
  const users = usersOf(node, healed, context);
  const image = `${action.image}:${action.tag}`;
  if (users.length === 0) return { problem: errorInfo('NOTHING_TO_TEST', { host: node.name, image }), users };
  for (const { snapshot, verdict, reason } of users) {
    if (verdict !== 'clonable') throw fault('CLONE_FAILED', { host: node.name, snapshot, why: reason ?? verdict });
  }
  return { problem: null, users };
}

/** The snapshots of the node whose base is what was just brought; one that is broken for another reason does not count. */
function usersOf(node: Node, { now, desired, observed }: Verified, { served, hot }: VerifyContext): SnapshotRow[] {
  const observation = { node, status: 'observed' as const, observed, error: null, durationMs: 0 };
  // What was learned of the image since the plan was made counts here too: its size, and how cocoon stores it.
  const isSame = ({ image, tag, platform }: DesiredImage): boolean =>
    image === desired?.image && tag === desired.tag && platform === desired.platform;
  const current = {
    ...served,
    desired: served.desired.map((other) => (desired !== null && isSame(other) ? desired : other)),
  };
  return judgeSnapshots(current, hot, observation).filter(
    (row) => row.id !== null && row.baseDigest === now && row.verdict !== 'broken' && row.verdict !== 'pending',
  );
}
