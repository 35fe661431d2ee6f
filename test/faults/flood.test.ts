// Nodes that say more than any node can have: each is unreadable, and costs neither memory nor the time of the others.
import { mkdtemp, realpath, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { makeQcow2 } from '../doubles/cocoon/fixtures.ts';
import { startFleet, type Fleet } from '../fleet/world.ts';
import { withPeak } from '../support/memory.ts';
import { imageOn, nodeOf, parseReport } from '../support/reconcile.ts';

const FLOODS = Array.from({ length: 40 }, (_, n) => `flood-${n + 1}`);
const HONEST = ['honest-1', 'honest-2', 'honest-3'];

/** What the login runs in place of the probe: its first mark, and then 60 MB of lines of which each is another one. */
const FLOOD = `#!/bin/sh
nonce=$(printf %s "$SSH_ORIGINAL_COMMAND" | grep -o '\\b[0-9a-f]\\{16\\}\\b' | tail -n 1)
printf 'cocoon-probe 1 %s\\nmachine x86_64\\nversion v0.3.8\\n' "$nonce"
seq -f 'path file /%.0f' 4000000 | head -c 60000000
printf 'free 1\\ncocoon-probe end %s\\n' "$nonce"
`;

let dir: string;
let fleet: Fleet;

beforeAll(async () => {
  dir = await realpath(await mkdtemp(join(tmpdir(), 'flood-')));
  const script = join(dir, 'flood.sh');
  await writeFile(script, FLOOD, { mode: 0o755 });
  fleet = await startFleet({
    dir,
    nodes: [...HONEST.map((name) => ({ name })), { name: 'flood', sshd: { config: [`ForceCommand ${script}`] } }],
  });
  await fleet.epoch.pushImage('simular/win11', 'latest', { content: makeQcow2({ seed: 'May' }) });
  for (const name of HONEST) await fleet.node(name).pull(`${fleet.epoch.url}/dl/simular/win11`);
  const entry = (name: string, at = name): object => {
    const { host, port, binary, rootDir } = fleet.node(at);
    return { name, host, port, binary, rootDir: name === at ? rootDir : `${rootDir}/${name}` };
  };
  await fleet.writeConfig({
    nodes: [...FLOODS.map((name) => entry(name, 'flood')), ...HONEST.map((name) => entry(name))],
  });
});
afterAll(async () => await fleet?.down());

test('40 nodes of which each answers 60 MB of small lines take less than 300 MB, and the others are judged', async () => {
  const args = ['--config', fleet.configFile, '--dry-run', '--output', 'json', '--timeout', '60s'];
  const { stdout, stderr, peakBytes } = await withPeak(dir, args);
  const dry = parseReport(stdout, stderr);
  for (const name of FLOODS) {
    expect(nodeOf(dry, name)).toMatchObject({ status: 'unreadable', error: { code: 'NODE_ANSWER_INVALID' } });
    expect(nodeOf(dry, name).error?.message).toContain('more than 12000 lines of the kind path');
  }
  expect(HONEST.map((name) => imageOn(dry, name).verdict)).toEqual(HONEST.map(() => 'in-sync'));
  expect(dry.run.exitCode).toBe(3);
  expect(peakBytes).toBeLessThan(300e6);
});
