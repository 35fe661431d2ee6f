// Guest networks as far as a client sees them: which conflist, which address, which record.
import { readdirSync, readFileSync, existsSync } from 'node:fs';
import { join } from 'node:path';
import type { Invocation } from './command.ts';
import { ensureDirs, newId } from './files.ts';
import { wrapped } from './images.ts';
import type { NetworkConfig } from './records.ts';
import { openStore } from './store.ts';
import { quote } from './text.ts';

/** Configures so many interfaces; no interface asks for nothing. */
export async function configureNetwork(
  call: Invocation,
  vmId: string,
  nics: number,
  cpu: number,
  conflist: string,
  bridge: string,
): Promise<NetworkConfig[]> {
  if (nics <= 0) return [];
  const base = (i: number) => ({ mac: macOf(i), num_queues: cpu * 2, queue_size: 512 });
  const range = Array.from({ length: nics }, (_, i) => i);
  if (bridge) {
    if (!existsSync(`/sys/class/net/${bridge}`)) {
      throw new Error(`init network: init bridge network: bridge ${bridge}: Link not found`);
    }
    return range.map((i) => ({ tap: `bt${vmId.slice(0, 8)}-${i}`, ...base(i), backend: 'bridge', bridge_dev: bridge }));
  }
  ensureDirs(...call.layout.dirs.cni);
  return wrapped('configure network', async () => {
    const type = chooseConflist(call.config.cniConfDir, conflist);
    const store = await openStore(call.config, 'cni');
    return store.update(({ networks }) =>
      range.map((i) => {
        const network = {
          ip: `10.88.${Object.keys(networks).length >> 8}.${(Object.keys(networks).length & 255) + 2}`,
          gateway: '10.88.0.1',
          prefix: 16,
        };
        const id = newId();
        networks[id] = { network, id, type, vm_id: vmId, if_name: `eth${i}` };
        return {
          tap: `tap${vmId.slice(0, 8)}-${i}`,
          ...base(i),
          backend: 'cni',
          netns_path: `/var/run/netns/cocoon-${vmId}`,
          network,
        };
      }),
    );
  });
}

export async function releaseNetwork(call: Invocation, vmId: string): Promise<void> {
  const store = await openStore(call.config, 'cni');
  await store.update(({ networks }) => {
    for (const [id, record] of Object.entries(networks)) if (record?.vm_id === vmId) delete networks[id];
  });
}

/** The named conflist, or the first one by file name. */
function chooseConflist(dir: string, wanted: string): string {
  const files = existsSync(dir) ? readdirSync(dir).filter((name) => name.endsWith('.conflist')) : [];
  const names = files
    .sort()
    .map((file) => (JSON.parse(readFileSync(join(dir, file), 'utf8')) as { name: string }).name);
  const [first] = names;
  if (first === undefined) throw new Error(`network provider not configured: no conflist found in ${dir}`);
  if (!wanted) return first;
  if (names.includes(wanted)) return wanted;
  throw new Error(`conflist ${quote(wanted)} not found (available: ${names.sort().join(', ')})`);
}

function macOf(i: number): string {
  const tail = Array.from({ length: 3 }, () =>
    Math.floor(Math.random() * 256)
      .toString(16)
      .padStart(2, '0'),
  );
  return ['52:54:00', ...tail.slice(0, 2), (i & 255).toString(16).padStart(2, '0')].join(':');
}
