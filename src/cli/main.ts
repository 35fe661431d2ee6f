#!/usr/bin/env node
import { createRequire } from 'node:module';
import { dirname } from 'node:path';
import { load, PROGRAM } from './startup/bytecode.ts';

/** As `scripts/build.js` wraps it. */
type Program = (require: NodeJS.Require, filename: string, directory: string) => void;

const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
if (major < 20 || (major === 20 && minor < 19)) {
  process.stderr.write(`reconcile: Node.js 20.19 or newer is needed, and this is ${process.versions.node}\n`);
  process.exit(1);
}

(load().runInThisContext() as Program)(createRequire(PROGRAM), PROGRAM, dirname(PROGRAM));
