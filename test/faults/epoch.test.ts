// Trouble at epoch, and answers that say something else than they seem to: by the real command on real nodes.
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import type { ImageRow, Report } from '../../src/core/model/report.ts';
import { makeQcow2 } from '../doubles/cocoon/fixtures.ts';
import type { Fault } from '../doubles/epoch.ts';
import { MEDIA, rawArtifact, type Artifact } from '../doubles/registry-content.ts';
import { startFleet, type Fleet } from '../fleet/world.ts';
import { imageOn, nodeOf, reconcile, report } from '../support/reconcile.ts';

const disk = (seed: string): { content: Buffer } => ({ content: makeQcow2({ seed }) });

/** A file name per test image: `simular/NAME` at epoch. */
const repo = (name: string): string => `simular/${name}`;

function rowOf(of: Report, node: string, reference: string): ImageRow {
  const found = nodeOf(of, node).images.find((row) => row.reference === reference);
  if (found === undefined) throw new Error(`no row for ${reference} on ${node}`);
  return found;
}

describe('an epoch that stumbles', () => {
  const MANIFEST = /^GET \/v2\/simular\/win11\/manifests\/latest/;
  let fleet: Fleet;
  let image: Artifact;

  beforeAll(async () => {
    fleet = await startFleet({ nodes: 1 });
    image = await fleet.epoch.pushImage(repo('win11'), 'latest', disk('win11'));
    await fleet.epoch.pushImage(repo('ubuntu'), 'latest', disk('ubuntu'));
    for (const name of ['win11', 'ubuntu']) await fleet.nodes[0]?.pull(`${fleet.epoch.url}/dl/${repo(name)}`);
  });
  afterAll(async () => await fleet?.down());
  afterEach(async () => {
    fleet.epoch.heal();
    await fleet.writeConfig();
  });

  /** What a dry run says, and how often the manifest of the image was asked for. */
  const look = async (...faults: Fault[]): Promise<{ dry: Report; win11: ImageRow; asked: number }> => {
    for (const fault of faults) fleet.epoch.fail(fault);
    fleet.epoch.requests.length = 0;
    const dry = await report(fleet, '--dry-run');
    const asked = fleet.epoch.requests.filter(({ method, path }) => MANIFEST.test(`${method} ${path}`)).length;
    return { dry, win11: imageOn(dry, 'cocoonset-node-1'), asked };
  };

  test.each<[string, Partial<Fault>, number]>([
    ['503 twice', { how: 503, times: 2 }, 3],
    ['a connection that is reset', { how: 'reset' }, 2],
    ['429 with Retry-After', { how: 429, retryAfter: 1 }, 2],
    ['half an answer', { how: 'cut' }, 2],
  ])('%s is asked again', async (_what, fault, times) => {
    const { dry, win11, asked } = await look({ match: MANIFEST, how: 503, ...fault });
    expect(asked).toBe(times);
    expect(win11).toMatchObject({ verdict: 'in-sync', want: image.contentDigest, error: null });
    expect(dry.run.exitCode).toBe(0);
  });

  test.each<[string, Partial<Fault>, string, RegExp, number]>([
    ['503 for good', { how: 503 }, 'REGISTRY_UNREACHABLE', /status 503 UNAVAILABLE/, 2],
    ['silence', { how: 'hang' }, 'REGISTRY_UNREACHABLE', /no answer within 500 ms/, 2],
    ['silence after half an answer', { how: 'stall' }, 'REGISTRY_UNREACHABLE', /no answer within 500 ms/, 2],
    ['a login page', { how: 'html' }, 'REGISTRY_ANSWER_INVALID', /no JSON/, 1],
    [
      'JSON that is cut off',
      { how: 200, body: '{"schemaVersion":2,"layers":[{' },
      'REGISTRY_ANSWER_INVALID',
      /no JSON/,
      1,
    ],
    ['a list instead of a manifest', { how: 200, body: '[]' }, 'REGISTRY_ANSWER_INVALID', /no object/, 1],
    [
      'a layer without a digest',
      { how: 200, body: '{"layers":[{"mediaType":"a","size":1}]}' },
      'REGISTRY_ANSWER_INVALID',
      /layers\[0\]\.digest is no sha256 digest/,
      1,
    ],
    [
      'another digest than that of the body',
      { how: 200, body: '{}', headers: { 'Docker-Content-Digest': `sha256:${'0'.repeat(64)}` } },
      'REGISTRY_ANSWER_INVALID',
      /Docker-Content-Digest does not fit/,
      1,
    ],
    ['a flipped bit', { how: 'flip' }, 'REGISTRY_ANSWER_INVALID', /Docker-Content-Digest does not fit/, 1],
    [
      'a manifest without end',
      { how: 200, body: `{"pad":"${'x'.repeat(5 * 2 ** 20)}"}` },
      'REGISTRY_ANSWER_INVALID',
      /longer than \d+ bytes/,
      1,
    ],
    ['a refusal', { how: 403, body: 'no' }, 'REGISTRY_ANSWER_INVALID', /status 403: no/, 1],
    ['404 by something that is no registry', { how: 404, body: '<h1>nginx</h1>' }, 'REGISTRY_ANSWER_INVALID', /404/, 1],
  ])('%s leaves that image unknown and no other', async (_what, fault, code, message, times) => {
    await fleet.writeConfig({ epoch: { timeout: '500ms', retries: 1 } });
    const { dry, win11, asked } = await look({ match: MANIFEST, times: Infinity, how: 503, ...fault });
    expect(win11).toMatchObject({ verdict: 'unknown', plan: null, want: null, error: { code } });
    expect(win11.error?.message).toMatch(message);
    expect(asked).toBe(times);
    expect(imageOn(dry, 'cocoonset-node-1', repo('ubuntu')).verdict).toBe('in-sync');
    expect(dry.run).toMatchObject({ exitCode: 3, error: null });
  });

  test.each<[string, Partial<Fault>, string]>([
    ['a login page for everything', { how: 'html' }, 'REGISTRY_ANSWER_INVALID'],
    ['503 for everything', { how: 503 }, 'REGISTRY_UNREACHABLE'],
    ['an epoch that has lost its object store', { how: 'outage' }, 'REGISTRY_UNREACHABLE'],
    ['silence to everything', { how: 'hang' }, 'REGISTRY_UNREACHABLE'],
  ])('%s is no answer at all: 1, and nothing is planned', async (_what, fault, code) => {
    await fleet.writeConfig({ epoch: { timeout: '500ms', retries: 1 } });
    await fleet.nodes[0]?.clearLog();
    fleet.epoch.fail({ match: /./, times: Infinity, how: 503, ...fault });
    const ran = await report(fleet);
    expect(ran.run).toMatchObject({ exitCode: 1, error: { code } });
    expect(ran.summary.images.unknown).toBe(2);
    expect(ran.summary.actions.planned).toBe(0);
    expect(imageOn(ran, 'cocoonset-node-1').error?.code).toBe(code);
    expect((await fleet.nodes[0]?.commands())?.filter((argv) => argv.includes('pull'))).toEqual([]);
  });

  test('a blob that epoch cannot be asked for is no reason to call the image lost', async () => {
    await fleet.writeConfig({ epoch: { retries: 0 } });
    const { dry, win11 } = await look({ match: /^HEAD \/v2\/simular\/win11\/blobs/, times: Infinity, how: 503 });
    expect(win11.verdict).toBe('in-sync');
    expect(win11.error?.code).not.toBe('REGISTRY_BLOB_MISSING');
    expect(dry.run.exitCode).toBe(0);
  });

  test('what a stranger writes into an error never reaches the terminal', async () => {
    fleet.epoch.fail({ match: MANIFEST, times: Infinity, how: 403, body: '\u001b[2J\u001b]0;owned\u0007 no\u202e' });
    const { code, stdout, stderr } = await reconcile(fleet, '--dry-run', '--verbose', '--no-color');
    expect(code).toBe(3);
    expect(stdout).toContain('status 403');
    // oxlint-disable-next-line no-control-regex -- finding control characters is the point
    for (const text of [stdout, stderr]) expect(text).not.toMatch(/[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]/);
  });
});

