/** The nodes of a run: from the config, an inventory file and an inventory command, with defaults filled in. */
import { posix } from 'node:path';
import { fault, type ReconcileError } from '../core/errors.ts';
import { isAnsibleInventory, nodesOfAnsible } from '../core/ansible.ts';
import { array, object, optionalText, parseJson, ShapeError, text, type JsonObject } from '../core/json.ts';
import { expand } from '../core/nodeset.ts';
import type { NodeDefaults, NodeSpec } from '../core/model/settings.ts';
import { clip } from '../core/text.ts';
import type { Node } from '../core/model/node.ts';
import { addressProblem, canonicalHost } from '../ssh/address.ts';
import { runInventoryCommand, type CommandContext } from './inventory-command.ts';
import { loadTargets, type Targets } from '../ssh/targets.ts';

const MAX_NODES = 100_000;
/** Name, address, port, pool, user and root directory of each, and more. */
const MAX_VALUES = 1_500_000;
const POOL_LABEL = 'cocoonstack.io/pool';

/** Where nodes come from. All sources are united. */
export interface InventorySources {
  /** The list in the config itself. */
  nodes: NodeSpec[];
  file: string | null;
  command: string[] | null;
  /** Reads and validates the node list in a file. */
  loadFile: (file: string) => Promise<NodeSpec[]>;
  /** Validates a node list that a program printed; `source` names it in errors. */
  parseList: (value: unknown, source: string) => NodeSpec[];
}

/**
 * Every node of every source, ranges expanded, in the order of the sources.
 * @param around what the ssh config may name, and what ends the inventory command
 * @throws ReconcileError INVENTORY_EMPTY, INVENTORY_FAILED for a command that gives no list, CONFIG_INVALID for a name
 * or a machine given twice and for whatever the file holds
 */
export async function resolveInventory(
  sources: InventorySources,
  defaults: NodeDefaults,
  around: CommandContext & { env: Record<string, string | undefined> },
): Promise<Node[]> {
  const { file, command } = sources;
  const targets = await loadTargets(defaults.ssh, around.env);
  const lists = [{ source: 'the config (nodes)', specs: sources.nodes }];
  if (file !== null) lists.push({ source: file, specs: await sources.loadFile(file) });
  if (command !== null) {
    const source = `inventory.command (${command[0]})`; // arguments may hold secrets
    lists.push({
      source,
      specs: sources.parseList(parseNodeList(await runInventoryCommand(command, source, around), source), source),
    });
  }
  const named = new Map<string, Placed>();
  const machines = new Map<string, Placed>();
  for (const { source, specs } of lists) {
    for (const [i, spec] of specs.entries()) {
      const place = `item [${i}] of ${source}`;
      for (const node of expandNodes(spec, place, defaults, targets)) {
        const first = named.get(node.name);
        if (first !== undefined) throw refuseNameTwice(node.name, first.place, place);
        named.set(node.name, { node, place });
        const machine = machineOf(node);
        const same = machines.get(machine);
        if (same !== undefined) throw refuseMachineTwice(same, { node, place });
        machines.set(machine, { node, place });
      }
    }
  }
  if (named.size === 0) throw fault('INVENTORY_EMPTY', { filtered: false });
  return [...named.values()].map(({ node }) => node);
}

/** A node and where it is named. */
interface Placed {
  node: Node;
  place: string;
}

/**
 * What two nodes have in common only where they are one: the address, the port, the way there and the root directory.
 * Behind different jump hosts the same private address is another machine.
 */
function machineOf({ host, port, jumps = [], cocoon }: Node): string {
  const way = [...jumps, { host, port }].map((one) => [canonicalHost(one.host), one.port]);
  return JSON.stringify([...way, posix.normalize(cocoon.rootDir)]);
}

function refuseNameTwice(name: string, first: string, second: string): ReconcileError {
  return fault('CONFIG_INVALID', { problem: `the node ${name} is named twice: ${joinPlaces(first, second)}` });
}

