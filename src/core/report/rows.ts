/** Findings, remedies, actions and results → the rows of the report. */
import type { ErrorInfo } from '../model/error.ts';
import type { Finding, ImageFinding, NodeFindings, SnapshotFinding } from '../model/finding.ts';
import type { Action } from '../model/plan.ts';
import type { ImageRow, NodeRows, SnapshotRow } from '../model/report.ts';
import type { ActionResult } from '../model/result.ts';
import { isChange, type Remedy, type RemedyFor } from '../plan/remedy.ts';

/** What became of the findings; nothing is planned or done where it is left out. */
export interface Done {
  actions?: Action[];
  results?: ActionResult[];
}

/** One row per finding. Where an image and a snapshot share an action, the image has its steps. */
export function reportRows(
  findings: NodeFindings[],
  remedyFor: RemedyFor,
  { actions = [], results = [] }: Done,
): NodeRows[] {
  const planned = new Map(actions.map((action) => [`${action.node.name}\n${action.reference}`, action]));
  const done = new Map(results.map((result) => [`${result.node}\n${result.reference}`, result]));
  return findings.map(({ node, images, snapshots }) => {
    const keyOf = (remedy: Remedy): string => (isChange(remedy) ? `${node}\n${remedy.evidence.reference}` : '');
    const imageRemedies = images.map((finding) => ({ finding, remedy: remedyFor(finding) }));
    const owned = new Set(imageRemedies.map(({ remedy }) => keyOf(remedy)));
    return {
      node,
      images: imageRemedies.map(({ finding, remedy }): ImageRow => {
        const result = done.get(keyOf(remedy));
        return {
          ...imageRow(finding, remedy),
          ...fateOf(describe(finding, remedy), planned.get(keyOf(remedy)), result),
          after: result?.after ?? null,
          steps: result?.steps ?? [],
        };
      }),
      snapshots: snapshots.map((finding): SnapshotRow => {
        const remedy = remedyFor(finding);
        const result = done.get(keyOf(remedy));
        return {
          ...snapshotRow(finding, remedy),
          ...fateOf(describe(finding, remedy), planned.get(keyOf(remedy)), result),
          steps: owned.has(keyOf(remedy)) ? [] : (result?.steps ?? []),
        };
      }),
    };
  });
}

/** What people are told of a finding and its remedy together. */
export interface Description {
  reason: string | null;
  error: ErrorInfo | null;
  commands: string[];
}

export function describe({ reason, error, notes }: Finding, remedy: Remedy): Description {
  return {
    reason: [reason, remedy.why, ...notes].filter(Boolean).join('; ') || null,
    error: remedy.kind === 'none' ? (remedy.error ?? error) : error,
    commands: remedy.kind === 'by-hand' ? remedy.commands : [],
  };
}

function fateOf(
  { reason, error }: Description,
  action: Action | undefined,
  result: ActionResult | undefined,
): Pick<ImageRow, 'reason' | 'error' | 'wave' | 'outcome'> {
  return {
    wave: action?.wave ?? null,
    outcome: result?.outcome ?? null,
    reason: result?.reason ?? reason,
    error: result?.error ?? action?.blocked ?? error,
  };
}

function imageRow(finding: ImageFinding, remedy: Remedy): Omit<ImageRow, 'after' | 'steps' | 'wave' | 'outcome'> {
  const { reference, image, tag, type, verdict, have, want } = finding;
  const plan = isChange(remedy) && remedy.kind !== 'restore' ? remedy.kind : null;
  return { reference, image, tag, type, verdict, have, want, plan, ...describe(finding, remedy) };
}

function snapshotRow(finding: SnapshotFinding, remedy: Remedy): Omit<SnapshotRow, 'steps' | 'wave' | 'outcome'> {
  const { snapshot, id, verdict, base, baseDigest, baseVerdict } = finding;
  const source = isChange(remedy) ? remedy.evidence.reference : null;
  // A base is pulled or imported: the row calls both a pull.
  const plan = isChange(remedy) ? (remedy.kind === 'import' ? 'pull' : remedy.kind) : null;
  return { snapshot, id, verdict, base, baseDigest, baseVerdict, source, plan, ...describe(finding, remedy) };
}
