/** The report as it is: `config/report.schema.json` describes it. */
import type { Report } from '../core/model/report.ts';

export function renderJson(report: Report): string {
  return `${JSON.stringify(report, null, 2)}\n`;
}
