/** Command lines for a person to type on a node, where reconcile itself may not or cannot act. */
import { hexOf, isUrl } from '../reference.ts';
import { shellQuote } from '../text.ts';
import type { DesiredImage } from '../model/desired.ts';
import type { CocoonSettings } from '../model/node.ts';

/**
 * The argument vector of one cocoon command. The root directory is always passed, so that what was read and what is
 * changed are the same; run and log directories only where the config sets them: a moved root does not
 * move them.
 */
function cocoonArgv(cocoon: CocoonSettings, ...args: string[]): string[] {
  const run = cocoon.runDir === null ? [] : ['--run-dir', cocoon.runDir];
  const log = cocoon.logDir === null ? [] : ['--log-dir', cocoon.logDir];
  return [cocoon.binary, '--root-dir', cocoon.rootDir, ...run, ...log, ...args];
}

/** Words → a line for a person's shell on the node. */
function typed(cocoon: CocoonSettings, argv: string[]): string {
  return (cocoon.sudo ? ['sudo', ...argv] : argv).map(shellQuote).join(' ');
}

/** Where a cloud image's blob lies. */
function blobPath(cocoon: CocoonSettings, digest: string): string {
  return `${cocoon.rootDir}/cloudimg/blobs/${hexOf(digest)}.qcow2`;
}

/**
 * What a person types to replace a bad blob once no VM runs on it: a forced pull alone keeps a non-empty file, and a
 * file set aside must not end in `.qcow2`, or gc takes it for a blob
 * (conformance: leaves a file set aside in blobs/ under another extension).
 */
export function replaceCommands(cocoon: CocoonSettings, reference: string, digest: string): string[] {
  const blob = blobPath(cocoon, digest);
  return [
    typed(cocoon, ['mv', blob, `${blob}.bad`]),
    typed(cocoon, cocoonArgv(cocoon, 'image', 'pull', '--force', reference)),
  ];
}

/**
 * The same for an image under a name, which has no URL to pull: its disk comes from the registry, part after part, is
 * compared with its digest, and imported in place of the bad file, which an import would keep
 * (conformance: a file whose blob is there is only entered).
 */
export function reimportCommands(
  cocoon: CocoonSettings,
  { image, blobs }: DesiredImage,
  { name, digest, epochUrl }: { name: string; digest: string; epochUrl: string },
): string[] {
  const blob = blobPath(cocoon, digest);
  const file = `/var/tmp/${hexOf(digest)}.qcow2`;
  const urls = blobs.map((part) => shellQuote(`${epochUrl}/v2/${image}/blobs/${part.digest}`));
  return [
    `curl -fsS --fail-early ${urls.join(' ')} >${file}`,
    `echo '${hexOf(digest)}  ${file}' | sha256sum -c`,
    typed(cocoon, ['mv', blob, `${blob}.bad`]),
    typed(cocoon, cocoonArgv(cocoon, 'image', 'import', name, file)),
    `rm ${file}`,
  ];
}

/** What a person types to restore the base that a snapshot pins, from a reference that names exactly that content. */
export function restoreCommands(cocoon: CocoonSettings, reference: string): string[] {
  const force = isUrl(reference) ? ['--force'] : [];
  return [typed(cocoon, cocoonArgv(cocoon, 'image', 'pull', ...force, reference))];
}
