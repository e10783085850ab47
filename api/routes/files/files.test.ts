import { createHash, randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { fileSchema } from '#api/present-file.ts';
import { createTestApi, type TestApi, type TestClient } from '#test/support/api.ts';

let api: TestApi;
let client: TestClient;
beforeAll(async () => {
  api = await createTestApi({ WINDLASS_FILE_BYTES_MAX: '1000', WINDLASS_FILE_RETENTION_MS: '3600000' });
  client = await api.client();
});
afterAll(() => api.dispose());

type Body = NonNullable<RequestInit['body']>;
type Uploaded = ReturnType<typeof fileSchema.parse>;

async function send(body: Body, headers: Record<string, string> = {}): Promise<Response> {
  return client.request('POST', '/v1/files', { body, headers });
}

async function upload(
  body: Body,
  headers: Record<string, string> = { 'content-type': 'text/plain' },
): Promise<Uploaded> {
  const response = await send(body, headers);
  expect(response.status).toBe(201);
  return fileSchema.strict().parse(await response.json());
}

async function listStored(): Promise<Set<string>> {
  const ids = new Set<string>();
  for await (const { id } of api.deps.storage.list()) ids.add(id);
  return ids;
}

const digest = (text: string): string => createHash('sha256').update(text).digest('base64');

describe('POST /v1/files 201', () => {
  test('a raw body with its name and type', async () => {
    const response = await send('hello', {
      'content-type': 'text/plain',
      'content-disposition': `attachment; filename="x.txt"; filename*=UTF-8''caf%C3%A9.txt`,
    });
    expect(response.status).toBe(201);
    const file = fileSchema.strict().parse(await response.json());
    expect(response.headers.get('location')).toBe(`/v1/files/${file.id}`);
    expect(file).toMatchObject({
      name: 'café.txt',
      mediaType: 'text/plain',
      detectedType: null,
      size: 5,
      sha256: createHash('sha256').update('hello').digest('hex'),
    });
    expect(Date.parse(file.expiresAt ?? '') - Date.parse(file.createdAt)).toBe(3_600_000);
    expect(await (await client.get(`/v1/files/${file.id}`)).json()).toEqual(file);
    expect(await (await client.get(file.links.content)).text()).toBe('hello');
  });

  test('a form with one file', async () => {
    const form = new FormData();
    form.append('file', new File(['hello'], 'a.txt', { type: 'text/plain' }));
    expect(await upload(form, {})).toMatchObject({ name: 'a.txt', size: 5 });
  });

  test('an empty file is a file', async () => {
    const file = await upload('');
    expect(file.size).toBe(0);
    expect(await (await client.get(file.links.content)).text()).toBe('');
  });

  test('with its digest announced', async () => {
    expect(
      await upload('hello', { 'content-type': 'text/plain', 'repr-digest': `sha-256=:${digest('hello')}:` }),
    ).toMatchObject({ size: 5 });
  });

  test('under one Idempotency-Key it is stored once, and another file is refused', async () => {
    const headers = { 'content-type': 'text/plain', 'idempotency-key': randomUUID() };
    const first = await upload('same', headers);
    const stored = await listStored();
    const again = await send('same', headers);
    expect(again.headers.get('idempotency-replayed')).toBe('true');
    expect(await again.json()).toEqual(first);
    const other = await send('other', headers);
    expect(other.status).toBe(422);
    expect(await other.json()).toMatchObject({ code: 'idempotency-mismatch' });
    expect(await listStored()).toEqual(stored);
  });
});

describe('POST /v1/files 4xx, and no bytes stay', () => {
  const twoFiles = new FormData();
  for (const name of ['a', 'b']) twoFiles.append('file', new File([name], name));
  const withField = new FormData();
  withField.append('task', 'test.files');
  withField.append('file', new File(['a'], 'a'));
  test.each<[string, Body, Record<string, string>, number, string]>([
    ['too large', 'x'.repeat(1_001), { 'content-type': 'text/plain' }, 413, 'content-too-large'],
    [
      'other bytes than announced',
      'hello',
      { 'content-type': 'text/plain', 'repr-digest': `sha-256=:${digest('other')}:` },
      400,
      'digest-mismatch',
    ],
    [
      'a bad key',
      'hello',
      { 'content-type': 'text/plain', 'idempotency-key': 'a b' },
      400,
      'invalid-idempotency-key',
    ],
    ['two files', twoFiles, {}, 422, 'invalid-input'],
    ['other parts', withField, {}, 422, 'invalid-input'],
    ['no file', new FormData(), {}, 422, 'invalid-input'],
  ])('%s', async (_what, body, headers, status, code) => {
    const stored = await listStored();
    const response = await send(body, headers);
    expect(await response.json()).toMatchObject({ status, code });
    expect(response.status).toBe(status);
    expect(await listStored()).toEqual(stored);
  });
});

describe('GET /v1/files/{id}/content', () => {
  test('200: as nothing that a browser runs', async () => {
    const file = await upload('<script>alert(1)</script>', {
      'content-type': 'text/html',
      'content-disposition': 'attachment; filename="a.html"',
    });
    const response = await client.get(`${file.links.content}?disposition=inline`);
    expect(response.status).toBe(200);
    expect(response.headers.get('content-disposition')).toMatch(/^attachment/);
    expect(response.headers.get('content-security-policy')).toMatch(/sandbox/);
    expect(response.headers.get('x-content-type-options')).toBe('nosniff');
    expect(response.headers.get('etag')).toContain(file.sha256);
  });

  test('206 and 416: ranges', async () => {
    const file = await upload('0123456789');
    const part = await client.get(file.links.content, { range: 'bytes=2-4' });
    expect(part.status).toBe(206);
    expect(part.headers.get('content-range')).toBe('bytes 2-4/10');
    expect(await part.text()).toBe('234');
    const outside = await client.get(file.links.content, { range: 'bytes=10-' });
    expect(outside.status).toBe(416);
    expect(outside.headers.get('content-range')).toBe('bytes */10');
    expect(await outside.json()).toMatchObject({ code: 'range-not-satisfiable' });
  });

  test('304: nothing new', async () => {
    const file = await upload('hello');
    const etag = (await client.get(file.links.content)).headers.get('etag') ?? '';
    expect((await client.get(file.links.content, { 'if-none-match': etag })).status).toBe(304);
  });

  test('HEAD: all but the bytes', async () => {
    const file = await upload('hello');
    const response = await client.request('HEAD', file.links.content);
    expect(response.status).toBe(200);
    expect(response.headers.get('content-length')).toBe('5');
    expect(await response.text()).toBe('');
  });
});

describe('DELETE /v1/files/{id}', () => {
  test('204: row and bytes are gone', async () => {
    const file = await upload('hello');
    expect((await client.request('DELETE', `/v1/files/${file.id}`)).status).toBe(204);
    expect((await client.get(`/v1/files/${file.id}`)).status).toBe(404);
    expect((await client.get(file.links.content)).status).toBe(404);
    expect(await listStored()).not.toContain(file.id);
  });

  test('409: a job that has not ended needs it', async () => {
    const file = await upload('hello');
    await client.submit('test.files', { file: file.id });
    const response = await client.request('DELETE', `/v1/files/${file.id}`);
    expect(response.status).toBe(409);
    expect(await response.json()).toMatchObject({ code: 'file-in-use', retryable: true });
    expect(await (await client.get(file.links.content)).text()).toBe('hello');
  });
});

describe('404', () => {
  test.each([
    'GET /v1/files/x',
    'GET /v1/files/x/content',
    'DELETE /v1/files/x',
    `GET /v1/files/${randomUUID()}/content`,
    `DELETE /v1/files/${randomUUID()}`,
  ])('%s', async (call) => {
    const [method = '', path = ''] = call.split(' ');
    const response = await client.request(method, path);
    expect(response.status).toBe(404);
    expect(await response.json()).toMatchObject({ code: 'not-found' });
  });
});
