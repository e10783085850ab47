/**
 * What is checked of a step that does something to every item of a list, before anything runs: a list that was sent is checked item
 * by item, and one that another step makes by the schemas.
 */
import type { NewJob } from '#shared/db/accept-jobs.ts';
import type { StoredForEach } from '#shared/db/workflows.ts';
import {
  createItemInput,
  findExcess,
  findPlaces,
  forEachItemsMax,
  forEachLimitDefault,
  tooManyKeys,
  type ItemPlace,
  type KeyBudget,
} from '#shared/domain/for-each.ts';
import { toPath, toPointer } from '#shared/domain/json-pointer.ts';
import { findMisfit, itemsOf, shapesAt, shapesOf, type Shape } from '#shared/domain/schema-fit.ts';
import { findRefs, isPathPrefix, type InputRef } from '#shared/domain/workflow.ts';
import type { FieldError } from '#shared/errors.ts';
import type { JobOptions } from '#shared/tasks/job-options.ts';
import { toNewJob } from '#shared/tasks/new-job.ts';
import { task as eachTask } from '#tasks/workflow-each/task.ts';
import type { ApiTask } from './task-catalog.ts';

export interface ForEachRequest {
  /** Undefined: the step is done once. */
  readonly forEach: unknown;
  readonly limit: number | undefined;
  readonly optionalItems: boolean | undefined;
}

type Path = readonly string[];
type CheckInput = (input: unknown, at: readonly Path[]) => readonly InputIssue[];

export interface InputIssue {
  readonly path: readonly string[];
  readonly detail: string;
  /** The key itself is wrong, and not what is there. */
  readonly isUnknownKey: boolean;
}

export interface CheckedForEach {
  readonly places: readonly ItemPlace[];
  /** References in the list, or the list itself. */
  readonly refs: readonly InputRef[];
  readonly problems: readonly FieldError[];
}

/**
 * @param checkInput what is wrong with an input, except at the places in `at`, which are not known yet.
 * @param budget of all steps of the workflow: while they are checked nobody else is served.
 */
export function checkForEach(
  step: ForEachRequest & { readonly input: unknown },
  inputRefs: readonly InputRef[],
  checkInput: CheckInput,
  budget: KeyBudget,
): CheckedForEach {
  const { forEach, input } = step;
  const { places, problems: badPlaces } = findPlaces(input);
  const { refs, problems: badRefs } = findRefs(forEach);
  const problems: FieldError[] = [
    ...badPlaces.map(({ at, detail }) => ({ pointer: `/input${toPointer(at)}`, detail })),
    ...badRefs.map(({ at, detail }) => ({ pointer: `/forEach${toPointer(at)}`, detail })),
  ];
  const isRef = [...refs, ...badRefs].some(({ at }) => at.length === 0);
  if (!Array.isArray(forEach) && !isRef)
    problems.push({
      pointer: '/forEach',
      detail: 'forEach must be a list, or {"$from": …} that stands for one.',
    });
  const known = inputRefs.map((ref) => ref.at);
  if (problems.length > 0) return { places, refs, problems };
  if (!Array.isArray(forEach)) {
    const issues = checkInput(input, [...known, ...places.map((place) => place.at)]);
    problems.push(...issues.map(({ path, detail }) => ({ pointer: `/input${toPointer(path)}`, detail })));
  } else if (forEach.length > forEachItemsMax)
    problems.push({
      pointer: '/forEach',
      detail: `The list has ${forEach.length} items; ${forEachItemsMax} is the most (forEachItemsMax).`,
    });
  else {
    // Each reference of the list is held against each place.
    budget.left -= refs.length * places.length;
    const excess = budget.left < 0 ? tooManyKeys : findExcess(input, places, forEach, budget);
    if (excess !== undefined) problems.push({ pointer: '/forEach', detail: excess });
    else problems.push(...checkList(forEach, { input, places, refs, known, checkInput }));
  }
  return { places, refs, problems };
}

const problemsMax = 50;

function checkList(
  list: readonly unknown[],
  step: {
    input: unknown;
    places: readonly ItemPlace[];
    refs: readonly InputRef[];
    known: readonly Path[];
    checkInput: CheckInput;
  },
): FieldError[] {
  const { input, places, refs, known, checkInput } = step;
  const itemInput = createItemInput(input, places);
  const refsOf = Map.groupBy(refs, (ref) => ref.at[0]);
  const problems: FieldError[] = [];
  for (const [index, item] of list.entries()) {
    const later = (refsOf.get(String(index)) ?? []).flatMap((ref) =>
      places.flatMap((place) => meet(place, ref.at.slice(1))?.target ?? []),
    );
    const issues = checkInput(itemInput(item, index), [...known, ...later]);
    for (const { path, detail, isUnknownKey } of issues.slice(0, problemsMax)) {
      const pointer = isUnknownKey ? pointerOfKey(places, index, path) : pointerOf(places, index, path);
      problems.push({ pointer, detail });
    }
    // What is wrong with all of them is said once.
    if (problems.length >= problemsMax || problems.some(({ pointer }) => pointer.startsWith('/input'))) break;
  }
  return problems;
}

/** Where the client has written what is at a path of the input of an item. */
function pointerOf(places: readonly ItemPlace[], index: number, path: Path): string {
  const place = places.find(({ at }) => isPathPrefix(at, path));
  if (place === undefined || 'index' in place) return `/input${toPointer(path)}`;
  return `/forEach/${index}${toPointer([...place.path, ...path.slice(place.at.length)])}`;
}

