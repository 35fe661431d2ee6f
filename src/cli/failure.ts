/** How a command answers that could not be done at all. */
import { infoOf, ReconcileError } from '../core/errors.ts';
import { emptyReport } from '../core/report/report.ts';
import { renderReasons } from '../reports/formats.ts';
import { intentOf } from './args/parse.ts';
import { complain, type Io, type Tool } from './io.ts';
import { printJson, printReport } from './print.ts';
import { runId } from './setup.ts';

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
  const isOfReport = command === 'run' || command === 'gate' || command === 'merge';
  if (output === 'table' || (output === 'junit' && command !== 'gate') || (output === 'markdown' && !isOfReport))
    complain(io, new ReconcileError(info));
  else if (isOfReport) {
    await printReport(report, { output, color: undefined, quiet: false, verbose: false }, io);
  } else {
    printJson(io, tool, info, command === 'digest' ? { desired: [] } : { nodes: [] });
    io.err(await renderReasons(report, false));
  }
  return report.run.exitCode;
}
