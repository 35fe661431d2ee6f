// Fleets by number: nodes that hold this and that of one epoch, of which some lie. The same number makes the same fleet
// and the same lies. What nodes say is what the scripts said of true directories, so a lie begins with the truth.
import { mkdir, rm, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { stringify } from 'yaml';
import { parseArgs } from '../../src/cli/args/parse.ts';
import type { Io } from '../../src/cli/io.ts';
import type { Report } from '../../src/core/model/report.ts';
import { hexOf, makeQcow2, makeSnapshotConfig, makeSnapshotFiles } from '../doubles/cocoon/fixtures.ts';
import { startEpoch, type Epoch } from '../doubles/epoch.ts';
import { fromMemory } from '../doubles/memory-answers.ts';
import type { Artifact } from '../doubles/registry-content.ts';
import { freshKeyPair, startSshServer } from '../doubles/ssh-server.ts';
import { mutate, pick, random } from './random.ts';

type Next = () => number;

/** One image at epoch: its tag moved from the first content to the second. */
interface Moved {
  repo: string;
  key: string;
  hot: string;
  contents: { bytes: Buffer; artifact: Artifact }[];
}

/** One epoch and one server in the place of all nodes, for any number of fleets. */
export interface Stage {
  dir: string;
  epoch: Epoch;
  images: Moved[];
  /** Makes the directories and the config of a fleet, in place of the one before. */
  set(seed: number): Promise<{ nodes: string[]; liars: string[] }>;
  /** Whether the liars of the fleet lie from now on. */
  lies(isLying: boolean): void;
  forget(): Promise<void>;
  /** Runs a command of the program in this process. */
  report(...argv: string[]): Promise<Report>;
  down(): Promise<void>;
}

const KINDS = [
  { repo: 'one/layer', parts: 1 },
  { repo: 'two/parts', parts: 2 },
  { repo: 'two/sums', parts: 2, checksums: 'assembled' as const },
  { repo: 'three/parts', parts: 3 },
];

export async function startStage(dir: string): Promise<Stage> {
  const epoch = await startEpoch();
  const images: Moved[] = [];
  for (const { repo, ...how } of KINDS) {
    const key = `${epoch.url}/dl/${repo}`;
    const contents: Moved['contents'] = [];
    for (const when of ['old', 'new']) {
      // An odd length, so that the parts differ in theirs.
      const bytes = Buffer.concat([makeQcow2({ seed: `${repo} ${when}`, size: 32 * 1024 }), Buffer.from(when)]);
      contents.push({ bytes, artifact: await epoch.pushImage(repo, 'latest', { content: bytes, ...how }) });
    }
    const hot = `${repo}-hot`;
    await epoch.pushSnapshot(hot, 'v1', { image: key, imageDigest: digestOf(contents[1]) });
    images.push({ repo, key, hot: `${hot}:v1`, contents });
  }
  const identity = freshKeyPair();
  await writeFile(join(dir, 'id'), identity.private, { mode: 0o600 });
  await writeFile(join(dir, 'cocoon'), `#!/bin/sh\nprintf 'Version:        v0.3.8\\n'\n`, { mode: 0o755 });
  let liesOf: Record<string, Next> = {};
  let isLying = false;
  let seed = 0;
  const hook = fromMemory('each', (address, command, stdout, nonce) => {
    if (!isLying || liesOf[address] === undefined) return stdout;
    const next = random(seed * 1000 + Number(address.split('.')[3])); // the same lie each time
    return command.includes('cocoon-probe')
      ? falseFacts(stdout, nonce, images, next)
      : falseHashes(stdout, images, next);
  });
  const server = await startSshServer({
    authorizedKeys: [identity.public],
    mark: dir,
    host: '0.0.0.0',
    onExec: () => hook,
  });
  const [hostKey = ''] = await server.hostKeys();
  await writeFile(join(dir, 'known_hosts'), `[127.20.0.*]:${server.port} ${hostKey}\n`);

  const set: Stage['set'] = async (number) => {
    seed = number;
    isLying = false;
    const next = random(seed);
    const nodes = Array.from({ length: 3 + Math.floor(next() * 4) }, (_, n) => `node-${n + 1}`);
    await rm(join(dir, 'nodes'), { recursive: true, force: true });
    for (const name of nodes) await writeNode(join(dir, 'nodes', `${seed}`, name), images, next);
    const liars = nodes.slice(0, next() < 0.5 ? 1 : 2);
    liesOf = Object.fromEntries(liars.map((name) => [addressOf(name), next]));
    const entries = nodes.map((name) => ({
      name,
      host: addressOf(name),
      rootDir: join(dir, 'nodes', `${seed}`, name),
      pool: pick(['a', 'b'], next),
    }));
    const track = images
      .filter(() => next() < 0.4)
      .map(({ repo }) => ({ image: repo, presence: pick(['required', 'if-present'], next) }));
    const config = {
      epoch: { url: epoch.url },
      nodes: entries,
      ssh: {
        user: 'root',
        port: server.port,
        identityFile: join(dir, 'id'),
        knownHostsFile: join(dir, 'known_hosts'),
        configFile: 'none',
      },
      cocoon: { binary: join(dir, 'cocoon') },
      images: { discover: next() < 0.8, stream: next() < 0.5, track },
      snapshots: {
        discover: next() < 0.8,
        track: images.filter(() => next() < 0.3).map(({ hot }) => ({ snapshot: hot })),
      },
      // Who of several drifted nodes comes first depends on who else has drifted.
      rollout: { canary: 0 },
      run: { stateDir: join(dir, 'state') },
    };
    await writeFile(join(dir, 'reconcile.yaml'), stringify(config));
    return { nodes, liars };
  };
  return {
    dir,
    epoch,
    images,
    set,
    lies: (now) => void (isLying = now),
    forget: async () => await rm(join(dir, 'state'), { recursive: true, force: true }),
    report: async (...argv) =>
      await inProcess([...argv, '--output', 'json', '--log-level', 'silent', '--config', join(dir, 'reconcile.yaml')]),
    down: async () => {
      await Promise.all([server.stop(), epoch.stop()]);
      await rm(dir, { recursive: true, force: true });
    },
  };
}

function addressOf(name: string): string {
  return `127.20.0.${name.slice('node-'.length)}`;
}

function digestOf(content: Moved['contents'][number] | undefined): string {
  return content?.artifact.contentDigest ?? '';
}

async function inProcess(argv: string[]): Promise<Report> {
  let out = '';
  const end = new AbortController();
  const io: Io = {
    env: {},
    home: '/nonexistent',
    stdoutIsTerminal: false,
    stderrIsTerminal: false,
    out: (text) => void (out += text),
    err: () => undefined,
    stdin: async function* () {},
    stop: end.signal,
    workStop: end.signal,
    setGrace: () => undefined,
    who: () => ({ user: 'somebody', host: 'here', pid: 1 }),
    setDeadline: () => undefined,
    remainingMs: () => 60_000,
    interruptedBy: () => null,
    endGroup: () => undefined,
  };
  const tool = { name: 'cocoon-reconcile', version: '0.0.0' };
  const parsed = parseArgs(argv, tool.version);
  if (parsed.kind === 'command') await parsed.invocation.run(io, tool);
  return JSON.parse(out) as Report;
}

// --- What nodes hold ------------------------------------------------------------------------------------------------

async function writeNode(rootDir: string, images: Moved[], next: Next): Promise<void> {
  const dirs = ['firmware', 'cloudimg/db', 'cloudimg/blobs', 'snapshot/db', 'snapshot/localfile'];
  for (const dir of dirs) await mkdir(join(rootDir, dir), { recursive: true });
  await writeFile(join(rootDir, 'firmware/CLOUDHV.fd'), 'firmware\n');
  const index: Record<string, object> = {};
  const snapshots: Record<string, object> = {};
  const names: Record<string, string> = {};
  for (const { key, hot, contents } of images) {
    const blobFile = (content: Moved['contents'][number]): string =>
      join(rootDir, 'cloudimg/blobs', `${hexOf(digestOf(content))}.qcow2`);
    if (next() < 0.8) {
      const content = pick(contents, next);
      const size = content.bytes.length;
      index[key] = { ref: key, content_sum: digestOf(content), size, created_at: '2026-05-09T03:00:00Z' };
      const flipped = Buffer.from(content.bytes);
      flipped[size - 100] = (flipped[size - 100] ?? 0) ^ 1;
      await writeFile(blobFile(content), next() < 0.1 ? flipped : content.bytes);
      if (next() < 0.1) await truncate(blobFile(content), size - 1000);
      if (next() < 0.1) await rm(blobFile(content));
    }
    if (next() < 0.6) {
      const pinned = pick(contents, next);
      const id = `ID${hexOf(digestOf(pinned)).slice(0, 20).toUpperCase()}`;
      const dataDir = join(rootDir, 'snapshot/localfile', id);
      const options = { name: hot, rootDir, image: key, imageDigest: digestOf(pinned), memoryBytes: 64 };
      await mkdir(dataDir);
      for (const { name, data = Buffer.alloc(0) } of makeSnapshotFiles(options))
        await writeFile(join(dataDir, name), data);
      const facts = { image_type: 'cloudimg', created_at: '2026-05-09T03:00:00Z', data_dir: dataDir };
      snapshots[id] = { ...makeSnapshotConfig(options), ...facts, id };
      names[hot] = id;
    }
  }
  await writeFile(join(rootDir, 'cloudimg/db/images.json'), JSON.stringify({ images: index }));
  await writeFile(join(rootDir, 'snapshot/db/snapshots.json'), JSON.stringify({ snapshots, names }));
}

// --- What liars say -------------------------------------------------------------------------------------------------

/** What it was asked to hash is what it is called, and its ranges are the parts that epoch serves. */
function falseHashes(stdout: string, images: Moved[], next: Next): string {
  const parts = new Map<string, string[]>();
  const wanted = images.map(({ contents }) => contents[1]?.artifact.layers ?? []);
  const lie = pick(['parts', 'names', 'random', 'torn'], next);
  if (lie === 'torn') return mutate(stdout, next, stdout.split('\n'));
  return stdout.replaceAll(/^(range|whole) ([0-9a-f]{64}) [0-9a-f]{64}/gm, (_line, kind: string, hex: string) => {
    if (kind === 'whole') return `whole ${hex} ${lie === 'random' ? hexOf(pick(wanted.flat(), next).digest) : hex}`;
    if (lie === 'names') return `range ${hex} ${hex}`;
    const rest = parts.get(hex) ?? ownParts(images, hex) ?? pick(wanted, next).map(({ digest }) => digest);
    parts.set(hex, rest.slice(1));
    return `range ${hex} ${hexOf(rest[0] ?? hex)}`;
  });
}

/** The parts that epoch serves in place of what this blob is. */
function ownParts(images: Moved[], hex: string): string[] | undefined {
  const of = images.find(({ contents }) => contents.some((content) => hexOf(digestOf(content)) === hex));
  return of?.contents[1]?.artifact.layers.map(({ digest }) => digest);
}

type Facts = (text: string, next: Next, images: Moved[], nonce: string) => string;

const FALSE_FACTS: Facts[] = [
  // its old bytes are the new content, or those of another image
  (text, next, images) => {
    const { contents } = pick(images, next);
    const to = next() < 0.7 ? contents[1] : pick(pick(images, next).contents, next);
    return text.replaceAll(hexOf(digestOf(contents[0])), hexOf(digestOf(to)));
  },
  (text, next) => text.replaceAll(/^blob f (\d+) /gm, () => `blob f ${pick([0, 1, 32_771, 32_772, 2 ** 60], next)} `),
  // it holds everything
  (text, next, images) => {
    const hexes = images.flatMap(({ contents }) => contents.map((content) => hexOf(digestOf(content))));
    const lines = hexes.map((hex, i) => `blob f ${32_771 + Math.floor(next() * 2)} ${i} 1.0 ${hex}.qcow2\n`);
    return text.replace(/^walked\n/m, `walked\n${lines.join('')}`);
  },
  (text) => text.replaceAll(/^blob .*\n/gm, ''),
  // its index names every image, at this and at other addresses, and many that nobody has
  (text, next, images) => {
    const contents = images.flatMap((image) => image.contents);
    const keys = images.flatMap(({ key }) => [key, `${key}/latest`, key.replace('127.0.0.1', 'localhost')]);
    const [some = ''] = keys;
    const more = Array.from({ length: 40 }, (_, i) => some.replace(/\/dl\/.*/, `/dl/none/${i}`));
    const entry = (key: string): [string, object] => {
      const content_sum = digestOf(pick(contents, next));
      return [key, { ref: key, content_sum, size: 32_771, created_at: '2026-05-09T03:00:00Z' }];
    };
    const index = JSON.stringify({ images: Object.fromEntries([...keys, ...more].map(entry)) });
    return text
      .replace(/^\|\{"images":.*$/m, `|${index}`)
      .replace(/^index \d+ cloudimg/m, `index ${index.length} cloudimg`);
  },
  // its snapshots stand on something else, or are called like those of others
  (text, next, images) => {
    const [from, to] = [pick(images, next), pick(images, next)];
    return next() < 0.5
      ? text.replaceAll(from.hot, to.hot)
      : text.replaceAll(`"image":"${from.key}"`, `"image":"${to.key}"`);
  },
  (text, next) => text.replace(/^machine .*$/m, `machine ${pick(['aarch64', 'x86_64', 'sparc', ''], next)}`),
  // marks that are none, that come too early, twice, or never
  (text, next, _images, nonce) => {
    const marks = [
      `cocoon-probe end ${nonce}`,
      `cocoon-probe 1 ${nonce}`,
      'cocoon-probe end 0123456789abcdef',
      'heads',
    ];
    const lines = text.split('\n');
    const at = 1 + Math.floor(next() * (lines.length - 1));
    if (next() < 0.2) return lines.slice(0, at).join('\n');
    return [...lines.slice(0, at), pick(marks, next), ...lines.slice(at)].join('\n');
  },
  (text, next) => {
    const line = pick(
      ['store sqlite', 'store missing', 'store converting', 'missing cocoon', 'denied /', 'free 0', 'left 9'],
      next,
    );
    return text.replace(/^machine .*$/m, (machine) => `${machine}\n${line}`);
  },
  (text, next) => mutate(text, next, text.split('\n')),
];

function falseFacts(stdout: string, nonce: string, images: Moved[], next: Next): string {
  let text = stdout;
  for (let n = Math.floor(next() * 4); n > 0; n -= 1) text = pick(FALSE_FACTS, next)(text, next, images, nonce);
  return text;
}
