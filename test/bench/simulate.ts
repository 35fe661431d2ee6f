// What a dry run over so many nodes costs without any network: each answers what one true node said, in its own name. Prints
// one line of JSON; `scripts/bench --simulate` starts it once per size, so that no size warms up another.
import { readFileSync } from 'node:fs';
import { loadConfig } from '../../src/config/load.ts';
import { policyOf } from '../../src/core/model/settings.ts';
import type { Node } from '../../src/core/model/node.ts';
import { resolveInventory } from '../../src/bastion/inventory.ts';
import { runPipeline } from '../../src/pipeline/run.ts';
import { createRegistry } from '../../src/registry/client.ts';
import { render } from '../../src/reports/formats.ts';
import type { Connection } from '../../src/ssh/client.ts';
import { breakAsInTheIncident, startFleet } from '../fleet/world.ts';
import { fakeSsh, localConnection } from '../support/fakes.ts';
import { memoryState } from '../support/state.ts';

/** Of a command: this word of it differs each time. */
const NONCE = /\b[0-9a-f]{16}\b/;

/** Commands are run the first time that they are asked for, and told from memory then. */
function replaying(): Connection {
  const local = localConnection();
  const remembered = new Map<string, Promise<string>>();
  return {
    exec: async (command, options) => {
      const nonce = NONCE.exec(command)?.[0] ?? '-';
      const key = command.replaceAll(nonce, '');
      const { onStdout, ...rest } = options;
      const told =
        remembered.get(key) ??
        local.exec(command, rest).then(({ stdout }) => stdout.toString('latin1').replaceAll(nonce, '\0nonce\0'));
      remembered.set(key, told);
      const stdout = Buffer.from((await told).replaceAll('\0nonce\0', nonce), 'latin1');
      onStdout?.(stdout);
      return { stdout, stderr: '', code: 0, signal: null };
    },
    close: () => undefined,
  };
}

/** In MB, as the kernel counted it. */
function megabytes(field: 'VmHWM' | 'VmRSS'): number {
  const [, kilobytes] =
    new RegExp(`^${field}:\\s+(\\d+) kB$`, 'm').exec(readFileSync('/proc/self/status', 'utf8')) ?? [];
  return Math.round((Number(kilobytes) * 1024) / 1e6);
}

const count = Number(process.argv[2]);
const fleet = await startFleet({ nodes: 1, transport: 'in-process' });
try {
  await breakAsInTheIncident(fleet, []);
  const settings = await loadConfig(fleet.configFile, process.env);
  const sources = { ...settings.inventory, nodes: settings.nodes, loadFile: async () => [], parseList: () => [] };
  const around = { env: {}, endGroup: () => undefined, signal: new AbortController().signal };
  const [one] = await resolveInventory(sources, { ssh: settings.ssh, cocoon: settings.cocoon }, around);
  if (one === undefined) throw new Error('the fleet has no node');
  const nodes = Array.from({ length: count }, (_, i): Node => ({
    ...one,
    name: `cocoonset-node-${i + 1}`,
    host: `10.${i >> 16}.${(i >> 8) & 255}.${i & 255}`,
  }));
  const epoch = createRegistry({ ...settings.epoch, login: null, proxy: null });
  const connection = replaying();
  const nothing = (): void => undefined;
  const requestsBefore = fleet.epoch.requests.length;
  const startedAt = performance.now();
  const report = await runPipeline({
    tool: { name: 'cocoon-reconcile', version: '0' },
    id: 'simulated',
    mode: 'dry-run',
    startedAt: new Date(),
    now: () => new Date(),
    settings,
    nodes,
    filters: { images: [], snapshots: [], ignoreImages: [], ignoreSnapshots: [] },
    policy: policyOf(settings),
    clients: {
      ssh: fakeSsh(() => connection),
      epoch,
      registryOf: async (host) => await Promise.reject(new Error(`not ${host}`)),
      state: memoryState(),
    },
    signal: new AbortController().signal,
    workSignal: new AbortController().signal,
    until: null,
    remainingMs: () => 3_600_000,
    interruptedBy: () => null,
    events: {
      onNode: nothing,
      onStream: nothing,
      onTrouble: nothing,
      onPlan: nothing,
      onStart: nothing,
      onStep: nothing,
      onResult: nothing,
      onTidied: nothing,
    },
  });
  const text = await render('table', report, { color: false, verbose: false, brief: false, named: false });
  const ms = performance.now() - startedAt;
  if (report.run.exitCode !== 0 || report.summary.images['in-sync'] !== count) throw new Error(text);
  const requests = fleet.epoch.requests.length - requestsBefore;
  process.stdout.write(
    `${JSON.stringify({ nodes: count, seconds: ms / 1000, peakMb: megabytes('VmHWM'), requests })}\n`,
  );
  await epoch.close();
} finally {
  await fleet.down();
}
process.exit();
