/** Which hosts a pattern or a hashed name means, as OpenSSH compares them (its match.c and hostfile.c). */
import { hash } from 'node:crypto';

/** The longest pattern that ssh compares; a longer one makes the whole list match nothing. */
export const MAX_PATTERN = 1023;

/** Whether a hosts field (hashed, or a list of patterns of which none may be a matching `!negation`) names the host. */
export function matchHosts(hosts: string, name: string): boolean {
  return hosts.startsWith('|') ? matchHashed(hosts, name) : matchPatterns(hosts.toLowerCase(), name);
}

function matchHashed(hosts: string, name: string): boolean {
  const hidden = parseHiddenName(hosts);
  return hidden !== null && isHiddenName(hidden, Buffer.from(name));
}

const SHA1_BLOCK = 64;
const SHA1_BYTES = 20;

/** What `|1|salt|hash` says, ready to be compared with many names: the salt as the two pads of HMAC (RFC 2104). */
export interface HiddenName {
  inner: Buffer;
  /** With room for the digest of the inner hash. */
  outer: Buffer;
  /** One character per byte. */
  digest: string;
}

/** Null for what HMAC-SHA1 could not have made. */
export function parseHiddenName(hosts: string): HiddenName | null {
  const match = /^\|1\|([A-Za-z0-9+/]{27}=)\|([A-Za-z0-9+/]{27}=)$/.exec(hosts);
  if (match === null) return null;
  const salt = Buffer.from(match[1] as string, 'base64');
  const inner = Buffer.alloc(SHA1_BLOCK, 0x36);
  const outer = Buffer.alloc(SHA1_BLOCK + SHA1_BYTES, 0x5c);
  for (const [i, byte] of salt.entries()) {
    inner.writeUInt8(0x36 ^ byte, i);
    outer.writeUInt8(0x5c ^ byte, i);
  }
  return { inner, outer, digest: Buffer.from(match[2] as string, 'base64').toString('latin1') };
}

/** Each of thousands of lines is compared with each of thousands of names: this takes half the time of createHmac. */
export function isHiddenName({ inner, outer, digest }: HiddenName, name: Buffer): boolean {
  outer.write(hash('sha1', Buffer.concat([inner, name], SHA1_BLOCK + name.length), 'binary'), SHA1_BLOCK, 'latin1');
  return hash('sha1', outer, 'binary') === digest;
}

/** Whether one of the patterns, with commas between, is the text, and none with a `!` before it is. */
export function matchPatterns(patterns: string, name: string): boolean {
  let found = false;
  for (const item of patterns.split(',')) {
    const negated = item.startsWith('!');
    const pattern = negated ? item.slice(1) : item;
    if (pattern.length >= MAX_PATTERN) return false;
    if (!matchPattern(pattern, name)) continue;
    if (negated) return false;
    found = true;
  }
  return found;
}

/** `*` is any text, `?` one character, all else itself. Linear in space, no backtracking beyond the last star. */
export function matchPattern(pattern: string, name: string): boolean {
  let p = 0;
  let n = 0;
  let star = -1;
  let resume = 0;
  while (n < name.length) {
    if (pattern[p] === '*') {
      star = p;
      resume = n;
      p += 1;
    } else if (p < pattern.length && (pattern[p] === '?' || pattern[p] === name[n])) {
      p += 1;
      n += 1;
    } else if (star >= 0) {
      resume += 1;
      n = resume;
      p = star + 1;
    } else {
      return false;
    }
  }
  while (pattern[p] === '*') p += 1;
  return p === pattern.length;
}