/** The same of a key that is not known: where it holds (a part of) an item, it is the client's own. */
function pointerOfKey(places: readonly ItemPlace[], index: number, path: Path): string {
  const isOwn = places.some(({ at }) => at.length === path.length && isPathPrefix(at, path));
  return isOwn ? `/input${toPointer(path)}` : pointerOf(places, index, path);
}

/**
 * A part of an item comes from a reference: what of the reference's value meets what of the input?
 * @param at where the reference stands in the item.
 */
function meet(place: ItemPlace, at: Path): { source: Path; target: Path[] } | undefined {
  if ('index' in place) return undefined;
  if (isPathPrefix(at, place.path)) return { source: place.path.slice(at.length), target: [[...place.at]] };
  if (isPathPrefix(place.path, at))
    return { source: [], target: [[...place.at, ...at.slice(place.path.length)]] };
  return undefined;
}

/**
 * Does what the list takes from another step fit the task?
 * @param source what is at the path of the reference, and not empty.
 * @param unknownPath says that there is nothing at a path of it.
 */
export function findListMisfit(
  ref: InputRef,
  places: readonly ItemPlace[],
  source: readonly Shape[],
  input: readonly Shape[],
  unknownPath: (items: readonly Shape[], path: Path) => string,
): string | undefined {
  const isWhole = ref.at.length === 0;
  if (isWhole) {
    const detail = findMisfit(source, [{ root: true, node: { type: 'array' } }]);
    if (detail !== undefined) return `The result of "${ref.from}" does not fit here: ${detail}.`;
  }
  const items = isWhole ? itemsOf(source) : source;
  for (const place of places) {
    const met = meet(place, ref.at.slice(1));
    if (met === undefined) continue;
    const part = shapesAt(items, met.source);
    if (part.length === 0) return unknownPath(items, met.source);
    for (const target of met.target) {
      const detail = findMisfit(part, shapesAt(input, target));
      if (detail !== undefined)
        return `An item of the result of "${ref.from}" does not fit at ${toPointer(target) || 'the input'}: ${detail}.`;
    }
  }
  return undefined;
}

/** The files that a step names, with pointers to them. */
export function filesOfItems(
  task: ApiTask,
  { forEach, input, places }: { forEach: unknown; input: unknown; places: readonly ItemPlace[] },
): { id: string; pointer: string }[] {
  const ofInput = task.findFiles(input).map((file) => ({ ...file, pointer: `/input${file.pointer}` }));
  if (!Array.isArray(forEach)) return ofInput;
  const itemInput = createItemInput(input, places);
  const found = forEach.flatMap((item: unknown, index) =>
    task.findFiles(itemInput(item, index)).map(({ id, pointer }) => ({
      id,
      pointer: pointerOf(places, index, toPath(pointer)),
    })),
  );
  return [...new Map([...ofInput, ...found].map((file) => [file.id, file])).values()];
}

/** The job of the step: it makes those of the items, and collects their results. */
export function toEachJob(
  step: ForEachRequest & {
    readonly task: string;
    readonly input: unknown;
    readonly places: readonly ItemPlace[];
    readonly jobOptions: JobOptions;
    readonly apiTask: ApiTask;
  },
  job: {
    readonly tenantId: string;
    readonly workflow: { readonly id: string; readonly step: string };
    readonly previous: string | null;
    readonly retentionMs: number;
  },
): NewJob {
  const { delayMs, runAt, ...ofItems } = step.jobOptions;
  const { priority, tags, retentionMs, concurrencyKey } = ofItems;
  return toNewJob(eachTask, {
    tenantId: job.tenantId,
    input: {
      workflow: job.workflow,
      task: step.task,
      items: step.forEach,
      input: step.input,
      places: step.places,
      options: ofItems,
      limit: concurrencyKey === undefined ? (step.limit ?? forEachLimitDefault) : null,
      optionalItems: step.optionalItems ?? false,
      previous: job.previous,
    },
    options: {
      priority,
      tags,
      ...(delayMs !== undefined && { delayMs }),
      ...(runAt !== undefined && { runAt }),
      ...(retentionMs !== undefined && { retentionMs }),
    },
    inputFiles: filesOfItems(step.apiTask, step).map((file) => file.id),
    retentionMs: step.apiTask.definition.retentionMs ?? job.retentionMs,
  });
}

export function toStoredForEach({ forEach, limit, optionalItems }: ForEachRequest): StoredForEach | null {
  if (forEach === undefined) return null;
  return { items: forEach, limit: limit ?? null, optionalItems: optionalItems ?? false };
}

/** May `{"$index": true}` stand where it stands? A list that was sent is checked with its numbers. */
export function findIndexMisfits(places: readonly ItemPlace[], inputSchema: unknown): FieldError[] {
  const number: Shape[] = [{ root: true, node: { type: 'number' } }];
  return places.flatMap((place) => {
    const detail =
      'index' in place ? findMisfit(number, shapesAt(shapesOf(inputSchema), place.at)) : undefined;
    return detail === undefined
      ? []
      : [
          {
            pointer: `/input${toPointer(place.at)}`,
            detail: `The number of the item does not fit here: ${detail}.`,
          },
        ];
  });
}
