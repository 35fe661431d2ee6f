/** The program: flags, dispatch, signals and the exit code. Nothing else touches `process`, but for its version (`bytecode.ts`). */
import { readFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { fault } from '../core/errors.ts';
import type { Signal } from '../core/report.ts';
import { parseArgs } from './args.ts';
import type { Command } from './commands.ts';
import type { Io, Tool } from './io.ts';

const FATAL: Record<Signal, number> = { SIGHUP: 129, SIGINT: 130, SIGTERM: 143 };

/** Signals end the run in order; a second one ends the program at once. */
function watchSignals(): Pick<Io, 'interrupted' | 'interruptedBy'> {
  const controller = new AbortController();
  let first: Signal | null = null;
  for (const signal of Object.keys(FATAL) as Signal[]) {
    process.on(signal, () => {
      if (first !== null) process.exit(FATAL[first]);
      first = signal;
      controller.abort(fault('INTERRUPTED', { signal }));
    });
  }
  return { interrupted: controller.signal, interruptedBy: () => first };
}

/** A reader that went away (`| head`) ends the output and not the run. */
function write(stream: NodeJS.WriteStream): (text: string) => void {
  stream.on('error', () => undefined);
  return (text) => stream.write(text);
}

async function dispatch(command: Command, io: Io, tool: Tool): Promise<number> {
  switch (command.name) {
    case 'text':
      io.out(command.text);
      return 0;
    case 'run':
      return await (await import('./run.ts')).runCommand(command, io, tool);
    case 'gate':
      return await (await import('./gate.ts')).gateCommand(command, io, tool);
    case 'digest':
      return await (await import('./inspect.ts')).digestCommand(command, io, tool);
    case 'nodes':
      return await (await import('./inspect.ts')).nodesCommand(command, io, tool);
  }
}

async function main(): Promise<number> {
  const io: Io = {
    env: process.env,
    home: homedir(),
    stdoutIsTerminal: process.stdout.isTTY,
    stderrIsTerminal: process.stderr.isTTY,
    out: write(process.stdout),
    err: write(process.stderr),
    stdin: () => process.stdin,
    ...watchSignals(),
  };
  const { name, version } = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8')) as Tool;
  const argv = process.argv.slice(2);
  try {
    return await dispatch(parseArgs(argv, version), io, { name, version });
  } catch (error) {
    return await (await import('./print.ts')).printFailure(error, argv, io, { name, version });
  }
}

process.exitCode = 1; // of a program that ends before it is done
void main().then((code) => {
  // Whatever a library still holds open must not keep a finished run alive.
  process.stdout.write('', () => process.stderr.write('', () => process.exit(code)));
});
