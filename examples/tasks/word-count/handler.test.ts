import { expect, it } from 'vitest';
import { runTask, testFile } from 'windlass/testing';
import handler from './handler.ts';
import { task } from './task.ts';

it('counts words, whatever their case', async () => {
  const file = testFile(Buffer.from('The cat saw the dog.\nThe end\n'), { name: 'cat.txt' });
  const run = await runTask({ definition: task, handler, input: { file: file.id, top: 2 }, files: [file] });
  expect(run.result).toMatchObject({
    words: 7,
    top: [
      { word: 'the', count: 3 },
      { word: 'cat', count: 1 },
    ],
  });
  expect(run.output(run.result.file).bytes.toString()).toBe(
    'word,count\nthe,3\ncat,1\ndog,1\nend,1\nsaw,1\n',
  );
});

it('refuses a file without a word', async () => {
  const file = testFile(Buffer.from('12 + 30 = 42\n'), { name: 'sum.txt' });
  const running = runTask({ definition: task, handler, input: { file: file.id }, files: [file] });
  await expect(running).rejects.toThrow('There is no word in "sum.txt".');
});

it('stops when the job is cancelled', async () => {
  const abort = new AbortController();
  const file = testFile(Buffer.from('one word a line\n'.repeat(10_000)));
  const running = runTask({
    definition: task,
    handler,
    input: { file: file.id },
    files: [file],
    signal: abort.signal,
    onProgress: () => abort.abort(new Error('cancelled')),
  });
  await expect(running).rejects.toThrow('cancelled');
});
