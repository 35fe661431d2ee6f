// `scripts/bench --heal`: how long a night of healing takes, against the shortest that it could take.
import { createServer, request, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { fileURLToPath } from 'node:url';
import { makeQcow2 } from '../doubles/cocoon/fixtures.ts';
import { startFleet } from '../fleet/world.ts';
import { measure } from './measure.ts';

const program = fileURLToPath(new URL('../../dist/main.js', import.meta.url));
const MEBI = 2 ** 20;
const NODES = 40;
const MAX_PULLS = 4;
/** What epoch gives to all pulls together. */
const BYTES_PER_SECOND = 12 * MEBI;
/** So much longer a pull takes on the slow node, which is the last canary that anybody would choose, or the first. */
const SLOW_MS = 8_000;
const IMAGES = [
  { image: 'simular/win11', size: 24 * MEBI },
  { image: 'simular/ubuntu-24.04', size: 12 * MEBI },
  { image: 'simular/debian-12', size: 6 * MEBI },
];

export interface HealTimes {
  bytes: number;
  wallMs: number;
  boundMs: number;
  /** When the last node of each image was healed, in ms from the start. */
  images: { image: string; healedMs: number }[];
}

/** Heals a drifted fleet once, with one slow node. @param slow the place of that node: 0 is the first canary of the first image */
export async function heal(slow: number, signal: AbortSignal): Promise<HealTimes> {
  const fleet = await startFleet({ nodes: NODES });
  const throttle = await startThrottle(fleet.epoch.url);
  try {
    const key = (image: string): string => `${throttle.url}/dl/${image}`;
    const imageOf = (i: number) => IMAGES[i % IMAGES.length] ?? { image: '', size: 0 };
    const push = async (round: string): Promise<void> => {
      for (const { image, size } of IMAGES) {
        await fleet.epoch.pushImage(image, 'latest', { content: makeQcow2({ seed: `${round} ${image}`, size }) });
      }
    };
    await push('old');
    await Promise.all(fleet.nodes.map(async (node, i) => await node.pull(key(imageOf(i).image))));
    await push('new');
    throttle.limit(BYTES_PER_SECOND);
    await fleet.nodes[slow]?.setEnv({ COCOON_DOUBLE_PULL_DELAY_MS: String(SLOW_MS) });
    await fleet.writeConfig({ epoch: { url: throttle.url }, rollout: { canary: 1, maxPulls: MAX_PULLS } });
    const argv = [process.execPath, program, '--config', fleet.configFile, '-o', 'json', '--log-level', 'info'];
    const begun = Date.now();
    const { code, stdout, stderr, wallMs } = await measure(argv, {
      env: { PATH: process.env['PATH'] ?? '', HOME: fleet.dir },
      dir: fleet.dir,
      signal,
    });
    if (code !== 0) throw new Error(`the run ended with ${code}: ${stderr.slice(-500)}`);
    const { nodes } = JSON.parse(stdout) as { nodes: { images: { outcome: string }[] }[] };
    if (nodes.some(({ images }) => images[0]?.outcome !== 'healed')) throw new Error('a node was not healed');
    const bytes = fleet.nodes.reduce((sum, _, i) => sum + imageOf(i).size, 0);
    const images = IMAGES.map(({ image }) => ({ image, healedMs: (throttle.lastOf(image) ?? begun) - begun }));
    return { bytes, wallMs, boundMs: boundOf(slow, bytes), images };
  } finally {
    await throttle.stop();
    await fleet.down();
  }
}

/** The larger of the longest chain (a canary, then one more pull, each with all of the rate) and all bytes at that rate. */
function boundOf(slow: number, bytes: number): number {
  const ms = (size: number): number => (1000 * size) / BYTES_PER_SECOND;
  const chains = IMAGES.map(({ size }, i) => 2 * ms(size) + (slow % IMAGES.length === i ? SLOW_MS : 0));
  return Math.max(ms(bytes), ...chains);
}

interface Throttle {
  url: string;
  /** Bytes per second over all answers together. */
  limit: (bytesPerSecond: number) => void;
  /** When the last download of an image ended, in ms since 1970. */
  lastOf: (image: string) => number | undefined;
  stop: () => Promise<void>;
}

/** Stands before epoch, and shares what it gives among all who ask. */
async function startThrottle(target: string): Promise<Throttle> {
  let rate = Infinity;
  let freeAt = 0;
  const ends = new Map<string, number>();
  /** When so many bytes may go on. */
  const turn = async (bytes: number): Promise<void> => {
    const now = performance.now();
    freeAt = Math.max(freeAt, now) + (1000 * bytes) / rate;
    if (freeAt > now + 1) await new Promise((resolve) => setTimeout(resolve, freeAt - now));
  };
  const server: Server = createServer((incoming, outgoing) => {
    const { method, url = '', headers } = incoming;
    const onward = request(`${target}${url}`, { method, headers }, (answer) => {
      outgoing.writeHead(answer.statusCode ?? 502, answer.headers);
      const copy = async (): Promise<void> => {
        for await (const chunk of answer as AsyncIterable<Buffer>) {
          if (url.startsWith('/dl/')) await turn(chunk.length);
          if (!outgoing.write(chunk)) await new Promise((resolve) => outgoing.once('drain', resolve));
        }
        outgoing.end();
        if (url.startsWith('/dl/')) ends.set(url.slice('/dl/'.length), Date.now());
      };
      copy().catch(() => outgoing.destroy());
    });
    onward.on('error', () => outgoing.destroy());
    incoming.pipe(onward);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    limit: (bytesPerSecond) => void (rate = bytesPerSecond),
    lastOf: (image) => ends.get(image),
    stop: async () => {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
