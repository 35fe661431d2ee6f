/** Deadlines hold though the garbage collector takes all that it may, and leave nothing behind. */
import { getEventListeners } from 'node:events';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { describe, expect, test } from 'vitest';
import { settleOnce, startDeadline, unlessAborted, withDeadline } from '../../../src/system/deadline.ts';

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as () => void;

const late = { afterMs: 30, reason: () => new Error('late') };
const never = new Promise<never>(() => undefined);
const nothing = (): Promise<never> => never;

/** Waits for its signal alone, as a library does that knows of no other end. */
const heedful = (signal: AbortSignal): Promise<string> =>
  new Promise((resolve) => signal.addEventListener('abort', () => resolve('heeded'), { once: true }));

/** The promise, while all that nothing holds is collected again and again. */
async function underCollection<T>(promise: Promise<T>): Promise<T> {
  const timer = setInterval(collect, 5);
  collect();
  return await promise.finally(() => clearInterval(timer));
}

describe('under forced garbage collection', () => {
  test('work ends by its deadline, heedful or not', async () => {
    const outer = new AbortController();
    const limits = { signal: outer.signal, timeout: late };
    const all = [
      withDeadline(limits, nothing),
      withDeadline(limits, heedful),
      withDeadline(limits, (signal) => withDeadline({ signal }, nothing)),
      withDeadline({ timeout: late }, (signal) => withDeadline({ signal: [signal, outer.signal] }, nothing)),
      withDeadline(limits, (signal) => unlessAborted(never, signal)),
      settleOnce(limits, () => undefined),
    ];
    const ended = await underCollection(Promise.allSettled(all));
    expect(ended).toEqual(all.map(() => ({ status: 'rejected', reason: new Error('late') })));
    expect(getEventListeners(outer.signal, 'abort')).toEqual([]);
  });

  test('a signal of a deadline that nobody keeps is aborted, and what listens to it hears', async () => {
    const heard = Promise.all([1, 2, 3].map(() => heedful(startDeadline({ timeout: late }).signal)));
    expect(await underCollection(heard)).toEqual(['heeded', 'heeded', 'heeded']);
  });

  test('the outer signal ends all that hangs on it, at any depth, with its own reason', async () => {
    const outer = new AbortController();
    const run = startDeadline({ signal: outer.signal, timeout: { ...late, afterMs: 60_000 } });
    const all = [1, 2, 3].map(() =>
      withDeadline({ signal: run.signal }, (signal) => withDeadline({ signal }, nothing)),
    );
    setTimeout(() => outer.abort(new Error('interrupted')), 30);
    const ended = await underCollection(Promise.allSettled(all));
    expect(ended).toEqual(all.map(() => ({ status: 'rejected', reason: new Error('interrupted') })));
    run.end();
    expect(getEventListeners(outer.signal, 'abort')).toEqual([]);
  });
});

describe('what is over', () => {
  test('is over once, cleaned up once, and keeps no listener and no clock', async () => {
    const outer = new AbortController();
    const seen: unknown[] = [];
    const value = await settleOnce<string>({ signal: outer.signal, timeout: late }, ({ done, fail, onEnd, isOver }) => {
      onEnd((isDone) => seen.push(isDone));
      done('first');
      fail(new Error('second'));
      expect(isOver()).toBe(true);
      onEnd((isDone) => seen.push(`at once, ${isDone}`));
    });
    outer.abort(new Error('afterwards'));
    expect({ value, seen }).toEqual({ value: 'first', seen: [true, 'at once, true'] });
    expect(getEventListeners(outer.signal, 'abort')).toEqual([]);
  });

  test('does not begin where its signal is aborted, and a throw is a failure', async () => {
    const aborted = AbortSignal.abort(new Error('long ago'));
    const begin = (): never => expect.fail('begun');
    await expect(settleOnce({ signal: aborted }, begin)).rejects.toThrow('long ago');
    await expect(withDeadline({ signal: aborted }, begin)).rejects.toThrow('long ago');
    const thrown = settleOnce({}, () => {
      throw new Error('thrown');
    });
    await expect(thrown).rejects.toThrow('thrown');
  });

  test('work that fails after its deadline fails nobody', async () => {
    const failing = withDeadline({ timeout: late }, async (signal) => {
      await heedful(signal);
      throw new Error('too late to matter');
    });
    await expect(failing).rejects.toThrow('late');
  });

  test('a signal has as many listeners as there are nodes, without a warning', async () => {
    const warnings: Error[] = [];
    const onWarning = (warning: Error): void => void warnings.push(warning);
    process.on('warning', onWarning);
    const { signal } = new AbortController();
    await Promise.all(
      [...Array(50)].map(() => withDeadline({ signal, timeout: late }, nothing).catch(() => undefined)),
    );
    process.off('warning', onWarning);
    expect(warnings).toEqual([]);
  });
});
