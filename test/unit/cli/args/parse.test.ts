/** The command line: what is understood is understood exactly, and everything else is refused in one line. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { COMMANDS } from '../../../../src/cli/args/commands.ts';
import { DEFAULTS } from '../../../../src/cli/args/help-words.ts';
import { configSchema } from '../../../../src/config/schema.ts';
import { LATER_OPTIONS } from '../../../../src/cli/args/options.ts';
import { parseArgs } from '../../../../src/cli/args/parse.ts';
import { EXIT_CODES } from '../../../../src/core/model/exit-codes.ts';
import { ReconcileError } from '../../../../src/core/errors.ts';
import { anyLine } from '../../../support/command-lines.ts';

/** What a line was understood as, as plain values. */
function parse(...argv: string[]): object {
  const parsed = parseArgs(argv, '1.2.3');
  if (parsed.kind === 'text') return parsed;
  const { name, options } = parsed.invocation;
  return { name, ...options };
}

/** What is said of a line that is refused. */
function refusal(argv: string[]): string {
  try {
    return `understood as ${JSON.stringify(parse(...argv))}`;
  } catch (error) {
    if (!(error instanceof ReconcileError)) throw error;
    expect(error.info).toMatchObject({ code: 'CONFIG_INVALID', hint: 'reconcile --help lists what there is' });
    return error.info.message;
  }
}

test('of 1,000 generated lines each that is meant exactly is understood so, and no other is understood', () => {
  const seen = { sound: 0, refused: 0 };
  const property = fc.property(anyLine, ({ argv, means }) => {
    if (means === null) {
      seen.refused += 1;
      const said = refusal(argv);
      expect(said).not.toMatch(/^understood/);
      expect(said).not.toMatch(/[\p{Cc}\u2028\u2029]/u);
    } else {
      seen.sound += 1;
      expect(parse(...argv)).toMatchObject(means);
    }
  });
  fc.assert(property, { numRuns: 1000, seed: 20260509 });
  expect(seen.sound).toBeGreaterThan(150);
  expect(seen.refused).toBeGreaterThan(500);
});

test.each<[string, string[], string]>([
  ['a flag with a value', ['--dry-run=client'], '--dry-run takes no value ("client")'],
  ['a flag with an empty value', ['-n', '--deep='], '--deep takes no value ("")'],
  ['a letter with a value', ['-n=true'], '-n takes no value ("-n=true")'],
  ['a letter with a number', ['-nq1'], 'unknown option -1 in "-nq1"'],
  ['a letter that is a dash', ['-n-'], 'unknown option - in "-n-"'],
  ['a word behind a flag', ['--dry-run', 'true'], '--dry-run takes no value ("true")'],
  ['a manifest that looks like a value', ['gate', '--deep', 'yes'], '--deep takes no value ("yes")'],
  ['a dash from a text editor', ['gate', '—deep'], '"—deep" begins with a dash that is no hyphen'],
  ['another spelling', ['--dryRun=x'], 'unknown option --dryRun; did you mean --dry-run?'],
  ['an abbreviation', ['--dry'], 'unknown option --dry; did you mean --dry-run?'],
  ['a form with no- that there is not', ['--no-node'], 'option --no-node does not exist: leave --node out'],
  ['a form with no- of a flag', ['--no-dry-run'], 'option --no-dry-run does not exist: leave --dry-run out'],
  ['no value', ['-c'], '-c needs a value (FILE)'],
  ['an empty value', ['--node='], '--node needs a value (PATTERN)'],
  ['an option for a value', ['--config', '--dry-run'], '--config needs a value, and "--dry-run" looks like an option'],
  ['an end for a value', ['-w', '--'], '-w needs a value, and "--" looks like an option'],
  ['no number', ['--max-pulls', '1e3'], '--max-pulls "1e3" is no whole number from 1 up'],
  ['no percentage', ['--max-failures', '101%'], '--max-failures "101%" is no number and no percentage'],
  ['no duration', ['--timeout', '5'], '--timeout "5" is no duration (90s, 15m, 2h)'],
  ['longer than a timer can wait', ['--timeout', '25d'], '--timeout "25d" is longer than 24 days'],
  ['twice what is meant once', ['--timeout', '5s', '--timeout', '5s'], '--timeout is given twice'],
  ['yes and no', ['--color', '--no-color'], '--color and --no-color exclude each other'],
  ['none of the choices', ['--clone', 'vms'], '--clone "vms" is none of none, files, vm'],
  ['an option of another command', ['nodes', '-n'], 'option -n makes no sense with "nodes"'],
  ['JUnit of a run', ['-o', 'junit'], '--output "junit" makes no sense with "run"'],
  ['an option that is not built', ['--no-progress'], 'option --no-progress is not built yet'],
  ['no time of the day', ['--until', '25:00'], '--until "25:00" is no time of the day (06:00)'],
  ['a command that is not built', ['explain', '--offline'], 'command "explain" is not built yet'],
  ['a format that is not built', ['nodes', '-o', 'name'], '--output "name" is not built yet'],
  ['a second degree that is not built', ['-vv'], 'option -vv is not built yet'],
  ['no command', ['gatee'], 'unknown command "gatee"; did you mean gate?'],
  ['a command behind --', ['-n', '--', 'gate'], '"run" takes no argument: "gate"'],
  ['what would be a prototype', ['--__proto__.x=1'], 'unknown option --__proto__.x'],
  ['nothing to look up', ['digest'], 'digest needs at least one reference, as simular/win11 or simular/win11:v2'],
])('%s', (_, argv, said) => {
  expect(refusal(argv)).toBe(said);
});

