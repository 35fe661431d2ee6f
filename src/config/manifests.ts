/**
 * Manifest files → plain documents. They may come from a stranger's pull request, so everything about them is bounded:
 * size, number, nesting, aliases, and where a symbolic link may lead.
 */
import { lstat, readdir, realpath, stat } from 'node:fs/promises';
import { dirname, isAbsolute, join, relative, resolve, sep } from 'node:path';
import { Composer, isAlias, isMap, isScalar, isSeq, Lexer, LineCounter, Parser, type Document } from 'yaml';
import { mayAsk, type ManifestDocument } from '../core/gate/cocoonset.ts';
import { ManifestError, refusalOf } from '../core/gate/questions.ts';
import { fault } from '../core/errors.ts';
import { clip } from '../core/text.ts';
import type { Refusal } from '../core/model/gate.ts';
import { readText } from './document.ts';
import { plainOf, YamlProblem } from './yaml.ts';

const MAX_FILE_BYTES = 2 ** 20;
const MAX_BYTES = 16 * 2 ** 20;
const MAX_FILES = 10_000;
const MAX_DOCUMENTS = 10_000;
const MAX_NESTING = 200;
const MAX_SOURCE_CHARS = 300;
/** Of one document: what is read in slices, and what is then made of it in one go. */
const MAX_TOKENS = 3_000_000;
const MAX_VALUES = 1_000_000;
/** So many tokens are read until others have their turn. */
const SLICE_TOKENS = 20_000;

/** Deeper keys need no line of their own. */
const MAX_LINE_DEPTH = 12;

export interface LoadedManifests {
  documents: ManifestDocument[];
  /** Files and documents that cannot be used; all others are. */
  refused: Refusal[];
}

/**
 * Reads what a person names: files, the manifests of a directory (as `kubectl -f DIR` does: not those of directories in
 * it), and `-` for stdin.
 * @throws ReconcileError MANIFEST_INVALID where it is too much in all, or the signal's reason
 */
export async function loadManifests(
  names: string[],
  stdin: () => AsyncIterable<Uint8Array>,
  signal: AbortSignal,
): Promise<LoadedManifests> {
  if (names.filter((name) => name === '-').length > 1) throw tooMuch('stdin can be read only once');
  const loaded: LoadedManifests = { documents: [], refused: [] };
  let files = 0;
  let bytes = 0;
  for (const name of names) {
    await orRefused(loaded, async () => {
      for await (const { source, read } of filesOf(name, stdin)) {
        await orRefused(loaded, async () => {
          const text = await read();
          files += 1;
          bytes += Buffer.byteLength(text ?? '');
          if (files > MAX_FILES) throw tooMuch(`the manifests are in more than ${MAX_FILES} files`);
          if (bytes > MAX_BYTES) throw tooMuch(`the manifests are larger than ${MAX_BYTES / 2 ** 20} MiB in all`);
          if (text === null) return;
          for await (const parsed of parseManifests(source, text, signal)) {
            if (parsed instanceof ManifestError) loaded.refused.push(refusalOf(parsed));
            else loaded.documents.push(parsed);
            const documents = loaded.documents.length + loaded.refused.length;
            if (documents > MAX_DOCUMENTS) throw tooMuch(`there are more than ${MAX_DOCUMENTS} documents`);
          }
        });
      }
    });
  }
  return loaded;
}

/** What is wrong with one manifest is remembered, and the others are read. */
async function orRefused({ refused }: LoadedManifests, load: () => Promise<void>): Promise<void> {
  try {
    await load();
  } catch (error) {
    refused.push(refusalOf(error));
  }
}

function tooMuch(problem: string): Error {
  return fault('MANIFEST_INVALID', { problem });
}

// ----------------------------------------------------------------------------------------------- reading

interface Source {
  source: string;
  /** Null for a directory in a directory. */
  read: () => Promise<string | null>;
}

