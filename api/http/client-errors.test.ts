import { once } from 'node:events';
import { createServer, type RequestListener, type Server, type ServerResponse } from 'node:http';
import { connect, type AddressInfo, type Socket } from 'node:net';
import { text } from 'node:stream/consumers';
import { afterEach, expect, test } from 'vitest';
import { answerClientErrors } from './client-errors.ts';
import { oneAtATime } from './one-at-a-time.ts';

const servers: Server[] = [];
afterEach(() => {
  for (const server of servers.splice(0)) {
    server.close();
    server.closeAllConnections();
  }
});

async function start(listener: RequestListener = (_req, res) => res.end('fine')): Promise<Socket> {
  const server = createServer(
    { maxHeaderSize: 1_024, headersTimeout: 100, connectionsCheckingInterval: 20 },
    oneAtATime(listener),
  );
  servers.push(server);
  answerClientErrors(server, { headerBytesMax: 1_024, publicUrl: 'https://example.com/' });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return connect((server.address() as AddressInfo).port, '127.0.0.1');
}

function statusesOf(answers: string): string[] {
  return [...answers.matchAll(/HTTP\/1\.1 (\d{3}) /g)].map(([, status = '']) => status);
}

function readProblem(answer: string): Record<string, unknown> {
  const [head = '', body = ''] = answer.split('\r\n\r\n');
  expect(head).toContain('Content-Type: application/problem+json');
  expect(head).toContain('Connection: close');
  expect(head).toContain(`Content-Length: ${Buffer.byteLength(body)}`);
  return JSON.parse(body) as Record<string, unknown>;
}

test('431: headers over their limit, with the limit', async () => {
  const socket = await start();
  socket.write(`GET / HTTP/1.1\r\nHost: a\r\nX-Long: ${'x'.repeat(2_000)}\r\n\r\n`);
  const answer = await text(socket);
  expect(answer).toMatch(/^HTTP\/1\.1 431 /);
  expect(readProblem(answer)).toMatchObject({
    type: 'https://example.com/problems/headers-too-large',
    status: 431,
    code: 'headers-too-large',
    detail: expect.stringContaining('1024 bytes') as unknown,
    instance: expect.any(String) as unknown,
  });
});

test('400: what is not HTTP', async () => {
  const socket = await start();
  socket.write('hello?\r\n\r\n');
  expect(readProblem(await text(socket))).toMatchObject({ status: 400, code: 'bad-request' });
});

test('408: headers that do not arrive', async () => {
  const socket = await start();
  socket.write('GET / HTTP/1.1\r\nHost: a\r\n');
  expect(readProblem(await text(socket))).toMatchObject({ status: 408, code: 'request-timeout' });
});

test('a second request on a connection is answered as well', async () => {
  const socket = await start();
  socket.write('GET / HTTP/1.1\r\nHost: a\r\n\r\n');
  const [first] = (await once(socket, 'data')) as [Buffer];
  expect(first.toString()).toMatch(/fine/);
  socket.write('hello?\r\n\r\n');
  expect(readProblem(await text(socket))).toMatchObject({ status: 400 });
});

test('requests that came whole get their answers before what came after them gets its own', async () => {
  const handled: string[] = [];
  const socket = await start((req, res) => {
    handled.push(req.url ?? '');
    setTimeout(() => res.end(`answer to ${req.url}.`), 20);
  });
  const whole = (path: string) => `POST ${path} HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi`;
  socket.write(`${whole('/1')}${whole('/2')}garbage\r\n\r\n`);
  const answers = await text(socket);
  expect(statusesOf(answers)).toEqual(['200', '200', '400']);
  expect(answers.indexOf('answer to /2.')).toBeLessThan(answers.indexOf('problem+json'));
  expect(handled).toEqual(['/1', '/2']);
});

test('what is wrong is answered once, however much of it comes before the answer is due', async () => {
  const started = Promise.withResolvers<ServerResponse>();
  const socket = await start((_req, res) => started.resolve(res));
  socket.write('GET / HTTP/1.1\r\nHost: a\r\n\r\n');
  const res = await started.promise;
  const before = res.listenerCount('close');
  const answers = text(socket);
  for (let count = 0; count < 20; count += 1) {
    socket.write('garbage\r\n\r\n');
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
  expect(res.listenerCount('close')).toBeLessThanOrEqual(before + 1);
  res.end('fine');
  expect(statusesOf(await answers)).toEqual(['200', '400']);
});

test('a request in the middle of its body when it turns out to be wrong is answered after those before it', async () => {
  const socket = await start((req, res) => {
    if (req.url === '/1') setTimeout(() => res.end('answer to /1.'), 20);
  });
  const broken = 'POST /2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nnot a chunk\r\n';
  socket.write(`POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi${broken}`);
  expect(statusesOf(await text(socket))).toEqual(['200', '400']);
});

test.each([
  ['an answer', ''],
  ['the second answer of a connection', 'GET /whole HTTP/1.1\r\nHost: a\r\n\r\n'],
])('nothing is written into the middle of %s', async (_what, before) => {
  const socket = await start((req, res) => {
    if (req.url === '/whole') {
      res.end('fine');
      return;
    }
    res.writeHead(200, { 'Content-Length': '1000' });
    res.write('begun ');
  });
  if (before !== '') {
    socket.write(before);
    expect(String(await once(socket, 'data'))).toContain('fine');
  }
  socket.write('POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n');
  const [first] = (await once(socket, 'data')) as [Buffer];
  socket.write('not a chunk\r\n');
  const rest: Buffer[] = [];
  socket.on('data', (chunk: Buffer) => rest.push(chunk));
  socket.on('error', () => {});
  await once(socket, 'close');
  const answer = first.toString() + Buffer.concat(rest).toString();
  expect(answer).toMatch(/^HTTP\/1\.1 200 /);
  expect(answer).not.toContain('problem');
});
