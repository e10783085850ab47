import { connect } from 'node:net';
import { text } from 'node:stream/consumers';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { createClient } from '#test/support/service.ts';
import { createTestApi, type TestApi } from '#test/support/api.ts';
import { makeKey } from './http/authenticate.ts';

let api: TestApi;
beforeAll(async () => {
  api = await createTestApi();
});
afterAll(() => api.dispose());

/** As old proxies do, which know no chunks. */
async function askHttp10(url: string): Promise<string> {
  const { hostname, port, pathname, search } = new URL(url);
  const socket = connect(Number(port), hostname);
  socket.write(`GET ${pathname}${search} HTTP/1.0\r\nAuthorization: Bearer ${api.admin.key}\r\n\r\n`);
  return text(socket);
}

describe('every answer', () => {
  test('says who it is an answer to: the id that was sent, or a new one', async () => {
    const mine = await fetch(`${api.url}/livez`, { headers: { 'x-request-id': 'trace-7:a.b' } });
    expect(mine.headers.get('x-request-id')).toBe('trace-7:a.b');
    for (const bad of ['a b', 'x'.repeat(129), '<script>']) {
      const response = await fetch(`${api.url}/livez`, { headers: { 'x-request-id': bad } });
      expect(response.headers.get('x-request-id')).toMatch(/^[0-9a-f-]{36}$/);
    }
    const problem = await fetch(`${api.url}/nowhere`, { headers: { 'x-request-id': 'mine' } });
    expect(await problem.json()).toMatchObject({ instance: 'mine' });
  });

  test.each(['plain', 'grüße 🎉'])('says how long it is, to GET and to HEAD: %s', async (value) => {
    const made = await api.admin.post('/v1/jobs', { task: 'test.echo', input: { value } });
    const answer = Buffer.from(await made.arrayBuffer());
    expect(JSON.parse(answer.toString())).toMatchObject({ input: { value } });
    expect(made.headers.get('content-length')).toBe(String(answer.length));
    const ask = (url: string, method: string) =>
      fetch(url, { method, headers: { authorization: `Bearer ${api.admin.key}` } });
    for (const path of [made.headers.get('location'), '/v1/jobs?limit=1']) {
      const url = `${api.url}${path}`;
      const [got, head] = [await ask(url, 'GET'), await ask(url, 'HEAD')];
      const body = Buffer.from(await got.arrayBuffer());
      expect(got.headers.get('content-length')).toBe(String(body.length));
      expect(head.headers.get('content-length')).toBe(String(body.length));
      expect(await askHttp10(url)).toContain(`Content-Length: ${body.length}`);
    }
  });

  test('is kept by nobody, sniffed by nobody and framed by nobody, and tells nothing of what made it', async () => {
    const { headers } = await api.admin.get('/v1/jobs');
    expect(Object.fromEntries(headers)).toMatchObject({
      'cache-control': 'no-store',
      'x-content-type-options': 'nosniff',
      'content-security-policy': expect.stringMatching(
        /^default-src 'none'.*frame-ancestors 'none'/,
      ) as unknown,
      'cross-origin-resource-policy': 'same-site',
      'referrer-policy': 'no-referrer',
      ratelimit: expect.stringMatching(/^"default";r=\d+;t=\d+$/) as unknown,
      'ratelimit-policy': '"default";q=1000000;w=60',
    });
    expect(headers.has('x-powered-by')).toBe(false);
    expect(headers.has('access-control-allow-origin')).toBe(false);
  });
});

describe('400', () => {
  test.each(['/v1/jobs/%E0%A4%A', '/v1/tasks/%'])('%s is not percent-encoding', async (path) => {
    const response = await api.admin.get(path);
    expect(response.status).toBe(400);
    expect(await response.json()).toMatchObject({ code: 'bad-request' });
  });
});

