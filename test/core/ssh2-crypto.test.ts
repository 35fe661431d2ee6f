/** The shorter ways that ssh2 is given through `node:crypto` lead where the long ones do. */
import * as crypto from 'node:crypto';
import { describe, expect, test } from 'vitest';
import * as quick from '../../src/adapters/ssh2-crypto.ts';

const SPKI = { type: 'spki', format: 'der' } as const;
const PEM = { type: 'spki', format: 'pem' } as const;
/** As ssh2 writes it: without a line end. */
const pemOf = (key: crypto.KeyObject): string => key.export(PEM).toString().trimEnd();

const PAIRS = {
  x25519: () => crypto.generateKeyPairSync('x25519'),
  ed25519: () => crypto.generateKeyPairSync('ed25519'),
  'ec p256': () => crypto.generateKeyPairSync('ec', { namedCurve: 'P-256' }),
  rsa: () => crypto.generateKeyPairSync('rsa', { modulusLength: 2048 }),
  x448: () => crypto.generateKeyPairSync('x448'),
};

describe.each(Object.entries(PAIRS))('%s', (name, make) => {
  test('a public key in DER is the same key', () => {
    for (let n = name === 'rsa' ? 19 : 0; n < 20; n += 1) {
      const key = make().publicKey.export(SPKI);
      expect(quick.createPublicKey({ key, ...SPKI }).equals(crypto.createPublicKey({ key, ...SPKI }))).toBe(true);
    }
  });

  test.skipIf(name.startsWith('x'))('a signature is good for its key and its data, and for nothing else', () => {
    const { publicKey, privateKey } = make();
    const algorithm = name === 'ed25519' ? null : 'sha256';
    const data = Buffer.from('exchange hash');
    const signature = crypto.sign(algorithm, data, privateKey);
    const spoiled = Buffer.from(signature);
    spoiled[5] = (spoiled[5] as number) ^ 1;
    const isGood = (key: crypto.KeyObject, of: Buffer, by: Buffer): boolean => {
      const verdict = quick.verify(algorithm, of, pemOf(key), by);
      expect(verdict).toBe(crypto.verify(algorithm, of, pemOf(key), by));
      return verdict;
    };
    expect(isGood(publicKey, data, signature)).toBe(true);
    expect(isGood(make().publicKey, data, signature)).toBe(false);
    expect(isGood(publicKey, Buffer.from('exchange-hash'), signature)).toBe(false);
    expect(isGood(publicKey, data, spoiled)).toBe(false);
    expect(isGood(publicKey, data, Buffer.alloc(0))).toBe(false);
  });
});

test('what is no key is refused as it is without a shorter way', () => {
  const short = crypto.generateKeyPairSync('x25519').publicKey.export(SPKI).subarray(0, 43);
  for (const key of [short, Buffer.alloc(44), Buffer.alloc(0)]) {
    expect(() => quick.createPublicKey({ key, ...SPKI })).toThrow();
  }
  for (const pem of ['', 'x', '-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----']) {
    expect(() => quick.verify(null, Buffer.alloc(1), pem, Buffer.alloc(64))).toThrow();
  }
});

test('both sides of an exchange come to the same secret', () => {
  const ours = quick.generateKeyPairSync('x25519') as { publicKey: crypto.KeyObject; privateKey: crypto.KeyObject };
  const theirs = crypto.generateKeyPairSync('x25519');
  const sent = ours.publicKey.export(SPKI);
  const here = crypto.diffieHellman({ privateKey: ours.privateKey, publicKey: theirs.publicKey });
  const there = crypto.diffieHellman({
    privateKey: theirs.privateKey,
    publicKey: crypto.createPublicKey({ key: sent, ...SPKI }),
  });
  expect(here).toEqual(there);
});

test('random bytes fill exactly their place, and are given out once', () => {
  const seen = new Set<string>();
  for (let n = 0; n < 2000; n += 1) {
    const buffer = Buffer.alloc(20, 7);
    expect(quick.randomFillSync(buffer, 2, 16)).toBe(buffer);
    expect([...buffer.subarray(0, 2), ...buffer.subarray(18)]).toEqual([7, 7, 7, 7]);
    seen.add(buffer.toString('hex'));
  }
  expect(seen.size).toBe(2000);
  const large = Buffer.alloc(5000);
  quick.randomFillSync(large);
  expect(new Set(large).size).toBe(256);
});
