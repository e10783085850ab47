/** What retries and replays of many jobs have to know of tasks, as the api knows it of one. */
import type { JobProblem, TaskRules } from '#shared/db/bulk-actions.ts';
import { unknownTask } from '#shared/db/retry-jobs.ts';
import { cleanText } from '#shared/domain/text.ts';
import { createFileRefFinder } from '#shared/tasks/file-refs.ts';
import { findCeilingErrors, jobOptions } from '#shared/tasks/job-options.ts';
import type { LoadedTask } from '#shared/tasks/load-tasks.ts';
import { toNewJob } from '#shared/tasks/new-job.ts';
import { optionsOf } from '#shared/tasks/options-of.ts';

export function createTaskRules(
  tasks: ReadonlyMap<string, LoadedTask>,
  defaults: { readonly retentionMs: number },
): TaskRules {
  const known = new Map(
    [...tasks.values()]
      .filter(({ definition }) => definition.isInternal !== true)
      .map(({ definition }) => [
        definition.name,
        { definition, find: createFileRefFinder(definition.input, 'input') },
      ]),
  );

  const findFiles: TaskRules['findFiles'] = (task, input) =>
    known
      .get(task)
      ?.find(input)
      .map((file) => file.id);

  /** What the job holds is from another day: its task may be gone or stricter, and its code may throw. */
  const makeAgain: TaskRules['makeAgain'] = (row) => {
    const task = known.get(row.task);
    if (task === undefined) return unknownTask(row.id, row.task);
    try {
      const { definition } = task;
      const input = definition.input.safeParse(row.input);
      if (!input.success) return invalid(row.id, input.error.issues);
      const options = jobOptions.safeParse(optionsOf(row));
      if (!options.success) return invalid(row.id, options.error.issues);
      const [tooMuch] = findCeilingErrors(options.data, definition);
      if (tooMuch !== undefined) return invalid(row.id, [{ path: [], message: tooMuch.detail }]);
      const job = toNewJob(definition, {
        tenantId: row.tenant_id,
        input: row.input,
        options: options.data,
        inputFiles: task.find(row.input).map((file) => file.id),
        retentionMs: defaults.retentionMs,
      });
      return { ...job, options: { ...job.options, replayOf: row.id } };
    } catch (err) {
      return invalid(row.id, [{ path: [], message: err instanceof Error ? err.message : String(err) }]);
    }
  };
  return { findFiles, makeAgain };
}

function invalid(
  jobId: string,
  issues: readonly { readonly path: readonly PropertyKey[]; readonly message: string }[],
): JobProblem {
  const [issue] = issues;
  const where = issue === undefined || issue.path.length === 0 ? '' : `${issue.path.map(String).join('/')}: `;
  return {
    jobId,
    code: 'invalid-input',
    message: cleanText(`It would not be accepted today: ${where}${issue?.message ?? 'unknown'}`, 500),
  };
}
