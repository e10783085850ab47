import { randomUUID } from 'node:crypto';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { createTestApi, type TestApi, type TestClient } from '#test/support/api.ts';

let api: TestApi;
let client: TestClient;
beforeAll(async () => {
  api = await createTestApi();
  client = await api.client();
});
afterAll(() => api.dispose());

interface Answer {
  readonly status: number;
  readonly isReplayed: boolean;
  readonly body: {
    readonly code?: string;
    readonly input: Record<string, unknown>;
    readonly errors?: { pointer: string }[];
  };
}

function form(parts: Record<string, string | File | File[]>): FormData {
  const data = new FormData();
  for (const [name, value] of Object.entries(parts))
    for (const item of [value].flat()) data.append(name, item);
  return data;
}

const file = (name: string, text: string): File => new File([text], name, { type: 'text/plain' });

async function send(data: FormData, headers: Record<string, string> = {}): Promise<Answer> {
  const response = await client.request('POST', '/v1/jobs', { body: data, headers });
  const isReplayed = response.headers.get('idempotency-replayed') === 'true';
  return { status: response.status, isReplayed, body: (await response.json()) as Answer['body'] };
}

async function countJobs(): Promise<number> {
  const { rows } = await api.db.query<{ count: number }>('SELECT count(*) AS count FROM jobs');
  return rows[0]?.count ?? 0;
}

/** Ids of all files whose bytes are in storage. */
async function listStored(): Promise<Set<string>> {
  const ids = new Set<string>();
  for await (const { id } of api.deps.storage.list()) ids.add(id);
  return ids;
}

describe('202', () => {
  test.each([['file first'], ['file last']])('the file becomes input.file: %s', async (order) => {
    const parts = [['task', 'test.files'] as const, ['file', file('a.txt', 'hello')] as const];
    const { status, body } = await send(
      form(Object.fromEntries(order === 'file first' ? parts.toReversed() : parts)),
    );
    expect(status).toBe(202);
    const id = body.input['file'] as string;
    expect(await (await client.get(`/v1/files/${id}`)).json()).toMatchObject({
      name: 'a.txt',
      mediaType: 'text/plain',
      size: 5,
    });
    expect(await (await client.get(`/v1/files/${id}/content`)).text()).toBe('hello');
  });

  test('several files become input.files, in their order', async () => {
    const { status, body } = await send(
      form({ task: 'test.files', file: [file('a.txt', 'A'), file('b.txt', 'B')] }),
    );
    expect(status).toBe(202);
    const read = async (id: string) => (await client.get(`/v1/files/${id}/content`)).text();
    expect(await Promise.all((body.input['files'] as string[]).map(read))).toEqual(['A', 'B']);
  });

  test('a form without files is a job like any other', async () => {
    const { status, body } = await send(
      form({ task: 'test.noop', input: '{"n":3}', options: '{"tags":["form"]}' }),
    );
    expect(status).toBe(202);
    expect(body).toMatchObject({ input: { n: 3 }, tags: ['form'] });
  });

  test('the same form under one Idempotency-Key makes one job and keeps one copy of the bytes', async () => {
    const headers = { 'idempotency-key': randomUUID() };
    const first = await send(form({ task: 'test.files', file: file('a.txt', 'same') }), headers);
    expect(first).toMatchObject({ status: 202, isReplayed: false });
    const stored = await listStored();
    const again = await send(form({ task: 'test.files', file: file('a.txt', 'same') }), headers);
    expect(again).toEqual({ ...first, isReplayed: true });
    expect(await listStored()).toEqual(stored);
    const other = await send(form({ task: 'test.files', file: file('a.txt', 'other') }), headers);
    expect(other).toMatchObject({ status: 422, body: { code: 'idempotency-mismatch' } });
    expect(await listStored()).toEqual(stored);
  });
});

describe('4xx', () => {
  test.each<[string, Record<string, string>, number, string, string | undefined]>([
    ['an unknown task', { task: 'test.nothing' }, 422, 'unknown-task', '/task'],
    ['no task', {}, 422, 'invalid-input', '/task'],
    ['a task that takes no file', { task: 'test.noop' }, 422, 'invalid-input', '/file'],
    [
      'an unknown key in the input',
      { task: 'test.files', input: '{"other":1}' },
      422,
      'invalid-input',
      '/input/other',
    ],
    ['an input that is no object', { task: 'test.files', input: '[]' }, 422, 'invalid-input', '/input'],
    [
      'a file given twice',
      { task: 'test.files', input: `{"file":"${randomUUID()}"}` },
      422,
      'invalid-input',
      '/input/file',
    ],
    [
      'a wrong option',
      { task: 'test.files', options: '{"priority":10}' },
      422,
      'invalid-input',
      '/options/priority',
    ],
    ['an unknown part', { task: 'test.files', other: 'x' }, 422, 'invalid-input', '/other'],
    ['an input that is no JSON', { task: 'test.files', input: '{' }, 400, 'invalid-json', undefined],
  ])('%s is refused, and no bytes stay', async (_what, parts, status, code, pointer) => {
    const [jobs, stored] = [await countJobs(), await listStored()];
    const answer = await send(form({ ...parts, file: file('a.txt', 'x') }));
    expect(answer).toMatchObject({ status, body: { code } });
    if (pointer !== undefined) expect(answer.body.errors?.map((error) => error.pointer)).toContain(pointer);
    expect(await countJobs()).toBe(jobs);
    expect(await listStored()).toEqual(stored);
    expect(readdirSync(join(api.deps.config.WINDLASS_DATA_DIR, 'files', 'parts'))).toEqual([]);
  });
});
