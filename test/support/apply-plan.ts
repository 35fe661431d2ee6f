// Carries out a plan that another process wrote down: argv holds the file, and what the clients need to be made.
import { readFileSync } from 'node:fs';
import type { Plan } from '../../src/core/model/plan.ts';
import { applyPlan } from '../../src/pipeline/apply/rollout.ts';
import { createRegistry } from '../../src/registry/client.ts';
import { createSsh } from '../../src/ssh/client.ts';
import { memoryState } from './state.ts';

async function main([file = '', epochUrl = '']: string[]): Promise<void> {
  const plan = JSON.parse(readFileSync(file, 'utf8')) as Plan;
  const registry = { token: null, login: null, proxy: null, ca: null, timeoutMs: 10_000, retries: 0 };
  const epoch = createRegistry({ url: epochUrl, ...registry });
  const ssh = createSsh({ agentSocket: null, defaultIdentityFiles: [], log: () => undefined });
  const registryOf = async (host: string): Promise<typeof epoch> => await Promise.reject(new Error(`not ${host}`));
  const nothing = (): void => undefined;
  const limits = {
    maxPulls: 2,
    maxFailures: { value: 0, percent: false },
    lockTimeoutMs: 0,
    ending: new AbortController().signal,
    signal: new AbortController().signal,
    remainingMs: () => 120_000,
    leftMs: () => 120_000,
    pacer: null,
    pace: null,
    events: { onStart: nothing, onStep: nothing, onResult: nothing, onTidied: nothing },
  };
  const applied = await applyPlan(plan, { ssh, epoch, registryOf, state: memoryState() }, limits);
  ssh.close();
  await epoch.close();
  process.stdout.write(JSON.stringify(applied));
}

void main(process.argv.slice(2));
