/** A report that somebody kept → the report, checked as far as anything here relies on it. What a newer version adds is kept. */
import { array, digest, object, ShapeError, size } from '../json.ts';
import { BLOB_DEPTHS, IMAGE_VERDICTS, SNAPSHOT_VERDICTS } from '../model/verdict.ts';
import { OUTCOMES } from '../model/result.ts';
import type { Report } from '../model/report.ts';

type Check = (value: unknown, where: string) => void;

const MAX_TEXT = 20_000;
const MAX_ROWS = 100_000;

/** Line ends may be in what a machine said; whoever prints it removes what a terminal would act on. */
const word: Check = (value, where) => {
  if (typeof value !== 'string' || value.length > MAX_TEXT) throw new ShapeError(`${where} is no text, or too long`);
};
const time: Check = (value, where) => {
  word(value, where);
  if (!/^\d{4}-\d\d-\d\dT[\d:.]+Z$/.test(value as string) || Number.isNaN(Date.parse(value as string)))
    throw new ShapeError(`${where} is no time in UTC`);
};
const truth: Check = (value, where) => {
  if (typeof value !== 'boolean') throw new ShapeError(`${where} is neither true nor false`);
};

const either =
  (...words: readonly (string | number | boolean | null)[]): Check =>
  (value, where) => {
    if (!words.includes(value as string)) throw new ShapeError(`${where} is none of ${words.join(', ')}`);
  };
const orNull =
  (check: Check): Check =>
  (value, where) => {
    if (value !== null) check(value, where);
  };
const list =
  (check: Check): Check =>
  (value, where) => {
    for (const [i, item] of array(value, where, MAX_ROWS).entries()) check(item, `${where}[${i}]`);
  };
const fields =
  (checks: Record<string, Check>): Check =>
  (value, where) => {
    const found = object(value, where);
    for (const [key, check] of Object.entries(checks)) check(found[key], where === '' ? key : `${where}.${key}`);
  };

const error = orNull(fields({ code: word, message: word, hint: word }));
const outcome = orNull(either(...OUTCOMES));
const counts = (words: readonly string[]): Check => fields(Object.fromEntries(words.map((key) => [key, size])));

const steps = list(
  fields({
    step: either('pull', 'replace', 'restore', 'import', 'verify', 'clone'),
    ok: orNull(truth),
    durationMs: size,
    error,
  }),
);

/** What the rows of images and snapshots have in common. */
const row = { reason: orNull(word), error, wave: orNull(size), commands: list(word), outcome, steps };

const image = fields({
  ...row,
  reference: word,
  image: orNull(word),
  tag: orNull(word),
  type: either('cloudimg', 'oci'),
  verdict: either(...IMAGE_VERDICTS),
  have: orNull(digest),
  want: orNull(digest),
  plan: orNull(either('pull', 'replace', 'import')),
  after: orNull(digest),
});

const snapshot = fields({
  ...row,
  snapshot: word,
  id: orNull(word),
  verdict: either(...SNAPSHOT_VERDICTS),
  base: orNull(word),
  baseDigest: orNull(digest),
  baseVerdict: orNull(either(...SNAPSHOT_VERDICTS)),
  source: orNull(word),
  plan: orNull(either('pull', 'replace', 'restore')),
});

const node = fields({
  name: word,
  host: word,
  pool: word,
  status: either('observed', 'unreachable', 'unreadable'),
  error,
  cocoonVersion: orNull(word),
  indexSource: orNull(either('json', 'sqlite', 'none')),
  freeBytes: orNull(size),
  durationMs: size,
  notes: list(word),
  leftovers: list(
    fields({
      kind: either('canary-vm', 'blob-aside', 'import'),
      name: word,
      outcome: orNull(either('tidied', 'failed', 'skipped')),
      error,
    }),
  ),
  images: list(image),
  snapshots: list(snapshot),
});

const desired = fields({
  image: word,
  tag: word,
  platform: orNull(word),
  reference: word,
  kind: orNull(either('cloud-image', 'container-image')),
  manifestDigest: orNull(digest),
  contentDigest: orNull(digest),
  contentDigestSource: orNull(either('layer', 'manifest', 'cache', 'checksums', 'stream')),
  sizeBytes: orNull(size),
  error,
});

const report = fields({
  tool: fields({ name: either('cocoon-reconcile'), version: word }),
  run: fields({
    id: word,
    mode: either('run', 'dry-run', 'gate'),
    startedAt: time,
    finishedAt: time,
    blobDepth: orNull(either(...BLOB_DEPTHS)),
    exitCode: size,
    error,
    shard: orNull(word),
  }),
  desired: list(desired),
  snapshots: list(fields({ snapshot: word, base: orNull(word), baseDigest: orNull(digest), error })),
  nodes: list(node),
  gate: orNull(fields({ pass: truth, questions: list(fields({ source: word })) })),
  summary: fields({
    nodes: counts(['total', 'observed', 'unreachable', 'unreadable']),
    images: counts(IMAGE_VERDICTS),
    snapshots: counts(SNAPSHOT_VERDICTS),
    actions: counts(['planned', 'healed', 'superseded', 'failed', 'skipped']),
  }),
});

/**
 * @throws ShapeError that names the place of what is no report, or not of a version that this one understands
 */
export function parseReport(text: string): Report {
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch (cause) {
    throw new ShapeError(`it is no JSON: ${(cause as Error).message}`);
  }
  const found = object(parsed, 'it');
  if (found['schemaVersion'] !== 1) throw new ShapeError('it is no report of schemaVersion 1');
  report(found, '');
  return found as unknown as Report;
}
