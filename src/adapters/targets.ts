/** From a host as the config names it to the machines to log in to: the node itself, and what lies on the way. */
import { userInfo } from 'node:os';
import { join } from 'node:path';
import { fault } from '../core/errors.ts';
import type { NodeDefaults, SshSettings } from '../core/settings.ts';
import type { SshTarget } from '../core/types.ts';
import { expandPath, loadSshConfig, tokensOf } from './ssh-config.ts';
import type { HostConfig, SshConfig } from './ssh-config.ts';

const NODE_USER = 'root';
const PORT = 22;
const CONNECT_TIMEOUT_MS = 10_000;
/** More machines than this on the way to one are a loop. */
const MAX_JUMPS = 8;

export interface Targets {
  /**
   * What to log in to. `settings` win over the ssh config, and that over the defaults.
   * @throws CONFIG_INVALID for a ProxyJump that is none, or that never ends
   */
  of(host: string, settings: SshSettings): { target: SshTarget; jumps: SshTarget[] };
}

/** One machine of ProxyJump, as written. */
interface Hop {
  host: string;
  port?: number;
  user?: string;
}

/** @throws CONFIG_INVALID for an ssh config that cannot be read */
export async function loadTargets(common: NodeDefaults['ssh']): Promise<Targets> {
  const { configFile, home } = common;
  const file = configFile ?? join(home, '.ssh/config');
  const config: SshConfig | null = configFile === null ? null : await loadSshConfig(configFile, home);
  const known = new Map<string, SshTarget[]>();

  const targetOf = (host: string, settings: SshSettings, found: HostConfig | null, defaultUser: string): SshTarget => {
    const name = found?.hostName ?? host;
    const user = settings.user ?? found?.user ?? defaultUser;
    const port = settings.port ?? found?.port ?? PORT;
    const alias = found?.hostKeyAlias ?? null;
    const tokens = tokensOf({ original: host, name, port, user, alias }, home);
    const paths = (list: string[] | null | undefined): string[] | undefined =>
      list?.filter((path) => path !== 'none').map((path) => expandPath(path, tokens, home, file));
    const identityFiles = settings.identityFiles ?? paths(found?.identityFiles);
    return {
      host: name,
      port,
      user,
      identityFiles: identityFiles ?? [],
      knownHostsFiles: settings.knownHostsFiles ?? paths(found?.knownHostsFiles) ?? [join(home, '.ssh/known_hosts')],
      connectTimeoutMs: settings.connectTimeoutMs ?? found?.connectTimeoutMs ?? CONNECT_TIMEOUT_MS,
      ...(alias === null ? {} : { hostKeyAlias: alias }),
      ...(found?.identitiesOnly === true ? { identitiesOnly: true } : {}),
      ...(settings.identityFiles === undefined && identityFiles !== undefined ? { mayLackIdentityFiles: true } : {}),
      ...(settings.acceptNewHostKey === true ? { acceptNewHostKey: true } : {}),
    };
  };

  /** A jump host is no node: its own block of the ssh config wins over what the config says of nodes. */
  const jumpHost = (hop: Hop, found: HostConfig | null): SshTarget => {
    const { identityFiles, knownHostsFiles, connectTimeoutMs, acceptNewHostKey } = common;
    const settings: SshSettings = {
      ...(hop.user === undefined ? {} : { user: hop.user }),
      ...(hop.port === undefined ? {} : { port: hop.port }),
      ...(identityFiles === undefined || found?.identityFiles ? {} : { identityFiles }),
      ...(knownHostsFiles === undefined || found?.knownHostsFiles ? {} : { knownHostsFiles }),
      ...(connectTimeoutMs === undefined || found?.connectTimeoutMs ? {} : { connectTimeoutMs }),
      ...(acceptNewHostKey === undefined ? {} : { acceptNewHostKey }),
    };
    return targetOf(hop.host, settings, found, userInfo().username);
  };

  const findHop = (hop: Hop): HostConfig | null =>
    config?.find({ host: hop.host, user: hop.user, defaultUser: userInfo().username }) ?? null;

  /** The machines on the way; the first may have a way of its own. Nodes with the same way share the same list. */
  const jumpsOf = (written: string, depth: number): SshTarget[] => {
    const cached = known.get(written);
    if (cached !== undefined) return cached;
    const hops = written.split(',').map(parseHop);
    const found = hops.map(findHop);
    const before = found[0]?.proxyJump ?? 'none';
    if (depth + hops.length > MAX_JUMPS) {
      throw fault('CONFIG_INVALID', { problem: `ProxyJump ${written}: more than ${MAX_JUMPS} machines on the way` });
    }
    const jumps = [
      ...(before === 'none' ? [] : jumpsOf(before, depth + hops.length)),
      ...hops.map((hop, i) => jumpHost(hop, found[i] as HostConfig | null)),
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

/** `[user@]host[:port]`, also as `ssh://…`. */
function parseHop(text: string): Hop {
  const match = /^(?:ssh:\/\/)?(?:(.+)@)?(?:\[([^\]]+)\]|([^:@[\]]+))(?::(\d{1,5}))?\/?$/.exec(text.trim());
  const host = match?.[2] ?? match?.[3];
  if (host === undefined || host.startsWith('-')) {
    throw fault('CONFIG_INVALID', { problem: `ProxyJump: ${text} is not [user@]host[:port]` });
  }
  return {
    host,
    ...(match?.[4] === undefined ? {} : { port: Number(match[4]) }),
    ...(match?.[1] === undefined ? {} : { user: match[1] }),
  };
}
