import type { HandlerOf } from '#shared/tasks/define-task.ts';
import type { BulkTaskContext } from '#shared/tasks/task-context.ts';
import type { task } from './task.ts';

export default (async (input, ctx) => {
  for (;;) {
    ctx.signal.throwIfAborted();
    const { isDone, percent, matched, done, skipped, failed, errors } = await ctx.bulkStep({
      ...input,
      reason: input.reason,
    });
    ctx.progress(percent, `${matched} found, ${done} done, ${skipped} skipped, ${failed} failed`);
    if (isDone) return { matched, done, skipped, failed, errors: [...errors] };
  }
}) satisfies HandlerOf<typeof task, BulkTaskContext>;
