/** `reconcile nodes`: the inventory as resolved. */
import { EXIT_CODES } from '../../core/model/exit-codes.ts';
import { clip } from '../../core/text.ts';
import { plainTable } from '../../reports/layout.ts';
import type { NodesOptions } from '../args/options.ts';
import type { Io, Tool } from '../io.ts';
import { printJson } from '../print.ts';
import { loadNodes, loadSettings } from '../setup.ts';
import { membersOf } from '../../core/shard/shard.ts';
import { shardAsked } from '../shard.ts';

/** Prints the inventory after filters; contacts no node. */
export async function nodesCommand(options: NodesOptions, io: Io, tool: Tool): Promise<number> {
  const configured = await loadSettings(options, io);
  const whole = await loadNodes(configured, options.nodes, io);
  const shard = shardAsked(options.shard, io);
  const nodes = (shard === null ? whole : membersOf(whole, shard)).map(({ name, host, port, user, pool }) => ({
    name,
    host,
    port,
    user,
    pool,
  }));
  if (options.quiet) return EXIT_CODES.OK.code;
  if (options.output === 'json') printJson(io, tool, null, { nodes });
  else {
    const rows = nodes.map(({ name, host, port, user, pool }) =>
      [name, host, String(port), user, pool].map((cell) => clip(cell, 100)),
    );
    io.out(`${plainTable(['NODE', 'HOST', 'PORT', 'USER', 'POOL'], rows)}\n`);
  }
  return EXIT_CODES.OK.code;
}
