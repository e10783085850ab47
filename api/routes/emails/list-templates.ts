import { z } from 'zod';
import { listEmailTemplates } from '#tasks/email-send/template-list.ts';
import { defineRoute } from '../../http/define-route.ts';

const jsonObject = z.record(z.string(), z.unknown());

const templateSchema = z
  .object({
    name: z.string().describe('What `template.name` of an e-mail says.'),
    description: z.string(),
    sample: jsonObject.describe('Variables to try it with.'),
    locales: z.array(z.string()).describe('Languages it is written in; the first is the default.'),
    variables: jsonObject.describe('JSON Schema 2020-12 of `template.variables`.'),
  })
  .meta({ id: 'EmailTemplate' });

export const listTemplates = defineRoute({
  method: 'get',
  path: '/v1/emails/templates',
  scope: 'read',
  tag: 'E-mail',
  summary: 'E-mail templates',
  description: 'The list is short, so it has no pages.',
  responses: {
    200: {
      description: 'The templates.',
      schema: z.object({ data: z.array(templateSchema) }).meta({ id: 'EmailTemplateList' }),
    },
  },
  handle({ res }) {
    res.json({ data: listEmailTemplates() });
    return Promise.resolve();
  },
});