describe('what is understood', () => {
  test('nothing at all is a run', () => {
    expect(parse()).toMatchObject({ name: 'run', dryRun: false, output: 'table', stream: true, color: undefined });
  });

  test('a flag that is given twice is given', () => {
    expect(parse('-n', '--dry-run', '-nq')).toMatchObject({ dryRun: true, quiet: true });
  });

  test('what comes after -- is for the command, whatever it looks like', () => {
    expect(parse('gate', '--', '-n', '--help')).toMatchObject({ name: 'gate', manifests: ['-n', '--help'] });
  });
});

test('no option has the name or the letter of another one, and one that several commands take means the same in all', () => {
  const options = Object.values(COMMANDS).flatMap((command) => Object.values(command.options));
  for (const { long, short, takes, negatable } of options) {
    const same = options.filter((other) => other.long === long || (short !== null && other.short === short));
    for (const other of same) expect(other, `--${long}`).toMatchObject({ long, short, negatable });
    if (long !== 'output') for (const other of same) expect(other.takes).toBe(takes);
    expect(LATER_OPTIONS).not.toContain(long);
  }
});

describe('the help', () => {
  const text = (...argv: string[]): string => (parse(...argv) as { text: string }).text;

  const names = Object.keys(COMMANDS);

  test.each([[], ...names.map((name) => [name])])('is one screen of 24 lines and 80 columns: %s', (...words) => {
    const lines = text(...words, '--help')
      .trimEnd()
      .split('\n');
    expect(lines.length).toBeLessThanOrEqual(24);
    for (const line of lines) expect(line.length, line).toBeLessThanOrEqual(80);
    const { options } = COMMANDS[(words[0] ?? 'run') as keyof typeof COMMANDS];
    for (const { long } of Object.values(options))
      expect(lines.join('\n')).toMatch(new RegExp(`--(\\[no-\\])?${long}\\b`));
  });

  test('has three examples of each command, which are understood', () => {
    for (const name of names) {
      const examples =
        text(name, '-h')
          .split('Examples:\n')[1]
          ?.match(/^ {2}reconcile.*/gm) ?? [];
      expect(examples, name).toHaveLength(3);
      for (const example of examples) {
        const argv = example
          .trim()
          .replace(/<\(.*\)/, '/dev/fd/63')
          .replace(/ >.*/, '')
          .split(' ')
          .slice(1);
        expect(parse(...argv), example).toMatchObject({ name });
      }
    }
  });

  test('names the defaults that the config has', () => {
    const { rollout, ssh, verify, gate, run } = configSchema.parse({});
    const share = ({ value, percent }: { value: number; percent: boolean }): string => `${value}${percent ? '%' : ''}`;
    expect(DEFAULTS).toMatchObject({
      canary: String(rollout.canary),
      clone: verify.clone,
      concurrency: String(ssh.concurrency),
      'max-failures': share(rollout.maxFailures),
      'max-pulls': String(rollout.maxPulls),
      'min-ready': share(gate.minReady),
      timeout: `${run.timeout / 3_600_000}h`,
    });
  });

  test('with -v says what each option means, of the program or of a command', () => {
    expect(text('--help', '-v')).toContain('--min-ready N|P%');
    expect(text('gate', '-h', '--verbose')).toContain('-o, --output table|json|junit|markdown');
    expect(text('gate', '-hv')).not.toContain('--dry-run');
    for (const line of text('--help', '-v').split('\n')) expect(line.length).toBeLessThanOrEqual(104);
  });

  test('says every exit code in the words of their table', () => {
    const help = text('--help').replaceAll('\n', ' ');
    for (const { code, about } of Object.values(EXIT_CODES)) {
      expect(help).toMatch(new RegExp(`\\b${code}\\b[^;]* ${about}`));
    }
  });

  test('is shown whatever else is wrong; the version is a line', () => {
    expect(text('--bogus', '--help')).toMatch(/^Usage: reconcile /);
    expect(text('--version')).toBe('1.2.3\n');
  });
});
