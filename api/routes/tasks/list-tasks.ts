import { z } from 'zod';
import { defineRoute } from '../../http/define-route.ts';
import { presentTask, taskSchema } from '../../present-task.ts';

export const listTasks = defineRoute({
  method: 'get',
  path: '/v1/tasks',
  scope: 'read',
  tag: 'Tasks',
  summary: 'All tasks',
  description:
    'What this service can do: every task with its schemas and limits, by name. The list is short, so it has no pages.',
  responses: {
    200: {
      description: 'The tasks.',
      schema: z.object({ data: z.array(taskSchema) }).meta({ id: 'TaskList' }),
    },
  },
  handle({ deps, res }) {
    const tasks = [...deps.tasks.values()].toSorted((a, b) =>
      a.definition.name < b.definition.name ? -1 : 1,
    );
    res.json({ data: tasks.map((task) => presentTask(task, deps.config.WINDLASS_JOB_RETENTION_MS)) });
    return Promise.resolve();
  },
});
