/** What a person reads: golden files of whole reports, and what must hold for any of them. */
import { describe, expect, test } from 'vitest';
import { errorInfo } from '../../../src/core/errors.ts';
import { plan, rows } from '../../support/judging.ts';
import { assemble, type Parts } from '../../../src/core/report/report.ts';
import { pinnedKey } from '../../../src/core/judge/catalog.ts';
import type { ErrorInfo } from '../../../src/core/model/error.ts';
import type { Observation, Observed } from '../../../src/core/model/observed.ts';
import type { Action, Policy } from '../../../src/core/model/plan.ts';
import type { Report } from '../../../src/core/model/report.ts';
import type { ActionResult, Step } from '../../../src/core/model/result.ts';
import { render } from '../../../src/reports/formats.ts';
import type { RenderOptions } from '../../../src/reports/options.ts';
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
  served,
  sha,
  snapshot,
  tracked,
  unreachable,
  wantedSnapshot,
  WIN11,
  type Given,
  type Hot,
} from '../../support/facts.ts';

interface World {
  fleet: Observation[];
  at?: Given;
  hot?: Hot;
  policy?: Partial<Policy>;
  /** What came of each action; without it, it is a dry run. */
  outcome?: (action: Action, place: number) => Partial<ActionResult>;
  parts?: Partial<Parts>;
}

function reportOf({ fleet, at = served(), hot: of = hot(), policy, outcome, parts }: World): Report {
  const actions = plan(at, of, fleet, { pullTimeoutMs: 35 * 60_000, ...policy });
  const results = actions.map((action, i): ActionResult => {
    const { node: where, reference } = action;
    const none = {
      node: where.name,
      reference,
      outcome: 'healed',
      reason: null,
      error: null,
      after: null,
      steps: [],
    } as const;
    return { ...none, steps: [], ...outcome?.(action, i) };
  });
  return assemble({
    tool: { name: 'cocoon-reconcile', version: '0.1.0' },
    run: {
      id: '20260509T120000Z-abcdef',
      mode: outcome === undefined ? 'dry-run' : 'run',
      startedAt: '2026-05-09T12:00:00.000Z',
      finishedAt: '2026-05-09T12:03:00.000Z',
      blobDepth: 'size',
    },
    error: null,
    signal: null,
    desired: at.desired,
    snapshots: of.snapshots,
    observations: fleet,
    rows: rows(at, of, fleet, outcome === undefined ? { actions } : { actions, results }),
    actions,
    tidied: [],
    ...parts,
  });
}

const PLAIN: RenderOptions = { color: false, verbose: false, brief: false, named: false };
const draw = async (world: World, options: Partial<RenderOptions> = {}): Promise<string> =>
  await render('table', reportOf(world), { ...PLAIN, ...options });

// ------------------------------------------------------------------------------------------------------ worlds

const current: Partial<Observed> = { snapshots: [snapshot('e2')] };
const drifted: Partial<Observed> = {
  entries: [entry(sha('a1'))],
  blobs: blobs({ a1: blob() }),
  snapshots: [snapshot('e2')],
};

/** `cocoonset-node-1` to `-n`, each with the facts that the number gets. */
function nodes(n: number, factsOf: (i: number) => Partial<Observed>): Observation[] {
  return Array.from({ length: n }, (_, i) => observation(factsOf(i + 1), node(`cocoonset-node-${i + 1}`)));
}

const incident = nodes(5, (i) => (i % 2 === 0 ? drifted : current));

