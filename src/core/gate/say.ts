/** What an answer is made of: a verdict or an error, with what helps. */
import { formatBytes } from '../text.ts';
import type { Catalog } from '../model/catalog.ts';
import type { DesiredImage } from '../model/desired.ts';
import type { ErrorInfo } from '../model/error.ts';
import type { Finding, NodeFindings } from '../model/finding.ts';
import type { Answer, GateAnswer } from '../model/gate.ts';
import type { Observation } from '../model/observed.ts';
import type { Scope } from '../model/scope.ts';
import type { ImageVerdict, SnapshotVerdict } from '../model/verdict.ts';
import { judgedAs } from '../judge/scope.ts';
import { isChange, type RemedyFor } from '../plan/remedy.ts';
import { describe } from '../report/rows.ts';

export const BAKE_AGAIN = 'bake the snapshot again, or push the old base back to epoch';

/** What a person can do where a pull does not help. */
const HELP: Partial<Record<SnapshotVerdict | ImageVerdict, string>> = {
  pending: 'wait until it is written, then ask again',
  broken: 'remove it there and let the next start fetch it again, or bake it again',
  'base-restorable': 'the base can still be had by its digest: pull that, as the commands say',
  'base-lost': BAKE_AGAIN,
};

/** Errors of a registry that say no; after any other the answer is not known. */
export const REFUSALS = new Set(['TAG_NOT_FOUND', 'REGISTRY_BLOB_MISSING']);

/** Everything that the answers come from. */
export interface GateFacts {
  catalog: Catalog;
  scope: Scope;
  observations: Observation[];
  findings: NodeFindings[];
  remedyFor: RemedyFor;
}

export interface NodeFacts {
  observation: Observation;
  findings: NodeFindings;
}

/** An answer without the node. */
export type Said = Omit<GateAnswer, 'node'>;

export function say(answer: Answer, reasonCode: string, reason: string, rest: Partial<Said> = {}): Said {
  return { answer, reasonCode, reason, pullHelps: false, help: null, commands: [], ...rest };
}

/** An error as an answer: some say no, all others that nothing is known. */
export function byError(error: ErrorInfo | null, otherwise: string): Said {
  if (error === null) return say('unknown', 'UNKNOWN', otherwise);
  return say(REFUSALS.has(error.code) ? 'no' : 'unknown', error.code, error.message, { help: error.hint });
}

/** `base-drifted` → `BASE_DRIFTED`. */
export function codeOf(verdict: string): string {
  return verdict.toUpperCase().replaceAll('-', '_');
}

/** A verdict as an answer, with what helps. */
export function byVerdict(
  answer: Answer,
  verdict: SnapshotVerdict | ImageVerdict,
  finding: Finding,
  remedyFor: RemedyFor,
): Said {
  const remedy = remedyFor(finding);
  const row = describe(finding, remedy);
  const code = answer === 'unknown' && row.error !== null ? row.error.code : codeOf(verdict);
  if (answer === 'yes') {
    const all = [row.error?.message ?? PLAIN_REASON.yes, row.reason].filter(Boolean);
    return say(answer, code, all.join('; '));
  }
  const reason = row.reason ?? row.error?.message ?? PLAIN_REASON[answer];
  const planned = isChange(remedy) ? `\`reconcile\` heals it (${remedy.kind})` : null;
  return say(answer, code, reason, {
    pullHelps: remedy.kind === 'pull',
    help: planned ?? row.error?.hint ?? HELP[verdict] ?? null,
    commands: row.commands,
  });
}

export const PLAIN_REASON: Record<Answer, string> = {
  yes: 'everything that it needs is there',
  no: 'something that it needs is not there',
  unknown: 'what it needs is not known',
};

/** A yes with something to be said; where the gate asks for content in sync, a no. */
export function withNote(said: Said, code: string, note: string | null, inSync: boolean): Said {
  if (said.answer !== 'yes' || note === null) return said;
  return { ...said, answer: inSync ? 'no' : 'yes', reasonCode: code, reason: note };
}

/** What a reference stands for on the platform of this node. */
export function servedFor(
  { node, observed }: Observation,
  reference: string,
  { catalog, scope }: GateFacts,
): DesiredImage | null {
  return observed === null ? null : judgedAs({ catalog, scope, node, observed }, reference);
}

/** A yes, but one that has to download first; a no where there is no room for it. */
export function coldStart({ observed }: Observation, parts: [what: string, sizeBytes: number | null][]): Said {
  const all = parts.reduce((sum, [, sizeBytes]) => sum + (sizeBytes ?? 0), 0);
  const what = parts.map(([name, size]) => (size === null ? name : `${name} (${formatBytes(size)})`)).join(' and ');
  const free = observed?.freeBytes ?? 0;
  if (all > free) {
    return say('no', 'NO_SPACE', `the first start downloads ${what}, and only ${formatBytes(free)} are free`, {
      help: 'make room there: `cocoon gc` collects what nothing needs',
    });
  }
  return say('yes', 'COLD_START', `not on the node yet: the first start downloads ${what}`);
}
