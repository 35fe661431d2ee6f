/** Entries that may be of epoch under an address that the config does not know, and what it costs to find out. */
import { describe, expect, test } from 'vitest';
import { fault } from '../../../../src/core/errors.ts';
import { addressOf, downloadOf, isSameDownload, meaningOf } from '../../../../src/core/reference.ts';
import { findSuspects } from '../../../../src/pipeline/resolve/aliases.ts';
import { EPOCH, sha, WIN11 } from '../../../support/facts.ts';

const ALIAS = 'http://epoch.cocoon-system.svc:8080';
const signal = new AbortController().signal;

/** An epoch with these repositories; the names that it was asked for. */
function epochWith(...repositories: string[]): { asked: string[]; tags: (repository: string) => Promise<string[]> } {
  const asked: string[] = [];
  return {
    asked,
    tags: async (repository) => {
      asked.push(repository);
      return await Promise.resolve(repositories.includes(repository) ? ['latest'] : []);
    },
  };
}

const suspected = async (byNode: string[][], epoch = epochWith('simular/win11')): Promise<string[]> =>
  Object.keys(await findSuspects(byNode, [EPOCH], epoch, signal));

describe('what is suspected', () => {
  test.each([
    `${ALIAS}/dl/simular/win11`,
    `${ALIAS}/dl/simular/win11/v1`,
    `${ALIAS}/dl/simular/win11?x=1`,
    `${ALIAS}/dl/simular/win11/${sha('a1')}`,
    `${ALIAS}/epoch/dl/simular/win11`,
    'http://epoch.example/dl/simular/win11',
  ])('%s', async (reference) => {
    const suspects = await findSuspects([[reference]], [EPOCH], epochWith('simular/win11'), signal);
    expect(suspects[reference]).toMatchObject({ image: 'simular/win11', error: { code: 'EPOCH_ALIAS_SUSPECTED' } });
    expect(suspects[reference]?.error.hint).toContain(`epoch: {aliases: [${downloadOf(reference)?.address}]}`);
  });

  test.each([
    WIN11,
    `${ALIAS}/dl/vendor/cloud`,
    `${ALIAS}/simular/win11`,
    `${ALIAS}/dl/`,
    `${ALIAS}/dl/simular/win11/`,
    'https://user:pw@epoch.example/dl/simular/win11',
    'simular/win11:latest',
    'https://',
  ])('not %s', async (reference) => {
    expect(await suspected([[reference]])).toEqual([]);
  });

  test('what epoch cannot be asked about, with its error', async () => {
    const tags = async (): Promise<string[]> =>
      await Promise.reject(fault('REGISTRY_UNREACHABLE', { method: 'GET', url: EPOCH, cause: '503' }));
    const suspects = await findSuspects([[`${ALIAS}/dl/a/b`]], [EPOCH], { tags }, signal);
    expect(suspects[`${ALIAS}/dl/a/b`]?.error.code).toBe('REGISTRY_UNREACHABLE');
  });
});

describe('what it costs', () => {
  test('one question per repository, however many nodes hold it under however many addresses', async () => {
    const epoch = epochWith('simular/win11');
    const nodes = Array.from({ length: 50 }, (_, i) => [
      `http://10.0.0.${i}/dl/simular/win11`,
      `${ALIAS}/dl/simular/win11`,
    ]);
    expect(await suspected(nodes, epoch)).toHaveLength(51);
    expect(epoch.asked).toEqual(['simular/win11']);
  });

  test('a node with ten thousand addresses costs a few dozen questions, and crowds out nobody', async () => {
    const epoch = epochWith('simular/win11');
    const flood = Array.from({ length: 10_000 }, (_, i) => `http://evil.example/dl/x${i}`);
    const floods = Array.from({ length: 20 }, (_, i) => flood.map((reference) => `${reference}n${i}`));
    const honest = Array.from({ length: 2 }, () => [`${ALIAS}/dl/simular/win11`]);
    const suspects = await findSuspects([...floods, ...honest], [EPOCH], epoch, signal);
    expect(epoch.asked.length).toBeLessThanOrEqual(300);
    expect(suspects[`${ALIAS}/dl/simular/win11`]?.error.message).toContain('serves simular/win11 too');
    // What nobody asked about is not called well.
    expect(suspects['http://evil.example/dl/x9999n0']?.error.message).toContain('too many such');
    expect(suspects['http://evil.example/dl/x0n0']).toBeUndefined();
  });
});

describe('several addresses of one epoch', () => {
  const addresses = [EPOCH, ALIAS, 'https://proxy.example/epoch', 'https://proxy.example'];

  test.each([
    ['http://EPOCH.cocoon-system.SVC:8080/dl/x', 'x', ALIAS],
    [`${EPOCH}:443/dl/x`, 'x', EPOCH],
    ['https://proxy.example/epoch/dl/x', 'x', 'https://proxy.example/epoch'],
    ['https://proxy.example/dl/epoch/dl/x', 'epoch/dl/x', 'https://proxy.example'],
  ])('%s', (reference, path, address) => {
    expect(meaningOf(reference, addresses)).toEqual({ kind: 'download', path });
    expect(addressOf(reference, addresses)).toBe(address);
  });

  test('two keys of the same path are the same download, whatever the address', () => {
    expect(isSameDownload(WIN11, `${ALIAS}/dl/simular/win11`, addresses)).toBe(true);
    expect(isSameDownload(WIN11, `${ALIAS}/dl/simular/win11/v1`, addresses)).toBe(false);
    expect(isSameDownload(WIN11, 'http://elsewhere.example/dl/simular/win11', addresses)).toBe(false);
    expect(isSameDownload('simular/win11', 'simular/win11', addresses)).toBe(false);
  });

  test('an OCI reference on any of their hosts is one of epoch', () => {
    const reference = 'epoch.cocoon-system.svc:8080/a/b:1';
    expect(meaningOf(reference, addresses)).toEqual({ kind: 'epoch-oci', repository: 'a/b', tag: '1' });
  });
});
