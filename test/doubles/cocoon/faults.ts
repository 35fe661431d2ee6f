// What tests can ask of the double through the environment; the list with its meaning stands in ../cocoon.ts.

const env = process.env;

function milliseconds(name: string): number {
  return Number(env[name] ?? 0);
}

export const faults = {
  newer: env['COCOON_DOUBLE_GENERATION'] === 'N',
  version: env['COCOON_DOUBLE_VERSION'],
  keepWal: env['COCOON_DOUBLE_KEEP_WAL'] === '1',
  commandLog: env['COCOON_DOUBLE_COMMAND_LOG'],
  pullDelay: milliseconds('COCOON_DOUBLE_PULL_DELAY_MS'),
  cloneDelay: milliseconds('COCOON_DOUBLE_CLONE_DELAY_MS'),
  cloneError: env['COCOON_DOUBLE_CLONE_ERROR'],
};
