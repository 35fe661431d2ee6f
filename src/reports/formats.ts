/** The formats: each is a function of the report alone, loaded when asked for. */
import type { Report } from '../core/model/report.ts';
import type { RenderOptions } from './options.ts';

export const FORMATS = ['table', 'json', 'junit', 'markdown'] as const;
export type Format = (typeof FORMATS)[number];

const renderers: Record<Format, () => Promise<(report: Report, options: RenderOptions) => string>> = {
  table: async () => {
    const [{ renderTable }, { renderGate }] = await Promise.all([import('./table.ts'), import('./gate.ts')]);
    return (report, options) => (report.gate === null ? renderTable : renderGate)(report, options);
  },
  json: async () => (await import('./json.ts')).renderJson,
  junit: async () => (await import('./junit.ts')).renderJunit,
  markdown: async () => (await import('./markdown.ts')).renderMarkdown,
};

/** Report → text that ends with a newline. */
export async function render(format: Format, report: Report, options: RenderOptions): Promise<string> {
  return (await renderers[format]())(report, options);
}

/** Why a report's exit code is not 0: what is wrong and what to do, the verdict last. */
export async function renderReasons(report: Report, color: boolean): Promise<string> {
  if (report.run.mode === 'gate') return (await import('./gate.ts')).renderGateReasons(report, color);
  return (await import('./table.ts')).renderTableReasons(report, color);
}
