import { defineConfig } from 'vitest/config';

/** `unit` needs nothing but Node; `fleet` starts real servers and processes, one fleet per file. */
export default defineConfig({
  test: {
    root: new URL('..', import.meta.url).pathname,
    projects: [
      {
        extends: true,
        test: { name: 'unit', include: ['test/{unit,properties,lint}/**/*.test.ts'], testTimeout: 30_000 },
      },
      {
        extends: true,
        test: {
          name: 'fleet',
          include: ['test/{commands,faults,scenarios,conformance,fleet,bench}/**/*.test.ts'],
          pool: 'forks',
          maxWorkers: 4, // on two cores: half of their time they wait for servers
          sequence: { groupOrder: 1 }, // after the unit tests, which take all there is
          testTimeout: 120_000,
          hookTimeout: 120_000,
        },
      },
    ],
  },
});
