/** References and digests: the keys of a node's index, and what they mean at epoch. */

const DIGEST = /^sha256:[0-9a-f]{64}$/;

/** True for `sha256:<64 lower-case hex>`, the only algorithm that cocoon and epoch use. */
export function isDigest(text: string): boolean {
  return DIGEST.test(text);
}

/** `sha256:<hex>` → `<hex>`, the stem of the blob's file name. */
export function hexOf(digest: string): string {
  return digest.slice('sha256:'.length);
}

/** Whether cocoon takes a key as a URL, and so as a cloud image to download. */
export function isUrl(reference: string): boolean {
  return /^https?:\/\//.test(reference);
}

/** The path component pattern of the OCI distribution specification. */
const REPOSITORY = /^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:\/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*$/;
const TAG = /^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$/;

export function isRepository(text: string): boolean {
  return text.length <= 255 && REPOSITORY.test(text);
}

export function isTag(text: string): boolean {
  return TAG.test(text);
}

/** What a person writes under `images.track`: `registry` is null for epoch. */
export interface ImageName {
  registry: string | null;
  repository: string;
  tag: string | null;
}

/**
 * `simular/win11`, `simular/win11:v2`, `ghcr.io/a/b:24.04` → its parts, or null when it is none. A first component
 * with a dot, a colon or `localhost` names a registry, as in every OCI client.
 */
export function parseImageName(text: string): ImageName | null {
  const slash = text.indexOf('/');
  const first = slash === -1 ? '' : text.slice(0, slash);
  const registry = /[.:]/.test(first) || first === 'localhost' ? first : null;
  if (registry === null && /^[0-9a-f]{64}$/.test(text)) return null; // every client takes that for a digest
  const rest = registry === null ? text : text.slice(slash + 1);
  const colon = rest.lastIndexOf(':');
  const repository = colon === -1 ? rest : rest.slice(0, colon);
  const tag = colon === -1 ? null : rest.slice(colon + 1);
  if (!isRepository(repository) || (tag !== null && !isTag(tag))) return null;
  if (registry !== null && !isRegistry(registry)) return null;
  return { registry, repository, tag };
}

const LABEL = '(?:[A-Za-z0-9]|[A-Za-z0-9][A-Za-z0-9-]*[A-Za-z0-9])';
const REGISTRY = new RegExp(`^(?:${LABEL}(?:\\.${LABEL})*|\\[[0-9a-fA-F:]+\\])(?::[0-9]{1,5})?$`);

/** A registry's host by distribution's grammar: labels with dots, or an IPv6 address in brackets; and a port. */
function isRegistry(host: string): boolean {
  return REGISTRY.test(host) && URL.canParse(`http://${host}`);
}

/** `repo[:tag]` of a snapshot, split at the first colon as vk-cocoon does; null when it is none. */
export function parseSnapshotName(text: string): { repository: string; tag: string } | null {
  const colon = text.indexOf(':');
  const repository = colon === -1 ? text : text.slice(0, colon);
  const tag = colon === -1 || colon === text.length - 1 ? 'latest' : text.slice(colon + 1);
  return isRepository(repository) && isTag(tag) ? { repository, tag } : null;
}

/** The name under which vk-cocoon keeps `repo:tag` on a node: `latest` is left out. */
export function localSnapshotName(snapshot: string): string {
  return snapshot.endsWith(':latest') ? snapshot.slice(0, -':latest'.length) : snapshot;
}

/** The reference under which a tracked epoch image is pulled: `/dl/REPO` for `latest`, else `/dl/REPO/TAG`. */
export function epochReference(epochUrl: string, repository: string, tag: string): string {
  return `${epochUrl}/dl/${repository}${tag === 'latest' ? '' : `/${tag}`}`;
}

/** What the key of an index entry is, seen from one epoch at all its addresses. */
export type Meaning =
  /** `<epoch>/dl/PATH`: a mutable tag; which one, only epoch can say. */
  | { kind: 'download'; path: string }
  /** A digest form at epoch, `/dl/…/sha256:…` or `/v2/…/blobs/sha256:…`: immutable, so it never goes stale. */
  | { kind: 'immutable' }
  /**
   * An OCI reference at epoch's own host, which cocoon cannot pull without a credential
   * (conformance: a registry that gives an empty token cannot be pulled from).
   */
  | { kind: 'epoch-oci'; repository: string; tag: string }
  /** Any other URL. */
  | { kind: 'foreign-url' }
  /** No URL: a name given by `cocoon image import`, or an OCI reference. */
  | { kind: 'name' };

