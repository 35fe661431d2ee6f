/** What a blob file on a node is worth: judged against the manifest that yields it, as closely as was asked. */
import { isPlainQcow2 } from '../qcow2.ts';
import { hexOf } from '../reference.ts';
import type { DesiredImage } from '../model/desired.ts';
import type { Node } from '../model/node.ts';
import type { BlobFact, IndexEntry, Observation, Observed } from '../model/observed.ts';
import type { BlobDepth } from '../model/verdict.ts';

export interface BlobState {
  state: 'sound' | 'absent' | 'corrupt' | 'unproven';
  /** What is wrong; of a sound blob, how closely it was looked at. */
  why: string;
}

/** How much "sound" means. Every row in sync says one of these, so they are the same few strings on every node. */
const CHECKED = {
  presence: 'checked: present, and no more than that',
  header: 'checked: present, with the header of a qcow2 base image; its size at epoch is not known',
  size: 'checked: present, size as the manifest says; --deep hashes the bytes',
  sha256: 'checked: sha256 of every byte',
  converted: 'cocoon converted the download: only presence and header can be verified',
};
/** The same of a container image: there is no cheap way to see whether its layers are whole. */
export const OCI_CHECKED = 'checked: each of its files is present; whether the layers are whole cannot be told';

/** No proof of anything: such a blob is never taken for a bad one. */
const UNHASHED = 'the bytes of the blob could not be hashed';

const NO_BASE = 'the blob does not begin as a qcow2 base image does';

/** What tells a good blob of a content from a bad one, beside its digest. */
export type Form = Pick<DesiredImage, 'sizeBytes' | 'stored'>;

/**
 * Judges the blob of a cloud image. The index's own size proves nothing
 * (conformance: --force keeps a damaged blob of the same digest, and records its size). A converted blob has other bytes than the download, so only its presence and its header
 * can be looked at.
 * @param desired what is known of the content that has exactly this digest, or null where nothing is
 */
export function blobState(observed: Observed, digest: string, desired: Form | null, depth: BlobDepth): BlobState {
  const blob = observed.blobs[hexOf(digest)];
  if (blob === undefined) return { state: 'absent', why: 'the blob is not there' };
  if (!blob.regular) return { state: 'absent', why: 'the blob is no regular file' };
  if (blob.sizeBytes === 0) return { state: 'absent', why: 'the blob is empty' };
  const isWhole = blob.sha256 === digest;
  if (depth === 'presence') return { state: 'sound', why: isWhole ? CHECKED.sha256 : CHECKED.presence };
  const isQcow2 = hasPlainHeader(blob);
  // Bytes that are what their name says may still be a disk that no clone can stand on.
  const problem = isWhole ? (isQcow2 ? null : NO_BASE) : flaw(blob, isQcow2, desired, depth);
  if (problem === null && isWhole) return { state: 'sound', why: CHECKED.sha256 };
  if (problem === null) return { state: 'sound', why: desired?.sizeBytes == null ? CHECKED.header : CHECKED.size };
  if (problem === UNHASHED) return { state: 'unproven', why: [problem, blob.unhashed].filter(Boolean).join(': ') };
  if (desired?.stored === 'as-is') return { state: 'corrupt', why: problem };
  if (desired?.stored === 'converted' && isQcow2) {
    return { state: 'sound', why: CHECKED.converted };
  }
  const why =
    desired?.stored === 'converted'
      ? 'since cocoon converted the download, nothing tells what it should be'
      : 'whether cocoon converted the download is not known';
  return { state: 'unproven', why: `${problem}, and ${why}` };
}

/** What is wrong with the bytes if they are those that were downloaded. */
function flaw(blob: BlobFact, isQcow2: boolean, desired: Form | null, depth: BlobDepth): string | null {
  if (!isQcow2) return NO_BASE;
  const expected = desired?.sizeBytes ?? null;
  if (expected !== null && blob.sizeBytes !== expected)
    return `the blob has ${blob.sizeBytes} bytes and not ${expected}`;
  if (depth !== 'sha256') return null;
  return blob.sha256 === null ? UNHASHED : 'the bytes of the blob do not have its digest';
}

