/** Whether the snapshots of a node that stand on one content would clone: told from what is there, without any registry. */
import type { Node } from '../model/node.ts';
import type { Observed, SnapshotFact } from '../model/observed.ts';
import type { BlobDepth } from '../model/verdict.ts';
import { blobState, type Form } from './blobs.ts';
import { layersGone, NO_LAYERS, openedBase, pinnedBy, whyUnusable } from './snapshot-files.ts';

/** A content that was just brought to a node. */
export interface BroughtContent {
  digest: string;
  /** What is known of its file. */
  form: Form | null;
  depth: BlobDepth;
}

/**
 * The snapshots that stand on the content, with what keeps them from being cloned; `null` where nothing does. One that is
 * being written, or is broken for another reason, does not count.
 */
export function clonesOn(
  { cocoon }: Pick<Node, 'cocoon'>,
  observed: Observed,
  content: BroughtContent,
): { fact: SnapshotFact; problem: string | null }[] {
  return observed.snapshots.flatMap((fact) => {
    if (fact.pending || whyUnusable(observed, fact) !== null) return [];
    const { digest, problem } = baseState({ cocoon }, observed, fact, content);
    return digest === content.digest ? [{ fact, problem }] : [];
  });
}

/** The digest that a snapshot stands on, and what is wrong with it there; no digest where another base is broken. */
function baseState(
  node: Pick<Node, 'cocoon'>,
  observed: Observed,
  fact: SnapshotFact,
  { form, depth }: BroughtContent,
): { digest: string | null; problem: string | null } {
  const opened = openedBase(node, observed, fact);
  const pinned = pinnedBy(fact);
  switch (opened.kind) {
    case 'unreadable':
      return { digest: pinned, problem: `its overlay opens ${opened.path}, which cannot be looked for` };
    case 'file':
      return { digest: opened.isThere ? pinned : null, problem: null };
    case 'layers': {
      const { needed, gone } = opened;
      const problem = needed.length === 0 ? NO_LAYERS : gone.length === 0 ? null : layersGone(needed, gone);
      return { digest: pinned, problem };
    }
    case 'blob': {
      const { state, why } = blobState(observed, opened.digest, form, depth);
      return { digest: opened.digest, problem: state === 'sound' ? null : `its base: ${why}` };
    }
  }
}
