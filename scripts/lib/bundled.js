// The packages that are in the bundle: their licences, and the bill of materials.
import { createHash } from 'node:crypto';
import { readdir, readFile } from 'node:fs/promises';

/** Each package of which a file is in the bundle, by name: what its package.json says, and its licence texts. */
export async function bundledPackages(root, { inputs }) {
  const dirs = new Set(
    Object.keys(inputs).flatMap((file) => /^(?:.*\/)?node_modules\/(?:@[^/]+\/)?[^/]+(?=\/)/.exec(file)?.[0] ?? []),
  );
  const packages = await Promise.all([...dirs].map((dir) => packageIn(`${root}${dir}`)));
  return packages.sort((a, b) => (`${a.name}@${a.version}` < `${b.name}@${b.version}` ? -1 : 1));
}

async function packageIn(dir) {
  const { name, version, license, licenses } = JSON.parse(await readFile(`${dir}/package.json`, 'utf8'));
  const named = license ?? licenses?.[0]?.type; // the second is how it was written once
  const files = (await readdir(dir)).filter((file) => /^(licen[cs]e|copying|notice)\b/i.test(file)).sort();
  const texts = await Promise.all(files.map(async (file) => (await readFile(`${dir}/${file}`, 'utf8')).trim()));
  if (typeof named !== 'string' || texts.length === 0) throw new Error(`${name} ${version} has no licence text`);
  return { name, version, license: named, text: texts.join('\n\n') };
}

/** The texts of all licences, for people. */
export function licenceTexts(packages) {
  const head = 'cocoon-reconcile contains the following packages. These are their licences.\n';
  const line = '-'.repeat(80);
  return [head, ...packages.map((of) => `${line}\n${of.name} ${of.version} (${of.license})\n\n${of.text}\n`)].join(
    '\n',
  );
}

/** CycloneDX 1.6. No time and no random number is in it, so that two builds are the same. */
export function sbomOf(tool, packages) {
  const purl = ({ name, version }) => `pkg:npm/${name.replace('@', '%40')}@${version}`;
  const component = (of, type) => ({
    type,
    'bom-ref': purl(of),
    name: of.name,
    version: of.version,
    licenses: [{ license: { id: of.license } }],
    purl: purl(of),
  });
  const components = packages.map((of) => component(of, 'library'));
  const bom = {
    $schema: 'http://cyclonedx.org/schema/bom-1.6.schema.json',
    bomFormat: 'CycloneDX',
    specVersion: '1.6',
    version: 1,
    metadata: { component: { ...component(tool, 'application'), description: tool.description } },
    components,
    dependencies: [{ ref: purl(tool), dependsOn: components.map((of) => of['bom-ref']) }],
  };
  const serial = createHash('sha256').update(JSON.stringify(bom)).digest('hex');
  const uuid = [
    serial.slice(0, 8),
    serial.slice(8, 12),
    `5${serial.slice(13, 16)}`,
    `8${serial.slice(17, 20)}`,
    serial.slice(20, 32),
  ];
  return `${JSON.stringify({ ...bom, serialNumber: `urn:uuid:${uuid.join('-')}` }, null, 2)}\n`;
}
