import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { createTestApi, type TestApi, type TestClient } from '#test/support/api.ts';

let api: TestApi;
let client: TestClient;
beforeAll(async () => {
  api = await createTestApi();
  client = await api.client();
});
afterAll(() => api.dispose());

const email = { to: ['ada@example.com'], subject: 'Hello', text: 'Hello.' };

describe('options.runAt', () => {
  test.each([
    ['2999-01-01T00:00:00+23:59', '2998-12-31T00:01:00.000Z'],
    ['2999-01-01T00:00:00-16:00', '2999-01-01T16:00:00.000Z'],
    [`2999-01-01T00:00:00.${'1'.repeat(500)}Z`, '2999-01-01T00:00:00.111Z'],
    ['9999-12-31T23:59:59.999Z', '9999-12-31T23:59:59.999Z'],
  ])('%s is a time like any other', async (runAt, inUtc) => {
    const response = await client.post('/v1/jobs', { task: 'email.send', input: email, options: { runAt } });
    expect(response.status).toBe(202);
    const { id } = (await response.json()) as { id: string };
    expect(await client.job(id)).toMatchObject({ state: 'scheduled', runAt: inUtc });
  });

  test.each(['0000-01-01T00:00:00Z', '0001-01-01T00:00:00+01:00', '9999-12-31T23:59:59-01:00'])(
    '%s, which cannot be stored, is refused with its place',
    async (runAt) => {
      const response = await client.post('/v1/jobs', {
        task: 'email.send',
        input: email,
        options: { runAt },
      });
      expect(response.status).toBe(422);
      expect(await response.json()).toMatchObject({ errors: [{ pointer: '/options/runAt' }] });
    },
  );
});

test.each(['gzip', 'deflate', 'br', 'zstd'])(
  'a body that is not the %s it claims to be is a 400',
  async (encoding) => {
    const response = await fetch(`${api.url}/v1/jobs`, {
      method: 'POST',
      headers: {
        authorization: `Bearer ${client.key}`,
        'content-type': 'application/json',
        'content-encoding': encoding,
      },
      body: '{"task":"email.send"}',
    });
    expect(response.status).toBe(400);
    expect(await response.json()).toMatchObject({ code: 'bad-request' });
  },
);

test('a file named twice, once in capitals, is one file', async () => {
  const upload = await fetch(`${api.url}/v1/files`, {
    method: 'POST',
    headers: { authorization: `Bearer ${client.key}`, 'content-type': 'text/plain' },
    body: 'attached',
  });
  const { id } = (await upload.json()) as { id: string };
  const attachments = [{ fileId: id }, { fileId: id.toUpperCase() }];
  const response = await client.post('/v1/jobs', { task: 'email.send', input: { ...email, attachments } });
  expect(response.status).toBe(202);
  const job = (await response.json()) as { id: string };
  const { rows } = await api.db.query('SELECT file_id FROM job_inputs WHERE job_id = $1', [job.id]);
  expect(rows).toEqual([{ file_id: id }]);
});
