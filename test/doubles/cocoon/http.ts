// HTTP GET over Node's own client: redirects as Go's follows them, failures in Go's words.
import type { IncomingMessage, OutgoingHttpHeaders } from 'node:http';
import { interrupt } from './interrupt.ts';

const MAX_REDIRECTS = 10;

export interface Answer {
  message: IncomingMessage;
  /** The address after redirects. */
  url: string;
}

/** Asks and follows redirects; throws `Get "URL": …`. */
export async function getFollowing(url: string, headers: OutgoingHttpHeaders): Promise<Answer> {
  let address = url;
  for (let hops = 0; ; hops += 1) {
    const message = await get(address, headers);
    const { location } = message.headers;
    if (![301, 302, 303, 307, 308].includes(message.statusCode ?? 0) || location === undefined) {
      return { message, url: address };
    }
    message.destroy();
    address = new URL(location, address).href;
    if (hops + 1 >= MAX_REDIRECTS) throw new Error(`Get ${JSON.stringify(address)}: stopped after 10 redirects`);
  }
}

/** The whole body as bytes. */
export async function readBody(message: IncomingMessage): Promise<Buffer> {
  const chunks: Buffer[] = [];
  try {
    for await (const chunk of message) chunks.push(chunk as Buffer);
  } catch (error) {
    throw new Error(interrupt.aborted ? 'context canceled' : 'unexpected EOF', { cause: error });
  }
  return Buffer.concat(chunks);
}

async function get(url: string, headers: OutgoingHttpHeaders): Promise<IncomingMessage> {
  const { request } = url.startsWith('https:') ? await import('node:https') : await import('node:http');
  return new Promise((resolve, reject) => {
    const fail = (error: Error) => reject(new Error(`Get ${JSON.stringify(url)}: ${words(error)}`, { cause: error }));
    try {
      const outgoing = request(url, {
        agent: false,
        headers: { 'user-agent': 'Go-http-client/1.1', ...headers },
        signal: interrupt,
      });
      outgoing.on('response', resolve);
      outgoing.on('error', fail);
      outgoing.end();
    } catch (error) {
      fail(error as Error);
    }
  });
}

function words(error: NodeJS.ErrnoException & { address?: string; port?: number; hostname?: string }): string {
  if (interrupt.aborted) return 'context canceled';
  const { code = '' } = error;
  if (code === 'ECONNREFUSED') return `dial tcp ${error.address}:${error.port}: connect: connection refused`;
  if (['ENOTFOUND', 'EAI_AGAIN'].includes(code)) return `dial tcp: lookup ${error.hostname}: no such host`;
  if (code === 'ECONNRESET') return error.message === 'socket hang up' ? 'EOF' : 'read: connection reset by peer';
  return error.message;
}
