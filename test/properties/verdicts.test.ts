/** Properties of judging and planning over generated fleets: what holds whatever nodes hold and registries say. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { blobState } from '../../src/core/judge/blobs.ts';
import { pinnedKey } from '../../src/core/judge/catalog.ts';
import { pinnedQuestions } from '../../src/core/judge/pinned.ts';
import { judgedAs } from '../../src/core/judge/scope.ts';
import { blobHex } from '../../src/core/judge/snapshot-files.ts';
import { assemble } from '../../src/core/report/report.ts';
import type { PinnedContent } from '../../src/core/model/catalog.ts';
import type { DesiredImage } from '../../src/core/model/desired.ts';
import type { BlobFact, Observation, Observed, SnapshotFact } from '../../src/core/model/observed.ts';
import type { Action, Policy } from '../../src/core/model/plan.ts';
import type { ImageRow, NodeRows, SnapshotRow } from '../../src/core/model/report.ts';
import {
  blob,
  blobPath,
  blobs,
  container,
  desired,
  entry,
  EPOCH,
  HOT,
  hot,
  node,
  observation,
  OCI,
  ociFiles,
  QCOW2,
  RAW,
  ROOT,
  served,
  sha,
  SIZE,
  snapshot,
  split,
  tracked,
  trouble,
  unreachable,
  vm,
  wantedSnapshot,
  WIN11,
  catalogOf,
  scopeOf,
  type Given,
  type Hot,
} from '../support/facts.ts';
import { plan as planFor, POLICY, rows } from '../support/judging.ts';

/** A key that is tied to the first image, and one that is not. */
const NAME = 'win11-25h2';
const V1 = `${WIN11}/v1`;
/** The contents that entries may have: `e2` and `b7` are what the two tags serve, `a1` is older. */
const PAIRS = ['a1', 'e2', 'b7'];
const ARM = { platform: 'linux/arm64', contentDigest: sha('c4'), manifestDigest: sha('c4'), layers: [sha('f1')] };

// ------------------------------------------------------------------------------------------------ generators

const anyBlob: fc.Arbitrary<BlobFact> = fc.record({
  regular: fc.constantFrom(true, true, true, false),
  sizeBytes: fc.constantFrom(SIZE, SIZE, SIZE, 5, 0),
  header: fc.constantFrom(QCOW2, QCOW2, QCOW2, RAW, null),
  stamp: fc.constant(`${SIZE} 1 1`),
  sha256: fc.constantFrom(null, sha('77'), 'own'),
  proofs: fc.constantFrom<BlobFact['proofs'][]>({}, {}, { hashed: 'same' }, { hashed: 'nothing' }),
  unhashed: fc.constantFrom(null, 'it was gone by then'),
});

/** `own` hashes to the name of the blob; what is hashed in ranges is held against both images. */
function named(byPair: Record<string, BlobFact>): Observed['blobs'] {
  const all = Object.entries(byPair).map(([pair, drawn]) => {
    const proof = drawn.proofs['hashed'];
    const proofs = proof === 'same' ? proven(pair) : proof === undefined ? {} : { [MANIFESTS.e2]: proof };
    const fact = { ...drawn, proofs };
    return [pair, fact.sha256 === 'own' ? { ...fact, sizeBytes: SIZE, header: QCOW2, sha256: sha(pair) } : fact];
  });
  return blobs(Object.fromEntries(all) as Record<string, BlobFact>);
}

/** The manifests of the two tags, by what they serve. */
const MANIFESTS = { e2: sha('99'), b7: sha('97') };

/** What an honest node proves of a blob. */
function proven(pair: string): BlobFact['proofs'] {
  const images = Object.entries(MANIFESTS);
  return Object.fromEntries(images.map(([content, manifest]) => [manifest, content === pair ? 'same' : 'other']));
}

type Shape = 'plain' | 'unknown' | 'lost' | 'unpullable' | 'split' | 'learned';

