// Writes config/reconcile.schema.json from src/config/schema.ts; with --check it only compares, and fails where they differ.
import { format } from 'prettier';
import { load, settle } from './lib/generated.js';

const { default: schema } = await load(`
  import * as z from 'zod';
  import { configSchema } from './src/config/schema.ts';
  export default { title: 'reconcile.yaml of cocoon-reconcile', ...z.toJSONSchema(configSchema, { io: 'input' }) };
`);
const wanted = await format(JSON.stringify(schema), { parser: 'json', printWidth: 120 });
await settle('config/reconcile.schema.json', wanted, 'config-schema.js');
