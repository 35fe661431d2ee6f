/** `reconcile digest`: what registries serve now for each reference. */
import { fault } from '../../core/errors.ts';
import { publicDesired } from '../../core/report/report.ts';
import { meaningOf, parseImageName } from '../../core/reference.ts';
import { EXIT_CODES } from '../../core/model/exit-codes.ts';
import { addressesOf } from '../../core/model/settings.ts';
import { clip, count, formatBytes, shortDigest } from '../../core/text.ts';
import type { DesiredImage } from '../../core/model/desired.ts';
import { streamImage } from '../../pipeline/learn/stream.ts';
import { startInquiry } from '../../pipeline/resolve/inquiry.ts';
import { imageAtEpoch, resolveReference, resolveTracked, type Asking } from '../../pipeline/resolve/references.ts';
import { unlessAborted } from '../../system/deadline.ts';
import { redact } from '../../system/secrets.ts';
import { plainTable } from '../../reports/layout.ts';
import type { DigestOptions } from '../args/options.ts';
import type { Io, Tool } from '../io.ts';
import { createLog, progressLog } from '../log.ts';
import { printJson } from '../print.ts';
import { loadSettings, openRegistries } from '../setup.ts';

/** Prints what registries serve now for each reference. Exit code 3 when one is unknown, 1 when none could be asked. */
export async function digestCommand(options: DigestOptions, io: Io, tool: Tool): Promise<number> {
  const { settings } = await loadSettings(options, io);
  const log = await createLog(options, io);
  const { stop: signal } = io;
  const { clients, close } = await unlessAborted(openRegistries(settings, io, log), signal);
  try {
    const addresses = addressesOf(settings);
    const asking = { ...startInquiry(clients, signal), addresses };
    const context = { ...clients, signal, onTrouble: () => undefined }; // the error of the image says it
    const stream = options.stream && settings.images.stream ? progressLog(log) : null;
    const found: DesiredImage[] = [];
    for (const text of options.references) refuseUnknown(text, addresses);
    for (const text of options.references) {
      for (const image of await resolve(asking, text)) {
        const isWorthReading = image.unlearned && image.missingBlob === null;
        found.push(stream !== null && isWorthReading ? await streamImage(image, context, stream) : image);
      }
    }
    await clients.state.save();
    const isUnasked = found.every(
      ({ error }) => error?.code === 'REGISTRY_UNREACHABLE' || error?.code === 'REGISTRY_ANSWER_INVALID',
    );
    const { OK, ERROR, INCOMPLETE } = EXIT_CODES;
    const isIncomplete = found.some((image) => image.contentDigest === null);
    const { code } = isUnasked ? ERROR : isIncomplete ? INCOMPLETE : OK;
    if (options.quiet && code === OK.code) return code;
    if (options.output === 'json') {
      printJson(io, tool, isUnasked ? (found[0]?.error ?? null) : null, { desired: found.map(publicDesired) });
      if (code !== OK.code)
        io.err([...saidOf(found), digestVerdict(found, isUnasked)].map((line) => `${line}\n`).join(''));
    } else io.out(redact(digestTable(found)));
    if (io.interruptedBy() !== null) throw io.stop.reason;
    return code;
  } finally {
    await close();
  }
}

/** A word that can be no reference ends the command before anything is asked. */
function refuseUnknown(text: string, addresses: string[]): void {
  const { kind } = meaningOf(text, addresses);
  if (kind !== 'download' && kind !== 'epoch-oci' && parseImageName(text) === null) throw noReference(text, addresses);
}

function noReference(text: string, addresses: string[]): Error {
  return fault('CONFIG_INVALID', {
    problem: `"${text}" is neither repo[:tag], nor a /dl reference of ${addresses[0]}, nor an image of another registry`,
    hint: 'as simular/win11, simular/win11:v2 or ghcr.io/a/b:24.04',
  });
}

/** What a person means by a reference: a URL of epoch, `repo[:tag]` at epoch, or an image of another registry. */
async function resolve(asking: Asking, text: string): Promise<DesiredImage[]> {
  const { addresses } = asking;
  const { kind } = meaningOf(text, addresses);
  const platforms = ['amd64', 'arm64'];
  if (kind === 'download' || kind === 'epoch-oci') {
    const images = await resolveReference(asking, text, platforms);
    if (images.length > 0) return images.map((image) => ({ ...image, reference: text }));
  }
  const name = parseImageName(text);
  if (name === null) throw noReference(text, addresses);
  const { registry, repository } = name;
  const tag = name.tag ?? 'latest';
  if (registry === null) return [await imageAtEpoch(asking, { repository, tag })];
  const tracked = { image: repository, tag, registry, reference: text, presence: 'if-present' as const, pools: null };
  return await resolveTracked(asking, tracked, platforms);
}

function digestTable(desired: DesiredImage[]): string {
  const rows = desired.map(
    ({ image, tag, platform, kind, manifestDigest, contentDigest, contentDigestSource, sizeBytes }) => [
      clip(`${image}:${tag}${platform === null ? '' : ` (${platform})`}`, 80),
      kind ?? '—',
      shortDigest(manifestDigest),
      contentDigest ?? 'unknown',
      sizeBytes === null ? '—' : formatBytes(sizeBytes),
      contentDigestSource ?? '—',
    ],
  );
  const table = plainTable(['IMAGE', 'KIND', 'MANIFEST', 'CONTENT DIGEST', 'SIZE', 'LEARNED FROM'], rows);
  return `${[table, ...saidOf(desired)].join('\n')}\n`;
}

function saidOf(desired: DesiredImage[]): string[] {
  return desired.flatMap(({ image, tag, error, notes }) => [
    ...(error === null ? [] : [`${clip(`${image}:${tag}: ${error.message}`, 800)}\n  → ${clip(error.hint, 500)}`]),
    ...notes.map((note) => clip(`${image}:${tag}: ${note}`, 800)),
  ]);
}

function digestVerdict(desired: DesiredImage[], isUnasked: boolean): string {
  if (isUnasked) return `ERROR ${desired[0]?.error?.code ?? ''}: no reference could be asked for.`;
  const unknown = desired.filter(({ contentDigest }) => contentDigest === null).length;
  return `INCOMPLETE: the content of ${unknown} of ${count(desired.length, 'reference')} is not known.`;
}
