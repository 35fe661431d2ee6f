// An SSH server that is no limit, in a process of its own: it answers from memory. It takes its keys as JSON on standard
// input, prints its port, and ends with its standard input.
import { once } from 'node:events';
import type { QuickServerKeys } from '../bench/servers.ts';
import { fromMemory } from './memory-answers.ts';
import { startSshServer } from './ssh-server.ts';

process.stdin.setEncoding('utf8');
const [line] = (await once(process.stdin, 'data')) as [string];
const { publicKey, mark } = JSON.parse(line) as QuickServerKeys;
const hook = fromMemory('each');
const server = await startSshServer({ authorizedKeys: [publicKey], mark, host: '0.0.0.0', onExec: () => hook });
const [hostKey = ''] = await server.hostKeys();
process.stdout.write(`${JSON.stringify({ port: server.port, hostKey })}\n`);
process.stdin.once('end', () => process.exit()).resume();
