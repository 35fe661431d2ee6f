/** Reads a node again after a change, and compares it with what its registry serves at that moment. */
import { readNode } from '../../node/read.ts';
import type { NodeSession } from '../../node/session.ts';
import { blobState, ociState, type BlobState, type Form } from '../../core/judge/blobs.ts';
import { clonesOn } from '../../core/judge/clones.ts';
import { provenOn } from '../../core/judge/proofs.ts';
import { errorInfo, fault, ReconcileError } from '../../core/errors.ts';
import type { DesiredImage } from '../../core/model/desired.ts';
import type { ErrorInfo } from '../../core/model/error.ts';
import type { IndexEntry, Observed } from '../../core/model/observed.ts';
import type { Action, CloneTest } from '../../core/model/plan.ts';
import {
  carryHashes,
  deepWishes,
  HASH_TIMEOUT_MS,
  hashOn,
  isOpen,
  proofWishes,
  recallProofs,
  type HashWish,
} from '../learn/node-hashes.ts';
import { READ_TIMEOUT_MS } from '../observe.ts';
import { cloudImage, withStoredForm } from '../resolve/cloud-image.ts';
import { containersAt } from '../resolve/containers.ts';
import { startInquiry, type Inquiry, type Registries } from '../resolve/inquiry.ts';
import type { ApplyLimits } from './limits.ts';

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
  session: NodeSession,
  registries: Registries,
  { remainingMs }: Pick<ApplyLimits, 'remainingMs'>,
): Promise<Verified> {
  const { node, connection, signal } = session;
  const inquiry = startInquiry(registries, signal);
  const read = await readNode(connection, node, READ_TIMEOUT_MS, signal);
  const entry = read.entries.find(({ reference }) => reference === action.reference) ?? null;
  const have = entry?.digest ?? null;
  const served = await servedNow(action, read, inquiry);
  const wishes = wishesFor(action, served, have, read);
  const timeoutMs = Math.min(HASH_TIMEOUT_MS, remainingMs() / 2);
  const observed = await hashOpen(session, action.expected, { read, wishes }, { state: registries.state, timeoutMs });
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
  const { state, known } = await filesOf(action, { ...found, entry, digest: now }, inquiry);
  if (state.state !== 'sound') return { ...mismatch(state.why), desired: known };
  return { ...found, desired: known, problem: null };
}

/** What the registry serves for the tag that counts, for the node's own platform; null where a digest counts. */
async function servedNow(
  { reference, expected: { tag: asked } }: Action,
  { architecture }: Observed,
  inquiry: Inquiry,
): Promise<DesiredImage | null> {
  if (asked === null) return null;
  const { registry, repository, tag, platform } = asked;
  if (registry === null) return await cloudImage(inquiry, { repository, tag }, reference);
  const what = { registry, repository, tag, image: `${registry}/${repository}`, reference, unpullable: null };
  const images = await containersAt(inquiry, what, [architecture]);
  const image = images.find((one) => one.platform === platform) ?? images[0];
  if (image === undefined)
    throw fault('ARTIFACT_UNSUPPORTED', { image: reference, why: 'its registry serves nothing' });
  return image;
}

/** What the node must hash: the blob under the reference of a split image, and in depth all that is used. */
function wishesFor(
  { node, expected: { depth } }: Action,
  image: DesiredImage | null,
  have: string | null,
  read: Observed,
): HashWish[] {
  const proof = have === null ? [] : proofWishes(read, image, have);
  return [...proof, ...(depth === 'sha256' ? deepWishes(node, read) : [])];
}

/** The node's facts with the hashes of what is wished for; what was hashed in this run and is the same file is not again. */
async function hashOpen(
  session: NodeSession,
  { hashed: before, depth }: Action['expected'],
  { read, wishes }: { read: Observed; wishes: HashWish[] },
  { state, timeoutMs }: { state: Registries['state']; timeoutMs: number },
): Promise<Observed> {
  const carried = carryHashes(read, before);
  const known = depth === 'sha256' ? carried : recallProofs(session.node, carried, wishes, state);
  const open = wishes.filter((wish) => isOpen(known, wish));
  return open.length === 0 ? known : await hashOn(session, known, open, { timeoutMs, state });
}

/** Whether the files are sound that the entry names; with what had to be asked for that. */
async function filesOf(
  { kind, node, sizeBytes, expected: { depth } }: Action,
  { entry, digest, desired, observed }: Pick<Verified, 'desired' | 'observed'> & { entry: IndexEntry; digest: string },
  inquiry: Inquiry,
): Promise<{ state: BlobState; known: DesiredImage | null }> {
  if (entry.type === 'oci') return { state: ociState(node, observed, desired, entry), known: desired };
  // Only what cocoon stores as it comes is ever replaced.
  const pinned: Form | null = kind === 'replace' ? { sizeBytes, stored: 'as-is' } : null;
  const atOnce = blobState(observed, digest, desired ?? pinned, depth);
  if (atOnce.state !== 'unproven' || desired === null) return { state: atOnce, known: desired };
  const known = await withStoredForm(inquiry, desired);
  return { state: blobState(observed, digest, known, depth), known };
}

/**
 * The last step: the snapshots whose base is the content that was just brought must clone, as far as their files tell.
 * @returns these snapshots, as the config and reports call them
 * @throws ReconcileError CLONE_FAILED
 */
export function verifyClones(
  { node, expected: { depth, form } }: Action,
  { snapshots }: CloneTest,
  { now, desired, observed }: Verified,
): string[] {
  if (now === null) return [];
  const byId = new Map(snapshots.map(({ id, snapshot }) => [id, snapshot]));
  return clonesOn(node, observed, { digest: now, form: desired ?? form, depth }).flatMap(({ fact, problem }) => {
    const snapshot = byId.get(fact.id);
    if (snapshot === undefined) return [];
    if (problem !== null) throw fault('CLONE_FAILED', { host: node.name, snapshot, why: problem });
    return [snapshot];
  });
}
