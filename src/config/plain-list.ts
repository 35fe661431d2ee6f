/**
 * The plainest form of a node list, line by line: a hundred thousand nodes take the YAML library ten seconds. What is in any
 * way more than this is left to the library, so that both always give the same.
 */

/** Text that YAML takes for just that, wherever it stands as a value. */
const WORD = String.raw`[A-Za-z/][A-Za-z0-9._/-]*(?:\[[0-9,-]+\][A-Za-z0-9._/-]*)?`;
const ADDRESS = String.raw`\d{1,3}(?:\.\d{1,3}){3}`;
const ITEM = new RegExp(`^- (${WORD})$`);
const KEY = new RegExp(`^(- |  )([A-Za-z]+): (${WORD}|${ADDRESS}|[1-9]\\d{0,8})$`);
/** What YAML takes for something else than text. */
const NO_TEXT = /^(?:~|null|true|false|yes|no|on|off|y|n|\.inf|\.nan)$/i;

/** The items, names or maps of values; null for any text that is not just that. */
export function parsePlainList(text: string): unknown[] | null {
  const items: unknown[] = [];
  let map: Record<string, string | number> | null = null;
  let start = 0;
  while (start < text.length) {
    const end = text.indexOf('\n', start);
    const line = text.slice(start, end === -1 ? text.length : end);
    start = end === -1 ? text.length : end + 1;
    const name = ITEM.exec(line)?.[1];
    if (name !== undefined) {
      if (NO_TEXT.test(name)) return null;
      items.push(name);
      map = null;
      continue;
    }
    const [, indent, key = '', value = ''] = KEY.exec(line) ?? [];
    if (indent === undefined || NO_TEXT.test(value) || NO_TEXT.test(key)) return null;
    if (indent === '- ') {
      map = {};
      items.push(map);
    }
    if (map === null || Object.hasOwn(map, key)) return null;
    map[key] = /^\d+$/.test(value) ? Number(value) : value;
  }
  return items.length === 0 ? null : items;
}
