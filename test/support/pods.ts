// Pods of the manifests in config/kubernetes as processes: the first container's command, with the env and the files that the
// manifest gives it and nothing else. Nothing is mounted: where a path of a volume stands, that of its directory is put.
import { spawn, type ChildProcess } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { chmod, mkdir, symlink, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { parseAllDocuments } from 'yaml';

const root = new URL('../../', import.meta.url).pathname;

interface EnvVar {
  name: string;
  value?: string;
  valueFrom?: {
    fieldRef?: { fieldPath: string };
    secretKeyRef?: { name: string; key: string; optional?: boolean };
  };
}

export interface PodSpec {
  automountServiceAccountToken?: boolean;
  restartPolicy: string;
  securityContext: Record<string, unknown>;
  containers: {
    name: string;
    command: string[];
    env: EnvVar[];
    securityContext: Record<string, unknown>;
    volumeMounts: { name: string; mountPath: string; readOnly?: boolean }[];
  }[];
  volumes: {
    name: string;
    configMap?: { name: string };
    secret?: { secretName: string };
    emptyDir?: object;
    persistentVolumeClaim?: { claimName: string };
  }[];
}

export interface Rule {
  action: string;
  onExitCodes?: { containerName: string; operator: string; values: number[] };
  onPodConditions?: object[];
}

export interface JobSpec {
  completionMode?: string;
  completions?: number;
  parallelism?: number;
  backoffLimitPerIndex?: number;
  podFailurePolicy: { rules: Rule[] };
  template: { spec: PodSpec };
}

export interface Manifest {
  apiVersion: string;
  kind: string;
  metadata: { name: string; namespace?: string; labels?: Record<string, string> };
  data?: Record<string, string>;
  spec?: JobSpec & { jobTemplate?: { spec: JobSpec } };
}

export const MANIFESTS = ['base.yaml', 'cronjob.yaml', 'shards.yaml'];

export function manifestsIn(file: string): Manifest[] {
  const documents = parseAllDocuments(readFileSync(join(root, 'config/kubernetes', file), 'utf8'));
  return documents.map((document) => {
    const [problem] = document.errors;
    if (problem !== undefined) throw new Error(problem.message);
    return document.toJS() as Manifest;
  });
}

export function findManifest(file: string, kind: string): Manifest {
  const found = manifestsIn(file).find((manifest) => manifest.kind === kind);
  if (found === undefined) throw new Error(`no ${kind} in ${file}`);
  return found;
}

export interface Cluster {
  /** Where the directories of volumes lie. */
  dir: string;
  /** By name, and in each by key. */
  configMaps: Record<string, Record<string, string>>;
  secrets: Record<string, Record<string, string>>;
}

export interface Pod {
  child: ChildProcess;
  ended: Promise<{ code: number; stdout: string; stderr: string }>;
}

/**
 * Starts a pod.
 * @param name for its own directories
 * @param index of an Indexed Job, and the uid of the Job
 */
export async function startPod(
  { volumes, containers }: PodSpec,
  cluster: Cluster,
  name: string,
  job: { index?: number; uid: string },
): Promise<Pod> {
  const [container] = containers;
  if (container === undefined) throw new Error('a pod without a container');
  const places = new Map<string, string>();
  for (const { name: volume, mountPath } of container.volumeMounts) {
    const claim = volumes.find((one) => one.name === volume)?.persistentVolumeClaim?.claimName;
    places.set(mountPath, join(cluster.dir, ...(claim === undefined ? ['pods', name, volume] : ['claims', claim])));
  }
  const placed = (text: string): string =>
    [...places].reduce((all, [path, place]) => all.replaceAll(new RegExp(`${path}(?![\\w-])`, 'g'), place), text);
  for (const { name: volume, mountPath } of container.volumeMounts) {
    const of = volumes.find((one) => one.name === volume);
    const content =
      cluster.configMaps[of?.configMap?.name ?? ''] ?? cluster.secrets[of?.secret?.secretName ?? ''] ?? {};
    const place = places.get(mountPath) ?? '';
    await mkdir(place, { recursive: true });
    for (const [file, text] of Object.entries(content))
      await writeFile(join(place, file), placed(text), { mode: 0o440 });
  }
  const fields: Record<string, string> = { "metadata.labels['batch.kubernetes.io/controller-uid']": job.uid };
  const env: Record<string, string> = {
    PATH: `${await programs(cluster.dir)}:${dirname(process.execPath)}:/usr/bin:/bin`,
    ...(job.index === undefined ? {} : { JOB_COMPLETION_INDEX: String(job.index) }),
  };
  for (const { name: variable, value, valueFrom } of container.env) {
    const secret = valueFrom?.secretKeyRef;
    const resolved =
      value ?? fields[valueFrom?.fieldRef?.fieldPath ?? ''] ?? cluster.secrets[secret?.name ?? '']?.[secret?.key ?? ''];
    if (resolved !== undefined) env[variable] = placed(resolved);
    else if (secret?.optional !== true) throw new Error(`nothing gives ${variable} a value`);
  }
  const [program = '', ...args] = container.command.map(placed);
  const child = spawn(program, args, { env, cwd: '/', stdio: ['ignore', 'pipe', 'pipe'] });
  const ended = new Promise<{ code: number; stdout: string; stderr: string }>((resolve, reject) => {
    let [stdout, stderr] = ['', ''];
    child.stdout.on('data', (text: Buffer) => (stdout += text.toString()));
    child.stderr.on('data', (text: Buffer) => (stderr += text.toString()));
    child.on('error', reject);
    child.on('close', (code) => resolve({ code: code ?? -1, stdout, stderr }));
  });
  return { child, ended };
}

/** A directory with the program as the image has it. */
async function programs(dir: string): Promise<string> {
  const bin = join(dir, 'bin');
  await mkdir(bin, { recursive: true });
  await chmod(join(root, 'dist/reconcile.mjs'), 0o755);
  await symlink(join(root, 'dist/reconcile.mjs'), join(bin, 'reconcile')).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'EEXIST') throw error;
  });
  return bin;
}
