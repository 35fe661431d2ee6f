// Answers of an SSH server that is no limit: a command is run the first time that it is asked, and told from memory then.
import { spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import type { Socket } from 'node:net';
import type { ServerChannel } from 'ssh2';
import { answer, type ExecHook } from './ssh-server.ts';

interface Answer {
  /** Each character is a byte. */
  stdout: string;
  code: number;
}

/** What was said once is said again to everyone who asks the same: only this word of a command differs each time. */
const NONCE = /\b[0-9a-f]{16}\b/;

/** Stands for it in what is remembered. */
const BLANK = randomUUID();

/** @param among `one`: what one address answers, all do; `each`: each answers for itself, and finds its own in SSH_CONNECTION */
export function fromMemory(among: 'one' | 'each'): ExecHook {
  const remembered = new Map<string, Promise<Answer>>();
  const replay = async (channel: ServerChannel, command: string): Promise<void> => {
    const { localAddress = '' } = (channel as unknown as { _client: { _sock: Socket } })._client._sock;
    const stdin: Buffer[] = [];
    channel.on('data', (chunk: Buffer) => stdin.push(chunk));
    await once(channel, 'end');
    const nonce = NONCE.exec(command)?.[0] ?? '-';
    const asked = `${among === 'each' ? localAddress : ''} ${command.replaceAll(nonce, BLANK)}`;
    let told = remembered.get(asked);
    if (!told) remembered.set(asked, (told = run(command, localAddress, Buffer.concat(stdin), nonce)));
    const { stdout, code } = await told;
    answer(Buffer.from(stdout.replaceAll(BLANK, nonce), 'latin1'), code)(channel, command);
  };
  return (channel, command) => void replay(channel, command).catch(() => channel.close());
}

async function run(command: string, address: string, stdin: Buffer, nonce: string): Promise<Answer> {
  const env = { PATH: process.env['PATH'], SSH_CONNECTION: `- - ${address} -` };
  const child = spawn('/bin/sh', ['-c', command], { env, stdio: ['pipe', 'pipe', 'ignore'] });
  const stdout: Buffer[] = [];
  child.stdout.on('data', (chunk: Buffer) => stdout.push(chunk));
  child.stdin.on('error', () => undefined).end(stdin);
  const [code] = (await once(child, 'close')) as [number | null];
  return { stdout: Buffer.concat(stdout).toString('latin1').replaceAll(nonce, BLANK), code: code ?? 255 };
}