/** The meaning of a key at the first of these addresses of one epoch at which it has any. */
export function meaningOf(reference: string, addresses: string[]): Meaning {
  const address = addressOf(reference, addresses);
  return address === null ? { kind: isUrl(reference) ? 'foreign-url' : 'name' } : meaningAt(reference, address);
}

/** The address of epoch under which a key is spelled, as the config has it; null where it is of no known one. */
export function addressOf(reference: string, addresses: string[]): string | null {
  const isKnown = ({ kind }: Meaning): boolean => kind !== 'foreign-url' && kind !== 'name';
  return addresses.find((address) => isKnown(meaningAt(reference, address))) ?? null;
}

/** Whether two keys are the same download of one epoch, be it under two of its addresses. */
export function isSameDownload(one: string, other: string, addresses: string[]): boolean {
  const [a, b] = [meaningOf(one, addresses), meaningOf(other, addresses)];
  return a.kind === 'download' && b.kind === 'download' && a.path === b.path;
}

/**
 * Reads the key as HTTP would send it: scheme and host without regard to case, a default port left out, the query
 * ignored by epoch, the path compared byte by byte (`/dl/x/` is another repository than `/dl/x`).
 */
function meaningAt(reference: string, epochUrl: string): Meaning {
  if (!isUrl(reference)) return nameOf(reference, new URL(epochUrl));
  if (!URL.canParse(reference)) return { kind: 'foreign-url' };
  const url = new URL(reference);
  const epoch = new URL(epochUrl);
  const base = epoch.pathname.replace(/\/$/, '');
  if (url.origin !== epoch.origin || url.username !== '' || !url.pathname.startsWith(`${base}/`)) {
    return { kind: 'foreign-url' };
  }
  const path = url.pathname.slice(base.length);
  if (path.startsWith('/dl/')) {
    const name = path.slice('/dl/'.length);
    if (/(^|\/)sha256:[0-9a-f]{64}$/.test(name)) return { kind: 'immutable' };
    return name === '' ? { kind: 'foreign-url' } : { kind: 'download', path: name };
  }
  return /^\/v2\/.+\/blobs\/sha256:[0-9a-f]{64}$/.test(path) ? { kind: 'immutable' } : { kind: 'foreign-url' };
}

function nameOf(reference: string, epoch: URL): Meaning {
  const slash = reference.indexOf('/');
  const host = reference.slice(0, slash);
  const port = epoch.port === '' ? (epoch.protocol === 'https:' ? '443' : '80') : epoch.port;
  const isEpoch = slash > 0 && (host === epoch.host || host === `${epoch.hostname}:${port}`);
  if (!isEpoch) return { kind: 'name' };
  if (/@sha256:[0-9a-f]{64}$/.test(reference)) return { kind: 'immutable' };
  const name = parseImageName(reference);
  return name === null
    ? { kind: 'name' }
    : { kind: 'epoch-oci', repository: name.repository, tag: name.tag ?? 'latest' };
}

/** `http://HOST/PREFIX/dl/PATH` → the address, which may be one of an epoch, and PATH; null for what can be none. */
export function downloadOf(reference: string): { address: string; path: string } | null {
  if (!isUrl(reference) || !URL.canParse(reference)) return null;
  const { origin, pathname, username } = new URL(reference);
  const [, prefix, path] = /^(.*?)\/dl\/(.+)$/.exec(pathname) ?? [];
  return username !== '' || prefix === undefined || path === undefined ? null : { address: `${origin}${prefix}`, path };
}

/**
 * The two readings of `/dl/PATH`: the whole path as a repository with tag `latest`, and, on newer servers only and there
 * first, the last segment as the tag (conformance: lets repository a with tag b shadow a/b:latest).
 */
export function readingsOf(path: string): {
  whole: { repository: string; tag: string } | null;
  split: { repository: string; tag: string } | null;
} {
  const whole = isRepository(path) ? { repository: path, tag: 'latest' } : null;
  const slash = path.lastIndexOf('/');
  const repository = path.slice(0, slash);
  const tag = path.slice(slash + 1);
  return { whole, split: slash > 0 && isRepository(repository) && isTag(tag) ? { repository, tag } : null };
}
