/** Verdicts → answers: every verdict in one table, and the notes that `require: in-sync` turns into a no. */
import { describe, expect, test } from 'vitest';
import type { PlacedQuestion } from '../../../../src/core/gate/questions.ts';
import { judgeGate } from '../../../../src/core/gate/answers.ts';
import type { GateFacts } from '../../../../src/core/gate/say.ts';
import { assemble } from '../../../../src/core/report/report.ts';
import type { GateSettings } from '../../../../src/core/model/settings.ts';
import { findings, remedies } from '../../../support/judging.ts';
import type { DesiredSnapshot } from '../../../../src/core/model/desired.ts';
import type { Gate, GateAnswer } from '../../../../src/core/model/gate.ts';
import type { Observation, Observed } from '../../../../src/core/model/observed.ts';
import type { SnapshotFinding } from '../../../../src/core/model/finding.ts';
import { SNAPSHOT_VERDICTS, type SnapshotVerdict } from '../../../../src/core/model/verdict.ts';
import {
  blob,
  blobs,
  desired,
  entry,
  EPOCH,
  HOT,
  hot,
  node,
  observation,
  RAW,
  served,
  sha,
  snapshot,
  trouble,
  unreachable,
  wantedSnapshot,
  WIN11,
  catalogOf,
  scopeOf,
  type Given,
  type Hot,
} from '../../../support/facts.ts';

const START: GateSettings = { minReady: { value: 100, percent: true }, require: 'start' };
const IN_SYNC: GateSettings = { ...START, require: 'in-sync' };

function question(over: Partial<PlacedQuestion> = {}): PlacedQuestion {
  return {
    source: 'set.yaml:9',
    set: 'default/demo',
    role: 'agent',
    toolbox: null,
    mode: 'clone',
    image: HOT,
    forcePull: false,
    pool: 'default',
    nodeName: null,
    nodes: ['node-1'],
    ...over,
  };
}

interface World {
  at?: Given;
  wanted?: DesiredSnapshot;
  settings?: GateSettings;
}

/** As the pipeline judges: the asked snapshot is the one that is tracked. */
function gateFacts(at: Given, of: Hot, observations: Observation[]): GateFacts {
  return {
    catalog: catalogOf(at, of),
    scope: scopeOf(at, of),
    observations,
    findings: findings(at, of, observations),
    remedyFor: remedies(at, observations),
  };
}

function ask(questions: PlacedQuestion[], observations: Observation[], { at, wanted, settings }: World = {}): Gate {
  const facts = at ?? served();
  const snapshots = hot({
    snapshots: [wanted ?? wantedSnapshot()],
    tracked: questions.filter(({ mode }) => mode === 'clone').map(({ image }) => ({ snapshot: image, pools: null })),
    discover: false,
  });
  const all = gateFacts(facts, snapshots, observations);
  return { ...judgeGate(questions, all, settings ?? START), errors: [] };
}

function answer(on: Partial<Observed>, over: Partial<PlacedQuestion> = {}, world: World = {}): GateAnswer {
  return ask([question(over)], [observation(on)], world).questions[0]?.nodes[0] as GateAnswer;
}

const said = ({ answer: yes, reasonCode, pullHelps }: GateAnswer): string =>
  `${yes} ${reasonCode}${pullHelps ? ', a pull helps' : ''}`;