describe('what epoch serves', () => {
  const NODE = 'cocoonset-node-1';
  const BARE = 'cocoonset-node-2';
  const pushed: Record<string, Artifact> = {};
  let fleet: Fleet;
  let dry: Report;

  const key = (name: string): string => `${fleet.epoch.url}/dl/${repo(name)}`;
  const row = (name: string): ImageRow => imageOn(dry, NODE, repo(name));

  beforeAll(async () => {
    fleet = await startFleet({ nodes: 2 });
    const { epoch } = fleet;
    const node = fleet.node(NODE);
    const push = async (name: string, tag = 'latest', seed = name): Promise<Artifact> =>
      (pushed[name] = await epoch.pushImage(repo(name), tag, disk(seed)));
    const HELD = [
      'win11',
      'tagless',
      'lost',
      'gone',
      'split',
      'snapshot',
      'container',
      'strange',
      'diskless',
      'scratch-1',
    ];
    for (const name of HELD) {
      await push(name);
      await node.pull(key(name));
    }
    pushed['legacy'] = await epoch.pushImage(repo('legacy'), 'latest', {
      ...disk('legacy'),
      artifactType: MEDIA.windowsImage,
      mediaType: 'application/vnd.cocoonstack.windows.disk.qcow2',
    });
    await node.pull(key('legacy'));
    await push('needed');
    await push('optional');
    const blobUrl = `${epoch.url}/v2/${repo('win11')}/blobs/${pushed['win11']?.contentDigest}`;
    const foreign = `http://localhost:${epoch.port}/dl/${repo('win11')}`;
    for (const reference of [`${key('win11')}?again`, blobUrl, foreign]) await node.pull(reference);

    for (const tag of ['v1', 'v2']) await push('tagless', tag);
    await epoch.deleteTag(repo('tagless'), 'latest');
    await push('lost', 'latest', 'lost, pushed again');
    for (const name of ['lost', 'gone']) epoch.deleteBlob(pushed[name]?.contentDigest ?? '');
    await epoch.pushImage(repo('split'), 'latest', { ...disk('split'), parts: 3 });
    await epoch.pushSnapshot(repo('snapshot'), 'latest');
    await epoch.pushContainer(repo('container'), 'latest');
    await epoch.pushImage(repo('strange'), 'latest', { ...disk('strange'), artifactType: 'application/vnd.example' });
    await epoch.push(
      repo('diskless'),
      'latest',
      rawArtifact({ schemaVersion: 2, mediaType: MEDIA.manifest, artifactType: MEDIA.osImage, layers: [] }),
    );
    await fleet.writeConfig({
      images: {
        ignore: ['*/scratch-*'],
        track: [
          { image: repo('needed'), presence: 'required' },
          { image: repo('optional') },
          { image: repo('win11') },
          { image: repo('never-pushed') },
        ],
      },
    });
    dry = await report(fleet, '--dry-run');
  });
  afterAll(async () => await fleet?.down());

  test('drift and unknown images together are 2, and without the drift 3', async () => {
    expect(dry.run.exitCode).toBe(2);
    const part = await report(fleet, '--dry-run', '-i', repo('win11'), '-i', repo('tagless'));
    expect(part.run.exitCode).toBe(3);
    expect(imageOn(part, NODE, repo('win11')).verdict).toBe('in-sync');
  });

  test('a tag that is not there is unknown, with the tags that exist, and the others go on', () => {
    expect(row('tagless')).toMatchObject({ verdict: 'unknown', plan: null, error: { code: 'TAG_NOT_FOUND' } });
    expect(row('tagless').error?.message).toBe('epoch has no tag latest of simular/tagless');
    expect(row('tagless').error?.hint).toBe('tags there: v1, v2');
    expect(row('win11').verdict).toBe('in-sync');
  });

  test('a repository that is not there is unknown on every node, whether or not it holds an entry', () => {
    for (const name of [NODE, BARE]) {
      const missing = imageOn(dry, name, repo('never-pushed'));
      expect(missing).toMatchObject({ verdict: 'unknown', plan: null, error: { code: 'TAG_NOT_FOUND' } });
      expect(missing.error?.hint).toContain('no tag at all');
    }
  });

  test('an image whose blob epoch has lost is stale, and nothing is planned that cannot work', () => {
    expect(row('lost')).toMatchObject({ verdict: 'stale', plan: null, error: { code: 'REGISTRY_BLOB_MISSING' } });
    expect(row('lost').want).toBe(pushed['lost']?.contentDigest);
    expect(row('lost').error?.hint).toContain(pushed['lost']?.contentDigest);
    expect(row('lost').reason).toContain('epoch cannot serve blob');
  });

  test('where the node still holds what epoch has lost it is in sync, and warned', () => {
    expect(row('gone')).toMatchObject({ verdict: 'in-sync', plan: null, error: { code: 'REGISTRY_BLOB_MISSING' } });
  });

  test('a split image, whose manifest does not tell what a node records, is streamed', () => {
    expect(row('split')).toMatchObject({ verdict: 'in-sync', plan: null, want: pushed['split']?.contentDigest });
  });

  test.each([
    ['snapshot', /hot snapshot and no image/],
    ['container', /container image: cocoon pulls it by its OCI reference/],
    ['strange', /unknown kind \(artifactType application\/vnd\.example\)/],
    ['diskless', /holds no disk/],
  ])('an artifact whose content digest cannot be known is unknown, and says why: %s', (name, why) => {
    expect(row(name)).toMatchObject({ verdict: 'unknown', plan: null, want: null });
    expect(row(name).error?.code).toBe('ARTIFACT_UNSUPPORTED');
    expect(row(name).reason).toMatch(why);
  });

  test('an image of the older artifact type is one like any other', () => {
    expect(row('legacy')).toMatchObject({ verdict: 'in-sync', want: pushed['legacy']?.contentDigest });
  });

  test('two keys that mean one image have a row each', () => {
    const keys = nodeOf(dry, NODE)
      .images.filter(({ image }) => image === repo('win11'))
      .map(({ reference, verdict }) => [reference, verdict]);
    expect(keys).toEqual(
      expect.arrayContaining([
        [key('win11'), 'in-sync'],
        [`${key('win11')}?again`, 'in-sync'],
      ]),
    );
    expect(keys).toHaveLength(2);
  });

  test('a URL of another host, and one that names a blob, are unmanaged, each with its reason', () => {
    const foreign = rowOf(dry, NODE, `http://localhost:${fleet.epoch.port}/dl/${repo('win11')}`);
    expect(foreign).toMatchObject({ verdict: 'unmanaged', reason: 'the URL is not of this epoch', image: null });
    expect(foreign.error?.code).toBe('EPOCH_ALIAS_SUSPECTED'); // its path names what this epoch serves
    const blob = rowOf(dry, NODE, `${fleet.epoch.url}/v2/${repo('win11')}/blobs/${pushed['win11']?.contentDigest}`);
    expect(blob).toMatchObject({ verdict: 'unmanaged', image: null });
    expect(blob.reason).toContain('by its digest');
  });

  test('what the config ignores is in no report', () => {
    expect(JSON.stringify(dry)).not.toContain('scratch-1');
  });

  test('an image that must be there is missing where it is not, another one merely absent', () => {
    for (const name of [NODE, BARE]) {
      expect(imageOn(dry, name, repo('needed'))).toMatchObject({
        reference: key('needed'),
        verdict: 'missing',
        plan: 'pull',
      });
      expect(imageOn(dry, name, repo('optional'))).toMatchObject({ verdict: 'absent', plan: null });
    }
    expect(imageOn(dry, BARE, repo('win11'))).toMatchObject({ verdict: 'absent', plan: null });
  });

  test('images that no config names are judged where a node holds them, and nowhere else', () => {
    const names = nodeOf(dry, BARE).images.map(({ image }) => image);
    expect(new Set(names)).toEqual(new Set(['needed', 'never-pushed', 'optional', 'win11'].map(repo)));
  });

  test('without discovery only what the config names is judged', async () => {
    await fleet.writeConfig({ images: { discover: false, track: [{ image: repo('win11') }] } });
    const named = await report(fleet, '--dry-run');
    expect(named.run.exitCode).toBe(3); // because of the URL of another host
    expect(named.desired.map(({ image }) => image)).toEqual([repo('win11')]);
    expect(imageOn(named, NODE, repo('win11')).verdict).toBe('in-sync');
    expect(rowOf(named, NODE, key('lost'))).toMatchObject({
      verdict: 'unmanaged',
      reason: 'no tracked tag covers it',
    });
  });

  test('a run pulls what must be there, and leaves the rest alone', async () => {
    await fleet.writeConfig({ images: { track: [{ image: repo('needed'), presence: 'required' }] } });
    await Promise.all(fleet.nodes.map((node) => node.clearLog()));
    const ran = await report(fleet, '-i', repo('needed'));
    expect(ran.run.exitCode).toBe(0);
    for (const node of fleet.nodes) {
      expect(imageOn(ran, node.name, repo('needed'))).toMatchObject({
        outcome: 'healed',
        after: pushed['needed']?.contentDigest,
      });
      const pulls = (await node.commands()).filter((argv) => argv.includes('pull'));
      expect(pulls.map((argv) => argv.at(-1))).toEqual([key('needed')]);
    }
  });
});

