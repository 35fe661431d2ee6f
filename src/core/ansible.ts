/**
 * An inventory of Ansible in its JSON form (what `ansible-inventory --list` and inventory scripts print) → the items of a node
 * list. The group of a host is its pool.
 */
import { array, object, optionalText, ShapeError, text, type JsonObject } from './json.ts';

const MAX_HOSTS = 100_000;
const MAX_GROUPS = 10_000;

/** A host variable that names the pool, for a host of several groups. */
const POOL = 'cocoon_pool';
const NO_POOL = new Set(['all', 'ungrouped']);

/** Which variables mean what here; the first that is set counts. */
const VARIABLES = {
  host: ['ansible_host', 'ansible_ssh_host'],
  user: ['ansible_user', 'ansible_ssh_user'],
  identityFile: ['ansible_ssh_private_key_file', 'ansible_private_key_file'],
} as const;
const PORT = ['ansible_port', 'ansible_ssh_port'];

export function isAnsibleInventory(value: unknown): value is JsonObject {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return false;
  const isGroup = (group: unknown): boolean =>
    typeof group === 'object' && group !== null && ('hosts' in group || 'children' in group);
  return '_meta' in value || Object.values(value).some(isGroup);
}

/** A group: its hosts as written, ranges too, and the groups below it. */
interface Group {
  hosts: string[];
  children: string[];
  vars: JsonObject;
}

/**
 * The items of a node list: name, and what the variables of the host and its groups say of address, port, user and key.
 * @throws ShapeError for what is no such inventory, and for a host of several groups of which no variable says the pool
 */
export function nodesOfAnsible(inventory: JsonObject): JsonObject[] {
  const hostvars = object(object(inventory['_meta'] ?? {}, '_meta')['hostvars'] ?? {}, '_meta.hostvars');
  const groups = groupsOf(inventory);
  const vars = varsOf(groups);
  const places = new Map<string, string[]>();
  for (const [name, { hosts }] of groups) {
    for (const host of hosts) places.set(host, [...(places.get(host) ?? []), name]);
    if (places.size > MAX_HOSTS) throw new ShapeError(`the inventory has more than ${MAX_HOSTS} hosts`);
  }
  return [...places].map(([host, inGroups]) => {
    const own = object(hostvars[host] ?? {}, `_meta.hostvars.${host}`);
    const all = { ...Object.assign({}, ...inGroups.map((group) => vars.get(group))), ...own } as JsonObject;
    return itemOf(host, inGroups, all);
  });
}

function groupsOf(inventory: JsonObject): Map<string, Group> {
  const names = Object.keys(inventory).filter((name) => name !== '_meta');
  if (names.length > MAX_GROUPS) throw new ShapeError(`the inventory has more than ${MAX_GROUPS} groups`);
  return new Map(names.map((name) => [name, groupOf(inventory[name], name)]));
}

/** A group may be written as the list of its hosts alone. */
function groupOf(value: unknown, name: string): Group {
  const group = Array.isArray(value) ? { hosts: value } : object(value, name);
  const names = (key: string, max: number): string[] =>
    array(group[key] ?? [], `${name}.${key}`, max).map((one, i) => text(one, `${name}.${key}[${i}]`));
  const hosts = names('hosts', MAX_HOSTS);
  return { hosts, children: names('children', MAX_GROUPS), vars: object(group['vars'] ?? {}, `${name}.vars`) };
}

/** The variables of each group: its own over those of the groups that it is in, over those of `all`. */
function varsOf(groups: Map<string, Group>): Map<string, JsonObject> {
  const parents = new Map<string, string[]>();
  for (const [name, { children }] of groups)
    for (const child of children) parents.set(child, [...(parents.get(child) ?? []), name]);
  const everywhere = groups.get('all')?.vars ?? {};
  const known = new Map<string, JsonObject>();
  const resolve = (name: string, below: readonly string[]): JsonObject => {
    const found = known.get(name);
    if (found !== undefined) return found;
    if (below.includes(name)) throw new ShapeError(`the group ${name} is in itself`);
    const above = (parents.get(name) ?? []).map((parent) => resolve(parent, [...below, name]));
    const vars = { ...everywhere, ...Object.assign({}, ...above), ...groups.get(name)?.vars } as JsonObject;
    known.set(name, vars);
    return vars;
  };
  for (const name of groups.keys()) resolve(name, []);
  return known;
}

function itemOf(name: string, inGroups: string[], vars: JsonObject): JsonObject {
  const pools = inGroups.filter((group) => !NO_POOL.has(group));
  const said = optionalText(vars[POOL], `${name}: ${POOL}`);
  if (said === null && pools.length > 1) {
    const named = pools.slice(0, 5).join(', ');
    throw new ShapeError(`${name} is in several groups (${named}): its variable ${POOL} has to say which is its pool`);
  }
  const item: JsonObject = { name, pool: said ?? pools[0] ?? 'default' };
  for (const [key, variables] of Object.entries(VARIABLES)) {
    const value = firstOf(vars, variables);
    if (value !== undefined) item[key] = text(value, `${name}: ${variables[0]}`);
  }
  const port = firstOf(vars, PORT);
  if (port !== undefined) item['port'] = Number(port);
  return item;
}

/** A variable without a value counts as not set. */
function firstOf(vars: JsonObject, names: readonly string[]): unknown {
  const name = names.find((one) => vars[one] !== undefined && vars[one] !== null && vars[one] !== '');
  return name === undefined ? undefined : vars[name];
}
