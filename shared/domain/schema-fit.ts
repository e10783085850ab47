/**
 * Can what one JSON Schema describes stand where another one is asked for? Decided as far as the schemas tell: what
 * they leave open is allowed, and is found when the value is there. Pure.
 */
import { resolveRef } from './json-pointer.ts';

type Node = Readonly<Record<string, unknown>>;

/** One way in which a value may look, without unions and references. `true`: any. */
export type Shape = { readonly root: unknown; readonly node: Node | true };

export type Kind = 'file' | 'string' | 'number' | 'boolean' | 'null' | 'object' | 'array';

/** Deeper than this nothing is compared. */
const depthMax = 6;
const shapesMax = 100;

/** All shapes of a schema, which is a whole document. */
export function shapesOf(schema: unknown): Shape[] {
  return unfold(schema, schema, 0);
}

/** The shapes of what is at a path; empty when nothing can be there. */
export function shapesAt(shapes: readonly Shape[], path: readonly string[]): Shape[] {
  let current = [...shapes];
  for (const key of path) current = current.flatMap((shape) => childOf(shape, key)).slice(0, shapesMax);
  return current;
}

/** A list of what has these shapes. @param isNullable null may stand in it as well. */
export function listOf(items: readonly Shape[], isNullable: boolean): Shape[] {
  if (items.length === 0) return [{ root: true, node: { type: 'array' } }];
  // Each shape as a list of its own: references in it mean its own document.
  return items.map(({ root, node }) => ({
    root,
    node: { type: 'array', items: isNullable ? { anyOf: [node, { type: 'null' }] } : node },
  }));
}

/** What the items of a list may be; empty when it is none. What may be anything may be a list of anything. */
export function itemsOf(shapes: readonly Shape[]): Shape[] {
  return shapes
    .filter((shape) => kindOf(shape) === undefined || kindOf(shape) === 'array')
    .flatMap((shape) => childOf(shape, '0'))
    .slice(0, shapesMax);
}

/** The keys that an object of these shapes is known to have, for hints. */
export function keysOf(shapes: readonly Shape[]): string[] {
  return [...new Set(shapes.flatMap(({ node }) => Object.keys(propertiesOf(node))))];
}

/** May the value be null? */
export function isNullable(shapes: readonly Shape[]): boolean {
  return shapes.some((shape) => kindOf(shape) === undefined || kindOf(shape) === 'null');
}

/** May the key be left out of an object of these shapes? Items of arrays may not. */
export function isOptionalKey(shapes: readonly Shape[], key: string): boolean {
  return shapes.some(
    ({ node }) =>
      node === true || (kindOf({ root: node, node }) !== 'array' && !requiredOf(node).includes(key)),
  );
}

/** @returns undefined when it fits, or may; otherwise what is wrong. */
export function findMisfit(
  source: readonly Shape[],
  target: readonly Shape[],
  depth = 0,
): string | undefined {
  if (source.length === 0 || target.length === 0 || depth > depthMax) return undefined;
  let misfit: string | undefined;
  for (const from of source) {
    for (const to of target) {
      const problem = compare(from, to, depth);
      if (problem === undefined) return undefined;
      misfit ??= problem;
    }
  }
  return source.length === 1 && target.length === 1
    ? misfit
    : `a ${describe(source)} is given where a ${describe(target)} is needed`;
}

function compare(from: Shape, to: Shape, depth: number): string | undefined {
  const [given, needed] = [kindOf(from), kindOf(to)];
  if (given === undefined || needed === undefined) return undefined;
  if (given !== needed) return `a ${given} is given where a ${needed} is needed`;
  const [values, allowed] = [valuesOf(from.node), valuesOf(to.node)];
  if (values !== undefined && allowed !== undefined && !values.some((value) => allowed.includes(value)))
    return `one of ${JSON.stringify(values)} is given where one of ${JSON.stringify(allowed)} is needed`;
  if (given === 'array') {
    const problem = findMisfit(childOf(from, '0'), childOf(to, '0'), depth + 1);
    return problem === undefined ? undefined : `of the items, ${problem}`;
  }
  if (given === 'object') return compareObjects(from, to, depth);
  return undefined;
}

