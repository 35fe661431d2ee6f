#!/usr/bin/env node
import { createRequire } from 'node:module';
import { dirname } from 'node:path';
import { load, PROGRAM } from './bytecode.ts';

/** As `scripts/build.js` wraps it. */
type Program = (require: NodeJS.Require, filename: string, directory: string) => void;

(load().runInThisContext() as Program)(createRequire(PROGRAM), PROGRAM, dirname(PROGRAM));
