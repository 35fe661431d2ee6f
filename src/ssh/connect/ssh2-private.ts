/**
 * The private parts of ssh2 that we touch, all of them. Each saves a round trip or CPU on every connection. Each is looked for
 * before it is used; where ssh2 is not as it was in the pinned version, it goes its own way.
 */
import type ssh2 from 'ssh2';
import type { ParsedKey } from 'ssh2';

/** What of ssh2's protocol is private, and the same in all releases of the one that is pinned. */
interface AuthProtocol {
  authPK?: (user: string, key: ParsedKey, algorithm: string | undefined, sign?: SignRequest) => void;
  service?: (name: string) => void;
  _handlers?: {
    SERVICE_ACCEPT?: (protocol: AuthProtocol, name: string) => void;
    GLOBAL_REQUEST?: (protocol: AuthProtocol, name: string, wantsReply: boolean, data: Buffer) => void;
  };
  _packetRW?: { write: { allocStart: number; alloc: (bytes: number) => Buffer; finalize: (packet: Buffer) => Buffer } };
  _kexinit?: unknown;
  _cipher?: { encrypt: (packet: Buffer) => void };
}
type SignRequest = (data: Buffer, done: (signature: Buffer) => void) => void;

/**
 * ssh2 asks first whether the server would take a key, and signs when it would: a round trip for nothing where signing
 * takes microseconds. A key that we hold, and not the agent, signs at once. Where ssh2 is not as it was, it asks.
 */
export function signAtOnce(client: ssh2.Client): void {
  const protocol = protocolOf(client);
  const ask = protocol?.authPK;
  if (protocol === undefined || ask?.length !== 4) return;
  protocol.authPK = (user, key, algorithm, asked) => {
    const sign: SignRequest = (data, done) => {
      const hash = /^rsa-sha2-(256|512)$/.exec(algorithm ?? '')?.[1];
      const signature: Buffer | Error = key.sign(data, hash === undefined ? hash : `sha${hash}`);
      if (signature instanceof Error) ask.call(protocol, user, key, algorithm);
      else done(signature);
    };
    ask.call(protocol, user, key, algorithm, asked ?? (key.isPrivateKey() ? sign : undefined));
  };
}

/**
 * ssh2 asks whether it may log in, and does so when it may: a round trip for nothing, because the answer is always yes (RFC
 * 4253, 10: a server that refuses the service disconnects). This goes on as if the answer were there, once the host key was
 * verified. Where ssh2 is not as it was, it waits.
 *
 * What sshd then says it says in small pieces, and TCP there keeps each until we acknowledge the one before, which TCP here
 * leaves for 40 ms to a packet of ours (Nagle's algorithm, delayed acknowledgements). So one is sent that means nothing.
 */
export function offerAtOnce(client: ssh2.Client): void {
  const protocol = protocolOf(client);
  const { service: ask, _handlers: handlers, _packetRW: packets, _cipher: cipher } = protocol ?? {};
  const accepted = handlers?.SERVICE_ACCEPT;
  const isKnown = ask?.length === 1 && accepted?.length === 2 && packets !== undefined;
  if (!isKnown || protocol === undefined || handlers === undefined || cipher === undefined) return;
  protocol.service = (name) => {
    ask.call(protocol, name);
    handlers.SERVICE_ACCEPT = () => {
      if (protocol._kexinit !== undefined) return; // keys are being exchanged: what is sent now has to wait
      const packet = packets.write.alloc(IGNORE.length);
      packet.set(IGNORE, packets.write.allocStart);
      protocol._cipher?.encrypt(packets.write.finalize(packet));
    };
    accepted(protocol, name);
  };
}

/**
 * sshd says which other host keys it has (`hostkeys-00@openssh.com`), and ssh2 has it prove each. Nothing here
 * uses that, and it costs a tenth of a run's CPU. Under a name that it does not know, ssh2 declines such a request as any other. Where it is not as it was, it asks.
 */
export function declineHostKeys(client: ssh2.Client): void {
  const handlers = protocolOf(client)?._handlers;
  const answer = handlers?.GLOBAL_REQUEST;
  if (handlers === undefined || answer?.length !== 4) return;
  handlers.GLOBAL_REQUEST = (protocol, _name, wantsReply, data) => answer(protocol, '', wantsReply, data);
}

/** SSH_MSG_IGNORE with no data (RFC 4253, 11.2). */
const IGNORE = [2, 0, 0, 0, 0];

function protocolOf(client: ssh2.Client): AuthProtocol | undefined {
  return (client as unknown as { _protocol?: AuthProtocol })._protocol;
}
