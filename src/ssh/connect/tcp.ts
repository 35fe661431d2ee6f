/** TCP connections to SSH servers. */
import { Socket } from 'node:net';
import type { SshTarget } from '../../core/model/node.ts';
import { settleOnce } from '../../system/deadline.ts';
import { describeCause, errorCode, RETRYABLE_CODES, RetryableConnectError, unreachable } from './failure.ts';

/** How long one of several addresses of a host may take before the next is tried too. */
const ADDRESS_MS = 1_000;

/** @throws SSH_UNREACHABLE, a RetryableConnectError around it, or the signal's reason */
export function openTcp(target: SshTarget, stop: AbortSignal): Promise<Socket> {
  return settleOnce({ signal: stop }, ({ done, fail, onEnd }) => {
    const socket = new Socket();
    const onConnect = (): void => done(socket);
    onEnd((isDone) => {
      socket.off('connect', onConnect);
      if (!isDone) socket.destroy();
    });
    socket.once('connect', onConnect);
    // stays: whoever takes the socket over adds listeners of its own
    socket.on('error', (error) => {
      const reason = unreachable(target, describeCause(error, 'opening a TCP connection'), error);
      const code = errorCode(error);
      const why = code === 'ECONNREFUSED' ? 'refused' : RETRYABLE_CODES.has(code) ? 'dropped' : null;
      fail(why === null ? reason : new RetryableConnectError(reason, why));
    });
    socket.setNoDelay(true); // else Nagle's algorithm waits for delayed ACKs: 130 ms per node at 50 ms round trip
    socket.connect({ host: target.host, port: target.port, autoSelectFamilyAttemptTimeout: ADDRESS_MS });
    packWrites(socket); // not before: `connect` puts the original back
  });
}

/** Hands the system at once what is written at once: ssh2 writes each packet in three pieces, a segment and a wake-up each. */
function packWrites(socket: Socket): void {
  const write = socket.write.bind(socket) as (...args: unknown[]) => boolean;
  socket.write = (...args: unknown[]) => {
    if (socket.writableCorked === 0) {
      socket.cork();
      queueMicrotask(() => socket.uncork());
    }
    return write(...args);
  };
}
