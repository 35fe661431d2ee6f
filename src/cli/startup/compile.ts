/** Run by the build, beside what it built. */
import { keep } from './bytecode.ts';

keep();
