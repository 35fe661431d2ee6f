/** Whether the host key that a machine shows is accepted. */
import { fault, type ReconcileError } from '../../core/errors.ts';
import { shellQuote } from '../../core/text.ts';
import type { SshTarget } from '../../core/model/node.ts';
import { fingerprint, lookupName } from './known-hosts.ts';
import type { HostKeyVerdict, KnownHosts } from './known-hosts.ts';

/** Whom to trust for one machine. */
export interface Trust {
  known: KnownHosts;
  /** Remembers a key that nobody knows; null where such a key is refused. */
  accept: ((key: Buffer) => Promise<HostKeyVerdict>) | null;
}

/** The name and port under which known_hosts knows the machine. */
export function knownHostsName({ host, port, hostKeyAlias }: SshTarget): { host: string; port: number } {
  return hostKeyAlias === undefined ? { host, port } : { host: hostKeyAlias, port: 22 };
}

/** Verdict on the key that a machine showed → the error to report; null where the key is trusted. */
export function hostKeyError(
  target: SshTarget,
  verdict: HostKeyVerdict,
  key: Buffer,
  via: string | null,
): ReconcileError | null {
  const named = knownHostsName(target);
  const host = lookupName(named.host, named.port);
  switch (verdict.verdict) {
    case 'ok':
      return null;
    case 'mismatch':
      return fault('SSH_HOST_KEY_MISMATCH', {
        host,
        offered: fingerprint(key),
        file: verdict.file,
        line: verdict.line,
      });
    case 'revoked':
      return fault('SSH_HOST_KEY_REVOKED', { host, file: verdict.file, line: verdict.line });
    case 'unknown': {
      const { authority } = verdict;
      return fault('SSH_HOST_KEY_UNKNOWN', {
        host: target.host,
        port: target.port,
        alias: target.hostKeyAlias ?? null,
        via,
        offered: fingerprint(key),
        file: shellQuote(target.knownHostsFiles[0] ?? 'known_hosts'),
        authority: authority === null ? null : `${authority.file}:${authority.line}`,
      });
    }
  }
}
