// A fleet of 40 with one of each trouble that a node can make. Each costs its own row and nothing else: the others are judged
// in the time of the run, in little memory, and nothing of ours goes on anywhere.
import { cp, mkdtemp, realpath, writeFile } from 'node:fs/promises';
import type { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Report } from '../../src/core/model/report.ts';
import { makeQcow2 } from '../doubles/cocoon/fixtures.ts';
import { silent, startTcpServer, type TcpServerHandle } from '../doubles/ssh-server.ts';
import { marked } from '../fleet/sshd.ts';
import { startFleet, type Fleet } from '../fleet/world.ts';
import { until } from '../support/guard.ts';
import { withPeak } from '../support/memory.ts';
import { imageOn, nodeOf, parseReport } from '../support/reconcile.ts';

const NODES = 40;

/** What a login does in the place of the probe, and the code that its node gets for it. */
const TROUBLES = {
  floods: ['exec tr "\\0" x </dev/zero', 'NODE_ANSWER_INVALID'],
  'floods stderr': ['begin; tr "\\0" x </dev/zero >&2', 'NODE_ANSWER_INVALID'],
  'small lines': ["begin; seq -f 'path file /%.0f' 4000000 | head -c 60000000; end", 'NODE_ANSWER_INVALID'],
  hangs: ['exec sleep 600', 'SSH_TIMEOUT'],
  drips: ["begin; while echo 'free 1'; do sleep 0.2; done", 'SSH_TIMEOUT'],
  'dies in the middle': ['begin; kill -9 "$PPID"', 'SSH_UNREACHABLE'],
  'ends before it begins': ['kill -9 "$PPID"', 'SSH_UNREACHABLE'],
  'runs nothing': ['echo This account is not available.', 'NODE_ANSWER_INVALID'],
} satisfies Record<string, [string, string]>;

/** What is spoken on a port where SSH should be. */
const SPEAKERS = {
  'is silent': [silent, 'SSH_TIMEOUT'],
  'drips its banner': [(socket: Socket) => speak(socket, 'S', 200), 'SSH_TIMEOUT'],
  'floods its banner': [(socket: Socket) => speak(socket, 'no ssh\r\n'.repeat(8000), 0), 'SSH_UNREACHABLE'],
} satisfies Record<string, [(socket: Socket) => void, string]>;

function speak(socket: Socket, text: string, everyMs: number): void {
  const again = (): void => void (socket.destroyed || socket.write(text, () => setTimeout(again, everyMs)));
  again();
}

let dir: string;
let fleet: Fleet;
let ports: TcpServerHandle[] = [];
const stale: string[] = [];
const fresh: string[] = [];

