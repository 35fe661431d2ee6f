/** The reports of all shards of a run → the report of the run. */
import { fault, type ReconcileError } from '../errors.ts';
import { EXIT_CODES, type Signal } from '../model/exit-codes.ts';
import type { ErrorInfo } from '../model/error.ts';
import type { ImageRow, NodeReport, Report, SnapshotRow } from '../model/report.ts';
import { fold } from '../nodeset.ts';
import { parseShard, shardName, shardsFor, type Shard } from '../shard/shard.ts';
import { exitCode } from './exit-code.ts';
import { isJudged } from './judged.ts';

/** A report and where it came from, for people. */
export interface Part {
  source: string;
  report: Report;
}

/** A part, and which one it is. */
interface Placed extends Part {
  shard: Shard;
}

/**
 * One report of the same schema and by the same rules as if one process had read all nodes; they are in the order of their
 * names.
 * @throws ReconcileError MERGE_REFUSED where the parts are not exactly those of one run
 */
export function mergeReports(parts: Part[]): Report {
  const placed = parts.map(place).sort((a, b) => a.shard.index - b.shard.index);
  const [first] = placed;
  if (first === undefined) throw refuse('there is none');
  refuseOthers(placed, first);
  refuseMissing(placed, first.shard.count);
  const nodes = withCanaries(placed).sort((a, b) => compareNames(a.name, b.name));
  refuseTwice(placed);
  const reports = placed.map(({ report }) => report);
  const error = errorOf(placed, nodes);
  const signal = signalOf(reports);
  const { config: _config, ...run } = first.report.run;
  return {
    ...first.report,
    run: {
      ...run,
      startedAt: least(reports.map(({ run: { startedAt } }) => startedAt)),
      finishedAt: most(reports.map(({ run: { finishedAt } }) => finishedAt)),
      exitCode:
        signal === null && reports.some(isLocked) ? EXIT_CODES.LOCKED.code : exitCode(signal, error, nodes, null),
      error,
      shard: null,
    },
    desired: joined(
      reports.map(({ desired }) => desired),
      ({ image, tag, platform, reference }) => JSON.stringify([image, tag, platform, reference]),
    ),
    snapshots: joined(
      reports.map(({ snapshots }) => snapshots),
      ({ snapshot }) => snapshot,
    ),
    nodes,
    summary: reports.map(({ summary }) => summary).reduce((a, b) => sum(a, b) as Report['summary']),
  };
}

function refuse(problem: string, hint?: string): ReconcileError {
  return fault('MERGE_REFUSED', hint === undefined ? { problem } : { problem, hint });
}

// ------------------------------------------------------------------------------------------ what belongs together

function place({ source, report }: Part): Placed {
  const { shard, mode, error } = report.run;
  if (mode === 'gate' || report.gate !== null) throw refuse(`${source} is the report of a gate`);
  if (shard === null && error !== null)
    throw refuse(`${source} is of a run that could not begin: ${error.code}: ${error.message}`, error.hint);
  if (shard === null) throw refuse(`${source} is the report of a whole fleet and not of a shard`);
  const parsed = parseShard(shard);
  if (parsed === null) throw refuse(`${source} names the shard "${shard}", and there is none such`);
  return { source, report, shard: parsed };
}

/** What all parts of one whole have in common, each with the words for a part in which it is another. */
const COMMON: { of: (part: Placed) => unknown; differs: (part: Placed, first: Placed) => string; hint?: string }[] = [
  {
    of: ({ shard }) => shard.count,
    differs: (part, first) =>
      `${part.source} is one of ${part.shard.count} shards, ${first.source} of ${first.shard.count}`,
  },
  {
    of: ({ report }) => report.run.mode,
    differs: (part, first) =>
      `${part.source} is of a ${part.report.run.mode}, ${first.source} of a ${first.report.run.mode}`,
  },
  {
    of: ({ report }) => report.run.id,
    differs: (part, first) =>
      `${part.source} is of the run ${part.report.run.id}, ${first.source} of the run ${first.report.run.id}`,
    hint: 'shards are of one run where they share run.sharedDir, or are started with the same RECONCILE_RUN',
  },
  {
    of: ({ report }) => report.run.config,
    differs: (part, first) => `${part.source} was made with another config or other options than ${first.source}`,
  },
  {
    of: ({ report }) => report.tool.version,
    differs: (part, first) =>
      `${part.source} is of version ${part.report.tool.version}, ${first.source} of ${first.report.tool.version}`,
  },
];

function refuseOthers(placed: Placed[], first: Placed): void {
  for (const { of, differs, hint } of COMMON) {
    const other = placed.find((part) => of(part) !== of(first));
    if (other !== undefined) throw refuse(differs(other, first), hint);
  }
}

function refuseMissing(placed: Placed[], count: number): void {
  const sources = new Map<number, string>();
  for (const { source, shard } of placed) {
    const same = sources.get(shard.index);
    if (same !== undefined) throw refuse(`${same} and ${source} are both the shard ${shardName(shard)}`);
    sources.set(shard.index, source);
  }
  const missing = Array.from({ length: count }, (_, index) => index).filter((index) => !sources.has(index));
  if (missing.length === 0) return;
  const shown = fold(missing.map(String)).replace(/^\[|\]$/g, '');
  const what =
    missing.length === 1 ? `the shard ${shown} of ${count} is missing` : `the shards ${shown} of ${count} are missing`;
  throw refuse(what, 'a shard without a report judged no node that anybody knows of: run it again');
}

