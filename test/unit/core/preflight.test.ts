/** Snapshot directories by number: what cocoon refuses to clone is not clonable here, and the other way round. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { readNode } from '../../../src/node/read.ts';
import { preflight } from '../../doubles/cocoon/clone.ts';
import { makeSnapshotFiles } from '../../doubles/cocoon/fixtures.ts';
import { hot, node, served, sha } from '../../support/facts.ts';
import { localConnection } from '../../support/fakes.ts';
import { judgeSnapshots } from '../../support/judging.ts';
import { qcow2 } from '../../support/probe.ts';
import { pick, random } from '../../support/random.ts';

const root = mkdtempSync(join(tmpdir(), 'preflight-'));
afterAll(() => rmSync(root, { recursive: true, force: true }));

const COUNT = 300;
const BASE = 'e2'.repeat(32);
const LAYER = 'd4'.repeat(32);

interface Drawn {
  files: Map<string, Buffer | string>;
  sidecar: { storage_configs?: unknown };
  config: { disks?: unknown; payload?: unknown };
}
type Disk = Record<string, unknown>;

function put(path: string, content: Buffer | string): void {
  mkdirSync(dirname(join(root, path)), { recursive: true });
  writeFileSync(join(root, path), content);
}

/** What can be wrong with a snapshot, and some of what cannot. */
const CHANGES: ((drawn: Drawn, next: () => number) => void)[] = [
  () => undefined,
  ({ files }, next) => void files.delete(pick([...files.keys()], next)),
  ({ sidecar }, next) => void (sidecar.storage_configs = pick([[], null, undefined, {}, [null], 'x'], next)),
  ({ config }, next) => void (config.disks = pick([[], null, undefined, {}, [null], 'x'], next)),
  ({ config }, next) => {
    config.payload = pick(
      [null, undefined, [], {}, { firmware: '/no/such' }, { kernel: join(root, 'firmware/FW') }],
      next,
    );
  },
  (drawn) => void (drawn.config = {}),
  (drawn) => void (drawn.sidecar = {}),
  changed((disk, next) => void (disk['role'] = pick(['layer', 'cow', 'cidata', 'data', '', 'x', undefined, 7], next))),
  changed((disk, next) => void (disk['ro'] = pick([true, false, null, undefined, 'true'], next))),
  changed((disk, next) => void (disk['path'] = pick(['/x/overlay.qcow2', '/x/cow.raw', '', null, '/x/none'], next))),
  changed((disk, next) => void (disk['direct_io'] = pick([true, false, null], next))),
  ({ config }, next) => {
    const [disk] = (Array.isArray(config.disks) ? config.disks : []) as Disk[];
    if (disk)
      Object.assign(disk, pick([{ path: '/elsewhere' }, { readonly: true }, { readonly: null }, { path: 3 }], next));
  },
  ({ files, sidecar, config }, next) => {
    const serial = pick(['data1', 'data1', 'Data', 'cocoon-x', ''], next);
    const data = {
      path: '/x/data.raw',
      ro: false,
      role: 'data',
      serial,
      fstype: pick(['ext4', 'none', 'xfs', undefined], next),
    };
    const mounted = pick([{}, {}, { mount_point: '/mnt' }, { mount_point: 'mnt' }], next);
    if (Array.isArray(sidecar.storage_configs)) sidecar.storage_configs.push({ ...data, ...mounted });
    if (Array.isArray(config.disks)) config.disks.push({ path: '/x/data.raw', readonly: false });
    if (next() < 0.8) files.set(`data-${serial}.raw`, 'data');
  },
  ({ files, sidecar, config }, next) => {
    const cidata = { path: '/x/cidata.img', ro: true, role: 'cidata', serial: '' };
    if (Array.isArray(sidecar.storage_configs)) sidecar.storage_configs.push(cidata);
    if (Array.isArray(config.disks)) config.disks.push({ path: '/x/cidata.img', readonly: true });
    if (next() < 0.8) files.set('cidata.img', 'cidata');
  },
];

