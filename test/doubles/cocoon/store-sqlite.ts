// The SQLite engine of newer releases, through Debian's sqlite3 command.
import { spawn } from 'node:child_process';
import { linkSync, existsSync, rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { layout, type Config } from './config.ts';
import { faults } from './faults.ts';
import { ensureDirs, randomName } from './files.ts';
import { PLACES, type Place, type Store } from './store.ts';
import { goJson } from './text.ts';

/** `COCN`. */
const APPLICATION_ID = 0x434f434e;
const MARK = 'end-of-answer';

type Tables = Record<string, Record<string, unknown>>;

export async function sqliteStore(config: Config, place: Place): Promise<Store<unknown>> {
  const { metaDb } = layout(config);
  await bootstrap(metaDb);
  const read = async () => {
    const session = openSession(metaDb);
    const tables = decode(await session.ask(selects(place)), place);
    await session.close();
    return tables;
  };
  const update = async <R>(change: (document: unknown) => R | Promise<R>): Promise<R> => {
    const session = openSession(metaDb);
    try {
      const before = decode(await session.ask(`BEGIN IMMEDIATE;\n${selects(place)}`), place);
      const after = structuredClone(before);
      const result = await change(after);
      await session.ask(`${differences(before, after, place)}\nCOMMIT;`);
      return result;
    } finally {
      await session.close();
    }
  };
  return {
    read,
    update,
    unlocked: () => ({ read, update }),
    lockFile: join(config.rootDir, place.file.replace('.json', '.lock')),
  };
}

/** Creates the database with all tables, aside and then by link: nobody ever sees half of it. */
export async function bootstrap(metaDb: string, rows = ''): Promise<void> {
  if (existsSync(metaDb)) return;
  ensureDirs(dirname(metaDb));
  const temporary = `${metaDb}.new-${randomName()}`;
  const tables = Object.values(PLACES).flatMap((place) =>
    [...Object.values(place.tables), 'tombstones'].map((table) => tableName(place, table)),
  );
  const session = openSession(temporary);
  await session.ask(
    [
      'PRAGMA journal_mode=WAL;',
      `PRAGMA application_id=${APPLICATION_ID};`,
      'PRAGMA user_version=1;',
      'CREATE TABLE meta_state(namespace TEXT PRIMARY KEY, state TEXT, source TEXT, sha256 TEXT, records INTEGER, applied_at TEXT);',
      ...tables.map((table) => `CREATE TABLE ${table}(id TEXT PRIMARY KEY, data BLOB NOT NULL);`),
      rows,
    ].join('\n'),
  );
  await session.close(false);
  try {
    linkSync(temporary, metaDb);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
  } finally {
    rmSync(temporary, { force: true });
  }
}

/** The statements that put a whole document into its tables. */
export function inserts(document: Tables, place: Place): string {
  return differences(Object.fromEntries(Object.keys(place.tables).map((map) => [map, {}])), document, place);
}

function tableName(place: Place, table: string): string {
  return `"${place.namespace}__${table}"`;
}

function selects(place: Place): string {
  return Object.entries(place.tables)
    .map(([map, table]) => `SELECT '${map}', hex(id), hex(data) FROM ${tableName(place, table)} ORDER BY id;`)
    .join('\n');
}

function decode(answer: string, place: Place): Tables {
  const tables: Tables = Object.fromEntries(Object.keys(place.tables).map((map) => [map, {}]));
  for (const line of answer.split('\n')) {
    const [map = '', id = '', data = ''] = line.split('|');
    const table = tables[map];
    if (table) table[fromHex(id)] = JSON.parse(fromHex(data)) as unknown;
  }
  return tables;
}

function differences(before: Tables, after: Tables, place: Place): string {
  const statements: string[] = [];
  for (const [map, table] of Object.entries(place.tables)) {
    const old = before[map] ?? {};
    const now = after[map] ?? {};
    for (const id of Object.keys(old)) {
      if (!(id in now)) statements.push(`DELETE FROM ${tableName(place, table)} WHERE id=${literal(id)};`);
    }
    for (const [id, value] of Object.entries(now)) {
      if (JSON.stringify(old[id]) === JSON.stringify(value)) continue;
      const blob = Buffer.from(goJson(value)).toString('hex');
      statements.push(`INSERT OR REPLACE INTO ${tableName(place, table)} VALUES(${literal(id)}, X'${blob}');`);
    }
  }
  return statements.join('\n');
}

function literal(text: string): string {
  return `CAST(X'${Buffer.from(text).toString('hex')}' AS TEXT)`;
}

function fromHex(hex: string): string {
  return Buffer.from(hex, 'hex').toString();
}

/** One sqlite3 process; `ask` resolves with what it printed before the mark. */
function openSession(file: string) {
  const child = spawn('sqlite3', ['-batch', '-bail', file], { stdio: 'pipe' });
  let printed = '';
  let complained = '';
  let settle: { resolve: (answer: string) => void; reject: (error: Error) => void } | null = null;
  const exited = new Promise<void>((resolve) => {
    child.on('error', (error) => settle?.reject(error));
    child.on('close', () => {
      settle?.reject(new Error(`open meta store: ${complained.trim() || 'sqlite3 ended early'}`));
      resolve();
    });
  });
  child.stdin.on('error', () => {}); // a process that ended says why on stderr
  child.stderr.on('data', (chunk: Buffer) => (complained += chunk.toString()));
  child.stdout.on('data', (chunk: Buffer) => {
    printed += chunk.toString();
    const end = printed.indexOf(`${MARK}\n`);
    if (end < 0) return;
    settle?.resolve(printed.slice(0, end));
    settle = null;
    printed = printed.slice(end + MARK.length + 1);
  });
  child.stdin.write('.timeout 5000\n');
  if (faults.keepWal) child.stdin.write('.dbconfig no_ckpt_on_close on\nPRAGMA wal_autocheckpoint=0;\n');
  return {
    ask: (sql: string) =>
      new Promise<string>((resolve, reject) => {
        settle = { resolve, reject };
        child.stdin.write(`${sql}\nSELECT '${MARK}';\n`);
      }),
    close: async (keepWal = faults.keepWal) => {
      if (!keepWal) child.stdin.write('.dbconfig no_ckpt_on_close off\n');
      child.stdin.end('.quit\n');
      await exited;
    },
  };
}
