// Checks resources of Kubernetes' operators, given as a JSON array on standard input, against the operators' own
// definitions. Says which kinds it does not know instead of letting them pass.
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

const [modules] = process.argv.slice(2);
const packages = {
  'keda.sh/v1alpha1': '@kubernetes-models/keda',
  'monitoring.coreos.com/v1': '@kubernetes-models/prometheus-operator',
};

let input = '';
for await (const part of process.stdin) input += part;
const problems = [];
for (const resource of JSON.parse(input)) {
  const name = packages[resource.apiVersion];
  const models = name ? await import(pathToFileURL(join(modules, 'node_modules', name, resource.apiVersion, 'index.js'))) : {};
  const model = models[resource.kind];
  if (!model) {
    problems.push(`${resource.apiVersion}/${resource.kind}: no definition to check it against`);
    continue;
  }
  try {
    new model(resource).validate();
  } catch (error) {
    problems.push(`${resource.kind} ${resource.metadata.name}: ${error.message}`);
  }
}
if (problems.length > 0) {
  console.error(problems.join('\n'));
  process.exit(1);
}
