import type { HandlerOf } from '#shared/tasks/define-task.ts';
import type { EachTaskContext } from '#shared/tasks/task-context.ts';
import type { task } from './task.ts';

export default (async (input, ctx) => {
  for (;;) {
    ctx.signal.throwIfAborted();
    const step = await ctx.eachStep(input);
    if (step.type === 'ended') return [...step.results];
    // How much of the work is done the items tell.
    ctx.progress(0, `${step.made} of ${step.total} items have their jobs`);
  }
}) satisfies HandlerOf<typeof task, EachTaskContext>;