describe('clone', () => {
  test.each<[string, Partial<Observed>, string]>([
    ['there and whole', { snapshots: [snapshot('e2')] }, 'yes CLONABLE'],
    ['the incident', { snapshots: [snapshot('e2')], blobs: {} }, 'no BASE_DRIFTED, a pull helps'],
    ['base gone, tag moved on', { snapshots: [snapshot('a1')], blobs: {} }, 'no BASE_MISSING'],
    [
      'base cut short',
      { snapshots: [snapshot('e2')], blobs: blobs({ e2: blob({ sizeBytes: 9 }) }) },
      'no BASE_CORRUPT',
    ],
    ['being written', { snapshots: [snapshot('e2', { pending: true })] }, 'no PENDING'],
    ['its own file gone', { snapshots: [snapshot('e2', { files: {} })] }, 'no BROKEN'],
    [
      'base whose form is not known',
      { snapshots: [snapshot('e2')], blobs: blobs({ e2: blob({ header: RAW }) }) },
      'unknown UNKNOWN',
    ],
    ['not fetched, base there', {}, 'yes COLD_START'],
    ['not fetched, nor its base', { entries: [], blobs: {} }, 'yes COLD_START'],
    ['not fetched, base drifted', { entries: [entry(sha('a1'))], blobs: {} }, 'no BASE_DRIFTED, a pull helps'],
    ['no room for a cold start', { entries: [], blobs: {}, freeBytes: 5e9 }, 'no NO_SPACE'],
  ])('%s', (_, on, expected) => {
    const stored = served([desired({ stored: 'as-is' })]);
    expect(said(answer(on, {}, on.blobs?.['e2'.repeat(32)]?.sizeBytes === 9 ? { at: stored } : {}))).toBe(expected);
  });

  test('every verdict has its answer, and one that is not on the node that of its base', () => {
    const yes: SnapshotVerdict[] = ['clonable', 'base-at-risk'];
    for (const verdict of SNAPSHOT_VERDICTS) {
      if (verdict === 'not-on-node') continue;
      const expected = yes.includes(verdict) ? 'yes' : verdict === 'unknown' ? 'unknown' : 'no';
      const row: SnapshotFinding = { ...found(), verdict };
      expect(direct(row), verdict).toMatchObject({
        answer: expected,
        reasonCode: verdict.toUpperCase().replaceAll('-', '_'),
      });
      expect(direct({ ...row, id: null, verdict: 'not-on-node', baseVerdict: verdict }), verdict).toMatchObject({
        answer: expected,
        ...(expected === 'yes' ? { reasonCode: 'COLD_START' } : {}),
      });
    }
  });

  const found = (): SnapshotFinding => {
    const [of] = findings(served(), hot(), [observation({ snapshots: [snapshot('e2')] })]);
    return of?.snapshots[0] as SnapshotFinding;
  };

  const direct = (finding: SnapshotFinding): GateAnswer => {
    const seen = observation({ snapshots: finding.id === null ? [] : [snapshot('e2')] });
    const facts = gateFacts(served(), hot({ snapshots: [wantedSnapshot()] }), [seen]);
    const said = [{ node: 'node-1', images: [], snapshots: [finding] }];
    return judgeGate([question()], { ...facts, findings: said }, START).questions[0]?.nodes[0] as GateAnswer;
  };

  test('what would help is passed on: the commands of a person, or what a run does', () => {
    const evidence = {
      reference: WIN11,
      image: null,
      digest: sha('e2'),
      sizeBytes: 5,
      stored: null,
      counts: 'digest',
      kept: null,
    } as const;
    const finding: SnapshotFinding = { ...found(), verdict: 'base-restorable', evidence };
    expect(direct(finding)).toMatchObject({
      pullHelps: false,
      commands: [`cocoon --root-dir /var/lib/cocoon image pull --force ${WIN11}`],
      help: expect.stringContaining('digest'),
    });
    const byTag = { ...evidence, image: desired(), counts: 'tag' } as const;
    expect(direct({ ...finding, evidence: byTag })).toMatchObject({
      pullHelps: true,
      help: '`reconcile` heals it (pull)',
    });
    const tied = { ...byTag, reference: 'win11-25h2' };
    expect(direct({ ...finding, evidence: tied })).toMatchObject({
      pullHelps: false,
      help: '`reconcile` heals it (import)',
    });
  });

  test('a cold start says how much it downloads, and fails where its base has moved on, is lost or not known', () => {
    const cold = { entries: [], blobs: {} };
    const wanted = wantedSnapshot({ sizeBytes: 2e9 });
    expect(answer(cold, {}, { wanted }).reason).toBe(
      'not on the node yet: the first start downloads the snapshot (2.00 GB) and its base (5.80 GB)',
    );
    expect(answer({}, {}, { wanted }).reason).toBe(
      'not on the node yet: the first start downloads the snapshot (2.00 GB)',
    );
    expect(said(answer(cold, {}, { wanted: wantedSnapshot({ baseDigest: sha('a1') }) }))).toBe('no BASE_MISSING');
    const split = served([desired({ contentDigest: null, error: trouble('ARTIFACT_UNSUPPORTED') })]);
    expect(said(answer(cold, {}, { at: split }))).toBe('unknown ARTIFACT_UNSUPPORTED');
    const lost = served([desired({ missingBlob: sha('e2'), error: trouble('REGISTRY_BLOB_MISSING') })]);
    expect(said(answer(cold, {}, { at: lost }))).toBe('no REGISTRY_BLOB_MISSING');
    expect(said(answer(cold, {}, { at: served([]) }))).toBe('unknown UNKNOWN');
  });

  test('without a copy on the node, epoch decides whether there is such a snapshot', () => {
    const none = (code: string): World => ({
      wanted: wantedSnapshot({ base: null, baseDigest: null, error: trouble(code) }),
    });
    expect(said(answer({}, {}, none('TAG_NOT_FOUND')))).toBe('no TAG_NOT_FOUND');
    expect(said(answer({}, {}, none('REGISTRY_UNREACHABLE')))).toBe('unknown REGISTRY_UNREACHABLE');
    expect(said(answer({}, {}, none('ARTIFACT_UNSUPPORTED')))).toBe('unknown ARTIFACT_UNSUPPORTED');
    const here = { snapshots: [snapshot('e2')] };
    expect(said(answer(here, {}, none('TAG_NOT_FOUND')))).toBe('yes CLONABLE');
    expect(said(answer(here, {}, none('REGISTRY_UNREACHABLE')))).toBe('yes CLONABLE');
  });

  test.each(['host:5000/x:v1', 'repo@sha256:ab', 'Upper/case'])(
    '%s cannot be at epoch, but may be on the node',
    (image) => {
      const asked = image.includes(':') ? image : `${image}:latest`;
      const wanted = wantedSnapshot({
        snapshot: asked,
        base: null,
        baseDigest: null,
        error: trouble('ARTIFACT_UNSUPPORTED'),
      });
      const of = (on: Partial<Observed>): string => {
        const seen = observation(on);
        const snapshots = hot({ snapshots: [wanted], tracked: [{ snapshot: asked, pools: null }], discover: false });
        const facts = gateFacts(served(), snapshots, [seen]);
        return said(judgeGate([question({ image })], facts, START).questions[0]?.nodes[0] as GateAnswer);
      };
      expect(of({})).toBe('no IMAGE_NAME_INVALID');
      expect(of({ snapshots: [snapshot('e2', { name: image })] })).toBe('yes CLONABLE');
    },
  );

  test('a tag that has moved on is a note, and a no where content in sync is required', () => {
    const old = { snapshots: [snapshot('a1')], blobs: blobs({ a1: blob(), e2: blob() }) };
    const rebaked = { wanted: wantedSnapshot({ baseDigest: sha('b3') }) };
    expect(answer(old)).toMatchObject({
      answer: 'yes',
      reasonCode: 'TAG_MOVED',
      reason: expect.stringContaining('moved on'),
    });
    expect(said(answer(old, {}, { settings: IN_SYNC }))).toBe('no TAG_MOVED');
    const here = { snapshots: [snapshot('e2')] };
    expect(answer(here, {}, rebaked).reason).toContain("epoch's snapshot of this tag is baked on b3b3b3b3b3b3 now");
    expect(said(answer(here, {}, { ...rebaked, settings: IN_SYNC }))).toBe('no TAG_MOVED');
    expect(said(answer(here, {}, { settings: IN_SYNC }))).toBe('yes CLONABLE');
  });

  test('content in sync cannot be told without epoch', () => {
    const here = { snapshots: [snapshot('e2')] };
    const dark = served([desired({ contentDigest: null, error: trouble('REGISTRY_UNREACHABLE') })]);
    expect(said(answer(here, {}, { at: dark }))).toBe('yes CLONABLE');
    expect(said(answer(here, {}, { at: dark, settings: IN_SYNC }))).toBe('unknown REGISTRY_UNREACHABLE');
  });
});

