import { z } from 'zod';
import { resolveRef, toPointer } from '#shared/domain/json-pointer.ts';
import { fileRefMark } from './define-task.ts';

type Schema = boolean | { readonly [key: string]: unknown };

/**
 * Finds the file ids in a value by its schema: everything that the schema declares with `fileRef()`.
 * @returns a function from a value that fits the schema to the ids in it, in lower case, with their JSON Pointers.
 */
export function createFileRefFinder(
  type: z.ZodType,
  io: 'input' | 'output',
): (value: unknown) => { id: string; pointer: string }[] {
  const schema = z.toJSONSchema(type, { io, unrepresentable: 'any' }) as Schema;
  if (!JSON.stringify(schema).includes(fileRefMark)) return () => [];
  return (value) => {
    const found = new Map<string, { id: string; pointer: string }>();
    collect(schema, schema, value, '', found);
    return [...found.values()];
  };
}

function collect(
  root: Schema,
  schema: unknown,
  value: unknown,
  pointer: string,
  found: Map<string, { id: string; pointer: string }>,
): void {
  if (typeof schema !== 'object' || schema === null || value === undefined || value === null) return;
  const node = schema as { readonly [key: string]: unknown };
  if (node[fileRefMark] === true) {
    if (typeof value !== 'string') return;
    const id = value.toLowerCase();
    if (!found.has(id)) found.set(id, { id, pointer });
    return;
  }
  if (typeof node['$ref'] === 'string') collect(root, resolveRef(root, node['$ref']), value, pointer, found);
  for (const keyword of ['anyOf', 'oneOf', 'allOf']) {
    for (const branch of asArray(node[keyword])) collect(root, branch, value, pointer, found);
  }
  if (Array.isArray(value)) {
    const prefix = asArray(node['prefixItems']);
    for (const [index, item] of value.entries())
      collect(root, prefix[index] ?? node['items'], item, `${pointer}/${index}`, found);
  } else if (typeof value === 'object') {
    const properties = (node['properties'] ?? {}) as { readonly [key: string]: unknown };
    for (const [key, item] of Object.entries(value)) {
      const property = Object.hasOwn(properties, key) ? properties[key] : node['additionalProperties'];
      collect(root, property, item, pointer + toPointer([key]), found);
    }
  }
}

function asArray(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value : [];
}
