/** What nodes are asked to hash, what is made of it, and that one node's trouble or lie is its own. */
import { describe, expect, test } from 'vitest';
import type { ReconcileError } from '../../../../src/core/errors.ts';
import { proofItem, proofOf, type HashedBlob } from '../../../../src/core/judge/proofs.ts';
import type { Observation, Observed } from '../../../../src/core/model/observed.ts';
import { hashFleet as hashAll, type HashContext } from '../../../../src/pipeline/learn/hashes.ts';
import { carryHashes } from '../../../../src/pipeline/learn/node-hashes.ts';
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
  catalogOf,
  scopeOf,
  type Given,
} from '../../../support/facts.ts';
import { answering, fakeSsh } from '../../../support/fakes.ts';
import { memoryState } from '../../../support/state.ts';

const hashFleet = async (fleet: Observation[], at: Given, context: HashContext): Promise<Observation[]> =>
  await hashAll(fleet, { catalog: catalogOf(at), scope: scopeOf(at) }, context);

const PARTS = [3_000_000_000, SIZE - 3_000_000_000];
const hex = (pair: string): string => pair.repeat(32);
const MANIFEST = sha('99');

describe('a proof', () => {
  const hashed = (over: Partial<HashedBlob> = {}): HashedBlob => ({
    hex: hex('e2'),
    whole: sha('e2'),
    ranges: [sha('31'), sha('32')],
    stamp: `${SIZE} 77 1.5`,
    ...over,
  });

  test.each<[string, HashedBlob, string | null]>([
    ['every range is a part, and the whole is its name', hashed(), 'same'],
    ['a range differs', hashed({ ranges: [sha('31'), sha('33')] }), 'other'],
    ['the ranges are in another order', hashed({ ranges: [sha('32'), sha('31')] }), 'other'],
    ['it has another length', hashed({ ranges: [], stamp: '5 77 1.5' }), 'other'],
    ['it is not what its name says: converted, or damaged', hashed({ whole: sha('b7') }), 'nothing'],
    ['damaged, in other ranges too', hashed({ whole: sha('b7'), ranges: [sha('31'), sha('33')] }), 'nothing'],
    ['it came between looking and hashing, so no range was asked for', hashed({ ranges: [] }), null],
  ])('where %s', (_name, fact, proof) => {
    expect(proofOf(fact, split())).toBe(proof);
  });

  test('asks for ranges only where they can be the parts', () => {
    const on = observed({ blobs: blobs({ a1: blob({ sizeBytes: 5 }), e2: blob() }) });
    expect(proofItem(on, hex('e2'), split())).toEqual({ hex: hex('e2'), ranges: PARTS });
    expect(proofItem(on, hex('a1'), split())).toEqual({ hex: hex('a1'), ranges: [] });
    expect(proofItem(on, hex('b7'), split())).toEqual({ hex: hex('b7'), ranges: [] });
  });
});

/** Of each blob (by its pair) the stamp, the whole, and the ranges that a node finds. */
type Facts = Record<string, [stamp: string, whole: string, ...ranges: string[]]>;

/** Nodes that hash so, by name; others say that it is gone. `silent` ones never answer, `torn` ones not to the end. */
function hashing(
  facts: Record<string, Facts>,
  { silent = [], torn = [], ...over }: Partial<Omit<HashContext, 'ssh'>> & { silent?: string[]; torn?: string[] } = {},
): HashContext & { ssh: ReturnType<typeof fakeSsh>; items: string[][]; trouble: string[] } {
  const items: string[][] = [];
  const trouble: string[] = [];
  const ssh = fakeSsh(({ name }) => {
    const answer = answering((command) => {
      const [, nonce, rest] = / hash (\S+) \S+ \d+ \d+ (.*)$/.exec(command) as unknown as [string, string, string];
      const asked = rest.split(' ');
      items.push(asked);
      const lines = asked.flatMap((item) => {
        const [of = '', ...lengths] = item.split(':');
        const known = facts[name]?.[of.slice(0, 2)];
        if (known === undefined) return [`gone ${of}`];
        const [stamp, whole, ...ranges] = known;
        return [
          ...ranges.slice(0, lengths.length).map((range) => `range ${of} ${hex(range)}`),
          `whole ${of} ${hex(whole)} ${stamp}`,
        ];
      });
      return ['noise', `cocoon-hash 1 ${nonce}`, ...lines, '', `cocoon-hash end ${nonce}`, ''].join('\n');
    });
    if (torn.includes(name)) return answering(() => 'cocoon-hash 1 x\n', 'sh: boom');
    if (!silent.includes(name)) return answer;
    return {
      ...answer,
      exec: async (_command, { signal }) =>
        await new Promise((_, reject) =>
          signal.addEventListener('abort', () => reject(signal.reason as ReconcileError)),
        ),
    };
  });
  return {
    ssh,
    state: memoryState(),
    concurrency: 4,
    signal: new AbortController().signal,
    remainingMs: () => 600_000,
    onTrouble: (message) => trouble.push(message),
    items,
    trouble,
    ...over,
  };
}

