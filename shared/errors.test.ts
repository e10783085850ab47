import { globSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { errorTable } from './errors.ts';

const root = fileURLToPath(new URL('..', import.meta.url));

/** What runs, without what only describes: the table itself, documentation, and the lists of what a route may answer. */
const sources = globSync('{api,shared,worker,tasks}/**/*.ts', { cwd: root })
  .filter((file) => !/\.test\.ts$|conformance|^shared\/errors\.ts$|^api\/(?:openapi|pages)/.test(file))
  .map((file) => ({
    file,
    text: readFileSync(`${root}${file}`, 'utf8').replaceAll(/\bproblems: \[[^\]]*\]/g, ''),
  }));

test('docs/errors.md and the table of errors agree, both ways', () => {
  const rows = readFileSync(`${root}docs/errors.md`, 'utf8')
    .split('\n')
    .flatMap((line) => {
      const match = /^\| `([^`]+)` \| (\d+) \| (yes|no) \| (.*) \|$/.exec(line);
      return match === null
        ? []
        : [[match[1], { status: Number(match[2]), retryable: match[3] === 'yes', title: match[4] }] as const];
    });
  expect(new Map(rows)).toEqual(new Map(Object.entries(errorTable)));
  expect(rows).toHaveLength(Object.keys(errorTable).length);
});

test('every code of the table is used somewhere', () => {
  const unused = Object.keys(errorTable).filter(
    (code) => !sources.some(({ text }) => text.includes(`'${code}'`)),
  );
  expect(unused).toEqual([]);
});

test('every code that is used stands in the table', () => {
  // An AppError cannot be made with another code, but `error.code` of a failed job is only a string to the compiler.
  const used = sources.flatMap(({ file, text }) =>
    [...text.matchAll(/(?:\bAppError\(\s*|\bcode: )'([a-z-]+)'(?=,\s*(?:message|[`'"]|\w))/g)].map(
      ([, code = '']) => ({ file, code }),
    ),
  );
  expect(new Set(used.map(({ code }) => code))).toContain('task-timeout');
  expect(used.filter(({ code }) => code !== 'custom' && !Object.hasOwn(errorTable, code))).toEqual([]);
});
