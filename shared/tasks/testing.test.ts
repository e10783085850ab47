import { readFile, writeFile } from 'node:fs/promises';
import { existsSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { defineTask, fileRef, z, type HandlerOf, type InlineTaskContext } from './define-task.ts';
import { EffectUnknownError } from './task-errors.ts';
import { runTask, testFile, type RecordedEffect } from './testing.ts';

const shout = defineTask({
  name: 'text.shout',
  title: 'Shout',
  description: 'Writes a text in capitals.',
  input: z.strictObject({ file: fileRef(), mark: z.string().default('!') }),
  output: z.object({ file: fileRef(), length: z.number() }),
  example: { file: '0199d7a3-1f5c-7cc0-8000-000000000000' },
});

const handler = (async (input, ctx) => {
  const source = ctx.file(input.file);
  const text = (await readFile(source.path, 'utf8')).toUpperCase() + input.mark;
  const output = ctx.output(`${source.name}.loud`, { mediaType: 'text/plain' });
  await writeFile(output.path, text);
  ctx.progress(100, 'shouted');
  ctx.log(`wrote ${text.length} characters`);
  return { file: output.id, length: text.length };
}) satisfies HandlerOf<typeof shout>;

describe('runTask', () => {
  it('gives the handler its files and hands back what it wrote and reported', async () => {
    const file = testFile(Buffer.from('hey'), { name: 'a.txt', mediaType: 'text/plain' });
    const run = await runTask({ definition: shout, handler, input: { file: file.id }, files: [file] });
    expect(run.result).toEqual({ file: run.outputs[0]?.id, length: 4 });
    expect(run.output(run.result.file)).toMatchObject({ name: 'a.txt.loud', bytes: Buffer.from('HEY!') });
    expect(run.progress).toEqual([{ percent: 100, message: 'shouted' }]);
    expect(run.logs).toEqual(['wrote 4 characters']);
  });

  it('refuses a handler that changes its input', async () => {
    const file = testFile(Buffer.from('hey'));
    const vandal: typeof handler = async (input, ctx) => {
      await writeFile(ctx.file(input.file).path, 'gone');
      return { file: input.file, length: 0 };
    };
    await expect(
      runTask({ definition: shout, handler: vandal, input: { file: file.id }, files: [file] }),
    ).rejects.toThrow('inputs are read-only');
  });

  it('hands back what JSON leaves of the answer', async () => {
    const stamp = defineTask({
      name: 'time.stamp',
      title: 'Stamp',
      description: 'Says a time.',
      input: z.strictObject({}),
      output: z.unknown(),
      example: {},
    });
    const run = await runTask({ definition: stamp, handler: () => new Date(0), input: {} });
    expect(run.result).toBe('1970-01-01T00:00:00.000Z');
  });

  it('leaves nothing on the disk', async () => {
    let dir = '';
    const file = testFile(Buffer.from('hey'));
    const curious: typeof handler = (input, ctx) => {
      dir = ctx.scratchDir;
      return handler(input, ctx);
    };
    await runTask({ definition: shout, handler: curious, input: { file: file.id }, files: [file] });
    expect(dir).not.toBe('');
    expect(existsSync(dir)).toBe(false);
  });

  it('does not repeat a finished effect, and says so when an end is unknown', async () => {
    let sent = 0;
    const post = defineTask({
      name: 'post.send',
      title: 'Send',
      description: 'Sends.',
      isolation: 'inline',
      input: z.strictObject({}),
      output: z.number(),
      example: {},
    });
    const options = { onUnknown: 'fail', isNotDone: () => false } as const;
    const send = ((_input, ctx) =>
      ctx.effect('send', options, () => Promise.resolve((sent += 1)))) satisfies HandlerOf<
      typeof post,
      InlineTaskContext
    >;

    const effects = new Map<string, RecordedEffect>();
    await runTask({ definition: post, handler: send, input: {}, effects });
    const again = await runTask({ definition: post, handler: send, input: {}, effects });
    expect([sent, again.result]).toEqual([1, 1]);

    const begun = new Map<string, RecordedEffect>([['send', { isFinished: false }]]);
    await expect(runTask({ definition: post, handler: send, input: {}, effects: begun })).rejects.toThrow(
      EffectUnknownError,
    );
  });
});
