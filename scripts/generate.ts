/**
 * Writes every generated file; with `--check`, only compares and fails when one is out of date.
 */
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { generateConfigDocs } from './gen-config-docs.ts';
import { generateErrorDocs } from './gen-error-docs.ts';
import { generateTaskDocs } from './gen-task-docs.ts';
import { generateTaskLists } from './gen-tasks.ts';

const isCheck = process.argv.includes('--check');
const files = {
  ...(await generateTaskLists()),
  ...generateConfigDocs(),
  ...generateErrorDocs(),
  ...generateTaskDocs(),
};
let stale = 0;
for (const [name, text] of Object.entries(files)) {
  const url = new URL(`../${name}`, import.meta.url);
  const current = await readFile(url, 'utf8').catch(() => undefined);
  if (current === text) continue;
  if (isCheck) {
    process.stderr.write(`${name} is out of date: run \`npm run generate\` and commit the result.\n`);
    stale += 1;
  } else {
    await mkdir(dirname(url.pathname), { recursive: true });
    await writeFile(url, text);
    process.stdout.write(`wrote ${name}\n`);
  }
}
process.exit(stale === 0 ? 0 : 1);
