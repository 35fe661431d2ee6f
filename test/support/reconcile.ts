// Runs the real command, as built, in a process of its own.
import { spawn, type ChildProcess } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { Ajv2020 } from 'ajv/dist/2020.js';
import formats from 'ajv-formats';
import { expect } from 'vitest';
import type { ImageRow, NodeReport, Report, SnapshotRow } from '../../src/core/model/report.ts';
import type { Fleet } from '../fleet/world.ts';

export interface Run {
  code: number;
  stdout: string;
  stderr: string;
}

export interface Started {
  child: ChildProcess;
  ended: Promise<Run>;
}

const root = new URL('../../', import.meta.url).pathname;
export const program = `${root}dist/main.js`;

export interface RunOptions {
  env?: Record<string, string>;
  cwd?: string;
  /** What comes in on stdin; default nothing. */
  stdin?: string;
  /** Node.js and its flags; default that of the tests without any. */
  node?: string[];
}

/** Starts the program without waiting for its end. */
export function start(
  args: string[],
  { env = {}, cwd, stdin = '', node = [process.execPath] }: RunOptions = {},
): Started {
  const {
    NO_COLOR: _color,
    FORCE_COLOR: _force,
    EPOCH_URL: _url,
    RECONCILE_CONFIG: _config,
    ...inherited
  } = process.env;
  const [executable = '', ...flags] = node;
  const child = spawn(executable, [...flags, program, ...args], {
    env: { ...inherited, SSH_AUTH_SOCK: '', ...env },
    cwd,
    stdio: ['pipe', 'pipe', 'pipe'],
  });
  child.stdin.on('error', () => undefined);
  child.stdin.end(stdin);
  const ended = new Promise<Run>((resolve, reject) => {
    let stdout = '';
    let stderr = '';
    child.stdout.on('data', (chunk: Buffer) => (stdout += chunk.toString()));
    child.stderr.on('data', (chunk: Buffer) => (stderr += chunk.toString()));
    child.on('error', reject);
    child.on('close', (code, signal) => {
      if (code === null) reject(new Error(`reconcile died by ${signal}: ${stderr}`));
      else resolve({ code, stdout, stderr });
    });
  });
  return { child, ended };
}

/** Runs the program with the fleet's config. */
export async function reconcile(fleet: Pick<Fleet, 'configFile'>, ...args: string[]): Promise<Run> {
  return await start(['--config', fleet.configFile, ...args]).ended;
}

/** The same with `--output json`: the report, which must validate, and the exit code, which must be its own. */
export async function report(fleet: Pick<Fleet, 'configFile'>, ...args: string[]): Promise<Report> {
  const { code, stdout, stderr } = await reconcile(fleet, '--output', 'json', ...args);
  const parsed = parseReport(stdout, stderr);
  expect(parsed.run.exitCode).toBe(code);
  return parsed;
}

const validate = new Ajv2020({ allErrors: true, strict: true, strictRequired: false });
formats.default(validate);
const isReport = validate.compile(JSON.parse(readFileSync(`${root}config/report.schema.json`, 'utf8')) as object);

/** Text → report, which validates against `config/report.schema.json`. */
export function parseReport(stdout: string, stderr = ''): Report {
  const parsed: unknown = stdout === '' ? stderr : JSON.parse(stdout);
  expect(isReport(parsed), validate.errorsText(isReport.errors)).toBe(true);
  return parsed as Report;
}

export function nodeOf({ nodes }: Report, name: string): NodeReport {
  const found = nodes.find((node) => node.name === name);
  if (found === undefined) throw new Error(`no node ${name} in the report`);
  return found;
}

export function imageOn(of: Report, node: string, image = 'simular/win11'): ImageRow {
  const found = nodeOf(of, node).images.find((row) => row.image === image);
  if (found === undefined) throw new Error(`no row for ${image} on ${node}`);
  return found;
}

export function snapshotOn(of: Report, node: string, snapshot = 'simular/win11-hot-testing:v1-20260509'): SnapshotRow {
  const found = nodeOf(of, node).snapshots.find((row) => row.snapshot === snapshot);
  if (found === undefined) throw new Error(`no row for ${snapshot} on ${node}`);
  return found;
}