const step = (name: Step['step'], error: ErrorInfo | null = null, ok = error === null): Step => ({
  step: name,
  ok,
  durationMs: name === 'pull' ? 252_000 : 800,
  error,
});
const healed = ({ want }: Action): Partial<ActionResult> => ({
  outcome: 'healed',
  after: want,
  steps: [step('pull'), step('verify'), step('clone')],
});
const ended = (outcome: 'failed' | 'skipped', error: ErrorInfo): Partial<ActionResult> => ({
  outcome,
  error,
  reason: error.message,
  steps: outcome === 'failed' ? [step('pull', error)] : [],
});
const pullFailed = (host: string): ErrorInfo =>
  errorInfo('PULL_FAILED', {
    host,
    reference: WIN11,
    exit: 'exited with 1',
    stderr: `Error: pull ${WIN11}: http get ${WIN11}: status 503 503 Service Unavailable`,
  });

const ssh = {
  timeout: (host: string): ErrorInfo => errorInfo('SSH_TIMEOUT', { host, what: 'connecting', afterMs: 10_000 }),
  refused: (host: string): ErrorInfo => errorInfo('SSH_UNREACHABLE', { host, port: 22, cause: 'connect ECONNREFUSED' }),
};

const trackedSnapshot = hot({ tracked: [{ snapshot: HOT, pools: null }], snapshots: [wantedSnapshot()] });
const unknownTag = desired({
  image: 'simular/win10',
  reference: `${EPOCH}/dl/simular/win10`,
  contentDigest: null,
  error: errorInfo('TAG_NOT_FOUND', { repository: 'simular/win10', tag: 'latest', known: ['v1', 'win10-22h2'] }),
});

const incomplete: World = {
  fleet: [
    ...nodes(8, () => ({ ...current, entries: [entry(sha('e2')), entry(sha('d4'), `${EPOCH}/dl/simular/win10`)] })),
    unreachable(node('cocoonset-node-9'), ssh.timeout('10.0.0.9')),
    unreachable(node('cocoonset-node-10'), ssh.refused('10.0.0.10')),
    unreachable(node('cocoonset-node-11'), ssh.refused('10.0.0.11')),
    unreachable(
      node('cocoonset-node-12'),
      errorInfo('SSH_HOST_KEY_MISMATCH', {
        host: '10.0.0.12',
        offered: 'ssh-ed25519 SHA256:q2x…',
        file: '/root/.ssh/known_hosts',
        line: 12,
      }),
    ),
    {
      ...unreachable(
        node('cocoonset-node-13'),
        errorInfo('NODE_INDEX_CORRUPT', { host: 'cocoonset-node-13', what: 'cloudimg/db/images.json is no JSON' }),
      ),
      status: 'unreadable',
    },
  ],
  at: served([desired(), unknownTag]),
  hot: trackedSnapshot,
};

const UBUNTU = `${EPOCH}/dl/base/ubuntu`;
const lost = desired({
  image: 'base/ubuntu',
  reference: UBUNTU,
  contentDigest: sha('b7'),
  missingBlob: sha('b7'),
  error: errorInfo('REGISTRY_BLOB_MISSING', {
    repository: 'base/ubuntu',
    digest: sha('b7'),
    detail: 'it is not there',
  }),
});
/** One of each kind of trouble, and of each kind of plan. */
const mixed: World = {
  fleet: nodes(11, (i) => {
    const facts: Partial<Observed>[] = [
      current,
      { ...drifted, freeBytes: 8e9 },
      { ...drifted, freeBytes: 6e9 },
      { ...current, blobs: blobs({ e2: blob({ sizeBytes: 4096 }) }) },
      { ...current, entries: [entry(sha('e2')), entry(sha('a1'), UBUNTU)] },
      { ...current, entries: [entry(sha('e2')), entry(sha('b7'), UBUNTU)], blobs: blobs({ e2: blob(), b7: blob() }) },
      { snapshots: [snapshot('a1')] },
      { snapshots: [snapshot('e2')], files: {} },
      { ...current, conflicts: [WIN11] },
      { snapshots: [snapshot('c4')] },
      { ...current, entries: [entry(sha('e2')), entry(sha('a1'), 'win11-25h2')] },
      drifted,
    ];
    return facts[i] as Partial<Observed>;
  }),
  at: served([desired({ stored: 'as-is' }), lost], { covers: { [WIN11]: [0], [UBUNTU]: [1], 'win11-25h2': [0] } }),
  hot: hot({
    lookups: {
      [pinnedKey({ base: WIN11, digest: sha('a1') })]: { state: 'gone', why: 'epoch does not give it any more' },
      [pinnedKey({ base: WIN11, digest: sha('c4') })]: {
        state: 'there',
        reference: `${EPOCH}/v2/simular/win11/blobs/${sha('c4')}`,
        sizeBytes: 5e9,
        stored: null,
      },
    },
  }),
};

