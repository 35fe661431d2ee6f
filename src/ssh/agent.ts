/** The ssh-agent: which keys it has, and one of them as something to offer. */
import ssh2 from 'ssh2';
import type { AnyAuthMethod, ParsedKey } from 'ssh2';
import { formatDuration } from '../core/text.ts';
import { settleOnce } from '../system/deadline.ts';

/** How long the agent may take to say which keys it has. It does so at once, or hangs. */
export const AGENT_MS = 1_000;

/** One key to offer to a server. `label` is for people: a file, or a fingerprint; nothing secret. */
export interface Credential {
  label: string;
  /** It needs to know nothing of the server: we hold the key, and it signs in one way only, as RSA does not. */
  isImmediate: boolean;
  auth(username: string): AnyAuthMethod;
}

/** A key of the agent as the only one that ssh2 sees of it. */
export function createAgentCredential(agent: ssh2.BaseAgent, key: ParsedKey, label: string): Credential {
  const one = new OneKeyAgent(agent, key);
  return { label, isImmediate: false, auth: (username) => ({ type: 'agent', username, agent: one }) };
}

/**
 * The agent's keys; what ssh2 cannot offer (certificates, hardware keys) is left out. An error where it has none to say.
 * @param onSilence called where it does not answer in time
 */
export function listKeys(agent: ssh2.BaseAgent, onSilence: () => void): Promise<ParsedKey[] | Error> {
  const reason = (): Error => {
    onSilence();
    return new Error(`no answer within ${formatDuration(AGENT_MS)}`);
  };
  return settleOnce<ParsedKey[] | Error>({ timeout: { afterMs: AGENT_MS, reason } }, ({ done, fail }) => {
    agent.getIdentities((error, keys) => {
      if (error) return fail(error);
      const parsed = (keys ?? []).map((key) => ssh2.utils.parseKey(key as Buffer) as ParsedKey | ParsedKey[] | Error);
      done(parsed.flatMap((key) => (key instanceof Error ? [] : key)));
    });
  }).catch((error: Error) => error);
}

/** ssh2 offers all keys of an agent in one go: this shows it one, and leaves the signing to the true agent. */
class OneKeyAgent extends ssh2.BaseAgent {
  readonly #agent: ssh2.BaseAgent;
  readonly #key: ParsedKey;
  constructor(agent: ssh2.BaseAgent, key: ParsedKey) {
    super();
    this.#agent = agent;
    this.#key = key;
  }
  override getIdentities(callback: ssh2.IdentityCallback): void {
    callback(undefined, [this.#key]);
  }
  override sign(
    key: ParsedKey | Buffer | string,
    data: Buffer,
    options: ssh2.SigningRequestOptions | ssh2.SignCallback,
    callback?: ssh2.SignCallback,
  ): void {
    this.#agent.sign(key, data, options as ssh2.SigningRequestOptions, callback);
  }
}
