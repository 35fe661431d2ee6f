/**
 * Who we are: private keys from files and the ssh-agent, each read, decrypted and parsed once per run, offered in the
 * order of ssh. Nobody is ever asked for a passphrase.
 */
import { createPrivateKey, sign } from 'node:crypto';
import { access } from 'node:fs/promises';
import ssh2 from 'ssh2';
import type { AnyAuthMethod, ParsedKey } from 'ssh2';
import { fault } from '../core/errors.ts';
import { formatDuration } from '../core/text.ts';
import type { SshTarget } from '../core/model/node.ts';
import { settleOnce } from '../system/deadline.ts';
import { remember } from '../system/remember.ts';
import { readRegularFile } from '../system/file.ts';
import { fingerprint } from './trust/known-hosts.ts';

/** sshd hangs up after `MaxAuthTries` (6) failures, and each key that it turns down is one. */
const MAX_OFFERS = 5;
/** How long the agent may take to say which keys it has. It does so at once, or hangs. */
export const AGENT_MS = 1_000;
/** Of keys and passphrases. */
const MAX_FILE_BYTES = 2 ** 20;

/** One key to offer. `label` is for people: a file, or a fingerprint; nothing secret. */
export interface Offer {
  label: string;
  /** It needs to know nothing of the server: we hold the key, and it signs in one way only, as RSA does not. */
  isImmediate: boolean;
  auth(username: string): AnyAuthMethod;
}

export interface Identities {
  offers: Offer[];
  /** Labels of what is there but is not offered, with the reason: for the message when all offers were refused. */
  left: string[];
  /** User certificates that lie beside the keys: ssh would offer them, ssh2 cannot. */
  certificates: string[];
}

/** Which identities to offer to a machine. */
export type Wanted = Pick<SshTarget, 'identityFiles' | 'identitiesOnly' | 'mayLackIdentityFiles'>;

/** Where the passphrase of encrypted keys is found: the text itself, or a file that holds it. */
export interface Passphrase {
  text: string | null;
  file: string | null;
}

/** A default file is one among several that may or may not be there; a configured one must be. */
type FileResult =
  | { file: string; publicKey: Buffer; certificate: string | null; read: () => Promise<KeyResult> }
  | { file: string; problem: string; cause: 'absent' | 'unreadable' | 'unfit' };
type KeyResult = { key: ParsedKey } | { problem: string };

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
  const files = new Map<string, Promise<FileResult>>();
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
      Promise.all(names.map((name) => remember(files, name, () => readFileOf(name, unlock)))),
      agent === null ? [] : (agentKeys ??= listKeys(agent, warnOfSilence)),
    ]);
    const left: string[] = [];
    const inAgent = listed instanceof Error ? [] : listed;
    if (listed instanceof Error) left.push(`${agentName}: ${listed.message}`);
    const certificates: string[] = [];

    const named: Offer[] = [];
    const fromFiles: Offer[] = [];
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
        left.push(`${file}: ${result.problem}`);
        continue;
      }
      if (result.certificate !== null) certificates.push(result.certificate);
      const blob = result.publicKey.toString('base64');
      if (blobs.has(blob)) continue;
      const twin = inAgent.find((key) => key.getPublicSSH().equals(result.publicKey));
      if (twin !== undefined) {
        blobs.add(blob);
        named.push(agentOffer(agent as ssh2.BaseAgent, twin, file));
        continue;
      }
      const read = await result.read();
      if ('problem' in read) {
        unusable ??= { file, problem: read.problem };
        left.push(`${file}: ${read.problem}`);
        continue;
      }
      blobs.add(blob);
      const { key } = read;
      const isImmediate = key.type !== 'ssh-rsa';
      fromFiles.push({ label: file, isImmediate, auth: (username) => ({ type: 'publickey', username, key }) });
    }
    const others = inAgent
      .filter((key) => identitiesOnly !== true && !blobs.has(key.getPublicSSH().toString('base64')))
      .map((key) => agentOffer(agent as ssh2.BaseAgent, key, `agent ${fingerprint(key.getPublicSSH())}`));

    if (named.length + others.length + fromFiles.length === 0 && unusable !== null) {
      throw fault('SSH_IDENTITY_UNUSABLE', unusable);
    }
    // in the order of ssh; what does not fit is taken from what nobody named
    const offers = [
      ...named,
      ...others.slice(0, Math.max(0, MAX_OFFERS - named.length - fromFiles.length)),
      ...fromFiles,
    ];
    const more = named.length + others.length + fromFiles.length - Math.min(offers.length, MAX_OFFERS);
    if (more > 0) left.push(`${more} more not offered`);
    return { offers: offers.slice(0, MAX_OFFERS), left, certificates };
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

/** The passphrase, null for none; the last newline of a file is no part of it. */
async function readPassphrase({ text, file }: Passphrase): Promise<string | { problem: string } | null> {
  if (text !== null || file === null) return text;
  const read = await readRegularFile(file, MAX_FILE_BYTES);
  return 'bytes' in read
    ? read.bytes.toString('utf8').replace(/\r?\n$/, '')
    : { problem: `its passphrase file ${file} ${read.problem}` };
}

