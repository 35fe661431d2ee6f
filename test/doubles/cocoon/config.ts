// Global configuration and the layout under root_dir, run_dir and log_dir.
import { readFileSync } from 'node:fs';
import { isIP } from 'node:net';
import { join } from 'node:path';
import { goSystemError, parseJson } from './text.ts';

export interface Config {
  rootDir: string;
  runDir: string;
  logDir: string;
  cniConfDir: string;
  dns: string;
  logLevel: string;
  metaBackend: string;
}

const DEFAULTS: Record<string, string> = {
  root_dir: '/var/lib/cocoon',
  run_dir: '/var/lib/cocoon/run',
  log_dir: '/var/log/cocoon',
  cni_conf_dir: '/etc/cni/net.d',
  dns: '8.8.8.8,1.1.1.1',
  stop_timeout_seconds: '30',
  meta_backend: '',
};

/** Flag over environment over file over default; `flags` holds only what was given. */
export function loadConfig(flags: Map<string, string>, newer: boolean): Config {
  const file = readConfigFile(flags.get('config'));
  const pick = (key: string): string => {
    const flag = flags.get(key.replaceAll('_', '-'));
    return flag ?? (process.env[`COCOON_${key.toUpperCase()}`] || file.get(key) || DEFAULTS[key] || '');
  };
  const config: Config = {
    rootDir: pick('root_dir'),
    runDir: pick('run_dir'),
    logDir: pick('log_dir'),
    cniConfDir: pick('cni_conf_dir'),
    dns: pick('dns'),
    // In v0.3.8 the environment variable of this nested key has no effect.
    logLevel: flags.get('log-level') ?? ((newer && process.env['COCOON_LOG_LEVEL']) || file.get('log.level') || 'info'),
    metaBackend: pick('meta_backend'),
  };
  for (const key of ['root_dir', 'run_dir', 'log_dir']) {
    if (pick(key) === '') throw new Error(`config: ${key} must not be empty`);
  }
  const timeout = Number(pick('stop_timeout_seconds'));
  if (timeout <= 0) throw new Error(`config: stop_timeout_seconds must be > 0, got ${timeout}`);
  for (const server of config.dns.split(/[,;]/).map((entry) => entry.trim())) {
    if (server && !isIP(server)) throw new Error(`config: dns: invalid DNS server address ${JSON.stringify(server)}`);
  }
  if (newer && !['', 'json', 'sqlite'].includes(config.metaBackend)) {
    throw new Error(`config: meta_backend ${JSON.stringify(config.metaBackend)} is not one of json|sqlite`);
  }
  return config;
}

/** JSON, or YAML as far as `key: value` and one nested level go. */
function readConfigFile(path: string | undefined): Map<string, string> {
  const values = new Map<string, string>();
  if (path === undefined || path === '') return values;
  const type = /\.([^./]+)$/.exec(path)?.[1] ?? '';
  if (!['json', 'yaml', 'yml'].includes(type))
    throw new Error(`read config: Unsupported Config Type ${JSON.stringify(type)}`);
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (error) {
    throw new Error(`read config: ${goSystemError('open', path, error)}`, { cause: error });
  }
  const document = type === 'json' ? readJsonConfig(text) : readYamlConfig(text);
  for (const [key, value] of Object.entries(document)) {
    if (typeof value !== 'object' || value === null) values.set(key, String(value));
    else for (const [inner, nested] of Object.entries(value)) values.set(`${key}.${inner}`, String(nested));
  }
  return values;
}

function readJsonConfig(text: string): Record<string, unknown> {
  try {
    return parseJson(text) as Record<string, unknown>;
  } catch (error) {
    throw new Error(`read config: While parsing config: ${(error as Error).message}`, { cause: error });
  }
}

function readYamlConfig(text: string): Record<string, unknown> {
  const document: Record<string, unknown> = {};
  let parent = '';
  for (const line of text.split('\n')) {
    const match = /^(\s*)([\w.]+):\s*(?:"([^"]*)"|'([^']*)'|(.*?))\s*$/.exec(line.replace(/\s#.*$/, ''));
    if (!match) continue;
    const [, indent = '', key = ''] = match;
    const value = match[3] ?? match[4] ?? match[5] ?? '';
    if (indent === '') parent = value === '' ? key : '';
    document[indent === '' || parent === '' ? key : `${parent}.${key}`] = value;
  }
  return document;
}

/** Where everything lies. */
export function layout(config: Config) {
  const { rootDir, runDir, logDir } = config;
  const at = (...parts: string[]) => join(rootDir, ...parts);
  return {
    firmware: at('firmware', 'CLOUDHV.fd'),
    metaDb: at('meta', 'meta.db'),
    metaManifest: at('meta', 'meta-convert.manifest'),
    cloudimgDir: at('cloudimg'),
    cloudimgBlob: (hex: string) => at('cloudimg', 'blobs', `${hex}.qcow2`),
    ociDir: at('oci'),
    ociBlob: (hex: string) => at('oci', 'blobs', `${hex}.erofs`),
    ociBootDir: (hex: string) => at('oci', 'boot', hex),
    snapshotData: (id: string) => at('snapshot', 'localfile', id),
    bridgeLock: at('bridge', 'gc.lock'),
    vmRunDir: (backend: string, id: string) => join(runDir, backend, id),
    vmLogDir: (backend: string, id: string) => join(logDir, backend, id),
    /** Directories that each part of the program creates whenever it is used. */
    dirs: {
      oci: [at('oci', 'db'), at('oci', 'temp'), at('oci', 'blobs'), at('oci', 'boot')],
      cloudimg: [at('cloudimg', 'db'), at('cloudimg', 'temp'), at('cloudimg', 'blobs')],
      snapshot: [at('snapshot', 'db'), at('snapshot', 'localfile')],
      cni: [at('cni', 'db')],
      bridge: [at('bridge')],
      hypervisor: (backend: string) => [at(backend, 'db'), join(runDir, backend), join(logDir, backend)],
    },
  };
}

export type Layout = ReturnType<typeof layout>;