describe('run', () => {
  const run = { mode: 'run' as const, image: WIN11 };
  const stale = { entries: [entry(sha('a1'))], blobs: blobs({ a1: blob() }) };

  test.each<[string, Partial<Observed>, string, string]>([
    ['in sync', {}, 'yes IN_SYNC', 'yes IN_SYNC'],
    ['stale but sound', stale, 'yes STALE', 'no STALE, a pull helps'],
    ['stale, old blob gone', { ...stale, blobs: {} }, 'no BLOB_MISSING, a pull helps', 'no BLOB_MISSING, a pull helps'],
    ['blob gone', { blobs: {} }, 'no BLOB_MISSING, a pull helps', 'no BLOB_MISSING, a pull helps'],
    ['absent', { entries: [] }, 'yes COLD_START', 'yes COLD_START'],
    ['no room', { entries: [], freeBytes: 1 }, 'no NO_SPACE', 'no NO_SPACE'],
    [
      'in both backends',
      { entries: [entry(sha('e2')), entry(sha('c3'), WIN11, 'oci')] },
      'unknown UNKNOWN',
      'unknown UNKNOWN',
    ],
  ])('%s', (_, on, start, inSync) => {
    expect(said(answer(on, run))).toBe(start);
    expect(said(answer(on, run, { settings: IN_SYNC }))).toBe(inSync);
  });

  test('epoch is asked where the node has to pull: no entry, or a forced pull', () => {
    const at = (code: string): World => ({
      at: served([
        desired({
          error: trouble(code),
          ...(code === 'REGISTRY_BLOB_MISSING' ? { missingBlob: sha('e2') } : { contentDigest: null }),
        }),
      ]),
    });
    expect(said(answer({ entries: [] }, run, at('TAG_NOT_FOUND')))).toBe('no TAG_NOT_FOUND');
    expect(said(answer({ entries: [] }, run, at('REGISTRY_UNREACHABLE')))).toBe('unknown REGISTRY_UNREACHABLE');
    expect(said(answer({}, run, at('REGISTRY_BLOB_MISSING')))).toBe('yes IN_SYNC');
    expect(said(answer({}, { ...run, forcePull: true }, at('REGISTRY_BLOB_MISSING')))).toBe('no REGISTRY_BLOB_MISSING');
  });

  test.each([
    ['ghcr.io/a/b:1', 'a node pulls it from the registry ghcr.io, which the config does not name'],
    ['simular/win11', 'a node pulls it from the registry docker.io, which the config does not name'],
    ['epoch.example/a/b', 'it is an OCI reference on the host of epoch, where cocoon cannot pull without a credential'],
    ['https://other.example/x.qcow2', 'the URL is not of this epoch, and only epoch is asked'],
    [`${EPOCH}/dl/a/${sha('a1')}`, 'it names content by its digest, which no tag of epoch covers'],
  ])('%s is asked of nobody, and that is said', (image, reason) => {
    expect(answer({}, { mode: 'run', image })).toMatchObject({ answer: 'unknown', reason });
  });
});

