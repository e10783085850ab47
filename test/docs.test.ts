import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';

const root = fileURLToPath(new URL('../', import.meta.url));
const documents = [
  ...readdirSync(root).filter((name) => name.endsWith('.md')),
  ...readdirSync(join(root, 'docs'))
    .filter((name) => name.endsWith('.md'))
    .map((name) => join('docs', name)),
];

function linksOf(document: string): { text: string; target: string }[] {
  const source = readFileSync(join(root, document), 'utf8');
  return [...source.matchAll(/\[([^\]]+)\]\(([^)\s]+)\)/g)].map((match) => ({
    text: match[1] ?? '',
    target: match[2] ?? '',
  }));
}

test.each(documents)('%s links only to files that are there', (document) => {
  const missing = linksOf(document)
    .filter(({ target }) => !/^(https?:|mailto:|#)/.test(target))
    .map(({ target }) => join(dirname(document), target.replace(/#.*$/, '')))
    .filter((path) => !existsSync(join(root, path)));
  expect(missing).toEqual([]);
});

test('every test that docs/guarantees.md names exists under that name', () => {
  const named = linksOf('docs/guarantees.md').filter(({ target }) => target.endsWith('.test.ts'));
  const unknown = named.filter(({ text, target }) => {
    const path = join(root, 'docs', target);
    return !existsSync(path) || !readFileSync(path, 'utf8').replaceAll("\\'", "'").includes(text);
  });
  expect(unknown.map(({ text, target }) => `${relative(root, target)}: ${text}`)).toEqual([]);
  expect(named.length).toBeGreaterThan(20);
});
