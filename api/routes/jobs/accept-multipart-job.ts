import type { z } from 'zod';
import { AmbiguousCommitError } from '#shared/db/pool.ts';
import { AppError } from '#shared/errors.ts';
import { acceptJob, getTask, type Accepted } from '../../accept-job.ts';
import type { RouteContext } from '../../http/define-route.ts';
import { checkJson, invalidInput } from '../../http/read-json.ts';
import { readTraceparent } from '../../http/request-headers.ts';
import type { ApiTask } from '../../task-catalog.ts';
import type { StoredUpload } from '../../http/upload.ts';

const knownFields = new Set(['task', 'input', 'options']);

/**
 * A job and its files in one form, parts in any order. Files are durable before the job is; when the job is refused, or was
 * accepted before under the same key, or another one has its unique key, their bytes are deleted again.
 */
export async function acceptMultipartJob(
  {
    deps,
    req,
    identity,
  }: Pick<RouteContext<z.ZodUndefined, z.ZodUndefined, z.ZodUndefined>, 'deps' | 'req' | 'identity'>,
  idempotencyKey: string | undefined,
): Promise<Accepted> {
  const form = await deps.uploads.receiveForm(req, { tenantId: identity.tenantId });
  try {
    const unknown = [...form.fields.keys()].find((name) => !knownFields.has(name));
    if (unknown !== undefined) {
      throw invalidInput([
        { pointer: `/${unknown}`, detail: 'The form takes the parts task, input, options and file.' },
      ]);
    }
    const name = form.fields.get('task');
    if (name === undefined)
      throw invalidInput([
        { pointer: '/task', detail: 'The form needs a part `task` with the name of a task.' },
      ]);
    const input = readPart(form.fields, 'input') ?? {};
    const options = readPart(form.fields, 'options');
    checkJson({ input, options: options ?? {} }, deps.config);
    const accepted = await acceptJob(deps, identity, {
      task: name,
      input: addFiles(getTask(deps, name), input, form.files),
      options,
      newFiles: form.files,
      idempotencyKey,
      traceparent: readTraceparent(req),
    });
    if (!accepted.hasTakenFiles) await deps.uploads.discard(form.files);
    return accepted;
  } catch (err) {
    // The row may be there all the same: then its files must be, too. The sweep deletes them if it is not.
    if (!(err instanceof AmbiguousCommitError)) await deps.uploads.discard(form.files);
    throw err;
  }
}

function readPart(fields: ReadonlyMap<string, string>, name: string): unknown {
  const text = fields.get(name);
  if (text === undefined || text.trim() === '') return undefined;
  try {
    return JSON.parse(text);
  } catch (err) {
    throw new AppError(
      'invalid-json',
      `The part \`${name}\` is not valid JSON: ${err instanceof Error ? err.message : String(err)}.`,
    );
  }
}

/** One uploaded file becomes `input.file`, several become `input.files`, as far as the task knows such a field. */
function addFiles(task: ApiTask, input: unknown, files: readonly StoredUpload[]): unknown {
  const [first, ...others] = files;
  if (first === undefined) return input;
  if (typeof input !== 'object' || input === null || Array.isArray(input)) {
    throw invalidInput([
      { pointer: '/input', detail: 'With uploaded files, `input` must be a JSON object, or be left out.' },
    ]);
  }
  const field = others.length === 0 && task.takesFile ? 'file' : task.takesFiles ? 'files' : undefined;
  if (field === undefined) {
    const detail = task.takesFile
      ? `The task ${task.definition.name} takes one file, and ${files.length} were sent.`
      : `The task ${task.definition.name} takes no uploaded file; refer to stored files in its input.`;
    throw invalidInput([{ pointer: '/file', detail }]);
  }
  if (field in input)
    throw invalidInput([
      { pointer: `/input/${field}`, detail: 'Give the file in the form or by its id, not both.' },
    ]);
  return { ...input, [field]: field === 'file' ? first.id : files.map((file) => file.id) };
}
