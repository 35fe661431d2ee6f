import { keep } from './bytecode.ts';

keep();
