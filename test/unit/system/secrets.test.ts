/** Secrets are taken out of all that is shown, in whatever form they come back, and nothing else is. */
import { expect, test } from 'vitest';
import { keepSecret, redact, redactQuote } from '../../../src/system/secrets.ts';

test('a secret in any text at any depth, as it is and as JSON, a URL or base64 write it; keys stay', () => {
  const secret = 'k/ey "one"';
  keepSecret(secret);
  const forms = [secret, 'k/ey \\"one\\"', 'k%2Fey%20%22one%22', Buffer.from(secret).toString('base64url')];
  const clean = redact({ [secret]: [{ a: forms.join(' '), b: 1, c: null }] });
  expect(clean).toEqual({ [secret]: [{ a: Array(4).fill('[redacted]').join(' '), b: 1, c: null }] });
});

test('a short one only where somebody said it to whom it was sent: elsewhere it is part of a word', () => {
  keepSecret('stale');
  expect(redact('stale')).toBe('stale');
  expect(redactQuote('you said stale')).toBe('you said [redacted]');
});

test('who a URL says one is; no port and no digest', () => {
  expect(redact('GET http://op:pw@epoch.example/v2/')).toBe('GET http://[redacted]@epoch.example/v2/');
  const digest = `http://epoch.example:8080/a@sha256:${'a'.repeat(64)} root@node-1`;
  expect(redact(digest)).toBe(digest);
});
