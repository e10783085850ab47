/**
 * From the steps that a client sent to jobs: everything that can be known before anything runs is checked here, and every
 * problem is reported with a pointer to it.
 */
import type { NewJob } from '#shared/db/accept-jobs.ts';
import type { DependsOn, NewInputRef } from '#shared/db/dependencies.ts';
import { listMissingFiles } from '#shared/db/files.ts';
import { findNearest } from '#shared/domain/find-nearest.ts';
import {
  findMisfit,
  isNullable,
  isOptionalKey,
  keysOf,
  listOf,
  shapesAt,
  shapesOf,
  type Shape,
} from '#shared/domain/schema-fit.ts';
import { forEachInputKeysMax, type ItemPlace, type KeyBudget } from '#shared/domain/for-each.ts';
import {
  findRefs,
  orderSteps,
  workflowEdgesMax,
  workflowRefBytesMax,
  type InputRef,
} from '#shared/domain/workflow.ts';
import { toPath, toPointer } from '#shared/domain/json-pointer.ts';
import { AppError, type FieldError } from '#shared/errors.ts';
import { findCeilingErrors, jobOptions, type JobOptions } from '#shared/tasks/job-options.ts';
import { toNewJob } from '#shared/tasks/new-job.ts';
import type { ApiDeps } from './deps.ts';
import { invalidInput, toFieldErrors } from './http/read-json.ts';
import {
  checkForEach,
  filesOfItems,
  findIndexMisfits,
  findListMisfit,
  type InputIssue,
  toEachJob,
  type ForEachRequest,
} from './plan-for-each.ts';
import type { ApiTask } from './task-catalog.ts';

export interface StepRequest extends ForEachRequest {
  readonly task: string;
  readonly input: unknown;
  /** As they were sent. */
  readonly options: unknown;
  readonly after: readonly string[];
  readonly isOptional: boolean;
}

export interface PlannedStep extends StepRequest {
  readonly name: string;
  readonly apiTask: ApiTask;
  readonly jobOptions: JobOptions;
  /** Where the input takes something from the items of `forEach`. */
  readonly places: readonly ItemPlace[];
  /** By the names of the steps that it waits for. */
  readonly edges: ReadonlyMap<string, { readonly on: DependsOn; readonly refs: readonly NewInputRef[] }>;
}

const errorsMax = 50;

/**
 * @returns the steps so that each comes after those that it waits for.
 * @throws AppError `invalid-input` with all problems.
 */
export function planWorkflow(deps: ApiDeps, steps: ReadonlyMap<string, StepRequest>): PlannedStep[] {
  const errors: FieldError[] = [];
  const checked = new Map<string, CheckedStep>();
  const budget: KeyBudget = { left: forEachInputKeysMax };
  for (const [name, step] of steps) {
    const pointer = `/steps${toPointer([name])}`;
    const { problems, ...found } = checkStep(deps, steps, name, step, budget);
    for (const problem of problems) errors.push({ ...problem, pointer: pointer + problem.pointer });
    checked.set(name, found);
  }
  throwIfAny(errors);
  const order = orderSteps(new Map([...checked].map(([name, { parents }]) => [name, parents])));
  if (order.type === 'cycle') {
    const names = order.names.slice(0, 10).map((name) => `"${name}"`);
    const detail =
      names.length === 1
        ? `The step ${names[0]} waits for itself.`
        : `These steps wait for each other: ${names.join(', ')}${order.names.length > 10 ? ', …' : ''}.`;
    throw invalidInput([{ pointer: `/steps${toPointer([order.names[0] ?? ''])}`, detail }]);
  }
  const edgesCount = [...checked.values()].reduce((sum, { parents }) => sum + parents.length, 0);
  if (edgesCount > workflowEdgesMax) {
    const detail = `The steps wait for each other ${edgesCount} times; ${workflowEdgesMax} is the most. Let a step in between collect many.`;
    throw invalidInput([{ pointer: '/steps', detail }]);
  }
  if (refBytes(steps, checked) > workflowRefBytesMax) {
    const detail =
      'The steps take too many values from each other for how large their inputs are (workflowRefBytesMax). Take fewer, larger parts, or use more steps.';
    throw invalidInput([{ pointer: '/steps', detail }]);
  }
  const planned = order.names.map((name) => {
    // Both maps have the names that were put into them above.
    const found = checked.get(name) as CheckedStep;
    const edges = new Map(
      found.parents.map((parent) => {
        const { edge, problems } = connect(steps, checked, found, parent);
        for (const { at, detail } of problems)
          errors.push({ pointer: `/steps${toPointer([name, ...at])}`, detail });
        return [parent, edge] as const;
      }),
    );
    const step = steps.get(name) as StepRequest;
    return {
      ...step,
      name,
      apiTask: found.task as ApiTask,
      jobOptions: found.options as JobOptions,
      places: found.places,
      edges,
    };
  });
  throwIfAny(errors);
  return planned;
}

