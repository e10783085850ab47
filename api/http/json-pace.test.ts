import { once } from 'node:events';
import { connect } from 'node:net';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { createTestApi, type TestApi } from '#test/support/api.ts';

let api: TestApi;
beforeAll(async () => {
  api = await createTestApi({ WINDLASS_UPLOAD_IDLE_MS: '1000' });
});
afterAll(() => api.dispose());

test('a client that stops in the middle of a JSON body is answered 408 instead of holding its connection', async () => {
  const { key } = await api.client();
  const socket = connect(Number(new URL(api.url).port), '127.0.0.1');
  socket.write(
    `POST /v1/jobs HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer ${key}\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"task":`,
  );
  const [answer] = (await once(socket, 'data')) as [Buffer];
  socket.destroy();
  expect(answer.toString()).toMatch(/^HTTP\/1\.1 408 [^]*"code":"request-timeout"/);
});
