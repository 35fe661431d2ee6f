/** How a command answers: the result on stdout, and on stderr why it is no good one, where stdout is for machines. */
import { infoOf, ReconcileError } from '../core/errors.ts';
import { emptyReport } from '../core/report/report.ts';
import type { ErrorInfo } from '../core/model/error.ts';
import type { Report } from '../core/model/report.ts';
import { render, renderReasons } from '../reports/formats.ts';
import { intentOf } from './args/parse.ts';
import type { CommonOptions, RunOptions } from './args/commands.ts';
import { complain, wantsColor, type Io, type Tool } from './io.ts';
import { runId } from './setup.ts';

type Asked = Pick<CommonOptions, 'output' | 'color' | 'quiet' | 'verbose'> &
  Partial<Pick<RunOptions, 'images' | 'snapshots'>>;

/** The report of a run or a gate. */
export async function printReport(report: Report, asked: Asked, io: Io): Promise<void> {
  const { exitCode } = report.run;
  const { quiet, verbose } = asked;
  if (quiet && exitCode === 0) return;
  if (asked.output === 'table') {
    for (const info of complaintsOf(report)) complain(io, new ReconcileError(info));
    if (report.gate?.questions.length === 0) return;
  } else if (exitCode !== 0) {
    io.err(await renderReasons(report, wantsColor(asked.color, io, io.stderrIsTerminal)));
  }
  const color = wantsColor(asked.color, io, io.stdoutIsTerminal);
  const named = [...(asked.images ?? []), ...(asked.snapshots ?? [])].some((pattern) => !pattern.startsWith('!'));
  io.out(await render(asked.output, report, { color, verbose, brief: quiet, named }));
}

/** Manifests that were refused beyond these are in the report. */
const MAX_COMPLAINTS = 20;

/** What could not be done at all. Where nothing was judged, the table says it. */
function complaintsOf({ run, gate }: Report): ErrorInfo[] {
  const refused = (gate?.errors ?? []).map(({ error }) => error);
  const { error } = run;
  const isTold = error === null || error.code === 'NOTHING_JUDGED' || refused.includes(error);
  return [...(isTold ? [] : [error]), ...refused].slice(0, MAX_COMPLAINTS);
}

/** What a command that only looks says as JSON. */
export function printJson(io: Io, tool: Tool, error: Report['run']['error'], found: Record<string, unknown[]>): void {
  io.out(`${JSON.stringify({ schemaVersion: 1, tool, error, ...found }, null, 2)}\n`);
}

/**
 * What was thrown, in the format that was asked for, as far as that can be told.
 * @returns the exit code: 1, or that of the signal that ended the command
 */
export async function printFailure(error: unknown, argv: string[], io: Io, tool: Tool): Promise<number> {
  const info = infoOf(error);
  const { command, dryRun, output } = intentOf(argv);
  const startedAt = new Date(performance.timeOrigin);
  const report = emptyReport(
    {
      tool,
      run: {
        id: runId(startedAt),
        mode: command === 'gate' ? 'gate' : dryRun ? 'dry-run' : 'run',
        startedAt: startedAt.toISOString(),
        finishedAt: new Date().toISOString(),
        blobDepth: null,
      },
      signal: io.interruptedBy(),
    },
    info,
  );
  if (output === 'table' || (output === 'junit' && command !== 'gate')) complain(io, new ReconcileError(info));
  else if (command === 'run' || command === 'gate') {
    await printReport(report, { output, color: undefined, quiet: false, verbose: false }, io);
  } else {
    printJson(io, tool, info, command === 'digest' ? { desired: [] } : { nodes: [] });
    io.err(await renderReasons(report, false));
  }
  return report.run.exitCode;
}
