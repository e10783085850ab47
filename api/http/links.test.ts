import { request } from 'node:http';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { createTestApi, type TestApi } from '#test/support/api.ts';

let api: TestApi;
beforeAll(async () => {
  api = await createTestApi();
});
afterAll(() => api.dispose());

test.each(['[', ':', 'a:b:c', '[::1', '1:99999', 'evil.example/"><script>'])(
  'a Host header that no URL can have (%s) breaks no page and appears in none',
  async (host) => {
    for (const path of ['/', '/docs', '/problems/internal']) {
      const { status, body } = await get(path, host);
      expect(status).toBe(200);
      expect(body).not.toContain(`http://${host}`);
    }
  },
);

/** fetch() sets the Host header itself. */
function get(path: string, host: string): Promise<{ status: number | undefined; body: string }> {
  return new Promise((resolve, reject) => {
    request(new URL(path, api.url), { headers: { host } }, (res) => {
      let body = '';
      res.setEncoding('utf8').on('data', (text: string) => (body += text));
      res.on('end', () => resolve({ status: res.statusCode, body }));
    })
      .on('error', reject)
      .end();
  });
}
