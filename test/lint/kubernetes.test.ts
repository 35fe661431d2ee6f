/** The manifests in config/kubernetes: every field is one that server-side apply knows, and they keep what they promise. */
import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { EXIT_CODES } from '../../src/core/model/exit-codes.ts';
import { findManifest, MANIFESTS, manifestsIn, type JobSpec, type Manifest } from '../support/pods.ts';

type Shape = string | [Shape] | { [field: string]: Shape };

const { types } = JSON.parse(readFileSync(new URL('./kubernetes-schema.json', import.meta.url), 'utf8')) as {
  types: Record<string, Shape>;
};
const KINDS: Record<string, string> = {
  v1: 'io.k8s.api.core.v1',
  'batch/v1': 'io.k8s.api.batch.v1',
  'rbac.authorization.k8s.io/v1': 'io.k8s.api.rbac.v1',
};

/** Every place that is not as the schema says. */
function problemsOf(value: unknown, shape: Shape, where: string): string[] {
  if (typeof shape === 'string') {
    if (types[shape] !== undefined) return problemsOf(value, types[shape], where);
    const kind = { string: 'string', numeric: 'number', boolean: 'boolean' }[shape];
    return kind === undefined || typeof value === kind ? [] : [`${where} is no ${shape}`];
  }
  if (Array.isArray(shape)) {
    if (!Array.isArray(value)) return [`${where} is no list`];
    return value.flatMap((item, i) => problemsOf(item, shape[0], `${where}[${i}]`));
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return [`${where} is no map`];
  return Object.entries(value).flatMap(([key, inner]) => {
    const field = shape[key] ?? shape['*'];
    return field === undefined ? [`${where}.${key} is unknown`] : problemsOf(inner, field, `${where}.${key}`);
  });
}

function check(manifest: Manifest): string[] {
  return problemsOf(manifest, `${KINDS[manifest.apiVersion]}.${manifest.kind}`, manifest.kind);
}

const ALL = MANIFESTS.flatMap(manifestsIn);
const JOBS: [string, JobSpec][] = ALL.flatMap(({ kind, spec }): [string, JobSpec][] => {
  const job = kind === 'CronJob' ? spec?.jobTemplate?.spec : kind === 'Job' ? spec : undefined;
  return job === undefined ? [] : [[kind, job]];
});

test.each(ALL.map((manifest) => [`${manifest.kind} ${manifest.metadata.name}`, manifest] as const))(
  '%s has no field that the API does not know, and each of its kind',
  (_, manifest) => expect(check(manifest)).toEqual([]),
);

test('a field that does not exist, or of another kind, is found wherever it is', () => {
  const job: Manifest = structuredClone(findManifest('shards.yaml', 'Job'));
  const spec = job.spec as unknown as { template: { spec: Record<string, unknown> }; completions: unknown };
  spec.completions = '9';
  spec.template.spec['restartpolicy'] = 'Never';
  expect(check(job)).toEqual(['Job.spec.completions is no numeric', 'Job.spec.template.spec.restartpolicy is unknown']);
});

describe.each(JOBS)('the pods of the %s', (kind, { template, podFailurePolicy: { rules }, ...job }) => {
  const { spec } = template;
  const container = spec.containers[0];

  test('may be run where pods are restricted', () => {
    expect(spec.securityContext).toMatchObject({ runAsNonRoot: true, seccompProfile: { type: 'RuntimeDefault' } });
    expect(container?.securityContext).toEqual({
      allowPrivilegeEscalation: false,
      readOnlyRootFilesystem: true,
      capabilities: { drop: ['ALL'] },
    });
    const allowed = new Set(['name', 'configMap', 'secret', 'emptyDir', 'persistentVolumeClaim']);
    expect(spec.volumes.flatMap((volume) => Object.keys(volume)).filter((key) => !allowed.has(key))).toEqual([]);
    expect(findManifest('base.yaml', 'Namespace').metadata.labels).toEqual({
      'pod-security.kubernetes.io/enforce': 'restricted',
    });
  });

  test('mount every volume, and have every one that they mount', () => {
    const mounted = container?.volumeMounts.map(({ name }) => name).sort();
    expect(mounted).toEqual(spec.volumes.map(({ name }) => name).sort());
  });

  test('are tried again after 75 and an interrupt, and after no answer', () => {
    expect(spec.restartPolicy).toBe('Never'); // or there is no policy
    const actionOn = (code: number): string =>
      rules.find(({ onExitCodes }) => onExitCodes?.values.includes(code) === true)?.action ?? 'none';
    const answer = kind === 'Job' ? 'FailIndex' : 'FailJob';
    expect([1, 2, 3, 4].map(actionOn)).toEqual([answer, answer, answer, answer]);
    expect(actionOn(75)).toBe('Count');
    expect([129, 130, 143].map(actionOn)).toEqual(['Ignore', 'Ignore', 'Ignore']);
    for (const { code } of Object.values(EXIT_CODES)) if (code !== 0) expect(actionOn(code)).not.toBe('none');
    for (const { onExitCodes } of rules) {
      expect(onExitCodes?.values ?? []).toEqual((onExitCodes?.values ?? []).toSorted((a, b) => a - b));
      expect(onExitCodes?.containerName ?? container?.name).toBe(container?.name);
    }
  });

  test('are as many as there are shards, and one that joins their reports', () => {
    if (kind !== 'Job') return expect(job.completions).toBeUndefined();
    const shards = Number(container?.env.find(({ name }) => name === 'RECONCILE_SHARDS')?.value);
    expect(job).toMatchObject({ completionMode: 'Indexed', completions: shards + 1, parallelism: shards + 1 });
  });
});

test('what pods may do is to list nodes, and nothing else', () => {
  const [role, ...others] = ALL.filter(({ kind }) => kind.endsWith('Role'));
  expect(others).toEqual([]);
  expect(role).toMatchObject({ rules: [{ apiGroups: [''], resources: ['nodes'], verbs: ['list'] }] });
});
