/** What a proof on a node and a stream from epoch teach, and that nothing false is ever learned. */
import { createHash } from 'node:crypto';
import { describe, expect, test } from 'vitest';
import type { HashedBlob } from '../../src/adapters/node-hash.ts';
import { fault, ReconcileError } from '../../src/core/errors.ts';
import type { DesiredImage, Observation } from '../../src/core/types.ts';
import {
  hashDeep,
  isUnlearned,
  learnContents,
  proofItem,
  proofOf,
  streamContent,
  withProof,
  type LearnContext,
} from '../../src/pipeline/learn.ts';
import {
  blob,
  blobs,
  desired,
  entry,
  node,
  observation,
  observed,
  served,
  sha,
  SIZE,
  snapshot,
  split,
  unreachable,
  WIN11,
} from '../helpers/facts.ts';
import { answering, fakeRegistry, fakeSsh } from '../helpers/fakes.ts';
import { memoryState } from '../helpers/state.ts';

const PARTS = [3_000_000_000, SIZE - 3_000_000_000];
const hashed = (over: Partial<HashedBlob> = {}): HashedBlob => ({
  hex: 'e2'.repeat(32),
  whole: sha('e2'),
  ranges: [sha('31'), sha('32')],
  stamp: `${SIZE} 77 1.5`,
  ...over,
});

test.each<[string, DesiredImage, boolean]>([
  ['a split image', split(), true],
  ['one whose content is known', split({ contentDigest: sha('e2') }), false],
  ['one disk', desired(), false],
  ['one disk of which nothing is known', desired({ contentDigest: null }), false],
  ['a container image', split({ kind: 'container-image' }), false],
  ['nothing', split({ kind: null, blobs: [] }), false],
])('%s is to be learned: %s', (_name, image, is) => {
  expect(isUnlearned(image)).toBe(is);
});

describe('a proof', () => {
  test.each<[string, HashedBlob | undefined, string]>([
    ['every range is a part, and the whole is its name', hashed(), 'same'],
    ['a range differs', hashed({ ranges: [sha('31'), sha('33')] }), 'other'],
    ['the ranges are in another order', hashed({ ranges: [sha('32'), sha('31')] }), 'other'],
    ['it has another length', hashed({ ranges: [], stamp: '5 77 1.5' }), 'other'],
    ['it is not what its name says: converted, or damaged', hashed({ whole: sha('b7') }), 'nothing'],
    ['damaged, in other ranges too', hashed({ whole: sha('b7'), ranges: [sha('31'), sha('33')] }), 'nothing'],
    ['it came between looking and hashing, so no range was asked for', hashed({ ranges: [] }), 'nothing'],
    ['it is gone', undefined, 'nothing'],
  ])('where %s', (_name, fact, proof) => {
    expect(proofOf(fact, split())).toBe(proof);
  });

  test('asks for ranges only where they can be the parts', () => {
    const on = observed({ blobs: blobs({ a1: blob({ sizeBytes: 5 }), e2: blob() }) });
    expect(proofItem(on, sha('e2'), split())).toEqual({ hex: 'e2'.repeat(32), ranges: PARTS });
    expect(proofItem(on, sha('a1'), split())).toEqual({ hex: 'a1'.repeat(32), ranges: [] });
    expect(proofItem(on, sha('b7'), split())).toEqual({ hex: 'b7'.repeat(32), ranges: [] });
  });

  test('is remembered under the manifest', () => {
    const state = memoryState();
    expect(withProof(state, split(), sha('a1'), 'nothing')).toEqual(split());
    expect(withProof(state, split(), sha('a1'), 'other')).toMatchObject({
      contentDigest: null,
      disproved: [sha('a1')],
    });
    expect(withProof(state, split(), sha('e2'), 'same')).toMatchObject({
      contentDigest: sha('e2'),
      contentDigestSource: 'node',
      disproved: [],
      error: null,
    });
    expect(state.learned(sha('99'))).toEqual({
      content: { digest: sha('e2'), source: 'node' },
      disproved: [sha('a1')],
    });
    expect(state.learned(sha('98'))).toEqual({ content: null, disproved: [] });
  });
});

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

  test('that succeeds is remembered, one that fails is said', async () => {
    const trouble: string[] = [];
    const context = {
      ssh: fakeSsh(() => answering(() => '')),
      epoch: registry(),
      state: memoryState(),
      concurrency: 4,
      signal: new AbortController().signal,
      onTrouble: (message: string) => trouble.push(message),
    };
    const at = served([image]);
    const learned = await learnContents(at, [], [], context, () => {});
    expect(learned.desired[0]).toMatchObject({ contentDigest: whole, contentDigestSource: 'stream', error: null });
    expect(context.state.learned(sha('99')).content).toEqual({ digest: whole, source: 'stream' });
    expect((await learnContents(at, [], [], context, null)).desired[0]).toEqual(image);

    const failing = { ...context, epoch: registry([early, early, early, early]), state: memoryState() };
    const unknown = (await learnContents(at, [], [], failing, () => {})).desired[0];
    expect(unknown).toMatchObject({ contentDigest: null, error: { code: 'REGISTRY_BLOB_MISSING' } });
    expect(failing.state.learned(sha('99')).content).toBeNull();
    expect(trouble).toEqual([expect.stringMatching(/^simular\/win11:latest: its parts could not be read: /)]);
  });

  test('is asked for where a snapshot needs a base that is not there and may be this content', async () => {
    const untracked = served([{ ...image, tracked: false }]);
    const context = { ...learning({}), epoch: registry() };
    const lacking = { entries: [], blobs: {}, snapshots: [snapshot('e2')] };
    const learned = await learnContents(untracked, [], [observation(lacking)], context, () => {});
    expect(learned.desired[0]).toMatchObject({ contentDigest: whole });
    const there = { entries: [], snapshots: [snapshot('e2')] };
    const silent = { ...learning({}), epoch: fakeRegistry({}) };
    expect((await learnContents(untracked, [], [observation(there)], silent, () => {})).desired[0]).toEqual({
      ...image,
      tracked: false,
    });
  });

  test('is not asked for where a blob is missing, or no verdict depends on it', async () => {
    const refusing = { ...learning({}), epoch: fakeRegistry({}) };
    const lost = served([{ ...image, missingBlob: second }]);
    expect((await learnContents(lost, [], [], refusing, () => {})).desired[0]?.contentDigest).toBeNull();
    const untracked = served([split({ tracked: false })]);
    const other = [observation({ entries: [entry(sha('a1'))], blobs: blobs({ a1: blob({ sizeBytes: 5 }) }) })];
    const context = { ...refusing, ...learning({ a1: ['5 77 1.5', 'a1'] }), epoch: fakeRegistry({}) };
    expect((await learnContents(untracked, [], other, context, () => {})).desired[0]).toMatchObject({
      contentDigest: null,
      disproved: [sha('a1')],
    });
  });
});

