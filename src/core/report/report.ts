/** The report: assembled from plain values, summarised, and turned into the exit code. */
import { leftoverRows } from '../plan/leftovers.ts';
import type { Signal } from '../model/exit-codes.ts';
import { exitCode } from './exit-code.ts';
import type { Desired, DesiredImage, DesiredSnapshot } from '../model/desired.ts';
import type { ErrorInfo } from '../model/error.ts';
import type { Gate } from '../model/gate.ts';
import type { Observation } from '../model/observed.ts';
import type { Action } from '../model/plan.ts';
import type { NodeReport, NodeRows, Report, RunMode } from '../model/report.ts';
import type { TidyResult } from '../model/result.ts';
import { IMAGE_VERDICTS, SNAPSHOT_VERDICTS, type BlobDepth } from '../model/verdict.ts';

/** What a report is made of. Rows are in the order of the observations. */
export interface Parts {
  tool: { name: string; version: string };
  run: {
    id: string;
    mode: RunMode;
    startedAt: string;
    finishedAt: string;
    blobDepth: BlobDepth | null;
    shard?: string;
    config?: string;
  };
  error: ErrorInfo | null;
  signal: Signal | null;
  desired: DesiredImage[];
  snapshots: DesiredSnapshot[];
  observations: Observation[];
  rows: NodeRows[];
  actions: Action[];
  tidied: TidyResult[];
}

/** The report of a command that could not begin. */
export function emptyReport(
  begun: Pick<Parts, 'tool' | 'run' | 'signal'>,
  error: ErrorInfo,
  gate: Gate | null = null,
): Report {
  const nothing = {
    ...begun,
    error,
    desired: [],
    snapshots: [],
    observations: [],
    rows: [],
    actions: [],
    tidied: [],
  };
  return assemble(nothing, gate);
}

/** Parts → report. With a gate it is the gate's answers that decide, and no verdict. */
export function assemble(parts: Parts, gate: Gate | null = null): Report {
  const nodes = parts.observations.map((observation, i) => nodeReport(observation, parts.rows[i], parts.tidied));
  const summary = summarise(nodes, parts.actions);
  const run = { ...parts.run, error: parts.error, shard: parts.run.shard ?? null };
  return {
    schemaVersion: 1,
    tool: parts.tool,
    run: { ...run, exitCode: exitCode(parts.signal, parts.error, nodes, gate) },
    desired: parts.desired.map(publicDesired),
    snapshots: parts.snapshots.map(({ snapshot, base, baseDigest, error }) => ({ snapshot, base, baseDigest, error })),
    nodes,
    gate,
    summary,
  };
}

/** A desired image as the report and `digest` show it. */
export function publicDesired(image: DesiredImage): Desired {
  const { image: name, tag, platform, reference, kind, manifestDigest, contentDigest, contentDigestSource } = image;
  const { sizeBytes, error } = image;
  return {
    image: name,
    tag,
    platform,
    reference,
    kind,
    manifestDigest,
    contentDigest,
    contentDigestSource,
    sizeBytes,
    error,
  };
}

function nodeReport(observation: Observation, rows: NodeRows | undefined, tidied: TidyResult[]): NodeReport {
  const { node, status, observed, error, durationMs } = observation;
  return {
    name: node.name,
    host: node.host,
    pool: node.pool,
    status,
    error,
    cocoonVersion: observed?.cocoonVersion ?? null,
    indexSource: observed?.indexSource ?? null,
    freeBytes: observed?.freeBytes ?? null,
    durationMs,
    notes: observed?.notes ?? [],
    leftovers: leftoverRows(observation, tidied),
    images: rows?.images ?? [],
    snapshots: rows?.snapshots ?? [],
  };
}

function summarise(nodes: NodeReport[], actions: Action[]): Report['summary'] {
  const status = (wanted: string): number => nodes.filter((node) => node.status === wanted).length;
  const images = nodes.flatMap((node) => node.images);
  const snapshots = nodes.flatMap((node) => node.snapshots);
  const outcomes = outcomesOf(nodes);
  const outcome = (wanted: string): number => outcomes.filter((o) => o === wanted).length;
  return {
    nodes: {
      total: nodes.length,
      observed: status('observed'),
      unreachable: status('unreachable'),
      unreadable: status('unreadable'),
    },
    images: tally(IMAGE_VERDICTS, images),
    snapshots: tally(SNAPSHOT_VERDICTS, snapshots),
    actions: {
      planned: actions.length,
      healed: outcome('healed'),
      superseded: outcome('superseded'),
      failed: outcome('failed'),
      skipped: outcome('skipped'),
    },
  };
}

/** One outcome per action: that of the image, or of the first snapshot where no image row asked for the pull. */
function outcomesOf(nodes: NodeReport[]): string[] {
  return nodes.flatMap(({ images, snapshots }) => {
    const byReference = new Map<string | null, string>();
    for (const row of snapshots) if (row.outcome !== null) byReference.set(row.source, row.outcome);
    for (const row of images) if (row.outcome !== null) byReference.set(row.reference, row.outcome);
    return [...byReference.values()];
  });
}

function tally<V extends string>(verdicts: readonly V[], rows: { verdict: V }[]): Record<V, number> {
  const counts = Object.fromEntries(verdicts.map((verdict) => [verdict, 0])) as Record<V, number>;
  for (const row of rows) counts[row.verdict] += 1;
  return counts;
}
