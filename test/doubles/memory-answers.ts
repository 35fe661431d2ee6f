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

/** A command that reads a script first, and then a heartbeat, whose end would end it. */
const READS_SCRIPT = /script=\$\(head -c \d+\)|sh -s$/;

/** Stands for it in what is remembered. */
const BLANK = randomUUID();

/** What an address says in place of the truth. Each character is a byte. */
export type Lie = (address: string, command: string, stdout: string, nonce: string) => string;

/**
 * @param among `one`: what one address answers, all do; `each`: each answers for itself, and finds its own in SSH_CONNECTION
 * @param lie what is said instead; the truth is what is remembered
 */
export function fromMemory(among: 'one' | 'each', lie: Lie = (_address, _command, stdout) => stdout): ExecHook {
  const remembered = new Map<string, Promise<Answer>>();
  const replay = async (channel: ServerChannel, command: string): Promise<void> => {
    const { localAddress = '' } = (channel as unknown as { _client: { _sock: Socket } })._client._sock;
    const stdin = await inputOf(channel, command);
    const nonce = NONCE.exec(command)?.[0] ?? '-';
    const asked = `${among === 'each' ? localAddress : ''} ${command.replaceAll(nonce, BLANK)}`;
    let told = remembered.get(asked);
    if (!told) remembered.set(asked, (told = run(command, localAddress, stdin, nonce)));
    const { stdout, code } = await told;
    const said = lie(localAddress, command, stdout.replaceAll(BLANK, nonce), nonce);
    answer(Buffer.from(said, 'latin1'), code)(channel, command);
  };
  return (channel, command) => void replay(channel, command).catch(() => channel.close());
}

/** What comes before the first byte of a heartbeat, and only where the command reads it: the rest stays open. */
async function inputOf(channel: ServerChannel, command: string): Promise<string> {
  if (!READS_SCRIPT.test(command)) {
    channel.resume();
    return '';
  }
  let input = '';
  return await new Promise((resolve) => {
    channel.on('data', (chunk: Buffer) => {
      input += chunk.toString();
      if (input.endsWith('\nx')) resolve(input.slice(0, -1));
    });
  });
}

async function run(command: string, address: string, stdin: string, nonce: string): Promise<Answer> {
  const env = { PATH: process.env['PATH'], SSH_CONNECTION: `- - ${address} -` };
  const child = spawn('/bin/sh', ['-c', command], { env, stdio: ['pipe', 'pipe', 'ignore'] });
  const stdout: Buffer[] = [];
  child.stdout.on('data', (chunk: Buffer) => stdout.push(chunk));
  child.stdin.on('error', () => undefined).write(stdin); // and it stays open: a script ends with it
  child.once('exit', () => child.stdin.end());
  const [code] = (await once(child, 'close')) as [number | null];
  return { stdout: Buffer.concat(stdout).toString('latin1').replaceAll(nonce, BLANK), code: code ?? 255 };
}
