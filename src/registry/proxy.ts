/** Proxies on the way to registries, as the environment names them. */
import { fault } from '../core/errors.ts';
import { keepSecret } from '../system/secrets.ts';

/** The proxies on the way to registries. */
export interface Proxy {
  /** For http:// and for https://; empty where there is none. */
  http: string;
  https: string;
  /** Hosts that are asked without one. */
  except: string;
}

/**
 * `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY`; the same in small letters wins. An empty one counts as none.
 * @throws ReconcileError CONFIG_INVALID for what is no address; its value, which may hold a password, is not shown
 */
export function proxyOf(env: Record<string, string | undefined>): Proxy | null {
  const [http, https] = (['HTTP_PROXY', 'HTTPS_PROXY'] as const).map((name) => {
    const lower = name.toLowerCase();
    return addressOf(env[lower] === undefined ? name : lower, env[lower] ?? env[name] ?? '');
  }) as [string, string];
  return http === '' && https === '' ? null : { http, https, except: env['no_proxy'] ?? env['NO_PROXY'] ?? '' };
}

function addressOf(name: string, value: string): string {
  if (value.trim() === '') return '';
  const address = value.includes('://') ? value.trim() : `http://${value.trim()}`;
  if (URL.canParse(address) && /^https?:$/.test(new URL(address).protocol)) {
    keepSecret(new URL(address).password);
    return address;
  }
  throw fault('CONFIG_INVALID', {
    problem: `$${name} is no address of a proxy that is spoken to by HTTP`,
    hint: `as ${name}=http://proxy.example:3128`,
  });
}
