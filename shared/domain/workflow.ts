/**
 * What a workflow is made of: steps, the steps they wait for, and places in their input that take something from an
 * earlier result, written as `{"$from": "step", "path": "a.0.b"}`. Pure.
 */

export const workflowStepsMax = 1_000;
/** Of all steps together: each name in `after`, and each other step that an input names. */
export const workflowEdgesMax = 10_000;
/** What one step takes from results, as JSON. The database keeps it (resolve_input in 0005-workflows.sql). */
export const workflowInputBytesMax = 1_048_576;
/**
 * Of all steps together: each reference in the input (and the list) of a step counts as many bytes as those have as JSON. The database puts in
 * one value after the other, each into a copy, in the transaction that ends the job that the step waits for; were that more than a
 * transaction may take, the end would be undone, again and again.
 */
export const workflowRefBytesMax = 256 * 1024 * 1024;
export const stepName = /^[A-Za-z0-9][\w.-]{0,63}$/;

export const pathSegmentsMax = 32;

export interface InputRef {
  /** Where it stands in the input. */
  readonly at: readonly string[];
  readonly from: string;
  /** What of the result; empty for all of it. */
  readonly path: readonly string[];
}

export type FoundRefs = {
  readonly refs: readonly InputRef[];
  /** References that are not written as they should be. */
  readonly problems: readonly { readonly at: readonly string[]; readonly detail: string }[];
};

/** Every object with the key `$from` is a reference. */
export function findRefs(input: unknown): FoundRefs {
  const refs: InputRef[] = [];
  const problems: { at: readonly string[]; detail: string }[] = [];
  walk(input, []);
  return { refs, problems };

  function walk(node: unknown, at: readonly string[]): void {
    if (typeof node !== 'object' || node === null) return;
    if (!Object.hasOwn(node, '$from')) {
      for (const [key, item] of Object.entries(node)) walk(item, [...at, key]);
      return;
    }
    const { $from: from, path = '', ...rest } = node as { $from: unknown; path?: unknown };
    const [unknownKey] = Object.keys(rest);
    if (typeof from !== 'string') problems.push({ at, detail: '$from must be the name of a step.' });
    else if (unknownKey !== undefined)
      problems.push({ at, detail: `A reference has $from and path, and no "${unknownKey}".` });
    else if (typeof path !== 'string' || path.split('.').length > pathSegmentsMax)
      problems.push({
        at,
        detail: `path must be keys and indexes joined by ".", at most ${pathSegmentsMax}, for example "files.0".`,
      });
    else refs.push({ at, from, path: path === '' ? [] : path.split('.') });
  }
}

export function isPathPrefix(short: readonly string[], long: readonly string[]): boolean {
  return short.length <= long.length && short.every((part, index) => part === long[index]);
}

export type StepOrder =
  | { readonly type: 'ordered'; readonly names: readonly string[] }
  /** Each of these waits for the next, and the last for the first. */
  | { readonly type: 'cycle'; readonly names: readonly string[] };

/** The steps so that each comes after those that it waits for, otherwise in the order in which they were given. */
export function orderSteps(parents: ReadonlyMap<string, readonly string[]>): StepOrder {
  const ordered: string[] = [];
  const states = new Map<string, 'open' | 'done'>();
  for (const start of parents.keys()) {
    // By hand and not by recursion: a chain may have a thousand steps.
    const stack = [{ name: start, next: 0 }];
    while (stack.length > 0) {
      const top = stack.at(-1) ?? { name: start, next: 0 };
      if (top.next === 0 && states.get(top.name) === 'done') {
        stack.pop();
        continue;
      }
      states.set(top.name, 'open');
      const parent = parents.get(top.name)?.[top.next];
      top.next += 1;
      if (parent === undefined) {
        states.set(top.name, 'done');
        ordered.push(top.name);
        stack.pop();
      } else if (states.get(parent) === 'open') {
        const names = stack.map((entry) => entry.name);
        return { type: 'cycle', names: names.slice(names.indexOf(parent)) };
      } else if (states.get(parent) !== 'done') {
        stack.push({ name: parent, next: 0 });
      }
    }
  }
  return { type: 'ordered', names: ordered };
}

export const workflowStates = ['running', 'succeeded', 'failed', 'cancelled'] as const;
export type WorkflowState = (typeof workflowStates)[number];

/**
 * - `running` while any step has not ended.
 * - `failed` when a step failed that is not optional.
 * - `cancelled` when none did, and somebody cancelled one.
 * - `succeeded` otherwise: what was left out because an optional step failed does not count.
 */
export function workflowStateOf(steps: {
  readonly open: number;
  readonly failed: number;
  readonly cancelled: number;
}): WorkflowState {
  if (steps.open > 0) return 'running';
  if (steps.failed > 0) return 'failed';
  return steps.cancelled > 0 ? 'cancelled' : 'succeeded';
}
