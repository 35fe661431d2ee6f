// Builds the world of one scenario: pushes to epoch and runs cocoon on the node until both are in the wanted state.
import { mkdir, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import {
  hexOf,
  makeBootLayer,
  makeQcow2,
  makeSnapshotArchive,
  seededBytes,
  type SnapshotOptions,
} from '../doubles/cocoon/fixtures.ts';
import { startEpoch, type Epoch } from '../doubles/epoch.ts';
import {
  containerArtifact,
  imageArtifact,
  indexArtifact,
  MEDIA,
  rawArtifact,
  snapshotArtifact,
  type Artifact,
  type ImageOptions,
} from '../doubles/registry-content.ts';
import { startFleet, type CommandResult, type Fleet, type FleetNode } from '../fleet/world.ts';
import {
  IMAGE,
  KEY,
  SNAPSHOT,
  type Damage,
  type Key,
  type Letter,
  type Scenario,
  type Shape,
  type SnapshotState,
  type Stage,
} from './scenario.ts';

/** Starts a fleet of its own for the scenario and puts it into its state. */
export async function setStage(scenario: Scenario): Promise<Stage> {
  const { epoch: state = {}, node: wanted = {}, nodes = 1 } = scenario;
  const store = wanted.store === undefined ? {} : { store: wanted.store };
  const fleet = await startFleet({
    nodes: Array.from({ length: nodes }, () => store),
    prefix: 'node-',
    epoch: { generation: state.generation ?? 'april' },
  });
  const other = await startEpoch();
  const down = async (): Promise<void> => {
    await fleet.down();
    await other.stop();
  };
  try {
    const stage = stageOf(scenario, fleet, other, down);
    await writeFile(join(fleet.dir, 'config.json'), JSON.stringify(dockerConfig([fleet.epoch, other])));
    for (const node of fleet.nodes) await build(scenario, stage, node);
    await settleEpoch(scenario, stage);
    await configure(scenario, stage);
    await scenario.then?.(stage);
    for (const node of fleet.nodes) {
      await node.setEnv(scenario.env ?? {});
      await node.clearLog();
    }
    return stage;
  } catch (error) {
    await down();
    throw error;
  }
}

function stageOf(scenario: Scenario, fleet: Fleet, other: Epoch, down: () => Promise<void>): Stage {
  const artifacts = new Map<Letter, Artifact>();
  const artifact = (letter: Letter): Artifact => {
    const known = artifacts.get(letter) ?? artifactOf(letter, scenario.contents ?? {});
    artifacts.set(letter, known);
    return known;
  };
  const digest = (letter: Letter): string => artifact(letter).contentDigest as string;
  const [node] = fleet.nodes as [FleetNode];
  const spell = (key: Key): string =>
    spelled(fleet.epoch.url, other.url, key).replace(/sha256:([A-C])$/, (_, letter: Letter) =>
      key.startsWith('/dl/') ? artifact(letter).manifestDigest : digest(letter),
    );
  const stage: Stage = {
    fleet,
    node,
    other,
    artifact,
    digest,
    spell,
    down,
    serve: async (letter, repoTag = `${IMAGE}:latest`) => {
      const [registry, repo, tag] = placeOf(stage, repoTag);
      await registry.push(repo, tag, artifact(letter));
    },
    addSnapshot: async (name, state, on = node) => await addSnapshot(stage, name, state, on),
    cocoon: async (...args) => await must(node, ...args),
  };
  return stage;
}

async function must(node: FleetNode, ...args: string[]): Promise<CommandResult> {
  const result = await node.cocoon(...args);
  if (result.code !== 0) throw new Error(`cocoon ${args.join(' ')}: ${result.stderr}`);
  return result;
}

// --- Contents -------------------------------------------------------------------------------------------------------

/** The bytes of a disk. */
function disk(letter: Letter, { format, size = 64 * 1024 }: Shape): Buffer {
  if (format === 'raw') return seededBytes(`raw ${letter}`, size + 1000); // no multiple of anything
  return makeQcow2({ seed: letter, size, version: format === 'qcow2 v2' ? 2 : 3 });
}

function artifactOf(letter: Letter, contents: Partial<Record<Letter, Shape>>): Artifact {
  const shape = contents[letter] ?? {};
  const { container } = shape;
  if (container !== undefined) {
    const platforms = container === 'index' ? ['amd64'] : container;
    const children = platforms.map((architecture) => ({
      architecture,
      artifact: containerArtifact({ architecture, layers: layersOf(letter, architecture) }),
    }));
    const [only] = children;
    return container === 'index' || children.length > 1 || only === undefined ? indexArtifact(children) : only.artifact;
  }
  if (shape.as === 'snapshot') return snapshotArtifact({ seed: letter });
  const source = shape.sameAs ?? letter;
  const built = imageArtifact(imageOptions(disk(source, { ...shape, ...contents[source] }), shape));
  if (shape.as !== 'untyped') return built;
  const { artifactType: _type, ...untyped } = JSON.parse(built.manifest.toString()) as Record<string, unknown>;
  return { ...built, ...rawArtifact(JSON.stringify(untyped), built.blobs), contentDigest: built.contentDigest };
}

/** Two layers, so that an image is more than one file. */
function layersOf(letter: Letter, architecture: string): Buffer[] {
  return [makeBootLayer(`${letter}/base`, false, false), makeBootLayer(`${letter}/${architecture}`)];
}

function imageOptions(content: Buffer, shape: Shape): ImageOptions {
  const { parts, mediaType, artifactType, annotations, titles, checksums } = shape;
  return {
    content,
    ...(parts === undefined ? {} : { parts }),
    ...(shape.format === 'raw' && parts === undefined ? { mediaType: 'application/vnd.cocoonstack.disk.raw' } : {}),
    ...(mediaType === undefined ? {} : { mediaType }),
    ...(artifactType === undefined ? {} : { artifactType }),
    ...(annotations === undefined ? {} : { annotations }),
    ...(titles === 'unpadded' ? { title: (index) => `disk.part.${index + 1}` } : {}),
    ...(checksums === undefined
      ? {}
      : { checksums: checksums === 'contradicting' ? { text: contradiction() } : checksums }),
  };
}

function contradiction(): string {
  return `${'0'.repeat(64)}  disk.qcow2.00.qcow2.part\n${'1'.repeat(64)}  disk.qcow2\n`;
}

// --- Names ----------------------------------------------------------------------------------------------------------

function spelled(epochUrl: string, otherUrl: string, text: string): string {
  if (text.startsWith('/')) return `${epochUrl}${text}`;
  const { host, port } = new URL(epochUrl);
  return text
    .replaceAll('EPOCH', host)
    .replaceAll('ALIAS', `localhost:${port}`)
    .replaceAll('OTHER', new URL(otherUrl).host);
}

/** `repo:tag`, `OTHER/repo:tag` → where that is. */
function placeOf({ fleet, other }: Stage, repoTag: string): [registry: Epoch, repo: string, tag: string] {
  const path = repoTag.replace(/^(EPOCH|OTHER)\//, '');
  const colon = path.lastIndexOf(':');
  const [repo, tag] = colon === -1 ? [path, 'latest'] : [path.slice(0, colon), path.slice(colon + 1)];
  return [repoTag.startsWith('OTHER/') ? other : fleet.epoch, repo, tag];
}

/** The tag from which a key was pulled. */
function tagOf(key: Key, generation: string): string {
  const [, host = '', path = ''] = /^(?:http:\/\/(?:ALIAS|(OTHER)))?\/dl\/([^?]*)/.exec(key) ?? [];
  const prefix = host === '' ? '' : `${host}/`;
  const [, repo, tag] = /^(.+)\/(v\d[^/]*|latest)$/.exec(path) ?? [];
  return generation === 'may' && repo !== undefined ? `${prefix}${repo}:${tag}` : `${prefix}${path}:latest`;
}

function byKey<T>(value: T | Record<string, T> | undefined, usual: string): [string, T][] {
  if (value === undefined) return [];
  return typeof value === 'string' ? [[usual, value]] : Object.entries(value as Record<string, T>);
}

// --- The node -------------------------------------------------------------------------------------------------------

async function build({ node: wanted = {} }: Scenario, stage: Stage, node: FleetNode): Promise<void> {
  // The true cocoon finds the programs that it needs where this process does, in sessions of SSH too.
  const path = process.env['COCOON_BIN'] === undefined ? {} : { PATH: process.env['PATH'] };
  await node.setEnv({ DOCKER_CONFIG: stage.fleet.dir, ...path });
  const entries = byKey(wanted.index, KEY);
  const orphans = (wanted.blobs ?? []).map((letter): [Key, Letter] => [entries[0]?.[0] ?? KEY, letter]);
  for (const [key, letter] of [...orphans, ...entries]) await bring(stage, node, key, letter);
  if (entries.length === 0 && orphans.length > 0) await must(node, 'image', 'rm', stage.spell(KEY));
  for (const [name, state] of byKey<Letter | SnapshotState>(wanted.snapshots, SNAPSHOT)) {
    await stage.addSnapshot(name, typeof state === 'string' ? { pins: state } : state, node);
  }
  for (const [name, snapshot] of Object.entries(wanted.vms ?? {})) {
    await must(node, 'vm', 'clone', '--name', name, snapshot);
  }
  for (const [letter, damage] of Object.entries(wanted.damage ?? {})) {
    await harm(stage, node, letter as Letter, damage);
  }
}

/** Lets an entry of the index come to be as it does in the world. */
async function bring(stage: Stage, node: FleetNode, key: Key, letter: Letter): Promise<void> {
  const { epoch } = stage.fleet;
  const reference = stage.spell(key);
  if (/sha256:[A-C]$/.test(key)) await stage.serve(letter);
  else if (/^(\/|http:)/.test(key)) await stage.serve(letter, tagOf(key, epoch.generation));
  else if (/^(OTHER|EPOCH)\//.test(key)) await stage.serve(letter, key);
  else {
    const content = Buffer.concat(stage.artifact(letter).blobs.slice(1));
    const { code, stderr } = await node.cocoonWith(content, 'image', 'import', reference);
    if (code !== 0) throw new Error(`import of ${reference}: ${stderr}`);
    return;
  }
  await node.pull(reference, true);
}

async function addSnapshot(stage: Stage, name: string, state: SnapshotState, node: FleetNode): Promise<void> {
  await node.addSnapshot({ name, ...snapshotOptions(stage, state) });
}

export function snapshotOptions(stage: Stage, state: SnapshotState): SnapshotOptions {
  const { node } = stage;
  const { pins, base = KEY, records = pins, omit, takenUnder, firmware } = state;
  const artifact = stage.artifact(pins);
  const own = artifact.children[0] ?? artifact;
  const layers = own.layers.map(({ digest }) => hexOf(digest));
  return {
    image: stage.spell(base),
    imageDigest: stage.digest(records),
    ...(isContainer(own) ? { imageType: 'oci' as const, layers, rootDir: node.rootDir } : {}),
    ...(records === pins ? {} : { backing: node.blobFile(stage.digest(pins)) }),
    ...(omit === undefined ? {} : { omit }),
    ...(takenUnder === undefined ? {} : { backing: `${takenUnder}/cloudimg/blobs/${hexOf(stage.digest(pins))}.qcow2` }),
    ...(firmware === undefined ? {} : { firmware }),
  };
}

/** Imports a snapshot on `pins`, to see whether a clone of it works. */
export async function addProbe(stage: Stage, node: FleetNode, name: string, pins: Letter): Promise<void> {
  const options = { rootDir: node.rootDir, runDir: node.runDir, name, ...snapshotOptions(stage, { pins }) };
  const { code, stderr } = await node.cocoonWith(makeSnapshotArchive(options), 'snapshot', 'import', '--name', name);
  if (code !== 0) throw new Error(`import of ${name}: ${stderr}`);
}

function isContainer({ layers }: Artifact): boolean {
  return layers.some(({ mediaType }) => mediaType === MEDIA.layer);
}

async function harm(stage: Stage, node: FleetNode, letter: Letter, damage: Damage): Promise<void> {
  const artifact = stage.artifact(letter);
  const own = artifact.children[0] ?? artifact;
  const last = hexOf(own.layers.at(-1)?.digest ?? '');
  const oci = join(node.rootDir, 'oci');
  if (damage === 'no initrd' || damage === 'empty initrd') {
    const file = join(oci, 'boot', last, 'initrd.img');
    await (damage === 'no initrd' ? rm(file) : truncate(file));
    return;
  }
  const blob = isContainer(own) ? join(oci, 'blobs', `${last}.erofs`) : node.blobFile(stage.digest(letter));
  const content = await readFile(blob);
  await rm(blob);
  if (damage === 'gone') return;
  if (damage === 'directory') {
    await mkdir(blob);
    return;
  }
  await writeFile(blob, harmed(content, damage), { mode: 0o444 });
}

function harmed(content: Buffer, damage: Damage): Buffer {
  if (damage === 'empty') return Buffer.alloc(0);
  if (damage === 'short') return content.subarray(0, content.length / 2);
  if (damage === 'headless') return Buffer.concat([Buffer.alloc(512), content.subarray(512)]);
  const copy = Buffer.from(content);
  const place = copy.length - 100;
  copy[place] = (copy[place] ?? 0) ^ 1;
  return copy;
}

// --- Epoch ----------------------------------------------------------------------------------------------------------

/** What epoch serves in the end, and what has gone from its store. */
async function settleEpoch(scenario: Scenario, stage: Stage): Promise<void> {
  const { epoch: state = {} } = scenario;
  const { epoch } = stage.fleet;
  const served = byKey(state.serves, `${IMAGE}:latest`);
  for (const letter of state.keeps ?? []) await epoch.push(IMAGE, null, stage.artifact(letter));
  // A tag that is not served any more was deleted.
  for (const [key] of byKey(scenario.node?.index, KEY)) {
    if (!/^(\/|EPOCH|http:\/\/ALIAS)/.test(key) || /sha256:/.test(key)) continue;
    const [, repo, tag] = placeOf(stage, key.startsWith('EPOCH') ? key : tagOf(key, epoch.generation));
    await epoch.deleteTag(repo, tag);
  }
  for (const [repoTag, letter] of served) await stage.serve(letter, repoTag);
  for (const [repoTag, pinned] of Object.entries(state.snapshots ?? {})) {
    const [, repo, tag] = placeOf(stage, repoTag);
    const { createdAt, ...of } = { createdAt: undefined, ...(typeof pinned === 'string' ? { pins: pinned } : pinned) };
    const options = snapshotOptions(stage, of);
    await epoch.pushSnapshot(repo, tag, { ...options, ...(createdAt === undefined ? {} : { config: { createdAt } }) });
  }
  const alive = new Set([...served.map(([, letter]) => letter), ...(state.keeps ?? [])]);
  const blobsOf = (letter: Letter): string[] =>
    [stage.artifact(letter), ...stage.artifact(letter).children].flatMap(({ layers }) => layers.map((l) => l.digest));
  const kept = new Set([...alive].flatMap(blobsOf));
  for (const letter of ['A', 'B', 'C'] as const) {
    if (alive.has(letter)) continue;
    for (const blob of blobsOf(letter)) if (!kept.has(blob)) for (const at of [epoch, stage.other]) at.deleteBlob(blob);
  }
  for (const [letter, place] of Object.entries(state.lost ?? {})) {
    epoch.deleteBlob(blobsOf(letter as Letter)[place] ?? '');
  }
  for (const letter of state.rotten ?? []) epoch.damageBlob(blobsOf(letter).at(-1) ?? '', (b) => harmed(b, 'flipped'));
}

/** What `docker login` leaves behind: cocoon pulls from these registries with a credential only. */
function dockerConfig(registries: Epoch[]): object {
  const auth = ({ token }: Epoch): string => Buffer.from(`x:${token}`).toString('base64');
  return { auths: Object.fromEntries(registries.map((one) => [new URL(one.url).host, { auth: auth(one) }])) };
}

// --- Config ---------------------------------------------------------------------------------------------------------

async function configure({ config = {}, user }: Scenario, { fleet, other }: Stage): Promise<void> {
  const text = JSON.stringify(config)
    .replaceAll('OTHER', new URL(other.url).host)
    .replaceAll('EPOCHURL', fleet.epoch.url)
    .replaceAll('ALIAS', `localhost:${new URL(fleet.epoch.url).port}`);
  const operator = user === undefined ? null : await fleet.createOperator({ sudo: false });
  await fleet.writeConfig({
    ...(JSON.parse(text) as Record<string, unknown>),
    ...(operator === null ? {} : { ssh: { user: operator.name }, cocoon: { sudo: false } }),
  });
}

/** The path of a file under the node's root, whose directory is there afterwards. */
export async function fileUnder(node: FleetNode, path: string): Promise<string> {
  const file = join(node.rootDir, path);
  await mkdir(dirname(file), { recursive: true });
  return file;
}
