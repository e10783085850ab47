import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { request, type ClientRequest, type IncomingMessage } from 'node:http';
import { createInterface } from 'node:readline';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { createBacklog, type Backlog } from '#api/http/backlog.ts';
import { createRateLimiter, type RateLimiter } from '#api/http/rate-limit.ts';
import { createTestApi, type TestApi, type TestClient } from '#test/support/api.ts';
import { insertJob } from '#test/support/insert-job.ts';
import { waitFor } from '#test/support/wait-for.ts';

let api: TestApi;
let client: TestClient;
beforeAll(async () => {
  api = await createTestApi({
    WINDLASS_JSON_BYTES_MAX: '4096',
    WINDLASS_BATCH_LINES_MAX: '3000',
    WINDLASS_UPLOADS_PER_TENANT_MAX: '2',
    WINDLASS_UPLOAD_IDLE_MS: '1000',
  });
  client = await api.client();
});
afterAll(() => api.dispose());

interface Answer {
  readonly line?: number;
  readonly id?: string;
  readonly state?: string;
  readonly replayed?: true;
  readonly problem?: { code: string; detail: string; errors?: { pointer: string }[] };
  readonly batch?: string;
  readonly accepted?: number;
  readonly refused?: number;
}

const noop = (n: number, more: object = {}) => JSON.stringify({ task: 'test.noop', input: { n }, ...more });
const noops = (count: number) => Array.from({ length: count }, (_, n) => noop(n));

async function send(lines: readonly string[], headers: Record<string, string> = {}): Promise<Response> {
  return client.request('POST', '/v1/jobs/batch', {
    body: lines.join('\n'),
    headers: { 'content-type': 'application/x-ndjson', ...headers },
  });
}

async function stream(
  lines: readonly string[],
  headers: Record<string, string> = {},
): Promise<{ answers: Answer[]; end: Answer }> {
  const response = await send(lines, headers);
  expect(response.status).toBe(200);
  expect(response.headers.get('content-type')).toMatch(/^application\/x-ndjson/);
  const answers = (await response.text())
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Answer);
  const end = answers.pop() ?? {};
  expect(response.headers.get('location')).toBe(`/v1/batches/${end.batch}`);
  return { answers, end };
}

/** A stream under the hand of the test: lines are written and read when it says so. */
interface OpenStream {
  readonly req: ClientRequest;
  readonly response: Promise<IncomingMessage>;
  /** The next line of the answer; undefined at its end. Rejects when the connection breaks. */
  next(): Promise<Answer | undefined>;
}

function open(headers: Record<string, string> = {}): OpenStream {
  const req = request(`${api.url}/v1/jobs/batch`, {
    method: 'POST',
    headers: { authorization: `Bearer ${client.key}`, 'content-type': 'application/x-ndjson', ...headers },
  });
  req.on('error', () => {});
  req.flushHeaders();
  const response = once(req, 'response').then(([message]) => message as IncomingMessage);
  response.catch(() => {});
  let lines: AsyncIterator<string> | undefined;
  return {
    req,
    response,
    async next() {
      lines ??= createInterface({ input: await response })[Symbol.asyncIterator]();
      const { value, done } = await lines.next();
      return done === true ? undefined : (JSON.parse(value) as Answer);
    },
  };
}

async function countJobs(batchId?: string): Promise<number> {
  const { rows } = await api.db.query<{ count: number }>(
    'SELECT count(*) AS count FROM jobs WHERE $1::uuid IS NULL OR batch_id = $1',
    [batchId ?? null],
  );
  return rows[0]?.count ?? 0;
}

/** Waits until no stream is under way any more. */
async function slotsAreFree(): Promise<void> {
  await waitFor(
    async () => {
      const both = await Promise.all([send(noops(1)), send(noops(1))]);
      await Promise.all(both.map((response) => response.text()));
      return both.every((response) => response.status === 200) ? true : undefined;
    },
    { what: 'the broken stream to be given up' },
  );
}

