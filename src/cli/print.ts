/** How a command answers: the result on stdout, and on stderr why it is no good one, where stdout is for machines. */
import { ReconcileError } from '../core/errors.ts';
import { EXIT_CODES } from '../core/model/exit-codes.ts';
import { isAnyNamed } from '../core/plan/select.ts';
import { printableJson } from '../core/text.ts';
import type { ErrorInfo } from '../core/model/error.ts';
import type { Report } from '../core/model/report.ts';
import { redact } from '../system/secrets.ts';
import { renderAnnotations, withoutCommands } from '../reports/annotations.ts';
import { render, renderReasons } from '../reports/formats.ts';
import type { GateOptions, RunOptions } from './args/options.ts';
import { complain, wantsColor, type Io, type Tool } from './io.ts';

/** How a report is wanted; `images` and `snapshots` are the filters that it was asked for. */
export type Asked = Pick<GateOptions, 'output' | 'color' | 'quiet' | 'verbose'> &
  Partial<Pick<RunOptions, 'images' | 'snapshots'>>;

/** The report of a run or a gate. */
export async function printReport(report: Report, asked: Asked, io: Io): Promise<void> {
  const { exitCode } = report.run;
  const { quiet, verbose } = asked;
  if (quiet && exitCode === EXIT_CODES.OK.code) return;
  const shown = redact(report);
  if (isGitHub(io)) io.err(renderAnnotations(shown));
  if (asked.output === 'table') {
    for (const info of complaintsOf(report)) complain(io, new ReconcileError(info));
    if (report.gate?.questions.length === 0) return;
  } else if (exitCode !== EXIT_CODES.OK.code) {
    io.err(inPipeline(io, await renderReasons(shown, wantsColor(asked.color, io, io.stderrIsTerminal))));
  }
  const color = wantsColor(asked.color, io, io.stdoutIsTerminal);
  const named = isAnyNamed({ images: asked.images ?? [], snapshots: asked.snapshots ?? [] });
  const text = await render(asked.output, shown, { color, verbose, brief: quiet, named });
  io.out(asked.output === 'table' ? inPipeline(io, text) : text);
}

function isGitHub({ env }: Io): boolean {
  return env['GITHUB_ACTIONS'] === 'true';
}

/** Text for people, of which a pipeline of GitHub carries out no line. */
function inPipeline(io: Io, text: string): string {
  return isGitHub(io) ? withoutCommands(text) : text;
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
  io.out(printableJson(redact({ schemaVersion: 1, tool, error, ...found })));
}
