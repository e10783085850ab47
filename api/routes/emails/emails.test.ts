import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { emailTemplates } from '#tasks/email-send/template-list.ts';
import { createTestApi, type TestApi, type TestClient } from '#test/support/api.ts';

let api: TestApi;
let client: TestClient;
beforeAll(async () => {
  api = await createTestApi();
  client = await api.client();
});
afterAll(() => api.dispose());

const email = { to: ['Ada <ada@example.com>'], subject: 'Hello', text: 'Hello, Ada.' };

interface Job {
  readonly id: string;
  readonly state: string;
  readonly runAt: string;
}

async function countJobs(): Promise<number> {
  const { rows } = await api.db.query<{ count: number }>('SELECT count(*) AS count FROM jobs');
  return rows[0]?.count ?? 0;
}

describe('POST /v1/emails 202', () => {
  test('becomes a job of email.send whose input is the body', async () => {
    const response = await client.post('/v1/emails', { ...email, tags: ['welcome'] });
    expect(response.status).toBe(202);
    const job = (await response.json()) as Job;
    expect(response.headers.get('location')).toBe(`/v1/jobs/${job.id}`);
    expect(job).toMatchObject({ task: 'email.send', state: 'queued', input: email, tags: ['welcome'] });
    expect(await client.job(job.id)).toMatchObject({ task: 'email.send', input: email, tags: ['welcome'] });
  });

  test('sendAt schedules it', async () => {
    const response = await client.post('/v1/emails', { ...email, sendAt: '2999-01-01T00:00:00Z' });
    expect(response.status).toBe(202);
    expect(await response.json()).toMatchObject({ state: 'scheduled', runAt: '2999-01-01T00:00:00.000Z' });
  });

  test.each(emailTemplates.map((template) => [template.name, template]))(
    'the sample of the template %s is accepted',
    async (name, { sample }) => {
      const response = await client.post('/v1/emails', {
        to: email.to,
        template: { name, variables: sample },
      });
      expect(response.status).toBe(202);
    },
  );

  test('the same Idempotency-Key makes one job, and one e-mail', async () => {
    const before = await countJobs();
    const key = { 'idempotency-key': randomUUID() };
    const [first, again] = [
      await client.post('/v1/emails', email, key),
      await client.post('/v1/emails', email, key),
    ];
    expect(again.headers.get('idempotency-replayed')).toBe('true');
    expect(await again.json()).toEqual(await first.json());
    expect(await countJobs()).toBe(before + 1);
    const other = await client.post('/v1/emails', { ...email, subject: 'Other' }, key);
    expect(other.status).toBe(422);
    expect(await other.json()).toMatchObject({ code: 'idempotency-mismatch' });
  });
});

describe('POST /v1/emails 422', () => {
  test.each<[Record<string, unknown>, string]>([
    [{ to: ['ada'] }, '/to/0'],
    [{ to: [] }, '/to'],
    [{ to: undefined }, '/to'],
    [{ subject: undefined }, '/subject'],
    [{ text: undefined }, '/template'],
    [{ attachments: [{ content: 'AA==' }] }, '/attachments/0/filename'],
    [{ 'a/b': 1 }, '/a~1b'],
    [{ input: {} }, '/input'],
    [{ sendAt: 'tomorrow' }, '/sendAt'],
    [{ tags: ['a b'] }, '/tags/0'],
    [{ tags: 'a' }, '/tags'],
    [{ text: undefined, template: { name: 'welcom' } }, '/template/name'],
    [{ text: undefined, template: { name: 'welcome', variables: { name: 7 } } }, '/template/variables/name'],
    [{ text: undefined, template: { variables: {} } }, '/template/name'],
  ])('%j: the pointer leads into the body that was sent', async (change, pointer) => {
    const before = await countJobs();
    const response = await client.post('/v1/emails', { ...email, ...change });
    expect(response.status).toBe(422);
    const problem = (await response.json()) as {
      code: string;
      detail: string;
      errors: { pointer: string }[];
    };
    expect(problem.code).toBe('invalid-input');
    expect(problem.errors.map((error) => error.pointer)).toContain(pointer);
    expect(problem.detail).toMatch(new RegExp(`^${problem.errors[0]?.pointer}: `));
    expect(await countJobs()).toBe(before);
  });

  test('an unknown template is answered with the nearest one', async () => {
    const response = await client.post('/v1/emails', { to: email.to, template: { name: 'welcom' } });
    expect(await response.json()).toMatchObject({
      detail: '/template/name: There is no template "welcom". Did you mean "welcome"?',
    });
  });

  test('an attachment of another tenant does not exist', async () => {
    const stranger = await api.client({ tenantId: 'stranger' });
    const upload = await stranger.request('POST', '/v1/files', {
      body: 'secret',
      headers: { 'content-type': 'text/plain' },
    });
    expect(upload.status).toBe(201);
    const { id } = (await upload.json()) as { id: string };
    const attachments = [{ fileId: id }];
    const response = await client.post('/v1/emails', { ...email, attachments });
    expect(response.status).toBe(422);
    expect(await response.json()).toMatchObject({
      code: 'file-not-found',
      errors: [{ pointer: '/attachments/0/fileId' }],
    });
    expect((await stranger.post('/v1/emails', { ...email, attachments })).status).toBe(202);
  });

  test.each([[[email]], ['text'], [null]])('%j is no e-mail', async (body) => {
    const response = await client.post('/v1/emails', body);
    expect(response.status).toBe(422);
    expect(await response.json()).toMatchObject({ code: 'invalid-input', errors: [{ pointer: '' }] });
  });
});

describe('POST /v1/emails 415', () => {
  test('a body that is not JSON', async () => {
    const response = await client.request('POST', '/v1/emails', {
      body: 'to=ada',
      headers: { 'content-type': 'application/x-www-form-urlencoded' },
    });
    expect(response.status).toBe(415);
  });
});

describe('GET /v1/emails/templates 200', () => {
  test('lists every template with a schema of its variables', async () => {
    const response = await client.get('/v1/emails/templates');
    expect(response.status).toBe(200);
    const { data } = (await response.json()) as { data: Record<string, unknown>[] };
    expect(data.map((template) => template['name'])).toEqual(emailTemplates.map((template) => template.name));
    expect(data.find((template) => template['name'] === 'welcome')).toMatchObject({
      locales: ['en', 'de'],
      sample: { name: expect.any(String) as unknown },
      variables: { type: 'object', properties: { name: { type: 'string' } } },
    });
  });
});