describe('200', () => {
  test('each line is a job of the batch, answered in its order', async () => {
    const { answers, end } = await stream(noops(1_000));
    expect(end).toEqual({ batch: end.batch, accepted: 1_000, replayed: 0, refused: 0 });
    expect(answers.map((answer) => answer.line)).toEqual(Array.from({ length: 1_000 }, (_, n) => n + 1));
    const { rows } = await api.db.query<{ id: string; n: number; events: number }>(
      `SELECT id, (input->>'n')::integer AS n, (SELECT count(*) FROM events e WHERE e.job_id = j.id) AS events
       FROM jobs j WHERE batch_id = $1 ORDER BY n`,
      [end.batch],
    );
    expect(rows).toEqual(answers.map((answer, n) => ({ id: answer.id, n, events: 1 })));
    expect(await (await client.get(`/v1/batches/${end.batch}`)).json()).toMatchObject({
      total: 1_000,
      counts: { queued: 1_000 },
      isFinal: false,
    });
  });

  test('a line that is wrong fails alone, and says why', async () => {
    const { answers, end } = await stream([
      noop(1),
      '{"task":',
      '',
      noop(4, { input: { m: 1 } }),
      noop(5, { options: { delayMs: 60_000 } }),
      JSON.stringify({ task: 'test.echo', input: { value: 'x'.repeat(5_000) } }),
      JSON.stringify({ task: 'test.files', input: { file: randomUUID() } }),
      '[]',
      JSON.stringify({ task: 'test.echo', input: { value: Array.from({ length: 1_100 }, () => 1) } }),
      JSON.stringify({ task: 'test.noop', key: 'a b' }),
      `${noop(11)}\r`,
      noop(12, { options: { uniqueKey: { key: 'k' } } }),
      noop(13, { options: { dependsOn: [randomUUID()] } }),
    ]);
    expect(
      answers.map(({ line, state, problem }) => [
        line,
        state ?? problem?.code,
        problem?.errors?.[0]?.pointer,
      ]),
    ).toEqual([
      [1, 'queued', undefined],
      [2, 'invalid-json', undefined],
      [4, 'invalid-input', '/input/m'],
      [5, 'scheduled', undefined],
      [6, 'content-too-large', undefined],
      [7, 'file-not-found', '/input/file'],
      [8, 'invalid-input', ''],
      [9, 'content-too-large', undefined],
      [10, 'invalid-input', '/key'],
      [11, 'queued', undefined],
      [12, 'invalid-input', '/options/uniqueKey'],
      [13, 'invalid-input', '/options/dependsOn'],
    ]);
    expect(end).toEqual({ batch: end.batch, accepted: 3, replayed: 0, refused: 9 });
    expect(await countJobs(end.batch)).toBe(3);
  });

  test('a line is answered before the next one is sent', async () => {
    const { req, next } = open();
    for (const n of [1, 2, 3]) {
      req.write(`${noop(n)}\n`);
      expect(await next()).toMatchObject({ line: n, state: 'queued' });
    }
    req.end();
    expect(await next()).toMatchObject({ accepted: 3 });
    expect(await next()).toBeUndefined();
  });
});

describe('sent again', () => {
  test('with the Idempotency-Key of the stream nothing is made twice, and the rest joins the same batch', async () => {
    const headers = { 'idempotency-key': randomUUID() };
    const lines = noops(500);
    const first = await stream(lines.slice(0, 300), headers);
    const again = await stream(lines, headers);
    expect(again.end).toEqual({ batch: first.end.batch, accepted: 200, replayed: 300, refused: 0 });
    expect(again.answers.slice(0, 300)).toEqual(
      first.answers.map((answer) => ({ ...answer, replayed: true })),
    );
    expect(await countJobs(first.end.batch)).toBe(500);
    const changed = await stream(['', noop(1_000)], headers);
    expect(changed.answers).toMatchObject([{ line: 2, problem: { code: 'idempotency-mismatch' } }]);
  });

  test('two equal streams at the same moment make each job once', async () => {
    const headers = { 'idempotency-key': randomUUID() };
    const [one, other] = await Promise.all([stream(noops(400), headers), stream(noops(400), headers)]);
    expect(one.answers.map(({ id }) => id)).toEqual(other.answers.map(({ id }) => id));
    expect(await countJobs(one.end.batch)).toBe(400);
  });

  test('with keys of their own, lines may come in any order and any stream', async () => {
    const [a, b] = [randomUUID(), randomUUID()];
    const first = await stream([noop(1, { key: a }), noop(2, { key: b }), noop(1, { key: a })]);
    expect(first.answers[2]).toEqual({ ...first.answers[0], line: 3, replayed: true });
    const again = await stream([noop(2, { key: b }), noop(3, { key: a })]);
    expect(again.answers).toMatchObject([
      { id: first.answers[1]?.id, replayed: true },
      { problem: { code: 'idempotency-mismatch' } },
    ]);
    const single = await client.post(
      '/v1/jobs',
      { task: 'test.noop', input: { n: 2 } },
      { 'idempotency-key': b },
    );
    expect(await single.json()).toMatchObject({ id: first.answers[1]?.id });
  });

  test('one way at a time: a key in a line of a stream that has one is refused', async () => {
    const { answers } = await stream([noop(1, { key: 'k' })], { 'idempotency-key': randomUUID() });
    expect(answers).toMatchObject([{ problem: { code: 'invalid-input', errors: [{ pointer: '/key' }] } }]);
  });

  test('the key of a list is not that of a stream', async () => {
    const headers = { 'idempotency-key': randomUUID() };
    expect((await client.post('/v1/jobs/batch', { jobs: [{ task: 'test.noop' }] }, headers)).status).toBe(
      202,
    );
    const response = await send(noops(1), headers);
    expect(response.status).toBe(422);
    expect(await response.json()).toMatchObject({ code: 'idempotency-mismatch' });
  });
});