/** What `workflowRefBytesMax` is of. */
function refBytes(
  steps: ReadonlyMap<string, StepRequest>,
  checked: ReadonlyMap<string, CheckedStep>,
): number {
  let sum = 0;
  for (const [name, { refs }] of checked) {
    if (refs.length === 0) continue;
    const { input, forEach } = steps.get(name) ?? {};
    sum += refs.length * Buffer.byteLength(JSON.stringify([input, forEach]));
  }
  return sum;
}

/** The jobs of those steps for which `newIds` has an id; the others have a job already. */
export function toJobs(
  deps: ApiDeps,
  steps: readonly PlannedStep[],
  options: {
    tenantId: string;
    workflowId: string;
    newIds: ReadonlyMap<string, string>;
    oldIds: ReadonlyMap<string, string>;
    traceparent: string | null;
  },
): NewJob[] {
  const { newIds, oldIds } = options;
  return steps.flatMap((step) => {
    const id = newIds.get(step.name);
    if (id === undefined) return [];
    const { tenantId } = options;
    const workflow = { id: options.workflowId, step: step.name };
    const retentionMs = deps.config.WINDLASS_JOB_RETENTION_MS;
    const job =
      step.forEach === undefined
        ? toNewJob(step.apiTask.definition, {
            tenantId,
            input: step.input,
            options: step.jobOptions,
            inputFiles: step.apiTask.findFiles(step.input).map((ref) => ref.id),
            retentionMs,
          })
        : toEachJob(step, { tenantId, workflow, previous: oldIds.get(step.name) ?? null, retentionMs });
    return {
      ...job,
      id,
      traceparent: options.traceparent,
      workflow,
      dependsOn: [...step.edges].flatMap(([name, edge]) => {
        const parentId = newIds.get(name) ?? oldIds.get(name);
        return parentId === undefined ? [] : [{ parentId, ...edge }];
      }),
    };
  });
}

/** Every file that an input names exists and is the caller's. @throws AppError `file-not-found`. */
export async function checkStepFiles(
  deps: ApiDeps,
  tenantId: string,
  steps: readonly PlannedStep[],
): Promise<void> {
  const named = steps.flatMap((step) =>
    filesOf(step).map(({ id, pointer }) => ({ id, pointer: `/steps${toPointer([step.name])}${pointer}` })),
  );
  if (named.length === 0) return;
  const missing = new Set(await listMissingFiles(deps.db, tenantId, [...new Set(named.map(({ id }) => id))]));
  const errors = named
    .filter(({ id }) => missing.has(id))
    .map(({ id, pointer }) => ({
      pointer,
      detail: `There is no file ${id}. Upload it first (POST /v1/files).`,
    }));
  if (errors[0] !== undefined)
    throw new AppError('file-not-found', errors[0].detail, { errors: errors.slice(0, errorsMax) });
}

function filesOf(step: PlannedStep): { id: string; pointer: string }[] {
  if (step.forEach !== undefined) return filesOfItems(step.apiTask, step);
  return step.apiTask.findFiles(step.input).map(({ id, pointer }) => ({ id, pointer: `/input${pointer}` }));
}

/** A reference in the input, or in the list of `forEach`. */
type StepRef = InputRef & { readonly in: 'input' | 'forEach' };

interface CheckedStep {
  readonly task: ApiTask | undefined;
  readonly options: JobOptions | undefined;
  readonly refs: readonly StepRef[];
  readonly places: readonly ItemPlace[];
  readonly isEach: boolean;
  /** Each once. */
  readonly parents: readonly string[];
}

