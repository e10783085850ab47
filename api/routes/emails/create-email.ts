import { z } from 'zod';
import { AppError } from '#shared/errors.ts';
import { emailTemplates, findEmailTemplate } from '#tasks/email-send/template-list.ts';
import { task as emailTask } from '#tasks/email-send/task.ts';
import { acceptJob } from '../../accept-job.ts';
import { defineRoute } from '../../http/define-route.ts';
import { invalidInput, parseWith } from '../../http/read-json.ts';
import { readIdempotencyKey, readTraceparent } from '../../http/request-headers.ts';
import { jobSchema } from '../../present-job.ts';
import { findNearest } from '#shared/domain/find-nearest.ts';
import { answerAccepted } from '../jobs/create-job.ts';

/** For the documentation; what is checked is the input of the task, with its rules across fields. */
const newEmail = z
  .strictObject({
    ...emailTask.input.shape,
    sendAt: z.iso.datetime({ offset: true }).optional().describe('Send it then (ISO 8601). Default: now.'),
    tags: z.array(z.string()).optional().describe('Labels to find the job by.'),
  })
  .meta({ id: 'NewEmail', examples: [emailTask.example] });

export const createEmail = defineRoute({
  method: 'post',
  path: '/v1/emails',
  scope: 'submit',
  tag: 'E-mail',
  summary: 'Send an e-mail',
  description:
    'Queues a job of the task `email.send`; the answer is that job, and `GET /v1/jobs/{id}` says what became of the e-mail. The name of a template and its variables are checked before the job is accepted.',
  headers: {
    'Idempotency-Key':
      'Optional. The same key with the same content within 24 h gives the same job, and one e-mail.',
    traceparent: 'Optional. W3C trace context, stored with the job.',
  },
  streams: { 'application/json': { description: 'The e-mail.', schema: newEmail } },
  responses: {
    202: {
      description: 'Accepted: the job is stored and will run.',
      schema: jobSchema,
      headers: {
        Location: 'The job.',
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
  async handle(ctx) {
    const { deps, req, identity } = ctx;
    const idempotencyKey = readIdempotencyKey(req);
    const { sendAt, tags, ...input } = parseWith(z.looseObject({}), await deps.readJson(req));
    checkTemplate(input['template']);
    const job = {
      task: emailTask.name,
      input,
      options: { ...(sendAt !== undefined && { runAt: sendAt }), ...(tags !== undefined && { tags }) },
      newFiles: [],
      idempotencyKey,
      traceparent: readTraceparent(req),
    };
    const accepted = await acceptJob(deps, identity, job).catch((err: unknown) => {
      throw withPointersIntoBody(err);
    });
    answerAccepted(ctx, accepted);
  },
});

const templateChoice = z.looseObject({
  name: z.string(),
  variables: z.record(z.string(), z.unknown()).default({}),
});

/** @throws AppError `invalid-input`. What is not even shaped like a template is left to the schema of the task. */
function checkTemplate(value: unknown): void {
  const choice = templateChoice.safeParse(value);
  if (!choice.success) return;
  const template = findEmailTemplate(choice.data.name);
  if (template !== undefined) {
    parseWith(template.schema, choice.data.variables, '/template/variables');
    return;
  }
  const nearest = findNearest(
    choice.data.name,
    emailTemplates.map((known) => known.name),
  );
  const hint = nearest === undefined ? 'GET /v1/emails/templates lists all.' : `Did you mean "${nearest}"?`;
  throw invalidInput([
    { pointer: '/template/name', detail: `There is no template "${choice.data.name.slice(0, 64)}". ${hint}` },
  ]);
}

/** Pointers speak of the body that the client sent, not of the job that was made from it. */
function withPointersIntoBody(err: unknown): unknown {
  if (!(err instanceof AppError) || err.errors === undefined) return err;
  const errors = err.errors.map(({ pointer, detail }) => ({
    pointer: pointer.replace(/^\/options\/runAt/, '/sendAt').replace(/^\/(?:input|options)(?=\/|$)/, ''),
    detail,
  }));
  return err.code === 'invalid-input'
    ? invalidInput(errors)
    : new AppError(err.code, err.message, { cause: err, errors });
}