describe('how many nodes must be ready', () => {
  const names = ['n1', 'n2', 'n3', 'n4', 'n5'];
  const good = { snapshots: [snapshot('e2')] };
  const gate = (yes: number, no: number, unknown: number, value: number, percent: boolean): Gate => {
    const nodes = names.slice(0, yes + no + unknown);
    const seen = nodes.map((name, i) =>
      i < yes
        ? observation(good, node(name))
        : i < yes + no
          ? observation({ ...good, blobs: {} }, node(name))
          : unreachable(node(name)),
    );
    return ask([question({ nodes })], seen, { settings: { minReady: { value, percent }, require: 'start' } });
  };

  test.each([
    [5, 0, 0, 100, true, 'pass', 0],
    [4, 1, 0, 100, true, 'blocked', 2],
    [4, 0, 1, 100, true, 'incomplete', 3],
    [3, 1, 1, 100, true, 'blocked', 2],
    [4, 1, 0, 80, true, 'pass', 0],
    [4, 0, 1, 80, true, 'pass', 0],
    [3, 1, 1, 80, true, 'incomplete', 3],
    [3, 2, 0, 80, true, 'blocked', 2],
    [3, 1, 1, 79, true, 'incomplete', 3],
    [3, 2, 0, 3, false, 'pass', 0],
    [2, 2, 1, 3, false, 'incomplete', 3],
    [5, 0, 0, 6, false, 'blocked', 2],
  ])(
    '%i yes, %i no, %i unknown of %i (percent: %s) → %s, exit %i',
    (yes, no, unknown, value, percent, outcome, exitCode) => {
      const result = gate(yes, no, unknown, value, percent);
      expect(result.questions[0]).toMatchObject({ outcome, ready: yes });
      expect(result.pass).toBe(outcome === 'pass');
      const run = { id: 'x', mode: 'gate' as const, startedAt: 't', finishedAt: 't', blobDepth: null };
      const parts = {
        tool: { name: 'x', version: '0' },
        run,
        error: null,
        signal: null,
        desired: [],
        snapshots: [],
        observations: [],
        rows: [],
        actions: [],
        tidied: [],
      };
      expect(assemble(parts, result).run.exitCode).toBe(exitCode);
      expect(assemble({ ...parts, error: trouble('GATE_UNREAD') }, result).run.exitCode).toBe(1);
    },
  );

  test('of the one node that a set names, one is enough', () => {
    const seen = [observation(good, node('n1'))];
    const settings: GateSettings = { minReady: { value: 3, percent: false }, require: 'start' };
    expect(ask([question({ nodes: ['n1'], nodeName: 'n1' })], seen, { settings }).pass).toBe(true);
    expect(ask([question({ nodes: ['n1'] })], seen, { settings }).pass).toBe(false);
  });

  test('a node that could not be read is unknown, with the cause', () => {
    const { nodes } = ask([question({ nodes: ['n1'] })], [unreachable(node('n1'))])
      .questions[0] as Gate['questions'][0];
    expect(nodes).toEqual([
      {
        node: 'n1',
        answer: 'unknown',
        reasonCode: 'SSH_TIMEOUT',
        reason: 'SSH_TIMEOUT happened',
        pullHelps: false,
        help: 'mend it',
        commands: [],
      },
    ]);
  });
});
