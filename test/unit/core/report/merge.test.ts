/** Reports of shards → one: what belongs together is joined, and all else is refused by name. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { ReconcileError } from '../../../../src/core/errors.ts';
import { assemble } from '../../../../src/core/report/report.ts';
import { mergeReports, type Part } from '../../../../src/core/report/merge.ts';
import { parseReport } from '../../../../src/core/report/parse.ts';
import { membersOf } from '../../../../src/core/shard/shard.ts';
import type { ErrorInfo } from '../../../../src/core/model/error.ts';
import type { ImageRow, Report } from '../../../../src/core/model/report.ts';
import { entry, imageRow, node, observation, sha, trouble, unreachable } from '../../../support/facts.ts';
import { parseReport as validated } from '../../../support/reconcile.ts';

const NODES = Array.from({ length: 12 }, (_, i) => ({ name: `node-${i + 1}` }));
const STALE = new Set(['node-2', 'node-10']);

/** A report about these nodes; of a shard where one is named. */
function reportOn(nodes: { name: string }[], run: Partial<Report['run']> = {}, over: Partial<ImageRow> = {}): Report {
  const { shard = null, error = null, config, id = 'r' } = run;
  return assemble({
    tool: { name: 'cocoon-reconcile', version: '0' },
    run: {
      id,
      mode: run.mode ?? 'dry-run',
      startedAt: run.startedAt ?? '2026-05-09T12:00:00.000Z',
      finishedAt: run.finishedAt ?? '2026-05-09T12:00:01.000Z',
      blobDepth: 'size',
      ...(shard === null ? {} : { shard }),
      ...(config === undefined ? {} : { config }),
    },
    error,
    signal: null,
    desired: [],
    snapshots: [],
    observations: nodes.map(({ name }) =>
      name === 'node-7' ? unreachable(node(name)) : observation({ entries: [entry(sha('a1'))] }, node(name)),
    ),
    rows: nodes.map(({ name }) => ({
      node: name,
      images: [imageRow(STALE.has(name) ? 'stale' : 'in-sync', { image: 'simular/win11', tag: 'latest', ...over })],
      snapshots: [],
    })),
    actions: [],
    tidied: [],
  });
}

function partsOf(count: number, run: Partial<Report['run']> = {}): Part[] {
  return Array.from({ length: count }, (_, index) => ({
    source: `${index}.json`,
    report: reportOn(membersOf(NODES, { index, count }), { ...run, shard: `${index}/${count}` }),
  }));
}

/** Why it is refused. */
function refusal(parts: Part[]): ErrorInfo {
  try {
    mergeReports(parts);
  } catch (error) {
    if (error instanceof ReconcileError) return error.info;
    throw error;
  }
  throw new Error('it was not refused');
}

describe('the shards of one run', () => {
  test('are the report of a run over all nodes, whatever their number and the order that they are named in', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 20 }), fc.nat(19), (count, from) => {
        const parts = partsOf(count);
        parts.push(...parts.splice(0, from));
        const merged = mergeReports(parts);
        expect(merged).toEqual(reportOn(NODES));
        expect(validated(JSON.stringify(merged))).toEqual(merged);
      }),
      { numRuns: 30 },
    );
  });

  test('last from the first that began to the last that ended', () => {
    const [a, b] = partsOf(2) as [Part, Part];
    a.report.run.startedAt = '2026-05-09T11:59:00.000Z';
    b.report.run.finishedAt = '2026-05-09T13:00:00.000Z';
    expect(mergeReports([a, b]).run).toMatchObject({
      startedAt: '2026-05-09T11:59:00.000Z',
      finishedAt: '2026-05-09T13:00:00.000Z',
      shard: null,
    });
  });

  test('have one canary of an image where each has planned its own', () => {
    const parts = partsOf(3);
    for (const { report } of parts)
      for (const { images } of report.nodes) for (const row of images) Object.assign(row, { plan: 'pull', wave: 0 });
    const merged = mergeReports(parts);
    const first = parts.filter(({ report }) => {
      const names = new Set(report.nodes.map(({ name }) => name));
      return merged.nodes.some(({ name, images }) => names.has(name) && images[0]?.wave === 0);
    });
    expect(first).toHaveLength(1);
  });

  test('end by the first that holds of: a signal, a lock, an error, a failure, drift, an incomplete picture', () => {
    const code = (change: (report: Report) => void): number => {
      const parts = partsOf(2, { mode: 'run' });
      change((parts[1] as Part).report);
      return mergeReports(parts).run.exitCode;
    };
    expect(code(() => undefined)).toBe(2);
    expect(code(({ nodes }) => Object.assign(nodes[0]?.images[0] ?? {}, { outcome: 'failed' }))).toBe(4);
    expect(code(({ run }) => (run.error = trouble('REGISTRY_UNREACHABLE')))).toBe(1);
    expect(code(({ run }) => (run.exitCode = 75))).toBe(75);
    expect(code(({ run }) => (run.exitCode = 143))).toBe(143);
    const healed = partsOf(2, { mode: 'run' });
    for (const { report } of healed)
      for (const { images } of report.nodes)
        for (const row of images) if (row.verdict === 'stale') row.outcome = 'healed';
    expect(mergeReports(healed).run.exitCode).toBe(3); // node-7 was not read
  });

  test('are incomplete where nothing was judged at all, and not where one of them judged something', () => {
    const [a, b] = partsOf(2) as [Part, Part];
    const nothing = trouble('NOTHING_JUDGED');
    b.report.run.error = nothing;
    expect(mergeReports([a, b]).run.error).toBeNull();
    for (const { report } of [a, b]) {
      report.run.error = nothing;
      for (const { images } of report.nodes) for (const row of images) row.verdict = 'unmanaged';
    }
    expect(mergeReports([a, b]).run).toMatchObject({ error: nothing, exitCode: 3 });
  });
});

