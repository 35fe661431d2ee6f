/** The shape of the config file: every key that is built, with its default. The JSON Schema is generated from it. */
import * as z from 'zod';
import { ReconcileError } from '../core/errors.ts';
import { expand } from '../core/nodeset.ts';
import { isUrl, parseImageName, parseSnapshotName } from '../core/reference.ts';
import { parseDuration, parseSize } from '../core/text.ts';

/** A config is read once: to compile a parser for it takes longer than it saves. */
z.config({ jitless: true });

/** A timer of Node.js that is set further ahead than this fires at once. */
const MAX_DURATION_MS = 24 * 86_400_000;

/** Of a node name or address, ranges included. */
const MAX_NAME_CHARS = 4096;

/** Keys of the interface that are not built: refused by name. List items are written `[]`. */
export const NOT_BUILT: ReadonlySet<string> = new Set([
  'rollout.gc',
  'accept',
  'gate.registries',
  'gate.observed',
  'run.keep',
]);

// ------------------------------------------------------------------------------------------------ values

const duration = z
  .string({
    error: ({ input }) => (typeof input === 'number' ? `must be a duration with a unit, such as ${input}s` : undefined),
  })
  .regex(/^(\d+(\.\d+)?(ms|s|m|h|d))+$/, { error: 'must be a duration such as 500ms, 10s or 1h30m', abort: true })
  .refine((text) => (parseDuration(text) ?? 0) > 0, { error: 'must be longer than 0' })
  .refine((text) => (parseDuration(text) ?? 0) <= MAX_DURATION_MS, { error: 'must be at most 24 days' })
  .transform((text) => parseDuration(text) as number);

/** A duration that may be none: `0s`. */
const period = z.union([z.literal('0s').transform(() => 0), duration], {
  error: 'must be a duration such as 0s, 10s or 1h30m',
});

const SIZE_WORDS = 'must be a size such as 500MB or 5GiB';
const sizeText = z
  .string()
  .regex(/^\d+(\.\d+)?\s*(kB|KB|MB|GB|TB|[KMGT]iB|B)?$/, { error: SIZE_WORDS, abort: true })
  .refine((text) => Number.isSafeInteger(parseSize(text)), { error: 'is larger than any disk' });
const size = z
  .union([sizeText, z.int().min(0)], { error: SIZE_WORDS })
  .transform((value) => (typeof value === 'number' ? value : (parseSize(value) as number)));

const limit = z
  .union(
    [z.int().min(0), z.string().regex(/^(\d{1,2}|100)%$/, { error: 'must be a whole number or a share up to 100%' })],
    {
      error: 'must be a whole number or a share such as 10%',
    },
  )
  .transform((value) =>
    typeof value === 'number' ? { value, percent: false } : { value: Number(value.slice(0, -1)), percent: true },
  );

const minReady = limit.refine(({ value }) => value > 0, { error: 'must be at least 1, or 1%' });

/** `values` are built; `later` are in the interface but not built, and refused by name. */
function choice<const V extends string>(values: readonly V[], later: readonly string[] = []) {
  return z.enum(values, {
    error: ({ input }) =>
      typeof input === 'string' && later.includes(input) ? `${input} is not built yet` : undefined,
  });
}

const word = z.string().regex(/^[^\s\p{C}]+$/u, { error: 'must be one word without spaces or control characters' });
const argument = z.string().regex(/^\P{Cc}*$/u, { error: 'must not hold control characters' });
const glob = z.string().regex(/^[^\p{C}]+$/u, { error: 'must be a pattern without control characters' });

const file = z
  .string()
  .regex(/^(?!~[^/])\P{Cc}+$/u, { error: 'must be a path; of the forms with ~ only ~/… is understood' });
const files = z
  .union([file, z.array(file)], { error: 'must be a path or a list of paths' })
  .transform((value) => (typeof value === 'string' ? [value] : value));