function cloud(pair: string, shape: Shape, stored: DesiredImage['stored']): DesiredImage {
  const isFirst = pair === 'e2';
  const manifestDigest = MANIFESTS[isFirst ? 'e2' : 'b7'];
  const base = { reference: isFirst ? WIN11 : V1, tag: isFirst ? 'latest' : 'v1', manifestDigest, stored };
  const digest = sha(pair);
  switch (shape) {
    case 'plain':
      return desired({ ...base, contentDigest: digest });
    case 'unknown':
      return desired({ ...base, contentDigest: null, error: trouble('TAG_NOT_FOUND') });
    case 'lost':
      return desired({ ...base, contentDigest: digest, missingBlob: digest, error: trouble('REGISTRY_BLOB_MISSING') });
    case 'unpullable':
      return desired({ ...base, contentDigest: digest, unpullable: 'it cannot be pulled' });
    case 'split':
      return split(base);
    case 'learned':
      return split({ ...base, contentDigest: digest, contentDigestSource: 'cache', unlearned: false, error: null });
  }
}

const anyCloud = (pair: string): fc.Arbitrary<DesiredImage> =>
  fc
    .tuple(
      fc.constantFrom<Shape[]>('plain', 'plain', 'plain', 'unknown', 'lost', 'unpullable', 'split', 'learned'),
      fc.constantFrom<DesiredImage['stored'][]>('as-is', 'converted', null),
    )
    .map(([shape, stored]) => cloud(pair, shape, stored));

const anyContainer = fc.constantFrom(
  container(),
  container(),
  container({ unpullable: 'it asks for a credential' }),
  container({ missingBlob: sha('d4'), error: trouble('REGISTRY_BLOB_MISSING') }),
  container({ contentDigest: null, layers: [], error: trouble('REGISTRY_UNREACHABLE') }),
);

const anyEntry = fc
  .tuple(
    fc.constantFrom(WIN11, WIN11, V1, NAME, OCI, 'imported', 'https://elsewhere.example/x'),
    fc.constantFrom(...PAIRS),
    fc.constantFrom<('cloudimg' | 'oci')[]>('cloudimg', 'cloudimg', 'cloudimg', 'cloudimg', 'oci'),
    fc.constantFrom('c3', 'c3', 'c4', 'f6'),
    fc.boolean(),
  )
  .map(([reference, pair, type, manifest, isSqlite]) =>
    reference === OCI || type === 'oci'
      ? {
          ...entry(sha(manifest), reference, type === 'cloudimg' && reference === OCI && isSqlite ? 'cloudimg' : 'oci'),
          layers: isSqlite ? [] : [sha('d4'), sha('e5')],
        }
      : entry(sha(pair), reference, type),
  );

const anySnapshot: fc.Arbitrary<SnapshotFact> = fc
  .record({
    pair: fc.constantFrom(...PAIRS),
    base: fc.constantFrom(WIN11, WIN11, V1, NAME, 'imported', null),
    name: fc.constantFrom(HOT, 'other/hot:v1'),
    pending: fc.constantFrom(false, false, false, false, true),
    opens: fc.constantFrom(null, null, null, ...PAIRS),
    kind: fc.constantFrom('cloud', 'cloud', 'cloud', 'oci', 'firecracker'),
  })
  .map(({ pair, kind, opens, ...over }) => {
    if (kind === 'cloud') return snapshot(pair, { ...over, backing: blobPath(opens ?? pair) });
    const isFirecracker = kind === 'firecracker';
    return snapshot('c3', {
      ...over,
      base: OCI,
      baseType: 'oci',
      hypervisor: kind === 'oci' ? 'cloud-hypervisor' : 'firecracker',
      files: isFirecracker
        ? { vmstate: 1, mem: 1, 'cow.raw': 1 }
        : { 'config.json': 9, 'state.json': 9, 'memory-ranges': 8, 'cow.raw': 7, 'cocoon.json': 6 },
      blobIds: opens === 'a1' ? [] : ['d4'.repeat(32), 'e5'.repeat(32)],
      backing: null,
      bootFiles: [],
      layerFiles: isFirecracker ? [] : Object.keys(ociFiles(['d4', 'e5'])),
    });
  });