const STAMP = `${SIZE} 1 1`;
const SAME: Facts = { e2: [STAMP, 'e2', '31', '32'] };
const OTHER: Facts = { e2: [STAMP, 'e2', '31', '33'] };
const proofsOf = (seen: Observation[], pair = 'e2'): unknown[] =>
  seen.map((one) => one.observed?.blobs[hex(pair)]?.proofs[MANIFEST] ?? null);
const reasonsOf = (seen: Observation[], pair = 'e2'): unknown[] =>
  seen.map((one) => one.observed?.blobs[hex(pair)]?.unhashed ?? null);
const fleetOf = (...names: string[]): Observation[] => names.map((name) => observation({}, node(name)));
const at = served([split()]);

describe('a split image whose content digest is not known', () => {
  test('is proven by each node for itself, and one that lies decides nothing for another', async () => {
    const context = hashing({ n1: SAME, n2: OTHER, n4: SAME });
    const fleet = [...fleetOf('n1', 'n2'), unreachable(node('n3')), ...fleetOf('n4')];
    const seen = await hashFleet(fleet, at, context);
    expect(proofsOf(seen)).toEqual(['same', 'other', null, 'same']);
    expect(context.ssh.connected.sort()).toEqual(['n1', 'n2', 'n4']);
    expect(context.items[0]).toEqual([`${hex('e2')}:${PARTS.join(':')}`]);
    expect(at.desired[0]).toEqual(split());
  });

  test('is hashed once per file: what a node proved is remembered for it, its path, its stamp and that manifest', async () => {
    const context = hashing({ n1: SAME, n2: SAME });
    await hashFleet(fleetOf('n1'), at, context);
    expect(proofsOf(await hashFleet(fleetOf('n1'), at, context))).toEqual(['same']);
    expect(context.items).toHaveLength(1);

    const elsewhere = node('n1', { cocoon: { ...node().cocoon, rootDir: '/data' } });
    const again: [string, Observation[], typeof at][] = [
      ['another node', fleetOf('n2'), at],
      ['another path', [observation({}, elsewhere)], at],
      [
        'another file under the name',
        [observation({ blobs: blobs({ e2: blob({ stamp: `${SIZE} 2 2` }) }) }, node('n1'))],
        at,
      ],
      ['another manifest', fleetOf('n1'), served([split({ manifestDigest: sha('98') })])],
    ];
    for (const [what, fleet, served_] of again) {
      const before = context.items.length;
      await hashFleet(fleet, served_, context);
      expect(context.items.length, what).toBe(before + 1);
    }
  });

  test('that a blob proves nothing is remembered too', async () => {
    const context = hashing({ n1: { e2: [STAMP, 'b7', '31', '32'] } });
    expect(proofsOf(await hashFleet(fleetOf('n1'), at, context))).toEqual(['nothing']);
    expect(proofsOf(await hashFleet(fleetOf('n1'), at, context))).toEqual(['nothing']);
    expect(context.items).toHaveLength(1);
  });

  test('of a file that changed, went or never came nothing is known, and nothing is remembered', async () => {
    const context = hashing({ n1: { e2: [`${SIZE} 2 9.9`, 'e2', '31', '32'] } });
    const seen = await hashFleet(fleetOf('n1', 'n2'), at, context);
    expect(proofsOf(seen)).toEqual([null, null]);
    expect(reasonsOf(seen)).toEqual(['it was written to meanwhile', 'it was gone by then']);
    await hashFleet(fleetOf('n1', 'n2'), at, context);
    expect(context.items).toHaveLength(4);
  });

  test('is not hashed where its blob is not held, is of another image, or its content digest is known', async () => {
    const context = hashing({ n1: SAME });
    const fleet = [
      observation({ blobs: blobs({ e2: blob({ sizeBytes: 0 }) }) }),
      observation({ entries: [entry(sha('e2'), 'https://elsewhere.example/x')] }, node('n2')),
    ];
    expect(await hashFleet(fleet, at, context)).toEqual(fleet);
    expect(await hashFleet(fleetOf('n1'), served([desired()]), context)).toEqual(fleetOf('n1'));
    expect(context.ssh.connected).toEqual([]);
  });

  test('a node that cannot hash is said, and the others are not its concern', async () => {
    const torn = hashing({ n1: SAME }, { torn: ['n2'] });
    const seen = await hashFleet(fleetOf('n1', 'n2'), at, torn);
    expect(proofsOf(seen)).toEqual(['same', null]);
    expect(reasonsOf(seen)).toEqual([null, expect.stringContaining('sh: boom')]);
    expect(torn.trouble).toEqual([
      expect.stringMatching(/^n2: blobs could not be hashed: .*torn; it said: .*sh: boom/),
    ]);
  });

  test('a silent node waits out its own share of the time, whichever turn it has', async () => {
    const names = ['s1', 'n1', 's2', 'n2', 'n3', 's3'];
    const facts = { n1: SAME, n2: OTHER, n3: SAME };
    const context = hashing(facts, { silent: ['s1', 's2', 's3'], concurrency: 2, remainingMs: () => 600 });
    const seen = await hashFleet(fleetOf(...names), at, context);
    expect(proofsOf(seen)).toEqual([null, 'same', null, 'other', 'same', null]);
    expect(reasonsOf(seen).filter((why) => why !== null)).toHaveLength(3);
    expect(context.signal.aborted).toBe(false);
  });

  test('a node that lists a hundred digests has no hundred turns, and is told so', async () => {
    const many = Array.from({ length: 100 }, (_, i) => String(i).padStart(2, '0'));
    const on: Partial<Observed> = {
      entries: many.map((pair, i) => entry(sha(pair), `${WIN11}/t${i}`)),
      blobs: blobs(Object.fromEntries(many.map((pair) => [pair, blob()]))),
    };
    const images = many.map((_, i) => split({ reference: `${WIN11}/t${i}`, tag: `t${i}` }));
    const context = hashing({ n1: Object.fromEntries(many.map((pair) => [pair, [STAMP, pair, '31', '32']])) as Facts });
    const [seen] = await hashFleet([observation(on, node('n1'))], served(images), context);
    expect(context.items.map((asked) => asked.length)).toEqual([32]);
    const found = many.map((pair) => seen?.observed?.blobs[hex(pair)]);
    expect(found.filter((fact) => fact?.proofs[MANIFEST] === 'same')).toHaveLength(32);
    expect(found.filter((fact) => fact?.unhashed?.startsWith('no more than 32 blobs of a node'))).toHaveLength(68);
  });
});

