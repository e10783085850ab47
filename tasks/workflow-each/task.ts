import { defineTask, z } from '#shared/tasks/define-task.ts';

const path = z.array(z.string());
const hourMs = 3_600_000;

export const task = defineTask({
  name: 'workflow.each',
  title: 'For each',
  description: 'A step of a workflow that makes a job for every item of a list. Made by POST /v1/workflows.',
  isInternal: true,
  queue: 'workflow',
  isolation: 'inline',
  input: z.strictObject({
    workflow: z.strictObject({ id: z.uuid(), step: z.string() }),
    /** Of the items. */
    task: z.string(),
    /** Must be a list by the time it runs. */
    items: z.unknown(),
    input: z.unknown(),
    places: z.array(
      z.union([z.strictObject({ at: path, path }), z.strictObject({ at: path, index: z.literal(true) })]),
    ),
    options: z.record(z.string(), z.unknown()),
    /** Items at once; null where their own concurrency key says. */
    limit: z.int().nullable(),
    optionalItems: z.boolean(),
    /** The job of this step before a retry: what succeeded of it is kept. */
    previous: z.uuid().nullable(),
  }),
  output: z.array(z.unknown()),
  example: {
    workflow: { id: '0199d7a3-1f5c-7cc0-8000-000000000000', step: 'thumbs' },
    task: 'image.resize',
    items: [{ file: '0199d7a3-1f5c-7cc0-8000-000000000001' }],
    input: { file: null, width: 200 },
    places: [{ at: ['file'], path: ['file'] }],
    options: {},
    limit: 100,
    optionalItems: false,
    previous: null,
  },
  // Each run goes on where the last one was.
  attempts: { default: 20, max: 20 },
  crashesMax: 20,
  timeoutMs: { default: hourMs, max: hourMs },
});
