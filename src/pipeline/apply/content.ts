/** The content that is sent to a node which cannot pull it by itself. */
import { fault } from '../../core/errors.ts';
import type { Content } from '../../core/model/plan.ts';
import { isQcow2 } from '../../core/qcow2.ts';
import type { Registry } from '../../registry/client.ts';

/**
 * The content of an image as epoch joins it, part after part. What cannot come out right ends at once: a node that was
 * promised more bytes would wait for them.
 */
export async function* joinParts(
  epoch: Registry,
  reference: string,
  { repository, parts }: Content & { by: 'send' },
  signal: AbortSignal,
): AsyncGenerator<Buffer> {
  const [first] = parts;
  if (first !== undefined && !isQcow2(await epoch.blobHead(repository, first.digest, signal))) {
    throw fault('ARTIFACT_UNSUPPORTED', { image: reference, why: 'it is no qcow2 image, and cocoon imports no other' });
  }
  for (const { digest, sizeBytes } of parts) {
    let bytes = 0;
    for await (const chunk of epoch.blobStream(repository, digest, signal)) {
      bytes += chunk.length;
      if (bytes > sizeBytes) break;
      yield chunk;
    }
    if (bytes === sizeBytes) continue;
    const detail = `it came with ${bytes > sizeBytes ? 'more than ' : ''}${Math.min(bytes, sizeBytes)} of ${sizeBytes} bytes`;
    throw fault('REGISTRY_BLOB_MISSING', { repository, digest, detail });
  }
}