describe('a connection that breaks', () => {
  test('leaves what was answered, and nothing half', async () => {
    const { req, response, next } = open();
    req.write(`${noops(50).join('\n')}\n{"task":"test.no`);
    for (let line = 1; line <= 50; line += 1) expect(await next()).toMatchObject({ line, state: 'queued' });
    const batchId = (await response).headers.location?.split('/').at(-1);
    req.destroy();
    await slotsAreFree();
    expect(await countJobs(batchId)).toBe(50);
  });

  test('before its first line leaves no batch', async () => {
    const countEmpty = async () =>
      (
        await api.db.query(
          'SELECT id FROM batches b WHERE NOT EXISTS (SELECT 1 FROM jobs j WHERE j.batch_id = b.id)',
        )
      ).rowCount;
    const before = await countEmpty();
    const { req } = open();
    req.write('{"task":"test');
    req.destroy();
    await slotsAreFree();
    expect(await countEmpty()).toBe(before);
  });
});

describe('a client', () => {
  test('that does not read its answers is held back, cut off, and had nothing kept for it', async () => {
    const { req, response } = open();
    // Their refusals are long: more than fits into all buffers on the way.
    const input = Object.fromEntries(Array.from({ length: 200 }, (_, n) => [`k${n}`, 1]));
    const bad = `${JSON.stringify({ task: 'test.noop', input })}\n`;
    for (let n = 0; n < 290; n += 1) req.write(bad.repeat(9) + `${noop(n)}\n`);
    const message = await response;
    await slotsAreFree();
    const accepted = await countJobs(message.headers.location?.split('/').at(-1));
    expect(accepted).toBeGreaterThan(0);
    expect(accepted).toBeLessThan(200);
    // What is left on the way is not the end of an answer.
    let text = '';
    message.on('data', (chunk: Buffer) => (text += chunk.toString())).on('error', () => {});
    // Where the client was still writing, it has learnt of the end already.
    if (!message.closed) await new Promise((resolve) => message.once('close', resolve));
    expect(text.length).toBeLessThan(20_000_000);
    expect(text).not.toContain('"batch"');
  });

  test('that sends nothing for long is cut off, with what was answered accepted', async () => {
    const { req, next } = open();
    req.write(`${noop(1)}\n`);
    expect(await next()).toMatchObject({ line: 1 });
    expect(await next()).toMatchObject({ accepted: 1, problem: { code: 'request-timeout' } });
    expect(await next()).toBeUndefined();
  });

  test('may have so many streams at once', async () => {
    const streams = [open(), open()];
    for (const { req, next } of streams) {
      req.write(`${noop(1)}\n`);
      await next();
    }
    const response = await send(noops(1));
    expect(response.status).toBe(429);
    expect(await response.json()).toMatchObject({ code: 'too-many-uploads' });
    for (const { req, next } of streams) {
      req.end();
      expect(await next()).toMatchObject({ accepted: 1 });
    }
  });
});

describe('ends early, and says so in its last line,', () => {
  test('after too many lines', async () => {
    const { answers, end } = await stream(noops(3_010));
    expect(answers).toHaveLength(3_000);
    expect(end).toMatchObject({ accepted: 3_000, problem: { code: 'content-too-large' } });
    expect(end.problem?.detail).toContain('WINDLASS_BATCH_LINES_MAX');
  });

  test('when the rate is over its limit: every line counts', async () => {
    const deps: { rateLimiter: RateLimiter } = api.deps;
    const before = deps.rateLimiter;
    deps.rateLimiter = createRateLimiter(10);
    try {
      const { answers, end } = await stream(noops(30));
      expect(answers.every((answer) => answer.state === 'queued')).toBe(true);
      expect(end).toMatchObject({ accepted: 10, refused: 0, problem: { code: 'rate-limited' } });
    } finally {
      deps.rateLimiter = before;
    }
  });

  test('when the backlog becomes full', async () => {
    await insertJob(api.db);
    const deps: { backlog: Backlog } = api.deps;
    const before = deps.backlog;
    const { req, next } = open();
    req.write(`${noop(1)}\n`);
    expect(await next()).toMatchObject({ line: 1, state: 'queued' });
    const backlog = createBacklog({ db: api.db, max: 1 });
    try {
      deps.backlog = backlog;
      await waitFor(
        () => {
          try {
            backlog.check();
            return undefined;
          } catch {
            return true;
          }
        },
        { what: 'the backlog to be counted' },
      );
      req.write(`${noop(2)}\n`);
      expect(await next()).toMatchObject({ line: 2, problem: { code: 'backlog-full' } });
      req.write(`${noop(3)}\n`);
      expect(await next()).toMatchObject({ accepted: 1, refused: 1, problem: { code: 'backlog-full' } });
      expect((await send(noops(1))).status).toBe(503);
    } finally {
      backlog.stop();
      deps.backlog = before;
    }
  });
});

describe('refused before the first line', () => {
  test('415 for a packed body', async () => {
    expect((await send(noops(1), { 'content-encoding': 'gzip' })).status).toBe(415);
  });

  test('422 without any line', async () => {
    const response = await send(['', '', '']);
    expect(response.status).toBe(422);
    expect(await response.json()).toMatchObject({ code: 'invalid-input' });
  });

  test('400 for a key that leaves no room for the numbers of lines', async () => {
    expect((await send(noops(1), { 'idempotency-key': 'x'.repeat(241) })).status).toBe(400);
  });
});
