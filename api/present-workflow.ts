import { z } from 'zod';
import type { StepRow, WorkflowRow } from '#shared/db/workflows.ts';
import { forEachLimitDefault } from '#shared/domain/for-each.ts';
import { jobStates, type JobState } from '#shared/domain/job.ts';
import { workflowStateOf, workflowStates } from '#shared/domain/workflow.ts';

const instant = z.iso.datetime();

const stepSchema = z.object({
  job: z.uuid().describe('The job of the step; after a retry, the latest one.'),
  task: z.string(),
  state: z.enum(jobStates).nullable().describe('Of the job; null when it was deleted.'),
  optional: z.boolean(),
  forEach: z
    .object({
      total: z.int().nullable().describe('Items of the list; null until the step has looked at it.'),
      counts: z
        .object(Object.fromEntries(jobStates.map((state) => [state, z.int()])))
        .catchall(z.int())
        .describe('Items by the states of their jobs.'),
      limit: z.int().nullable().describe('Items at once; null where their `concurrencyKey` says.'),
      optionalItems: z.boolean(),
      jobs: z.string().describe('Finds the jobs of the items.'),
    })
    .nullable()
    .describe('How far a step with `forEach` is; null for other steps.'),
  after: z.array(z.string()).describe('All steps that it waits for, with those that its input names.'),
  result: z.unknown().describe('Null until the step succeeded.'),
  resultOmitted: z
    .boolean()
    .describe('The results together are too large for this answer: ask for that of the job.'),
  error: z.object({ code: z.string(), message: z.string(), retryable: z.boolean() }).nullable(),
  startedAt: instant.nullable(),
  finishedAt: instant.nullable(),
});

/** A workflow as clients see it. */
export const workflowSchema = z
  .object({
    id: z.uuid(),
    state: z
      .enum(workflowStates)
      .describe(
        '`running` until every step has ended; then `failed` when a step failed that is not optional, `cancelled` when somebody cancelled one, else `succeeded`.',
      ),
    counts: z
      .object({ total: z.int(), ...Object.fromEntries(jobStates.map((state) => [state, z.int()])) })
      .catchall(z.int())
      .describe('Steps in each state.'),
    createdAt: instant,
    finishedAt: instant.nullable(),
    steps: z.record(z.string(), stepSchema).describe('By name, each after those that it waits for.'),
    links: z.object({ self: z.string(), cancel: z.string(), retry: z.string(), jobs: z.string() }),
  })
  .meta({ id: 'Workflow' });

/** A workflow in a list. */
export const workflowSummarySchema = workflowSchema.omit({ steps: true }).meta({ id: 'WorkflowSummary' });

export function presentWorkflowSummary(row: WorkflowRow): z.input<typeof workflowSummarySchema> {
  const path = `/v1/workflows/${row.id}`;
  return {
    id: row.id,
    state: workflowStateOf(row),
    counts: { total: row.total, ...row.counts },
    createdAt: row.created_at.toISOString(),
    finishedAt: row.finished_at?.toISOString() ?? null,
    links: {
      self: path,
      cancel: `${path}/cancel`,
      retry: `${path}/retry`,
      jobs: `/v1/jobs?q=workflow:${row.id}`,
    },
  };
}

export function presentWorkflow(row: WorkflowRow, steps: readonly StepRow[]): z.input<typeof workflowSchema> {
  return {
    ...presentWorkflowSummary(row),
    steps: Object.fromEntries(
      steps.map((step) => [
        step.name,
        {
          job: step.job_id,
          task: step.task,
          state: step.state,
          optional: step.is_optional,
          forEach: presentForEach(step),
          after: [...step.after],
          result: step.result ?? null,
          resultOmitted: step.is_result_omitted,
          error: step.error,
          startedAt: step.started_at?.toISOString() ?? null,
          finishedAt: step.finished_at?.toISOString() ?? null,
        },
      ]),
    ),
  };
}

function presentForEach(step: StepRow): z.input<typeof stepSchema>['forEach'] {
  if (step.for_each === null) return null;
  return {
    total: step.items_total,
    counts: Object.fromEntries(jobStates.map((state) => [state, step.items_counts?.[state] ?? 0])),
    limit: limitOf(step),
    optionalItems: step.for_each.optionalItems,
    jobs: `/v1/jobs?q=items:${step.job_id}`,
  };
}

function limitOf({ for_each: forEach, options }: Pick<StepRow, 'for_each' | 'options'>): number | null {
  return forEach?.limit ?? (options['concurrencyKey'] === undefined ? forEachLimitDefault : null);
}

/** A workflow as it was when it was accepted, also when it is asked for again by its idempotency key. */
export function presentAccepted(
  workflow: { id: string; createdAt: Date },
  steps: readonly (Pick<StepRow, 'name' | 'job_id' | 'task' | 'is_optional' | 'after' | 'for_each'> & {
    options: unknown;
  })[],
): z.input<typeof workflowSchema> {
  const rows = steps.map((step) => ({
    ...step,
    options: (step.options ?? {}) as StepRow['options'],
    state: acceptedState(step, workflow.createdAt),
    ...untouched,
  }));
  const counts = Object.fromEntries(
    jobStates.map((state) => [state, rows.filter((row) => row.state === state).length]),
  ) as Record<JobState, number>;
  const summary = { id: workflow.id, created_at: workflow.createdAt, finished_at: null, counts };
  return presentWorkflow(
    { ...summary, total: rows.length, open: rows.length, failed: 0, cancelled: 0 },
    rows,
  );
}

const untouched = {
  result: null,
  is_result_omitted: false,
  error: null,
  started_at: null,
  finished_at: null,
  items_total: null,
  items_counts: null,
} as const;

function acceptedState(step: { after: readonly string[]; options: unknown }, createdAt: Date): JobState {
  if (step.after.length > 0) return 'blocked';
  // They passed the schema of options.
  const { delayMs = 0, runAt } = (step.options ?? {}) as { delayMs?: number; runAt?: string };
  return delayMs > 0 || (runAt !== undefined && new Date(runAt) > createdAt) ? 'scheduled' : 'queued';
}
