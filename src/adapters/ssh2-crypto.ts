/**
 * `node:crypto` as the bundle gives it to ssh2. OpenSSL 3 takes longer to find out how a key is written than to calculate
 * with it, and ssh2 writes all keys in DER or PEM, for each connection anew: those of Curve25519 go another way here, which
 * has the same outcome. Nothing here calculates; `test/core/ssh2-crypto.test.ts` holds it against the original.
 */
import * as crypto from 'node:crypto';
import type { KeyObject, KeyLike, PublicKeyInput } from 'node:crypto';

export * from 'node:crypto';

/** What precedes the 32 bytes of a public key in SubjectPublicKeyInfo (RFC 8410), in hexadecimal. */
const CURVES = [
  ['302a300506032b656e032100', 'X25519'],
  ['302a300506032b6570032100', 'Ed25519'],
] as const;
const [[X25519_PREFIX]] = CURVES;
const SPKI_BYTES = 44;

/** The key in this DER; null where it is none of these curves. */
function quickKey(der: Buffer): KeyObject | null {
  const prefix = der.length === SPKI_BYTES ? der.toString('hex', 0, SPKI_BYTES - 32) : '';
  const crv = CURVES.find(([begin]) => begin === prefix)?.[1];
  if (crv === undefined) return null;
  const x = der.toString('base64url', SPKI_BYTES - 32);
  return crypto.createPublicKey({ key: { kty: 'OKP', crv, x }, format: 'jwk' });
}

export function createPublicKey(input: Parameters<typeof crypto.createPublicKey>[0]): KeyObject {
  const { key, type } = input as PublicKeyInput;
  const quick = type === 'spki' && Buffer.isBuffer(key) ? quickKey(key) : null;
  return quick ?? crypto.createPublicKey(input);
}

/** ssh2 only ever passes a key in PEM. */
export function verify(algorithm: string | null | undefined, data: Buffer, key: KeyLike, signature: Buffer): boolean {
  const [, base64 = ''] =
    /^-----BEGIN PUBLIC KEY-----\n([\w+/=]+)\n-----END/.exec(typeof key === 'string' ? key : '') ?? [];
  return crypto.verify(algorithm, data, quickKey(Buffer.from(base64, 'base64')) ?? key, signature);
}

/** Of the keys for an exchange ssh2 asks the public one for its DER, and nothing else. */
export function generateKeyPairSync(type: string, options?: object): { privateKey: unknown; publicKey: unknown } {
  if (type !== 'x25519' || options !== undefined)
    return crypto.generateKeyPairSync(type as 'x25519', options as undefined);
  const { privateKey, publicKey } = crypto.generateKeyPairSync(type);
  const { x = '' } = publicKey.export({ format: 'jwk' });
  const der = Buffer.concat([Buffer.from(X25519_PREFIX, 'hex'), Buffer.from(x, 'base64url')]);
  return { privateKey, publicKey: { export: () => der } };
}

/** Random bytes of which each is given out once. */
let pool = Buffer.alloc(0);
const POOL_BYTES = 4096;

/** ssh2 asks for a few bytes of padding with each packet, and each time the operating system was asked for them. */
export function randomFillSync(buffer: Buffer, offset = 0, size = buffer.length - offset): Buffer {
  if (size > POOL_BYTES / 16) return crypto.randomFillSync(buffer, offset, size);
  if (size > pool.length) pool = crypto.randomBytes(POOL_BYTES);
  pool.copy(buffer, offset, 0, size);
  pool = pool.subarray(size);
  return buffer;
}
