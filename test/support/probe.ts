// Answers of the probe as texts in which each character is a byte, so that they can be changed at random.
import { FIRST_SCOPE, parseProbe, type Scope } from '../../src/node/read.ts';
import { createAnswerReader } from '../../src/node/answer/stream.ts';
import type { Node } from '../../src/core/model/node.ts';
import type { Observed } from '../../src/core/model/observed.ts';

export const NONCE = 'c0ffee00c0ffee00';

/** Text → its bytes in UTF-8, each a character. */
export function bytesOf(text: string): string {
  return Buffer.from(text).toString('latin1');
}

/** The beginning of a file as `head -v` writes it. */
export function head(name: string, content: Buffer | string): string {
  return `==> ${name} <==\n${Buffer.from(content as string, 'hex').toString('latin1')}`;
}

/** A qcow2 file that is all header, with the path of its backing file at its end. */
export function qcow2(backing = ''): Buffer {
  const path = Buffer.from(backing);
  const header = Buffer.alloc(512);
  header.writeUInt32BE(0x514649fb, 0);
  header.writeUInt32BE(3, 4);
  if (backing !== '') {
    header.writeBigUInt64BE(512n, 8);
    header.writeUInt32BE(path.length, 16);
  }
  return Buffer.concat([header, path]);
}

/** What a whole answer says, with what to ask for once more; it comes in pieces of so many bytes. */
export function understood(
  answer: string,
  node: Node,
  { stderr = '', pieceBytes = answer.length }: { stderr?: string; pieceBytes?: number } = {},
): { observed: Observed; wider: Scope | null } {
  const reader = createAnswerReader(NONCE, node, FIRST_SCOPE.headBytes);
  const bytes = Buffer.from(answer, 'latin1');
  for (let at = 0; at < bytes.length; at += pieceBytes) reader.push(bytes.subarray(at, at + pieceBytes));
  const steps = parseProbe(reader, node, FIRST_SCOPE, stderr);
  for (;;) {
    const step = steps.next();
    if (step.done === true) return step.value;
  }
}

/** What a whole answer says; it needs nothing that it does not hold. */
export function parse(answer: string, node: Node): Observed {
  return understood(answer, node).observed;
}
