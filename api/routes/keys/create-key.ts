import { z } from 'zod';
import { insertKey, scopes } from '#shared/db/api-keys.ts';
import { isStorable } from '#shared/domain/text.ts';
import { makeKey } from '../../http/authenticate.ts';
import { defineRoute } from '../../http/define-route.ts';
import { invalidInput } from '../../http/read-json.ts';
import { keySchema, presentKey } from '../../present-key.ts';

const newKey = z
  .strictObject({
    name: z.string().min(1).max(100).refine(isStorable).describe('To recognise it by.'),
    tenantId: z
      .string()
      .regex(
        /^[a-z0-9][a-z0-9_-]{0,62}$/,
        'must be 1 to 63 of a-z, 0-9, _ and -, and begin with a letter or digit',
      )
      .optional()
      .describe(
        'Whose jobs and files it sees. A new tenant is made with its first key. Default: the tenant of the key that asks.',
      ),
    scopes: z
      .array(z.enum(scopes))
      .min(1)
      .refine((given) => new Set(given).size === given.length, 'names a scope twice')
      .describe(
        '`submit`: jobs, files and e-mails go in. `read`: everything of the tenant is seen. `operate`: queues and workers are run. `admin`: everything, keys of all tenants included.',
      ),
    expiresAt: z.iso.datetime({ offset: true }).optional().describe('Refused from then on. Default: never.'),
  })
  .meta({ id: 'NewApiKey', examples: [{ name: 'web shop', tenantId: 'shop', scopes: ['submit', 'read'] }] });

export const createKey = defineRoute({
  method: 'post',
  path: '/v1/keys',
  scope: 'admin',
  tag: 'Administration',
  summary: 'Make an API key',
  description:
    'The answer is the only place where the key itself appears. There is no Idempotency-Key for this call: a key whose answer was lost is of no use; make another and revoke it.',
  body: newKey,
  responses: {
    201: {
      description: 'The key.',
      schema: keySchema
        .extend({ key: z.string().describe('The key itself. Keep it; it is not shown again.') })
        .meta({ id: 'ApiKeyWithSecret' }),
    },
  },
  problems: ['invalid-json', 'unsupported-media-type', 'content-too-large', 'invalid-input'],
  async handle({ deps, identity, body, res }) {
    const expiresAt = body.expiresAt === undefined ? undefined : new Date(body.expiresAt);
    if (expiresAt !== undefined && expiresAt.getTime() <= Date.now()) {
      throw invalidInput([{ pointer: '/expiresAt', detail: 'is in the past: the key could never be used.' }]);
    }
    const { secret, row } = makeKey({
      tenantId: body.tenantId ?? identity.tenantId,
      name: body.name,
      scopes: body.scopes,
      ...(expiresAt !== undefined && { expiresAt }),
    });
    res.status(201).json({ ...presentKey(await insertKey(deps.db, row)), key: secret });
  },
});
