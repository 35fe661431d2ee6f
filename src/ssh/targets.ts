/** From a host as the config names it to the machines to log in to: the node itself, and what lies on the way. */
import { dirname, join, resolve } from 'node:path';
import { fault } from '../core/errors.ts';
import type { NodeDefaults, SshSettings } from '../core/model/settings.ts';
import type { SshTarget } from '../core/model/node.ts';
import { sshAddress } from './address.ts';
import { loadSshConfig } from './config/config.ts';
import type { HostConfig, SshConfig } from './config/config.ts';
import { isNone, parseHop } from './config/file.ts';
import type { Hop } from './config/file.ts';
import { expandPath, tokensOf } from './config/tokens.ts';
import type { Surroundings } from './config/tokens.ts';
import { userName } from '../system/user.ts';

const NODE_USER = 'root';
const PORT = 22;
const CONNECT_TIMEOUT_MS = 10_000;
const GLOBAL_KNOWN_HOSTS = ['/etc/ssh/ssh_known_hosts', '/etc/ssh/ssh_known_hosts2'];
/** More machines than this on the way to one are a loop. */
const MAX_JUMPS = 8;

/** Where connections go, by host. */
export interface Targets {
  /**
   * What to log in to. `settings` win over the ssh config, and that over the defaults.
   * @throws CONFIG_INVALID for a ProxyJump that is none, or that never ends
   */
  of(host: string, settings: SshSettings): { target: SshTarget; jumps: SshTarget[] };
}

/** @throws CONFIG_INVALID for an ssh config that cannot be read */
export async function loadTargets(common: NodeDefaults['ssh'], env: Surroundings['env']): Promise<Targets> {
  const { configFile, home } = common;
  const around: Surroundings = { home, env };
  const file = configFile ?? join(home, '.ssh/config');
  const config: SshConfig | null = configFile === null ? null : await loadSshConfig(configFile, around);
  const usualKnownHosts = ['known_hosts', 'known_hosts2'].map((name) => join(home, '.ssh', name));
  const known = new Map<string, SshTarget[]>();

  const targetOf = (host: string, settings: SshSettings, found: HostConfig | null, defaultUser: string): SshTarget => {
    const name = found?.hostName ?? sshAddress(host);
    const user = settings.user ?? found?.user ?? defaultUser;
    const port = settings.port ?? found?.port ?? PORT;
    const alias = found?.hostKeyAlias ?? null;
    const tokens = lazily(() => tokensOf({ original: host, name, port, user, alias }, home));
    const paths = (list: string[] | null | undefined): string[] | undefined =>
      list?.filter((path) => !isNone(path)).map((path) => expandPath(path, tokens(), around, file));
    const identityFiles = settings.identityFiles ?? paths(found?.identityFiles);
    // ssh takes these names as they are
    const globalFiles = found?.globalKnownHostsFiles?.filter((path) => !isNone(path));
    return {
      host: name,
      port,
      user,
      identityFiles: identityFiles ?? [],
      knownHostsFiles: settings.knownHostsFiles ?? paths(found?.knownHostsFiles) ?? usualKnownHosts,
      globalKnownHostsFiles: globalFiles?.map((path) => resolve(dirname(file), path)) ?? GLOBAL_KNOWN_HOSTS,
      connectTimeoutMs: settings.connectTimeoutMs ?? found?.connectTimeoutMs ?? CONNECT_TIMEOUT_MS,
      ...(alias === null ? {} : { hostKeyAlias: alias }),
      ...(found?.identitiesOnly === true ? { identitiesOnly: true } : {}),
      ...(settings.identityFiles === undefined && identityFiles !== undefined ? { mayLackIdentityFiles: true } : {}),
      ...(settings.acceptNewHostKey === true ? { acceptNewHostKey: true } : {}),
      ...(found?.proxyCommand == null || settings.proxyJump !== undefined ? {} : { proxyCommand: found.proxyCommand }),
    };
  };

  /** A jump host is no node: its own block of the ssh config wins over what the config says of nodes. */
  const targetOfJump = (hop: Hop, found: HostConfig | null): SshTarget => {
    const { identityFiles, knownHostsFiles, connectTimeoutMs, acceptNewHostKey } = common;
    const settings: SshSettings = {
      ...(hop.user === undefined ? {} : { user: hop.user }),
      ...(hop.port === undefined ? {} : { port: hop.port }),
      ...(identityFiles === undefined || found?.identityFiles ? {} : { identityFiles }),
      ...(knownHostsFiles === undefined || found?.knownHostsFiles ? {} : { knownHostsFiles }),
      ...(connectTimeoutMs === undefined || found?.connectTimeoutMs ? {} : { connectTimeoutMs }),
      ...(acceptNewHostKey === undefined ? {} : { acceptNewHostKey }),
    };
    return targetOf(hop.host, settings, found, userName());
  };

  const findHop = (hop: Hop): HostConfig | null =>
    config?.find({ host: hop.host, user: hop.user, defaultUser: userName() }) ?? null;

  /** The machines on the way; the first may have a way of its own. Nodes with the same way share the same list. */
  const jumpsOf = (written: string, depth: number): SshTarget[] => {
    const cached = known.get(written);
    if (cached !== undefined) return cached;
    const hops = written.split(',').map(hopOf);
    const found = hops.map(findHop);
    const before = found[0]?.proxyJump ?? 'none';
    if (depth + hops.length > MAX_JUMPS) {
      throw fault('CONFIG_INVALID', { problem: `ProxyJump ${written}: more than ${MAX_JUMPS} machines on the way` });
    }
    const jumps = [
      ...(before === 'none' ? [] : jumpsOf(before, depth + hops.length)),
      ...hops.map((hop, i) => targetOfJump(hop, found[i] as HostConfig | null)),
    ];
    known.set(written, jumps);
    return jumps;
  };

  return {
    of(host, settings) {
      const found = config?.find({ host, user: settings.user, defaultUser: NODE_USER }) ?? null;
      const target = targetOf(host, settings, found, NODE_USER);
      const written = settings.proxyJump?.join(',') ?? found?.proxyJump ?? 'none';
      return { target, jumps: written === 'none' || written === '' ? [] : jumpsOf(written, 0) };
    },
  };
}

function hopOf(text: string): Hop {
  const hop = parseHop(text);
  if (hop === null) throw fault('CONFIG_INVALID', { problem: `ProxyJump: ${text} is not [user@]host[:port]` });
  return hop;
}

/** Computed where it is asked for, once: who this user is takes the system long to say for a hundred thousand nodes. */
function lazily<T>(compute: () => T): () => T {
  let known: { value: T } | null = null;
  return () => (known ??= { value: compute() }).value;
}
