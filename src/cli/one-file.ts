#!/usr/bin/env node
/** The whole program in one file, for machines without npm: the build puts the thread and the scripts for nodes inside. */
import { prepareEngine } from './startup/engine.ts';

prepareEngine();
void import('./program.ts');
