// Numbers that look random and repeat themselves for a seed, and texts changed by them.

/** A small generator of numbers from 0 to 1. */
export function random(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

export function pick<T>(from: readonly T[], next: () => number): T {
  return from[Math.floor(next() * from.length)] as T;
}

const INSERTS = [
  '\n',
  '|',
  '"',
  '{',
  '}',
  '[',
  ']',
  ',',
  '\\',
  '\0',
  '\u202e',
  '-1',
  '9'.repeat(30),
  'null',
  '__proto__',
];

/** One to three changes: characters replaced, removed, doubled, moved or inserted, whole lines too. */
export function mutate(text: string, next: () => number, lines: readonly string[] = ['']): string {
  let mutated = text;
  for (let n = Math.ceil(next() * 3); n > 0; n -= 1) {
    const at = Math.floor(next() * mutated.length);
    const length = Math.floor(next() ** 3 * 80);
    const [before, part, after] = [mutated.slice(0, at), mutated.slice(at, at + length), mutated.slice(at + length)];
    mutated = pick(
      [
        () => before + String.fromCharCode(Math.floor(next() * 256)) + mutated.slice(at + 1),
        () => before + after,
        () => before + part + part + after,
        () => after + before + part,
        () => before + pick(INSERTS, next) + mutated.slice(at),
        () => `${before}\n${pick(lines, next)}\n${mutated.slice(at)}`,
      ],
      next,
    )();
  }
  return mutated;
}