/** Nodes that hash: of each blob (by its pair) the stamp, the whole, and the ranges that they find. */
function learning(
  facts: Record<string, [stamp: string, whole: string, ...ranges: string[]]>,
): LearnContext & { ssh: ReturnType<typeof fakeSsh>; commands: string[]; trouble: string[] } {
  const commands: string[] = [];
  const trouble: string[] = [];
  const connection = answering((command) => {
    commands.push(command);
    const [, nonce, rest] = /-s -- (\S+) (.*)$/.exec(command) as unknown as [string, string, string];
    const lines = Object.entries(facts)
      .filter(([pair]) => rest.includes(pair.repeat(32)))
      .flatMap(([pair, [stamp, whole, ...ranges]]) => [
        ...ranges.map((range) => `range ${pair.repeat(32)} ${range.repeat(32)}`),
        `whole ${pair.repeat(32)} ${whole.repeat(32)} ${stamp}`,
      ]);
    return ['noise', `cocoon-hash 1 ${nonce}`, ...lines, `cocoon-hash end ${nonce}`, ''].join('\n');
  });
  return {
    ssh: fakeSsh(() => connection),
    epoch: fakeRegistry({}),
    state: memoryState(),
    concurrency: 4,
    signal: new AbortController().signal,
    onTrouble: (message) => trouble.push(message),
    commands,
    trouble,
  };
}