const FIRMWARE = { [`${ROOT}/firmware/CLOUDHV.fd`]: 'file' } as const;

const anyObservation = (name: string): fc.Arbitrary<Observation> =>
  fc.oneof(
    { weight: 1, arbitrary: fc.constant(unreachable(node(name))) },
    {
      weight: 8,
      arbitrary: fc
        .record({
          entries: fc.uniqueArray(anyEntry, { selector: (e) => `${e.type} ${e.reference}`, maxLength: 5 }),
          conflict: fc.constantFrom(false, false, false, true),
          blobs: fc.dictionary(fc.constantFrom(...PAIRS), anyBlob, { noNullPrototype: true }).map(named),
          freeBytes: fc.constantFrom(0, SIZE + 5e9, 2 * SIZE + 5e9, 1e13),
          snapshots: fc.array(anySnapshot, { maxLength: 3 }),
          vms: fc.array(
            fc
              .tuple(fc.constantFrom(...PAIRS), fc.constantFrom('running', 'stopped'))
              .map(([pair, state]) => vm(pair, state)),
            { maxLength: 1 },
          ),
          layers: fc.subarray(['d4', 'e5', 'f1']),
          architecture: fc.constantFrom('amd64', 'amd64', 'amd64', 'arm64'),
          unlistedBackings: fc.constantFrom<string[][]>([], [], [blobPath('a1')]),
        })
        .map(({ conflict, layers, ...facts }) => {
          const known = facts.entries.some(({ reference }) => reference === WIN11);
          const files = { ...FIRMWARE, ...(layers.length === 0 ? {} : ociFiles(layers)) };
          return observation({ ...facts, files, conflicts: conflict && known ? [WIN11] : [] }, node(name));
        }),
    },
  );

const anyLookup = (reference: string): fc.Arbitrary<PinnedContent> =>
  fc.constantFrom<PinnedContent[]>(
    { state: 'there', reference, sizeBytes: SIZE, stored: null },
    { state: 'there', reference, sizeBytes: SIZE, stored: 'as-is' },
    { state: 'there', reference, sizeBytes: SIZE, stored: 'converted' },
    { state: 'there-unpullable', why: 'tag it' },
    { state: 'gone', why: 'it is gone' },
    { state: 'unasked', error: trouble('REGISTRY_UNREACHABLE') },
  );

/** An answer for every question that may be asked. */
const anyLookups: fc.Arbitrary<Record<string, PinnedContent>> = fc
  .tuple(
    ...PAIRS.map((pair) => anyLookup(`${EPOCH}/v2/simular/win11/blobs/${sha(pair)}`)),
    anyLookup(`ghcr.io/a/b@${sha('c3')}`),
  )
  .map((answers) =>
    Object.fromEntries([
      ...PAIRS.flatMap((pair, i) =>
        [WIN11, V1, NAME].map((base) => [pinnedKey({ base, digest: sha(pair) }), answers[i] as PinnedContent] as const),
      ),
      [pinnedKey({ base: OCI, digest: sha('c3') }), answers.at(-1) as PinnedContent] as const,
    ]),
  );

/** How cocoon stores a content is one fact: what registries say of it when it is pinned agrees with what the tag says. */
function agreeing(lookups: Record<string, PinnedContent>, images: DesiredImage[]): Record<string, PinnedContent> {
  const formOf = (question: string): DesiredImage['stored'] | undefined =>
    images.find((image) => image.kind === 'cloud-image' && question.startsWith(`${truthOf(image)} `))?.stored;
  const answers = Object.entries(lookups).map(([question, answer]): [string, PinnedContent] => [
    question,
    answer.state === 'there' ? { ...answer, stored: formOf(question) ?? answer.stored } : answer,
  ]);
  return Object.fromEntries(answers);
}