/** A path on a node: absolute, without a trailing or doubled slash. */
const nodeDir = z
  .string()
  .regex(/^\/+[^/\p{Cc}]\P{Cc}*$/u, { error: 'must be an absolute path on the node, other than /' })
  .transform((text) => text.replace(/\/+/g, '/').replace(/\/$/, ''));

const binary = z
  .string()
  .regex(/^(\/\P{Cc}+|[^-/~\s\p{C}][^/\s\p{C}]*)$/u, { error: 'must be the name of a program or an absolute path' });

const user = z
  .string()
  .regex(/^[^-\s\p{C}@:][^\s\p{C}@:]*$/u, { error: 'must be a user name: one word that does not begin with "-"' });

const hostKeyChecking = z.enum(['yes', 'accept-new'], {
  error: ({ input }) =>
    input === 'no' || input === false ? 'there is no "no": host keys are always checked' : 'must be yes or accept-new',
});

const HOP = String.raw`([^-\s\p{C}@:,][^\s\p{C}@:,]*@)?(\[[0-9A-Fa-f:.]+(%\w+)?\]|[^-\s\p{C}@:,[\]][^\s\p{C}@:,[\]]*)(:\d{1,5})?`;
const proxyJump = z
  .string()
  .regex(new RegExp(`^${HOP}(,${HOP})*$`, 'u'), {
    error: 'must be [user@]host[:port], several of them with commas between, or none',
  })
  .transform((text) => (text.toLowerCase() === 'none' ? [] : text.split(',')));

const sudo = z.union([z.literal('auto'), z.boolean()], { error: 'must be auto, true or false' });
const pools = z.array(word).min(1);

/** epoch's address, its trailing slashes removed. Its text is the beginning of references, so it is kept as written. */
export const epochUrl = z
  .string()
  .superRefine((text, context) => {
    const problem = urlProblem(text);
    if (problem !== null) context.addIssue({ code: 'custom', message: problem });
  })
  .transform((text) => text.replace(/\/+$/, ''));

