// Cloud images: download, sniff, convert, commit.
import { createHash } from 'node:crypto';
import {
  chmodSync,
  closeSync,
  openSync,
  readSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import type { IncomingMessage } from 'node:http';
import { join } from 'node:path';
import { print, type Invocation } from './command.ts';
import { faults } from './faults.ts';
import { fileSize, isValidFile, randomName } from './files.ts';
import { getFollowing, type Answer } from './http.ts';
import { imageStore, lookupExactly, wrapped } from './images.ts';
import { interrupt, pause } from './interrupt.ts';
import { lock } from './lock.ts';
import { logger } from './log.ts';
import { makeQcow2, QCOW2_MAGIC, readQcow2Header } from './qcow2.ts';
import { goTime, humanSize } from './text.ts';

const MAX_BYTES = 20 * 2 ** 30;
const DOWNLOAD_LIMIT_MS = 30 * 60_000;
const PROGRESS_BYTES = 2 ** 20;

/** Payloads that are certainly no disk, by their first bytes. */
const NO_DISKS: [string, string][] = [
  ['<!', 'content looks like HTML/XML, not a disk image'],
  ['<?', 'content looks like HTML/XML, not a disk image'],
  ['<h', 'content looks like HTML, not a disk image'],
  ['<H', 'content looks like HTML, not a disk image'],
  ['\x1f\x8b', 'content is gzip-compressed (cloudimg does not auto-decompress)'],
  ['\xfd7zXZ\0', 'content is xz-compressed (cloudimg does not auto-decompress)'],
  ['BZh', 'content is bzip2-compressed (cloudimg does not auto-decompress)'],
  ['\x28\xb5\x2f\xfd', 'content is zstd-compressed (cloudimg does not auto-decompress)'],
  ['PK', 'content is a zip archive, not a disk image'],
  ['\x37\x7a\xbc\xaf\x27\x1c', 'content is a 7z archive, not a disk image'],
];

/** Formats that qemu-img would recognise and cocoon refuses. */
const FOREIGN_FORMATS: [string, string][] = [
  ['KDMV', 'vmdk'],
  ['# Disk DescriptorFile', 'vmdk'],
  ['<<< ', 'vdi'],
  ['vhdxfile', 'vhdx'],
  ['conectix', 'vpc'],
  ['QED\0', 'qed'],
];

/** What a commit tells its caller, to be logged in the caller's name. */
export interface CommitEvents {
  converting(): void;
  committing(): void;
  done(): void;
}

/** Pulls a URL; without `force` a known URL whose blob is not empty is not asked again. */
export async function pullCloudImage(call: Invocation, url: string, force: boolean, quiet = false): Promise<void> {
  const store = await imageStore(call, 'cloudimg');
  if (!force) {
    const entry = lookupExactly((await store.read()).images, url);
    if (entry && 'content_sum' in entry && isValidFile(call.layout.cloudimgBlob(entry.content_sum.slice(7)))) return;
  }
  const log = logger('cmd.images.pullCloudimg');
  const say = quiet ? () => {} : (message: string) => log.info(message);
  const show = quiet ? () => {} : print;
  const temporary = join(call.layout.cloudimgDir, 'temp', `pull-${randomName()}.img`);
  try {
    const hex = await download(url, temporary, say, show);
    await wrapped(`download ${url}`, async () => sniff(readHead(temporary, 8)));
    await commit(call, url, temporary, hex, {
      converting: () => {
        show('\n');
        say('converting to qcow2...');
      },
      committing: () => say('committing...'),
      done: () => say(`done: ${url}`),
    });
    logger('cloudimg.pull').info(`pull complete: ${url} -> sha256:${hex}`);
  } finally {
    rmSync(temporary, { force: true });
  }
}

/** Throws the sentence for a payload that is no disk image. */
export function sniff(head: Buffer): void {
  if (head.length < 4) throw new Error(`content too small to be a disk image (${head.length} bytes)`);
  if (head.subarray(0, 4).equals(QCOW2_MAGIC)) return;
  const found = NO_DISKS.find(([magic]) => head.toString('latin1').startsWith(magic));
  if (found) throw new Error(found[1]);
}

/**
 * Puts a downloaded or imported file into the store under its digest.
 * A blob that is there and not empty is kept as it is, good or bad; its size is recorded anew.
 */
export async function commit(
  call: Invocation,
  ref: string,
  source: string,
  hex: string,
  events: CommitEvents,
): Promise<void> {
  const blob = call.layout.cloudimgBlob(hex);
  const prepared = isValidFile(blob) ? null : await prepareBlob(call, source, hex, events);
  try {
    events.committing();
    const store = await imageStore(call, 'cloudimg');
    await wrapped('update index', () =>
      store.update(({ images }) => {
        if (prepared && !isValidFile(blob)) {
          renameSync(prepared, blob);
          chmodSync(blob, 0o444);
        }
        images[ref] = { ref, content_sum: `sha256:${hex}`, size: statSync(blob).size, created_at: goTime() };
      }),
    );
  } finally {
    if (prepared) rmSync(prepared, { force: true });
  }
  events.done();
}

/** The first bytes of a file. */
export function readHead(path: string, length: number): Buffer {
  const fd = openSync(path, 'r');
  try {
    const head = Buffer.alloc(length);
    return head.subarray(0, readSync(fd, head, 0, length, 0));
  } finally {
    closeSync(fd);
  }
}

async function download(url: string, path: string, say: (text: string) => void, show: (text: string) => void) {
  const response = await wrapped(`http get ${url}`, () => requestImage(url));
  const total = Number(response.message.headers['content-length'] ?? -1);
  say(`downloading cloud image ${url}${total > 0 ? ` (${humanSize(total)})` : ''}`);
  const fd = openSync(path, 'wx', 0o600);
  const hash = createHash('sha256');
  let written = 0;
  let reported = 0;
  try {
    await wrapped(`download ${url}`, async () => {
      await consume(response.message, (chunk) => {
        hash.update(chunk);
        writeSync(fd, chunk);
        written += chunk.length;
        if (written > MAX_BYTES) throw new Error(`exceeded max size (${MAX_BYTES} bytes)`);
        if (written - reported < PROGRESS_BYTES) return;
        reported = written;
        const percent = ((written / total) * 100).toFixed(1);
        const done = humanSize(written);
        show(total > 0 ? `\r  ${done} / ${humanSize(total)} (${percent}%)` : `\r  ${done} downloaded`);
      });
      await pause(faults.pullDelay);
    });
  } finally {
    closeSync(fd);
    response.message.destroy();
  }
  return hash.digest('hex');
}

/** One GET; N first asks for eight bytes and, where ranges are not served, drops that answer and asks again (C.3). */
async function requestImage(url: string): Promise<Answer> {
  if (faults.newer) {
    const probe = await getFollowing(url, { range: 'bytes=0-7' });
    probe.message.destroy();
  }
  const answer = await getFollowing(url, {});
  const { statusCode, statusMessage } = answer.message;
  if (statusCode === 200) return answer;
  answer.message.destroy();
  throw new Error(`status ${statusCode}${faults.newer ? '' : ` ${statusCode}`} ${statusMessage}`);
}

function consume(message: IncomingMessage, use: (chunk: Buffer) => void): Promise<void> {
  return new Promise((resolve, reject) => {
    const fail = (error: Error) => {
      clearTimeout(timer);
      interrupt.removeEventListener('abort', cancel);
      message.destroy();
      reject(error);
    };
    const cancel = () => fail(new Error('context canceled'));
    const timer = setTimeout(
      () => fail(new Error('context deadline exceeded (Client.Timeout or context cancellation while reading body)')),
      DOWNLOAD_LIMIT_MS,
    );
    interrupt.addEventListener('abort', cancel, { once: true });
    message.on('data', (chunk: Buffer) => {
      try {
        use(chunk);
      } catch (error) {
        fail(error as Error);
      }
    });
    message.on('error', () => fail(new Error('unexpected EOF')));
    message.on('end', () => {
      clearTimeout(timer);
      interrupt.removeEventListener('abort', cancel);
      if (message.complete) resolve();
      else reject(new Error('unexpected EOF'));
    });
  });
}

/** A file ready to be renamed into place: the source itself if it is qcow2 v3 without a backing file. */
async function prepareBlob(
  call: Invocation,
  source: string,
  hex: string,
  events: CommitEvents,
): Promise<string | null> {
  const prepared = join(call.layout.cloudimgDir, 'temp', `.tmp-${hex}.qcow2`);
  const format = await wrapped('inspect image', async () => inspectFormat(source));
  if (format === 'final') {
    renameSync(source, prepared);
    return prepared;
  }
  const held = await wrapped('acquire convert lock', () => lock(`${prepared}.lock`));
  try {
    if (isValidFile(call.layout.cloudimgBlob(hex))) return null;
    events.converting();
    convert(source, prepared, hex);
    return prepared;
  } finally {
    held.release();
  }
}

function inspectFormat(path: string): 'final' | 'convertible' {
  const head = readHead(path, 32);
  const header = readQcow2Header(head);
  if (header) {
    if (header.version !== 2 && header.version !== 3) throw new Error(`unsupported qcow2 version ${header.version}`);
    return header.version === 3 && head.readBigUInt64BE(8) === 0n ? 'final' : 'convertible';
  }
  const foreign = FOREIGN_FORMATS.find(([magic]) => head.toString('latin1').startsWith(magic));
  if (foreign) throw new Error(`unsupported source format "${foreign[1]}" (expected qcow2 or raw)`);
  return 'convertible';
}

/** Stands for `qemu-img convert`: another valid qcow2 v3 image, whose bytes are not those that gave it its name. */
function convert(source: string, target: string, hex: string): void {
  const backing = readQcow2Header(readHead(source, 4096))?.backing ?? null;
  if (backing !== null && !isValidFile(backing)) {
    throw new Error(
      `qemu-img convert: qemu-img: Could not open '${source}': Could not open backing file: ` +
        `Could not open '${backing}': No such file or directory: exit status 1`,
    );
  }
  writeFileSync(target, makeQcow2({ seed: hex, size: Math.min(fileSize(source), 2 ** 20) }));
}
