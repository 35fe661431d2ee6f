// `scripts/bench`: what a dry run costs beside the usual ways to run one command on many nodes, on the same nodes in turn.
import { availableParallelism, loadavg } from 'node:os';
import { join } from 'node:path';
import yargs from 'yargs';
import * as clients from './clients.ts';
import type { Client, Site } from './clients.ts';
import { FAR_NETWORK, startLink, type Link } from './link.ts';
import { heal } from './heal.ts';
import { measure } from './measure.ts';
import { makeNodes, MAX_NODES, type BenchNodes } from './nodes.ts';
import { settledCpuMs, startQuickServer, startRealSshd, type Server } from './servers.ts';
import { simulate } from './simulated.ts';
import { startListener, timeUntil } from './startup.ts';
import { costTable, median, medianCost, megabytes, seconds, targetLine, type Cost, type Row } from './tables.ts';

const ROUND_TRIP_MS = 50;
/** Of what takes less than a second and so varies more. */
const SHORT_ROUNDS = 9;

const say = (text: string): void => void process.stdout.write(`${text}\n`);
const progress = (text: string): void => void process.stderr.write(`${text}\n`);
const factor = (value: number): string => value.toFixed(3);
const rounded = (value: number): string => value.toFixed(0);

const interrupted = new AbortController();
for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const)
  process.once(name, () => interrupted.abort(new Error(`interrupted by ${name}`)));

const whole = (value: number) => {
  if (!Number.isInteger(value) || value < 1 || value > MAX_NODES)
    throw new Error(`a whole number from 1 to ${MAX_NODES} is needed`);
  return value;
};
const args = await yargs(process.argv.slice(2))
  .scriptName('scripts/bench')
  .usage('scripts/bench [options]\n\nCompares `reconcile --dry-run` with programs that merely print the index files.')
  .option('nodes', { type: 'number', default: 200, coerce: whole, describe: 'how many nodes in the first table' })
  .option('rtt-nodes', { type: 'number', default: 200, coerce: whole, describe: 'how many in the second' })
  .option('endurance', {
    type: 'number',
    coerce: (value?: number) => value && whole(value),
    describe: 'instead of all tables: that a dry run over so many nodes ends, and reads them all',
  })
  .option('heal', {
    type: 'boolean',
    default: false,
    describe: 'instead of all tables: how long a night of healing takes',
  })
  .option('simulate', {
    type: 'string',
    describe:
      'instead of all tables: what so many nodes cost (as 1000,10000) without any network, each in the words of one',
  })
  .option('rounds', { type: 'number', default: 3, coerce: whole, describe: 'how often each program runs' })
  .strict()
  .version(false)
  .fail((message, error) => {
    progress(`scripts/bench: ${message || error.message}`);
    process.exit(1);
  })
  .parseAsync();

// --- Running ----------------------------------------------------------------------------------------------------------

/** All that one comparison needs. */
interface Place {
  site: Site;
  server: Server;
}

/** Runs a program that must succeed on every node. */
async function runOnce(client: Client, { site, server }: Place): Promise<Cost> {
  const before = await settledCpuMs(server);
  const surroundings = { env: clients.environment(site), dir: site.dir, signal: interrupted.signal };
  const { code, stdout, stderr, ...cost } = await measure(client.argv, surroundings);
  const answered = client.answered(stdout);
  if (code !== client.exitCode || answered !== site.nodes.length) {
    const what = `${client.name} ended with ${code} (and not ${client.exitCode}), ${answered} of ${site.nodes.length} nodes answered`;
    throw new Error(`${what}\n${stderr.trim().split('\n').slice(-5).join('\n')}`);
  }
  return { ...cost, serverMs: (await settledCpuMs(server)) - before };
}

/** All programs in turn, so many rounds; the medians of each. */
async function compare(programs: Client[], place: Place, rounds: number): Promise<Row[]> {
  const costs = programs.map((): Cost[] => []);
  for (let round = 1; round <= rounds; round += 1) {
    for (const [i, client] of programs.entries()) {
      const cost = await runOnce(client, place);
      costs[i]?.push(cost);
      const figures = `${seconds(cost.wallMs)} s, CPU ${seconds(cost.cpuMs)} s, ${megabytes(cost.peakBytes)} MB`;
      progress(`round ${round} of ${rounds}: ${client.name}: ${figures}`);
    }
  }
  return programs.map(({ name }, i) => ({ name, cost: medianCost(costs[i] ?? []) }));
}

async function placeOf(
  world: BenchNodes,
  server: Server,
  name: string,
  network: string,
  count: number,
): Promise<Place> {
  const { port, hostKey } = server;
  const site = { network, port, hostKey, nodes: world.nodes.slice(0, count), dir: join(world.dir, name) };
  await clients.writeSite(site, world);
  return { site, server };
}