interface Fleet {
  at: Given;
  of: Hot;
  fleet: Observation[];
  policy: Policy;
}

const anyFleet: fc.Arbitrary<Fleet> = fc
  .record({
    images: fc.tuple(anyCloud('e2'), anyCloud('b7'), anyContainer, fc.constantFrom(container(ARM))),
    presence: fc.constantFrom<('required' | 'if-present')[]>('required', 'if-present'),
    depth: fc.constantFrom<Given['depth'][]>('size', 'size', 'presence', 'sha256'),
    repair: fc.record({
      corruptBlobs: fc.constantFrom<('report' | 'replace')[]>('report', 'replace'),
      restoreBases: fc.constantFrom<('report' | 'restore')[]>('report', 'restore'),
    }),
    pinned: fc.constantFrom(...PAIRS),
    lookups: anyLookups,
    fleet: fc.tuple(...['n1', 'n2', 'n3', 'n4'].map(anyObservation)),
    canary: fc.nat(3),
  })
  .map(({ images, presence, depth, repair, pinned, lookups, fleet, canary }) => ({
    at: served(images, {
      covers: { [WIN11]: [0], [NAME]: [0], [V1]: [1], [OCI]: [2, 3] },
      tracked: [
        tracked({ presence }),
        tracked({ image: 'a/b', tag: '1', registry: 'ghcr.io', reference: OCI, presence }),
      ],
      depth,
      repair,
    }),
    of: hot({
      tracked: [{ snapshot: HOT, pools: null }],
      snapshots: [wantedSnapshot({ baseDigest: sha(pinned) })],
      lookups: agreeing(lookups, images),
    }),
    fleet,
    policy: { ...POLICY, repair, canary },
  }));

// ------------------------------------------------------------------------------------------- the model of a fleet

function judge({ at, of, fleet }: Fleet): NodeRows[] {
  return rows(at, of, fleet);
}

function plan({ at, of, fleet, policy }: Fleet): Action[] {
  return planFor(at, of, fleet, policy);
}

function coverOf(at: Given, facts: Observed, reference: string, where = node()): DesiredImage | null {
  return judgedAs({ catalog: catalogOf(at), scope: scopeOf(at), node: where, observed: facts }, reference);
}

/** What epoch serves whether or not anyone has learned it. */
const truthOf = ({ tag }: { tag: string }): string => sha(tag === 'v1' ? 'b7' : 'e2');

/** What one node is after an action, as cocoon does it. */
function carriedOut(facts: Observed, action: Action, at: Given): void {
  const { kind, reference, want } = action;
  const image = coverOf(at, facts, reference);
  if (image?.kind === 'container-image' || reference.startsWith('ghcr.io')) {
    const layers = image === null ? ['d4', 'e5'] : image.layers.map((digest) => digest.slice(7, 9));
    facts.entries = facts.entries.filter((e) => e.reference !== reference || e.type !== 'oci');
    facts.entries.push(entry(want as string, reference, 'oci'));
    facts.files = { ...facts.files, ...ociFiles(layers) };
    return;
  }
  const digest = want ?? truthOf(action);
  const hex = digest.slice('sha256:'.length);
  const kept = facts.blobs[hex];
  facts.entries = facts.entries.filter((e) => e.reference !== reference || e.type !== 'cloudimg');
  facts.entries.push(entry(digest, reference));
  // A file that is there and not empty stays as it is, unless it was set aside.
  if (kind === 'replace' || kept?.regular !== true || kept.sizeBytes === 0) {
    const isConverted = image?.stored === 'converted';
    const proofs = proven(hex.slice(0, 2));
    facts.blobs[hex] = blob(isConverted ? { sizeBytes: 777, sha256: sha('88') } : { sha256: digest, proofs });
  }
}

