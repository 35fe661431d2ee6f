/**
 * Who we are: private keys from files and the ssh-agent, each read, decrypted and parsed once per run, offered in the
 * order of ssh. Nobody is ever asked for a passphrase.
 */
import ssh2 from 'ssh2';
import type { ParsedKey } from 'ssh2';
import { fault } from '../core/errors.ts';
import type { SshTarget } from '../core/model/node.ts';
import { remember } from '../system/remember.ts';
import { createAgentCredential, listKeys, type Credential } from './agent.ts';
import { readKeyFile, readPassphrase, type KeyFile, type Passphrase } from './key-file.ts';
import { fingerprint } from './trust/known-hosts.ts';

/** sshd hangs up after `MaxAuthTries` (6) failures, and each key that it turns down is one. */
const MAX_OFFERS = 5;
/** What is offered to one machine, and what is not. */
export interface Identities {
  /** In the order in which they are offered. */
  credentials: Credential[];
  /** Labels of what is there but is not offered, with the reason: for the message when all offers were refused. */
  notOffered: string[];
  /** User certificates that lie beside the keys: ssh would offer them, ssh2 cannot. */
  certificates: string[];
}

/** Which identities to offer to a machine. */
export type Wanted = Pick<SshTarget, 'identityFiles' | 'identitiesOnly' | 'mayLackIdentityFiles'>;

/**
 * @param agentSocket the agent's Unix socket, or null for none
 * @param defaultFiles offered where a node names no file of its own, as far as they exist
 * @param warn told of an agent that does not answer
 */
export function createIdentities(
  agentSocket: string | null,
  defaultFiles: string[],
  passphrase: Passphrase,
  warn: (message: string) => void,
): { load(wanted: Wanted): Promise<Identities> } {
  const agent = agentSocket === null ? null : ssh2.createAgent(agentSocket);
  const files = new Map<string, Promise<KeyFile>>();
  const sets = new Map<string, Promise<Identities>>();
  let agentKeys: Promise<ParsedKey[] | Error> | null = null;
  let secret: Promise<string | { problem: string } | null> | null = null;
  const unlock = (): Promise<string | { problem: string } | null> => (secret ??= readPassphrase(passphrase));

  const agentName = `the agent (SSH_AUTH_SOCK=${agentSocket ?? ''})`;
  const warnOfSilence = (): void => warn(`${agentName} does not answer: only key files are offered`);

  const load = async ({ identityFiles, identitiesOnly, mayLackIdentityFiles }: Wanted): Promise<Identities> => {
    const isConfigured = identityFiles.length > 0;
    const names = isConfigured || mayLackIdentityFiles === true ? identityFiles : defaultFiles; // `IdentityFile none`
    const [results, listed] = await Promise.all([
      Promise.all(names.map((name) => remember(files, name, () => readKeyFile(name, unlock)))),
      agent === null ? [] : (agentKeys ??= listKeys(agent, warnOfSilence)),
    ]);
    const notOffered: string[] = [];
    const inAgent = listed instanceof Error ? [] : listed;
    if (listed instanceof Error) notOffered.push(`${agentName}: ${listed.message}`);
    const certificates: string[] = [];

    const named: Credential[] = [];
    const fromFiles: Credential[] = [];
    const blobs = new Set<string>();
    let unusable: { file: string; problem: string } | null = null;
    for (const result of results) {
      const { file } = result;
      if ('problem' in result) {
        if (isConfigured && mayLackIdentityFiles !== true && result.cause !== 'unfit') {
          throw fault('SSH_IDENTITY_UNUSABLE', result);
        }
        if (result.cause === 'absent') continue;
        unusable ??= result;
        notOffered.push(`${file}: ${result.problem}`);
        continue;
      }
      if (result.certificate !== null) certificates.push(result.certificate);
      const blob = result.publicKey.toString('base64');
      if (blobs.has(blob)) continue;
      const twin = inAgent.find((key) => key.getPublicSSH().equals(result.publicKey));
      if (twin !== undefined) {
        blobs.add(blob);
        named.push(createAgentCredential(agent as ssh2.BaseAgent, twin, file));
        continue;
      }
      const read = await result.read();
      if ('problem' in read) {
        unusable ??= { file, problem: read.problem };
        notOffered.push(`${file}: ${read.problem}`);
        continue;
      }
      blobs.add(blob);
      const { key } = read;
      const isImmediate = key.type !== 'ssh-rsa';
      fromFiles.push({ label: file, isImmediate, auth: (username) => ({ type: 'publickey', username, key }) });
    }
    const others = inAgent
      .filter((key) => identitiesOnly !== true && !blobs.has(key.getPublicSSH().toString('base64')))
      .map((key) => createAgentCredential(agent as ssh2.BaseAgent, key, `agent ${fingerprint(key.getPublicSSH())}`));

    if (named.length + others.length + fromFiles.length === 0 && unusable !== null) {
      throw fault('SSH_IDENTITY_UNUSABLE', unusable);
    }
    // in the order of ssh; what does not fit is taken from what nobody named
    const credentials = [
      ...named,
      ...others.slice(0, Math.max(0, MAX_OFFERS - named.length - fromFiles.length)),
      ...fromFiles,
    ];
    const more = named.length + others.length + fromFiles.length - Math.min(credentials.length, MAX_OFFERS);
    if (more > 0) notOffered.push(`${more} more not offered`);
    return { credentials: credentials.slice(0, MAX_OFFERS), notOffered, certificates };
  };

  return {
    /**
     * What to offer to a machine.
     * @throws SSH_IDENTITY_UNUSABLE for a named file that is not there or not readable, and where the only identity
     *   cannot be used (encrypted and no passphrase opens it, not a private key)
     */
    load: (wanted) => {
      const { identityFiles, identitiesOnly = false, mayLackIdentityFiles = false } = wanted;
      return remember(sets, [identitiesOnly, mayLackIdentityFiles, ...identityFiles].join('\0'), () => load(wanted));
    },
  };
}
