/**
 * Who we are: private keys from files and the ssh-agent, each read and parsed once per run, in the order in which they
 * are offered. Passphrases are never asked for.
 */
import { createPrivateKey, sign } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import ssh2 from 'ssh2';
import type { AnyAuthMethod, ParsedKey } from 'ssh2';
import { fault } from '../core/errors.ts';
import { fingerprint } from './known-hosts.ts';

/** sshd hangs up after `MaxAuthTries` (6) failures, and each key that it turns down is one. */
const MAX_OFFERS = 5;

/** One key to offer. `label` is for people: a file, or a fingerprint; nothing secret. */
export interface Offer {
  label: string;
  auth(username: string): AnyAuthMethod;
}

export interface Identities {
  offers: Offer[];
  /** Labels of what is there but is not offered, with the reason: for the message when all offers were refused. */
  left: string[];
}

/** A default file is one among several that may or may not be there; a configured one must be. */
type FileResult =
  { file: string; key: ParsedKey } | { file: string; problem: string; cause: 'absent' | 'unreadable' | 'unfit' };

/**
 * @param agentSocket the agent's Unix socket, or null for none
 * @param defaultFiles offered where a node names no file of its own, as far as they exist
 */
export function createIdentities(
  agentSocket: string | null,
  defaultFiles: string[],
): { load(files: string[]): Promise<Identities> } {
  const agent = agentSocket === null ? null : ssh2.createAgent(agentSocket);
  const files = new Map<string, Promise<FileResult>>();
  const sets = new Map<string, Promise<Identities>>();
  let agentKeys: Promise<ParsedKey[] | Error> | null = null;

  const load = async (configured: string[]): Promise<Identities> => {
    const names = configured.length > 0 ? configured : defaultFiles;
    const [results, inAgent] = await Promise.all([
      Promise.all(names.map((name) => once(files, name, () => readKey(name)))),
      agent === null ? [] : (agentKeys ??= listKeys(agent)),
    ]);
    const offers: Offer[] = [];
    const left: string[] = [];
    const blobs = new Set<string>();
    let unusable: { file: string; problem: string } | null = null;
    for (const result of results) {
      if ('key' in result) {
        blobs.add(result.key.getPublicSSH().toString('base64'));
        offers.push({ label: result.file, auth: (username) => ({ type: 'publickey', username, key: result.key }) });
      } else if (configured.length > 0 && result.cause !== 'unfit') {
        throw fault('SSH_IDENTITY_UNUSABLE', result);
      } else if (result.cause !== 'absent') {
        unusable ??= result;
        left.push(`${result.file}: ${result.problem}`);
      }
    }
    if (inAgent instanceof Error) {
      left.push(`the agent: ${inAgent.message}`);
    } else {
      for (const key of inAgent) {
        const blob = key.getPublicSSH();
        if (blobs.has(blob.toString('base64'))) continue;
        const one = new OneKeyAgent(agent as ssh2.BaseAgent, key);
        offers.push({
          label: `agent ${fingerprint(blob)}`,
          auth: (username) => ({ type: 'agent', username, agent: one }),
        });
      }
    }
    if (offers.length === 0 && unusable !== null) throw fault('SSH_IDENTITY_UNUSABLE', unusable);
    if (offers.length > MAX_OFFERS) left.push(`${offers.length - MAX_OFFERS} more not offered`);
    return { offers: offers.slice(0, MAX_OFFERS), left };
  };

  return {
    /**
     * What to offer to a node that names these files.
     * @throws SSH_IDENTITY_UNUSABLE for a named file that is not there or not readable, and where the only identity
     *   cannot be used (encrypted, not a private key)
     */
    load: (configured) => once(sets, configured.join('\0'), () => load(configured)),
  };
}

function once<T>(cache: Map<string, Promise<T>>, key: string, make: () => Promise<T>): Promise<T> {
  let value = cache.get(key);
  if (value === undefined) {
    value = make();
    cache.set(key, value);
  }
  return value;
}

async function readKey(file: string): Promise<FileResult> {
  let text: Buffer;
  try {
    text = await readFile(file);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    return code === 'ENOENT'
      ? { file, problem: 'no such file', cause: 'absent' }
      : { file, problem: `cannot be read (${code})`, cause: 'unreadable' };
  }
  const key = ssh2.utils.parseKey(text) as ParsedKey | ParsedKey[] | Error;
  if (key instanceof Error) {
    const encrypted = /encrypted/i.test(key.message);
    return { file, problem: encrypted ? 'it needs a passphrase' : key.message, cause: 'unfit' };
  }
  const first = Array.isArray(key) ? key[0] : key;
  if (first === undefined || !first.isPrivateKey()) return { file, problem: 'it holds no private key', cause: 'unfit' };
  signFast(first);
  return { file, key: first };
}

const HASHES: Record<string, string | null> = {
  'ssh-ed25519': null,
  'ecdsa-sha2-nistp256': 'sha256',
  'ecdsa-sha2-nistp384': 'sha384',
  'ecdsa-sha2-nistp521': 'sha512',
  'ssh-rsa': 'sha1', // ssh2 names the hash itself where the server takes rsa-sha2-…
};

/** ssh2 parses the PEM again for each signature (380 µs against 32 with the parsed key, Ed25519): sign with ours. */
function signFast(key: ParsedKey): void {
  const hash = HASHES[key.type];
  if (hash === undefined) return;
  const privateKey = createPrivateKey(key.getPrivatePEM());
  key.sign = (data, algorithm) => {
    try {
      return sign(algorithm ?? hash, typeof data === 'string' ? Buffer.from(data) : data, privateKey);
    } catch (error) {
      return error as never; // ssh2 wants the error returned
    }
  };
}

/** The agent's keys; what ssh2 cannot offer (certificates, hardware keys) is left out. An error where it is silent. */
function listKeys(agent: ssh2.BaseAgent): Promise<ParsedKey[] | Error> {
  return new Promise((resolve) => {
    agent.getIdentities((error, keys) => {
      if (error) return resolve(error);
      const parsed = (keys ?? []).map((key) => ssh2.utils.parseKey(key as Buffer) as ParsedKey | ParsedKey[] | Error);
      resolve(parsed.flatMap((key) => (key instanceof Error ? [] : key)));
    });
  });
}

/** ssh2 offers all keys of an agent in one go: this shows it one, and leaves the signing to the true agent. */
class OneKeyAgent extends ssh2.BaseAgent {
  readonly #agent: ssh2.BaseAgent;
  readonly #key: ParsedKey;
  constructor(agent: ssh2.BaseAgent, key: ParsedKey) {
    super();
    this.#agent = agent;
    this.#key = key;
  }
  override getIdentities(callback: ssh2.IdentityCallback): void {
    callback(undefined, [this.#key]);
  }
  override sign(
    key: ParsedKey | Buffer | string,
    data: Buffer,
    options: ssh2.SigningRequestOptions | ssh2.SignCallback,
    callback?: ssh2.SignCallback,
  ): void {
    this.#agent.sign(key, data, options as ssh2.SigningRequestOptions, callback);
  }
}