function refuseMachineTwice(first: Placed, second: Placed): ReconcileError {
  const { host, port, cocoon } = second.node;
  const at = `${host} port ${port}, ${cocoon.rootDir}`;
  return fault('CONFIG_INVALID', {
    problem: `the nodes ${first.node.name} and ${second.node.name} are one machine (${at}): ${joinPlaces(first.place, second.place)}`,
    hint: 'keep one of the two; machines behind one address differ in port or proxyJump, stores on one machine in rootDir',
  });
}

function joinPlaces(first: string, second: string): string {
  return first === second ? `in ${first}` : `in ${first} and in ${second}`;
}

function expandNodes(spec: NodeSpec, place: string, defaults: NodeDefaults, targets: Targets): Node[] {
  const names = expand(spec.name);
  const hosts = spec.host === undefined ? names : expand(spec.host);
  if (hosts.length !== names.length) {
    throw fault('CONFIG_INVALID', { problem: `${place}: ${names.length} names but ${hosts.length} hosts` });
  }
  const sudo = spec.sudo ?? defaults.cocoon.sudo;
  return names.map((name, i) => {
    const { target, jumps } = targets.of(hosts[i] as string, { ...defaults.ssh, ...spec });
    const problem = addressProblem(target.host);
    if (problem !== null) throw fault('CONFIG_INVALID', { problem: `${place}: node ${name}: ${problem}` });
    return {
      name,
      ...target,
      pool: spec.pool ?? 'default',
      ...(jumps.length > 0 ? { jumps } : {}),
      cocoon: {
        binary: spec.binary ?? defaults.cocoon.binary,
        rootDir: spec.rootDir ?? defaults.cocoon.rootDir,
        runDir: spec.runDir ?? defaults.cocoon.runDir,
        logDir: spec.logDir ?? defaults.cocoon.logDir,
        sudo: sudo === 'auto' ? target.user !== 'root' : sudo,
      },
    };
  });
}

/** The list as printed; the items of a Kubernetes NodeList and the hosts of an Ansible inventory are turned into it. */
function parseNodeList(stdout: string, source: string): unknown {
  try {
    const printed = parseJson(stdout.replace(/^\ufeff/, ''), 'its output', MAX_VALUES);
    if (Array.isArray(printed)) return printed;
    const list = object(printed, 'its output');
    if (list['kind'] !== 'NodeList' && list['kind'] !== 'List') {
      if (isAnsibleInventory(list)) return nodesOfAnsible(list);
      throw new ShapeError('its output is neither a list of nodes, a Kubernetes NodeList nor an Ansible inventory');
    }
    return array(list['items'], 'items', MAX_NODES).map((item, i) =>
      parseKubernetesNode(object(item, `items[${i}]`), `items[${i}]`),
    );
  } catch (error) {
    if (error instanceof ShapeError)
      throw fault('INVENTORY_FAILED', { source, problem: clip(error.message, 400) }, error);
    throw error;
  }
}

/** A Kubernetes node → name, address (InternalIP, else Hostname) and pool. */
function parseKubernetesNode(item: JsonObject, where: string): NodeSpec {
  if ((item['kind'] ?? 'Node') !== 'Node') throw new ShapeError(`${where} is no Kubernetes node`);
  const metadata = object(item['metadata'], `${where}.metadata`);
  const name = text(metadata['name'], `${where}.metadata.name`);
  const labels = object(metadata['labels'] ?? {}, `${where}.metadata.labels`);
  const status = object(item['status'] ?? {}, `${where}.status`);
  const addresses = array(status['addresses'] ?? [], `${where}.status.addresses`, 100).map((address, i) =>
    object(address, `${where}.status.addresses[${i}]`),
  );
  const addressOf = (type: string): string | null =>
    optionalText(addresses.find((address) => address['type'] === type)?.['address'], `${where}: ${type}`);
  return {
    name,
    host: addressOf('InternalIP') ?? addressOf('Hostname') ?? name,
    pool: optionalText(labels[POOL_LABEL], `${where}: label ${POOL_LABEL}`) ?? 'default',
  };
}
