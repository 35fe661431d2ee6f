/** The machines of the fleet, as the config, the ssh config and the inventory describe them. */

/** A machine to log in to: where it is, as whom, and what proves either side. */
export interface SshTarget {
  host: string;
  port: number;
  user: string;
  identityFiles: string[];
  /** The user's, of which the first is where a new key is added. */
  knownHostsFiles: string[];
  /** Those of the machine that we run on, which count as much. */
  globalKnownHostsFiles?: string[];
  /** Deadline of one try: for the TCP connection, and again for the handshake with authentication. */
  connectTimeoutMs: number;
  /** The name under which known_hosts knows the machine, whatever its address and port (`HostKeyAlias`). */
  hostKeyAlias?: string;
  /** Of the agent only the keys that `identityFiles` name are offered (`IdentitiesOnly`). */
  identitiesOnly?: boolean;
  /** The files come from an ssh config, where one that does not exist is passed over. */
  mayLackIdentityFiles?: boolean;
  /** `strictHostKeyChecking: accept-new` */
  acceptNewHostKey?: boolean;
  /** Where the ssh config names a command that leads to the machine (`FILE:LINE`); it is never run. */
  proxyCommand?: string;
}

/** One cocoon-vm machine after the config, its defaults, the ssh config and all inventory sources are joined. */
export interface Node extends SshTarget {
  name: string;
  pool: string;
  /** The machines to log in to on the way, the nearest first. */
  jumps?: SshTarget[];
  cocoon: CocoonSettings;
}

/** Where cocoon lives on a node; `runDir` and `logDir` are handed to cocoon only when set. */
export interface CocoonSettings {
  binary: string;
  rootDir: string;
  runDir: string | null;
  logDir: string | null;
  sudo: boolean;
}