describe('the fleet', () => {
  const old = { entries: [entry(sha('a1'))], blobs: blobs({ a1: blob() }) };
  const fleet: Observation[] = [
    observation({}, node('n1')),
    unreachable(node('n2')),
    observation(old, node('n3')),
    observation({}, node('n4')),
    observation({ blobs: {} }, node('n5')),
  ];

  test('proves a content digest once, on one node, without reading anything from epoch', async () => {
    const context = learning({ e2: [`${SIZE} 77 1.5`, 'e2', '31', '32'], a1: [`${SIZE} 77 1.5`, 'a1', '31', '33'] });
    const learned = await learnContents(served([split()]), [], fleet, context, null);
    expect(learned.desired[0]).toMatchObject({ contentDigest: sha('e2'), contentDigestSource: 'node', error: null });
    expect(context.ssh.connected).toEqual(['n1']);
    expect(context.commands[0]).toContain(`${'e2'.repeat(32)}:3000000000:${SIZE - 3_000_000_000}`);
  });

  test('disproves where it cannot prove, one node per digest, and not a second time', async () => {
    const context = learning({ a1: [`${SIZE} 77 1.5`, 'a1', '31', '33'] });
    const stale = [fleet[2], observation(old, node('n6'))] as Observation[];
    const learned = await learnContents(served([split()]), [], stale, context, null);
    expect(learned.desired[0]).toMatchObject({ contentDigest: null, disproved: [sha('a1')] });
    expect(context.ssh.connected).toEqual(['n3']);
    await learnContents(learned, [], stale, context, null);
    expect(context.ssh.connected).toEqual(['n3']);
  });

  test('asks up to three holders of a digest whose blobs prove nothing', async () => {
    const context = learning({ e2: [`${SIZE} 77 1.5`, 'b7', '31', '32'] });
    const many = ['n1', 'n2', 'n3', 'n4'].map((name) => observation({}, node(name)));
    const learned = await learnContents(served([split()]), [], many, context, null);
    expect(learned.desired[0]).toEqual(split());
    expect(context.ssh.connected).toEqual(['n1', 'n2', 'n3']);
  });

  test('a node that cannot hash is said, and teaches nothing', async () => {
    const context = learning({});
    const torn = { ...context, ssh: fakeSsh(() => answering(() => 'cocoon-hash 1 x\n', 'sh: boom')) };
    const learned = await learnContents(served([split()]), [], [fleet[0] as Observation], torn, null);
    expect(learned.desired[0]).toEqual(split());
    expect(context.trouble).toEqual([
      expect.stringMatching(/^n1: blobs could not be hashed: .*torn; it said: sh: boom/),
    ]);
  });

  test('a blob that is not held, or not under a reference of the image, is not hashed', async () => {
    const context = learning({});
    const none = [
      observation({ blobs: blobs({ e2: blob({ sizeBytes: 0 }) }) }),
      observation({ entries: [entry(sha('e2'), 'https://elsewhere.example/x')] }, node('n2')),
    ];
    await learnContents(served([split()]), [], none, context, null);
    expect(context.ssh.connected).toEqual([]);
  });
});

describe('hashing in depth', () => {
  const on = {
    entries: [entry(sha('e2')), entry(sha('c3'), 'ghcr.io/a/b:1', 'oci'), entry(sha('d4'), 'gone')],
    blobs: blobs({ e2: blob(), a1: blob({ stamp: '5 1 1.5' }), b7: blob(), d4: blob({ sizeBytes: 0 }) }),
    snapshots: [snapshot('a1'), snapshot('e2', { id: 'TWO' }), snapshot('a1', { id: 'THREE', backing: '/mnt/x' })],
  };

  test('hashes the blobs that verdicts depend on, and again only what changed', async () => {
    const context = learning({ e2: [`${SIZE} 1 1`, 'e2'], a1: ['5 1 1.5', '77'] });
    const [first, second] = await hashDeep([observation(on), unreachable(node('n2'))], context);
    expect(context.commands).toHaveLength(1);
    expect(context.commands[0]).not.toContain('b7'.repeat(32));
    const hashes = Object.entries(first?.observed?.blobs ?? {}).map(([hex, { sha256 }]) => [hex.slice(0, 2), sha256]);
    expect(Object.fromEntries(hashes)).toEqual({ e2: sha('e2'), a1: sha('77'), b7: null, d4: null });
    expect(second?.observed).toBeNull();

    await hashDeep([observation(on)], context);
    expect(context.commands).toHaveLength(1);
    const touched = { ...on, blobs: { ...on.blobs, ...blobs({ a1: blob({ stamp: '5 1 2.5' }) }) } };
    await hashDeep([observation(touched)], context);
    expect(context.commands).toHaveLength(2);
    expect(context.commands[1]).not.toContain('e2'.repeat(32));
    await hashDeep([observation(on, node('n3'))], context);
    expect(context.commands).toHaveLength(3);
  });

  test('of a file that changed meanwhile nothing is known', async () => {
    const context = learning({ e2: [`${SIZE} 2 9.9`, 'e2'] });
    const [seen] = await hashDeep([observation({ entries: [entry(sha('e2'), WIN11)] })], context);
    expect(seen?.observed?.blobs['e2'.repeat(32)]?.sha256).toBeNull();
  });
});
