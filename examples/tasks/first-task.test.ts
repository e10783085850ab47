import { readFile } from 'node:fs/promises';
import { expect, it } from 'vitest';

it('every block of TypeScript in docs/first-task.md stands in the example', async () => {
  const read = (path: string) => readFile(new URL(path, import.meta.url), 'utf8');
  const page = await read('../../docs/first-task.md');
  const blocks = [...page.matchAll(/`my-tasks\/word-count\/([a-z.]+)`:\n\n```ts\n([^]*?)\n```/g)];
  expect(blocks.map(([, file]) => file)).toEqual(['task.ts', 'handler.ts', 'handler.test.ts']);
  for (const [, file, code] of blocks) expect(await read(`./word-count/${file}`)).toContain(code);
});
