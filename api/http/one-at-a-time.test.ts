import { once } from 'node:events';
import { createServer, type ServerResponse } from 'node:http';
import { connect, type AddressInfo } from 'node:net';
import { expect, onTestFinished, test } from 'vitest';
import { waitFor } from '#test/support/wait-for.ts';
import { oneAtATime } from './one-at-a-time.ts';

test('a client that sends many requests and reads no answer has one of them worked on', async () => {
  let handled = 0;
  // More than the buffers of both sockets hold.
  const answer = Buffer.alloc(16 * 1024 * 1024, 'x');
  const { socket, received } = await connectTo((res) => {
    handled += 1;
    res.end(answer);
  });
  socket.pause();
  socket.write('GET / HTTP/1.1\r\nHost: test\r\n\r\n'.repeat(3));
  await waitFor(() => handled > 0 || undefined, { what: 'the first request' });
  // Whatever was in the same chunk has been handed over by now.
  await new Promise((resolve) => setImmediate(resolve));
  expect(handled).toBe(1);
  socket.resume();
  await waitFor(() => received() > 3 * answer.length || undefined, { what: 'all answers' });
  expect(handled).toBe(3);
});

test('a connection that ends takes the requests that waited with it', async () => {
  const open: ServerResponse[] = [];
  const { socket } = await connectTo((res) => void open.push(res));
  socket.write('GET / HTTP/1.1\r\nHost: test\r\n\r\n'.repeat(3));
  await waitFor(() => open.length > 0 || undefined, { what: 'the first request' });
  const closed = once(open[0] as ServerResponse, 'close');
  socket.destroy();
  await closed;
  expect(open).toHaveLength(1);
});

test('after an answer that says it is the last, nothing more of the connection is done', async () => {
  const handled: (string | undefined)[] = [];
  const server = createServer(
    oneAtATime((req, res) => {
      handled.push(req.url);
      if (req.url === '/last') res.setHeader('Connection', 'close');
      res.end();
    }),
  );
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  onTestFinished(() => void server.close());
  const socket = connect((server.address() as AddressInfo).port, '127.0.0.1');
  const get = (path: string) => `GET ${path} HTTP/1.1\r\nHost: test\r\n\r\n`;
  socket.write(get('/first') + get('/last') + get('/more'));
  socket.resume();
  await once(socket, 'close');
  expect(handled).toEqual(['/first', '/last']);
});

async function connectTo(handle: (res: ServerResponse) => void) {
  const server = createServer(oneAtATime((_req, res) => handle(res)));
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const socket = connect((server.address() as AddressInfo).port, '127.0.0.1');
  let bytes = 0;
  socket.on('data', (chunk: Buffer) => (bytes += chunk.length));
  onTestFinished(() => {
    socket.destroy();
    server.closeAllConnections();
    server.close();
  });
  return { socket, received: () => bytes };
}