function checkStep(
  deps: ApiDeps,
  steps: ReadonlyMap<string, StepRequest>,
  name: string,
  step: StepRequest,
  budget: KeyBudget,
): CheckedStep & { problems: FieldError[] } {
  const problems: FieldError[] = [];
  const task = deps.tasks.get(step.task);
  if (task === undefined) {
    const nearest = findNearest(step.task, deps.tasks.keys());
    const hint = nearest === undefined ? 'GET /v1/tasks lists all.' : `Did you mean "${nearest}"?`;
    problems.push({ pointer: '/task', detail: `There is no task "${step.task.slice(0, 100)}". ${hint}` });
  }
  const { refs, problems: badRefs } = findRefs(step.input);
  for (const { at, detail } of badRefs) problems.push({ pointer: `/input${toPointer(at)}`, detail });
  const known = (other: string, pointer: string): boolean => {
    if (steps.has(other)) return true;
    const nearest = findNearest(other, steps.keys());
    const hint = nearest === undefined ? '' : ` Did you mean "${nearest}"?`;
    problems.push({ pointer, detail: `There is no step "${other.slice(0, 100)}".${hint}` });
    return false;
  };
  const after = step.after.filter((other, index) => known(other, `/after/${index}`));
  const toCheck = (input: unknown, at: readonly (readonly string[])[]) =>
    task === undefined ? [] : checkInput(task, input, [...at, ...badRefs.map((ref) => ref.at)]);
  const each = step.forEach === undefined ? undefined : checkForEach(step, refs, toCheck, budget);
  const all: StepRef[] = [
    ...refs.map((ref) => ({ ...ref, in: 'input' as const })),
    ...(each?.refs ?? []).map((ref) => ({ ...ref, in: 'forEach' as const })),
  ];
  const good = all.filter((ref) => known(ref.from, `/${ref.in}${toPointer(ref.at)}/$from`));
  if (each === undefined) {
    const issues = toCheck(
      step.input,
      refs.map((ref) => ref.at),
    );
    for (const { path, detail } of issues) problems.push({ pointer: `/input${toPointer(path)}`, detail });
    for (const key of ['limit', 'optionalItems'] as const)
      if (step[key] !== undefined)
        problems.push({ pointer: `/${key}`, detail: `${key} is for steps with forEach.` });
  } else {
    problems.push(...each.problems);
    if (task !== undefined && !Array.isArray(step.forEach))
      problems.push(...findIndexMisfits(each.places, task.inputSchema));
  }
  const options = jobOptions.safeParse(step.options ?? {});
  if (options.data?.concurrencyKey !== undefined && step.limit !== undefined)
    problems.push({
      pointer: '/limit',
      detail: 'The items have a concurrencyKey, which says how many run at once. Leave one of them out.',
    });
  if (!options.success) problems.push(...toFieldErrors(options.error, '/options'));
  else {
    if (task !== undefined) problems.push(...findCeilingErrors(options.data, task.definition));
    if (options.data.uniqueKey !== undefined)
      problems.push({
        pointer: '/options/uniqueKey',
        detail: 'A step is always a job of its own, whatever keys others have.',
      });
    if (options.data.dependsOn !== undefined)
      problems.push({
        pointer: '/options/dependsOn',
        detail: `A step says in "after" what it waits for; "${name}" may name steps there.`,
      });
  }
  return {
    task,
    options: options.data,
    refs: good,
    places: each?.places ?? [],
    isEach: each !== undefined,
    parents: [...new Set([...after, ...good.map((ref) => ref.from)])],
    problems,
  };
}

/**
 * Checks what is known of an input already. Problems at a reference, and at what holds one, may be gone when the value is
 * there; a key that the task does not know is not.
 */
function checkInput(task: ApiTask, input: unknown, at: readonly (readonly string[])[]): InputIssue[] {
  const parsed = task.definition.input.safeParse(input);
  if (parsed.success) return [];
  // Looked up, and not compared one by one: thousands of places may meet thousands of issues.
  const ends = new Set<string>();
  const ways = new Set<string>();
  for (const place of at) {
    const pointers = pointersTo(place);
    ends.add(pointers.at(-1) ?? '');
    for (const pointer of pointers) ways.add(pointer);
  }
  const issues = parsed.error.issues.filter((issue) => {
    const pointers = pointersTo(issue.path.map(String));
    if (pointers.some((pointer) => ends.has(pointer))) return false;
    return issue.code === 'unrecognized_keys' || !ways.has(pointers.at(-1) ?? '');
  });
  return issues.flatMap((issue) =>
    toFieldErrors({ issues: [issue] }, '').map(({ pointer, detail }) => ({
      path: toPath(pointer),
      detail,
      isUnknownKey: issue.code === 'unrecognized_keys',
    })),
  );
}

