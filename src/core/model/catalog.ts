/** What registries serve now: the one answer to what a reference stands for, whoever holds it. */
import type { DesiredImage, DesiredSnapshot } from './desired.ts';
import type { ErrorInfo } from './error.ts';

export interface Catalog {
  /** All known addresses of epoch, its own first. */
  addresses: [string, ...string[]];
  /** By `imageKey`, in the order in which they were asked for. */
  images: Record<string, DesiredImage>;
  /** By reference, as nodes and the config spell it. */
  references: Record<string, Reference>;
  snapshots: DesiredSnapshot[];
  /** By `pinnedKey`: what a registry said about content that some node lacks, or that no tag yields any more. */
  pinned: Record<string, PinnedContent>;
  /** By reference: what may be of this epoch under an address that the config does not know. */
  suspects: Record<string, Suspect>;
}

/** What a reference stands for. */
export interface Reference {
  /** Keys of `images`, one per platform. */
  images: string[];
  /** Who says so: a registry, or the config alone, which takes the reference for an image that it tracks. */
  by: 'registry' | 'config';
}

/** An entry that may be of this epoch under an address that the config does not know: what it would be. */
export interface Suspect {
  image: string;
  tag: string;
  error: ErrorInfo;
}

/** A base that snapshots pin, and whose tag yields other content by now: worth a question to its registry. */
export interface PinnedQuestion {
  base: string;
  digest: string;
}

/** Whether a registry still gives exactly the content that a snapshot pins. */
export type PinnedContent =
  /** It does, at this reference; `sizeBytes` is what a pull downloads, and `stored` is known where it matters. */
  | { state: 'there'; reference: string; sizeBytes: number; stored: DesiredImage['stored'] }
  /** It does, but nothing that cocoon can pull names exactly that content. */
  | { state: 'there-unpullable'; why: string }
  | { state: 'gone'; why: string }
  | { state: 'unasked'; error: ErrorInfo | null };
