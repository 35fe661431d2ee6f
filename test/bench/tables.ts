// Medians, ratios and the text of the tables: plain data in, text out.

export interface Cost {
  wallMs: number;
  /** User and system time of the client and all its children. */
  cpuMs: number;
  peakBytes: number;
  /** What the nodes used meanwhile: the SSH server and all that it ran. */
  serverMs: number;
}

export interface Row {
  name: string;
  cost: Cost;
}

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  const upper = sorted[middle] ?? Number.NaN;
  return sorted.length % 2 === 1 ? upper : (upper + (sorted[middle - 1] ?? Number.NaN)) / 2;
}

/** The median of each figure by itself. */
export function medianCost(costs: readonly Cost[]): Cost {
  return {
    wallMs: median(costs.map((cost) => cost.wallMs)),
    cpuMs: median(costs.map((cost) => cost.cpuMs)),
    peakBytes: median(costs.map((cost) => cost.peakBytes)),
    serverMs: median(costs.map((cost) => cost.serverMs)),
  };
}

/** Every row with its figures, and each figure as a ratio to that of every base. */
export function costTable(rows: readonly Row[], bases: readonly Row[]): string {
  const head = [
    '',
    'wall s',
    'CPU s',
    'peak MB',
    ...bases.flatMap((_, i) => ['wall', 'CPU', 'MB'].map((figure) => `${figure} /${i + 1}`)),
    'server CPU s',
  ];
  const body = rows.map(({ name, cost }) => {
    const ratios = bases.flatMap(({ cost: base }) => [
      ratio(cost.wallMs, base.wallMs),
      ratio(cost.cpuMs, base.cpuMs),
      ratio(cost.peakBytes, base.peakBytes),
    ]);
    const mark = bases.findIndex((base) => base.name === name);
    return [
      mark < 0 ? name : `${name} (/${mark + 1})`,
      seconds(cost.wallMs),
      seconds(cost.cpuMs),
      megabytes(cost.peakBytes),
      ...ratios,
      seconds(cost.serverMs),
    ];
  });
  return aligned([head, ...body]);
}

/** The first column to the left, all others to the right. */
function aligned(lines: readonly string[][]): string {
  const widths = (lines[0] ?? []).map((_, column) => Math.max(...lines.map((line) => line[column]?.length ?? 0)));
  const pad = (cell: string, i: number) => (i === 0 ? cell.padEnd(widths[i] ?? 0) : cell.padStart(widths[i] ?? 0));
  return lines.map((line) => line.map(pad).join('  ').trimEnd()).join('\n');
}

export function seconds(ms: number): string {
  return (ms / 1000).toFixed(2);
}

function ratio(value: number, base: number): string {
  return (value / base).toFixed(3);
}

export function megabytes(bytes: number): string {
  return (bytes / 1e6).toFixed(0);
}

/** One target as a line: what was measured, the limit, and whether it is kept. */
export function targetLine(what: string, value: number, limit: number, show: (value: number) => string): string {
  return `${value <= limit ? 'met    ' : 'not met'}  ${what}: ${show(value)} (at most ${show(limit)})`;
}
