/**
 * Steps that do something to every item of a list. In their input `{"$item": true, "path": "a.b"}` stands for (a part of) the
 * item, and `{"$index": true}` for its number. Where those stand is found once, when the workflow is accepted: what takes their
 * places later, items and results of other steps, is never read as such. Pure.
 */
import { pathSegmentsMax, type FoundRefs } from './workflow.ts';

/** Items of one step. */
export const forEachItemsMax = 10_000;
/** Items of one step that run at once, when the step does not say, and the most that it may say. */
export const forEachLimitDefault = 100;
export const forEachLimitMax = 1_000;
/** Inputs of all items of one step together, as JSON. */
export const forEachInputBytesMax = 64 * 1024 * 1024;
/** Keys in them together: a small list and a small input multiply, and each key costs time of a process that serves others as well. */
export const forEachInputKeysMax = 500_000;

/** A place in the input of a step. `path`: what of the item stands there; empty for all of it. */
export type ItemPlace =
  | { readonly at: readonly string[]; readonly path: readonly string[] }
  | { readonly at: readonly string[]; readonly index: true };

/** Every object with the key `$item` or `$index` is a place, and nothing inside of it is looked at. */
export function findPlaces(input: unknown): {
  readonly places: readonly ItemPlace[];
  readonly problems: FoundRefs['problems'];
} {
  const places: ItemPlace[] = [];
  const problems: { at: readonly string[]; detail: string }[] = [];
  walk(input, []);
  return { places, problems };

  function walk(node: unknown, at: readonly string[]): void {
    if (typeof node !== 'object' || node === null) return;
    if (Object.hasOwn(node, '$item')) return addItem(node as Record<string, unknown>, at);
    if (Object.hasOwn(node, '$index')) return addIndex(node as Record<string, unknown>, at);
    // A reference to another step: findRefs reads it.
    if (Object.hasOwn(node, '$from')) return;
    for (const [key, value] of Object.entries(node)) walk(value, [...at, key]);
  }

  function addItem(node: Record<string, unknown>, at: readonly string[]): void {
    const { $item, path = '', ...rest } = node;
    const [unknownKey] = Object.keys(rest);
    if ($item !== true || unknownKey !== undefined)
      problems.push({
        at,
        detail: 'An item is written as {"$item": true} or {"$item": true, "path": "a.b"}.',
      });
    else if (typeof path !== 'string' || path.split('.').length > pathSegmentsMax)
      problems.push({
        at,
        detail: `path must be keys and indexes joined by ".", at most ${pathSegmentsMax}, for example "file".`,
      });
    else places.push({ at, path: path === '' ? [] : path.split('.') });
  }

  function addIndex(node: Record<string, unknown>, at: readonly string[]): void {
    if (node['$index'] !== true || Object.keys(node).length > 1)
      problems.push({ at, detail: 'The number of an item is written as {"$index": true}.' });
    else places.push({ at, index: true });
  }
}

/** What is at a path of a value; undefined when nothing is. */
export function valueAt(value: unknown, path: readonly string[]): unknown {
  let current = value;
  for (const key of path) {
    if (typeof current !== 'object' || current === null || !Object.hasOwn(current, key)) return undefined;
    current = (current as Record<string, unknown>)[key];
  }
  return current;
}

/**
 * Makes the input of any item.
 * @param template the input of the step; what stands at the places is not looked at.
 * @returns a function of an item and its number. A key whose part of the item is not there is left out; in a list it is null.
 */
export function createItemInput(
  template: unknown,
  places: readonly ItemPlace[],
): (item: unknown, index: number) => unknown {
  const root: Branch = { children: new Map() };
  for (const place of places) {
    let branch = root;
    for (const key of place.at) {
      const next: Branch = branch.children.get(key) ?? { children: new Map() };
      branch.children.set(key, next);
      branch = next;
    }
    branch.place = place;
  }
  return (item, index) => fill(template, root, item, index) ?? null;
}

/** What is left of `forEachInputKeysMax`. */
export interface KeyBudget {
  left: number;
}

/**
 * Are the inputs of all items together more than may be? Told before any of them is made, in time that the limit bounds.
 * @param budget of which their keys are taken.
 * @returns a sentence for the client.
 */
export function findExcess(
  template: unknown,
  places: readonly ItemPlace[],
  items: readonly unknown[],
  budget: KeyBudget = { left: forEachInputKeysMax },
): string | undefined {
  const measure = createMeasure();
  const paths = places.map((place) => ('index' in place ? [] : place.path));
  const stepKeys = measure(template).keys + paths.reduce((sum, path) => sum + 1 + path.length, 0);
  budget.left -= stepKeys * items.length;
  if (budget.left < 0) return tooManyKeys;
  const ownBytes = measure(createItemInput(template, places)(undefined, 0)).bytes;
  let bytes = ownBytes * items.length;
  for (const item of items) {
    for (const path of paths) {
      const part = measure(valueAt(item, path));
      budget.left -= part.keys;
      bytes += part.bytes;
    }
    if (budget.left < 0) return tooManyKeys;
    if (bytes > forEachInputBytesMax) return tooManyBytes;
  }
  return bytes > forEachInputBytesMax ? tooManyBytes : undefined;
}

export const tooManyKeys = `The inputs of the items have more than ${forEachInputKeysMax} keys together (forEachInputKeysMax).`;
export const tooManyBytes = `The inputs of the items are larger than ${forEachInputBytesMax} bytes together (forEachInputBytesMax).`;

/** Keys of a value, and the least that its JSON can have of bytes. What is asked for again and again is counted once. */
function createMeasure(): (value: unknown) => { readonly keys: number; readonly bytes: number } {
  const known = new WeakMap<object, { readonly keys: number; readonly bytes: number }>();
  return function measure(value) {
    if (typeof value === 'string') return { keys: 0, bytes: value.length };
    if (typeof value !== 'object' || value === null) return { keys: 0, bytes: 1 };
    const before = known.get(value);
    if (before !== undefined) return before;
    const sum = { keys: 0, bytes: 2 };
    for (const [key, part] of Object.entries(value)) {
      const { keys, bytes } = measure(part);
      sum.keys += 1 + keys;
      sum.bytes += (Array.isArray(value) ? 1 : key.length + 3) + bytes;
    }
    known.set(value, sum);
    return sum;
  };
}

interface Branch {
  readonly children: Map<string, Branch>;
  place?: ItemPlace;
}

function fill(node: unknown, branch: Branch | undefined, item: unknown, index: number): unknown {
  if (branch === undefined) return node;
  const { place, children } = branch;
  if (place !== undefined) return 'index' in place ? index : valueAt(item, place.path);
  if (Array.isArray(node))
    return node.map((value: unknown, at) => fill(value, children.get(String(at)), item, index) ?? null);
  if (typeof node !== 'object' || node === null) return node;
  // Not by assignment: a key may be named __proto__.
  return Object.fromEntries(
    Object.entries(node)
      .map(([key, value]) => [key, fill(value, children.get(key), item, index)] as const)
      .filter(([, value]) => value !== undefined),
  );
}
