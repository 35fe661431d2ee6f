/** Which findings a run is about: `images.ignore`, `snapshots.ignore`, `--image` and `--snapshot`. */
import picomatch from 'picomatch';
import { fault } from '../errors.ts';
import { downloadOf, readingsOf } from '../reference.ts';
import type { DesiredImage, DesiredSnapshot } from '../model/desired.ts';
import type { ImageFinding, NodeFindings, SnapshotFinding } from '../model/finding.ts';

export interface Filters {
  /** `--image`: references, `repo`, `repo:tag`, globs over these; a leading `!` excludes. Empty: all. */
  images: string[];
  /** `--snapshot`: `repo[:tag]`, globs; a leading `!` excludes. Empty: all. */
  snapshots: string[];
  ignoreImages: string[];
  ignoreSnapshots: string[];
}

/** Whether a pattern names something, and does not only exclude. */
export function isAnyNamed({ images, snapshots }: Pick<Filters, 'images' | 'snapshots'>): boolean {
  return [...images, ...snapshots].some((pattern) => !pattern.startsWith('!'));
}

/** What judging produced, before and after selection. */
export interface Selection {
  findings: NodeFindings[];
  desired: DesiredImage[];
  snapshots: DesiredSnapshot[];
}

type Matches = (names: string[]) => boolean;

/**
 * Keeps the findings that the filters ask for: an image brings the snapshots on it, a snapshot brings its base.
 * @throws ReconcileError FILTER_EMPTY where a pattern (no exclusion) matches nothing in the config or on a node
 */
export function selectFindings(all: Selection, filters: Filters): Selection {
  const ignoreImage = anyOf(filters.ignoreImages);
  const ignoreSnapshot = anyOf(filters.ignoreSnapshots);
  const kept: Selection = {
    findings: all.findings.map(({ node, images, snapshots }) => ({
      node,
      images: images.filter((row) => !ignoreImage(imageNames(row))),
      snapshots: snapshots.filter((row) => !ignoreSnapshot(snapshotNames(row))),
    })),
    desired: all.desired.filter((image) => !ignoreImage(imageNames(image))),
    snapshots: all.snapshots.filter((snapshot) => !ignoreSnapshot(snapshotNames(snapshot))),
  };
  refuseEmpty('--image', filters.images, [
    ...kept.desired.map(imageNames),
    ...kept.findings.flatMap(({ images }) => images.map(rowNames)),
  ]);
  refuseEmpty('--snapshot', filters.snapshots, [
    ...kept.snapshots.map(snapshotNames),
    ...kept.findings.flatMap(({ snapshots }) => snapshots.map(snapshotNames)),
  ]);
  if (filters.images.length === 0 && filters.snapshots.length === 0) return kept;

  const wantedImage = filter(filters.images);
  const wantedSnapshot = filter(filters.snapshots);
  const namesOfBase = basesByReference(kept);
  const isImage = (row: ImageFinding | DesiredImage): boolean => wantedImage(rowNames(row));
  const isSnapshot = (row: SnapshotFinding | DesiredSnapshot): boolean =>
    wantedSnapshot(snapshotNames(row)) && (filters.images.length === 0 || wantedImage(namesOfBase(row.base)));
  const snapshotsKept = kept.snapshots.filter(isSnapshot);
  const rowsKept = kept.findings.flatMap(({ snapshots }) => snapshots.filter(isSnapshot));
  const bases = new Set([...snapshotsKept, ...rowsKept].map(({ base }) => namesOfBase(base).at(-1)));
  const isWanted = (row: ImageFinding | DesiredImage): boolean =>
    isImage(row) && (filters.snapshots.length === 0 || bases.has(imageNames(row).at(-1)));
  return {
    findings: kept.findings.map(({ node, images, snapshots }) => ({
      node,
      images: images.filter(isWanted),
      snapshots: snapshots.filter(isSnapshot),
    })),
    desired: kept.desired.filter(isWanted),
    snapshots: snapshotsKept,
  };
}

/** All the names by which a person may call an image; the last is its own alone: `repo:tag`, else the reference. */
export function imageNames(row: { reference: string; image: string | null; tag: string | null }): string[] {
  return row.image === null ? [row.reference] : [row.reference, row.image, `${row.image}:${row.tag}`];
}

/** An entry that may be of epoch under another address is meant too where its image is named. */
function rowNames(row: ImageFinding | DesiredImage): string[] {
  const isSuspected = row.kind === 'image' && row.verdict === 'unmanaged' && row.error !== null;
  const path = isSuspected ? downloadOf(row.reference)?.path : undefined;
  if (path === undefined) return imageNames(row);
  const { whole, split } = readingsOf(path);
  const names = [whole, split].flatMap((reading) =>
    reading === null ? [] : [reading.repository, `${reading.repository}:${reading.tag}`],
  );
  return [...names, row.reference];
}

function snapshotNames({ snapshot }: { snapshot: string }): string[] {
  const repository = snapshot.split(':', 1)[0] as string;
  return snapshot === repository ? [snapshot, `${snapshot}:latest`] : [snapshot, repository];
}

/** The names of the image behind a base reference, as far as a row tells them. */
function basesByReference({ findings, desired }: Selection): (base: string | null) => string[] {
  const names = new Map<string, string[]>();
  for (const row of [...desired, ...findings.flatMap(({ images }) => images)])
    names.set(row.reference, imageNames(row));
  return (base) => (base === null ? [] : (names.get(base) ?? [base]));
}

/** `images.ignore`, for something that has these names. */
export const ignores = anyOf;

function anyOf(patterns: string[]): Matches {
  const matchers = patterns.map((pattern) => matcher(pattern));
  return (names) => names.some((name) => matchers.some((matches) => matches(name)));
}

/** Patterns are OR; `!` removes last; only `!` patterns start from all, as do none. */
function filter(patterns: string[]): Matches {
  const wanted = anyOf(patterns.filter((pattern) => !pattern.startsWith('!')));
  const unwanted = anyOf(patterns.filter((pattern) => pattern.startsWith('!')).map((pattern) => pattern.slice(1)));
  const fromAll = patterns.every((pattern) => pattern.startsWith('!'));
  return (names) => (fromAll || wanted(names)) && !unwanted(names);
}

function matcher(pattern: string): (name: string) => boolean {
  if (!/[*?[\]{}]/.test(pattern)) return (name) => name === pattern;
  return picomatch(pattern, { dot: true });
}

function refuseEmpty(option: string, patterns: string[], known: string[][]): void {
  for (const value of patterns.filter((pattern) => !pattern.startsWith('!'))) {
    const matches = anyOf([value]);
    if (known.some((names) => matches(names))) continue;
    const near = [...new Set(known.map((names) => names.at(-1) as string))].sort().slice(0, 5);
    throw fault('FILTER_EMPTY', { option, value, near });
  }
}
