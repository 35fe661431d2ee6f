/** The commands that only look: `reconcile nodes` and `reconcile digest`. */
import { errorInfo, fault } from '../core/errors.ts';
import { publicDesired } from '../core/report.ts';
import { meaningOf, parseImageName } from '../core/reference.ts';
import { clip, formatBytes, shortDigest } from '../core/text.ts';
import type { Desired, DesiredImage } from '../core/types.ts';
import { createResolver, type Resolver } from '../pipeline/resolve.ts';
import { plainTable } from '../reports/table.ts';
import type { DigestOptions, NodesOptions } from './args.ts';
import type { Io, Tool } from './io.ts';
import { loadNodes, loadSettings, openRegistry } from './setup.ts';

/** Prints the inventory after filters; contacts no node. */
export async function nodesCommand(options: NodesOptions, io: Io, tool: Tool): Promise<number> {
  const configured = await loadSettings(options, io);
  const nodes = (await loadNodes(configured, options.nodes, io)).map(({ name, host, port, user, pool }) => ({
    name,
    host,
    port,
    user,
    pool,
  }));
  if (options.quiet) return 0;
  if (options.output === 'json') io.out(`${JSON.stringify({ schemaVersion: 1, tool, nodes }, null, 2)}\n`);
  else {
    const rows = nodes.map(({ name, host, port, user, pool }) =>
      [name, host, String(port), user, pool].map((cell) => clip(cell, 100)),
    );
    io.out(`${plainTable(['NODE', 'HOST', 'PORT', 'USER', 'POOL'], rows)}\n`);
  }
  return 0;
}

/** Prints what epoch serves now for each reference. Exit code 3 when one is unknown, 1 when none could be asked. */
export async function digestCommand(options: DigestOptions, io: Io, tool: Tool): Promise<number> {
  const { settings } = await loadSettings(options, io);
  const registry = await openRegistry(settings);
  const signal = AbortSignal.any([io.interrupted, AbortSignal.timeout(options.timeoutMs ?? settings.run.timeoutMs)]);
  try {
    const resolver = createResolver(registry, settings.epoch.url, signal);
    const found = await Promise.all(options.references.map((text) => resolve(resolver, text, settings.epoch.url)));
    const code = !registry.hasAnswered() ? 1 : found.some((image) => image.contentDigest === null) ? 3 : 0;
    if (options.quiet && code === 0) return code;
    const desired = found.map(publicDesired);
    if (options.output === 'json') io.out(`${JSON.stringify({ schemaVersion: 1, tool, desired }, null, 2)}\n`);
    else io.out(digestTable(desired));
    return code;
  } finally {
    await registry.close();
  }
}

async function resolve(resolver: Resolver, text: string, epochUrl: string): Promise<DesiredImage> {
  if (meaningOf(text, epochUrl).kind === 'download') {
    const image = await resolver.reference(text);
    if (image !== null) return { ...image, reference: text };
  }
  const name = parseImageName(text);
  if (name === null) {
    throw fault('CONFIG_INVALID', {
      problem: `"${text}" is neither repo[:tag] nor a /dl reference of ${epochUrl}`,
      hint: 'as simular/win11 or simular/win11:v2',
    });
  }
  if (name.registry === null) return await resolver.image(name.repository, name.tag ?? 'latest');
  const why = 'OCI images of other registries are not resolved yet';
  return {
    ...(await Promise.resolve(unresolved(text))),
    error: errorInfo('ARTIFACT_UNSUPPORTED', { image: text, why }),
  };
}

function unresolved(reference: string): DesiredImage {
  return {
    image: reference,
    tag: 'latest',
    platform: null,
    reference,
    kind: 'container-image',
    manifestDigest: null,
    contentDigest: null,
    contentDigestSource: null,
    sizeBytes: null,
    error: null,
    tracked: false,
    blobs: [],
    missingBlob: null,
    stored: null,
    notes: [],
  };
}

function digestTable(desired: Desired[]): string {
  const rows = desired.map(({ image, tag, kind, manifestDigest, contentDigest, contentDigestSource, sizeBytes }) => [
    clip(`${image}:${tag}`, 80),
    kind ?? '—',
    shortDigest(manifestDigest),
    contentDigest ?? 'unknown',
    sizeBytes === null ? '—' : formatBytes(sizeBytes),
    contentDigestSource ?? '—',
  ]);
  const table = plainTable(['IMAGE', 'KIND', 'MANIFEST', 'CONTENT DIGEST', 'SIZE', 'LEARNED FROM'], rows);
  const errors = desired.flatMap(({ image, tag, error }) =>
    error === null ? [] : [`${image}:${tag}: ${error.message}${error.hint === null ? '' : `\n  → ${error.hint}`}`],
  );
  return `${[table, ...errors].join('\n')}\n`;
}
