/** Finds the config, reads it and what it names, and turns it into settings. */
import { X509Certificate } from 'node:crypto';
import { stat } from 'node:fs/promises';
import { homedir } from 'node:os';
import { dirname, isAbsolute, join, resolve } from 'node:path';
import { fault } from '../core/errors.ts';
import { epochReference, parseImageName, parseSnapshotName } from '../core/reference.ts';
import { isAnsibleInventory, nodesOfAnsible } from '../core/ansible.ts';
import { ShapeError } from '../core/json.ts';
import { clip } from '../core/text.ts';
import { descriptorOf, nameOfInput, type Piped } from '../system/piped.ts';
import type { NodeSpec, Settings, SshSettings } from '../core/model/settings.ts';
import type { TrackedImage, TrackedSnapshot } from '../core/model/desired.ts';
import {
  invalid,
  joined,
  keyed,
  parseYaml,
  problemsOf,
  readOrThrow,
  readText,
  validate,
  words,
  type Env,
  type Problem,
  type Source,
} from './document.ts';
import { parsePlainList } from './plain-list.ts';
import { configSchema, epochUrl, nodeListSchema, type Config, type ConfigNode } from './schema.ts';

const MAX_TOKEN_BYTES = 64 * 2 ** 10;
const MAX_CA_BYTES = 2 ** 20;

// --------------------------------------------------------------------------------------------- the config

/**
 * The config file to use: `flag`, else `$RECONCILE_CONFIG`, else the first of the usual places that is there. Never one
 * in the working directory.
 * @throws ReconcileError CONFIG_INVALID where the named file, or every usual one, is not there
 */
export async function findConfig(flag: string | undefined, env: Env, home: string): Promise<string> {
  const named = flag ?? (env['RECONCILE_CONFIG'] || undefined);
  if (named !== undefined) {
    if (descriptorOf(named) === 0 || (named !== '' && (await exists(named)))) return named;
    const by = flag === undefined ? '$RECONCILE_CONFIG' : '--config';
    throw fault('CONFIG_INVALID', { problem: `${by}: the file "${named}" does not exist` });
  }
  const places = [join(home, '.config/cocoon/reconcile.yaml'), '/etc/cocoon/reconcile.yaml'];
  for (const place of places) if (await exists(place)) return place;
  throw fault('CONFIG_INVALID', {
    problem: `no config file: neither ${places.join(' nor ')} exists`,
    hint: 'name one with --config or $RECONCILE_CONFIG; one in the working directory is never taken unasked',
  });
}

/** False only where nothing is there; a file that cannot be read is found, and fails when it is read. */
async function exists(file: string): Promise<boolean> {
  try {
    await stat(file);
    return true;
  } catch (error) {
    return !['ENOENT', 'ENOTDIR'].includes((error as NodeJS.ErrnoException).code ?? '');
  }
}

/**
 * Reads the config file, and the token and CA that it or the environment names. Durations become ms, sizes bytes,
 * paths absolute (relative ones begin at the directory of the file).
 * @param piped where the config may come from in the place of a file
 * @throws ReconcileError CONFIG_INVALID that names every problem by line, column and key
 */
export async function loadConfig(file: string, env: Env, piped?: Piped): Promise<Settings> {
  const source = withoutAnchors(parseYaml(file, await readOrThrow(file, nameOfInput(file), piped), env));
  const config = validate(configSchema, source, urlProblems(source.data, env));
  const at = pathResolver(file, env);
  const problems: Problem[] = [];
  const token = await loadToken(config, env, at, problems);
  const ca = await loadCa(config, env, at, problems);
  const sshConfig = config.ssh.configFile;
  if (sshConfig !== undefined && sshConfig !== 'none' && !(await exists(at(sshConfig)))) {
    problems.push({ path: ['ssh', 'configFile'], message: `${at(sshConfig)} does not exist` });
  }
  if (problems.length > 0) throw invalid(source, problems);
  return settingsOf(config, { url: config.epoch.url ?? epochUrl.parse(env['EPOCH_URL']), token, ca }, at);
}

/** The keys `x-…` at the top hold anchors, and say nothing themselves. */
function withoutAnchors(source: Source): Source {
  const { data } = source;
  if (typeof data !== 'object' || data === null || Array.isArray(data)) return source;
  return { ...source, data: Object.fromEntries(Object.entries(data).filter(([key]) => !key.startsWith('x-'))) };
}

/**
 * Reads the node list of `inventory.file`, as `nodes` of a config file of its own, or an Ansible inventory.
 * @throws ReconcileError CONFIG_INVALID that names every problem by line, column and key
 */
export async function loadNodeList(file: string, env: Env, piped?: Piped): Promise<NodeSpec[]> {
  const named = nameOfInput(file);
  const text = await readOrThrow(file, `inventory.file: ${named}`, piped);
  const plain = nodeListSchema.safeParse(parsePlainList(text)); // where anything is wrong, the library knows the places
  if (plain.success) return plain.data.map((item) => nodeSpecOf(item, pathResolver(file, env)));
  const source = parseYaml(file, text, env);
  if (isAnsibleInventory(source.data)) return parseNodeList(ansibleNodes(source.data, named), named, file, env);
  const at = pathResolver(file, env);
  return validate(nodeListSchema, source).map((item) => nodeSpecOf(item, at));
}