describe('refused by name', () => {
  const [A, B, C] = partsOf(3) as [Part, Part, Part];
  const alone = (): Part => ({ source: 'whole.json', report: reportOn(NODES) });
  const other = (run: Partial<Report['run']>): Part => ({
    ...B,
    report: { ...B.report, run: { ...B.report.run, ...run } },
  });

  test.each<[string, Part[], RegExp]>([
    [
      'a gate',
      [A, { ...B, report: { ...B.report, run: { ...B.report.run, mode: 'gate' } } }],
      /1\.json is the report of a gate/,
    ],
    ['a report of a whole fleet', [A, alone()], /whole\.json is the report of a whole fleet/],
    [
      'a run that could not begin',
      [A, { source: 'bad.json', report: reportOn([], { error: trouble('CONFIG_INVALID') }) }],
      /bad\.json is of a run that could not begin: CONFIG_INVALID/,
    ],
    ['a shard that is missing', [A, C], /the shard 1 of 3 is missing/],
    ['several that are', [B], /the shards 0,2 of 3 are missing/],
    [
      'one that is there twice',
      [A, B, { ...B, source: 'again.json' }, C],
      /1\.json and again\.json are both the shard 1\/3/,
    ],
    ['another run', [A, other({ id: 's' }), C], /1\.json is of the run s, 0\.json of the run r/],
    [
      'another config',
      [A, other({ config: 'x' }), C],
      /1\.json was made with another config or other options than 0\.json/,
    ],
    ['a dry run among runs', [A, other({ mode: 'run' }), C], /1\.json is of a run, 0\.json of a dry-run/],
    ['other parts of the fleet', [A, other({ shard: '1/4' }), C], /1\.json is one of 4 shards, 0\.json of 3/],
    ['a shard that cannot be', [A, other({ shard: '3/3' }), C], /1\.json names the shard "3\/3"/],
    ['no report', [], /there is none/],
  ])('%s', (_, parts, message) => {
    expect(refusal(parts)).toMatchObject({ code: 'MERGE_REFUSED', message: expect.stringMatching(message) as string });
  });

  test('a node that is in two', () => {
    const twice = { ...C, report: { ...C.report, nodes: [...C.report.nodes, ...A.report.nodes.slice(0, 1)] } };
    const name = A.report.nodes[0]?.name;
    expect(refusal([A, B, twice]).message).toContain(`the node ${name} is in 0.json and in 2.json`);
  });
});

describe('what is read from a file', () => {
  test('is a report as it was written, with what a newer version adds', () => {
    const report = { ...reportOn(NODES), later: 1 };
    expect(parseReport(JSON.stringify(report))).toEqual(report);
  });

  test('is refused where any part of it is not what it must be', () => {
    const report = reportOn(NODES.slice(0, 2));
    const places: (string | number)[][] = [];
    const walk = (value: unknown, path: (string | number)[]): void => {
      if (typeof value !== 'object' || value === null) return void places.push(path);
      for (const [key, inner] of Object.entries(value))
        walk(inner, [...path, Array.isArray(value) ? Number(key) : key]);
    };
    walk(report, []);
    const free = new Set(['config']);
    for (const path of places.filter((path) => !free.has(String(path.at(-1))))) {
      const copy = structuredClone(report) as unknown as Record<string | number, unknown>;
      const holder = path
        .slice(0, -1)
        .reduce<Record<string | number, unknown>>((at, key) => at[key] as Record<string | number, unknown>, copy);
      holder[path.at(-1) ?? ''] = { no: 'thing' };
      expect(() => parseReport(JSON.stringify(copy)), path.join('.')).toThrow();
    }
    expect(() => parseReport('{"schemaVersion":1}')).toThrow();
    expect(() => parseReport('nothing')).toThrow('no JSON');
  });
});
