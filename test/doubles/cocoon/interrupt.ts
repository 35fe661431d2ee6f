// SIGINT and SIGTERM cancel what is under way; every command then cleans up and fails by itself.

const controller = new AbortController();

/** Aborted by the first SIGINT or SIGTERM; further ones are swallowed, as Go's signal.NotifyContext does. */
export const interrupt = controller.signal;

export function catchSignals(): void {
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => controller.abort());
}

/** Waits; rejects with Go's words when a signal comes first. */
export function pause(ms: number): Promise<void> {
  return new Promise((resolve, reject) => {
    if (interrupt.aborted) return reject(new Error('context canceled'));
    const cancel = () => {
      clearTimeout(timer);
      reject(new Error('context canceled'));
    };
    const timer = setTimeout(() => {
      interrupt.removeEventListener('abort', cancel);
      resolve();
    }, ms);
    interrupt.addEventListener('abort', cancel, { once: true });
  });
}
