#!/usr/bin/env node
import { createRequire } from 'node:module';
import { keepCompiled } from './startup/compile-cache.ts';
import { prepareEngine } from './startup/engine.ts';

prepareEngine();
keepCompiled(process.env, process.getuid?.() ?? -1);
createRequire(import.meta.url)('./program.js');
