/** Who runs this, as far as the system knows: a container's user may have neither a name nor a home. */
import { homedir, hostname, userInfo } from 'node:os';
import { getuid } from 'node:process';

/** `$HOME`, else what the user database says; where there is neither, a directory in which nothing is found. */
export function homeOf(env: Record<string, string | undefined>): string {
  if (env['HOME']) return env['HOME'];
  try {
    return homedir();
  } catch {
    return '/nonexistent';
  }
}

/** The name of the user, else the number. */
export function userName(): string {
  try {
    return userInfo().username;
  } catch {
    return userNumber();
  }
}

/** The number of the user; empty where the system has none. */
export function userNumber(): string {
  return String(getuid?.() ?? '');
}

/** The name of this machine. */
export function hostName(): string {
  return hostname();
}
