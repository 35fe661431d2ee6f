/** What must be so before the program runs: a Node.js that is new enough, and V8 told how long a run is. */
import { setFlagsFromString } from 'node:v8';

/** Ends the process where this Node.js is too old. */
export function prepareEngine(): void {
  const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
  if (major < 20 || (major === 20 && minor < 19)) {
    process.stderr.write(`reconcile: Node.js 20.19 or newer is needed, and this is ${process.versions.node}\n`);
    process.exit(1);
  }
  // What runs for seconds does not earn back the time of the optimizing compiler, and Node.js 20 has no cheaper one.
  if (major === 20) setFlagsFromString('--interrupt-budget=1000000');
}
