// What still runs on a node.
import { readFile } from 'node:fs/promises';
import { marked } from '../fleet/sshd.ts';
import type { FleetNode } from '../fleet/world.ts';

/** The command lines on a node that have the word `pull` for themselves: pulls, and the guards over them. */
export async function pullsRunningOn({ dir }: FleetNode): Promise<string[][]> {
  const lines = await Promise.all(
    (await marked(dir)).map(async (pid) => await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')),
  );
  return lines.map((line) => line.split('\0')).filter((words) => words.includes('pull'));
}