/** @throws ManifestError for a path that is none */
async function* filesOf(name: string, stdin: () => AsyncIterable<Uint8Array>): AsyncGenerator<Source> {
  if (name === '-') {
    yield { source: 'stdin', read: async () => await readAll(stdin()) };
    return;
  }
  const real = await inside(name, homeOf(name));
  if (!(await stat(real)).isDirectory()) {
    yield { source: name, read: async () => await readOne(name, real) };
    return;
  }
  const found = (await readdir(real)).filter((file) => /\.(ya?ml|json)$/.test(file)).sort();
  if (found.length === 0) throw new ManifestError(name, 'the directory holds no .yaml, .yml or .json file');
  for (const file of found) {
    const source = join(name, file);
    const read = async (): Promise<string | null> => {
      const target = await inside(join(real, file), real, source);
      return (await stat(target)).isDirectory() ? null : await readOne(source, target);
    };
    yield { source, read };
  }
}

/**
 * The directory that a named path may not lead out of by a symbolic link: the working directory for a path in it, since
 * that may be a checkout, and else the directory that holds it.
 */
function homeOf(name: string): string {
  const isBelow = !isAbsolute(name) && !relative('.', name).startsWith('..');
  return isBelow ? resolve('.') : dirname(resolve(name));
}

/** The path without symbolic links. */
async function inside(path: string, home: string, named = path): Promise<string> {
  try {
    const [real, root] = await Promise.all([realpath(path), realpath(home)]);
    if (real === root || real.startsWith(root === sep ? root : `${root}${sep}`)) return real;
    throw new ManifestError(named, `a symbolic link leads out of ${home}, to ${real}: name that itself if it is meant`);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ENOTDIR') {
      const isLink = await lstat(path).catch(() => null);
      throw new ManifestError(named, isLink === null ? 'does not exist' : 'is a symbolic link to nothing');
    }
    if (code === 'EACCES') throw new ManifestError(named, 'cannot be read: permission denied');
    if (code === 'ELOOP') throw new ManifestError(named, 'is a symbolic link to itself');
    throw error;
  }
}

async function readOne(source: string, file: string): Promise<string> {
  const read = await readText(file, MAX_FILE_BYTES);
  if ('problem' in read) throw new ManifestError(source, read.problem);
  return read.text;
}

async function readAll(chunks: AsyncIterable<Uint8Array>): Promise<string> {
  const parts: Uint8Array[] = [];
  let length = 0;
  for await (const chunk of chunks) {
    length += chunk.length;
    if (length > MAX_BYTES) throw new ManifestError('stdin', `is larger than ${MAX_BYTES / 2 ** 20} MiB`);
    parts.push(chunk);
  }
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(Buffer.concat(parts));
  } catch {
    throw new ManifestError('stdin', 'is not UTF-8 text');
  }
}

// ----------------------------------------------------------------------------------------------- parsing

/**
/**
 * Every document of a YAML text, or what is wrong with it; JSON is YAML. Nesting and size are watched while the text is read,
 * because what is made of it can be neither interrupted nor bounded.
 * @throws ManifestError where the rest of the text is not read, or the signal's reason
 */
