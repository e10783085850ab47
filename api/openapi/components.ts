import type { JsonSchema } from './json-schema.ts';

export interface Components {
  readonly schemas: Record<string, JsonSchema>;
  /**
   * Moves the definitions of a schema to the components, and gives back the rest with references that lead there.
   * @param owner prefix for definitions that have no name of their own.
   * @throws Error when two different schemas claim one name.
   */
  take(schema: JsonSchema, owner: string): JsonSchema;
  /** Makes the whole schema a component, also when it refers to itself. @returns a reference to it. */
  name(schema: JsonSchema, name: string): JsonSchema;
}

export function createComponents(): Components {
  const schemas: Record<string, JsonSchema> = {};

  function put(name: string, schema: JsonSchema): void {
    const known = schemas[name];
    if (known !== undefined && JSON.stringify(known) !== JSON.stringify(schema)) {
      throw new Error(
        `Two different schemas have the id "${name}". A schema that differs between input and output needs two ids.`,
      );
    }
    schemas[name] = schema;
  }

  function take(schema: JsonSchema, owner: string): JsonSchema {
    const { $defs = {}, $schema: _, ...root } = schema;
    const rename = (reference: string): string => {
      if (reference === '#') return refTo(owner);
      const name = /^#\/\$defs\/([^/]+)$/.exec(reference)?.[1];
      return name === undefined ? reference : refTo(toName(name, owner));
    };
    for (const [name, definition] of Object.entries($defs))
      put(toName(name, owner), withReferences(definition, rename));
    return withReferences(root, rename);
  }

  return {
    schemas,
    take,
    name(schema, name) {
      put(name, take(schema, name));
      return { $ref: refTo(name) };
    },
  };
}

/** zod calls what has no id, but refers to itself, `__schema0`, `__schema1` … */
function toName(definition: string, owner: string): string {
  return definition.startsWith('__') ? `${owner}.${definition.replace(/^_+/, '')}` : definition;
}

function refTo(name: string): string {
  return `#/components/schemas/${name}`;
}

function withReferences<Value>(value: Value, rename: (reference: string) => string): Value {
  const copy = (node: unknown): unknown => {
    if (Array.isArray(node)) return node.map(copy);
    if (typeof node !== 'object' || node === null) return node;
    return Object.fromEntries(
      Object.entries(node).map(([key, item]) => [
        key,
        key === '$ref' && typeof item === 'string' ? rename(item) : copy(item),
      ]),
    );
  };
  // A copy of the same shape.
  return copy(value) as Value;
}