function hasPlainHeader(blob: BlobFact): boolean {
  return blob.header !== null && isPlainQcow2(Buffer.from(blob.header, 'hex'));
}

/**
 * Judges the files of a container image: every layer, a kernel and an initrd, as cocoon itself looks for them
 * (conformance: a missing layer, then a missing kernel, of an OCI guest). There is no cheap way to see whether they are whole.
 */
export function ociState(
  { cocoon }: Node,
  observed: Observed,
  desired: DesiredImage | null,
  entry: IndexEntry,
): BlobState {
  const dir = `${cocoon.rootDir}/oci`;
  const isThere = (path: string): boolean => observed.files[path] === 'file';
  const layers = desired !== null && desired.layers.length > 0 ? desired.layers : entry.layers;
  if (layers.length === 0) return { state: 'unproven', why: 'which layers it has is not known' };
  const boot = (layer: string, name: string): string => `${dir}/boot/${hexOf(layer)}/${name}`;
  const needed = [
    ...layers.map((layer) => [`${dir}/blobs/${hexOf(layer)}.erofs`]),
    (entry.kernelLayer === null ? layers : [entry.kernelLayer]).map((layer) => boot(layer, 'vmlinuz')),
    (entry.initrdLayer === null ? layers : [entry.initrdLayer]).map((layer) => boot(layer, 'initrd.img')),
  ];
  const gone = needed.find((paths) => !paths.some(isThere));
  return gone === undefined
    ? { state: 'sound', why: OCI_CHECKED }
    : { state: 'absent', why: `${gone[0]} is not there` };
}

/** Whether a file with bytes is there under a digest. */
export function isHeld({ blobs }: Observed, digest: string): boolean {
  const blob = blobs[hexOf(digest)];
  return blob !== undefined && blob.regular && blob.sizeBytes > 0;
}

/** True where a VM is running on the blob: replacing it would pull the ground from under the guest's next start. */
export function isInUse(observed: Observed, digest: string): boolean {
  return observed.vms.some(
    (vm) =>
      (vm.state === 'running' || vm.state === 'creating') &&
      (vm.imageDigest === digest || vm.blobIds.includes(hexOf(digest))),
  );
}

/**
 * What keeps a blob alive when cocoon collects garbage: index entries, and the records of VMs and snapshots
 * (conformance: keeps a blob that a snapshot pins). Names for people.
 */
export function keepersOf(observed: Observed, digest: string): string[] {
  const hex = hexOf(digest);
  return [
    ...observed.entries.filter((entry) => entry.digest === digest).map((entry) => entry.reference),
    ...observed.vms.filter((vm) => vm.imageDigest === digest || vm.blobIds.includes(hex)).map((vm) => `VM ${vm.name}`),
    ...observed.snapshots
      .filter((fact) => fact.recorded && (fact.baseDigest === digest || fact.blobIds.includes(hex)))
      .map((fact) => `snapshot ${fact.name || fact.id}`),
    ...observed.unlistedBackings
      .filter((path) => path.endsWith(`/${hex}.qcow2`))
      .map(() => 'a snapshot that is being taken'),
  ];
}

/**
 * The images whose blobs look wrong somewhere, so that it matters how cocoon stores them: their first bytes are worth
 * a request. Everything else is judged without it.
 */
export function needsStoredForm(images: DesiredImage[], observations: Observation[], depth: BlobDepth): DesiredImage[] {
  const looksWrong = (image: DesiredImage, digest: string, observed: Observed): boolean =>
    (['size', depth] as const).some((at) => blobState(observed, digest, image, at).state === 'unproven');
  return images.filter(
    (image) =>
      image.stored === null &&
      observations.some(
        ({ observed }) =>
          observed !== null && image.contentDigest !== null && looksWrong(image, image.contentDigest, observed),
      ),
  );
}
