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
  for (const [name, { definition }] of tasks) {
    const inputSchema = z.toJSONSchema(definition.input, { io: 'input', unrepresentable: 'any' });
    const properties = collectProperties(inputSchema);
    catalog.set(name, {
      definition,
      inputSchema,
      outputSchema: z.toJSONSchema(definition.output, { io: 'output', unrepresentable: 'any' }),
      findFiles: createFileRefFinder(definition.input, 'input'),
      takesFile: properties.has('file'),
      takesFiles: properties.has('files'),
      takesBatch: properties.has('batch'),
    });
  }
  return catalog;
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

/** The known name nearest to a misspelt one, if it is near enough to be meant. */
export function findNearest(name: string, known: Iterable<string>): string | undefined {
  let best: string | undefined;
  let bestDistance = Math.max(2, Math.floor(name.length / 3)) + 1;
  for (const candidate of known) {
    const distance = editDistance(name, candidate);
    if (distance < bestDistance) [best, bestDistance] = [candidate, distance];
  }
  return best;
}

/** Levenshtein's distance over at most 64 characters of each. */
function editDistance(left: string, right: string): number {
  const a = left.slice(0, 64);
  const b = right.slice(0, 64);
  let row = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let i = 1; i <= a.length; i += 1) {
    const next = [i];
    for (let j = 1; j <= b.length; j += 1) {
      const replaced = (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(replaced, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1));
    }
    row = next;
  }
  return row[b.length] ?? 0;
}
