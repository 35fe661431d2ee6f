/** What would help a finding, under a policy: a change that a run makes, commands for a person, or why there is none. */
import { isUrl } from '../reference.ts';
import type { ErrorInfo } from '../model/error.ts';
import type { Evidence, Finding } from '../model/finding.ts';
import type { CocoonSettings, Node } from '../model/node.ts';
import type { ActionKind, Repair } from '../model/plan.ts';
import { isTied, whyNotServed } from '../judge/images.ts';
import { reimportCommands, replaceCommands, restoreCommands } from './commands.ts';

export type Remedy =
  | { kind: ActionKind; why: string | null; evidence: Evidence }
  | { kind: 'by-hand'; why: string | null; commands: string[] }
  | { kind: 'none'; why: string | null; error: ErrorInfo | null };

/** What a remedy depends on beside the finding. */
export interface RemedyPolicy {
  repair: Repair;
  /** Where a person's commands on this node lie, and load from. */
  cocoon: CocoonSettings;
  epochUrl: string;
}

/** The remedy for a finding on any of these nodes. */
export type RemedyFor = (finding: Finding) => Remedy;

/** @param epochUrl without a trailing slash */
export function remediesUnder(repair: Repair, epochUrl: string, nodes: Node[]): RemedyFor {
  const byName = new Map(nodes.map((node) => [node.name, node]));
  return (finding) => {
    const node = byName.get(finding.node);
    if (node === undefined) throw new Error(`a finding about ${finding.node}, which is not in the inventory`);
    return remedyOf(finding, { repair, cocoon: node.cocoon, epochUrl });
  };
}

/** The one answer to what would help. */
export function remedyOf(finding: Finding, policy: RemedyPolicy): Remedy {
  const { evidence } = finding;
  if (evidence === null) return { kind: 'none', why: null, error: null };
  const { image, kept } = evidence;
  const lacking = image === null ? null : whyNotServed(image);
  if (lacking !== null) return { kind: 'none', ...lacking };
  if (kept !== null) return pastKept(finding, evidence, kept, policy);
  if (image === null) {
    if (policy.repair.restoreBases === 'restore') return { kind: 'restore', why: null, evidence };
    return { kind: 'by-hand', why: null, commands: restoreCommands(policy.cocoon, evidence.reference) };
  }
  if (!isTied(image, evidence.reference)) return { kind: 'pull', why: null, evidence };
  if (evidence.digest !== null) return { kind: 'import', why: null, evidence };
  return { kind: 'none', why: 'an import is compared with its content digest, which is not known', error: null };
}

/** A file is in the way: replaced where that is allowed and no VM runs on it. */
function pastKept(
  { kind, verdict }: Finding,
  evidence: Evidence,
  kept: NonNullable<Evidence['kept']>,
  policy: RemedyPolicy,
): Remedy {
  const { image, reference, digest } = evidence;
  const isTiedName = image !== null && isTied(image, reference);
  // Of a blob that is bad itself the finding says so already; here another content is wanted, and its file is bad.
  const isOther = kind === 'image' && verdict !== 'blob-corrupt';
  const cure = isTiedName ? 'an import' : 'a forced pull';
  const unsound = `${cure} would keep the file of the wanted digest, which is there and unsound: ${kept.why}`;
  const all = (...rest: string[]): string | null =>
    [...(isOther ? [unsound, kept.why] : []), ...rest].join('; ') || null;
  if (kept.state === 'unproven' || digest === null) return { kind: 'none', why: isOther ? unsound : null, error: null };
  if (policy.repair.corruptBlobs === 'replace' && !kept.isInUse) return { kind: 'replace', why: all(), evidence };
  const commands =
    image === null || isUrl(reference)
      ? replaceCommands(policy.cocoon, reference, digest)
      : reimportCommands(policy.cocoon, image, { name: reference, digest, epochUrl: policy.epochUrl });
  const alone = `${image !== null && !isUrl(reference) ? 'another import' : 'a forced pull'} alone would keep it`;
  const why = policy.repair.corruptBlobs === 'replace' ? 'a VM is running on it, so it is not replaced' : alone;
  return { kind: 'by-hand', why: all(why), commands };
}

/** Whether a run does it. */
export function isChange(remedy: Remedy): remedy is Remedy & { kind: ActionKind } {
  return remedy.kind !== 'by-hand' && remedy.kind !== 'none';
}