/** The table of all programs; the first three rows. */
async function compareAll(place: Place, dir: string): Promise<[Row, Row, Row]> {
  const { site } = place;
  await runOnce(clients.reconcileJson(site), place); // not timed: its report says of each node that it was read
  const programs = [
    clients.reconcileClient(site),
    clients.clush(site, dir, 'stock'),
    clients.clush(site, dir, 'curve25519'),
    clients.parallelSsh(site, dir),
    clients.ansible(site, dir),
  ];
  const rows = await compare(programs, place, args.rounds);
  const [own, stock, curve] = rows as [Row, Row, Row];
  say(`${costTable(rows, [stock, curve])}\n`);
  return [own, stock, curve];
}

// --- What is printed --------------------------------------------------------------------------------------------------

async function loopbackTable(world: BenchNodes): Promise<void> {
  const server = await startRealSshd(world, 'sshd-near');
  try {
    const place = await placeOf(world, server, 'near', '127.18', args.nodes);
    say(`\n${args.nodes} nodes on this machine, no round trip; medians of rounds: ${args.rounds}\n`);
    const [own, stock, curve] = await compareAll(place, world.dir);
    say(targetLine('CPU, of that of clush curve25519', own.cost.cpuMs / curve.cost.cpuMs, 0.38, factor));
    say(targetLine('CPU, of that of clush stock', own.cost.cpuMs / stock.cost.cpuMs, 0.07, factor));
    const faster = Math.min(stock.cost.wallMs, curve.cost.wallMs);
    say(targetLine('wall, of that of the faster clush', own.cost.wallMs / faster, 1, factor));
    say(targetLine('peak memory, in MB', own.cost.peakBytes / 1e6, 180, rounded));
  } finally {
    await server.stop();
  }
}

async function roundTripTable(world: BenchNodes): Promise<void> {
  const link = await startLink(ROUND_TRIP_MS).catch((error: Error) => error);
  if (link instanceof Error) {
    say(`\nNo table with a round trip: this user or machine can make no networks (${link.message}).`);
    return;
  }
  try {
    const server = await startRealSshd(world, 'sshd-far', link.enter);
    try {
      const place = await placeOf(world, server, 'far', FAR_NETWORK, args.rttNodes);
      say(`\n${args.rttNodes} nodes behind a round trip of ${ROUND_TRIP_MS} ms; medians of rounds: ${args.rounds}\n`);
      await compareAll(place, world.dir);
      await oneNode(world, server);
    } finally {
      await server.stop();
    }
    await quickNodes(world, link);
  } finally {
    await link.stop();
  }
}

/** One node costs a server nothing, so this is about round trips alone. */
async function oneNode(world: BenchNodes, server: Server): Promise<void> {
  const place = await placeOf(world, server, 'one', FAR_NETWORK, 1);
  const { site } = place;
  const programs = [clients.reconcileClient(site), clients.plainSsh(site, world.dir), clients.emptyNode(site)];
  const rows = await compare(programs, place, Math.max(args.rounds, SHORT_ROUNDS));
  const [own, ssh, node] = rows as [Row, Row, Row];
  const [ownMs, sshMs, nodeMs] = [own.cost.wallMs, ssh.cost.wallMs, node.cost.wallMs];
  say(`One of them: ${rows.map(({ name, cost }) => `${name} ${rounded(cost.wallMs)} ms`).join(', ')}\n`);
  say(targetLine('time to the report without node -e 0, of that of ssh', (ownMs - nodeMs) / sshMs, 0.85, factor));
}

/** Where two cores have to serve a whole fleet, sshd is what all wait for; here it is the client and the way. */
async function quickNodes(world: BenchNodes, link: Link): Promise<void> {
  const server = await startQuickServer(world, link.enter);
  try {
    const place = await placeOf(world, server, 'quick', FAR_NETWORK, args.rttNodes);
    const programs = [clients.reconcileClient(place.site), clients.clush(place.site, world.dir, 'curve25519')];
    for (const client of programs) await runOnce(client, place); // the server learns its answers
    const rounds = Math.max(args.rounds, SHORT_ROUNDS);
    const rows = await compare(programs, place, rounds);
    const [own, curve] = rows as [Row, Row];
    say(`\nThe same behind a server that answers from memory; medians of rounds: ${rounds}\n`);
    say(`${costTable(rows, [curve])}\n`);
    say(targetLine('wall, of that of clush curve25519', own.cost.wallMs / curve.cost.wallMs, 0.5, factor));
  } finally {
    await server.stop();
  }
}