describe('in depth', () => {
  const deep = served([desired()], { depth: 'sha256' });
  const on = {
    entries: [entry(sha('e2')), entry(sha('c3'), 'ghcr.io/a/b:1', 'oci'), entry(sha('d4'), 'gone')],
    blobs: blobs({ e2: blob(), a1: blob({ stamp: '5 1 1.5' }), b7: blob(), d4: blob({ sizeBytes: 0 }) }),
    snapshots: [snapshot('a1'), snapshot('e2', { id: 'TWO' }), snapshot('a1', { id: 'THREE', backing: '/mnt/x' })],
  };
  const facts: Facts = { e2: [STAMP, 'e2'], a1: ['5 1 1.5', '77'] };
  const sha256Of = (seen: Observation | undefined): unknown =>
    Object.fromEntries(Object.entries(seen?.observed?.blobs ?? {}).map(([of, fact]) => [of.slice(0, 2), fact.sha256]));

  test('the blobs that verdicts depend on are hashed, in every run: no earlier word is taken for their bytes', async () => {
    const context = hashing({ n1: facts });
    const fleet = [observation(on, node('n1')), unreachable(node('n2'))];
    const [first, second] = await hashFleet(fleet, deep, context);
    expect(context.items).toEqual([[hex('e2'), hex('a1')]]);
    expect(sha256Of(first)).toEqual({ e2: sha('e2'), a1: sha('77'), b7: null, d4: null });
    expect(second?.observed).toBeNull();
    await hashFleet(fleet, deep, context);
    expect(context.items).toHaveLength(2);
  });

  test('a proof of an earlier run is none either', async () => {
    const context = hashing({ n1: SAME });
    await hashFleet(fleetOf('n1'), at, context);
    const honest = hashing({ n1: OTHER }, { state: context.state });
    const [seen] = await hashFleet(fleetOf('n1'), { ...at, depth: 'sha256' }, honest);
    expect(proofsOf([seen as Observation])).toEqual(['other']);
    expect(seen?.observed?.blobs[hex('e2')]?.sha256).toBe(sha('e2'));
    expect(honest.items).toEqual([[`${hex('e2')}:${PARTS.join(':')}`]]);
    expect(proofsOf(await hashFleet(fleetOf('n1'), at, honest))).toEqual(['other']);
  });

  test('within a run what was hashed holds for as long as the file is the same', () => {
    const before = observed({
      blobs: blobs({
        e2: blob({ sha256: sha('e2'), proofs: { [MANIFEST]: 'same' } }),
        a1: blob({ sha256: sha('a1') }),
      }),
    });
    const now = observed({ blobs: blobs({ e2: blob(), a1: blob({ stamp: '5 2 2' }), b7: blob() }) });
    const { blobs: found } = carryHashes(now, before.blobs);
    expect(found[hex('e2')]).toMatchObject({ sha256: sha('e2'), proofs: { [MANIFEST]: 'same' } });
    expect([found[hex('a1')]?.sha256, found[hex('b7')]?.sha256]).toEqual([null, null]);
    expect(carryHashes(now, {})).toEqual(now);
  });
});