/** The fleet after every action that could begin. */
function applied(given: Fleet, actions: Action[]): Fleet {
  const done = actions.filter(({ blocked }) => blocked === null);
  const fleet = given.fleet.map((seen) => {
    if (seen.observed === null) return seen;
    const facts = structuredClone(seen.observed);
    for (const action of done.filter(({ node: of }) => of.name === seen.node.name)) carriedOut(facts, action, given.at);
    return { ...seen, observed: facts };
  });
  return { ...given, fleet };
}

const key = ({ node: of, reference }: { node: string | { name: string }; reference: string }): string =>
  `${typeof of === 'string' ? of : of.name} ${reference}`;
const isCloudUrl = (reference: string): boolean => /^https?:/.test(reference);

// --------------------------------------------------------------------------------------------------- properties

/** More fleets where RECONCILE_FUZZ asks for more. */
const numRuns = Math.ceil(Number(process.env['RECONCILE_FUZZ'] ?? 1000) / 15);
const holds = (property: (given: Fleet, actions: Action[]) => void): void =>
  fc.assert(
    fc.property(anyFleet, (given) => property(given, plan(given))),
    { numRuns },
  );

/** Every row with the facts of its node; nodes that were not read are left out. */
function eachNode(given: Fleet, look: (facts: Observed, verdicts: NodeRows, seen: Observation) => void): void {
  const verdicts = judge(given);
  for (const [i, seen] of given.fleet.entries()) {
    if (seen.observed !== null) look(seen.observed, verdicts[i] as NodeRows, seen);
  }
}

