/** `reconcile merge`: the reports of all shards of a run as one. */
import { fault } from '../../core/errors.ts';
import { ShapeError } from '../../core/json.ts';
import type { Report } from '../../core/model/report.ts';
import { mergeReports, type Part } from '../../core/report/merge.ts';
import { parseReport } from '../../core/report/parse.ts';
import { readRegularFile } from '../../system/file.ts';
import type { MergeOptions } from '../args/options.ts';
import type { Io, Tool } from '../io.ts';
import { reportFrom } from '../reporting.ts';

/** Of one shard: what Node.js can hold as one text is twice as much. */
const MAX_REPORT_BYTES = 2 ** 28;

/** Joins the reports, prints the one of the whole run, and returns its exit code. Speaks to nobody. */
export async function mergeCommand(options: MergeOptions, io: Io, tool: Tool): Promise<number> {
  return await reportFrom(options, io, tool, async () => {
    const parts: Part[] = [];
    for (const source of options.reports) parts.push({ source, report: await readReport(source) });
    io.stop.throwIfAborted();
    return mergeReports(parts);
  });
}

async function readReport(source: string): Promise<Report> {
  const read = await readRegularFile(source, MAX_REPORT_BYTES);
  if ('problem' in read) throw fault('MERGE_REFUSED', { problem: `${source} ${read.problem}` });
  try {
    return parseReport(read.bytes.toString('utf8'));
  } catch (error) {
    if (!(error instanceof ShapeError)) throw error;
    throw fault('MERGE_REFUSED', { problem: `${source} is no report of reconcile: ${error.message}` }, error);
  }
}
