#!/usr/bin/env node
import { createRequire } from 'node:module';
import { setFlagsFromString } from 'node:v8';
import { keepCompiled } from './startup/compile-cache.ts';

const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
if (major < 20 || (major === 20 && minor < 19)) {
  process.stderr.write(`reconcile: Node.js 20.19 or newer is needed, and this is ${process.versions.node}\n`);
  process.exit(1);
}

// What runs for seconds does not earn back the time of the optimizing compiler, and Node.js 20 has no cheaper one.
if (major === 20) setFlagsFromString('--interrupt-budget=1000000');
keepCompiled(process.env, process.getuid?.() ?? -1);
createRequire(import.meta.url)('./program.js');