beforeAll(async () => {
  dir = await realpath(await mkdtemp(join(tmpdir(), 'trouble-')));
  const script = join(dir, 'trouble.sh');
  const cases = Object.entries(TROUBLES).map(
    ([name, [does]], i) => `*/root-of-trouble-${i}[!0-9]*) # ${name}\n${does}\n;;\n`,
  );
  await writeFile(
    script,
    `#!/bin/sh
nonce=$(printf %s "$SSH_ORIGINAL_COMMAND" | grep -o '\\b[0-9a-f]\\{16\\}\\b' | tail -n 1)
begin() { printf 'cocoon-probe 1 %s\\nmachine x86_64\\nversion v0.3.8\\n' "$nonce"; }
end() { printf 'free 1\\ncocoon-probe end %s\\n' "$nonce"; }
case $SSH_ORIGINAL_COMMAND in
${cases.join('')}esac
`,
    { mode: 0o755 },
  );
  fleet = await startFleet({
    dir,
    nodes: [{ name: 'honest' }, { name: 'trouble', sshd: { config: [`ForceCommand ${script}`] } }],
  });
  const honest = fleet.node('honest');
  const key = `${fleet.epoch.url}/dl/simular/win11`;
  const old = await fleet.epoch.pushImage('simular/win11', 'latest', { content: makeQcow2({ seed: 'April' }) });
  await honest.pull(key);
  const roots = dirname(honest.rootDir);
  await cp(honest.rootDir, join(roots, 'stale'), { recursive: true });
  const now = await fleet.epoch.pushImage('simular/win11', 'latest', { content: makeQcow2({ seed: 'May' }) });
  await honest.pull(key, true);

  const at = (name: string, server: 'honest' | 'trouble', rootDir: string, more: object = {}): object => {
    const { host, port, binary } = fleet.node(server);
    return { name, host, port, binary, rootDir, ...more };
  };
  const entries = Object.keys(TROUBLES).map((name, i) =>
    at(nameOf(name), 'trouble', join(roots, `root-of-trouble-${i}`)),
  );
  ports = await Promise.all(Object.values(SPEAKERS).map(async ([speaks]) => await startTcpServer(speaks)));
  entries.push(...Object.keys(SPEAKERS).map((name, i) => ({ name: nameOf(name), ...ports[i], stop: undefined })));
  // Its version never ends.
  const odd = join(dir, 'odd');
  await writeFile(odd, '#!/bin/sh\nexec yes\n', { mode: 0o755 });
  await cp(join(roots, 'stale'), join(roots, 'odd'), { recursive: true });
  entries.push(at('version-never-ends', 'honest', join(roots, 'odd'), { binary: odd }));
  // Its old bytes are said to be the new ones.
  await cp(join(roots, 'stale'), join(roots, 'liar'), { recursive: true });
  await cp(
    honest.blobFile(old.contentDigest ?? '').replace('/root/', '/stale/'),
    honest.blobFile(now.contentDigest ?? '').replace('/root/', '/liar/'),
  );
  const index = join(roots, 'liar/cloudimg/db/images.json');
  await writeFile(
    index,
    JSON.stringify({
      images: { [key]: { ref: key, content_sum: now.contentDigest, size: 1, created_at: '2026-05-09T03:00:00Z' } },
    }),
  );
  entries.push(at('lies', 'honest', join(roots, 'liar')));
  for (let n = 1; entries.length < NODES; n += 1) {
    const [names, from] = n % 3 === 0 ? [stale, 'stale'] : [fresh, 'root'];
    const name = `${from === 'stale' ? 'stale' : 'fresh'}-${n}`;
    await cp(join(roots, from), join(roots, name), { recursive: true });
    entries.push(at(name, 'honest', join(roots, name)));
    names.push(name);
  }
  await fleet.writeConfig({ nodes: entries });
});
afterAll(async () => {
  await Promise.all(ports.map(async ({ stop }) => await stop()));
  await fleet?.down();
});

function nameOf(trouble: string): string {
  return trouble.replaceAll(' ', '-');
}

test(`one of each trouble among ${NODES} nodes costs its own row, within 40 s and 300 MB, and leaves nothing running`, async () => {
  const before = new Set(await marked(join(dir, 'nodes')));
  const args = ['--config', fleet.configFile, '--dry-run', '--output', 'json', '--timeout', '40s'];
  const { stdout, stderr, peakBytes } = await withPeak(dir, args);
  const dry: Report = parseReport(stdout, stderr);
  expect(peakBytes).toBeLessThan(300e6);
  await until(
    'what was begun on the nodes has ended',
    async () => {
      const left = (await marked(join(dir, 'nodes/honest'))).filter((pid) => !before.has(pid));
      return left.length === 0;
    },
    5_000,
  );

  expect(dry.nodes).toHaveLength(NODES);
  const codes = Object.entries({ ...TROUBLES, ...SPEAKERS }).map(([name, [, code]]) => [name, code]);
  expect(codes.map(([name = '']) => [name, nodeOf(dry, nameOf(name)).error?.code])).toEqual(codes);
  expect(fresh.map((name) => imageOn(dry, name).verdict)).toEqual(fresh.map(() => 'in-sync'));
  expect(stale.map((name) => imageOn(dry, name).verdict)).toEqual(stale.map(() => 'stale'));
  expect(imageOn(dry, 'version-never-ends').verdict).toBe('stale');
  expect(imageOn(dry, 'lies').verdict).toBe('in-sync'); // until it is asked for depth
  expect(dry.run).toMatchObject({ exitCode: 2, error: null });
});
