// The table of `scripts/bench --simulate`: what fleets of several sizes cost where the network costs nothing.
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { targetLine } from './tables.ts';

interface Simulated {
  nodes: number;
  seconds: number;
  peakMb: number;
  requests: number;
}

/** At 100,000 nodes in sync, and of the time per node at the smallest size. */
const MAX_MB = 400;
const MAX_GROWTH = 1.3;

/** One process per size, so that none is warm from another. */
export function simulate(sizes: string, say: (text: string) => void): void {
  const counts = sizes.split(',').map(Number);
  if (counts.some((count) => !Number.isInteger(count) || count < 1))
    throw new Error(`--simulate ${sizes}: numbers with commas between them`);
  say('  nodes  seconds  per 10,000  peak MB  per 10,000  requests to epoch');
  const rows = counts.map((count) => {
    const script = fileURLToPath(new URL('./simulate.js', import.meta.url));
    const { status, stdout, stderr } = spawnSync(process.execPath, [script, String(count)], { encoding: 'utf8' });
    if (status !== 0) throw new Error(`${count} nodes: ${stderr.trim().split('\n').slice(-8).join('\n')}`);
    const row = JSON.parse(stdout) as Simulated;
    const per = 10_000 / count;
    const cells = [
      String(count).padStart(7),
      row.seconds.toFixed(2).padStart(8),
      (row.seconds * per).toFixed(2).padStart(11),
      row.peakMb.toFixed(0).padStart(8),
      (row.peakMb * per).toFixed(0).padStart(11),
      String(row.requests).padStart(18),
    ];
    say(cells.join(' '));
    return row;
  });
  const [first, last] = [rows[0], rows.at(-1)];
  if (first === undefined || last === undefined || first === last) return;
  const growth = last.seconds / last.nodes / (first.seconds / first.nodes);
  say(
    targetLine(`time per node at ${last.nodes} nodes, as a ratio to that at ${first.nodes}`, growth, MAX_GROWTH, (x) =>
      x.toFixed(2),
    ),
  );
  if (last.nodes >= 100_000)
    say(targetLine(`peak MB at ${last.nodes} nodes`, last.peakMb, MAX_MB, (x) => x.toFixed(0)));
}