function compareObjects(from: Shape, to: Shape, depth: number): string | undefined {
  const needed = propertiesOf(to.node);
  for (const key of requiredOf(to.node)) {
    if (childOf(from, key).length === 0) return `the key "${key}" is needed`;
  }
  for (const key of requiredOf(from.node)) {
    if (childOf(to, key).length === 0) return `the key "${key}" is not known there`;
  }
  for (const key of Object.keys(propertiesOf(from.node))) {
    if (!Object.hasOwn(needed, key)) continue;
    const problem = findMisfit(childOf(from, key), childOf(to, key), depth + 1);
    if (problem !== undefined) return `at "${key}", ${problem}`;
  }
  return undefined;
}

function unfold(root: unknown, schema: unknown, depth: number): Shape[] {
  if (schema === false) return [];
  if (schema === true || typeof schema !== 'object' || schema === null || depth > 20)
    return [{ root, node: true }];
  const node = schema as Node;
  if (typeof node['$ref'] === 'string')
    return unfold(root, resolveRef(root, node['$ref']) ?? true, depth + 1);
  const branches = [...asArray(node['anyOf']), ...asArray(node['oneOf']), ...asArray(node['allOf'])];
  // An intersection is read as a union: too much is allowed then, never too little.
  if (branches.length > 0)
    return branches.flatMap((branch) => unfold(root, branch, depth + 1)).slice(0, shapesMax);
  const types = asArray(node['type']);
  if (types.length > 0) return types.map((type) => ({ root, node: { ...node, type } }));
  return [{ root, node }];
}

/** What may stand under a key or at an index; empty when nothing can. */
function childOf({ root, node }: Shape, key: string): Shape[] {
  if (node === true) return [{ root, node: true }];
  const kind = kindOf({ root, node });
  if (kind === undefined) return [{ root, node: true }];
  if (kind === 'array') {
    if (!/^(0|[1-9]\d*)$/.test(key)) return [];
    const prefix = asArray(node['prefixItems']);
    const item = prefix[Number(key)] ?? node['items'];
    return item === undefined ? [{ root, node: true }] : unfold(root, item, 0);
  }
  if (kind !== 'object') return [];
  const properties = propertiesOf(node);
  if (Object.hasOwn(properties, key)) return unfold(root, properties[key], 0);
  return unfold(root, node['additionalProperties'] ?? true, 0);
}

/** Undefined: it may be anything. */
function kindOf({ node }: Shape): Kind | undefined {
  if (node === true) return undefined;
  if (node['x-windlass-file'] === true) return 'file';
  const values = valuesOf(node);
  if (values !== undefined) {
    const kinds = new Set(values.map((value) => (value === null ? 'null' : typeof value)));
    const [only] = kinds;
    return kinds.size === 1 ? (only as Kind) : undefined;
  }
  const type = node['type'];
  if (type === 'integer') return 'number';
  if (typeof type === 'string') return type as Kind;
  return node['properties'] === undefined ? undefined : 'object';
}

function valuesOf(node: Node | true): readonly unknown[] | undefined {
  if (node === true) return undefined;
  if ('const' in node) return [node['const']];
  return Array.isArray(node['enum']) ? (node['enum'] as unknown[]) : undefined;
}

function propertiesOf(node: Node | true): Node {
  return node === true ? {} : ((node['properties'] ?? {}) as Node);
}

function requiredOf(node: Node | true): readonly string[] {
  return node === true ? [] : ((node['required'] ?? []) as string[]);
}

function describe(shapes: readonly Shape[]): string {
  return [...new Set(shapes.map((shape) => kindOf(shape) ?? 'value'))].join(' or ');
}

function asArray(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value : [];
}
