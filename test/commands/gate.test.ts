// `reconcile gate` as a pipeline runs it before a deployment: manifests in, exit code and JUnit out, nothing changed.
import { mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import type { Gate, GateAnswer } from '../../src/core/model/gate.ts';
import { makeQcow2 } from '../doubles/cocoon/fixtures.ts';
import { breakAsInTheIncident, startFleet, type Fleet, type Incident } from '../fleet/world.ts';
import { junitProblems, SCHEMAS } from '../support/junit.ts';
import { nodeOf, parseReport, reconcile, report, start, type Run } from '../support/reconcile.ts';
import { treeOf } from '../support/tree.ts';

const node = (n: number): string => `cocoonset-node-${n}`;
const DRIFTED = node(2);
const GPU = node(5);
const DEFAULT = [1, 2, 3, 4].map(node);

describe('a gate before a deployment', () => {
  let fleet: Fleet;
  let incident: Incident;
  let dir: string;

  beforeAll(async () => {
    const newer = process.env['COCOON_BIN'] ? {} : { store: 'sqlite' as const };
    fleet = await startFleet({ nodes: [{}, {}, {}, newer, { pool: 'gpu' }] });
    incident = await breakAsInTheIncident(fleet, [DRIFTED]);
    dir = await mkdtemp(join(tmpdir(), 'gate-'));
  });
  afterAll(async () => {
    await fleet?.down();
    await rm(dir, { recursive: true, force: true });
  });
  afterEach(async () => void (await fleet.writeConfig()));

  const file = async (name: string, text: string): Promise<string> => {
    await writeFile(join(dir, name), text);
    return join(dir, name);
  };

  /** A CocoonSet on the snapshot of the incident; `spec` comes before the agent. */
  const setOf = (image = incident.snapshot, spec = ''): string => `apiVersion: cocoonset.cocoonstack.io/v1
kind: CocoonSet
metadata:
  name: demo
spec:
${spec}  agent:
    replicas: 2
    image: ${image}
`;

  const gate = async (...args: string[]): Promise<Gate> => (await report(fleet, 'gate', ...args)).gate as Gate;
  const answers = ({ questions }: Gate): string[] =>
    questions.flatMap(({ nodes }) => nodes.map((n: GateAnswer) => `${n.node.slice(-1)} ${n.answer} ${n.reasonCode}`));

  interface TestCase {
    image: string;
    node: string;
    fault: string | null;
  }

  /** The test cases of a JUnit that both published schemas take. */
  const junit = async (...args: string[]): Promise<{ code: number; cases: TestCase[]; xml: string }> => {
    const { code, stdout: xml, stderr } = await reconcile(fleet, 'gate', '--output', 'junit', ...args);
    expect(xml, stderr).toMatch(/^<\?xml/);
    for (const schema of Object.keys(SCHEMAS)) expect(await junitProblems(xml, schema), schema).toEqual([]);
    const found = xml.matchAll(
      /<testcase classname="([^"]*)" name="(?:\S+ (?:clone|run) on )?([^"]*)"[^>]*>\s*(?:<(failure|error|skipped)(?: type="(\w+)")?)?/g,
    );
    const cases = [...found].map(([, image = '', name = '', kind, type]) => ({
      image,
      node: name,
      fault: kind === undefined ? null : [kind, type].filter(Boolean).join(' '),
    }));
    return { code, cases, xml };
  };

  const undotted = (image: string): string => image.replaceAll('.', '_');

  const lastLine = ({ stdout }: Run): string | undefined => stdout.trimEnd().split('\n').at(-1);

  describe('with a stale base on one node of the pool', () => {
    test('says no: 2, and exactly that failure in JUnit', async () => {
      const set = await file('set.yaml', setOf());
      const { code, cases, xml } = await junit(set);
      expect(code).toBe(2);
      expect(cases).toEqual(
        DEFAULT.map((name) => ({
          image: incident.snapshot,
          node: name,
          fault: name === DRIFTED ? 'failure BASE_DRIFTED' : null,
        })),
      );
      expect(xml).toContain('tests="4" failures="1" errors="0"');
    });

    test('what minReady tolerates is skipped: no reader counts it', async () => {
      const set = await file('set.yaml', setOf());
      const { code, cases, xml } = await junit('--min-ready', '3', set);
      expect(code).toBe(0);
      expect(cases.filter(({ fault }) => fault !== null)).toEqual([
        { image: incident.snapshot, node: DRIFTED, fault: 'skipped' },
      ]);
      expect(xml).toContain('tests="4" failures="0" errors="0" skipped="1"');
      expect(xml).toContain(`name="win11-hot-testing:v1-20260509 clone on ${DRIFTED}" time=`);
      expect(xml).toContain(`file="${set}" line="8">`);
    });

    test('a manifest that is not understood is an error of its own, and hides no other question: 1', async () => {
      const sets = join(dir, 'mixed');
      await mkdir(sets);
      await writeFile(join(sets, 'a.yaml'), 'kind: [CocoonSet\n');
      await writeFile(join(sets, 'b.yaml'), `${setOf()}---\n${setOf(incident.snapshot, '  nodePool: gpus\n')}`);
      const { code, cases } = await junit(sets, join(dir, 'gone.yaml'));
      expect([code, cases.map(({ fault }) => fault).filter(Boolean)]).toEqual([
        1,
        ['failure BASE_DRIFTED', ...Array.from({ length: 3 }, () => 'error MANIFEST_INVALID')],
      ]);
      const { run, gate: asked } = await report(fleet, 'gate', sets, join(dir, 'gone.yaml'));
      expect(run).toMatchObject({ exitCode: 1, error: { code: 'MANIFEST_INVALID' } });
      expect(asked).toMatchObject({ pass: false, questions: [{ ready: 3, outcome: 'blocked' }] });
      expect(asked?.errors.map(({ source }) => source.replace(`${dir}/`, ''))).toEqual([
        'mixed/a.yaml:2',
        'gone.yaml',
        'mixed/b.yaml:18',
      ]);
      const { stdout, stderr } = await reconcile(fleet, 'gate', sets);
      expect(stdout).toMatch(/^no +simular\/win11-hot-testing:v1-20260509 +clone/m);
      expect(stdout).toMatch(/\nERROR MANIFEST_INVALID: .*mixed\/a\.yaml:2: no valid YAML/);
      expect(stderr.match(/^reconcile: /gm)).toHaveLength(2);
    });

    test('and is right: a clone there fails, and on another node of the pool it does not', async () => {
      const clone = async (name: string): Promise<number> =>
        (await fleet.node(name).cocoon('vm', 'clone', '--name', 'gate-check', incident.snapshot)).code;
      expect(await clone(DRIFTED)).toBe(1);
      if (!process.env['COCOON_BIN'] || process.env['COCOON_CH_BINARY']) expect(await clone(node(1))).toBe(0);
    });

    test('reports question and answers, and the rows that they come from', async () => {
      const set = await file('set.yaml', setOf());
      const asked = await report(fleet, 'gate', set);
      expect(asked.run).toMatchObject({ mode: 'gate', exitCode: 2, error: null });
      expect(asked.gate).toMatchObject({ pass: false, minReady: '100%', require: 'start' });
      const [question, ...more] = (asked.gate as Gate).questions;
      expect(more).toEqual([]);
      expect(question).toMatchObject({
        source: `${set}:8`,
        set: 'default/demo',
        role: 'agent',
        mode: 'clone',
        image: incident.snapshot,
        pool: 'default',
        ready: 3,
        needed: 4,
      });
      expect(question?.nodes.find((n) => n.node === DRIFTED)).toMatchObject({
        answer: 'no',
        reasonCode: 'BASE_DRIFTED',
        pullHelps: true,
        help: '`reconcile` heals it (pull)',
      });
      expect(asked.nodes.map(({ name }) => name)).toEqual(DEFAULT);
      expect(nodeOf(asked, DRIFTED)).toMatchObject({
        images: [{ reference: incident.reference, verdict: 'stale' }],
        snapshots: [{ snapshot: incident.snapshot, verdict: 'base-drifted', plan: 'pull', outcome: null }],
      });
      expect(asked.summary.actions.planned).toBe(0);
    });

    test('tells people what, where, why and what helps, and the verdict last', async () => {
      const run = await reconcile(fleet, 'gate', await file('set.yaml', setOf()));
      expect(run.code).toBe(2);
      expect(run.stderr).toBe('');
      expect(run.stdout).toMatch(
        new RegExp(`^no +${incident.snapshot} +clone +default +${DRIFTED} +BASE_DRIFTED$`, 'm'),
      );
      expect(run.stdout).toContain('asked by agent of default/demo');
      expect(run.stdout).toContain('→ `reconcile` heals it (pull)');
      expect(lastLine(run)).toBe(`BLOCKED: ${incident.snapshot} cannot start on ${DRIFTED} (BASE_DRIFTED).`);
      const quiet = await reconcile(fleet, 'gate', '-q', join(dir, 'set.yaml'));
      expect(quiet).toEqual({ code: 2, stdout: `${lastLine(run)}\n`, stderr: '' });
    });

    test('changes nothing under any directory of a node, not even a time, and runs no command that could', async () => {
      await Promise.all(fleet.nodes.map((n) => n.clearLog()));
      const trees = async (): Promise<unknown> =>
        await Promise.all(fleet.nodes.flatMap((n) => [n.rootDir, n.runDir, n.logDir].map(treeOf)));
      const before = await trees();
      const set = await file('set.yaml', setOf());
      expect((await gate(set, '-i', 'simular/win11')).questions).toHaveLength(3);
      expect(await trees()).toEqual(before);
      for (const each of fleet.nodes) {
        expect(
          (await each.commands()).filter((argv) => argv.some((word) => /^(pull|import|rm|clone|gc)$/.test(word))),
        ).toEqual([]);
      }
    });

    test('asks the node that a set names, instead of its pool', async () => {
      const named = (name: string): string => setOf(incident.snapshot, `  nodePool: default\n  nodeName: ${name}\n`);
      expect(answers(await gate(await file('set.yaml', named(node(3)))))).toEqual(['3 yes CLONABLE']);
      expect(answers(await gate(await file('set.yaml', named(GPU))))).toEqual(['5 yes CLONABLE']);
      expect((await reconcile(fleet, 'gate', await file('set.yaml', named(DRIFTED)))).code).toBe(2);
    });

    test('asks the pool that a set names, and leaves what --node leaves out', async () => {
      const gpu = await file('gpu.yaml', setOf(incident.snapshot, '  nodePool: gpu\n'));
      expect(await reconcile(fleet, 'gate', '-q', gpu)).toEqual({ code: 0, stdout: '', stderr: '' });
      const set = await file('set.yaml', setOf());
      const rest = await reconcile(fleet, 'gate', '-w', `!${DRIFTED}`, set);
      expect([rest.code, lastLine(rest)]).toEqual([0, 'PASS: 1 image on 3 nodes can start now.']);
    });

    test('is content with as many nodes as --min-ready or gate.minReady ask for', async () => {
      const set = await file('set.yaml', setOf());
      const enough = await reconcile(fleet, 'gate', '--min-ready', '75%', set);
      expect(enough.code).toBe(0);
      expect(lastLine(enough)).toBe(
        'PASS: 1 image on 4 nodes can start now; 1 answer other than yes, as minReady 75% allows.',
      );
      expect((await reconcile(fleet, 'gate', '--min-ready', '76%', set)).code).toBe(2);
      expect((await reconcile(fleet, 'gate', '--min-ready', '5', set)).code).toBe(2);
      await fleet.writeConfig({ gate: { minReady: 3 } });
      expect(await gate(set)).toMatchObject({ pass: true, minReady: '3' });
    });

    test('takes manifests from a directory and from stdin, and looks past other kinds', async () => {
      const sets = join(dir, 'sets');
      await mkdir(sets);
      await writeFile(join(sets, 'set.yml'), `kind: ConfigMap\ndata: {}\n---\n${setOf()}`);
      await writeFile(join(sets, 'pod.json'), JSON.stringify({ kind: 'List', items: [{ kind: 'Pod' }] }));
      expect(answers(await gate(sets))).toHaveLength(4);
      const list = JSON.stringify({ kind: 'List', items: [{ kind: 'Pod' }] });
      const args = ['--config', fleet.configFile, 'gate', '-o', 'json', '-'];
      const { code, stdout } = await start(args, { stdin: `${setOf()}---\n${list}\n` }).ended;
      expect(code).toBe(2);
      expect((parseReport(stdout).gate as Gate).questions.map(({ source }) => source)).toEqual(['stdin:8']);
    });
  });

  describe('every image of a set is asked for', () => {
    test('agent and toolboxes, each in its mode; a static one is not', async () => {
      const set = await file(
        'boxes.yaml',
        `${setOf()}  toolboxes:
    - { name: base, image: '${incident.reference}' }
    - { name: copy, mode: clone, image: ${incident.snapshot} }
    - { name: db, image: ghcr.io/cocoonstack/cocoon/ubuntu:24.04 }
    - { name: legacy, mode: static, staticIP: 10.1.9.9, staticVMID: ext-1 }
`,
      );
      const { code, cases } = await junit('-w', node(1), '-w', DRIFTED, set);
      expect(code).toBe(2);
      expect(cases).toEqual([
        { image: incident.snapshot, node: node(1), fault: null },
        { image: incident.snapshot, node: DRIFTED, fault: 'failure BASE_DRIFTED' },
        { image: undotted(incident.reference), node: node(1), fault: null },
        { image: undotted(incident.reference), node: DRIFTED, fault: null },
        { image: 'ghcr_io/cocoonstack/cocoon/ubuntu:24_04', node: node(1), fault: 'error REGISTRY_NOT_KNOWN' },
        { image: 'ghcr_io/cocoonstack/cocoon/ubuntu:24_04', node: DRIFTED, fault: 'error REGISTRY_NOT_KNOWN' },
      ]);
    });

    test('a snapshot that no node has fetched is a cold start, with its size, unless its base has drifted', async () => {
      const { reference: image, after } = incident;
      await fleet.epoch.pushSnapshot('simular/cold', 'v1', { image, imageDigest: after.contentDigest ?? '' });
      const cold = await gate('-s', 'simular/cold:v1', '-w', '@default');
      expect(answers(cold)).toEqual(['1 yes COLD_START', '2 no BASE_DRIFTED', '3 yes COLD_START', '4 yes COLD_START']);
      expect(cold.questions[0]?.nodes[0]?.reason).toMatch(/the first start downloads the snapshot \([\d.]+ [kM]?B\)$/);

      const other = await fleet.epoch.pushImage('simular/other', 'latest', {
        content: makeQcow2({ seed: 'other', size: 256 * 1024 }),
      });
      const onOther = { image: `${fleet.epoch.url}/dl/simular/other`, imageDigest: other.contentDigest ?? '' };
      await fleet.epoch.pushSnapshot('simular/far', 'latest', onOther);
      const far = await gate('-s', 'simular/far', '-w', node(1));
      expect(far.questions[0]?.nodes[0]).toMatchObject({
        answer: 'yes',
        reasonCode: 'COLD_START',
        reason: expect.stringMatching(/the snapshot \(.*\) and its base \(262 kB\)$/),
      });
      await fleet.epoch.pushImage('simular/other', 'latest', {
        content: makeQcow2({ seed: 'newer', size: 256 * 1024 }),
      });
      expect(answers(await gate('-s', 'simular/far', '-w', node(1)))).toEqual(['1 no BASE_MISSING']);
    });

    test('what epoch does not have, or what no registry could have, is a no', async () => {
      expect(answers(await gate('-s', 'simular/gone:v9', '-w', node(1)))).toEqual(['1 no TAG_NOT_FOUND']);
      expect(answers(await gate(await file('port.yaml', setOf('host:5000/x:v1')), '-w', node(1)))).toEqual([
        '1 no IMAGE_NAME_INVALID',
      ]);
      expect(answers(await gate('-i', 'simular/gone', '-w', node(1)))).toEqual(['1 no TAG_NOT_FOUND']);
    });

    test('--snapshot and --image ask on every node, pool by pool, or where the config tracks them', async () => {
      const both = await gate('-s', incident.snapshot, '-i', 'simular/win11');
      expect(both.questions.map(({ source, pool, mode, nodes }) => [source, pool, mode, nodes.length])).toEqual([
        ['--snapshot', 'default', 'clone', 4],
        ['--snapshot', 'gpu', 'clone', 1],
        ['--image', 'default', 'run', 4],
        ['--image', 'gpu', 'run', 1],
      ]);
      await fleet.writeConfig({ snapshots: { track: [{ snapshot: incident.snapshot, pools: ['gpu'] }] } });
      expect((await gate('-s', incident.snapshot)).questions.map(({ pool }) => pool)).toEqual(['gpu']);
    });
  });

  describe('a node that cannot be read', () => {
    const downOn = async (name: string, work: () => Promise<void>): Promise<void> => {
      await fleet.node(name).stop();
      try {
        await work();
      } finally {
        await fleet.node(name).start();
      }
    };

    test('is an error in JUnit and makes it 3, and is never left out', async () => {
      const set = await file('set.yaml', setOf());
      await downOn(node(3), async () => {
        const { code, cases } = await junit('-w', `!${DRIFTED}`, set);
        expect(code).toBe(3);
        expect(cases.map(({ node: name, fault }) => [name, fault])).toEqual([
          [node(1), null],
          [node(3), 'error SSH_UNREACHABLE'],
          [node(4), null],
        ]);
        const told = await reconcile(fleet, 'gate', '-w', `!${DRIFTED}`, set);
        expect(lastLine(told)).toBe(
          `BLOCKED: ${incident.snapshot} is not known to start on ${node(3)} (SSH_UNREACHABLE).`,
        );
        expect((await reconcile(fleet, 'gate', '--min-ready', '2', set)).code).toBe(0);
        expect((await junit(set)).code).toBe(2);
      });
    });

    test('and where it is the only one there is no answer: 1', async () => {
      const set = await file('gpu.yaml', setOf(incident.snapshot, '  nodePool: gpu\n'));
      await downOn(GPU, async () => {
        const { code, stderr } = await reconcile(fleet, 'gate', set);
        expect(code).toBe(1);
        expect(stderr).toMatch(
          /^reconcile: the gate has no answer: the node that it asks could not be read: .* connection refused\n/,
        );
        const { cases } = await junit(set);
        expect(cases.map(({ fault }) => fault)).toEqual(['error SSH_UNREACHABLE', 'error GATE_UNREAD']);
      });
    });
  });

  describe('exit 1 and one clear line, never a pass', () => {
    const BAD: [string, string, RegExp][] = [
      [
        'manifests of another kind only',
        'kind: Deployment\n---\nkind: Service\n',
        /there is no CocoonSet among 2 objects \(Deployment, Service\)$/,
      ],
      ['an empty file', '', /the manifests are empty$/],
      ['nothing but comments', '# nothing\n---\n', /the manifests are empty$/],
      ['an unknown pool', 'POOL', /:9: no node is in pool "gpus" \(pools: default, gpu\)$/],
      ['broken YAML', 'kind: [CocoonSet\nx: y', /bad\.yaml:2: no valid YAML: /],
      [
        'an alias bomb',
        'BOMB',
        /bad\.yaml:7: what begins here is more than 1000000 values, aliases and merges included$/,
      ],
      ['deep nesting', '['.repeat(500_000), /bad\.yaml:1: nested more than 200 deep$/],
      [
        'no image',
        'apiVersion: cocoonset.cocoonstack.io/v1\nkind: CocoonSet\nmetadata: {name: x}\nspec: {agent: {}}\n',
        /bad\.yaml:4: spec\.agent\.image: is required$/,
      ],
    ];

    test.each(BAD)('%s', async (_, text, expected) => {
      const level = (name: string, i: number): string => `${name}: &${name} [${`*${'abcde'[i]},`.repeat(10)}]\n`;
      const bomb = `kind: CocoonSet\na: &a [${'x,'.repeat(10)}]\n${'bcdefg'.split('').map(level).join('')}`;
      const content = { POOL: setOf(incident.snapshot, '  nodePool: gpus\n'), BOMB: bomb }[text] ?? text;
      const bad = await file('bad.yaml', content);
      const { code, stdout, stderr } = await reconcile(fleet, 'gate', bad);
      expect({ code, stdout }).toEqual({ code: 1, stdout: '' });
      expect(stderr).toMatch(/^reconcile: [^\n]+\n {2}[^\n]+\n$/);
      expect(stderr.split('\n')[0]).toMatch(expected);
    });

    test('the report and JUnit say it too', async () => {
      const bad = await file('bad.yaml', 'kind: Pod\n');
      const said = await report(fleet, 'gate', bad);
      expect(said).toMatchObject({ run: { mode: 'gate', exitCode: 1, error: { code: 'GATE_EMPTY' } }, gate: null });
      const { code, cases } = await junit(bad);
      expect([code, cases]).toEqual([1, [{ image: 'gate', node: 'gate', fault: 'error GATE_EMPTY' }]]);
    });

    test('a symbolic link out of the directory is not followed', async () => {
      const sets = join(dir, 'linked');
      await mkdir(sets);
      await symlink('/etc/hostname', join(sets, 'x.yaml'));
      const { code, stderr } = await reconcile(fleet, 'gate', sets);
      expect(code).toBe(1);
      expect(stderr).toMatch(
        /^reconcile: \S+\/linked\/x\.yaml: a symbolic link leads out of \S+\/linked, to \/etc\/hostname/,
      );
    });

    test.each<[string, string[], RegExp]>([
      ['nothing named', [], /^reconcile: the gate has nothing to ask: no manifest.*\n {2}name a CocoonSet manifest/],
      ['a file that is not there', ['gone.yaml'], /^reconcile: gone\.yaml: does not exist\n {2}correct the manifest/],
      [
        'a filter that leaves no node of the pool',
        ['-w', '@gpu', 'SET'],
        /:8: no node of pool "default" is left after the --node filters\n/,
      ],
      ['a filter that matches nothing', ['-w', 'x', 'SET'], /^reconcile: --node x matches nothing/],
      ['a pattern', ['-s', 'simular/*'], /asks for what is named exactly, and "simular\/\*" is a pattern/],
      ['a gate that asks for nothing', ['--min-ready', '0', 'SET'], /--min-ready must be at least 1/],
      ['an option that changes nothing', ['--max-pulls', '2', 'SET'], /option --max-pulls makes no sense with "gate"/],
      ['what is not built', ['--observed', 'x', 'SET'], /option --observed is not built yet/],
    ])('%s', async (_, args, expected) => {
      const set = await file('set.yaml', setOf());
      const { code, stdout, stderr } = await reconcile(
        fleet,
        'gate',
        ...args.map((word) => (word === 'SET' ? set : word)),
      );
      expect({ code, stdout }).toEqual({ code: 1, stdout: '' });
      expect(stderr).toMatch(expected);
    });

    test('JUnit is for a gate, and a gate alone', async () => {
      const { code, stderr } = await reconcile(fleet, '--dry-run', '-o', 'junit');
      expect([code, stderr.split('\n')[0]]).toEqual([1, 'reconcile: --output "junit" makes no sense with "run"']);
    });

    test('an epoch that gives no answer at all', async () => {
      await fleet.writeConfig({ epoch: { url: 'http://127.0.0.1:9', retries: 0 } });
      const { code, stderr } = await reconcile(fleet, 'gate', await file('set.yaml', setOf()));
      expect(code).toBe(1);
      expect(stderr).toMatch(/^reconcile: GET http:\/\/127\.0\.0\.1:9\//);
      expect((await junit(join(dir, 'set.yaml'))).cases.at(-1)?.fault).toBe('error REGISTRY_UNREACHABLE');
    });
  });

  describe('once the node is healed', () => {
    beforeAll(async () => {
      expect((await reconcile(fleet, '-w', DRIFTED)).code).toBe(0);
    });

    test('the same gate passes: 0, and JUnit without a failure', async () => {
      const set = await file('set.yaml', setOf());
      const { code, cases } = await junit(set);
      expect(code).toBe(0);
      expect(cases).toEqual(DEFAULT.map((name) => ({ image: incident.snapshot, node: name, fault: null })));
      const told = await reconcile(fleet, 'gate', set);
      expect(lastLine(told)).toBe('PASS: 1 image on 4 nodes can start now.');
    });

    test('a tag that moves on is a note and not a no, unless content in sync is required', async () => {
      const set = await file(
        'set.yaml',
        `${setOf()}  toolboxes:\n    - { name: base, image: '${incident.reference}' }\n`,
      );
      await fleet.epoch.pushImage(incident.image, 'latest', { content: makeQcow2({ seed: 'June', size: 256 * 1024 }) });
      const noted = await report(fleet, 'gate', '-w', node(1), set);
      expect(noted.run.exitCode).toBe(0);
      expect(answers(noted.gate as Gate)).toEqual(['1 yes TAG_MOVED', '1 yes STALE']);
      const told = await reconcile(fleet, 'gate', '-w', node(1), set);
      expect(told.stdout).toContain('the tag of its base has moved on to');

      await fleet.writeConfig({ gate: { require: 'in-sync' } });
      const { code, cases } = await junit('-w', node(1), set);
      expect([code, cases.map(({ fault }) => fault)]).toEqual([2, ['failure TAG_MOVED', 'failure STALE']]);
    });
  });
});
