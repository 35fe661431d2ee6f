// `vm clone --pull`: fetches the base image where the index does not have it; never fails, only logs.
import type { Invocation } from './command.ts';
import { faults } from './faults.ts';
import { findImage, initImages, type BackendName } from './images.ts';
import { logger } from './log.ts';
import type { GuestConfig } from './records.ts';
import { quote } from './text.ts';

export async function ensureImage(call: Invocation, guest: GuestConfig): Promise<void> {
  const { image, image_digest: digest = '', image_type: type } = guest;
  if (!image || (type !== 'oci' && type !== 'cloudimg')) return;
  initImages(call);
  const log = logger('core.EnsureImage');
  if (await isIndexed(call, type, digest || image, log)) return;
  if (faults.newer && type === 'cloudimg' && !/^https?:\/\//.test(image)) {
    log.warn(
      `skipping auto-pull of ${image}: cloudimg ref ${quote(image)} is not an http(s) URL ` +
        '(imported or bare OCI ref?) — pre-pull manually if missing',
    );
    return;
  }
  const ref = await pullReference(image, digest, type);
  log.info(`base image not found locally, pulling ${ref} ...`);
  try {
    await pull(call, type, ref, faults.newer && digest !== '');
  } catch (error) {
    const cause = (error as Error).message;
    log.warn(`auto-pull ${ref} failed (imported image?): ${cause} — clone may fail if base layers are missing`);
    return;
  }
  // A URL cannot be pulled by digest, so what came may be another image.
  if (digest && ref === image && !(await findImage(call, type, digest))) {
    log.warn(`pulled ${ref} but expected digest ${digest} not found locally — clone may fail in VerifyBaseFiles`);
    return;
  }
  log.info(`base image ${ref} pulled successfully`);
}

/** The index alone decides: a blob that no entry names counts as missing, an entry without its blob as present. */
async function isIndexed(
  call: Invocation,
  type: BackendName,
  id: string,
  log: ReturnType<typeof logger>,
): Promise<boolean> {
  try {
    return (await findImage(call, type, id)) !== null;
  } catch (error) {
    log.warn(`inspect image ${id}: ${(error as Error).message} — will attempt pull`);
    return false;
  }
}

async function pullReference(image: string, digest: string, type: BackendName): Promise<string> {
  if (type !== 'oci' || digest === '') return image;
  const { parseReference, repositoryOf } = await import('./registry.ts');
  return `${repositoryOf(parseReference(image))}@${digest}`;
}

async function pull(call: Invocation, type: BackendName, ref: string, force: boolean): Promise<void> {
  if (type === 'oci') {
    const { pullOciImage } = await import('./oci.ts');
    return pullOciImage(call, ref, true);
  }
  const { pullCloudImage } = await import('./cloudimg.ts');
  return pullCloudImage(call, ref, force, true);
}