/** A thousand nodes: one in eight has drifted, from two contents, some are down, three are corrupt. */
const thousand: World = {
  fleet: Array.from({ length: 1000 }, (_, i) => {
    const of = node(`cocoonset-node-${i + 1}`);
    if (i % 40 === 39)
      return unreachable(of, i % 80 === 39 ? ssh.timeout(`10.0.1.${i % 250}`) : ssh.refused(`10.0.2.${i}`));
    if (i % 300 === 299) return observation({ ...current, blobs: blobs({ e2: blob({ sizeBytes: 4096 }) }) }, of);
    if (i % 8 === 0) return observation(i % 3 === 0 ? drifted : { ...drifted, entries: [entry(sha('c4'))] }, of);
    return observation(current, of);
  }),
  at: served([desired({ stored: 'as-is' })], { tracked: [tracked({ presence: 'required' })] }),
};

const failing: World = {
  fleet: incident,
  outcome: (action, i) =>
    i === 0
      ? ended('failed', pullFailed(action.node.name))
      : ended('skipped', errorInfo('NOT_STARTED', { why: 'its canary cocoonset-node-2 was not healed: failed' })),
};
const interrupted = errorInfo('INTERRUPTED', { signal: 'SIGINT' });

const WORLDS: Record<string, World & { options?: Partial<RenderOptions> }> = {
  'in-sync': { fleet: nodes(5, () => current) },
  'incident-dry-run': { fleet: incident },
  healed: { fleet: incident, outcome: healed },
  'healed-nothing-to-test': {
    fleet: nodes(2, () => ({ ...drifted, snapshots: [] })),
    outcome: (action) => ({
      ...healed(action),
      steps: [
        step('pull'),
        step('verify'),
        {
          ...step('clone', errorInfo('NOTHING_TO_TEST', { host: action.node.name, image: 'simular/win11:latest' })),
          ok: null,
        },
      ],
    }),
  },
  superseded: {
    fleet: incident,
    outcome: (action) => ({
      ...healed(action),
      outcome: 'superseded',
      reason: "epoch's tag moved during the run: the node has f6f6f6f6f6f6, as epoch serves now",
    }),
  },
  failed: failing,
  'failed-alike': {
    fleet: nodes(12, () => drifted),
    outcome: (action) => (action.wave === 0 ? healed(action) : ended('failed', pullFailed(action.node.name))),
  },
  incomplete: incomplete,
  error: {
    fleet: nodes(3, () => current),
    at: served([
      desired({
        contentDigest: null,
        error: errorInfo('REGISTRY_UNREACHABLE', { method: 'GET', url: `${EPOCH}/v2/`, cause: 'connect ECONNREFUSED' }),
      }),
    ]),
    parts: {
      error: errorInfo('REGISTRY_UNREACHABLE', { method: 'GET', url: `${EPOCH}/v2/`, cause: 'connect ECONNREFUSED' }),
    },
  },
  interrupted: {
    fleet: nodes(6, () => drifted),
    parts: { signal: 'SIGINT' },
    outcome: (action, i) => (i === 0 ? healed(action) : ended(i === 1 ? 'failed' : 'skipped', interrupted)),
  },
  'mixed-dry-run': mixed,
  'thousand-dry-run': thousand,
  'healed-verbose': { fleet: incident, outcome: healed, options: { verbose: true } },
  'incomplete-verbose': { ...incomplete, options: { verbose: true } },
  'failed-brief': { ...failing, options: { brief: true } },
};

