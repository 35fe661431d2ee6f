// Judging, planning and reporting of plain values, as a run does it.
import { judgeImages as imageFindings } from '../../src/core/judge/images.ts';
import { judgeSnapshots as snapshotFindings } from '../../src/core/judge/snapshots.ts';
import type { NodeFindings } from '../../src/core/model/finding.ts';
import type { Observation } from '../../src/core/model/observed.ts';
import type { Action, Policy } from '../../src/core/model/plan.ts';
import type { ImageRow, NodeRows, SnapshotRow } from '../../src/core/model/report.ts';
import type { ActionResult } from '../../src/core/model/result.ts';
import { planActions } from '../../src/core/plan/actions.ts';
import { remediesUnder, type RemedyFor } from '../../src/core/plan/remedy.ts';
import { reportRows } from '../../src/core/report/rows.ts';
import { catalogOf, hot, scopeOf, type Given, type Hot } from './facts.ts';

export const POLICY: Omit<Policy, 'repair'> = {
  canary: 1,
  maxPulls: 4,
  maxFailures: { value: 10, percent: true },
  pullTimeoutMs: 1000,
  pullRetries: 1,
  minFreeBytes: 5e9,
  bandwidth: null,
  lockTimeoutMs: 0,
  minAgeMs: 0,
  graceMs: 0,
  clone: 'files',
  vm: { snapshot: null, timeoutMs: 1000, nodes: 'canary', extraArgs: [] },
};

/** What is the case on each node. */
export function findings(at: Given, of: Hot, fleet: Observation[]): NodeFindings[] {
  const [catalog, scope] = [catalogOf(at, of), scopeOf(at, of)];
  return fleet.map((seen) => ({
    node: seen.node.name,
    images: imageFindings(catalog, scope, seen),
    snapshots: snapshotFindings(catalog, scope, seen),
  }));
}

export function remedies({ repair, addresses }: Given, fleet: Observation[]): RemedyFor {
  return remediesUnder(
    repair,
    addresses[0],
    fleet.map(({ node }) => node),
  );
}

export function plan(at: Given, of: Hot, fleet: Observation[], policy: Partial<Policy> = {}): Action[] {
  return planActions({
    findings: findings(at, of, fleet),
    observations: fleet,
    scope: scopeOf(at, of),
    policy: { ...POLICY, repair: at.repair, ...policy },
    remedyFor: remedies(at, fleet),
    runId: 'run-1',
  });
}

/** The rows of a report, before anything is planned or after that was done. */
export function rows(
  at: Given,
  of: Hot,
  fleet: Observation[],
  done: { actions?: Action[]; results?: ActionResult[] } = {},
): NodeRows[] {
  return reportRows(findings(at, of, fleet), remedies(at, fleet), done);
}

export function judgeImages(at: Given, seen: Observation): ImageRow[] {
  return rows(at, hot(), [seen])[0]?.images ?? [];
}

export function judgeSnapshots(at: Given, of: Hot, seen: Observation): SnapshotRow[] {
  return rows(at, of, [seen])[0]?.snapshots ?? [];
}
