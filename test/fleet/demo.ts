// `scripts/demo`: the incident on a small fleet on this machine, found, healed and proved, with the real command.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { ensureSshd } from './sshd.ts';
import { breakAsInTheIncident, startFleet, type FleetNode, type Transport } from './world.ts';

const DRIFTED = ['cocoonset-node-2', 'cocoonset-node-4'];
const program = fileURLToPath(new URL('../../../dist/main.js', import.meta.url));

const say = (text: string): void => void process.stdout.write(`${text}\n`);

/** Real OpenSSH servers where they are or can be installed, else one inside this process. */
async function transport(): Promise<Transport> {
  try {
    say(`The nodes of this demo are real OpenSSH servers (${await ensureSshd()}).`);
    return 'sshd';
  } catch (error) {
    say(`The nodes of this demo are SSH servers inside this process: ${(error as Error).message}`);
    return 'in-process';
  }
}

function expectCode(what: string, got: number | null, wanted: number): void {
  if (got !== wanted) throw new Error(`${what} ended with ${got} and not with ${wanted}`);
}

/** Shows a command, runs it here, and shows its exit code, which must be the wanted one. */
async function show(typed: string, args: string[], wanted: number): Promise<void> {
  say(`\n$ ${typed}`);
  const child = spawn(process.execPath, [program, ...args], { stdio: ['ignore', 'inherit', 'inherit'] });
  const [code] = (await once(child, 'close')) as [number | null];
  say(`(exit code ${code})`);
  expectCode(typed, code, wanted);
}

async function clone(node: FleetNode, snapshot: string, name: string, wanted: number): Promise<void> {
  say(`\n${node.name}$ cocoon vm clone --name ${name} ${snapshot}`);
  const { code, stderr } = await node.cocoon('vm', 'clone', '--name', name, snapshot);
  say(stderr.trimEnd());
  say(`(exit code ${code})`);
  expectCode('the clone', code, wanted);
}

const fleet = await startFleet({ nodes: 5, transport: await transport() });
try {
  say(
    '\nFive nodes hold the image simular/win11. Its tag is pushed again, and a snapshot is baked on the new content.',
  );
  say(`${DRIFTED.join(' and ')} keep the old content without a word, so the snapshot does not clone there:`);
  const { snapshot } = await breakAsInTheIncident(fleet, DRIFTED);
  const node = fleet.node(DRIFTED[0] as string);
  await clone(node, snapshot, 'vk-default-demo-0', 1);

  const config = ['--config', fleet.configFile];
  say('\nWhich nodes have drifted, and what would be done about it?');
  await show('reconcile --dry-run', [...config, '--dry-run'], 2);

  say('\nHeal exactly those, the canary first, each verified by reading it again:');
  await show('reconcile', config, 0);

  say('\nThe clone that failed works:');
  await clone(node, snapshot, 'vk-default-demo-0', 0);

  say('\nAnd nothing is left to do:');
  await show('reconcile --dry-run', [...config, '--dry-run'], 0);
} finally {
  await fleet.down();
}