describe('planning', () => {
  test('again gives the same plan, one action per node and reference', () => {
    holds((given, actions) => {
      expect(plan(given)).toEqual(actions);
      expect(new Set(actions.map(key)).size).toBe(actions.length);
    });
  });

  test('changes nothing that is in sync, unmanaged, absent or unknown', () => {
    holds((given, actions) => {
      const idle = new Set<ImageRow['verdict']>(['in-sync', 'unmanaged', 'unknown', 'absent']);
      for (const { node: name, images } of judge(given)) {
        for (const row of images) {
          if (!idle.has(row.verdict)) continue;
          expect(row.plan).toBeNull();
          // A snapshot may need what the config leaves alone where it is absent.
          if (row.verdict !== 'absent') expect(actions.map(key)).not.toContain(`${name} ${row.reference}`);
        }
      }
    });
  });

  test('knows why: each verdict has its kinds of change, and each kind is allowed, possible and certain', () => {
    const mayBe = (row: SnapshotRow): unknown[] => {
      const verdict = row.verdict === 'not-on-node' ? row.baseVerdict : row.verdict;
      if (verdict === 'base-drifted') return [null, 'pull'];
      if (verdict === 'base-corrupt') return [null, 'replace'];
      return verdict === 'base-restorable' ? [null, 'restore'] : [null];
    };
    holds((given, actions) => {
      for (const { images, snapshots } of judge(given)) {
        for (const row of images) {
          if (row.verdict === 'blob-corrupt') expect([null, 'replace']).toContain(row.plan);
          expect(row.plan === null || row.commands.length === 0).toBe(true);
        }
        for (const row of snapshots) {
          expect(mayBe(row)).toContain(row.plan);
          expect(row.source === null).toBe(row.plan === null);
        }
      }
      for (const action of actions) {
        const { kind, reference, want } = action;
        const { observed } = given.fleet.find((seen) => seen.node.name === action.node.name) as Observation;
        const image = coverOf(given.at, observed as Observed, reference);
        if (kind === 'restore') {
          expect(given.at.repair.restoreBases).toBe('restore');
          expect(want).not.toBeNull();
          continue;
        }
        if (kind !== 'pull') expect(want).not.toBeNull();
        if (kind === 'replace') {
          expect(given.at.repair.corruptBlobs).toBe('replace');
          const running = observed?.vms.filter(({ state }) => state === 'running') ?? [];
          expect(running.map(({ imageDigest }) => imageDigest)).not.toContain(want);
          const asked = Object.values(given.of.lookups).filter((said) => said.state === 'there');
          const old = asked.find((said) => said.reference === reference);
          if (image === null) expect(old).toMatchObject({ stored: 'as-is' });
          if (image === null) continue;
        } else expect(kind === 'import').toBe(!isCloudUrl(reference) && image?.kind === 'cloud-image');
        expect(image).toMatchObject({ missingBlob: null, unpullable: null, contentDigest: want });
        if (want === null) expect(image?.unlearned).toBe(true);
      }
    });
  });

  test('takes canaries that have room, as many as asked, and where the fewest VMs run', () => {
    holds(({ policy, fleet }, actions) => {
      const order = fleet.map((seen) => seen.node.name);
      const busy = new Map(
        fleet.map(({ node: { name, pool }, observed }) => [
          name,
          { pool, vms: observed?.vms.filter(({ state }) => state === 'running').length ?? 0 },
        ]),
      );
      for (const tag of ['latest', 'v1', '1']) {
        const mine = actions.filter((action) => action.tag === tag && action.blocked === null);
        const first = new Set(mine.filter(({ wave }) => wave === 0).map(({ node: of }) => of.name));
        const all = [...new Set(mine.map(({ node: of }) => of.name))];
        expect(all).toEqual(order.filter((name) => all.includes(name)));
        expect(first.size).toBe(policy.canary === 0 ? all.length : Math.min(policy.canary, all.length));
        const others = all.filter((name) => !first.has(name)).map((name) => busy.get(name));
        for (const name of first) {
          const { pool, vms } = busy.get(name) ?? { pool: '', vms: 0 };
          for (const other of others) if (other?.pool === pool) expect(vms).toBeLessThanOrEqual(other.vms);
        }
      }
    });
  });

  test('leaves as many bytes free as it must, whatever is downloaded, imported or converted', () => {
    holds(({ fleet, policy }, actions) => {
      for (const { node: of, observed } of fleet) {
        const mine = actions.filter((action) => action.node.name === of.name && action.blocked === null);
        const taken = mine.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
        if (mine.length > 0) expect((observed?.freeBytes ?? 0) - taken).toBeGreaterThanOrEqual(policy.minFreeBytes);
        for (const { kind, reference, sizeBytes } of mine) {
          const isSent = kind === 'import' || (kind === 'replace' && !isCloudUrl(reference));
          const needed = (isSent ? 2 : 1) * sizeBytes;
          expect(observed?.freeBytes).toBeGreaterThanOrEqual(needed + policy.minFreeBytes);
        }
      }
    });
  });

  test('once carried out leaves nothing to do: what could begin is healed', () => {
    let healed = 0;
    holds((given, actions) => {
      const after = applied(given, actions);
      const begun = actions.filter(({ blocked }) => blocked === null);
      const done = begun.filter(({ want }) => want !== null);
      const left = plan(after);
      expect(left.map(key).filter((id) => done.map(key).includes(id))).toEqual([]);
      const blocked = actions.filter((action) => action.blocked !== null).map(key);
      // A bad file that stood in the way of one key may have been replaced by another; a blob that one key brought may prove
      // that another one, of which nothing was known, stands for other content.
      const isOpen = ({ reason, verdict }: ImageRow): boolean =>
        verdict === 'unknown' || /would keep the file/.test(reason ?? '');
      const barred = judge(given).flatMap(({ node: name, images }) =>
        images.filter(isOpen).map((r) => key({ ...r, node: name })),
      );
      const isNews = (action: Action): boolean => barred.includes(key(action));
      expect(left.filter((action) => !isNews(action) && !blocked.includes(key(action)))).toEqual([]);
      const verdicts = new Map(judge(after).map((of) => [of.node, of]));
      // Only the pull told which blob was wanted: it may have been there, and bad. That is found then.
      for (const { node: on, reference } of begun.filter(({ want }) => want === null)) {
        const row = verdicts.get(on.name)?.images.find((r) => r.reference === reference);
        expect(['in-sync', 'unknown']).toContain(row?.verdict);
      }
      for (const { node: on, reference, kind, tag, want } of done) {
        healed += 1;
        const of = verdicts.get(on.name);
        const row = of?.images.find((r) => r.reference === reference);
        if (kind !== 'restore' && tag !== '') expect(row?.verdict).toBe('in-sync');
        const users = of?.snapshots.filter(({ id, baseDigest }) => id !== null && baseDigest === want) ?? [];
        // Of a container base whose layers nothing tells, nothing can be said before or after.
        const told = users.filter((user) => user.base !== OCI || user.verdict !== 'unknown');
        for (const { verdict } of told) expect(['clonable', 'pending']).toContain(verdict);
      }
    });
    expect(healed).toBeGreaterThan(numRuns / 2);
  });
});

