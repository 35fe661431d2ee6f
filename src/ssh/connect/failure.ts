/** Why a machine could not be reached, in words for people, and whether another try is worth it. */
import { fault, type ReconcileError } from '../../core/errors.ts';
import type { SshTarget } from '../../core/model/node.ts';

/** How far a connection came before it failed. */
export type ConnectStage = 'reading keys' | 'opening a TCP connection' | 'the SSH handshake' | 'authentication';

/** A failure that is worth another try: nobody listens, the connection was dropped before it was made, or took long. */
export class RetryableConnectError extends Error {
  /** What to report where no further try is made. */
  readonly reported: ReconcileError;
  readonly why: 'refused' | 'dropped' | 'slow';
  constructor(reported: ReconcileError, why: RetryableConnectError['why']) {
    super(reported.message);
    this.reported = reported;
    this.why = why;
  }
}

/** Code of a system error → what it means for a person. */
export const CAUSES: Record<string, string> = {
  ECONNREFUSED: 'connection refused',
  ECONNRESET: 'connection reset',
  EPIPE: 'connection reset',
  EHOSTUNREACH: 'no route to host',
  ENETUNREACH: 'network is unreachable',
  ETIMEDOUT: 'the TCP connection timed out',
  ENOTFOUND: 'name not found',
  EAI_AGAIN: 'the name service does not answer',
};
/** What a server does that has too many connections in the making, or that is just starting. */
export const RETRYABLE_CODES: ReadonlySet<string> = new Set(['ECONNREFUSED', 'ECONNRESET', 'EPIPE']);

/** The code of a system error; of several addresses that failed (an AggregateError) that of the first. */
export function errorCode(error: Error): string {
  const first = (error instanceof AggregateError ? error.errors[0] : error) as NodeJS.ErrnoException | undefined;
  return first?.code ?? '';
}

/** @param error null where the server closed the connection without one */
export function describeCause(error: Error | null, stage: ConnectStage): string {
  if (error === null) {
    return stage === 'authentication'
      ? 'the server closed the connection during authentication'
      : 'the server closed the connection before the SSH handshake (does sshd throttle by MaxStartups?)';
  }
  return CAUSES[errorCode(error)] ?? `${stage} failed: ${error.message}`;
}

/** SSH_UNREACHABLE for this machine. */
export function unreachable({ host, port, proxyCommand }: SshTarget, cause: string, error?: unknown): ReconcileError {
  return fault('SSH_UNREACHABLE', { host, port, cause, proxyCommand }, error);
}