test.each(Object.entries(WORLDS))('%s', async (name, { options, ...world }) => {
  await expect(await draw(world, options)).toMatchFileSnapshot(`golden/${name}.txt`);
});

// ------------------------------------------------------------------------------------------ what holds for all

describe.each(Object.entries(WORLDS))('%s', (_name, world) => {
  const last = async (options: Partial<RenderOptions>): Promise<string> =>
    (await draw(world, options)).trimEnd().split('\n').at(-1) as string;

  test('the last line is the verdict, and all of it where it must be brief', async () => {
    const verdict = await last({});
    expect(verdict).toMatch(/^(OK|DRIFT|INCOMPLETE|FAILED|INTERRUPTED): .*\.$|^ERROR [A-Z_]+: .*\.$/);
    expect(await draw(world, { brief: true })).toBe(`${verdict}\n`);
    expect(await last({ verbose: true })).toBe(verdict);
  });

  test('there is no colour where none is wanted, and the same text where it is', async () => {
    for (const verbose of [false, true]) {
      const text = await draw(world, { verbose });
      expect(text).not.toContain('\u001b');
      const colored = await draw(world, { verbose, color: true });
      expect(colored).toContain('\u001b[');
      // oxlint-disable-next-line no-control-regex -- taking the colour out again
      expect(colored.replace(/\u001b\[\d+m/g, '')).toBe(text);
    }
  });

  test('the table is no wider than a wide terminal', async () => {
    const [table = ''] = (await draw(world)).split('\n\n');
    expect(Math.max(...table.split('\n').map((line) => line.length))).toBeLessThanOrEqual(170);
  });

  test('no advice is given twice', async () => {
    const lines = (await draw(world)).split('\n').filter((line) => /^ {2}[→$]/.test(line));
    expect(new Set(lines).size).toBe(lines.length);
  });
});

test('what hostile names and answers hold does not reach the terminal', async () => {
  const bad = '\u001b[2J\u001b]0;x\u0007\u202e\n\r\u0000evil\u009b31m';
  const facts = {
    entries: [entry(sha('a1'), `https://x.example/${bad}`), entry(sha('a1'), `${EPOCH}/dl/${bad}`)],
    blobs: {},
    snapshots: [snapshot('a1', { name: bad, backing: `/mnt/${bad}`, dataDir: bad })],
    cocoonVersion: bad,
    notes: [bad],
  };
  const world: World = {
    fleet: [
      observation(facts, node(`n${bad}1`)),
      observation(facts, node(`n${bad}2`)),
      unreachable(node(`m${bad}`), { code: 'SSH_TIMEOUT', message: bad, hint: bad }),
    ],
    at: served([desired({ reference: `${EPOCH}/dl/${bad}`, notes: [bad] })]),
  };
  for (const verbose of [false, true]) {
    const text = await draw(world, { verbose });
    expect(text).toContain('evil');
    // oxlint-disable-next-line no-control-regex -- finding control characters is the point
    expect(text).not.toMatch(/[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]/);
    expect(text.split('\n').filter((line) => line.startsWith('evil'))).toEqual([]);
  }
  expect((await draw(world, { brief: true })).trimEnd().split('\n')).toHaveLength(1);
});

test('a thousand nodes are drawn within a second', async () => {
  const report = reportOf(thousand);
  const startedAt = performance.now();
  const text = await render('table', report, PLAIN);
  expect(performance.now() - startedAt).toBeLessThan(1000);
  expect(text.split('\n').length).toBeLessThan(40);
});

test('JSON is the report itself', async () => {
  const report = reportOf(mixed);
  expect(JSON.parse(await render('json', report, PLAIN))).toEqual(report);
  expect(report.summary.actions.planned).toBeGreaterThan(0);
});