describe('an epoch of the newer generation', () => {
  const NODE = 'cocoonset-node-1';
  let fleet: Fleet;
  let dry: Report;
  let tagged: Artifact;
  let named: Artifact;
  const key = (path: string): string => `${fleet.epoch.url}/dl/${path}`;

  beforeAll(async () => {
    fleet = await startFleet({ nodes: 1, epoch: { generation: 'may' } });
    const { epoch } = fleet;
    tagged = await epoch.pushImage('simular', 'win11', disk('tag win11 of simular'));
    named = await epoch.pushImage('simular/win11', 'latest', disk('latest of simular/win11'));
    await epoch.pushImage('simular/tool', 'v2', disk('tool v2'));
    await epoch.pushImage('simular/tool', 'latest', disk('tool'));
    await epoch.pushImage('simular/lost', 'v1', disk('lost'));
    for (const path of [
      'simular/win11',
      'simular/win11/latest',
      'simular/tool/v2',
      'simular/tool',
      'simular/tool/latest',
    ])
      await fleet.nodes[0]?.pull(key(path));
    dry = await report(fleet, '--dry-run');
  });
  afterAll(async () => await fleet?.down());

  test('/dl/a/b is judged as epoch serves it, and the ambiguity is said, with the URL that has none', () => {
    const ambiguous = rowOf(dry, NODE, key('simular/win11'));
    expect(ambiguous).toMatchObject({ image: 'simular', tag: 'win11', verdict: 'in-sync', have: tagged.contentDigest });
    expect(ambiguous.reason).toContain('ambiguous');
    expect(ambiguous.reason).toContain('/dl/simular/win11/latest');
  });

  test('/dl/a/b/TAG means that tag', () => {
    expect(rowOf(dry, NODE, key('simular/win11/latest'))).toMatchObject({
      image: 'simular/win11',
      tag: 'latest',
      verdict: 'in-sync',
      have: named.contentDigest,
    });
    expect(rowOf(dry, NODE, key('simular/tool/v2'))).toMatchObject({
      image: 'simular/tool',
      tag: 'v2',
      verdict: 'in-sync',
    });
  });

  test('/dl/a/b and /dl/a/b/latest are two keys of one image', () => {
    for (const path of ['simular/tool', 'simular/tool/latest']) {
      expect(rowOf(dry, NODE, key(path))).toMatchObject({ image: 'simular/tool', tag: 'latest', verdict: 'in-sync' });
    }
    expect(dry.desired.filter(({ image, tag }) => image === 'simular/tool' && tag === 'latest')).toHaveLength(1);
    expect(dry.run.exitCode).toBe(0);
  });

  test('a tracked tag is found under its own key', async () => {
    await fleet.writeConfig({ images: { discover: false, track: [{ image: 'simular/tool', tag: 'v2' }] } });
    const part = await report(fleet, '--dry-run', '-i', 'simular/tool:v2');
    expect(imageOn(part, NODE, 'simular/tool')).toMatchObject({
      reference: key('simular/tool/v2'),
      verdict: 'in-sync',
    });
    expect(part.run.exitCode).toBe(0);
  });

  test('the key of a tracked image that epoch serves for another one is not judged as the tracked image', async () => {
    await fleet.writeConfig({ images: { discover: false, track: [{ image: 'simular/win11' }] } });
    const part = await report(fleet, '--dry-run');
    expect(rowOf(part, NODE, key('simular/win11')).verdict).not.toBe('stale');
    expect(rowOf(part, NODE, key('simular/win11')).plan).toBeNull();
    expect(rowOf(part, NODE, key('simular/win11/latest'))).toMatchObject({
      image: 'simular/win11',
      verdict: 'in-sync',
    });
    expect(part.run.exitCode).toBe(0);
  });

  test('a re-push of one of two keys is healed under each of them', async () => {
    await fleet.writeConfig();
    const again = await fleet.epoch.pushImage('simular/tool', 'latest', disk('tool again'));
    const ran = await report(fleet, '-i', 'simular/tool:latest');
    expect(ran.run.exitCode).toBe(0);
    for (const path of ['simular/tool', 'simular/tool/latest']) {
      expect(rowOf(ran, NODE, key(path))).toMatchObject({
        verdict: 'stale',
        outcome: 'healed',
        after: again.contentDigest,
      });
    }
  });
});
