/** Long computations in slices, between which everything else gets its turn. */
import { setImmediate } from 'node:timers/promises';

const SLICE_MS = 8;

/** Runs the steps to their end. After some milliseconds of steps other work has its turn. */
export async function inSlices<T>(steps: Generator<void, T>): Promise<T> {
  let began = performance.now();
  for (;;) {
    const step = steps.next();
    if (step.done === true) return step.value;
    if (performance.now() - began < SLICE_MS) continue;
    await setImmediate();
    began = performance.now();
  }
}
