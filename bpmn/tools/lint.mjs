// Lints the models named on the command line and prints what is wrong as JSON; must never change a model.
import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';

import { BpmnModdle } from 'bpmn-moddle';

const require = createRequire(import.meta.url);
const { Linter } = require('bpmnlint');
const NodeResolver = require('bpmnlint/lib/resolver/node-resolver');

const config = JSON.parse(await readFile(new URL('.bpmnlintrc', import.meta.url), 'utf8'));
const extensions = Object.fromEntries(
  Object.entries(config.moddleExtensions).map(([prefix, path]) => [prefix, require(path)]),
);
const resolver = new NodeResolver({ require });

async function lint(file) {
  const problem = (element, rule, message) => ({ file, element: element ?? '', rule, message });
  const { rootElement, warnings } = await new BpmnModdle(extensions).fromXML(await readFile(file, 'utf8'));
  const unread = warnings.map((w) => problem(w.element?.id, 'xml', w.message.split('\n')[0]));
  // a linter remembers the ids it has seen: one for each file
  const reports = Object.entries(await new Linter({ config, resolver }).lint(rootElement)).flatMap(([rule, found]) =>
    found.map((r) => problem(r.id, rule, r.message)));
  return [...unread, ...reports];
}

const problems = [];
for (const file of process.argv.slice(2)) {
  problems.push(...(await lint(file).catch((error) => [{ file, element: '', rule: 'xml', message: error.message }])));
}
process.stdout.write(JSON.stringify(problems));
