import { defineTask, z } from '#shared/tasks/define-task.ts';

const count = z.int().min(0);
const dayMs = 86_400_000;

export const bulkActions = ['cancel', 'retry', 'delete', 'replay'] as const;

export const task = defineTask({
  name: 'jobs.bulk',
  title: 'Bulk action',
  description: 'Does the same thing to every job that a search finds. Made by POST /v1/bulk.',
  isInternal: true,
  queue: 'bulk',
  isolation: 'inline',
  input: z.strictObject({
    action: z.enum(bulkActions),
    q: z.string().min(1),
    asOf: z.iso.datetime(),
    reason: z.string().optional(),
  }),
  output: z.object({
    matched: count,
    done: count,
    skipped: count,
    failed: count,
    errors: z.array(z.object({ jobId: z.uuid(), code: z.string(), message: z.string() })),
  }),
  example: { action: 'cancel', q: 'state:queued tag:import-7', asOf: '2026-01-31T12:00:00Z' },
  // Each run goes on where the last one was.
  attempts: { default: 20, max: 20 },
  crashesMax: 20,
  timeoutMs: { default: dayMs, max: dayMs },
});
