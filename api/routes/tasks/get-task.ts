import { z } from 'zod';
import { AppError } from '#shared/errors.ts';
import { defineRoute } from '../../http/define-route.ts';
import { presentTask, taskSchema } from '../../present-task.ts';
import { findNearest } from '#shared/domain/find-nearest.ts';

export const getTask = defineRoute({
  method: 'get',
  path: '/v1/tasks/:name',
  scope: 'read',
  tag: 'Tasks',
  summary: 'One task',
  params: z.object({ name: z.string().meta({ examples: ['image.resize'] }) }),
  responses: { 200: { description: 'The task.', schema: taskSchema } },
  problems: ['not-found'],
  handle({ deps, params, res }) {
    const task = deps.tasks.get(params.name);
    if (task === undefined) {
      const nearest = findNearest(params.name, deps.tasks.keys());
      throw new AppError(
        'not-found',
        `There is no task "${params.name.slice(0, 100)}". ${nearest === undefined ? 'GET /v1/tasks lists all.' : `Did you mean "${nearest}"?`}`,
      );
    }
    res.json(presentTask(task, deps.config.WINDLASS_JOB_RETENTION_MS));
    return Promise.resolve();
  },
});
