/** Plain text in columns and lines. */
import { styleText } from 'node:util';
import CliTable from 'cli-table3';

/** Rows of one table; more are counted, not shown: people do not read them, and the table library slows down. */
const MAX_ROWS = 200;

export type Style = 'red' | 'yellow' | 'green' | 'bold';
export type Paint = (style: Style, text: string) => string;

/** Colours, or none. */
export function painter(color: boolean): Paint {
  return (style, text) => (color ? styleText(style, text, { validateStream: false }) : text);
}

/** Items with the same key, in the order of their first. */
export function groupBy<T>(items: T[], keyOf: (item: T) => unknown[]): [T, ...T[]][] {
  const groups = new Map<string, [T, ...T[]]>();
  for (const item of items) {
    const key = JSON.stringify(keyOf(item));
    const group = groups.get(key);
    if (group === undefined) groups.set(key, [item]);
    else group.push(item);
  }
  return [...groups.values()];
}

/** The first lines, and how many more there are. */
export function limited(lines: string[], max: number): string[] {
  return lines.length <= max
    ? lines
    : [...lines.slice(0, max), `… and ${lines.length - max} more (--verbose has each)`];
}

const NO_LINES = Object.fromEntries(
  ['top', 'bottom', 'left', 'right']
    .flatMap((side) => [side, `${side}-mid`, `${side}-left`, `${side}-right`])
    .concat('mid', 'mid-mid')
    .map((part) => [part, '']),
);

/** Columns with two spaces between them and no lines: it survives a mail, a ticket and `grep`. */
export function plainTable(head: string[], rows: string[][]): string {
  const cells = new CliTable({
    head,
    chars: { ...NO_LINES, middle: '  ' },
    style: { head: [], border: [], 'padding-left': 0, 'padding-right': 0 },
  });
  cells.push(...rows.slice(0, MAX_ROWS));
  const more = rows.length > MAX_ROWS ? `\n… and ${rows.length - MAX_ROWS} more rows (--output json has them all)` : '';
  return `${cells
    .toString()
    .split('\n')
    .map((line) => line.trimEnd())
    .join('\n')}${more}`;
}