/** @throws ReconcileError INVENTORY_FAILED */
function ansibleNodes(inventory: Record<string, unknown>, source: string): unknown[] {
  try {
    return nodesOfAnsible(inventory);
  } catch (error) {
    if (!(error instanceof ShapeError)) throw error;
    throw fault('INVENTORY_FAILED', { source, problem: clip(error.message, 400) }, error);
  }
}

/**
 * Judges a node list that a program printed. `${ENV}` is left alone in it, and relative paths begin at the directory
 * of `configFile`.
 * @throws ReconcileError INVENTORY_FAILED
 */
export function parseNodeList(value: unknown, source: string, configFile: string, env: Env): NodeSpec[] {
  const result = nodeListSchema.safeParse(value, { error: words });
  if (result.success) return result.data.map((item) => nodeSpecOf(item, pathResolver(configFile, env)));
  const problems = result.error.issues.flatMap((issue) => problemsOf(nodeListSchema, issue, []));
  throw fault('INVENTORY_FAILED', {
    source,
    problem: joined(problems.map(({ path, message }) => keyed(path, message))),
  });
}

/** `epoch.url` may come from the environment, so the schema cannot say that it is missing. */
function urlProblems(data: unknown, env: Env): Problem[] {
  const epoch = (data as { epoch?: { url?: unknown } } | null)?.epoch;
  if (epoch?.url !== undefined) return [];
  const fallback = env['EPOCH_URL'] || undefined;
  if (fallback === undefined) return [{ path: ['epoch', 'url'], message: 'is required, here or as $EPOCH_URL' }];
  const result = epochUrl.safeParse(fallback);
  return result.success ? [] : [{ path: null, message: `$EPOCH_URL ${result.error.issues[0]?.message}` }];
}

type PathResolver = (path: string) => string;

/**
 * `~/x` → in the home directory; a relative path → in the directory of the file that holds it. What came through a pipe lies
 * nowhere, and the working directory may be a stranger's: there a relative path is refused.
 */
function pathResolver(file: string, env: Env): PathResolver {
  const home = env['HOME'] || homedir();
  if (descriptorOf(file) !== null) {
    return (path) => {
      if (/^~(\/|$)/.test(path)) return join(home, path.slice(1));
      if (isAbsolute(path) || path === '-') return path;
      const problem = `${nameOfInput(file)}: "${path}" is a relative path, and what comes through a pipe lies in no directory`;
      throw fault('CONFIG_INVALID', { problem, hint: 'write it from / on, or from ~/ on' });
    };
  }
  const directory = dirname(resolve(file));
  return (path) => (/^~(\/|$)/.test(path) ? join(home, path.slice(1)) : resolve(directory, path));
}

async function loadToken(config: Config, env: Env, at: PathResolver, problems: Problem[]): Promise<string | null> {
  const { tokenFile } = config.epoch;
  const name = ['EPOCH_TOKEN', 'EPOCH_REGISTRY_TOKEN'].find((key) => env[key]);
  if (tokenFile === undefined && name === undefined) return null;
  const path = tokenFile === undefined ? null : ['epoch', 'tokenFile'];
  const read =
    tokenFile === undefined ? { text: env[name as string] as string } : await readText(at(tokenFile), MAX_TOKEN_BYTES);
  const where = tokenFile === undefined ? `$${name}` : at(tokenFile);
  if ('problem' in read) {
    problems.push({ path, message: `${where} ${read.problem}` });
    return null;
  }
  const token = read.text.trim();
  if (!/^[\x21-\x7e]+$/.test(token)) problems.push({ path, message: `${where} holds no token: one word is expected` });
  return token;
}

async function loadCa(config: Config, env: Env, at: PathResolver, problems: Problem[]): Promise<string | null> {
  const { caFile } = config.epoch;
  const named = env['EPOCH_CA_CERT'] || undefined;
  if (caFile === undefined && named === undefined) return null;
  const path = caFile === undefined ? null : ['epoch', 'caFile'];
  const file = caFile === undefined ? resolve(named as string) : at(caFile);
  const where = caFile === undefined ? `$EPOCH_CA_CERT: ${file}` : file;
  const read = await readText(file, MAX_CA_BYTES);
  const problem = 'problem' in read ? read.problem : isCertificate(read.text) ? null : 'holds no PEM certificate';
  if (problem !== null) problems.push({ path, message: `${where} ${problem}` });
  return 'text' in read ? read.text : null;
}

function isCertificate(text: string): boolean {
  try {
    return new X509Certificate(text).raw.length > 0;
  } catch {
    return false;
  }
}

// ----------------------------------------------------------------------------------------- into settings

