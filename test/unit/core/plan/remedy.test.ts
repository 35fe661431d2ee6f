/** What would help a finding under each policy: one answer, for the plan and for the gate. */
import { describe, expect, test } from 'vitest';
import type { Evidence, Finding } from '../../../../src/core/model/finding.ts';
import type { Repair } from '../../../../src/core/model/plan.ts';
import { isChange, remedyOf } from '../../../../src/core/plan/remedy.ts';
import {
  blob,
  blobs,
  container,
  desired,
  entry,
  EPOCH,
  hot,
  node,
  observation,
  served,
  sha,
  split,
  trouble,
  WIN11,
} from '../../../support/facts.ts';
import { findings } from '../../../support/judging.ts';

const NONE: Repair = { corruptBlobs: 'report', restoreBases: 'report' };
const ALL: Repair = { corruptBlobs: 'replace', restoreBases: 'restore' };
const KEPT = { state: 'corrupt', why: 'it is short', isInUse: false } as const;

const stale = findings(served(), hot(), [observation({ entries: [entry(sha('a1'))], blobs: blobs({ a1: blob() }) })])[0]
  ?.images[0] as Finding;

function evidence(over: Partial<Evidence> = {}): Evidence {
  const image = desired();
  return { reference: WIN11, image, digest: sha('e2'), sizeBytes: 5, stored: null, counts: 'tag', kept: null, ...over };
}

const kindsOf = (of: Evidence | null): string[] =>
  [NONE, ALL].map((repair) => {
    const policy = { repair, cocoon: node().cocoon, epochUrl: EPOCH };
    return remedyOf({ ...stale, evidence: of }, policy).kind;
  });

describe('without leave to repair, and with it', () => {
  test.each<[string, Evidence | null, string, string]>([
    ['nothing that a registry serves would help', null, 'none', 'none'],
    ['the tag serves it', evidence(), 'pull', 'pull'],
    ['it is under a name, which cocoon would look for elsewhere', evidence({ reference: 'win11' }), 'import', 'import'],
    [
      'under a name, and its digest is not known',
      evidence({ reference: 'win11', image: split(), digest: null }),
      'none',
      'none',
    ],
    ['a container image has no URL and is pulled', evidence({ reference: 'x', image: container() }), 'pull', 'pull'],
    [
      'the registry lacks a blob',
      evidence({ image: desired({ missingBlob: sha('e2'), error: trouble('X') }) }),
      'none',
      'none',
    ],
    ['cocoon cannot pull it', evidence({ image: desired({ unpullable: 'it asks for more' }) }), 'none', 'none'],
    ['a bad file is in the way', evidence({ kept: KEPT }), 'by-hand', 'replace'],
    ['one that a VM runs on', evidence({ kept: { ...KEPT, isInUse: true } }), 'by-hand', 'by-hand'],
    ['one that may be good', evidence({ kept: { ...KEPT, state: 'unproven' } }), 'none', 'none'],
    ['no tag serves it any more', evidence({ image: null, counts: 'digest' }), 'by-hand', 'restore'],
    [
      'nor that, and a bad file is there',
      evidence({ image: null, counts: 'digest', kept: KEPT }),
      'by-hand',
      'replace',
    ],
  ])('%s', (_name, of, without, withLeave) => {
    expect(kindsOf(of)).toEqual([without, withLeave]);
  });
});

test('commands for a person stand where a run does nothing, and only there', () => {
  const policy = { repair: NONE, cocoon: node().cocoon, epochUrl: EPOCH };
  for (const kept of [null, KEPT]) {
    for (const image of [null, desired()]) {
      const remedy = remedyOf({ ...stale, evidence: evidence({ kept, image }) }, policy);
      expect(isChange(remedy)).toBe(kept === null && image !== null);
      if (remedy.kind === 'by-hand') expect(remedy.commands.at(-1)).toContain('image pull');
    }
  }
});
