// Many nodes made cheaply: two true ones are played through the incident, and every further one is a copy of either.
import { linkSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join, relative } from 'node:path';
import { makeQcow2 } from '../doubles/cocoon/fixtures.ts';
import { breakAsInTheIncident, startFleet, type Fleet } from '../fleet/world.ts';

export interface BenchNodes {
  fleet: Fleet;
  dir: string;
  /** Answers `version` and nothing else. */
  binary: string;
  /** In the order of their numbers, from 1. */
  nodes: BenchNode[];
}

export interface BenchNode {
  name: string;
  /** Last two numbers of its address, each of three digits; its directory has the same name. */
  address: string;
  rootDir: string;
  drifted: boolean;
}

/** One node in so many has drifted, and the first always. */
const DRIFTED_EVERY = 50;

/**
 * As long as an address. The copies of a root directory hold its path in binary headers too, so the path of a copy has
 * to be exactly as long as that of its original.
 */
const ORIGINALS = { current: 'current', drifted: 'drifted' };

/** Real cocoons answer in a few milliseconds; a start of Node.js for each would be load on the machine of the clients. */
const COCOON = `#!/bin/sh
[ "$*" = version ] && printf 'Version:        v0.3.8\\n'
`;

export async function makeNodes(count: number): Promise<BenchNodes> {
  const fleet = await startFleet({ nodes: [{ name: ORIGINALS.current }, { name: ORIGINALS.drifted }] });
  try {
    await breakAsInTheIncident(fleet, [ORIGINALS.drifted]);
    await addMore(fleet);
    await Promise.all(fleet.nodes.map((node) => node.stop()));
    const binary = join(fleet.dir, 'cocoon');
    await writeFile(binary, COCOON, { mode: 0o755 });
    const nodes = Array.from({ length: count }, (_, index) => benchNode(fleet.dir, index));
    const originals = {
      current: readTree(fleet.node(ORIGINALS.current).rootDir),
      drifted: readTree(fleet.node(ORIGINALS.drifted).rootDir),
    };
    for (const node of nodes) writeCopy(node.drifted ? originals.drifted : originals.current, node.rootDir);
    return { fleet, dir: fleet.dir, binary, nodes };
  } catch (error) {
    await fleet.down();
    throw error;
  }
}

/** All three digits: 100 to 249 in each of two places. */
const PER_PLACE = 150;
export const MAX_NODES = PER_PLACE ** 2;

function benchNode(dir: string, index: number): BenchNode {
  const address = `${100 + Math.floor(index / PER_PLACE)}.${100 + (index % PER_PLACE)}`;
  return {
    name: `cocoonset-node-${index + 1}`,
    address,
    rootDir: join(dir, 'nodes', address, 'root'),
    drifted: index % DRIFTED_EVERY === 0,
  };
}

/** Two more images and one more snapshot on every node: as much as a node of a small fleet holds. */
async function addMore(fleet: Fleet): Promise<void> {
  for (const image of ['simular/ubuntu-24.04', 'simular/debian-12']) {
    const { contentDigest } = await fleet.epoch.pushImage(image, 'latest', {
      content: makeQcow2({ seed: image, size: 256 * 1024 }),
    });
    const reference = `${fleet.epoch.url}/dl/${image}`;
    for (const node of fleet.nodes) await node.pull(reference);
    if (image !== 'simular/ubuntu-24.04' || contentDigest === null) continue;
    const of = { image: reference, imageDigest: contentDigest };
    for (const node of fleet.nodes) await node.addSnapshot({ name: `${image}-hot:v1`, ...of });
    await fleet.epoch.pushSnapshot(`${image}-hot`, 'v1', of);
  }
}

interface Tree {
  root: string;
  dirs: string[];
  /** `text` where the file names the root and must be written anew; else a copy is a link. */
  files: { path: string; mode: number; text: string | null }[];
}

function readTree(root: string): Tree {
  const tree: Tree = { root, dirs: [], files: [] };
  for (const entry of readdirSync(root, { recursive: true, withFileTypes: true })) {
    const full = join(entry.parentPath, entry.name);
    const path = relative(root, full);
    if (entry.isDirectory()) {
      tree.dirs.push(path);
    } else {
      const text = readFileSync(full, 'latin1');
      tree.files.push({ path, mode: statSync(full).mode, text: text.includes(root) ? text : null });
    }
  }
  return tree;
}

function writeCopy({ root, dirs, files }: Tree, copy: string): void {
  if (copy.length !== root.length) throw new Error(`${copy} is not as long as ${root}`);
  mkdirSync(copy, { recursive: true });
  for (const dir of dirs.toSorted()) mkdirSync(join(copy, dir), { recursive: true });
  for (const { path, mode, text } of files) {
    if (text === null) linkSync(join(root, path), join(copy, path));
    else writeFileSync(join(copy, path), text.replaceAll(root, copy), { encoding: 'latin1', mode });
  }
}