function settingsOf(
  config: Config,
  epoch: { url: string; token: string | null; ca: string | null },
  at: PathResolver,
): Settings {
  const { ssh, cocoon, verify, rollout } = config;
  return {
    epoch: {
      ...epoch,
      aliases: config.epoch.aliases,
      timeoutMs: config.epoch.timeout,
      retries: config.epoch.retries,
      waitForMs: config.epoch.waitFor,
    },
    nodes: config.nodes.map((item) => nodeSpecOf(item, at)),
    inventory: {
      file:
        config.inventory.file === undefined || config.inventory.file === '-'
          ? (config.inventory.file ?? null)
          : at(config.inventory.file),
      command: config.inventory.command === undefined ? null : commandOf(config.inventory.command, at),
    },
    ssh: {
      ...sshSettingsOf(ssh, at),
      configFile: ssh.configFile === 'none' ? null : at(ssh.configFile ?? '~/.ssh/config'),
      home: at('~'),
      concurrency: ssh.concurrency,
    },
    cocoon: {
      binary: cocoon.binary,
      rootDir: cocoon.rootDir,
      runDir: cocoon.runDir ?? null,
      logDir: cocoon.logDir ?? null,
      sudo: cocoon.sudo,
    },
    images: {
      discover: config.images.discover,
      track: config.images.track.map((item) => trackedImageOf(item, epoch.url)),
      ignore: config.images.ignore,
      stream: config.images.stream,
    },
    snapshots: {
      discover: config.snapshots.discover,
      track: config.snapshots.track.map(trackedSnapshotOf),
      ignore: config.snapshots.ignore,
    },
    verify: {
      blob: verify.blob,
      clone: verify.clone,
      vm: {
        snapshot: verify.vm.snapshot === undefined ? null : snapshotNameOf(verify.vm.snapshot),
        timeoutMs: verify.vm.timeout,
        nodes: verify.vm.nodes,
        extraArgs: verify.vm.extraArgs,
      },
    },
    rollout: {
      canary: rollout.canary,
      maxPulls: rollout.maxPulls,
      maxFailures: rollout.maxFailures,
      pullTimeoutMs: rollout.pullTimeout,
      pullRetries: rollout.pullRetries,
      minFreeBytes: rollout.minFreeBytes,
      bandwidth: rollout.bandwidth ?? null,
      lockTimeoutMs: rollout.lockTimeout,
      minAgeMs: rollout.minAge,
      graceMs: rollout.grace,
    },
    repair: config.repair,
    gate: config.gate,
    run: {
      timeoutMs: config.run.timeout,
      stateDir: config.run.stateDir === undefined ? null : at(config.run.stateDir),
      sharedDir: config.run.sharedDir === undefined ? null : at(config.run.sharedDir),
    },
  };
}

/** A program named by a relative path lies beside the config, never in the working directory. */
function commandOf([program, ...rest]: string[], at: PathResolver): string[] {
  return [(program as string).includes('/') ? at(program as string) : (program as string), ...rest];
}

function nodeSpecOf(item: ConfigNode, at: PathResolver): NodeSpec {
  const { name, host, pool, binary, rootDir, runDir, logDir, sudo } = item;
  return { ...definedOf({ name, host, pool, binary, rootDir, runDir, logDir, sudo }), ...sshSettingsOf(item, at) };
}

/** The keys that `ssh` and a node's own entry have in common. */
function sshSettingsOf(item: Config['ssh'] | ConfigNode, at: PathResolver): SshSettings {
  return definedOf({
    user: item.user,
    port: item.port,
    identityFiles: item.identityFile?.map(at),
    knownHostsFiles: item.knownHostsFile?.map(at),
    acceptNewHostKey:
      item.strictHostKeyChecking === undefined ? undefined : item.strictHostKeyChecking === 'accept-new',
    connectTimeoutMs: item.connectTimeout,
    proxyJump: item.proxyJump,
  });
}

/** Without the keys that have no value. */
function definedOf<T extends object>(all: { [K in keyof T]: T[K] | undefined }): T {
  return Object.fromEntries(Object.entries(all).filter(([, value]) => value !== undefined)) as T;
}

function trackedImageOf(item: Config['images']['track'][number], epochBase: string): TrackedImage {
  const parsed = parseImageName(item.image);
  if (parsed === null) throw new Error(`the schema let the image ${item.image} pass`);
  const { registry, repository } = parsed;
  const tag = parsed.tag ?? item.tag ?? 'latest';
  const typed = item.tag === undefined ? item.image : `${item.image}:${item.tag}`;
  return {
    image: repository,
    tag,
    registry,
    reference: item.reference ?? (registry === null ? epochReference(epochBase, repository, tag) : typed),
    presence: item.presence,
    pools: item.pools ?? null,
  };
}

function trackedSnapshotOf(item: Config['snapshots']['track'][number]): TrackedSnapshot {
  return { snapshot: snapshotNameOf(item.snapshot), pools: item.pools ?? null };
}

/** `repo` → `repo:latest`: reports and filters know a snapshot by one name. */
function snapshotNameOf(text: string): string {
  const name = parseSnapshotName(text);
  if (name === null) throw new Error(`the schema let the snapshot ${text} pass`);
  return `${name.repository}:${name.tag}`;
}
