// What a command is given, and how it answers.
import type { Config, Layout } from './config.ts';
import { writeOut } from './log.ts';
import { goJson, table } from './text.ts';

export interface Invocation {
  config: Config;
  layout: Layout;
  args: string[];
  /** Flags that were given, and the defaults of the others; repeated ones are joined by newlines. */
  flags: Map<string, string>;
}

/** Writes to stdout. */
export function print(text: string): void {
  writeOut(1, text);
}

/** Two blanks of indent and a final newline, as every JSON answer has. */
export function printJson(value: unknown): void {
  print(`${goJson(value, 2)}\n`);
}

/** A list in the format that `--format` asks for; anything but `json` is a table. */
export function printList(call: Invocation, items: unknown[], header: string[], row: (item: never) => string[]): void {
  if (call.flags.get('format') === 'json') printJson(items);
  else print(table([header, ...items.map((item) => row(item as never))]));
}

export function wantsJson(call: Invocation): boolean {
  return call.flags.get('output') === 'json';
}

export function flag(call: Invocation, name: string): string {
  return call.flags.get(name) ?? '';
}

export function isSet(call: Invocation, name: string): boolean {
  return call.flags.get(name) === 'true';
}
