/** What the help says beside the tables of options: in which group an option stands, what holds where it is not given, and examples. */

/** Groups in their order, with the long names of their options. One that no group names stands in the last. */
export const GROUPS: [title: string, options: string[]][] = [
  ['which', ['config', 'node', 'image', 'snapshot', 'shard']],
  ['look', ['deep', 'stream', 'clone', 'concurrency', 'min-ready']],
  ['change', ['dry-run', 'repair', 'canary', 'max-pulls', 'max-failures']],
  ['time', ['timeout', 'until', 'lock-timeout', 'no-wait', 'grace']],
  ['print', ['output', 'verbose', 'quiet', 'log-level', 'color']],
];

/** What holds where neither the command line nor the config says anything. */
export const DEFAULTS: Record<string, string> = {
  canary: '1',
  clone: 'files',
  concurrency: '128',
  'max-failures': '10%',
  'max-pulls': '4',
  'min-ready': '100%',
  output: 'table',
  timeout: '2h',
};

/** Three of each command, from the story that the README tells. */
export const EXAMPLES: Record<string, [string, string, string]> = {
  run: ['reconcile --dry-run', 'reconcile -w cocoonset-node-2', 'reconcile -i simular/win11 --repair replace'],
  gate: [
    'reconcile gate sets/win.yaml',
    'reconcile gate -s simular/win11-hot-testing:v1-20260509',
    'reconcile gate -o junit --min-ready 90% sets/ > gate.xml',
  ],
  digest: [
    'reconcile digest simular/win11',
    'reconcile digest simular/win11:v2 -o json',
    'reconcile digest --no-stream a/b',
  ],
  nodes: ['reconcile nodes', 'reconcile nodes -w @gpu', 'reconcile nodes -o json -c <(sops -d reconcile.yaml)'],
  merge: [
    'reconcile merge shard-*.json',
    'reconcile merge -o json a.json b.json',
    'reconcile merge -o markdown *.json',
  ],
};
