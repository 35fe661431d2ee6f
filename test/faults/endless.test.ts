// A run ends: whenever V8 collects garbage, and also where its main thread does nothing any more.
import { writeFile } from 'node:fs/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { fromMemory } from '../fleet/memory-answers.ts';
import { startSshServer } from '../fleet/ssh-server.ts';
import type { NodeServer } from '../fleet/sshd.ts';
import { breakAsInTheIncident, startFleet, type Fleet } from '../fleet/world.ts';
import { parseReport, start } from '../helpers/reconcile.ts';

/** Further ones than that of the tests can be named: paths with colons between. */
const NODE_BINARIES = [process.execPath, ...(process.env['NODE_BINARIES'] ?? '').split(':').filter(Boolean)];
const CONNECTIONS = 1000;

let fleet: Fleet;
let server: NodeServer;

beforeAll(async () => {
  fleet = await startFleet({ nodes: 1 });
  await breakAsInTheIncident(fleet, []);
  const [node] = fleet.nodes as [Fleet['nodes'][0]];
  const hook = fromMemory('one');
  server = await startSshServer({
    authorizedKeys: [fleet.publicKey],
    mark: node.dir,
    host: '0.0.0.0',
    onExec: () => hook,
  });
  const [key] = await server.hostKeys();
  await writeFile(fleet.knownHostsFile, `[127.0.*]:${server.port} ${key}\n`);
  const { rootDir, runDir, logDir, binary } = node;
  const nodes = Array.from({ length: CONNECTIONS }, (_, i) => ({
    name: `n${i}`,
    host: `127.0.${1 + (i >> 8)}.${i & 255}`,
    port: server.port,
    binary,
    rootDir,
    runDir,
    logDir,
  }));
  await fleet.writeConfig({ nodes, ssh: { connectTimeout: '60s' } }); // all of them are one busy machine
});
afterAll(async () => {
  await server.stop();
  await fleet.down();
});

/**
 * A lock that is held while V8 allocates, and is wanted where it collects, stops a run for ever. `--gc-interval` alone hardly
 * changes when a released V8 collects; a small young generation, and all of the heap collected each time, do.
 */
const COLLECTING = ['--gc-interval=53', '--gc-interval=499', '--gc-interval=20011 --gc-global --max-semi-space-size=1'];

describe.each(NODE_BINARIES)('%s', (execPath) => {
  test.each(COLLECTING)(
    `${CONNECTIONS} connections end with %s`,
    async (flags) => {
      const args = ['--dry-run', '--output', 'json', '--config', fleet.configFile];
      const { ended } = start(args, { node: [execPath, ...flags.split(' ')] });
      const { code, stdout, stderr } = await ended;
      expect(stderr).toBe('');
      expect(code).toBe(0);
      expect(parseReport(stdout).summary.nodes.observed).toBe(CONNECTIONS);
    },
    300_000,
  );
});
