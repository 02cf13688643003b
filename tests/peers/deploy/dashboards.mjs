// Type-checks deploy/grafana/dashboards/*.json: each becomes a literal of the type DashboardFile for tsc.
import { execFileSync } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync, copyFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const here = dirname(fileURLToPath(import.meta.url));
const [dashboards, modules] = process.argv.slice(2);
if (!dashboards || !modules) {
  console.error('usage: node check.mjs FOLDER-OF-DASHBOARDS FOLDER-WITH-node_modules');
  process.exit(2);
}
const out = join(modules, 'dashboards-check');
rmSync(out, { recursive: true, force: true });
mkdirSync(out, { recursive: true });
copyFileSync(join(here, 'model.ts'), join(out, 'model.ts'));

const literal = (name, json) =>
  writeFileSync(
    join(out, `${name}.ts`),
    `import type { DashboardFile } from './model';\nexport const dashboard: DashboardFile = ${json};\n`,
  );
const names = readdirSync(dashboards).filter((name) => name.endsWith('.json'));
for (const name of names) literal(name.replace(/\.json$/, ''), readFileSync(join(dashboards, name), 'utf8'));

const tsc = (files) => {
  const options = ['--noEmit', '--strict', '--skipLibCheck', '--module', 'esnext', '--moduleResolution', 'bundler'];
  try {
    execFileSync(join(modules, 'node_modules/.bin/tsc'), [...options, ...files], { cwd: out, encoding: 'utf8' });
    return '';
  } catch (error) {
    return `${error.stdout}${error.stderr}`;
  }
};
const problems = tsc(names.map((name) => name.replace(/\.json$/, '.ts')));
if (names.length === 0 || problems) {
  console.error(problems || `${dashboards} has no dashboards`);
  process.exit(1);
}

// What the types must refuse, or they check nothing.
const [first] = names;
const sample = JSON.parse(readFileSync(join(dashboards, first), 'utf8'));
const at = (kind) => sample.panels.findIndex((panel) => panel.type === kind);
const wrong = {
  'a legend mode that does not exist': (d) => (d.panels[at('timeseries')].options.legend.displayMode = 'grid'),
  'a colour mode that does not exist': (d) => (d.panels[at('timeseries')].fieldConfig.defaults.color.mode = 'rainbow'),
  'an unknown option': (d) => (d.panels[at('stat')].options.grafMode = 'area'),
  'a drawing style that does not exist': (d) => (d.panels[at('timeseries')].fieldConfig.defaults.custom.drawStyle = 'lines'),
  'a panel without a description': (d) => delete d.panels[at('stat')].description,
  'a row height that is text': (d) => (d.panels[at('state-timeline')].options.rowHeight = '0.9'),
};
const cases = Object.entries(wrong).map(([what, spoil], n) => {
  const spoilt = structuredClone(sample);
  spoil(spoilt);
  literal(`wrong-${n}`, JSON.stringify(spoilt));
  return [what, `wrong-${n}.ts`];
});
const refused = tsc(cases.map(([, file]) => file));
const passed = cases.filter(([, file]) => !refused.includes(`${file}(`) && !refused.includes(`${file}:`));
if (passed.length > 0) {
  console.error(`the types do not refuse: ${passed.map(([what]) => what).join(', ')}\n${refused}`);
  process.exit(1);
}
console.log(`${names.length} dashboards fit Grafana's types; ${cases.length} wrong ones do not`);