describe('judging', () => {
  test('in sync means: the entry has the digest that is served, and its files are sound', () => {
    holds((given) =>
      eachNode(given, (facts, { images }, seen) => {
        for (const row of images.filter(({ verdict }) => verdict === 'in-sync')) {
          const image = coverOf(given.at, facts, row.reference, seen.node) as DesiredImage;
          const twins = facts.entries.filter(({ reference }) => reference === row.reference);
          const truth = row.type === 'oci' ? image.manifestDigest : truthOf(image);
          expect(twins).toMatchObject([{ digest: truth, type: row.type }]);
          expect([truth, null]).toContain(image.contentDigest);
          expect(row.want).toBe(image.contentDigest);
          expect(facts.conflicts).not.toContain(row.reference);
          if (row.type === 'oci') {
            const files = image.layers.map((digest) => `${ROOT}/oci/blobs/${digest.slice(7)}.erofs`);
            expect(files.map((path) => facts.files[path])).toEqual(files.map(() => 'file'));
            continue;
          }
          const file = facts.blobs[row.have?.slice(7) ?? ''];
          expect(file).toMatchObject({ regular: true });
          expect(file?.sizeBytes).toBeGreaterThan(0);
          if (given.at.depth === 'presence' || file?.sha256 === row.have) continue;
          expect(file?.header).toBe(QCOW2);
          if (image.stored !== 'converted') expect(file?.sizeBytes).toBe(SIZE);
          if (image.stored !== 'converted') expect(given.at.depth).toBe('size');
        }
      }),
    );
  });

  test('clonable means: what the hypervisor opens is there and sound, and something keeps it', () => {
    holds((given) =>
      eachNode(given, (facts, { snapshots }, { node: of }) => {
        for (const row of snapshots.filter(({ verdict, id }) => verdict === 'clonable' && id !== null)) {
          const fact = facts.snapshots.find(
            (s) =>
              s.name === row.snapshot && (s.backing === null || `sha256:${blobHex(of, s.backing)}` === row.baseDigest),
          );
          if (fact?.backing == null) continue;
          const digest = row.baseDigest as string;
          expect(blobState(facts, digest, null, 'presence').state).toBe('sound');
          const keepers = [
            ...facts.entries.map((e) => e.digest),
            ...facts.vms.map((v) => v.imageDigest),
            ...facts.snapshots.flatMap((s) => [s.baseDigest, ...s.blobIds.map((hex) => `sha256:${hex}`)]),
            ...facts.unlistedBackings.map((path) => `sha256:${blobHex(of, path)}`),
          ];
          expect(keepers).toContain(digest);
        }
      }),
    );
  });

  test('a node that was not read is unknown in every row', () => {
    holds((given) => {
      const verdicts = judge(given);
      for (const [i, seen] of given.fleet.entries()) {
        if (seen.observed !== null) continue;
        const { images, snapshots } = verdicts[i] as NodeRows;
        expect([...images, ...snapshots].every((row) => row.verdict === 'unknown')).toBe(true);
        expect([images.length, snapshots.length]).toEqual([2, 1]);
      }
    });
  });

  test('an unknown never becomes in sync: neither by knowing less, nor by what is done elsewhere', () => {
    const inSync = (given: Fleet): string[] =>
      judge(given).flatMap(({ node: name, images }) =>
        images.filter(({ verdict }) => verdict === 'in-sync').map((row) => key({ ...row, node: name })),
      );
    holds((given, actions) => {
      const known = inSync(given);
      const blind = {
        ...given.at,
        desired: given.at.desired.map((d) => ({ ...d, contentDigest: null, unlearned: false })),
      };
      expect(inSync({ ...given, at: blind })).toEqual([]);
      const ignorant = { ...given.at, desired: given.at.desired.map((d) => ({ ...d, stored: null, layers: [] })) };
      for (const row of inSync({ ...given, at: ignorant })) if (!row.includes(OCI)) expect(known).toContain(row);
      const unhashed = given.fleet.map((seen) => {
        const facts = structuredClone(seen.observed);
        for (const fact of Object.values(facts?.blobs ?? {})) Object.assign(fact, { sha256: null, proofs: {} });
        return { ...seen, observed: facts };
      });
      for (const row of inSync({ ...given, fleet: unhashed })) expect(known).toContain(row);

      const unknown = judge(given).flatMap(({ node: name, images }) =>
        images.filter(({ verdict }) => verdict === 'unknown').map((row) => key({ ...row, node: name })),
      );
      const sameTruth = { ...applied(given, actions), at: given.at };
      const cured = inSync(sameTruth).filter((row) => unknown.includes(row));
      // A blob whose soundness was not known may have been replaced under another reference, or hashed by then.
      for (const row of cured) {
        const [name, reference] = row.split(' ') as [string, string];
        const shared = actions.filter((a) => a.node.name === name && a.reference !== reference && a.blocked === null);
        expect(shared.length).toBeGreaterThan(0);
      }
    });
  });

  test('asks registries only about bases that are gone, and any answer to anything else changes nothing', () => {
    holds((given) => {
      const asked = new Set(
        pinnedQuestions(catalogOf(given.at, given.of), scopeOf(given.at, given.of), given.fleet).map(pinnedKey),
      );
      const lookups = Object.fromEntries(Object.entries(given.of.lookups).filter(([id]) => asked.has(id)));
      expect(judge({ ...given, of: { ...given.of, lookups } })).toEqual(judge(given));
    });
  });
});

test('every stage survives JSON', () => {
  const through = <T>(value: T): T => JSON.parse(JSON.stringify(value)) as T;
  holds((given, actions) => {
    expect(through(given)).toEqual(given);
    const verdicts = judge(through(given));
    expect(through(verdicts)).toEqual(verdicts);
    expect(plan(through(given))).toEqual(actions);
    expect(through(actions)).toEqual(actions);
    const report = assemble({
      tool: { name: 't', version: '1' },
      run: {
        id: 'r',
        mode: 'dry-run',
        startedAt: '2026-05-09T12:00:00Z',
        finishedAt: '2026-05-09T12:00:01Z',
        blobDepth: 'size',
      },
      error: null,
      signal: null,
      desired: given.at.desired,
      snapshots: given.of.snapshots,
      observations: given.fleet,
      rows: rows(given.at, given.of, given.fleet, { actions }),
      actions,
      tidied: [],
    });
    expect(through(report)).toStrictEqual(report);
    expect(report.summary.actions.planned).toBe(actions.length);
  });
});
