#!/usr/bin/env node
// A double of the `cocoon` command for tests: the layout on disk, the words, streams and exit codes of the real one.
// Which behaviours it has is listed, row by row, in test/conformance/cocoon.test.ts, which also runs against a true
// cocoon. What tests can ask of it through the environment:
//
//   COCOON_DOUBLE_GENERATION=N       behave as a release of mid 2026: SQLite store, changed flags and texts
//   COCOON_DOUBLE_VERSION=TEXT       what `cocoon version` says
//   COCOON_DOUBLE_KEEP_WAL=1         never checkpoint the SQLite store: leave `meta.db-wal` behind
//   COCOON_DOUBLE_COMMAND_LOG=FILE   append every command line to FILE as a JSON array
//   COCOON_DOUBLE_PULL_DELAY_MS=N    a pull that downloads takes so long (a signal ends it, cleaning up)
//   COCOON_DOUBLE_CLONE_DELAY_MS=N   a clone takes so long between its reservation and the guest's start
//   COCOON_DOUBLE_CLONE_ERROR=TEXT   the hypervisor refuses every clone with TEXT
//
// A cloned guest has no process: it counts as running while `ch.pid` in its run directory names a live one.
import { runCommand } from './cocoon/cli.ts';
import { catchSignals } from './cocoon/interrupt.ts';

catchSignals();
try {
  await runCommand(process.argv.slice(2));
} catch (error) {
  process.stderr.write(`Error: ${(error as Error).message}\n`);
  process.exitCode = 1;
}
