/** The thread that `watchdog.ts` starts: built as a file of its own, it ends the process where the main thread hangs. */
import { workerData } from 'node:worker_threads';
import { DEADLINE, SIGNS, type Watched } from './watched.ts';

/**
 * (module
 *   (import "wasi_snapshot_preview1" "proc_exit" (func (param i32)))
 *   (func (export "_start") (call 0 (i32.const 4)))
 *   (memory (export "memory") 0))
 */
const EXIT_4 =
  'AGFzbQEAAAABCAJgAX8AYAAAAiQBFndhc2lfc25hcHNob3RfcHJldmlldzEJcHJvY19leGl0AAADAgEBBQMBAAAHEwIGbWVtb3J5AgAGX3N0YXJ0AAEKCAEGAEEEEAAL';

/** The library of ES2023 lacks it, and that of browsers has far more than there is here. */
declare const WebAssembly: {
  Module: new (bytes: Uint8Array) => object;
  Instance: new (module: object, imports: object) => object;
};

/** It looks so many times within the grace: who slept (a suspended process) does not take its own sleep for a silence. */
const LOOKS = 60;
/** Stderr may be a full pipe that nobody reads. */
const WRITE_MS = 1_000;
/** An exit may hang too. */
const EXIT_MS = 5_000;

function waitForSilence({ shared, graceMs }: Watched): void {
  const places = new Int32Array(shared);
  const nothing = new Int32Array(new SharedArrayBuffer(4));
  let silent = 0;
  let heard = Atomics.load(places, SIGNS);
  while (silent < LOOKS || performance.now() < Atomics.load(places, DEADLINE) * 1000 + graceMs) {
    Atomics.wait(nothing, 0, 0, graceMs / LOOKS);
    const signs = Atomics.load(places, SIGNS);
    silent = signs === heard ? silent + 1 : 0;
    heard = signs;
  }
}

/** `process.exit` would end this thread alone; that of WASI is that of the C library. */
async function exit(): Promise<void> {
  const { WASI } = await import('node:wasi');
  const wasi = new WASI({ version: 'preview1', returnOnExit: false });
  const module = new WebAssembly.Module(Buffer.from(EXIT_4, 'base64'));
  wasi.start(new WebAssembly.Instance(module, wasi.getImportObject()));
}

/** What only the end needs is loaded only then: as long as all is well, the thread shall hold as little as can be. */
async function end(line: string): Promise<void> {
  const { write } = await import('node:fs');
  const { setTimeout: pause } = await import('node:timers/promises');
  const { killLater } = await import('./last-resort.ts');
  await Promise.race([new Promise((resolve) => write(2, `${line}\n`, resolve)), pause(WRITE_MS)]);
  killLater(EXIT_MS);
  await exit();
}

const watched = workerData as Watched;
waitForSilence(watched);
end(watched.line).catch(() => process.kill(process.pid, 'SIGKILL'));
