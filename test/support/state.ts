// What earlier runs learned, in memory.
import type { State } from '../../src/bastion/state.ts';
import type { Learned } from '../../src/core/artifact.ts';
import type { Proof } from '../../src/core/model/observed.ts';

export function memoryState(): State {
  const learned = new Map<string, Learned>();
  const proofs = new Map<string, Proof>();
  return {
    dir: '/nowhere',
    learned: (manifest) => learned.get(manifest) ?? null,
    manifestsOf: (digest) => [...learned].flatMap(([manifest, known]) => (known.digest === digest ? [manifest] : [])),
    learn: (manifest, content) => {
      learned.set(manifest, content);
    },
    proofOf: (file) => proofs.get(file) ?? null,
    rememberProof: (file, proof) => {
      proofs.set(file, proof);
    },
    save: async () => await Promise.resolve(),
  };
}
