import { builtInTasks } from '#tasks/index.ts';
import { handlers } from '#tasks/handlers.ts';
import type { TaskContext } from '#shared/tasks/task-context.ts';
import type { TaskDefinition } from '#shared/tasks/define-task.ts';

export type AnyHandler = (input: unknown, ctx: TaskContext) => unknown;

const definitions = new Map<string, TaskDefinition>(builtInTasks.map((task) => [task.name, task]));

interface LoadedHandler {
  readonly definition: TaskDefinition;
  readonly handler: AnyHandler;
}

// The module system caches too, but asking it costs more than running a small job: 6 % of a busy worker's time.
const loaded = new Map<string, LoadedHandler>();

/**
 * A handler and its definition: built-in ones by name, a user's by the URL of its module. Only the first job of a task
 * in a process pays for loading it; a load that failed is tried again.
 */
export async function loadHandler(task: string, handlerUrl: string | undefined): Promise<LoadedHandler> {
  const key = handlerUrl ?? task;
  let found = loaded.get(key);
  if (found === undefined) {
    found = await importHandler(task, handlerUrl);
    loaded.set(key, found);
  }
  return found;
}

async function importHandler(task: string, handlerUrl: string | undefined): Promise<LoadedHandler> {
  if (handlerUrl !== undefined) {
    const [definitionModule, handlerModule] = await Promise.all([
      import(new URL('./task.ts', handlerUrl).href) as Promise<{ task: TaskDefinition }>,
      import(handlerUrl) as Promise<{ default?: unknown }>,
    ]);
    return { definition: definitionModule.task, handler: toHandler(handlerModule.default, handlerUrl) };
  }
  const definition = definitions.get(task);
  const load = handlers[task];
  if (definition === undefined || load === undefined)
    throw new Error(`There is no task "${task}" in this worker.`);
  const module: { default?: unknown } = await load();
  return { definition, handler: toHandler(module.default, task) };
}

function toHandler(value: unknown, where: string): AnyHandler {
  if (typeof value !== 'function')
    throw new TypeError(`${where}: the handler module must have a function as its default export.`);
  // The handler's own types were checked where it is written (`satisfies HandlerOf<…>`).
  return value as AnyHandler;
}
