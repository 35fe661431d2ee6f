/** What to do: each cause once with all its places, and each remedy once. */
import { clip } from '../core/text.ts';
import type { LeftoverRow, NodeReport } from '../core/model/report.ts';
import { groupBy, limited, type Paint } from './layout.ts';
import { isProblem, type Problem } from './problems.ts';
import { rowsOf, subjectOf, where, withoutNode, type Row } from './summary-line.ts';

/** Pieces of advice, and the causes that are named above one remedy. */
const MAX_ADVICE = 20;
const MAX_CAUSES = 3;

/** What is to be said of one row or node: the cause, and what a person can do about it. */
interface Advice {
  subject: string;
  node: string;
  said: string;
  hint: string | null;
  commands: string[];
}

/** All that is to be said of the problems, of what will be one later, of leftovers and of nodes that were not read. */
export function adviceFor(problems: Problem[], observed: NodeReport[], unread: NodeReport[], paint: Paint): string {
  const all = [
    ...adviceOn(problems),
    ...warningsOn(observed),
    ...observed.flatMap(adviceOnLeftovers),
    ...unread.map(adviceOnNode),
  ];
  return advice(all, paint);
}

function adviceOnRow(node: string, row: Row): Advice {
  const said = row.error?.message ?? row.reason ?? '';
  return {
    subject: clip(subjectOf(row), 80),
    node,
    said: withoutNode(said, node),
    hint: row.error?.hint ?? null,
    commands: row.commands,
  };
}

function adviceOn(problems: Problem[]): Advice[] {
  return problems
    .flatMap(({ places }) => places)
    .filter(({ row }) => row.outcome !== 'healed')
    .map(({ node, row }) => adviceOnRow(node, row));
}

/** Rows that are in order, with an error that will hurt later. */
function warningsOn(nodes: NodeReport[]): Advice[] {
  return nodes.flatMap((node) =>
    rowsOf(node)
      .filter((row) => row.error !== null && !isProblem(row))
      .map((row) => adviceOnRow(node.name, row)),
  );
}

/** What a dead run left and is still there. */
function adviceOnLeftovers({ name, leftovers }: NodeReport): Advice[] {
  return leftovers
    .filter(({ outcome }) => outcome !== 'tidied')
    .map((left) => ({
      subject: '',
      node: name,
      said: withoutNode(left.error?.message ?? `${LEFT[left.kind]} of an earlier run is there (${left.name})`, name),
      hint: left.error?.hint ?? (left.outcome === null ? 'a run tidies that' : 'it is left to the run at work there'),
      commands: [],
    }));
}

export const LEFT: Record<LeftoverRow['kind'], string> = {
  'canary-vm': 'the canary VM',
  'blob-aside': 'a bad blob, set aside,',
  import: 'the content of an import',
};

function adviceOnNode({ name, error }: NodeReport): Advice {
  return {
    subject: '',
    node: name,
    said: withoutNode(error?.message ?? '', name),
    hint: error?.hint ?? null,
    commands: [],
  };
}

/** Each cause once with all its places, and below the causes that share it the same remedy once. */
function advice(all: Advice[], paint: Paint): string {
  const remedies = groupBy(
    all.filter(({ said }) => said !== ''),
    ({ hint, commands }) => [hint, ...commands],
  );
  const blocks = remedies.map((group) => {
    const [{ hint, commands }] = group;
    const causes = groupBy(group, ({ subject, said }) => [subject, said]).map((alike) => ({
      ...alike[0],
      nodes: where(
        alike.map(({ node }) => node),
        60,
      ),
    }));
    const lines = groupBy(causes, ({ nodes, said }) => [nodes, said]).map((alike) => {
      const subjects = limited([...new Set(alike.map(({ subject }) => subject))], 3).filter(Boolean);
      const place = [subjects.join(', '), alike[0].nodes].filter(Boolean).join(' on ');
      return `${paint('bold', place)}: ${clip(alike[0].said, 600)}`;
    });
    return [
      ...limited(lines, hint === null && commands.length === 0 ? MAX_ADVICE : MAX_CAUSES),
      ...(hint === null ? [] : [`  → ${clip(hint, 500)}`]),
      ...commands.map((command) => `  $ ${clip(command, 500)}`),
    ].join('\n');
  });
  return limited(blocks, MAX_ADVICE).join('\n');
}
