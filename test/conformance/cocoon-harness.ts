// What the conformance rows of cocoon stand on: the program under test, directories of its own, an HTTP server.
import { spawn, type ChildProcess } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';
import { digestOf, makeQcow2, makeSnapshotArchive, type SnapshotOptions } from '../doubles/cocoon/fixtures.ts';

/** A true cocoon, where one is named. */
export const trueBinary = process.env['COCOON_BIN'];

const work = mkdtempSync(join(tmpdir(), 'cocoon-conformance-'));
const here = dirname(fileURLToPath(import.meta.url));
const double = join(work, 'cocoon.js');
const hypervisor = process.env['COCOON_CH_BINARY'] ?? join(work, 'cloud-hypervisor.js');

export interface Result {
  code: number | null;
  signal: NodeJS.Signals | null;
  stdout: string;
  stderr: string;
  /** Log lines without their time and colours: `INF message`. */
  log: string[];
}

export interface RunOptions {
  env?: Record<string, string>;
  /** Standard input; null leaves it open, to be ended by `running`. */
  input?: Buffer | null;
  /** Called with the running process. */
  running?: (child: ChildProcess) => void;
}

/** Bundles the double and the stand-in hypervisor from their sources. */
export async function buildPrograms(): Promise<void> {
  const entryPoints = { cocoon: join(here, '../doubles/cocoon.ts'), 'cloud-hypervisor': join(here, 'hypervisor.ts') };
  await build({
    entryPoints,
    outdir: work,
    bundle: true,
    splitting: true,
    format: 'esm',
    platform: 'node',
    target: 'node20.19',
  });
  writeFileSync(join(work, 'package.json'), '{"type":"module"}');
  chmodSync(join(work, 'cloud-hypervisor.js'), 0o755);
}

export function removePrograms(): void {
  rmSync(work, { recursive: true, force: true });
}

/** One node's directories, and commands on them. */
export function newNode() {
  const root = mkdtempSync(join(work, 'node-'));
  const at = (path: string) => join(root, path);
  const globals = ['--root-dir', root, '--run-dir', at('run'), '--log-dir', at('log')];
  globals.push('--cni-conf-dir', at('cni/conf'), '--cni-bin-dir', at('cni/bin'));
  const cocoon = (args: string[], options?: RunOptions) => runProgram([...args, ...globals], options);
  return {
    root,
    at,
    cocoon,
    exists: (path: string) => existsSync(at(path)),
    read: (path: string) => readFileSync(at(path), 'utf8'),
    json: (path: string) => JSON.parse(readFileSync(at(path), 'utf8')) as never,
    mode: (path: string) => (statSync(at(path)).mode & 0o7777).toString(8),
    stat: (path: string) => statSync(at(path)),
    write: (path: string, data: Buffer | string) => {
      mkdirSync(dirname(at(path)), { recursive: true });
      rmSync(at(path), { force: true });
      writeFileSync(at(path), data);
    },
    remove: (path: string) => rmSync(at(path)),
    /** Every path under the root, directories with a slash behind. */
    tree: () =>
      readdirSync(root, { recursive: true, withFileTypes: true })
        .map((entry) => join(entry.parentPath, entry.name).slice(root.length + 1) + (entry.isDirectory() ? '/' : ''))
        .sort(),
    list: (path: string) => readdirSync(at(path)).sort(),
    /** Imports a snapshot that can be cloned here; its firmware is put in place. */
    importSnapshot: async (name: string, options: SnapshotOptions = {}) => {
      if (!existsSync(at('firmware/CLOUDHV.fd'))) {
        mkdirSync(at('firmware'), { recursive: true });
        writeFileSync(at('firmware/CLOUDHV.fd'), 'firmware');
      }
      const archive = makeSnapshotArchive({ rootDir: root, ...options });
      const result = await cocoon(['snapshot', 'import', '--name', name], { input: archive });
      if (result.code !== 0) throw new Error(result.stderr);
      return /snapshot imported: (\S+)/.exec(result.stderr)?.[1] ?? '';
    },
    /** Ends programs and guests that are left, then removes everything. */
    dispose: async () => {
      for (const child of children) child.kill('SIGKILL');
      if (existsSync(at('cloudhypervisor/db/vms.json'))) {
        const { names = {} } = JSON.parse(readFileSync(at('cloudhypervisor/db/vms.json'), 'utf8')) as {
          names?: object;
        };
        for (const name of Object.keys(names)) await cocoon(['vm', 'rm', '--force', name]);
      }
      rmSync(root, { recursive: true, force: true });
    },
  };
}

export type CocoonNode = ReturnType<typeof newNode>;

/** Programs that run now; a row that fails or times out may leave one. */
const children = new Set<ChildProcess>();

/** Runs the program under test without colours. */
export function runProgram(args: string[], options: RunOptions = {}): Promise<Result> {
  const [program, ...first] = trueBinary ? [trueBinary] : [process.execPath, double];
  const env = {
    PATH: process.env['PATH'] ?? '',
    HOME: work,
    NO_COLOR: '1',
    COCOON_CH_BINARY: hypervisor,
    ...options.env,
  };
  return new Promise((resolve, reject) => {
    const child = spawn(program ?? '', [...first, ...args], { env, cwd: work, stdio: 'pipe' });
    children.add(child);
    let stdout = '';
    let stderr = '';
    child.stdout.on('data', (chunk: Buffer) => (stdout += chunk.toString()));
    child.stderr.on('data', (chunk: Buffer) => (stderr += chunk.toString()));
    child.stdin.on('error', () => {}); // a program that does not read its input may end before it is written
    if (options.input !== null) child.stdin.end(options.input ?? '');
    child.on('error', reject);
    child.on('close', (code, signal) => {
      children.delete(child);
      resolve({ code, signal, stdout, stderr, log: logLines(stderr) });
    });
    options.running?.(child);
  });
}

function logLines(stderr: string): string[] {
  const line = /^\d\d [A-Z][a-z]{2} \d\d \d\d:\d\d \S+ ([A-Z]{3} .*) func=\S+$/;
  return stderr.split('\n').flatMap((text) => line.exec(text)?.[1] ?? []);
}

/** Waits for a state of the world; the test's own time limit is the only one. */
export async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 20));
}

type Handler = (response: ServerResponse, request: IncomingMessage) => void;

/** A server on loopback whose answers tests set path by path. */
export async function startServer() {
  const routes = new Map<string, Handler>();
  const requests: string[] = [];
  const server: Server = createServer((request, response) => {
    const path = (request.url ?? '').split('?')[0] ?? '';
    requests.push(`${request.method} ${path}`);
    const handler = routes.get(path);
    if (handler) handler(response, request);
    else response.writeHead(404, { 'content-type': 'text/plain' }).end('artifact not found\n');
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const host = `127.0.0.1:${(server.address() as AddressInfo).port}`;
  return {
    host,
    url: (path: string) => `http://${host}${path}`,
    on: (path: string, handler: Handler) => routes.set(path, handler),
    /** Serves bytes in chunks, without a length. */
    serve: (path: string, body: Buffer | string) => routes.set(path, (response) => response.writeHead(200).end(body)),
    requests,
    close: () => {
      server.closeAllConnections();
      server.close();
    },
  };
}

export type TestServer = Awaited<ReturnType<typeof startServer>>;

/** An image, its digest and its blob's path under the root. */
export function sampleImage(seed: string | number, size = 40_000) {
  const bytes = makeQcow2({ seed, size });
  const digest = digestOf(bytes);
  return { bytes, digest, hex: digest.slice(7), blob: `cloudimg/blobs/${digest.slice(7)}.qcow2` };
}
