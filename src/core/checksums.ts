/** SHA256SUMS layers: the digest of the joined file, where one says it and nothing contradicts it. */
import { isDigest } from './reference.ts';

export interface Part {
  title: string;
  digest: string;
}

export interface Checksums {
  /** The digest of the joined file; null where no line can be trusted to name it. */
  joined: string | null;
  /** Titles whose line differs from their layer: the artifact contradicts itself. */
  contradicted: string[];
}

const LINE = /^([0-9a-fA-F]{64}) [ *](.+)$/;

/**
 * Most files list the parts only, and those lines say nothing new. A line counts as the joined file's only if its name
 * is no part's, it is the only such line, and every line that names a part agrees with that part's layer.
 */
export function readChecksums(text: string, parts: Part[]): Checksums {
  const digests = new Map(parts.map(({ title, digest }) => [title, digest]));
  const contradicted: string[] = [];
  const others: string[] = [];
  for (const line of text.split(/\r?\n/)) {
    const [, hex, name] = LINE.exec(line) ?? [];
    if (hex === undefined || name === undefined) continue;
    const digest = `sha256:${hex.toLowerCase()}`;
    const part = digests.get(name);
    if (part === undefined) others.push(digest);
    else if (part !== digest) contradicted.push(name);
  }
  const [joined, ...more] = others;
  const isCertain = joined !== undefined && more.length === 0 && contradicted.length === 0 && isDigest(joined);
  return { joined: isCertain ? joined : null, contradicted };
}
