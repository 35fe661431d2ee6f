/** The report as it is: `config/report.schema.json` describes it. */
import type { Report } from '../core/model/report.ts';
import { printableJson } from '../core/text.ts';

export function renderJson(report: Report): string {
  return printableJson(report);
}
