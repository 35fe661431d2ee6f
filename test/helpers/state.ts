// What earlier runs learned, in memory.
import type { State } from '../../src/adapters/state.ts';
import type { Learned } from '../../src/core/desired.ts';

export function memoryState(): State {
  const learned = new Map<string, Learned>();
  const hashes = new Map<string, string>();
  const recall = (manifest: string): Learned => learned.get(manifest) ?? { content: null, disproved: [] };
  return {
    dir: '/nowhere',
    learned: recall,
    manifestsOf: (digest) =>
      [...learned].flatMap(([manifest, { content }]) => (content?.digest === digest ? [manifest] : [])),
    learnContent: (manifest, digest, source) => {
      learned.set(manifest, { ...recall(manifest), content: { digest, source } });
    },
    disprove: (manifest, digest) => {
      const known = recall(manifest);
      learned.set(manifest, { ...known, disproved: [...known.disproved, digest] });
    },
    hashOf: (stamp) => hashes.get(stamp) ?? null,
    rememberHash: (stamp, sha256) => {
      hashes.set(stamp, sha256);
    },
    save: async () => await Promise.resolve(),
  };
}
