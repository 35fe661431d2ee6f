/** What streaming the parts of a split image teaches, when it is done, and that nothing false is ever learned. */
import { createHash } from 'node:crypto';
import { describe, expect, test } from 'vitest';
import { fault, ReconcileError } from '../../../../src/core/errors.ts';
import type { DesiredImage } from '../../../../src/core/model/desired.ts';
import type { Observation } from '../../../../src/core/model/observed.ts';
import { learnContents as learnAll, streamContent, type LearnContext } from '../../../../src/pipeline/learn/stream.ts';
import {
  desired,
  entry,
  node,
  observation,
  served,
  sha,
  snapshot,
  split,
  WIN11,
  catalogOf,
  scopeOf,
  type Given,
} from '../../../support/facts.ts';
import { fakeRegistry } from '../../../support/fakes.ts';
import { memoryState } from '../../../support/state.ts';

describe('a stream', () => {
  const contents = [Buffer.alloc(300_000, 'a'), Buffer.from('the second part'), Buffer.alloc(0), Buffer.from('end')];
  const digestOf = (bytes: Buffer): string => `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
  const image = split({
    blobs: contents.map((bytes) => ({ digest: digestOf(bytes), sizeBytes: bytes.length })),
    sizeBytes: contents.reduce((sum, bytes) => sum + bytes.length, 0),
  });
  const whole = digestOf(Buffer.concat(contents));
  const second = digestOf(contents[1] as Buffer);

  /** Serves the parts; `bad` says what goes wrong with each try at the second one. */
  const registry = (
    bad: ((bytes: Buffer) => AsyncGenerator<Buffer>)[] = [],
  ): { asked: string[] } & LearnContext['epoch'] => {
    const asked: string[] = [];
    const good = async function* (bytes: Buffer): AsyncGenerator<Buffer> {
      for (let at = 0; at < bytes.length; at += 65_536) yield await Promise.resolve(bytes.subarray(at, at + 65_536));
    };
    const blobStream: LearnContext['epoch']['blobStream'] = (repository, digest) => {
      asked.push(`${repository} ${digest}`);
      const tries = asked.filter((ask) => ask.endsWith(second)).length - 1;
      const bytes = contents.find((content) => digestOf(content) === digest) as Buffer;
      return ((digest === second ? bad[tries] : undefined) ?? good)(bytes);
    };
    return { ...fakeRegistry({ blobStream }), asked };
  };
  const early = async function* (bytes: Buffer): AsyncGenerator<Buffer> {
    yield await Promise.resolve(bytes.subarray(0, 5));
  };
  const late = async function* (bytes: Buffer): AsyncGenerator<Buffer> {
    for (;;) yield await Promise.resolve(bytes);
  };
  const wrong = async function* (bytes: Buffer): AsyncGenerator<Buffer> {
    yield await Promise.resolve(Buffer.alloc(bytes.length, 'x'));
  };
  const broken = async function* (bytes: Buffer): AsyncGenerator<Buffer> {
    yield await Promise.resolve(bytes.subarray(0, 3));
    throw fault('REGISTRY_UNREACHABLE', { method: 'GET', url: 'x', cause: 'reset' });
  };
  const run = async (
    bad: Parameters<typeof registry>[0] = [],
    signal = new AbortController().signal,
  ): Promise<{ digest: string | ReconcileError; asked: number; progress: [number, number][] }> => {
    const epoch = registry(bad);
    const progress: [number, number][] = [];
    const digest = await streamContent(epoch, image, signal, (bytes, total) => progress.push([bytes, total])).catch(
      (error: unknown) => error as ReconcileError,
    );
    return { digest, asked: epoch.asked.length, progress };
  };

  test('reads each part once, and tells how far it is', async () => {
    const { digest, asked, progress } = await run();
    expect(digest).toBe(whole);
    expect(asked).toBe(4);
    expect(progress.at(-1)).toEqual([image.sizeBytes, image.sizeBytes]);
    const steps = progress.map(([bytes]) => bytes);
    expect(steps).toEqual([...steps].sort((a, b) => a - b));
  });

  test.each([
    ['ends early', [early]],
    ['breaks off', [broken]],
    ['brings other bytes', [wrong]],
    ['brings more than it should', [late]],
    ['fails three times', [early, broken, wrong]],
  ])('a part that %s begins again, and the others do not', async (_name, bad) => {
    const { digest, asked } = await run(bad);
    expect(digest).toBe(whole);
    expect(asked).toBe(4 + bad.length);
  });

  test.each([
    ['ends early', early, 'REGISTRY_BLOB_MISSING', /it ended after 5 of 15 bytes/],
    ['brings other bytes', wrong, 'REGISTRY_BLOB_MISSING', /its bytes have another digest/],
    ['breaks off', broken, 'REGISTRY_UNREACHABLE', /reset/],
  ])('a part that always %s teaches nothing', async (_name, bad, code, message) => {
    const { digest, asked } = await run([bad, bad, bad, bad, bad]);
    expect(digest).toBeInstanceOf(ReconcileError);
    expect((digest as ReconcileError).info).toMatchObject({ code, message: expect.stringMatching(message) as string });
    expect(asked).toBe(5);
  });

  test('is not tried again once the run is over', async () => {
    const { digest, asked } = await run([broken], AbortSignal.abort(new Error('over')));
    expect(digest).toBeInstanceOf(ReconcileError);
    expect(asked).toBe(2);
  });

  const learning = (epoch: LearnContext['epoch']): LearnContext & { remainingMs: () => number; trouble: string[] } => {
    const trouble: string[] = [];
    const { signal } = new AbortController();
    const onTrouble = (message: string): unknown => trouble.push(message);
    return { epoch, state: memoryState(), signal, remainingMs: () => 60_000, onTrouble, trouble };
  };

  const learnContents = async (
    at: Given,
    fleet: Observation[],
    context: ReturnType<typeof learning>,
  ): Promise<DesiredImage[]> =>
    Object.values((await learnAll({ catalog: catalogOf(at), scope: scopeOf(at) }, fleet, context, () => {})).images);

  test('that succeeds is remembered, one that fails is said', async () => {
    const context = learning(registry());
    const learned = await learnContents(served([image]), [], context);
    expect(learned[0]).toMatchObject({ contentDigest: whole, contentDigestSource: 'stream', error: null });
    expect(context.state.learned(sha('99'))).toEqual({ digest: whole, source: 'stream' });

    const failing = learning(registry([early, early, early, early]));
    const unknown = (await learnContents(served([image]), [], failing))[0];
    expect(unknown).toMatchObject({ contentDigest: null, unlearned: true, error: { code: 'REGISTRY_BLOB_MISSING' } });
    expect(failing.state.learned(sha('99'))).toBeNull();
    expect(failing.trouble).toEqual([expect.stringMatching(/^simular\/win11:latest: its parts could not be read: /)]);
  });

  test.each<[string, Observation[]]>([
    ['that no node holds', []],
    ['that a node holds, whatever of it', [observation({ entries: [entry(sha('a1'))], blobs: {} })]],
    ['that a snapshot is based on', [observation({ entries: [], snapshots: [snapshot('e2')] })]],
  ])('is worth it for an image %s: what nodes hold does not decide it', async (_name, fleet) => {
    const at = served([{ ...image, tracked: false }]);
    expect((await learnContents(at, fleet, learning(registry())))[0]?.contentDigest).toBe(whole);
  });

  test.each<[string, DesiredImage]>([
    ['of one disk', desired()],
    ['of one disk of which nothing is known', desired({ contentDigest: null })],
    ['whose content is known', split({ contentDigest: sha('e2'), unlearned: false })],
    ['that epoch lacks a blob of', split({ missingBlob: second })],
  ])('is not asked for of an image %s', async (_name, one) => {
    const at = served([one]);
    expect(await learnContents(at, [], learning(fakeRegistry({})))).toEqual(at.desired);
  });

  test('takes turns: a node that names many images holds up its own', async () => {
    const names = Array.from({ length: 6 }, (_, i) => `${WIN11}/t${i}`);
    const images = names.map((reference, i) => ({
      ...image,
      image: `r${i}`,
      reference,
      manifestDigest: sha(`9${i}`),
      tracked: i === 5,
    }));
    const at = served(images);
    const greedy = observation({ entries: names.slice(0, 4).map((name) => entry(sha('a1'), name)) }, node('greedy'));
    const modest = observation({ entries: [entry(sha('a1'), names[4])] }, node('modest'));
    const epoch = registry();
    await learnContents(at, [greedy, modest], learning(epoch));
    expect([...new Set(epoch.asked.map((ask) => ask.split(' ')[0]))]).toEqual(['r5', 'r0', 'r4', 'r1', 'r2', 'r3']);
  });

  test('takes its share of the time: what comes after has the rest', async () => {
    const silent = fakeRegistry({
      // oxlint-disable-next-line require-yield -- it never comes to that
      blobStream: async function* (_repository, _digest, signal) {
        await new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason as Error)));
      },
    });
    const context = { ...learning(silent), remainingMs: () => 100 };
    const found = await learnContents(served([image]), [], context);
    expect(found[0]).toMatchObject({ contentDigest: null, unlearned: true, error: { code: 'REGISTRY_UNREACHABLE' } });
    expect(context.trouble).toEqual([expect.stringContaining("the share of the run's time that is for them")]);
    expect(context.signal.aborted).toBe(false);
  });
});
