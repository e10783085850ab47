import { once } from 'node:events';
import { createServer, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { expect, test } from 'vitest';
import { createAnswerLines, itemsMax } from './answer-lines.ts';

/** What a client is answered by `handle`. */
async function ask(handle: (res: ServerResponse) => Promise<void>): Promise<unknown[]> {
  const server = createServer((_req, res) => void handle(res).then(() => res.end()));
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  try {
    // A TCP server that listens has an address with a port.
    const response = await fetch(`http://127.0.0.1:${(server.address() as AddressInfo).port}`);
    return (await response.text())
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as unknown);
  } finally {
    server.close();
    server.closeAllConnections();
  }
}

test.each([
  { what: 'small things', bytes: 100, most: itemsMax },
  { what: 'large things', bytes: 300_000, most: 3 },
  { what: 'things that are larger than all room', bytes: 5_000_000, most: 1 },
])('of $what, so many are under way at once: $most, whatever is finished first', async ({ bytes, most }) => {
  let underWay = 0;
  let seen = 0;
  const answers = await ask(async (res) => {
    const lines = createAnswerLines(res, { idleMs: 10_000 });
    for (let n = 0; n < 200; n += 1) {
      await lines.add(bytes, async () => {
        underWay += 1;
        seen = Math.max(seen, underWay);
        // The first of each group is the last to be done.
        for (let turn = 0; turn < 10 - (n % 10); turn += 1)
          await new Promise((resolve) => setImmediate(resolve));
        underWay -= 1;
        return n;
      });
    }
    await lines.written();
  });
  expect(seen).toBe(most);
  expect(answers).toEqual(Array.from({ length: 200 }, (_, n) => n));
});
