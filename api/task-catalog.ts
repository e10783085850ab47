import { z } from 'zod';
import type { TaskDefinition } from '#shared/tasks/define-task.ts';
import { createFileRefFinder } from '#shared/tasks/file-refs.ts';
import type { LoadedTask } from '#shared/tasks/load-tasks.ts';

/** What the api knows of a task: its definition, and what follows from it once. */
export interface ApiTask {
  readonly definition: TaskDefinition;
  readonly inputSchema: Readonly<Record<string, unknown>>;
  readonly outputSchema: Readonly<Record<string, unknown>>;
  readonly findFiles: (input: unknown) => { id: string; pointer: string }[];
  /** Where an uploaded file goes: `input.file`, `input.files`, or nowhere. */
  readonly takesFile: boolean;
  readonly takesFiles: boolean;
  /** `input.batch`: how the jobs of a batch ended, for the job that starts after them. */
  readonly takesBatch: boolean;
}

export function createTaskCatalog(tasks: ReadonlyMap<string, LoadedTask>): Map<string, ApiTask> {
  const catalog = new Map<string, ApiTask>();
  // What clients cannot send they need not know.
  for (const [name, { definition }] of tasks)
    if (definition.isInternal !== true) catalog.set(name, toApiTask(definition));
  return catalog;
}

export function toApiTask(definition: TaskDefinition): ApiTask {
  const inputSchema = z.toJSONSchema(definition.input, { io: 'input', unrepresentable: 'any' });
  const properties = collectProperties(inputSchema);
  return {
    definition,
    inputSchema,
    outputSchema: z.toJSONSchema(definition.output, { io: 'output', unrepresentable: 'any' }),
    findFiles: createFileRefFinder(definition.input, 'input'),
    takesFile: properties.has('file'),
    takesFiles: properties.has('files'),
    takesBatch: properties.has('batch'),
  };
}

/** Property names of an object schema, also when it is a union of objects. */
function collectProperties(schema: unknown, into = new Set<string>()): Set<string> {
  if (typeof schema !== 'object' || schema === null) return into;
  const node = schema as { properties?: object; anyOf?: unknown[]; oneOf?: unknown[]; allOf?: unknown[] };
  for (const key of Object.keys(node.properties ?? {})) into.add(key);
  for (const branch of [...(node.anyOf ?? []), ...(node.oneOf ?? []), ...(node.allOf ?? [])])
    collectProperties(branch, into);
  return into;
}