/** To the root, and to all that is on the way to a place, which comes last. */
function pointersTo(path: readonly string[]): string[] {
  const pointers = [''];
  for (const part of path) pointers.push(pointers.at(-1) + toPointer([part]));
  return pointers;
}

/** What ties a step to one that it waits for. */
function connect(
  steps: ReadonlyMap<string, StepRequest>,
  checked: ReadonlyMap<string, CheckedStep>,
  step: CheckedStep,
  parent: string,
): {
  edge: { on: DependsOn; refs: NewInputRef[] };
  problems: { at: readonly string[]; detail: string }[];
} {
  const problems: { at: readonly string[]; detail: string }[] = [];
  const ofTask = shapesOf(checked.get(parent)?.task?.outputSchema);
  const from = steps.get(parent);
  const output = from?.forEach === undefined ? ofTask : listOf(ofTask, from.optionalItems === true);
  const input = shapesOf(step.task?.inputSchema);
  let canMiss = true;
  // The job of a step with forEach has the input of its items in its own.
  const inJob = (at: readonly string[]) => (step.isEach ? ['input', ...at] : at);
  const refs = step.refs
    .filter((ref) => ref.from === parent)
    .map((ref): NewInputRef => {
      const source = shapesAt(output, ref.path);
      if (ref.in === 'forEach') {
        const unknownPath = (items: readonly Shape[], path: readonly string[]) =>
          describeUnknownPath(parent, items, path, ref.at.length === 0 ? 'An item of the result' : undefined);
        const detail =
          source.length === 0
            ? describeUnknownPath(parent, output, ref.path)
            : findListMisfit(ref, step.places, source, input, unknownPath);
        if (detail !== undefined) problems.push({ at: ['forEach', ...ref.at], detail });
        // Without the list, or a part of it, there is nothing to be done.
        canMiss = false;
        return { at: ['items', ...ref.at], path: ref.path, ifMissing: 'null' };
      }
      const target = shapesAt(input, ref.at);
      const detail =
        source.length === 0 ? describeUnknownPath(parent, output, ref.path) : findMisfit(source, target);
      if (detail !== undefined)
        problems.push({
          at: ['input', ...ref.at],
          detail: source.length === 0 ? detail : `The result of "${parent}" does not fit here: ${detail}.`,
        });
      const key = ref.at.at(-1);
      const canBeNull = isNullable(target);
      const canBeLeftOut = key !== undefined && isOptionalKey(shapesAt(input, ref.at.slice(0, -1)), key);
      if (!canBeNull && !canBeLeftOut) canMiss = false;
      return { at: inJob(ref.at), path: ref.path, ifMissing: canBeNull || !canBeLeftOut ? 'null' : 'omit' };
    });
  const isOptional = steps.get(parent)?.isOptional === true;
  return { edge: { on: isOptional && canMiss ? 'end' : 'success', refs }, problems };
}

function describeUnknownPath(
  parent: string,
  output: readonly Shape[],
  path: readonly string[],
  what = 'The result',
): string {
  const wrong = path.findIndex((_, index) => shapesAt(output, path.slice(0, index + 1)).length === 0);
  const keys = keysOf(shapesAt(output, path.slice(0, wrong)));
  const nearest = findNearest(path[wrong] ?? '', keys);
  const hint =
    nearest !== undefined
      ? ` Did you mean "${nearest}"?`
      : keys.length > 0
        ? ` It has ${keys.slice(0, 20).join(', ')}.`
        : '';
  return `${what} of "${parent}" has no "${path
    .slice(0, wrong + 1)
    .join('.')
    .slice(0, 200)}".${hint}`;
}

function throwIfAny(errors: readonly FieldError[]): void {
  if (errors.length > 0) throw invalidInput(errors.slice(0, errorsMax));
}
