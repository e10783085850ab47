/** JSON Schema for reading: a list of fields, each with its type, its limits, and what it means. */
import { html, prose, type Html, type HtmlValue } from './html.ts';
import type { JsonSchema } from '#api/openapi/json-schema.ts';
import type { Parameter } from '#api/openapi/document.ts';

/** What is inside deeper levels is left to the named schemas and to the document itself. */
const depthMax = 6;

export function renderSchema(schema: JsonSchema, depth = 0): Html {
  const alternatives = schema.oneOf ?? schema.anyOf ?? schema.allOf;
  if (schema.properties !== undefined) return renderFields(schema, depth);
  if (schema.items?.properties !== undefined) return renderSchema(schema.items, depth);
  if (alternatives !== undefined && alternatives.some((item) => item.properties !== undefined)) {
    return html`${alternatives.filter((item) => item.properties !== undefined).map((item) => renderSchema(item, depth))}`;
  }
  return html``;
}

function renderFields({ properties = {}, required = [] }: JsonSchema, depth: number): Html {
  return html`<dl class="fields">
    ${Object.entries(properties).map(([name, schema]) => renderField({ name, schema, required: required.includes(name) }, depth))}
  </dl>`;
}

export function renderParameters(parameters: readonly Parameter[]): Html {
  return html`<dl class="fields">
    ${parameters.map((parameter) => renderField({ ...parameter, place: parameter.in }, 0))}
  </dl>`;
}

interface Field {
  readonly name: string;
  readonly schema: JsonSchema;
  readonly required: boolean;
  readonly description?: string;
  readonly place?: string;
}

function renderField(field: Field, depth: number): Html {
  const { name, schema, required, place } = field;
  const description = field.description ?? schema.description ?? schema.items?.description;
  const facts = listFacts(schema);
  const inner = depth < depthMax ? renderSchema(schema, depth + 1) : html``;
  return html` <dt>
      <code>${name}</code>
      <span class="type">${renderType(schema)}</span
      >${place !== undefined && html` <span class="place">${place}</span>`}${required && html` <span class="required">required</span>`}
    </dt>
    <dd>
      ${description !== undefined && html`<p>${prose(description)}</p>`}${facts.length > 0 && html`<p class="facts">${facts}</p>`}${inner}
    </dd>`;
}

/** `string`, `integer or null`, `list of File`. */
export function renderType(schema: JsonSchema): Html {
  if (schema['x-windlass-file'] === true) return html`id of a file`;
  if (schema.$ref !== undefined) {
    const name = schema.$ref.split('/').at(-1) ?? '';
    return html`<a href="#${schemaAnchor(name)}">${name}</a>`;
  }
  if (schema.const !== undefined) return html`<code>${JSON.stringify(schema.const)}</code>`;
  if (schema.enum !== undefined)
    return joinWithOr(
      schema.enum.map(
        (value) => html`<code>${typeof value === 'string' ? value : JSON.stringify(value)}</code>`,
      ),
    );
  const alternatives = schema.oneOf ?? schema.anyOf;
  if (alternatives !== undefined) return joinWithOr(alternatives.map(renderType));
  if (schema.items?.['x-windlass-file'] === true) return html`list of file ids`;
  if (schema.items !== undefined) return html`list of ${renderType(schema.items)}`;
  if (schema.format === 'uuid') return html`UUID`;
  if (schema.format === 'date-time') return html`time (ISO 8601)`;
  if (schema.format === 'uri') return html`URL`;
  if (Array.isArray(schema.type)) return html`${schema.type.join(' or ')}`;
  if (typeof schema.additionalProperties === 'object' && schema.properties === undefined)
    return html`object with any keys`;
  return html`${schema.type ?? (schema.properties === undefined ? 'any JSON' : 'object')}`;
}

function joinWithOr(parts: readonly Html[]): Html {
  return html`${parts.map((part, index): HtmlValue => (index === 0 ? part : html`${index === parts.length - 1 ? ' or ' : ', '}${part}`))}`;
}

function listFacts(schema: JsonSchema): Html[] {
  const range = (min: number | undefined, max: number | undefined, unit: string): Html | undefined => {
    if (min === undefined && max === undefined) return undefined;
    if (min === undefined) return html`at most ${format(max)}${unit}`;
    if (max === undefined) return html`at least ${format(min)}${unit}`;
    return html`${format(min)} to ${format(max)}${unit}`;
  };
  const facts = [
    range(schema.minimum, schema.maximum, ''),
    range(schema.minLength, schema.maxLength, ' characters'),
    range(schema.minItems, schema.maxItems, ' items'),
    schema.default === undefined ? undefined : html`default <code>${JSON.stringify(schema.default)}</code>`,
  ].filter((fact) => fact !== undefined);
  return facts.map((fact, index) => (index === 0 ? fact : html` · ${fact}`));
}

function format(value: number | undefined): string {
  return (value ?? 0).toLocaleString('en-US');
}

export function schemaAnchor(name: string): string {
  return `schema-${name}`;
}
