import { z } from 'zod';

/** JSON Schema 2020-12, as far as zod writes it. */
export interface JsonSchema {
  $ref?: string;
  type?: string | string[];
  title?: string;
  description?: string;
  default?: unknown;
  examples?: unknown[];
  const?: unknown;
  enum?: unknown[];
  format?: string;
  pattern?: string;
  minimum?: number;
  maximum?: number;
  exclusiveMinimum?: number;
  minLength?: number;
  maxLength?: number;
  minItems?: number;
  maxItems?: number;
  properties?: Record<string, JsonSchema>;
  required?: string[];
  additionalProperties?: boolean | JsonSchema;
  items?: JsonSchema;
  anyOf?: JsonSchema[];
  oneOf?: JsonSchema[];
  allOf?: JsonSchema[];
  discriminator?: { propertyName: string; mapping: Record<string, string | undefined> };
  $defs?: Record<string, JsonSchema>;
  [keyword: string]: unknown;
}

/**
 * The JSON Schema of a zod schema, for reading: without the patterns that formats imply, and without the limits of
 * what a number can be. What we answer may gain keys later, so `output` forbids none.
 */
export function toJsonSchema(type: z.ZodType, io: 'input' | 'output'): JsonSchema {
  // Inside an object, a schema with an id becomes a definition like any other.
  const { properties, $defs } = z.toJSONSchema(z.object({ root: type }), {
    io,
    unrepresentable: 'any',
    override({ jsonSchema }) {
      if (jsonSchema.format === 'uuid' || jsonSchema.format === 'date-time') delete jsonSchema.pattern;
      if (jsonSchema.minimum === Number.MIN_SAFE_INTEGER) delete jsonSchema.minimum;
      if (jsonSchema.maximum === Number.MAX_SAFE_INTEGER) delete jsonSchema.maximum;
      if (io === 'output' && jsonSchema.additionalProperties === false)
        delete jsonSchema.additionalProperties;
    },
  }) as JsonSchema;
  return { ...properties?.['root'], ...($defs !== undefined && { $defs }) };
}
