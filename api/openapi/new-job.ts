/**
 * The bodies of `POST /v1/jobs`. What a job's input may be depends on its task, which the schema of the route cannot
 * say: here each task of this service is one alternative.
 */
import { jobOptions } from '#shared/tasks/job-options.ts';
import { toJsonSchema, type JsonSchema } from './json-schema.ts';
import type { MediaType } from './document.ts';
import type { Components } from './components.ts';
import type { ApiTask } from '#api/task-catalog.ts';

export function describeNewJob(components: Components, tasks: readonly ApiTask[]): Record<string, MediaType> {
  const options = components.name(toJsonSchema(jobOptions, 'input'), 'JobOptions');
  const alternatives = tasks.map((task) =>
    components.name(describeJobOf(components, task, options), `NewJob.${task.definition.name}`),
  );
  return {
    'application/json': {
      schema: {
        oneOf: alternatives,
        discriminator: {
          propertyName: 'task',
          mapping: Object.fromEntries(
            tasks.map((task, index) => [task.definition.name, alternatives[index]?.$ref]),
          ),
        },
      },
      examples: Object.fromEntries(
        tasks.map(({ definition }) => [
          definition.name,
          { summary: definition.title, value: { task: definition.name, input: definition.example } },
        ]),
      ),
    },
    'multipart/form-data': { schema: describeForm(tasks) },
  };
}

function describeJobOf(
  components: Components,
  { definition, inputSchema, outputSchema }: ApiTask,
  options: JsonSchema,
): JsonSchema {
  components.name(
    { ...outputSchema, title: `Result of ${definition.name}` },
    `TaskResult.${definition.name}`,
  );
  const input = components.name(
    { ...inputSchema, title: `Input of ${definition.name}` },
    `TaskInput.${definition.name}`,
  );
  return {
    title: definition.title,
    description: definition.description,
    type: 'object',
    properties: { task: { type: 'string', const: definition.name }, input, options },
    // Left out, it is {}.
    required: definition.input.safeParse({}).success ? ['task'] : ['task', 'input'],
    additionalProperties: false,
  };
}

function describeForm(tasks: readonly ApiTask[]): JsonSchema {
  const json = { type: 'string', contentMediaType: 'application/json' };
  return {
    type: 'object',
    description: 'The parts may come in any order.',
    properties: {
      task: { type: 'string', enum: tasks.map((task) => task.definition.name) },
      input: { ...json, description: 'As in the JSON body, without the files. Left out, it is {}.' },
      options: { ...json, description: 'As in the JSON body.' },
      file: {
        type: 'array',
        items: { type: 'string', contentMediaType: 'application/octet-stream' },
        description:
          'One part becomes `input.file`; several, or one where the task takes a list, become `input.files`.',
      },
    },
    required: ['task'],
  };
}
