/** What a gate says no to, as GitHub shows it in the lines of a pull request: workflow commands, one a line. */
import { fold } from '../core/nodeset.ts';
import { clip } from '../core/text.ts';
import type { Report } from '../core/model/report.ts';

/** GitHub shows so many of one step. */
const MAX_ANNOTATIONS = 10;

/** @returns lines `::error file=…,line=…::…`, ten at most; empty where nothing is to be said */
export function renderAnnotations({ gate }: Report): string {
  if (gate === null) return '';
  const refused = gate.errors.map(({ source, error }) => annotation(source, `${error.message} (${error.hint})`));
  const blocked = gate.questions
    .filter(({ outcome }) => outcome !== 'pass')
    .map(({ source, image, nodes }) => {
      const short = nodes.filter(({ answer }) => answer !== 'yes');
      const codes = [...new Set(short.map(({ reasonCode }) => reasonCode))].join(', ');
      const reason = short[0] === undefined ? '' : `: ${short[0].reason}`;
      return annotation(source, `${image} cannot start on ${fold(short.map(({ node }) => node))} (${codes})${reason}`);
    });
  return [...new Set([...refused, ...blocked])].slice(0, MAX_ANNOTATIONS).join('');
}

function annotation(source: string, message: string): string {
  const place = /^(.+):(\d+)$/s.exec(source);
  const property = place === null ? '' : ` file=${inProperty(place[1] ?? '')},line=${place[2]}`;
  return `::error${property}::${inMessage(clip(message, 1000))}\n`;
}

function inMessage(text: string): string {
  return text.replaceAll('%', '%25').replaceAll('\r', '%0D').replaceAll('\n', '%0A');
}

function inProperty(text: string): string {
  return inMessage(clip(text, 300)).replaceAll(':', '%3A').replaceAll(',', '%2C');
}

/** Text of which no line is a workflow command: GitHub would carry out what a manifest or a node says. */
export function withoutCommands(text: string): string {
  return text.replaceAll(/^(\s*):(?=:)/gm, '$1: ').replaceAll(/##(?=\[)/g, '# #');
}
