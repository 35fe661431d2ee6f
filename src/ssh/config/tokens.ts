/** What stands for something else in an ssh config: `%h`, `${NAME}`, `~`. */
import { hostname } from 'node:os';
import { dirname, join } from 'node:path';
import { fault } from '../../core/errors.ts';
import { userName, userNumber } from '../../system/user.ts';

/** What a config file means depends on whose it is. */
export interface Surroundings {
  /** The home directory: `~`, and where relative names of included files begin (in its `.ssh`). */
  home: string;
  env: Record<string, string | undefined>;
}

const HINT = 'see ssh.configFile';

/** `%h` and the like → their values; `%%` → `%`. @throws CONFIG_INVALID for a token that has none */
export function expandTokens(text: string, tokens: Record<string, string>, what: string): string {
  return text.replace(/%(.?)/g, (token, letter: string) => {
    const value = letter === '%' ? '%' : tokens[letter];
    if (value === undefined) {
      throw fault('CONFIG_INVALID', {
        problem: `the ssh config: ${token} in ${what} ${text} is not supported`,
        hint: HINT,
      });
    }
    return value;
  });
}

/** `${NAME}` → the environment variable. @throws CONFIG_INVALID for one that is not set, as ssh does */
export function expandEnv(text: string, env: Surroundings['env'], place: string): string {
  return text.replace(/\$\{([^}]*)(\}?)/g, (match, name: string, end: string) => {
    const value = end !== '' && Object.hasOwn(env, name) ? env[name] : undefined;
    if (value === undefined)
      throw fault('CONFIG_INVALID', {
        problem: `${place}: ${match}: ${text} names no variable of the environment`,
        hint: HINT,
      });
    return value;
  });
}

/** What the tokens of paths stand for. */
export function tokensOf(
  host: { original: string; name: string; port: number; user: string; alias: string | null },
  home: string,
): Record<string, string> {
  return {
    h: host.name,
    n: host.original,
    p: String(host.port),
    r: host.user,
    k: host.alias ?? host.original,
    d: home,
    u: userName(),
    i: userNumber(),
    l: hostname(),
    L: hostname().split('.')[0] as string,
  };
}

/**
 * A path of the file → absolute; `~`, tokens and variables expanded. A relative one begins where its file lies.
 * @throws CONFIG_INVALID for a token or a variable that has no value, and for `~name`
 */
export function expandPath(
  path: string,
  tokens: Record<string, string>,
  { home, env }: Surroundings,
  file: string,
): string {
  const isOfHome = path === '~' || path.startsWith('~/');
  if (path.startsWith('~') && !isOfHome) {
    throw fault('CONFIG_INVALID', {
      problem: `the ssh config: ${path}: of the forms with ~ only ~/… is understood`,
      hint: HINT,
    });
  }
  // one after the other would expand what a value holds
  const text = path
    .slice(isOfHome ? 1 : 0)
    .split(/(\$\{[^}]*\}?)/)
    .map((part) =>
      part.startsWith('${') ? expandEnv(part, env, 'the ssh config') : expandTokens(part, tokens, 'the path'),
    )
    .join('');
  if (isOfHome) return join(home, text);
  return text.startsWith('/') ? text : join(dirname(file), text);
}