function urlProblem(text: string): string | null {
  if (!/^https?:\/\/[^/]/.test(text) || !URL.canParse(text) || /[\s\p{C}\\]/u.test(text)) {
    return 'must be an address that begins with https:// or http://';
  }
  if (/^https?:\/\/[^/?#]*@/.test(text)) return 'must not hold a user or password: use epoch.tokenFile';
  return /[?#]/.test(text) ? 'must end before any "?" or "#"' : null;
}

// ------------------------------------------------------------------------------------------------- nodes

/** What `expand` says, or null where the text is sound. */
function rangeProblem(text: string): string | null {
  try {
    expand(text);
    return null;
  } catch (error) {
    if (error instanceof ReconcileError) return error.message;
    throw error;
  }
}

function nodeNameProblem(text: string): string | null {
  if (text === '') return 'must not be empty';
  if (text.length > MAX_NAME_CHARS) return `must have at most ${MAX_NAME_CHARS} characters`;
  if (/[\s\p{C}]/u.test(text)) return 'must not hold spaces or control characters';
  if (/^[-!@]/.test(text)) return `must not begin with "${text[0]}"`;
  if (/[*?]/.test(text)) return 'must be a name or a range such as node[1-20], no pattern';
  if (text.replace(/\[[^\]]*\]/g, '').includes(','))
    return 'must be one name or range: write each in an item of its own';
  return rangeProblem(text);
}

function hostProblem(text: string): string | null {
  if (text === '') return 'must not be empty';
  if (text.length > MAX_NAME_CHARS) return `must have at most ${MAX_NAME_CHARS} characters`;
  if (/[\s\p{C}]/u.test(text)) return 'must not hold spaces or control characters';
  if (text.startsWith('-')) return 'must not begin with "-"';
  if (text.includes('@')) return 'must not hold a user: use the key user';
  if (/^\[.*:.*\]/.test(text)) return 'must be an IPv6 address without brackets; the port has a key of its own';
  if (/^[^:]*:\d*$/.test(text)) return 'must not hold a port: use the key port';
  return rangeProblem(text);
}

function checked(problemOf: (text: string) => string | null) {
  return z.string().superRefine((text, context) => {
    const problem = problemOf(text);
    if (problem !== null) context.addIssue({ code: 'custom', message: problem });
  });
}

const nodeName = checked(nodeNameProblem);

const port = z.int().min(1).max(65535);

const nodeObject = z
  .strictObject({
    name: nodeName.describe('The name in reports; a range such as node[1-20] stands for several nodes.'),
    host: checked(hostProblem).optional().describe('The address; as many as the name has. Default: the name.'),
    pool: word.optional().describe('Default: default.'),
    user: user.optional(),
    port: port.optional(),
    identityFile: files.optional(),
    knownHostsFile: files.optional(),
    strictHostKeyChecking: hostKeyChecking.optional(),
    proxyJump: proxyJump.optional(),
    connectTimeout: duration.optional(),
    binary: binary.optional(),
    rootDir: nodeDir.optional(),
    runDir: nodeDir.optional(),
    logDir: nodeDir.optional(),
    sudo: sudo.optional(),
  })
  .superRefine(({ name, host }, context) => {
    if (host === undefined || nodeNameProblem(name) !== null || hostProblem(host) !== null) return;
    const [names, hosts] = [expand(name).length, expand(host).length];
    if (names === hosts) return;
    context.addIssue({ code: 'custom', path: ['host'], message: `stands for ${hosts} but the name for ${names}` });
  });

/** One item of a node list as the schema gives it back; a bare name has become a map. */
export type ConfigNode = z.output<typeof nodeObject>;

const nodeItem = z.union([nodeName.transform((name): ConfigNode => ({ name })), nodeObject], {
  error: 'must be a name, or a map with a name',
});

/** The list of an inventory file or command, the same as `nodes` of the config. */
export const nodeListSchema = z.array(nodeItem);

// ------------------------------------------------------------------------------------------------ images

const trackedImage = z
  .strictObject({
    image: checked((text) => {
      if (isUrl(text)) return 'must be a repository such as simular/win11, no URL';
      return parseImageName(text) === null ? 'must be REPO, REPO:TAG or REGISTRY/REPO:TAG in lower case' : null;
    }).describe(
      'A repository at epoch, or with a registry before it (a first component with a dot, a colon or localhost) an OCI image.',
    ),
    tag: z
      .string()
      .regex(/^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$/, {
        error: 'must be a tag: letters, digits, dot, dash and underscore',
      })
      .optional()
      .describe('Default: latest.'),
    presence: choice(['required', 'if-present'])
      .default('if-present')
      .describe('required: pull where absent. if-present: leave nodes alone that lack it.'),
    reference: word
      .regex(/^[^-]/, { error: 'must not begin with "-"' })
      .optional()
      .describe('The key in the index of the nodes, where it differs from the usual one.'),
    pools: pools.optional().describe('Default: all. In any other pool this item counts for nothing.'),
  })
  .superRefine(({ image, tag }, context) => {
    if (tag === undefined || (parseImageName(image)?.tag ?? null) === null) return;
    context.addIssue({ code: 'custom', path: ['tag'], message: `the image ${image} names a tag already` });
  });

const snapshotName = checked((text) =>
  parseSnapshotName(text) === null ? 'must be a snapshot such as REPO:TAG' : null,
);

const trackedSnapshot = z.strictObject({
  snapshot: snapshotName.describe('REPO:TAG'),
  pools: pools.optional().describe('Default: all. In any other pool this item counts for nothing.'),
});

/** Refuses a second item of the same name for the same pool: which of the two would count? */
function refuseTwice<T extends { pools?: string[] | undefined }>(nameOf: (item: T) => string) {
  return (items: T[], context: z.RefinementCtx<T[]>): void => {
    const names = items.map(nameOf);
    for (const [i, item] of items.entries()) {
      const first = items.findIndex((other, k) => names[k] === names[i] && shareAPool(other.pools, item.pools));
      if (first === i || first === -1) continue;
      context.addIssue({ code: 'custom', path: [i], message: `${names[i]} is tracked by item [${first}] already` });
    }
  };
}

function shareAPool(a: string[] | undefined, b: string[] | undefined): boolean {
  return a === undefined || b === undefined || a.some((pool) => b.includes(pool));
}

/** `repo`, `registry/repo` → with its tag, however it was written. */
function imageKey({ image, tag }: z.output<typeof trackedImage>): string {
  const name = parseImageName(image);
  return name === null || name.tag !== null ? image : `${image}:${tag ?? 'latest'}`;
}

function snapshotKey({ snapshot }: z.output<typeof trackedSnapshot>): string {
  const name = parseSnapshotName(snapshot);
  return name === null ? snapshot : `${name.repository}:${name.tag}`;
}

// ------------------------------------------------------------------------------------------- the file

const epoch = z.strictObject({
  url: epochUrl.optional().describe('The address of epoch. Default: $EPOCH_URL.'),
  aliases: z
    .array(epochUrl)
    .default([])
    .describe(
      'Other addresses of the same epoch, as nodes have them in their index: entries there count as those of url.',
    ),
  tokenFile: file.optional().describe('A file that holds a token. Default: $EPOCH_TOKEN or $EPOCH_REGISTRY_TOKEN.'),
  caFile: file.optional().describe('PEM certificates of the CA that signed that of epoch. Default: $EPOCH_CA_CERT.'),
  timeout: duration.prefault('10s').describe('Deadline of one request.'),
  retries: z.int().min(0).max(20).default(3),
  waitFor: period.prefault('0s').describe('How long a run waits for an epoch that does not answer, as in an upgrade.'),
});

const inventory = z.strictObject({
  file: file.optional().describe('A node list or an Ansible inventory (JSON) in a file of its own; - is stdin.'),
  command: z
    .array(argument)
    .min(1)
    .refine(([program]) => program !== '', { error: 'must begin with the name of a program' })
    .optional()
    .describe(
      'A program and its arguments that prints a node list as JSON, a Kubernetes NodeList or an Ansible inventory.',
    ),
});

/** Where a key is left out the ssh config is asked first, so that the defaults are no part of the schema. */
const ssh = z.strictObject({
  user: user.optional().describe('Default: root.'),
  port: port.optional().describe('Default: 22.'),
  identityFile: files.optional().describe('Private keys. Default: the usual ones in ~/.ssh; the agent is asked too.'),
  knownHostsFile: files
    .optional()
    .describe('Default: ~/.ssh/known_hosts and known_hosts2; those in /etc/ssh count besides.'),
  strictHostKeyChecking: hostKeyChecking
    .default('yes')
    .describe('accept-new: the key of a host that is not known yet is added. There is no "no".'),
  configFile: file
    .optional()
    .describe('Read as ssh does, for all that is not said here. Default: ~/.ssh/config; none: no such file.'),
  proxyJump: proxyJump
    .optional()
    .describe('[user@]host[:port] to log in to on the way, several with commas between; none: go there directly.'),
  connectTimeout: duration.optional().describe('Default: 10s.'),
  concurrency: z.int().min(1).max(10_000).default(128).describe('Nodes connected at once.'),
});

const cocoon = z.strictObject({
  binary: binary.default('cocoon'),
  rootDir: nodeDir.prefault('/var/lib/cocoon'),
  runDir: nodeDir.optional().describe('Passed on to cocoon only when set.'),
  logDir: nodeDir.optional().describe('Passed on to cocoon only when set.'),
  sudo: sudo.default('auto').describe('auto: when the user is not root.'),
});

const images = z.strictObject({
  discover: z.boolean().default(true).describe('Track every image of epoch that a node has in its index.'),
  track: z.array(trackedImage).superRefine(refuseTwice(imageKey)).prefault([]),
  ignore: z.array(glob).default([]).describe('Globs over the reference and over REPO:TAG; in no report.'),
  stream: z
    .boolean()
    .default(true)
    .describe(
      'Read the parts of a split image once to learn its content digest; with false each node proves for itself what it holds.',
    ),
});

const snapshots = z.strictObject({
  track: z.array(trackedSnapshot).superRefine(refuseTwice(snapshotKey)).prefault([]),
  discover: z.boolean().default(true).describe('Judge the snapshots that are found on nodes too.'),
  ignore: z.array(glob).default([]).describe('Globs over REPO:TAG; in no report.'),
});

const verify = z.strictObject({
  blob: choice(['presence', 'size', 'sha256'])
    .default('size')
    .describe('How closely blobs are looked at; sha256 hashes them on the node, at idle priority.'),
  clone: choice(['none', 'files', 'vm']).default('files').describe('How clones are verified after a pull.'),
  vm: z
    .strictObject({
      snapshot: snapshotName.optional().describe('Default: every tracked snapshot whose base was just healed.'),
      timeout: duration.prefault('3m'),
      nodes: choice(['canary', 'healed']).default('canary'),
      extraArgs: z.array(argument).default([]).describe('For `cocoon vm clone`.'),
    })
    .prefault({}),
});

const rollout = z.strictObject({
  canary: z.int().min(0).default(1).describe('Nodes that must be healed before any other is touched, per image.'),
  maxPulls: z.int().min(1).default(4).describe('Pulls at once over the whole fleet.'),
  maxFailures: limit.prefault('10%').describe('A count, or a share of the planned actions, rounded up.'),
  pullTimeout: duration.prefault('35m'),
  pullRetries: z.int().min(0).max(20).default(1),
  minFreeBytes: size.prefault('5GiB').describe('Kept free on the node after the pull.'),
  bandwidth: size
    .refine((bytes) => bytes > 0, { error: 'must be more than 0' })
    .optional()
    .describe('Bytes per second that the pulls of the whole fleet may take together. Default: no limit.'),
  lockTimeout: period.prefault('0s').describe('How long to wait for a node, or a run, that another holds.'),
  minAge: period.prefault('0s').describe('A newer push than this waits, unless something is broken without it.'),
  grace: period.prefault('30s').describe('How long what runs may go on after SIGINT or SIGTERM.'),
});

const repair = z.strictObject({
  corruptBlobs: choice(['report', 'replace'])
    .default('report')
    .describe('replace: set the bad file aside, pull, verify, then remove it.'),
  restoreBases: choice(['report', 'restore'])
    .default('report')
    .describe('restore: pull bases that snapshots pin by a reference that names exactly that content.'),
});

const gate = z.strictObject({
  minReady: minReady.prefault('100%').describe('Nodes per image and pool that must be ready: a count, or a share.'),
  require: choice(['start', 'in-sync'])
    .default('start')
    .describe('in-sync: what would start from other content than epoch serves now is a no.'),
});

export const configSchema = z
  .strictObject({
    epoch: epoch.prefault({}),
    nodes: nodeListSchema.prefault([]).describe('Names, ranges such as node[1-20], or maps.'),
    inventory: inventory.prefault({}),
    ssh: ssh.prefault({}),
    cocoon: cocoon.prefault({}),
    images: images.prefault({}),
    snapshots: snapshots.prefault({}),
    verify: verify.prefault({}),
    rollout: rollout.prefault({}),
    repair: repair.prefault({}),
    gate: gate.prefault({}),
    run: z
      .strictObject({
        timeout: duration
          .prefault('2h')
          .describe('Deadline of the whole run: half of it for reading nodes, three quarters for all verdicts.'),
        stateDir: file.optional().describe('What was learned once is kept here. Default: /var/lib/cocoon-reconcile.'),
        sharedDir: file
          .optional()
          .describe('Where the shards of one run meet: a directory that all can write. Default: within stateDir.'),
      })
      .prefault({}),
  })
  .meta({ patternProperties: { '^x-': { description: 'Holds anchors for aliases and merge keys.' } } });

/** The config file after defaults: paths and environment are not resolved yet. */
export type Config = z.output<typeof configSchema>;
