/** Config, environment and flags → settings, nodes and clients. Heavy libraries are loaded here, not at start-up. */
import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { select } from '../core/nodeset.ts';
import { fault } from '../core/errors.ts';
import type { Settings } from '../core/model/settings.ts';
import type { Node } from '../core/model/node.ts';
import type { Piped } from '../system/piped.ts';
import { unlessAborted } from '../system/deadline.ts';
import { remember } from '../system/remember.ts';
import { keepSecret } from '../system/secrets.ts';
import type { Registry } from '../registry/client.ts';
import type { Ssh } from '../ssh/client.ts';
import type { CommonOptions } from './args/options.ts';
import type { Clients } from '../pipeline/judge.ts';
import type { Io } from './io.ts';
import type { Log } from './log.ts';

export interface Configured {
  file: string;
  settings: Settings;
}

/** @throws ReconcileError CONFIG_INVALID */
export async function loadSettings(options: CommonOptions, io: Io): Promise<Configured> {
  const { findConfig, loadConfig } = await import('../config/load.ts');
  const file = await findConfig(options.config, io.env, io.home);
  const settings = await unlessAborted(loadConfig(file, io.env, pipedOf(io)), io.stop);
  if (options.timeoutMs === undefined) io.setDeadline(settings.run.timeoutMs);
  return { file, settings };
}

/** Where a config or an inventory may come from in the place of a file. */
function pipedOf({ stdin, stop }: Io): Piped {
  return { stdin, signal: stop };
}

/**
 * The inventory after the `--node` filters.
 * @throws ReconcileError CONFIG_INVALID, INVENTORY_FAILED, INVENTORY_EMPTY, FILTER_EMPTY, or the signal's reason
 */
export async function loadNodes(configured: Configured, patterns: string[], io: Io): Promise<Node[]> {
  return selectNodes(await loadInventory(configured, io), patterns);
}

/**
 * The inventory before any filter. What the config limits to pools must be limited to some that are there.
 * @throws ReconcileError CONFIG_INVALID, INVENTORY_FAILED, INVENTORY_EMPTY, or the signal's reason
 */
export async function loadInventory({ file, settings }: Configured, io: Io): Promise<Node[]> {
  const { resolveInventory } = await import('../bastion/inventory.ts');
  const { loadNodeList, parseNodeList } = await import('../config/load.ts');
  const { refuseUnknownPools } = await import('../config/pools.ts');
  const { env, endGroup, stop: signal } = io;
  const resolved = resolveInventory(
    {
      nodes: settings.nodes,
      ...settings.inventory,
      loadFile: async (list) => await loadNodeList(list, io.env, pipedOf(io)),
      parseList: (value, source) => parseNodeList(value, source, file, io.env),
    },
    { ssh: settings.ssh, cocoon: settings.cocoon },
    { env, endGroup, signal },
  );
  const nodes = await unlessAborted(resolved, signal);
  refuseUnknownPools(file, settings, new Set(nodes.map(({ pool }) => pool)));
  return nodes;
}

/** @throws ReconcileError INVENTORY_EMPTY, FILTER_EMPTY */
export function selectNodes(nodes: Node[], patterns: string[]): Node[] {
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

const DEFAULT_IDENTITIES = ['id_ed25519', 'id_ecdsa', 'id_rsa'];

/** SSH as the config, the ssh config and the environment say. */
async function openSsh({ ssh }: Settings, io: Io, log: Log): Promise<Ssh> {
  const { createSsh } = await import('../ssh/client.ts');
  const { loadSshConfig } = await import('../ssh/config/config.ts');
  const ignored =
    ssh.configFile === null ? [] : (await loadSshConfig(ssh.configFile, { home: ssh.home, env: io.env })).ignored;
  if (ignored.length > 0) log('info', `not honoured in the ssh config: ${ignored.join(', ')}`, {});
  const passphrase = io.env['RECONCILE_SSH_PASSPHRASE'] || null;
  if (passphrase !== null) keepSecret(passphrase);
  return createSsh({
    agentSocket: io.env['SSH_AUTH_SOCK'] || null,
    defaultIdentityFiles: DEFAULT_IDENTITIES.map((name) => join(io.home, '.ssh', name)),
    passphrase: {
      text: passphrase,
      file: io.env['RECONCILE_SSH_PASSPHRASE_FILE'] || null,
    },
    log,
  });
}

/** `20260509T030000Z-1a2b3c`: sorts by time, and two runs that begin at once differ. */
export function runId(startedAt: Date): string {
  return `${startedAt.toISOString().replace(/[-:]|\.\d+/g, '')}-${randomBytes(3).toString('hex')}`;
}

/** Loading the HTTP library takes longer than this; by then the first nodes were spoken to, and are awaited. */
const WARM_UP_AFTER_MS = 20;

/**
 * Opens what a run speaks to.
 * @returns the clients, and what closes them all
 * @throws ReconcileError CONFIG_INVALID where a configured state directory cannot be used
 */
export async function openClients(
  settings: Settings,
  io: Io,
  log: Log,
): Promise<{ clients: Clients; close: () => Promise<void> }> {
  const registries = await openRegistries(settings, io, log);
  const ssh = await openSsh(settings, io, log);
  // A request will tell what is wrong.
  setTimeout(() => void registries.clients.epoch.warmUp().catch(() => undefined), WARM_UP_AFTER_MS).unref();
  const close = async (): Promise<void> => {
    ssh.close();
    await registries.close();
  };
  return { clients: { ...registries.clients, ssh }, close };
}

/** The same without SSH, for what speaks to no node. */
export async function openRegistries(
  settings: Settings,
  io: Io,
  log: Log,
): Promise<{ clients: Omit<Clients, 'ssh'>; close: () => Promise<void> }> {
  const { createRegistry } = await import('../registry/client.ts');
  const { openState } = await import('../bastion/state.ts');
  const state = await openState(settings.run.stateDir, stateDirs(io), (message) => log('warn', message, {}));
  const { proxyOf } = await import('../registry/proxy.ts');
  const epoch = createRegistry({ ...settings.epoch, login: null, proxy: proxyOf(io.env) });
  const others = new Map<string, Promise<Registry>>();
  const registryOf = (host: string): Promise<Registry> =>
    remember(others, host, async () => await openOther(host, settings, io));
  const close = async (): Promise<void> => {
    const opened = await Promise.allSettled(others.values());
    const all = [epoch, ...opened.flatMap((other) => (other.status === 'fulfilled' ? [other.value] : []))];
    await Promise.all(all.map(async (registry) => await registry.close()));
  };
  return { clients: { epoch, registryOf, state }, close };
}

/** Where state is kept unless the config says otherwise; the second where the first cannot be written. */
function stateDirs({ env, home }: Io): string[] {
  return ['/var/lib/cocoon-reconcile', join(env['XDG_STATE_HOME'] || join(home, '.local/state'), 'cocoon-reconcile')];
}

/** Another registry than epoch, with what `docker login` or `podman login` left for it. */
async function openOther(host: string, { epoch }: Settings, io: Io): Promise<Registry> {
  const { createRegistry } = await import('../registry/client.ts');
  const { registryUrl } = await import('../registry/auth.ts');
  const { findLogin, loginFiles } = await import('../registry/logins.ts');
  const { proxyOf } = await import('../registry/proxy.ts');
  return createRegistry({
    url: registryUrl(host),
    token: null,
    login: await findLogin(loginFiles(io.env, io.home), host),
    proxy: proxyOf(io.env),
    ca: null,
    timeoutMs: epoch.timeoutMs,
    retries: epoch.retries,
  });
}