async function startUp(world: BenchNodes): Promise<void> {
  const listener = await startListener();
  try {
    const { port } = listener;
    const hostKey = world.fleet.publicKey.split(' ').slice(0, 2).join(' '); // any: it gets no further
    const site = { network: '127.18', port, hostKey, nodes: world.nodes.slice(0, 1), dir: join(world.dir, 'silent') };
    await clients.writeSite(site, world);
    const env = clients.environment(site);
    const node: number[] = [];
    const own: number[] = [];
    for (let round = 0; round < SHORT_ROUNDS; round += 1) {
      interrupted.signal.throwIfAborted();
      node.push(await timeUntil(clients.emptyNode(site).argv, env));
      own.push(await timeUntil(clients.reconcileClient(site).argv, env, listener.firstByte()));
    }
    const [nodeMs, ownMs] = [median(node), median(own)];
    say(
      `\nStart-up: node -e 0 ${rounded(nodeMs)} ms; reconcile, until its first byte to a node, ${rounded(ownMs)} ms\n`,
    );
    say(targetLine('start-up in ms, of 2 × node -e 0 + 150', ownMs, 2 * nodeMs + 150, rounded));
  } finally {
    await listener.stop();
  }
}

/** What ends over a hundred nodes may stop for ever over thousands: each round must end, and must read every node. */
async function endurance(count: number): Promise<void> {
  progress(`making ${count} nodes`);
  const world = await makeNodes(count);
  try {
    const server = await startQuickServer(world, []);
    try {
      const place = await placeOf(world, server, 'endurance', '127.18', count);
      say(`\n${count} nodes behind a server that answers from memory, Node.js ${process.versions.node}`);
      for (let round = 1; round <= args.rounds; round += 1) {
        const { wallMs, cpuMs, peakBytes } = await runOnce(clients.reconcileJson(place.site), place);
        const figures = `${seconds(wallMs)} s, CPU ${seconds(cpuMs)} s, ${megabytes(peakBytes)} MB`;
        say(
          `dry run ${round} of ${args.rounds} ended: ${figures}${round === 1 ? ' (the server learned its answers)' : ''}`,
        );
      }
    } finally {
      await server.stop();
    }
  } finally {
    await world.fleet.down();
  }
}

async function tables(): Promise<void> {
  const world = await makeNodes(Math.max(args.nodes, args.rttNodes));
  try {
    interrupted.signal.throwIfAborted();
    await startUp(world);
    await loopbackTable(world);
    await roundTripTable(world);
    say(NOTES);
  } finally {
    await world.fleet.down();
  }
}

/** The same fleet twice: once the slow node is the first canary of an image, once it is any node. */
async function healing(): Promise<void> {
  say('40 nodes, 3 images of 24, 12 and 6 MiB, 12 MiB/s for all, canary 1, maxPulls 4, one node 8 s slower\n');
  for (const [who, slow] of [
    ['a node of the first image', 36],
    ['the canary of the third image', 2],
  ] as const) {
    const { bytes, wallMs, boundMs, images } = await heal(slow, interrupted.signal);
    const ends = images.map(({ image, healedMs }) => `${image} ${seconds(healedMs)} s`).join(', ');
    say(`slow is ${who}: ${megabytes(bytes)} MB in ${seconds(wallMs)} s, at best ${seconds(boundMs)} s; last: ${ends}`);
    say(targetLine('makespan, of the shortest that there could be', wallMs / boundMs, 1.15, factor));
  }
}

const NOTES = `
wall, CPU   bash's time: the client with all its children, without the nodes; /1 and /2: as a ratio to that row
peak MB     one process: the most it ever held; several: the sum at one moment, shared pages counted once (Pss)
server CPU  the SSH server and all that it ran, on the same cores: where it exceeds wall × cores / 2, wall is about it
fan-out     ${clients.FANOUT} for clush, parallel-ssh and ansible; reconcile's own default of 128
nodes       one SSH server at many addresses, a directory each; their cocoon is a stub that knows \`version\`;
            the shell there reads no start-up files; epoch is near, without a round trip
no node     failed in any of these runs: that would have been the end of them`;

try {
  progress(
    `${availableParallelism()} cores, load ${loadavg()[0]?.toFixed(1)}: what else runs here disturbs wall times`,
  );
  if (args.heal) await healing();
  else if (args.simulate !== undefined) simulate(args.simulate, say);
  else await (args.endurance === undefined ? tables() : endurance(args.endurance));
} catch (error) {
  progress(`scripts/bench: ${(error as Error).message}`);
  process.exitCode = 1;
}