async function* parseManifests(
  source: string,
  text: string,
  signal: AbortSignal,
): AsyncGenerator<ManifestDocument | ManifestError> {
  const lines = new LineCounter();
  lines.addNewLine(0);
  const marks = source === 'stdin' ? marksIn(text) : [];
  const markAt = (offset: number): Mark | undefined => marks.findLast((mark) => mark.offset <= offset);
  const lineAt = (offset: number): number => {
    const mark = markAt(offset);
    return lines.linePos(offset).line - (mark === undefined ? 0 : lines.linePos(mark.offset).line);
  };
  const sourceAt = (offset: number): string => markAt(offset)?.file ?? source;
  const wrong = (offset: number, problem: string): ManifestError =>
    new ManifestError(`${sourceAt(offset)}:${lineAt(offset)}`, problem);
  // Unique keys are seen to below: the library compares each key with each.
  const composer = new Composer({ uniqueKeys: false, stringKeys: true, logLevel: 'error' });
  const parser = new Parser(lines.addNewLine);

  let read = 0;
  let ofDocument = 0;
  for (const lexeme of new Lexer().lex(text)) {
    if ((read += 1) % SLICE_TOKENS === 0) await othersFirst(signal);
    if ((ofDocument += 1) > MAX_TOKENS)
      throw wrong(parser.offset, `a document of more than ${MAX_TOKENS} tokens of YAML`);
    for (const token of parser.next(lexeme)) {
      if (token.type === 'document') ofDocument = 0;
      for (const document of composer.next(token)) yield orError(() => understood(document));
    }
    if (parser.stack.length > MAX_NESTING) throw wrong(parser.offset, `nested more than ${MAX_NESTING} deep`);
  }
  for (const token of parser.end())
    for (const document of composer.next(token)) yield orError(() => understood(document));
  for (const document of composer.end(false, text.length)) yield orError(() => understood(document));

  function understood(document: Document.Parsed): ManifestDocument {
    const [first] = document.errors;
    if (first !== undefined) throw wrong(first.pos[0], `no valid YAML: ${first.message}`);
    const value = toPlain(document, wrong);
    const file = sourceAt(document.contents?.range?.[0] ?? document.range[0]);
    const known: Record<string, number> = Object.create(null) as Record<string, number>;
    const kind: unknown = isMap(document.contents) ? document.get('kind') : null;
    if (typeof kind === 'string' && !mayAsk(kind)) return { source: file, value: { kind }, lines: known }; // the rest need not be kept
    noteLines(document.contents, '', 0, { known, lineAt });
    return { source: file, value, lines: known };
  }
}

/** From here on stdin is that file: what a pipeline writes before each one that it sends. */
interface Mark {
  offset: number;
  file: string;
}

/** The comments `# source: PATH`, each on a line of its own. */
function marksIn(text: string): Mark[] {
  return [...text.matchAll(/^# source: (\S.*)$/gm)].map((match) => ({
    offset: match.index,
    file: clip(match[1] ?? '', MAX_SOURCE_CHARS).trim(),
  }));
}

/** What is wrong with one document hides no other of its file. */
function orError(understood: () => ManifestDocument): ManifestDocument | ManifestError {
  try {
    return understood();
  } catch (error) {
    if (error instanceof ManifestError) return error;
    throw error;
  }
}

/** Lets the deadline, signals and others have their turn. @throws the signal's reason */
async function othersFirst(signal: AbortSignal): Promise<void> {
  await new Promise((resolve) => setImmediate(resolve));
  signal.throwIfAborted();
}

function toPlain(document: Document, wrong: (offset: number, problem: string) => ManifestError): unknown {
  try {
    return plainOf(document, MAX_VALUES).data;
  } catch (error) {
    throw error instanceof YamlProblem ? wrong(error.offset, error.message) : error;
  }
}

/** Where the lines are noted, by path, and how an offset in the text becomes a line. */
interface LineNotes {
  known: Record<string, number>;
  lineAt: (offset: number) => number;
}

/** The line of each value by its path. What an alias stands for has the line of the alias. */
function noteLines(node: unknown, path: string, depth: number, notes: LineNotes): void {
  const { known, lineAt } = notes;
  if (depth > MAX_LINE_DEPTH) return;
  if ((isMap(node) || isSeq(node) || isScalar(node) || isAlias(node)) && node.range)
    known[path] = lineAt(node.range[0]);
  if (isMap(node)) {
    for (const { key, value } of node.items) {
      if (!isScalar(key)) continue;
      const below = path === '' ? String(key.value) : `${path}.${String(key.value)}`;
      noteLines(value, below, depth + 1, notes);
      if (key.range) known[below] = lineAt(key.range[0]);
    }
  } else if (isSeq(node)) {
    for (const [i, item] of node.items.entries()) noteLines(item, `${path}[${i}]`, depth + 1, notes);
  }
}