function refuseTwice(placed: Placed[]): void {
  const owners = new Map<string, string>();
  for (const { source, report } of placed) {
    for (const { name } of report.nodes) {
      const owner = owners.get(name);
      if (owner !== undefined) throw refuse(`the node ${name} is in ${owner} and in ${source}`);
      owners.set(name, source);
    }
  }
}

// --------------------------------------------------------------------------------------------- what comes of them

/** Another run had the lock: nothing was done there. */
function isLocked({ run }: Report): boolean {
  return run.exitCode === EXIT_CODES.LOCKED.code;
}

function signalOf(reports: Report[]): Signal | null {
  const signals = ['SIGHUP', 'SIGINT', 'SIGTERM'] as const;
  return signals.find((signal) => reports.some(({ run }) => run.exitCode === EXIT_CODES[signal].code)) ?? null;
}

/** Why the run could not be done, by the first shard that could not; that nothing was judged only where that holds of all. */
function errorOf(placed: Placed[], nodes: NodeReport[]): ErrorInfo | null {
  const failed = placed.filter(({ report }) => report.run.error !== null);
  const hard = failed.find(({ report }) => report.run.error?.code !== 'NOTHING_JUDGED');
  if (hard !== undefined) {
    const { code, message, hint } = hard.report.run.error as ErrorInfo;
    return { code, message: `shard ${shardName(hard.shard)}: ${message}`, hint };
  }
  const isAnyJudged = nodes.some(
    (node) => node.status === 'observed' && [...node.images, ...node.snapshots].some(isJudged),
  );
  return isAnyJudged ? null : (failed[0]?.report.run.error ?? null);
}

/** Each thing once, in the order of the first that has it; one that could be asked for wins. */
function joined<T extends { error: ErrorInfo | null }>(lists: T[][], keyOf: (item: T) => string): T[] {
  const found = new Map<string, T>();
  for (const item of lists.flat()) {
    const known = found.get(keyOf(item));
    if (known === undefined || (known.error !== null && item.error === null)) found.set(keyOf(item), item);
  }
  return [...found.values()];
}

/**
 * A shard that only plans names canaries of its own. Of the whole fleet an image has them where a run has them: in the shards
 * that come first for it.
 */
function withCanaries(placed: Placed[]): NodeReport[] {
  if (placed.some(({ report }) => report.run.mode !== 'dry-run')) return placed.flatMap(({ report }) => report.nodes);
  const canaries = new Map<string, Map<number, number>>();
  for (const { report, shard } of placed) {
    for (const row of report.nodes.flatMap(rowsOf).filter(({ wave }) => wave === 0)) {
      const shards = canaries.get(sourceOf(row)) ?? new Map<number, number>();
      canaries.set(sourceOf(row), shards.set(shard.index, (shards.get(shard.index) ?? 0) + 1));
    }
  }
  const first = new Map(
    [...canaries].map(([source, shards]) => [source, shardsFor(source, placed.length).find((one) => shards.has(one))]),
  );
  const moved = <R extends ImageRow | SnapshotRow>(row: R, { index }: Shard): R =>
    row.wave === 0 && first.get(sourceOf(row)) !== index ? { ...row, wave: 1 } : row;
  return placed.flatMap(({ report, shard }) =>
    report.nodes.map((node) => ({
      ...node,
      images: node.images.map((row) => moved(row, shard)),
      snapshots: node.snapshots.map((row) => moved(row, shard)),
    })),
  );
}

function rowsOf({ images, snapshots }: NodeReport): (ImageRow | SnapshotRow)[] {
  return [...images, ...snapshots];
}

/** What an action pulls. */
function sourceOf(row: ImageRow | SnapshotRow): string {
  return 'snapshot' in row ? (row.source ?? '') : row.reference;
}

/** Numbers added, in all fields that either has. */
function sum(a: unknown, b: unknown): unknown {
  if (typeof a === 'number' || typeof b === 'number') return Number(a ?? 0) + Number(b ?? 0);
  if (typeof a !== 'object' || typeof b !== 'object' || a === null || b === null) return a ?? b;
  const [left, right] = [a as Record<string, unknown>, b as Record<string, unknown>];
  return Object.fromEntries(
    [...new Set([...Object.keys(left), ...Object.keys(right)])].map((key) => [key, sum(left[key], right[key])]),
  );
}

/** Numbers in names by their value: node-2 before node-10. */
const collator = new Intl.Collator('en', { numeric: true });

function compareNames(a: string, b: string): number {
  return collator.compare(a, b) || (a < b ? -1 : 1);
}

function least(times: string[]): string {
  return times.reduce((a, b) => (Date.parse(b) < Date.parse(a) ? b : a));
}

function most(times: string[]): string {
  return times.reduce((a, b) => (Date.parse(b) > Date.parse(a) ? b : a));
}
