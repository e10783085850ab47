import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { defineTask, fileRef, z } from './define-task.ts';
import { createFileRefFinder } from './file-refs.ts';
import { loadTasks } from './load-tasks.ts';

let dir: string;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'windlass-tasks-'));
});
afterEach(() => rm(dir, { recursive: true, force: true }));

const source = (name: string) => `
  import { defineTask, z } from 'windlass/task';
  export const task = defineTask({ name: '${name}', title: 't', description: 'd', input: z.strictObject({}), output: z.unknown(), example: {} });
`;

async function addTask(folder: string, files: Record<string, string>): Promise<void> {
  await mkdir(join(dir, folder));
  for (const [name, text] of Object.entries(files)) await writeFile(join(dir, folder, name), text);
}

const handler = 'export default () => null;';
const builtIn = defineTask({
  name: 'built.in',
  title: 't',
  description: 'd',
  input: z.strictObject({}),
  output: z.unknown(),
  example: {},
});

test('a folder outside the repository becomes a task beside the built-in ones', async () => {
  await addTask('mine', { 'task.ts': source('mine.first'), 'handler.ts': handler });
  const tasks = await loadTasks([builtIn], dir);
  expect([...tasks.keys()]).toEqual(['built.in', 'mine.first']);
  expect(tasks.get('mine.first')?.handlerUrl).toContain('mine/handler.ts');
});

test('what is wrong with a task is said with its file', async () => {
  await addTask('a', { 'task.ts': source('a.task') });
  await expect(loadTasks([], dir)).rejects.toThrow(/a\/handler\.ts is missing/);
  await rm(join(dir, 'a'), { recursive: true });

  await addTask('b', { 'task.ts': source('built.in'), 'handler.ts': handler });
  await expect(loadTasks([builtIn], dir)).rejects.toThrow(
    /b\/task\.ts defines "built\.in", which exists already/,
  );
  await rm(join(dir, 'b'), { recursive: true });

  await addTask('c', { 'task.ts': source('Bad Name'), 'handler.ts': handler });
  await expect(loadTasks([], dir)).rejects.toThrow(
    /c\/task\.ts cannot be loaded: Task "Bad Name": name must be/,
  );
  await rm(join(dir, 'c'), { recursive: true });

  await addTask('d', { 'task.ts': 'export const other = 1;', 'handler.ts': handler });
  await expect(loadTasks([], dir)).rejects.toThrow(/d\/task\.ts has no export named "task"/);
});

test('a definition whose example does not fit its own input is refused', () => {
  expect(() =>
    defineTask({
      name: 'x',
      title: 't',
      description: 'd',
      input: z.strictObject({ n: z.int() }),
      output: z.unknown(),
      example: {},
    }),
  ).toThrow(/Task "x": example does not pass/);
});

test('an id in capitals is the same file, for whoever checks it and for the handler', () => {
  const input = z.strictObject({ files: z.array(fileRef()) });
  const id = '0195b7e4-5d3c-7000-8000-00000000000a';
  const value = { files: [id.toUpperCase(), id] };
  expect(createFileRefFinder(input, 'input')(value)).toEqual([{ id, pointer: '/files/0' }]);
  expect(input.parse(value)).toEqual({ files: [id, id] });
});

test('file fields are found wherever the schema has them', () => {
  const id = (n: number) => `0195b7e4-5d3c-7000-8000-00000000000${n}`;
  const find = createFileRefFinder(
    z.strictObject({
      file: fileRef().optional(),
      files: z.array(fileRef()).optional(),
      nested: z.union([z.strictObject({ logo: fileRef() }), z.string()]).optional(),
      byName: z.record(z.string(), fileRef()).optional(),
      text: z.string().optional(),
    }),
    'input',
  );
  const value = {
    file: id(1),
    files: [id(2), id(3)],
    nested: { logo: id(4) },
    byName: { 'a/b': id(5) },
    text: id(6),
  };
  expect(find(value)).toEqual([
    { id: id(1), pointer: '/file' },
    { id: id(2), pointer: '/files/0' },
    { id: id(3), pointer: '/files/1' },
    { id: id(4), pointer: '/nested/logo' },
    { id: id(5), pointer: '/byName/a~1b' },
  ]);
});
