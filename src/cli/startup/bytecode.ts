/**
 * The program as V8 takes it in. Reading and compiling it would be half of the start-up, so the build keeps what V8 makes of
 * it, and V8 takes that where its own version and its flags are the same; where they are not, it compiles as ever. V8
 * believes what it is given, so a checksum tells whether that is still what was kept, and of which program.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { setFlagsFromString } from 'node:v8';
import { Script } from 'node:vm';
import { crc32 } from 'node:zlib';

/** The text of a function, which runs the program; in ASCII. */
export const PROGRAM = fileURLToPath(new URL('./program.js', import.meta.url));
/** The checksums of the program and of what follows them, each in four bytes. */
const BYTECODE = fileURLToPath(new URL('./program.bytecode', import.meta.url));
const HEADER_BYTES = 8;

/** Sets the flags of V8 for the whole program and makes it ready to run. */
export function load(): Script {
  setFlags();
  const program = readFileSync(PROGRAM);
  return scriptOf(program, kept(program));
}

/** Has V8 compile all of the program, and keeps what it made of it. For the build. */
export function keep(): void {
  setFlags();
  setFlagsFromString('--no-lazy');
  const program = readFileSync(PROGRAM);
  const script = scriptOf(program);
  setFlagsFromString('--lazy'); // the flags are part of what is kept, and have to be those of a run
  const data = script.createCachedData();
  writeFileSync(BYTECODE, Buffer.concat([header(program, data), data]));
}

/** V8 complains aloud of a flag that it does not know, so newer versions than these get none. */
const NEWEST_WITH_FLAGS = 24;
const MAJOR = Number.parseInt(process.versions.node, 10);

function setFlags(): void {
  if (MAJOR > NEWEST_WITH_FLAGS) return;
  // What runs for seconds does not earn back the time of the optimizing compilers: on Node.js 20, which has no cheaper one, a
  // tenth of a run over many nodes. That of WebAssembly, which reads HTTP, would begin at the end, and an exit waits for it.
  if (MAJOR === 20) setFlagsFromString('--interrupt-budget=1000000');
  setFlagsFromString('--wasm-tiering-budget=1000000000');
  keepYoungGenerationSmall();
}

/**
 * Each connection leaves garbage behind, and reading an image leaves much of it outside the heap: only a young generation
 * that stays small is swept in time. V8 forgets this whenever it makes a further heap, for a thread.
 */
export function keepYoungGenerationSmall(): void {
  if (MAJOR <= NEWEST_WITH_FLAGS) setFlagsFromString('--semi-space-growth-factor=1');
}

/** Its name is kept too, and the same wherever it is installed. */
function scriptOf(program: Buffer, cachedData?: Buffer): Script {
  return new Script(program.toString('latin1'), {
    filename: 'reconcile/program.js',
    ...(cachedData && { cachedData }),
  });
}

/** What was kept of exactly this program; undefined where that is not there, or not whole. */
function kept(program: Buffer): Buffer | undefined {
  try {
    const file = readFileSync(BYTECODE);
    const data = file.subarray(HEADER_BYTES);
    return header(program, data).equals(file.subarray(0, HEADER_BYTES)) ? data : undefined;
  } catch {
    return undefined;
  }
}

function header(program: Buffer, data: Buffer): Buffer {
  const bytes = Buffer.alloc(HEADER_BYTES);
  bytes.writeUInt32LE(crc32(program), 0);
  bytes.writeUInt32LE(crc32(data), 4);
  return bytes;
}