function agentOffer(agent: ssh2.BaseAgent, key: ParsedKey, label: string): Offer {
  const one = new OneKeyAgent(agent, key);
  return { label, isImmediate: false, auth: (username) => ({ type: 'agent', username, agent: one }) };
}

/** A key file, as far as it can be read without its passphrase; that is asked for only when the key is to be used. */
async function readFileOf(
  file: string,
  unlock: () => Promise<string | { problem: string } | null>,
): Promise<FileResult> {
  const whole = await readRegularFile(file, MAX_FILE_BYTES);
  if ('problem' in whole) {
    const isAbsent = whole.cause === 'absent';
    return {
      file,
      problem: isAbsent ? 'no such file' : `it ${whole.problem}`,
      cause: isAbsent ? 'absent' : 'unreadable',
    };
  }
  const text = whole.bytes;
  const beside = `${file}-cert.pub`;
  const certificate = await access(beside).then(
    () => beside,
    () => null,
  );
  const key = parseKey(text);
  if (!(key instanceof Error)) {
    const read: KeyResult = key.isPrivateKey()
      ? { key }
      : { problem: 'it holds no private key, and the agent has none' };
    return { file, publicKey: key.getPublicSSH(), certificate, read: () => Promise.resolve(read) };
  }
  if (!isEncrypted(key)) return { file, problem: key.message, cause: 'unfit' };
  let read: Promise<KeyResult> | null = null;
  const publicKey = publicPartOf(text) ?? (await readPublicKey(`${file}.pub`)) ?? Buffer.alloc(0);
  return { file, publicKey, certificate, read: () => (read ??= decrypt(text, unlock)) };
}

async function decrypt(text: Buffer, unlock: () => Promise<string | { problem: string } | null>): Promise<KeyResult> {
  const passphrase = await unlock();
  if (passphrase === null) return { problem: 'it needs a passphrase' };
  if (typeof passphrase !== 'string') return passphrase;
  const key = parseKey(text, passphrase);
  return key instanceof Error ? { problem: 'the passphrase does not open it' } : { key };
}

function isEncrypted(error: Error): boolean {
  return /encrypted/i.test(error.message);
}

/** The first key of a file, signing the fast way. */
function parseKey(text: Buffer, passphrase?: string): ParsedKey | Error {
  const parsed = ssh2.utils.parseKey(text, passphrase) as ParsedKey | ParsedKey[] | Error;
  const key = Array.isArray(parsed) ? parsed[0] : parsed;
  if (key === undefined) return new Error('it holds no key');
  if (!(key instanceof Error) && key.isPrivateKey()) signFast(key);
  return key;
}

async function readPublicKey(file: string): Promise<Buffer | null> {
  const read = await readRegularFile(file, MAX_FILE_BYTES);
  const key = 'bytes' in read ? parseKey(read.bytes) : null;
  return key === null || key instanceof Error ? null : key.getPublicSSH();
}

const OPENSSH_MAGIC = 'openssh-key-v1\0';

/** The public half of a private key in OpenSSH's format, which is never encrypted; null in any other format. */
function publicPartOf(text: Buffer): Buffer | null {
  const body = /BEGIN OPENSSH PRIVATE KEY-----([^-]*)-----END/.exec(text.toString('latin1'))?.[1];
  if (body === undefined) return null;
  const bytes = Buffer.from(body, 'base64');
  if (bytes.toString('latin1', 0, OPENSSH_MAGIC.length) !== OPENSSH_MAGIC) return null;
  let offset = OPENSSH_MAGIC.length;
  const field = (): Buffer => {
    const length = offset + 4 > bytes.length ? 0 : bytes.readUInt32BE(offset);
    const value = bytes.subarray(offset + 4, offset + 4 + length);
    offset += 4 + length;
    return value;
  };
  for (const _name of ['cipher', 'key derivation', 'its options']) field();
  offset += 4; // the number of keys, always 1
  const key = field();
  return key.length > 0 ? key : null;
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

/**
 * The agent's keys; what ssh2 cannot offer (certificates, hardware keys) is left out. An error where it has none to say.
 * @param onSilence called where it does not answer in time
 */
function listKeys(agent: ssh2.BaseAgent, onSilence: () => void): Promise<ParsedKey[] | Error> {
  const reason = (): Error => {
    onSilence();
    return new Error(`no answer within ${formatDuration(AGENT_MS)}`);
  };
  return settleOnce<ParsedKey[] | Error>({ timeout: { afterMs: AGENT_MS, reason } }, ({ done, fail }) => {
    agent.getIdentities((error, keys) => {
      if (error) return fail(error);
      const parsed = (keys ?? []).map((key) => ssh2.utils.parseKey(key as Buffer) as ParsedKey | ParsedKey[] | Error);
      done(parsed.flatMap((key) => (key instanceof Error ? [] : key)));
    });
  }).catch((error: Error) => error);
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