describe('401', () => {
  const { secret } = makeKey({ tenantId: 'default', name: 'unknown', scopes: ['read'] });
  test.each([
    ['no header', undefined, 'Send your API key'],
    ['another scheme', 'Basic dTpw', 'not of the form'],
    ['no key', 'Bearer ', 'not of the form'],
    ['an unknown key', `Bearer ${secret}`, 'does not exist'],
    ['a mistyped key', `Bearer ${secret.slice(0, -1)}${secret.endsWith('a') ? 'b' : 'a'}`, 'checksum'],
    ['a key cut off', `Bearer ${secret.slice(0, -3)}`, 'checksum'],
  ])('%s', async (_what, authorization, detail) => {
    const response = await fetch(
      `${api.url}/v1/jobs`,
      authorization === undefined ? {} : { headers: { authorization } },
    );
    expect(response.status).toBe(401);
    expect(response.headers.get('www-authenticate')).toBe('Bearer realm="windlass"');
    expect(await response.json()).toMatchObject({
      code: 'unauthorized',
      detail: expect.stringContaining(detail) as unknown,
    });
  });

  test('before anything is read: a body that is refused anyway is not', async () => {
    const response = await fetch(`${api.url}/v1/jobs`, {
      method: 'POST',
      body: '{',
      headers: { 'content-type': 'application/json' },
    });
    expect(response.status).toBe(401);
  });
});

describe('404 and 405', () => {
  test('a path that nobody knows', async () => {
    const response = await fetch(`${api.url}/v1/nothing?a=<b>`);
    expect(response.status).toBe(404);
    expect(response.headers.get('content-type')).toMatch(/^application\/problem\+json/);
    expect(await response.json()).toEqual({
      type: `${api.url}/problems/not-found`,
      title: 'There is nothing here for this API key',
      status: 404,
      detail: 'There is no /v1/nothing. GET /openapi.json lists all calls.',
      instance: response.headers.get('x-request-id'),
      code: 'not-found',
      retryable: false,
    });
  });

  test.each([
    ['PUT', '/v1/jobs', 'POST, GET, HEAD'],
    ['PATCH', '/v1/files/x', 'GET, DELETE, HEAD'],
    ['GET', '/v1/jobs/x/cancel', 'POST'],
    ['OPTIONS', '/', 'GET, HEAD'],
  ])('%s %s: the path knows other methods', async (method, path, allow) => {
    const response = await api.admin.request(method, path);
    expect({ method, status: response.status, allow: response.headers.get('allow') }).toEqual({
      method,
      status: 405,
      allow,
    });
  });
});

describe('429', () => {
  test('a tenant over its rate is told when to come back, and others are not held up', async () => {
    const limited = await createTestApi({ WINDLASS_RATE_PER_MINUTE: '3' });
    try {
      const statuses: number[] = [];
      let last: Response | undefined;
      for (let count = 0; count < 5; count += 1) {
        last = await limited.admin.get('/v1/tasks');
        statuses.push(last.status);
      }
      expect(statuses).toEqual([200, 200, 200, 429, 429]);
      expect(Number(last?.headers.get('retry-after'))).toBeGreaterThan(0);
      expect(last?.headers.get('ratelimit')).toMatch(/^"default";r=0;t=\d+$/);
      expect(await last?.json()).toMatchObject({ code: 'rate-limited', retryable: true });
      const other = await limited.client({ tenantId: 'other' });
      expect((await other.get('/v1/tasks')).status).toBe(200);
      expect((await fetch(`${limited.url}/livez`)).status).toBe(200);
    } finally {
      await limited.dispose();
    }
  });
});

describe('WINDLASS_AUTH=off', () => {
  test('everybody is the admin of the default tenant', async () => {
    const open = await createTestApi({ WINDLASS_AUTH: 'off' });
    try {
      const response = await fetch(`${open.url}/v1/keys`);
      expect(response.status).toBe(200);
      const id = await createClient(open.url).submit('test.noop');
      expect((await open.db.query('SELECT tenant_id FROM jobs WHERE id = $1', [id])).rows).toEqual([
        { tenant_id: 'default' },
      ]);
    } finally {
      await open.dispose();
    }
  });
});