function changed(change: (disk: Disk, next: () => number) => void): (drawn: Drawn, next: () => number) => void {
  return ({ sidecar }, next) => {
    const disks = sidecar.storage_configs;
    const disk = Array.isArray(disks) ? (pick(disks as (Disk | null)[], next) ?? null) : null;
    if (disk !== null && typeof disk === 'object') change(disk, next);
  };
}

function draw(seed: number): Map<string, Buffer | string> {
  const next = random(seed);
  const isOci = next() < 0.3;
  const made = makeSnapshotFiles(
    isOci
      ? { rootDir: root, layers: [next() < 0.8 ? LAYER : 'ab'.repeat(32)] }
      : { rootDir: root, imageDigest: `sha256:${BASE}`, firmware: join(root, 'firmware/FW') },
  );
  const drawn: Drawn = { files: new Map(), sidecar: {}, config: {} };
  for (const { name, data } of made) {
    if (name === 'cocoon.json') drawn.sidecar = JSON.parse(String(data)) as Drawn['sidecar'];
    if (name === 'config.json') drawn.config = JSON.parse(String(data)) as Drawn['config'];
    drawn.files.set(name, name === 'cow.raw' ? 'cow' : data);
  }
  for (let n = Math.floor(next() * 3); n > 0; n -= 1) pick(CHANGES, next)(drawn, next);
  const cut = (text: string): string => (next() < 0.03 ? text.slice(0, -3) : text);
  if (drawn.files.has('cocoon.json')) drawn.files.set('cocoon.json', cut(JSON.stringify(drawn.sidecar)));
  if (drawn.files.has('config.json')) drawn.files.set('config.json', cut(JSON.stringify(drawn.config)));
  return drawn.files;
}

test('what cocoon refuses is not clonable, and what is not clonable it refuses', async () => {
  put(`cloudimg/blobs/${BASE}.qcow2`, qcow2());
  for (const path of [`oci/blobs/${LAYER}.erofs`, `oci/boot/${LAYER}/vmlinuz`, `oci/boot/${LAYER}/initrd.img`])
    put(path, 'x');
  put('firmware/FW', 'firmware');
  const records: Record<string, object> = {};
  const refused: Record<string, string | null> = {};
  for (let seed = 0; seed < COUNT; seed += 1) {
    const id = `S${String(seed).padStart(25, '0')}`;
    const dir = join(root, 'snapshot/localfile', id);
    const files = draw(seed);
    mkdirSync(dir, { recursive: true });
    for (const [name, content] of files) writeFileSync(join(dir, name), content);
    const isOci = files.has('cow.raw') || !files.has('overlay.qcow2');
    const base = isOci
      ? { image_type: 'oci', image_digest: sha('c3'), image_blob_ids: { [LAYER]: {} } }
      : { image_type: 'cloudimg', image_digest: `sha256:${BASE}`, image_blob_ids: { [BASE]: {} } };
    records[id] = { id, name: id, data_dir: dir, created_at: '2026-04-27T20:01:02Z', ...base };
    try {
      preflight(dir);
      refused[id] = null;
    } catch (error) {
      refused[id] = (error as Error).message;
    }
  }
  put('snapshot/db/snapshots.json', JSON.stringify({ snapshots: records, names: {} }));
  const cocoon = join(root, 'cocoon');
  writeFileSync(cocoon, '#!/bin/sh\necho "Version: v0.3.8"\n', { mode: 0o755 });
  const here = node('node-1', { cocoon: { ...node().cocoon, rootDir: root, binary: cocoon } });
  const observed = await readNode(localConnection(), here, 30_000, new AbortController().signal);
  const seen = { node: here, status: 'observed', observed, error: null, durationMs: 0 } as const;
  const rows = judgeSnapshots(served([]), hot(), seen);
  expect(rows).toHaveLength(COUNT);
  for (const { snapshot, verdict, reason } of rows) {
    const why = refused[snapshot] ?? null;
    expect(verdict === 'clonable', `${snapshot}: ${verdict} (${reason}), and cocoon: ${why}`).toBe(why === null);
  }
  const good = rows.filter(({ verdict }) => verdict === 'clonable').length;
  expect(good).toBeGreaterThan(COUNT / 5);
  expect(good).toBeLessThan((COUNT * 4) / 5);
});
