/** Asking once, however many want to know. */

/** The promise that was made for a key, or the one that `ask` makes now; a rejected one is remembered too. */
export function remember<T>(memory: Map<string, Promise<T>>, key: string, ask: () => Promise<T>): Promise<T> {
  const known = memory.get(key);
  if (known !== undefined) return known;
  const asked = ask();
  memory.set(key, asked);
  return asked;
}
