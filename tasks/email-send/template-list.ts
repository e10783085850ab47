/**
 * The e-mail templates that there are: all that the API needs to list and check them. The texts themselves, and the
 * libraries that render them, are only loaded by render-template.ts.
 *
 * A template is a folder in templates/ and a line here; template-list.test.ts holds the two together.
 */
import { z } from '#shared/tasks/define-task.ts';
import passwordResetSample from './templates/password-reset/sample.json' with { type: 'json' };
import { schema as passwordReset } from './templates/password-reset/schema.ts';
import receiptSample from './templates/receipt/sample.json' with { type: 'json' };
import { schema as receipt } from './templates/receipt/schema.ts';
import welcomeSample from './templates/welcome/sample.json' with { type: 'json' };
import { schema as welcome } from './templates/welcome/schema.ts';

export interface EmailTemplate {
  readonly name: string;
  readonly description: string;
  /** What `template.variables` must be. */
  readonly schema: z.ZodType<Record<string, unknown>>;
  /** Variables to try it with; they pass the schema. */
  readonly sample: Readonly<Record<string, unknown>>;
  /** Languages it is written in; the first is the default. */
  readonly locales: readonly string[];
}

export const emailTemplates: readonly EmailTemplate[] = [
  {
    name: 'password-reset',
    description: 'A link for setting a new password.',
    schema: passwordReset,
    sample: passwordResetSample,
    locales: ['en'],
  },
  {
    name: 'receipt',
    description: 'What was bought, and for how much.',
    schema: receipt,
    sample: receiptSample,
    locales: ['en'],
  },
  {
    name: 'welcome',
    description: 'Greets someone whose account is ready.',
    schema: welcome,
    sample: welcomeSample,
    locales: ['en', 'de'],
  },
];

export function findEmailTemplate(name: string): EmailTemplate | undefined {
  return emailTemplates.find((template) => template.name === name);
}

/** The list as it goes over the wire. */
export function listEmailTemplates() {
  return emailTemplates.map(({ schema, ...template }) => ({
    ...template,
    variables: z.toJSONSchema(schema, { io: 'input' }),
  }));
}
