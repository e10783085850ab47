import { createHash } from 'node:crypto';
import { z } from 'zod';
import { isMissingFileError } from '#shared/db/accept-jobs.ts';
import { findIdempotencyKey } from '#shared/db/idempotency.ts';
import { findWorkflow, insertWorkflow, listStoredSteps } from '#shared/db/workflows.ts';
import { canonicalJson } from '#shared/domain/json-limits.ts';
import { forEachItemsMax, forEachLimitDefault, forEachLimitMax } from '#shared/domain/for-each.ts';
import { stepName, workflowStepsMax } from '#shared/domain/workflow.ts';
import { AppError } from '#shared/errors.ts';
import { uuidv7 } from '#shared/ids.ts';
import { jobOptions } from '#shared/tasks/job-options.ts';
import { mismatch } from '../../accept-job.ts';
import type { ApiDeps } from '../../deps.ts';
import { defineRoute } from '../../http/define-route.ts';
import { parseWith } from '../../http/read-json.ts';
import { readIdempotencyKey, readTraceparent } from '../../http/request-headers.ts';
import { toStoredForEach } from '../../plan-for-each.ts';
import { checkStepFiles, planWorkflow, toJobs } from '../../plan-workflow.ts';
import { presentAccepted, workflowSchema } from '../../present-workflow.ts';

/** A thousand steps with some input each. Named in docs/api.md. */
const workflowBytesMax = 4 * 1024 * 1024;
const workflowKeysMax = 50_000;

const stepFields = {
  task: z.string().min(1).max(1_000).describe('Name of the task; GET /v1/tasks lists them.'),
  input: z
    .unknown()
    .optional()
    .describe(
      'The task\'s input. `{"$from": "thumb", "path": "file"}` anywhere in it stands for what is at that path of the result of the step `thumb`.',
    ),
  forEach: z
    .unknown()
    .optional()
    .describe(
      `A list, or \`{"$from": …}\` that stands for one: the task is done for each item, at most ${forEachItemsMax} of them. \`{"$item": true, "path": "file"}\` anywhere in the input stands for (that part of) the item, \`{"$index": true}\` for its number. The result of the step is the list of their results.`,
    ),
  limit: z
    .int()
    .min(1)
    .max(forEachLimitMax)
    .optional()
    .describe(`With forEach: items that run at once. Default: ${forEachLimitDefault}.`),
  optionalItems: z
    .boolean()
    .optional()
    .describe(
      'With forEach: items that fail are null in the result. Otherwise the step fails when all have ended.',
    ),
  after: z
    .array(z.string().max(1_000))
    .max(workflowStepsMax)
    .default([])
    .describe('Steps that must have ended before, besides those that the input names.'),
  optional: z
    .boolean()
    .default(false)
    .describe(
      'When it fails, the steps after it run all the same, with null for what they take from its result.',
    ),
};
const stepsOf = <Step extends z.ZodType>(step: Step) =>
  z
    .record(
      z.string().regex(stepName, '1 to 64 of letters, digits and _ . -, beginning with a letter or digit'),
      step,
    )
    .refine(
      (steps) => Object.keys(steps).length >= 1 && Object.keys(steps).length <= workflowStepsMax,
      `1 to ${workflowStepsMax} steps`,
    )
    .describe(`By their names, 1 to ${workflowStepsMax}.`);

const newWorkflow = z
  .strictObject({ steps: stepsOf(z.strictObject({ ...stepFields, options: jobOptions.optional() })) })
  .meta({
    id: 'NewWorkflow',
    examples: [
      {
        steps: {
          small: {
            task: 'image.resize',
            input: { file: '0199d7a3-1f5c-7cc0-8000-000000000000', width: 640 },
          },
          look: { task: 'file.inspect', input: { file: { $from: 'small', path: 'file' } } },
        },
      },
    ],
  });
// Options are checked together with the input, so that one answer has the problems of all steps.
const envelope = z.strictObject({
  steps: stepsOf(z.strictObject({ ...stepFields, options: z.unknown().optional() })),
});

