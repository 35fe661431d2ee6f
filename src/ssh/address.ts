/** Addresses in the one form in which two spellings of the same can be compared. */
import { isIPv4, isIPv6, SocketAddress } from 'node:net';

/**
 * Lower case, no dot at the end, an IPv6 address compressed, one that stands for an IPv4 address as that; a zone is kept.
 * Names are not looked up.
 */
export function canonicalHost(host: string): string {
  const lower = host.toLowerCase().replace(/\.$/, '');
  if (!isIPv6(lower)) return lower;
  const [bare = '', zone] = lower.split('%');
  const { address } = new SocketAddress({ address: bare, family: 'ipv6' });
  return `${address.replace(/^::ffff:(?=\d+\.)/, '')}${zone === undefined ? '' : `%${zone}`}`;
}

/** Why a host that is all numbers is no address that all programs read alike, or null: `010.0.0.1`, `10.1`, `0x7f000001`. */
export function addressProblem(host: string): string | null {
  const isNumbers = /^(0x[0-9a-f]*|\d+)(\.(0x[0-9a-f]*|\d+)){0,3}\.?$/i.test(host);
  return isNumbers && !isIPv4(host)
    ? `"${host}" is no IPv4 address: four numbers up to 255, without leading zeros`
    : null;
}

/** Whether ssh takes the text for an address and not for a name, whose letters it makes small. */
export function looksLikeAddress(host: string): boolean {
  return /[:%]/.test(host);
}

/** An IPv6 address as ssh spells and looks it up, a zone kept; anything else as it came. */
export function sshAddress(host: string): string {
  const [address = '', ...zone] = host.split('%');
  if (!isIPv6(address)) return host;
  const canonical = [new SocketAddress({ address, family: 'ipv6' }).address, ...zone].join('%');
  return canonical.toLowerCase() === host.toLowerCase() ? host : canonical;
}
