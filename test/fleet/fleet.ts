// `scripts/fleet`: a test fleet that stays until it is taken down. One process in the background holds epoch and the nodes.
import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdir, open, readdir, readFile, realpath, rm, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import yargs from 'yargs';
import { makeQcow2 } from '../doubles/cocoon/fixtures.ts';
import { publisher } from '../doubles/epoch.ts';
import { endAll, identify, pause } from './sshd.ts';
import { breakAsInTheIncident, startFleet, type NodeSpec } from './world.ts';

interface State {
  /** The process in the background, as `identify` names it. */
  server: string;
  /** Where to push; null until epoch is up. */
  epoch: { url: string; token: string } | null;
}

/** What the background process says once. */
type Message = { ready: string } | { failed: string };

interface Size {
  nodes: number;
  drift: number;
  sqlite: number;
}

await yargs(process.argv.slice(2))
  .scriptName('scripts/fleet')
  .option('dir', { type: 'string', demandOption: true, describe: 'where the fleet lies; removed by down' })
  .command(
    'up',
    'start a fleet in the state of the incident; prints the path of its config',
    (y) => y.options(sizeOptions()),
    async ({ dir, ...size }) => void process.stdout.write(`${await up(resolve(dir), checked(size))}\n`),
  )
  .command(
    'down',
    'end every process of a fleet and remove its directory',
    (y) => y,
    ({ dir }) => down(resolve(dir)),
  )
  .command(
    'push <image>',
    'push other content to an image while the fleet runs',
    (y) =>
      y
        .positional('image', { type: 'string', demandOption: true })
        .option('seed', { type: 'string', describe: 'of the content; default random' }),
    async ({ dir, image, seed }) => void process.stdout.write(`${await push(resolve(dir), image, seed)}\n`),
  )
  .command(
    'serve',
    false,
    (y) => y.options(sizeOptions()),
    ({ dir, ...size }) => serve(dir, checked(size)),
  )
  .demandCommand(1, 'which of up, down, push?')
  .strict()
  .version(false)
  .fail((message, error) => {
    process.stderr.write(`scripts/fleet: ${(message || error.message).split('\n')[0]}\n`);
    process.exit(1);
  })
  .parseAsync();

function sizeOptions() {
  return {
    nodes: { type: 'number', default: 5, describe: 'how many nodes' },
    drift: { type: 'number', default: 2, describe: 'how many of them drifted' },
    sqlite: { type: 'number', default: 0, describe: 'how many, from the last, keep the newer store' },
  } as const;
}

function checked({ nodes, drift, sqlite }: Size): Size {
  for (const [name, value] of Object.entries({ nodes, drift, sqlite })) {
    if (!Number.isInteger(value) || value < 0) throw new Error(`--${name} must be a whole number`);
  }
  if (nodes < 1) throw new Error('--nodes must be at least 1');
  if (Math.max(drift, sqlite) > nodes) throw new Error(`--drift and --sqlite cannot exceed --nodes ${nodes}`);
  return { nodes, drift, sqlite };
}

/** Starts the background process and waits until the fleet is ready; returns the path of the config. */
async function up(dir: string, size: Size): Promise<string> {
  await claim(dir);
  const log = await open(join(dir, 'fleet.log'), 'a');
  const sizes = Object.entries(size).map(([name, value]) => `--${name}=${value}`);
  const child = spawn(process.execPath, [process.argv[1] ?? '', 'serve', '--dir', dir, ...sizes], {
    cwd: '/',
    detached: true,
    stdio: ['ignore', log.fd, log.fd, 'ipc'],
  });
  if (child.pid) await writeState(dir, { server: (await identify(child.pid)) ?? '', epoch: null });
  const message = await new Promise<Message>((settle) => {
    child.once('message', (said) => settle(said as Message));
    child.once('error', (error) => settle({ failed: error.message }));
    child.once('exit', (code, signal) =>
      settle({ failed: `the background process ended with ${signal ?? `code ${code}`}` }),
    );
  });
  await log.close();
  if ('failed' in message) {
    await down(dir);
    throw new Error(`the fleet did not start: ${message.failed}`);
  }
  if (child.connected) child.disconnect();
  child.unref();
  return message.ready;
}

/** Makes the directory ours, or says why it cannot be. */
async function claim(dir: string): Promise<void> {
  const state = await readState(dir);
  if (state && (await isRunning(state.server)))
    throw new Error(`a fleet is up in ${dir}: run \`scripts/fleet down --dir ${dir}\` first`);
  if (state) await down(dir);
  await mkdir(dir, { recursive: true });
  if ((await readdir(dir)).length > 0) throw new Error(`${dir} is not empty, and would be removed with the fleet`);
  await writeState(dir, { server: '', epoch: null });
}

