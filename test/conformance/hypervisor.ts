#!/usr/bin/env node
// A stand-in for the `cloud-hypervisor` program, as far as cocoon talks to it: an HTTP API on a unix socket.
// `vm.restore` opens every disk of config.json and, through an overlay's header, its backing file; where that is not
// there it refuses as the hypervisor does. HYPERVISOR_DELAY_MS delays its answer, HYPERVISOR_ERROR is a refusal's text.
import { createServer, type ServerResponse } from 'node:http';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { readQcow2Header } from '../doubles/cocoon/qcow2.ts';

const socket = process.argv[process.argv.indexOf('--api-socket') + 1];

function missingBacking(dir: string): string | null {
  const { disks } = JSON.parse(readFileSync(`${dir}/config.json`, 'utf8')) as { disks: { path: string }[] };
  for (const { path } of disks) {
    const backing = readQcow2Header(readFileSync(path))?.backing ?? null;
    if (backing !== null && !existsSync(backing)) return backing;
  }
  return null;
}

function restore(body: string, response: ServerResponse): void {
  const dir = fileURLToPath((JSON.parse(body) as { source_url: string }).source_url);
  writeFileSync(`${dir}/restore-began`, '');
  setTimeout(
    () => {
      const backing = missingBacking(dir);
      const refusal =
        backing === null ? undefined : `Backing file I/O error: ${backing}\nNo such file or directory (os error 2)`;
      const text = process.env['HYPERVISOR_ERROR'] ?? refusal;
      response.writeHead(text === undefined ? 204 : 500).end(text);
    },
    Number(process.env['HYPERVISOR_DELAY_MS'] ?? 0),
  );
}

createServer((request, response) => {
  let body = '';
  request.on('data', (chunk: Buffer) => (body += chunk.toString()));
  request.on('end', () => {
    if (request.url?.endsWith('/vm.restore')) return restore(body, response);
    response.writeHead(204).end();
    if (/vm\.(power-button|shutdown)$/.test(request.url ?? '')) setImmediate(() => process.exit(0));
  });
}).listen(socket);
