/** Config, environment and flags → settings, nodes and clients. Heavy libraries are loaded here, not at start-up. */
import { select } from '../core/nodeset.ts';
import { fault } from '../core/errors.ts';
import type { Settings } from '../core/settings.ts';
import type { Node } from '../core/types.ts';
import type { Registry } from '../adapters/registry.ts';
import type { CommonOptions } from './args.ts';
import type { Io } from './io.ts';

export interface Configured {
  file: string;
  settings: Settings;
}

/** @throws ReconcileError CONFIG_INVALID */
export async function loadSettings(options: CommonOptions, io: Io): Promise<Configured> {
  const { findConfig, loadConfig } = await import('../config/load.ts');
  const file = await findConfig(options.config, io.env, io.home);
  return { file, settings: await loadConfig(file, io.env) };
}

/**
 * The inventory after the `--node` filters.
 * @throws ReconcileError CONFIG_INVALID, INVENTORY_FAILED, INVENTORY_EMPTY, FILTER_EMPTY
 */
export async function loadNodes({ file, settings }: Configured, patterns: string[], io: Io): Promise<Node[]> {
  const { resolveInventory } = await import('../adapters/inventory.ts');
  const { loadNodeList, parseNodeList } = await import('../config/load.ts');
  const nodes = await resolveInventory(
    {
      nodes: settings.nodes,
      ...settings.inventory,
      loadFile: async (list) => await loadNodeList(list, io.env),
      parseList: (value, source) => parseNodeList(value, source, file, io.env),
    },
    { ssh: settings.ssh, cocoon: settings.cocoon },
  );
  const { selected, unmatched } = select(nodes, patterns);
  if (unmatched !== null) {
    throw fault('FILTER_EMPTY', {
      option: '--node',
      value: unmatched,
      near: nodes.slice(0, 5).map(({ name }) => name),
    });
  }
  if (selected.length === 0) throw fault('INVENTORY_EMPTY', { filtered: true });
  return selected;
}

export async function openRegistry({ epoch }: Settings): Promise<Registry> {
  const { createRegistry } = await import('../adapters/registry.ts');
  return createRegistry({ ...epoch, credentials: null });
}