/** Ends what runs there and removes the directory; nothing to do is no error. */
async function down(dir: string): Promise<void> {
  const state = await readState(dir);
  if (!state) {
    const holds = await readdir(dir).catch((error: NodeJS.ErrnoException) =>
      error.code === 'ENOENT' ? undefined : [error.code],
    );
    if (holds) throw new Error(`${dir} holds no fleet; nothing was removed`);
    return;
  }
  const real = await realpath(dir);
  if (await isRunning(state.server)) {
    const pid = Number(state.server.split('@')[0]);
    process.kill(pid, 'SIGTERM');
    const patience = Date.now() + 20_000;
    while ((await isRunning(state.server)) && Date.now() < patience) await pause(20);
    if (await isRunning(state.server)) process.kill(pid, 'SIGKILL');
  }
  await endAll(await listeners(real), join(real, 'nodes'));
  await rm(real, { recursive: true, force: true });
}

/** Pushes other bytes to an image; returns what is served now. */
async function push(dir: string, image: string, seed = randomBytes(4).toString('hex')): Promise<string> {
  const epoch = (await readState(dir))?.epoch;
  if (!epoch) throw new Error(`no fleet is up in ${dir}`);
  const [, repo = '', tag = 'latest'] = /^([^:]+)(?::([^:/]+))?$/.exec(image) ?? [];
  if (!repo) throw new Error(`${image} is no REPO:TAG`);
  const content = makeQcow2({ seed, size: 256 * 1024 });
  const { contentDigest } = await publisher(epoch.url, epoch.token).pushImage(repo, tag, { content });
  return `${repo}:${tag} ${contentDigest}`;
}

// --- The process in the background ----------------------------------------------------------------------------------

async function serve(dir: string, size: Size): Promise<void> {
  const say = (message: Message) => void process.send?.(message);
  let ready = false;
  const starting = start(dir, size);
  const end = () => void starting.then((fleet) => fleet.down()).finally(() => process.exit(0));
  for (const name of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) process.once(name, end);
  process.once('disconnect', () => ready || end()); // whoever asked for the fleet went away before it was there
  try {
    const fleet = await starting;
    const { url, token } = fleet.epoch;
    await writeState(dir, { server: (await identify(process.pid)) ?? '', epoch: { url, token } });
    ready = true;
    say({ ready: fleet.configFile });
  } catch (error) {
    say({ failed: (error as Error).message });
  }
}

async function start(dir: string, { nodes, drift, sqlite }: Size) {
  const specs = Array.from({ length: nodes }, (_, index): NodeSpec => ({
    store: index < nodes - sqlite ? 'json' : 'sqlite',
  }));
  const fleet = await startFleet({ dir, nodes: specs });
  try {
    await breakAsInTheIncident(
      fleet,
      spread(
        drift,
        fleet.nodes.map((node) => node.name),
      ),
    );
    return fleet;
  } catch (error) {
    await fleet.down();
    throw error;
  }
}

/** So many of them, evenly spaced. */
function spread(count: number, names: string[]): string[] {
  return Array.from({ length: count }, (_, k) => names[Math.floor(((k + 1) * names.length) / (count + 1))] ?? '');
}

// --- What is known of a fleet ---------------------------------------------------------------------------------------

function stateFile(dir: string): string {
  return join(dir, 'fleet.json');
}

async function readState(dir: string): Promise<State | undefined> {
  const text = await readFile(stateFile(dir), 'utf8').catch(() => undefined);
  return text === undefined ? undefined : (JSON.parse(text) as State);
}

async function writeState(dir: string, state: State): Promise<void> {
  await writeFile(stateFile(dir), JSON.stringify(state), { mode: 0o600 });
}

async function isRunning(server: string): Promise<boolean> {
  return server !== '' && (await identify(Number(server.split('@')[0]))) === server;
}

/** SSH servers of these nodes that outlived the process that held them. */
async function listeners(dir: string): Promise<number[]> {
  const nodes = await readdir(join(dir, 'nodes')).catch(() => []);
  const found = nodes.map(async (node) => {
    const pid = Number(await readFile(join(dir, 'nodes', node, 'sshd', 'sshd.pid'), 'utf8').catch(() => '0'));
    const title = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
    return title.includes(`${dir}/nodes/`) ? [pid] : [];
  });
  return (await Promise.all(found)).flat();
}
