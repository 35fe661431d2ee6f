/** Private keys in files: read, decrypted where there is a passphrase, and made to sign quickly. */
import { createPrivateKey, sign } from 'node:crypto';
import { access } from 'node:fs/promises';
import ssh2 from 'ssh2';
import type { ParsedKey } from 'ssh2';
import { readRegularFile } from '../system/file.ts';

/** Of keys and passphrases. */
const MAX_FILE_BYTES = 2 ** 20;

/** Where the passphrase of encrypted keys is found: the text itself, or a file that holds it. */
export interface Passphrase {
  text: string | null;
  file: string | null;
}

/** A file that was named as a private key: what of it can be read without its passphrase, or why it is of no use. */
export type KeyFile =
  | { file: string; publicKey: Buffer; certificate: string | null; read: () => Promise<KeyResult> }
  | { file: string; problem: string; cause: 'absent' | 'unreadable' | 'unfit' };
/** A key that can sign, or why there is none. */
type KeyResult = { key: ParsedKey } | { problem: string };

/** The passphrase, null for none; the last newline of a file is no part of it. */
export async function readPassphrase({ text, file }: Passphrase): Promise<string | { problem: string } | null> {
  if (text !== null || file === null) return text;
  const read = await readRegularFile(file, MAX_FILE_BYTES);
  return 'bytes' in read
    ? read.bytes.toString('utf8').replace(/\r?\n$/, '')
    : { problem: `its passphrase file ${file} ${read.problem}` };
}

/** A key file, as far as it can be read without its passphrase; that is asked for only when the key is to be used. */
export async function readKeyFile(
  file: string,
  unlock: () => Promise<string | { problem: string } | null>,
): Promise<KeyFile> {
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
