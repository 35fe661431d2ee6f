// When pulls begin and end, over all nodes of a fleet: each node's cocoon is put behind a program that writes that down.
import { chmod, readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Fleet } from './world.ts';

export interface Pull {
  node: string;
  reference: string;
  /** In ms of the machine's clock; `endedAt` is null where the pull was killed, or is still at work. */
  beganAt: number;
  endedAt: number | null;
}

/** Begins to write down what is pulled. @returns what was pulled so far */
export async function watchPulls({
  dir,
  nodes,
}: Fleet): Promise<{ pulls: () => Promise<Pull[]>; clear: () => Promise<void> }> {
  const log = join(dir, 'pulls.log');
  await writeFile(log, '');
  for (const { name, binary } of nodes) {
    await rename(binary, `${binary}.real`);
    await writeFile(
      binary,
      `#!/bin/sh
case " $* " in
*" image pull "*) ;;
*) exec '${binary}.real' "$@" ;;
esac
for reference in "$@"; do :; done
say() { echo "$(date +%s%N) $1 $$ ${name} $reference" >>'${log}'; }
say begin
'${binary}.real' "$@"
code=$?
say end
exit $code
`,
    );
    await chmod(binary, 0o755);
  }
  const pulls = async (): Promise<Pull[]> => {
    const found = new Map<string, Pull>();
    for (const line of (await readFile(log, 'utf8')).split('\n').filter(Boolean)) {
      const [at = '', what, pid, node = '', reference = ''] = line.split(' ');
      const ms = Number(BigInt(at) / 1000n) / 1000;
      const key = `${pid} ${node} ${reference}`;
      if (what === 'begin') found.set(key, { node, reference, beganAt: ms, endedAt: null });
      else Object.assign(found.get(key) ?? {}, { endedAt: ms });
    }
    return [...found.values()].sort((a, b) => a.beganAt - b.beganAt);
  };
  return { pulls, clear: async () => await writeFile(log, '') };
}

/** The most pulls that were at work at once. */
export function mostAtOnce(pulls: Pull[]): number {
  const changes = pulls.flatMap(({ beganAt, endedAt }) => [
    { at: beganAt, by: 1 },
    ...(endedAt === null ? [] : [{ at: endedAt, by: -1 }]),
  ]);
  let now = 0;
  let most = 0;
  for (const { by } of changes.sort((a, b) => a.at - b.at || a.by - b.by)) most = Math.max(most, (now += by));
  return most;
}
