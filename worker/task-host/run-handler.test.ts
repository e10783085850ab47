import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { expect, onTestFinished, test } from 'vitest';
import { describeError, runHandler } from './run-handler.ts';

test.each([
  ['', 'text/plain'],
  ['x'.repeat(1_001), 'text/plain'],
  ['report.pdf', ''],
  ['report.pdf', 'text/\\ud800'],
])('an output that the worker would refuse fails where it is started', async (name, mediaType) => {
  const end = await run(`(_, ctx) => { ctx.output('${name}', { mediaType: '${mediaType}' }); return 1; }`);
  expect(end).toMatchObject({ type: 'threw', kind: 'error' });
  expect(end).toHaveProperty('message', expect.stringMatching(/^ctx\.output\(\) cannot make such a file: /));
});

test('whatever a handler throws is described', () => {
  const hostile = new Proxy(
    {},
    {
      get() {
        throw new Error('looked at');
      },
    },
  );
  expect(describeError(hostile)).toEqual({
    type: 'threw',
    kind: 'error',
    message: 'The handler threw a value that has no text.',
  });
  expect(describeError(null)).toMatchObject({ message: 'null' });
});

async function run(handler: string) {
  const dir = await mkdtemp(join(tmpdir(), 'windlass-handler-'));
  onTestFinished(() => rm(dir, { recursive: true, force: true }));
  const schema = '{ safeParse: (data) => ({ success: true, data }) }';
  await writeFile(join(dir, 'task.ts'), `export const task = { input: ${schema}, output: ${schema} };`);
  await writeFile(join(dir, 'handler.ts'), `export default ${handler};`);
  return runHandler(
    {
      jobId: '019abc00-0000-7000-8000-000000000000',
      tenantId: 'default',
      task: 'test.output',
      handlerUrl: pathToFileURL(join(dir, 'handler.ts')).href,
      attempt: 1,
      input: {},
      files: [],
      limits: { outputFilesMax: 10, outputFileBytesMax: 1_000, resultBytesMax: 1_000 },
    },
    {
      signal: new AbortController().signal,
      softSignal: new AbortController().signal,
      progress: () => {},
      log: () => {},
      scratchDir: () => dir,
      outputPath: (id) => join(dir, id),
    },
  );
}
