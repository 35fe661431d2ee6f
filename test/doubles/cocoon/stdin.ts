// Input that is looked at before it is read to its end.

export interface Input {
  /** At least so many bytes from the beginning, fewer only where there are no more. */
  peek(length: number): Promise<Buffer>;
  /** Everything, with what was peeked at. */
  rest(): Promise<Buffer>;
}

/** Standard input. Waiting for it cannot be interrupted: cocoon goes on until the stream ends. */
export function stdin(): Input {
  const source = process.stdin[Symbol.asyncIterator]();
  const chunks: Buffer[] = [];
  const more = async (): Promise<boolean> => {
    const { value, done } = (await source.next()) as { value: Buffer; done: boolean };
    if (!done) chunks.push(value);
    return !done;
  };
  const read = () => Buffer.concat(chunks);
  return {
    peek: async (length) => {
      while (read().length < length && (await more()));
      return read();
    },
    rest: async () => {
      while (await more());
      return read();
    },
  };
}

/** Input that is all there. */
export function inputFrom(bytes: Buffer): Input {
  return { peek: async () => bytes, rest: async () => bytes };
}