export const createWorkflow = defineRoute({
  method: 'post',
  path: '/v1/workflows',
  scope: 'submit',
  tag: 'Workflows',
  summary: 'Queue jobs that use each other’s results',
  description:
    'Every step is a job. A step runs when those that it waits for have succeeded, with what they made. Names, cycles, paths into results and their types are checked before anything is accepted.',
  headers: {
    'Idempotency-Key': 'Optional. The same key with the same content within 24 h gives the same workflow.',
    traceparent: 'Optional. W3C trace context, stored with each job.',
  },
  streams: { 'application/json': { description: 'The workflow.', schema: newWorkflow } },
  responses: {
    202: {
      description: 'Accepted: all steps are stored and will run.',
      schema: workflowSchema,
      headers: {
        Location: 'The workflow.',
        'Retry-After': 'Seconds until asking makes sense.',
        'Idempotency-Replayed': '`true` when the key was used before.',
      },
    },
  },
  problems: [
    'invalid-json',
    'invalid-idempotency-key',
    'content-too-large',
    'unsupported-media-type',
    'invalid-input',
    'file-not-found',
    'idempotency-mismatch',
    'backlog-full',
    'too-many-waiting',
  ],
  async handle({ deps, identity, req, res }) {
    const { tenantId } = identity;
    const key = readIdempotencyKey(req);
    const sent = await deps.readJson(req, {
      bytesMax: workflowBytesMax,
      keysMax: workflowKeysMax,
      bytesName: 'workflowBytesMax',
      keysName: 'workflowKeysMax',
    });
    const body = parseWith(envelope, sent);
    const fingerprint = createHash('sha256')
      .update(canonicalJson({ workflow: body }))
      .digest('hex');
    const answer = (accepted: z.input<typeof workflowSchema>, isReplayed: boolean): void => {
      if (isReplayed) res.setHeader('Idempotency-Replayed', 'true');
      res.setHeader('Location', `/v1/workflows/${accepted.id}`);
      res.setHeader('Retry-After', '1');
      res.status(202).json(accepted);
    };
    // What it was made of may be gone when it is asked for again.
    if (key !== undefined) {
      const before = await replay(deps, tenantId, key, fingerprint);
      if (before !== undefined) return answer(before, true);
    }
    const planned = planWorkflow(
      deps,
      new Map(
        Object.entries(body.steps).map(([name, step]) => [
          name,
          {
            task: step.task,
            input: step.input === undefined ? {} : step.input,
            options: step.options,
            after: step.after,
            isOptional: step.optional,
            forEach: step.forEach,
            limit: step.limit,
            optionalItems: step.optionalItems,
          },
        ]),
      ),
    );
    deps.backlog.check();
    await checkStepFiles(deps, tenantId, planned);

    const id = uuidv7();
    const traceparent = readTraceparent(req) ?? null;
    const newIds = idsInOrder(planned.map((step) => step.name));
    const steps = planned.map((step) => ({
      name: step.name,
      isOptional: step.isOptional,
      after: [...step.edges.keys()],
      task: step.task,
      input: step.input,
      options: step.options ?? {},
      forEach: toStoredForEach(step),
      jobId: newIds.get(step.name) ?? '',
    }));
    const release = await deps.quotas.waiting.take(tenantId, steps.length);
    const acceptance = await insertWorkflow(deps.db, {
      id,
      tenantId,
      traceparent,
      steps,
      jobs: toJobs(deps, planned, { tenantId, workflowId: id, newIds, oldIds: new Map(), traceparent }),
      idempotency: key === undefined ? null : { key, fingerprint },
    })
      .catch((err: unknown) => {
        if (isMissingFileError(err))
          throw new AppError('file-not-found', 'A file of an input was deleted just now.', { cause: err });
        throw err;
      })
      .finally(release);
    if (acceptance.type === 'duplicate') {
      const before = await replay(deps, tenantId, key ?? '', fingerprint);
      if (before === undefined)
        throw new AppError(
          'unavailable',
          'The Idempotency-Key expired at this very moment. Send the request again.',
          {
            retryAfterSeconds: 1,
          },
        );
      return answer(before, true);
    }
    for (const delivery of acceptance.deliveries) deps.dispatcher.dispatch(delivery);
    answer(
      presentAccepted(
        { id, createdAt: acceptance.createdAt },
        steps.map((step) => ({
          ...step,
          job_id: step.jobId,
          is_optional: step.isOptional,
          for_each: step.forEach,
        })),
      ),
      false,
    );
  },
});

/**
 * Ids that grow from step to step, although all are made in one moment: jobs are locked in the order of their ids, and
 * so parents before their children.
 */
export function idsInOrder(names: readonly string[]): Map<string, string> {
  const now = Date.now();
  return new Map(names.map((name, index) => [name, uuidv7(now - (names.length - 1 - index))]));
}

/** The workflow that the key made, if it is known. @throws AppError `idempotency-mismatch`. */
async function replay(
  deps: ApiDeps,
  tenantId: string,
  key: string,
  fingerprint: string,
): Promise<z.input<typeof workflowSchema> | undefined> {
  const known = await findIdempotencyKey(deps.db, tenantId, key);
  if (known === undefined) return undefined;
  if (known.resource !== 'workflow' || known.fingerprint !== fingerprint) throw mismatch(key);
  const row = await findWorkflow(deps.db, tenantId, known.resource_id);
  if (row === undefined)
    throw new AppError('not-found', 'The workflow that this Idempotency-Key made has been deleted.');
  return presentAccepted({ id: row.id, createdAt: row.created_at }, await listStoredSteps(deps.db, row.id));
}
