/**
 * What must never be shown: tokens, passwords, passphrases. Whoever reads one says so here, and whatever is printed, logged
 * or written goes through `redact`, because an answer of somebody else may echo what we sent.
 */

const REDACTED = '[redacted]';
/** A shorter one is part of so many words that taking it out of them all would tell it. */
const SHORTEST = 8;

let longestFirst: string[] = [];

/** Remembers a secret in the forms in which it may come back: as it is, and as JSON, a URL and base64 write it. */
export function keepSecret(secret: string): void {
  const bytes = Buffer.from(secret);
  const forms = [secret, JSON.stringify(secret).slice(1, -1), encodeURIComponent(secret)];
  const encoded = [bytes.toString('base64'), bytes.toString('base64').replace(/=+$/, ''), bytes.toString('base64url')];
  const kept = new Set([...longestFirst, ...forms, ...encoded].filter((form) => form !== ''));
  longestFirst = [...kept].sort((a, b) => b.length - a.length);
}

/** The value with no secret in any of its texts, nor the user and password of a URL. Keys of objects stay. */
export function redact<T>(value: T): T {
  return redacted(value, SHORTEST) as T;
}

/** The same of what somebody said to whom secrets were sent: there short ones are taken out, too. */
export function redactQuote(text: string): string {
  return redactText(text, 1);
}

function redacted(value: unknown, shortest: number): unknown {
  if (typeof value === 'string') return redactText(value, shortest);
  if (typeof value !== 'object' || value === null) return value;
  if (Array.isArray(value)) return value.map((one) => redacted(one, shortest));
  return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, redacted(one, shortest)]));
}

function redactText(text: string, shortest: number): string {
  let clean = text;
  for (const secret of longestFirst) {
    if (secret.length < shortest) break;
    if (clean.includes(secret)) clean = clean.replaceAll(secret, REDACTED);
  }
  return clean.includes('@') ? clean.replace(/(\bhttps?:\/\/)[^\s/@"'\\]+@/gi, `$1${REDACTED}@`) : clean;
}
