import { connect } from 'node:net';
import { brotliCompressSync, deflateSync, gzipSync, zstdCompressSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { createTestApi, type TestApi, type TestClient } from '#test/support/api.ts';
import { waitFor } from '#test/support/wait-for.ts';

const bytesMax = 20_000;
let api: TestApi;
let client: TestClient;
beforeAll(async () => {
  api = await createTestApi({
    WINDLASS_UPLOAD_IDLE_MS: '1000',
    WINDLASS_JSON_BYTES_MAX: String(bytesMax),
  });
  client = await api.client();
});
afterAll(() => api.dispose());

const send = (body: string | Buffer<ArrayBuffer>, headers: Record<string, string> = {}) =>
  fetch(`${api.url}/v1/jobs`, {
    method: 'POST',
    headers: { authorization: `Bearer ${client.key}`, 'content-type': 'application/json', ...headers },
    body,
  });

const job = (text = '') => JSON.stringify({ task: 'test.echo', input: { value: text } });

/** Writes what is given and answers what has come back when `until` is in it. */
async function exchange(parts: readonly string[], until: string): Promise<string> {
  const socket = connect(Number(new URL(api.url).port), '127.0.0.1');
  let answer = '';
  socket.on('data', (chunk) => (answer += chunk.toString()));
  for (const part of parts) {
    socket.write(part);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  await waitFor(() => (answer.includes(until) ? true : undefined), { what: until });
  socket.destroy();
  return answer;
}

const head = (...more: string[]) =>
  [
    'POST /v1/jobs HTTP/1.1',
    'Host: test',
    `Authorization: Bearer ${client.key}`,
    'Content-Type: application/json',
    ...more,
    '\r\n',
  ].join('\r\n');

describe('what is read', () => {
  test.each([
    ['gzip', gzipSync],
    ['x-gzip', gzipSync],
    ['GZIP', gzipSync],
    ['deflate', deflateSync],
    ['br', brotliCompressSync],
    ['zstd', zstdCompressSync],
    ['identity', (bytes: Buffer) => bytes],
  ])('a body with Content-Encoding %s', async (encoding, pack) => {
    const response = await send(Buffer.from(pack(Buffer.from(job('grüße 🎉')))), {
      'content-encoding': encoding,
    });
    expect(response.status).toBe(202);
    expect(await response.json()).toMatchObject({ input: { value: 'grüße 🎉' } });
  });

  test.each([
    'application/json; charset=utf-8',
    'application/json;charset="UTF-8"',
    'application/vnd.x+json',
  ])('a body of the type %s', async (type) => {
    expect((await send(job(), { 'content-type': type })).status).toBe(202);
  });

  test('a body with a byte order mark', async () => {
    expect((await send(`\uFEFF${job()}`)).status).toBe(202);
  });

  test('a body in chunks, with characters cut in two', async () => {
    const bytes = Buffer.from(job('é'));
    const cut = bytes.indexOf(0xc3) + 1;
    const chunk = (part: Buffer) => `${part.length.toString(16)}\r\n${part.toString('latin1')}\r\n`;
    const socket = connect(Number(new URL(api.url).port), '127.0.0.1');
    let answer = '';
    socket.on('data', (part) => (answer += part.toString()));
    socket.write(head('Transfer-Encoding: chunked'));
    for (const part of [bytes.subarray(0, cut), bytes.subarray(cut)]) {
      socket.write(Buffer.from(chunk(part), 'latin1'));
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    socket.write('0\r\n\r\n');
    await waitFor(() => (answer.includes('"é"') ? true : undefined), { what: 'the answer' });
    socket.destroy();
    expect(answer).toMatch(/^HTTP\/1\.1 202 /);
  });

  test.each([
    ['gzip', gzipSync],
    ['deflate', deflateSync],
    ['br', brotliCompressSync],
    ['zstd', zstdCompressSync],
  ])(
    'a %s with something behind its end, and after it the next request of the connection',
    async (encoding, pack) => {
      const body = `${pack(Buffer.from(job())).toString('latin1')}${'\0'.repeat(10_000)}`;
      const socket = connect(Number(new URL(api.url).port), '127.0.0.1');
      let answer = '';
      socket.on('data', (part) => (answer += part.toString()));
      socket.write(head(`Content-Encoding: ${encoding}`, `Content-Length: ${body.length}`));
      socket.write(Buffer.from(body, 'latin1'));
      await waitFor(() => (answer.includes('HTTP/1.1 202') ? true : undefined), { what: 'the first answer' });
      socket.write('GET /livez HTTP/1.1\r\nHost: test\r\n\r\n');
      await waitFor(() => (answer.includes('"status":"ok"') ? true : undefined), {
        what: 'the second answer',
      });
      socket.destroy();
    },
  );

  test('a body of exactly the limit, and after it the next request of the connection', async () => {
    const body = job('x'.repeat(bytesMax - job().length));
    const request = `${head(`Content-Length: ${body.length}`)}${body}`;
    const next = `GET /livez HTTP/1.1\r\nHost: test\r\n\r\n`;
    const answer = await exchange([request + next], '"status":"ok"');
    expect(answer).toMatch(/^HTTP\/1\.1 202 /);
  });
});

describe('what is refused', () => {
  test.each([
    ['its JSON', '{"task":', 400],
    ['its input', JSON.stringify({ task: 'image.resize', input: { width: 'wide' } }), 422],
    ['its task', JSON.stringify({ task: 'no.such', input: {} }), 422],
  ])('a call that came whole keeps its connection when it is refused for %s', async (_what, body, status) => {
    const request = `${head(`Content-Length: ${body.length}`)}${body}`;
    const next = 'GET /livez HTTP/1.1\r\nHost: test\r\n\r\n';
    const answer = await exchange([request, next], '"status":"ok"');
    expect(answer).toMatch(new RegExp(`^HTTP/1\\.1 ${status} `));
  });

  test('a call that came whole keeps its connection when it is refused for its key', async () => {
    const request = `${head(`Content-Length: ${job().length}`)}${job()}`.replace(client.key, 'x'.repeat(30));
    const next = 'GET /livez HTTP/1.1\r\nHost: test\r\n\r\n';
    const answer = await exchange([request, next], '"status":"ok"');
    expect(answer).toMatch(/^HTTP\/1\.1 401 /);
  });

  test.each([
    ['half a character', Buffer.from([0x22, 0xc3, 0x22]), {}, 400, 'invalid-json', 'UTF-8'],
    ['nothing', '', {}, 400, 'invalid-json', 'empty'],
    ['packed nothing', gzipSync(''), { 'content-encoding': 'gzip' }, 400, 'invalid-json', 'empty'],
    ['half a document', '{"task":', {}, 400, 'invalid-json', 'not valid JSON'],
    [
      'another charset',
      job(),
      { 'content-type': 'application/json; charset=utf-16le' },
      415,
      'unsupported-media-type',
      'UTF-8',
    ],
    [
      'another type',
      job(),
      { 'content-type': 'text/plain' },
      415,
      'unsupported-media-type',
      'application/json',
    ],
    [
      'an unknown encoding',
      job(),
      { 'content-encoding': 'compress' },
      415,
      'unsupported-media-type',
      'gzip, deflate, br or zstd',
    ],
    ['two encodings', job(), { 'content-encoding': 'gzip, gzip' }, 415, 'unsupported-media-type', 'gzip'],
    [
      'a cut off gzip',
      gzipSync(job()).subarray(0, -12),
      { 'content-encoding': 'gzip' },
      400,
      'bad-request',
      'unpacked',
    ],
    ['too much', job('x'.repeat(bytesMax)), {}, 413, 'content-too-large', 'WINDLASS_JSON_BYTES_MAX'],
    [
      'a bomb',
      gzipSync(job('x'.repeat(100_000_000))),
      { 'content-encoding': 'gzip' },
      413,
      'content-too-large',
      'WINDLASS_JSON_BYTES_MAX',
    ],
  ])('%s', async (_what, body, headers, status, code, detail) => {
    const response = await send(typeof body === 'string' ? body : Buffer.from(body), { ...headers });
    expect(response.status).toBe(status);
    const problem = (await response.json()) as { detail: string };
    expect(problem).toMatchObject({ code, detail: expect.stringContaining(detail) });
  });

  test('packed parts that hold nothing, one after another, end at the limit as well', async () => {
    const empty = gzipSync('').toString('latin1');
    const many = empty.repeat(Math.ceil(bytesMax / empty.length) + 1);
    const response = await send(Buffer.from(many, 'latin1'), { 'content-encoding': 'gzip' });
    expect(response.status).toBe(413);
  });

  test('a body that says that it is too large is answered before it comes', async () => {
    const answer = await exchange([head('Content-Length: 1000000000')], '"code":"content-too-large"');
    expect(answer).toMatch(/^HTTP\/1\.1 413 [^]*Connection: close/);
  });

  test('more than the limit in chunks is answered when that is known', async () => {
    const chunk = `${(10_000).toString(16)}\r\n${'x'.repeat(10_000)}\r\n`;
    const answer = await exchange(
      [head('Transfer-Encoding: chunked'), chunk, chunk, chunk],
      '"code":"content-too-large"',
    );
    expect(answer).toMatch(/^HTTP\/1\.1 413 /);
  });

  test('a packed document that is whole, in a body that is not, is answered 408 as well', async () => {
    const packed = gzipSync(job()).toString('latin1');
    const socket = connect(Number(new URL(api.url).port), '127.0.0.1');
    let answer = '';
    socket.on('data', (part) => (answer += part.toString()));
    socket.write(head('Content-Encoding: gzip', `Content-Length: ${packed.length + 10}`));
    socket.write(Buffer.from(packed, 'latin1'));
    await waitFor(() => (answer.includes('"request-timeout"') ? true : undefined), { what: 'the answer' });
    socket.destroy();
  });

  test.each(['', 'Content-Encoding: gzip'])(
    'a client that stops in the middle of a body (%s) is answered 408 instead of holding its connection',
    async (encoding) => {
      const request = head('Content-Length: 100', ...(encoding === '' ? [] : [encoding]));
      const answer = await exchange(
        [request, encoding === '' ? '{"task":' : '\x1f'],
        '"code":"request-timeout"',
      );
      expect(answer).toMatch(/^HTTP\/1\.1 408 /);
    },
  );

  test('a client that leaves in the middle of a body is forgotten, and the api goes on', async () => {
    const socket = connect(Number(new URL(api.url).port), '127.0.0.1');
    socket.write(`${head('Content-Length: 100')}{"task":`);
    await new Promise((resolve) => setTimeout(resolve, 50));
    socket.destroy();
    expect((await send(job())).status).toBe(202);
  });
});
