/**
 * Brings the built-in tasks and those of WINDLASS_TASKS_DIR together: one folder a task, `task.ts` with the
 * definition and `handler.ts` beside it. Only definitions are loaded here; handlers are loaded where they run.
 *
 * A user's task lives outside this repository, so `windlass/task` is mapped to our own file: with plain resolution it
 * would need a node_modules of its own.
 */
import { existsSync, readdirSync } from 'node:fs';
import { registerHooks } from 'node:module';
import { join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import type { TaskDefinition } from './define-task.ts';

export interface LoadedTask {
  readonly definition: TaskDefinition;
  /** URL of the handler module of a user's task; undefined for built-in ones. */
  readonly handlerUrl: string | undefined;
}

export class TaskLoadError extends Error {
  override name = 'TaskLoadError';
}

let areHooksRegistered = false;

/** Maps `windlass/task` and `windlass/testing` (and `zod`, which comes with it) for modules outside the repository. Idempotent. */
export function registerTaskImports(): void {
  if (areHooksRegistered) return;
  areHooksRegistered = true;
  const taskUrl = new URL('./define-task.ts', import.meta.url).href;
  const zodUrl = import.meta.resolve('zod');
  registerHooks({
    resolve(specifier, context, nextResolve) {
      if (specifier === 'windlass/task') return { url: taskUrl, shortCircuit: true };
      if (specifier === 'windlass/testing')
        return { url: new URL('./testing.ts', import.meta.url).href, shortCircuit: true };
      if (specifier === 'zod') return { url: zodUrl, shortCircuit: true };
      return nextResolve(specifier, context);
    },
  });
}

/**
 * All tasks by name.
 * @throws TaskLoadError that names the file: missing `task.ts` or `handler.ts`, no `task` export, a bad
 *   definition, or a name that exists already.
 */
export async function loadTasks(
  builtIn: readonly TaskDefinition[],
  dir?: string,
): Promise<Map<string, LoadedTask>> {
  const tasks = new Map<string, LoadedTask>();
  for (const definition of builtIn) tasks.set(definition.name, { definition, handlerUrl: undefined });
  if (dir === undefined) return tasks;

  registerTaskImports();
  const root = resolve(dir);
  for (const folder of listFolders(root)) {
    const taskFile = join(root, folder, 'task.ts');
    const handlerFile = join(root, folder, 'handler.ts');
    for (const file of [taskFile, handlerFile]) {
      if (!existsSync(file))
        throw new TaskLoadError(
          `${file} is missing. A task is a folder with task.ts and handler.ts (docs/first-task.md).`,
        );
    }
    const definition = await importDefinition(taskFile);
    if (tasks.has(definition.name)) {
      throw new TaskLoadError(
        `${taskFile} defines "${definition.name}", which exists already. Choose another name.`,
      );
    }
    tasks.set(definition.name, { definition, handlerUrl: pathToFileURL(handlerFile).href });
  }
  return tasks;
}

function listFolders(root: string): string[] {
  try {
    const entries = readdirSync(root, { withFileTypes: true });
    return entries
      .filter(
        (entry) =>
          (entry.isDirectory() || entry.isSymbolicLink()) &&
          !entry.name.startsWith('.') &&
          entry.name !== 'node_modules',
      )
      .map((entry) => entry.name)
      .toSorted();
  } catch (err) {
    throw new TaskLoadError(
      `WINDLASS_TASKS_DIR=${root} cannot be read: ${err instanceof Error ? err.message : String(err)}`,
      { cause: err },
    );
  }
}

async function importDefinition(file: string): Promise<TaskDefinition> {
  let module: { task?: unknown };
  try {
    module = await import(pathToFileURL(file).href);
  } catch (err) {
    throw new TaskLoadError(`${file} cannot be loaded: ${err instanceof Error ? err.message : String(err)}`, {
      cause: err,
    });
  }
  const { task } = module;
  if (
    typeof task !== 'object' ||
    task === null ||
    !('name' in task) ||
    !('input' in task) ||
    !('output' in task)
  ) {
    throw new TaskLoadError(`${file} has no export named "task" made by defineTask({…}).`);
  }
  // defineTask has checked the definition when the module was loaded; the shape test above tells it from other objects.
  return task as TaskDefinition;
}
