/**
 * How much a node may say of itself. These numbers are twice what is told by a node with a thousand cloud images, a thousand
 * container images of eight layers, a thousand snapshots of eight files and a thousand VMs, or a little more than that where
 * it costs memory: what a machine says beyond it is no answer, and is not waited for.
 */

/** Bytes before the answer begins: what start-up files of the login shell print. */
export const MAX_BYTES_BEFORE = 64_000;
/** Bytes of a whole answer. The configurations of a thousand snapshots, 8 KB each, are half of it. */
export const MAX_ANSWER_BYTES = 16_000_000;
/** Lines of a whole answer, those of files included: lists that cocoon prints have up to forty lines a VM. */
export const MAX_LINES = 200_000;
/** Bytes of one file in the answer: the records of a thousand VMs are 2 MB. `probe.sh` has the same number. */
export const MAX_FILE_BYTES = 4_000_000;
/** Entries of an index, or items of a list. */
export const MAX_ENTRIES = 2_000;
/** Lines of one kind that are kept; of some kinds there are several for each image or snapshot. */
export const MAX_LINES_OF_KIND = 2_000;
/** Kind of line → how many of it are kept, where that is more. */
export const MORE_LINES_OF: Record<string, number> = { path: 12_000, has: 12_000, file: 6_000, index: 6_000 };

/** Bytes of what `hash.sh` says of a blob, or of a range of it. */
export const MAX_HASH_LINE_BYTES = 256;
/** Bytes of the answer to a change. */
export const MAX_CHANGE_BYTES = 256_000;
