import { z } from 'zod';
import type { ApiTask } from './task-catalog.ts';

const jsonSchema = z.record(z.string(), z.unknown());

const rateLimit = z.object({ max: z.int(), perMs: z.int() });

/** A task as clients see it: all they need to build a form or a request for it. */
export const taskSchema = z
  .object({
    name: z.string().describe('What `task` of a new job says.'),
    title: z.string(),
    description: z.string(),
    queue: z.string().describe('Jobs of one queue share slots and order.'),
    isolation: z
      .enum(['process', 'inline'])
      .describe('`process`: runs in a child process that can always be killed.'),
    example: z.unknown().describe('An input that passes the schema; its file ids are made up.'),
    limits: z.object({
      attempts: z.object({ default: z.int(), max: z.int() }),
      timeoutMs: z.object({ default: z.int(), max: z.int() }).describe('Of one attempt.'),
      backoff: z
        .object({ type: z.enum(['exponential', 'fixed']), delayMs: z.int(), maxMs: z.int() })
        .describe('Wait between attempts.'),
      crashesMax: z.int().describe('Deaths of its process before a job is given up with the code `crashed`.'),
      onCrash: z.enum(['retry', 'fail']),
      concurrencyPerKey: z.int().describe('Jobs of one `concurrencyKey` that run at once.'),
      rateLimit: rateLimit.nullable().describe('Starts of its queue within any window of `perMs` ms.'),
      rateLimitPerKey: rateLimit.nullable().describe('The same for each `concurrencyKey`.'),
      retentionMs: z.int().describe('How long result and files are kept after the end.'),
    }),
    takesFile: z.boolean().describe('A `file` part of a multipart request becomes `input.file`.'),
    takesFiles: z.boolean().describe('All `file` parts become `input.files`.'),
    inputSchema: jsonSchema.describe(
      'JSON Schema 2020-12. Fields with `x-windlass-file` hold the id of a stored file.',
    ),
    outputSchema: jsonSchema.describe('JSON Schema 2020-12 of `result`.'),
  })
  .meta({ id: 'Task' });

/** @param retentionMs of tasks that set none of their own. */
export function presentTask(task: ApiTask, retentionMs: number): z.input<typeof taskSchema> {
  const { definition, inputSchema, outputSchema, takesFile, takesFiles } = task;
  const {
    name,
    title,
    description,
    queue,
    isolation,
    example,
    attempts,
    timeoutMs,
    backoff,
    crashesMax,
    onCrash,
    concurrencyPerKey,
  } = definition;
  return {
    name,
    title,
    description,
    queue,
    isolation,
    example,
    limits: {
      attempts,
      timeoutMs,
      backoff,
      crashesMax,
      onCrash,
      concurrencyPerKey,
      rateLimit: definition.rateLimit ?? null,
      rateLimitPerKey: definition.rateLimitPerKey ?? null,
      retentionMs: definition.retentionMs ?? retentionMs,
    },
    takesFile,
    takesFiles,
    inputSchema,
    outputSchema,
  };
}
